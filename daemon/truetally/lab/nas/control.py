"""The lab's own door, `/lab/`: what no TrueNAS offers, for whoever tries something on a lab NAS.

Over it datasets change as over SSH (nobody is told), nodes come and go, and the NAS has its bad
days. Each path stands for one function: its arguments are the members of a JSON object, and what
`GET /lab/` tells of it is its own signature and docstring. It needs root's API key, and answers
even while the NAS is told to be silent.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec
from aiohttp import web

from truetally.lab.nas import pools, state
from truetally.lab.nas.failures import CallError, NasRefusal
from truetally.lab.nas.machine import ADMINISTRATOR, Machine, Row, User
from truetally.lab.nas.pool import Pool, Scan, Vdev
from truetally.lab.nas.rest import bearer
from truetally.lab.nas.sessions import Sessions
from truetally.lab.nas.zfs import Dataset, Snapshot

if TYPE_CHECKING:
    from truetally.lab.nas.server import LabNas

_TOP = "/lab/"


class Refused(Exception):
    """A request cannot be met; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Command:
    """One function behind a path.

    Attributes:
        run: what is called with the arguments by their names.
        whole: the one argument is the body itself, and not a member of it.
    """

    run: Callable[..., Any]
    whole: bool = False

    @property
    def _function(self) -> Callable[..., Any]:
        return self.run.func if isinstance(self.run, partial) else self.run

    @property
    def name(self) -> str:
        """What the function is called."""
        return self._function.__name__

    @property
    def what(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self._function) or "").partition("\n")[0]

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """What it takes."""
        return inspect.signature(self.run).parameters

    @property
    def takes(self) -> list[str]:
        """What it takes, as Python writes it."""
        return [
            f"{each.name}: {each.annotation}"
            + ("" if each.default is inspect.Parameter.empty else f" = {each.default!r}")
            for each in self.parameters.values()
        ]

    def arguments(self, given: Any, *, loose: bool) -> dict[str, Any]:
        """The arguments that are meant.

        Args:
            loose: they are texts of a query string.

        Raises:
            Refused: unknown, missing or of a wrong type.
        """
        if self.whole:
            return dict.fromkeys(self.parameters, given)
        if not isinstance(given, dict):
            raise Refused("the body must be a JSON object with the arguments as its members")
        hints = get_type_hints(self._function)
        takes = ", ".join(self.takes) or "nothing"
        for name in given:
            if name not in self.parameters:
                raise Refused(f"there is no argument {name}; {self.name} takes {takes}")
        for name, each in self.parameters.items():
            if each.default is inspect.Parameter.empty and name not in given:
                raise Refused(f"the argument {name} is missing; {self.name} takes {takes}")
        return {name: _typed(name, value, hints[name], loose=loose) for name, value in given.items()}


def _typed(name: str, value: Any, hint: Any, *, loose: bool) -> Any:
    try:
        # A duration may be a number of seconds besides ISO 8601.
        return msgspec.convert(value, hint, strict=not loose and hint is not timedelta)
    except msgspec.ValidationError as mistake:
        raise Refused(f"the argument {name} is wrong: {mistake}") from mistake


def _methods_of(thing: object) -> list[Callable[..., Any]]:
    return [each for name, each in inspect.getmembers(thing, inspect.ismethod) if name[0] != "_"]


def _posted(folder: str, functions: Iterable[Callable[..., Any]]) -> dict[tuple[str, str], Command]:
    commands = [Command(each) for each in functions]
    return {("POST", folder + each.name): each for each in commands}


class Control:
    """All commands of one NAS.

    Attributes:
        commands: by HTTP method and path below `/lab/`.
    """

    def __init__(self, nas: LabNas) -> None:
        self._nas = nas
        machine, faults, zfs = nas.machine, nas.faults, nas.zfs
        self.commands: dict[tuple[str, str], Command] = {
            ("GET", ""): Command(self.listing),
            ("GET", "state"): Command(self.dump),
            ("PUT", "state"): Command(self.load, whole=True),
            ("GET", "inventory"): Command(self.inventory),
            ("GET", "calls"): Command(self.calls),
            ("DELETE", "faults"): Command(faults.clear),
            ("POST", "latency"): Command(faults.delay),
            ("POST", "stall"): Command(nas.stall),
            ("POST", "resume"): Command(nas.resume),
            ("POST", "restart"): Command(nas.restart_soon),
            ("POST", "drop-connections"): Command(nas.drop_connections),
            ("POST", "lose-logins"): Command(nas.lose_logins),
        }
        ordered = (faults.fail, faults.drop, faults.truncate, faults.cut, faults.stall, faults.restart)
        self.commands |= _posted("faults/", (*ordered, faults.hold, faults.lose))
        self.commands |= _posted("ssh/", _methods_of(nas.ssh))
        self.commands |= _posted("sessions/", _methods_of(Sessions(machine)))
        blows = [partial(each, machine) for each in (pools.strike, pools.clear_errors, pools.resilver)]
        own = (zfs.create_pool, zfs.export_pool, zfs.import_pool, zfs.start_scan, zfs.write, zfs.overwrite)
        self.commands |= _posted("zfs/", (*own, *blows))
        keys = (nas.add_key, nas.revoke_key, nas.expire_key, nas.set_roles, nas.add_user)
        told = (machine.raise_alert, machine.clear_alert, machine.set_service)
        self.commands |= _posted("nas/", (*keys, nas.stand_by, nas.allow_only, *told))

    def listing(self) -> list[Row]:
        """What there is below `/lab/`: how to ask for it, what it does and which arguments it takes."""
        return [
            {"ask": f"{verb} {_TOP}{path}", "what": command.what, "takes": command.takes}
            for (verb, path), command in self.commands.items()
        ]

    def dump(self, secrets: bool = False) -> Row:
        """The whole state, as `truetally lab nas --state` keeps it; keys and passwords only if asked for."""
        return state.dump(self._nas.machine, secrets=secrets)

    def load(self, data: Any) -> None:
        """Take a state for the whole state; nobody is told, and root keeps keys and password."""
        machine = self._nas.machine
        keys = {number: key for number, key in machine.keys.items() if key.username == ADMINISTRATOR}
        root = machine.users.get(ADMINISTRATOR)
        state.load(machine, data)
        machine.keys |= keys
        if root is not None:
            machine.users[root.name] = root

    def inventory(self) -> dict[str, list[str]]:
        """What there is to see on the NAS, by kind and name: what a complete watcher must know."""
        return state.inventory(self._nas.machine)

    def calls(self) -> dict[str, int]:
        """How often each method was called since the start."""
        return dict(self._nas.faults.calls)

    async def answer(self, request: web.Request) -> web.Response:
        """The answer to any request below `/lab/`."""
        if not _is_root(self._nas.machine, request):
            return _reply(401, {"message": "this needs root's API key: Authorization: Bearer ID-SECRET"})
        path = request.match_info["path"]
        command = self.commands.get((request.method, path))
        if command is None:
            return self._unknown(request.method, path)
        try:
            loose = request.method == "GET"
            given = dict(request.query) if loose else await _body(request)
            value = command.run(**command.arguments(given, loose=loose))
        except NasRefusal as refused:
            return _reply(422, _refusal(refused))
        except (Refused, ValueError) as refused:
            return _reply(422, {"message": str(refused)})
        return _reply(200, _shown(value))

    def _unknown(self, verb: str, path: str) -> web.Response:
        folder, _, name = path.rpartition("/")
        beside = [each for method, each in self.commands if method == verb and each.startswith(f"{folder}/")]
        if folder and beside:
            names = ", ".join(each.rpartition("/")[2] for each in beside)
            return _reply(422, {"message": f"{_TOP}{folder}/ has no {name}; it has {names}"})
        others = [method for method, each in self.commands if each == path]
        if others:
            return _reply(405, {"message": f"{_TOP}{path} takes {' and '.join(others)}"})
        return _reply(404, {"message": f"there is no {_TOP}{path}; GET {_TOP} lists what there is"})


def routes(nas: LabNas) -> list[web.RouteDef]:
    """The routes of the door."""
    return [web.route("*", _TOP + "{path:.*}", Control(nas).answer)]


def _is_root(machine: Machine, request: web.Request) -> bool:
    key = bearer(machine, request)
    return key is not None and key.username == ADMINISTRATOR and "FULL_ADMIN" in key.roles


async def _body(request: web.Request) -> Any:
    # Not request.read(), which refuses the state of a large NAS: a megabyte is enough for it.
    text = await request.content.read()
    try:
        return msgspec.json.decode(text) if text else {}
    except msgspec.DecodeError as mistake:
        raise Refused(f"the body is no JSON: {mistake}") from mistake


def _refusal(refused: NasRefusal) -> Row:
    if isinstance(refused, CallError):
        return {"message": refused.reason, "errno": refused.number}
    return {"message": refused.said.strip()}


def _shown(value: Any) -> Any:
    """What of a result JSON can tell."""
    match value:
        case Dataset():
            return {"dataset": value.name, "type": value.kind, "used_bytes": value.used_bytes}
        case Snapshot():
            return {"snapshot": value.path, "referenced_bytes": value.referenced_bytes}
        case Pool():
            return {"pool": value.name, "size_bytes": value.size_bytes, "state": value.state}
        case Scan():
            return {"function": value.function, "started_at": value.started_at}
        case Vdev():
            return {"disk": value.disk, "state": value.state}
        case User():
            return {"user": value.name, "roles": sorted(value.roles)}
    return value


def _reply(status: int, value: Any) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")
