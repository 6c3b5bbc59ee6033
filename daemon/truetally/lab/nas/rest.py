"""REST v2.0, as TrueNAS speaks it until 25.10 and as democratic-csi uses it.

A path names a method of the table: a collection is queried or created in, one member is
got, updated or deleted, and everything else is the method of that name. Every request logs
in by itself, and no key is revoked for having come unencrypted. A member that is missing
is 404 for GET alone: deleting it is refused with 422 (middleware 24.10 `restful.py`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import inspect
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec
from aiohttp import web

from truetally.lab.nas.failures import CallError, InstanceNotFound, Invalid, MatchNotFound, NasRefusal
from truetally.lab.nas.faults import Fault, Kind
from truetally.lab.nas.logins import owner, user_of
from truetally.lab.nas.machine import ApiKey, Machine, Row, User, Version
from truetally.lab.nas.methods import METHODS, Caller, call, find

if TYPE_CHECKING:
    from truetally.lab.nas.server import LabNas

_TOP = "/api/v2.0"
_GONE = (26, 0)
_ITEM = "id"
# Only a socket can log in, subscribe or have options.
_SOCKET_ONLY = ("auth.log", "core.subscribe", "core.unsubscribe", "core.set_options")
# These have no path of their own: the verb says them.
_CRUD = (".create", ".update", ".delete", ".query", ".config")
_OPERATORS = {"eq": "=", "neq": "!=", "gt": ">", "lt": "<", "gte": ">=", "lte": "<=", "regex": "~"}


def routes(nas: LabNas) -> list[web.RouteDef]:
    """The REST routes of a NAS; none from 26 on, where REST is gone."""
    if nas.machine.number >= _GONE:
        return []
    return [web.route("*", _TOP + "/{path:.*}", _Rest(nas).answer)]


class _BadRequest(Exception):
    """What came is no request for the method: 400, with the reason."""


@dataclass(frozen=True, slots=True)
class _Target:
    """What a request is for: the method, and the arguments that its path gives."""

    method: str
    arguments: tuple[Any, ...] = ()
    member: bool = False

    def takes(self, version: Version) -> dict[str, inspect.Parameter]:
        """The arguments that are still to come, by the names that the method has for them."""
        accepted = METHODS[self.method].accepts(version)
        return {each.name: each for each in accepted[len(self.arguments) :]}

    @property
    def filterable(self) -> bool:
        """Whether it takes a query."""
        return list(self.takes(_GONE)) == ["filters", "options"]


class _Rest:
    def __init__(self, nas: LabNas) -> None:
        self._nas = nas
        self._held: list[asyncio.Event] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        await self._nas.awake.wait()
        caller = Caller(self._nas.machine)
        target = _target(caller, request)
        if not METHODS[target.method].is_public(caller):
            caller.key = _login(self._nas.machine, request)
            if caller.key is None:
                await asyncio.sleep(self._nas.login_penalty)
                raise web.HTTPUnauthorized
            _permit(caller, request, target)
        try:
            arguments = await _arguments(request, target, caller.machine.number)
        except _BadRequest as mistake:
            return _reply(400, {"message": str(mistake)})
        return await self._call(caller, request, target, arguments)

    async def _call(
        self, caller: Caller, request: web.Request, target: _Target, arguments: list[Any]
    ) -> web.StreamResponse:
        fault = self._nas.faults.meet(target.method)
        await asyncio.sleep(self._nas.faults.seconds(target.method))
        if fault is not None and fault.kind is Kind.RESTART:
            self._nas.restart_soon()
            raise web.HTTPBadGateway
        if fault is not None and fault.kind is Kind.STALL:
            self._nas.stall()
        try:
            if fault is not None and fault.kind is Kind.ERROR:
                raise CallError(fault.reason, fault.number)
            value = call(caller, target.method, arguments)
        except NasRefusal as refused:
            await self._nas.awake.wait()
            return self._answered(_refusal(refused))
        if fault is not None and fault.kind is Kind.HOLD:
            # There is one answer at a time on an HTTP connection, so any other request lets go of it.
            self._held.append(released := asyncio.Event())
            await released.wait()
        return self._answered(await self._deliver(request, value, fault))

    def _answered(self, reply: web.StreamResponse) -> web.StreamResponse:
        while self._held:
            self._held.pop().set()
        return reply

    async def _deliver(self, request: web.Request, value: Any, fault: Fault | None) -> web.StreamResponse:
        await self._nas.awake.wait()
        kind = fault.kind if fault is not None else None
        if kind is Kind.TRUNCATE and isinstance(value, list):
            value = value[: len(value) // 2]
        reply = _reply(200, value)
        if kind in (Kind.DROP, Kind.CUT) and request.transport is not None:
            if kind is Kind.CUT:
                _write_half(request.transport, reply)
            request.transport.close()
        return reply


def _write_half(transport: asyncio.Transport, reply: web.Response) -> None:
    body = reply.body if isinstance(reply.body, bytes) else b""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    transport.write(head.encode() + body[: len(body) // 2])


def _reply(status: int, value: Any) -> web.Response:
    return web.Response(
        status=status, body=msgspec.json.encode(value), content_type="application/json", charset="utf-8"
    )


def _refusal(refused: NasRefusal) -> web.Response:
    if isinstance(refused, MatchNotFound):
        return _reply(404, {"message": "MatchNotFound()"})
    if isinstance(refused, Invalid):
        mistakes: dict[str, list[Row]] = defaultdict(list)
        for attribute, message, number in refused.extra:
            mistakes[attribute].append({"message": message, "errno": number})
        return _reply(422, mistakes)
    if isinstance(refused, InstanceNotFound):
        # The attribute of this mistake is None, which is how JSON writes it as a key.
        return _reply(422, {"null": [{"message": refused.text, "errno": 2}]})
    if isinstance(refused, CallError):
        return _reply(422, {"message": refused.reason, "errno": refused.number})
    return _reply(404, {"message": str(refused)})


def _target(caller: Caller, request: web.Request) -> _Target:
    """The method that a path and a verb mean; 404 for none, 405 if another verb would mean one."""
    path = request.raw_path.partition("?")[0].removeprefix(_TOP)
    parts = [unquote(part) for part in path.split("/") if part]
    verbs = _member_verbs(parts) if _ITEM in parts[1:-1] else _collection_verbs(".".join(parts))
    offered = {verb: target for verb, target in verbs.items() if _exists(caller, target.method)}
    if not offered:
        raise web.HTTPNotFound
    found = offered.get(request.method)
    if found is None:
        raise web.HTTPMethodNotAllowed(request.method, sorted(offered))
    return found


def _member_verbs(parts: list[str]) -> dict[str, _Target]:
    at = parts.index(_ITEM, 1)
    service, member = ".".join(parts[:at]), parts[at + 1]
    ident = int(member) if member.isdigit() else member
    if len(parts) == at + 3:
        target = _Target(f"{service}.{parts[-1]}", (ident,))
        return {"GET": target, "POST": target}
    if len(parts) != at + 2:
        return {}
    return {
        "GET": _Target(f"{service}.query", ([["id", "=", ident]],), member=True),
        "PUT": _Target(f"{service}.update", (ident,)),
        "DELETE": _Target(f"{service}.delete", (ident,)),
    }


def _collection_verbs(name: str) -> dict[str, _Target]:
    verbs = {"POST": _Target(f"{name}.create")}
    for read in ("query", "config"):
        if f"{name}.{read}" in METHODS:
            verbs["GET"] = _Target(f"{name}.{read}")
    if f"{name}.config" in METHODS:
        verbs["PUT"] = _Target(f"{name}.update")
    if name in METHODS and not name.endswith(_CRUD):
        # What takes no arguments, or a query, is read; everything else is posted.
        target = _Target(name)
        verbs["GET" if not target.takes(_GONE) or target.filterable else "POST"] = target
    return verbs


def _exists(caller: Caller, name: str) -> bool:
    found = METHODS.get(name)
    if found is None or not found.exists(caller) or name.startswith(_SOCKET_ONLY):
        return False
    # Private services get no REST routes, and zfs.* is private from 25.10 on.
    return not (name.startswith("zfs.snapshot.") and caller.machine.number >= (25, 10))


def _login(machine: Machine, request: web.Request) -> ApiKey | User | None:
    """Whose request it is."""
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return bearer(machine, request)
    return _user(machine, text.strip()) if scheme.lower() == "basic" else None


def bearer(machine: Machine, request: web.Request) -> ApiKey | None:
    """The key that came with a request, if it still counts."""
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    key = owner(machine, text.strip()) if scheme.lower() == "bearer" else None
    return key if key is not None and not key.expired(machine.now()) else None


def _user(machine: Machine, text: str) -> User | None:
    """The user whose password this is; one who needs a one-time password too cannot use REST."""
    try:
        name, _, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    user = user_of(machine, name, password)
    return user if user is not None and user.otp is None else None


def _permit(caller: Caller, request: web.Request, target: _Target) -> None:
    """403 unless the caller may: by the key's allowlist up to 24.10, by the owner's roles after it."""
    resource = request.path.removeprefix(_TOP).rstrip("/")
    allowed = caller.allows(request.method, resource)
    if allowed:
        # What the list allows by path needs no second leave by the method's name.
        caller.key = ApiKey(0, caller.username, "", frozenset(("FULL_ADMIN",)), caller.machine.now())
        return
    try:
        find(caller, target.method)
    except CallError as refused:
        raise web.HTTPForbidden from refused
    if allowed is False:
        raise web.HTTPForbidden


async def _arguments(request: web.Request, target: _Target, version: Version) -> list[Any]:
    """The positional arguments.

    Raises:
        _BadRequest: what is wrong with the request.
    """
    given = list(target.arguments)
    if target.member:
        extra = {
            key[len("extra.") :]: _loose(value) for key, value in request.query.items() if "extra." in key
        }
        return [*given, {"get": True, "extra": extra}]
    if target.filterable and request.query:
        return _query(request)
    body = await _body(request)
    if body is None or (body == {} and request.method in ("GET", "DELETE")):
        return given
    takes = target.takes(version)
    if target.filterable:
        takes = {f"query-{name}": each for name, each in takes.items()}
    return [*given, *_from_body(body, takes)]


async def _body(request: web.Request) -> Any:
    """The JSON that came, None for nothing."""
    text = await request.text()
    try:
        return json.loads(text) if text else None
    except ValueError as mistake:
        raise _BadRequest(str(mistake)) from mistake


def _from_body(body: Any, takes: Mapping[str, inspect.Parameter]) -> list[Any]:
    """One argument is the body itself; several are its members."""
    names = list(takes)
    if len(names) <= 1:
        return [body]
    if not isinstance(body, dict):
        raise _BadRequest("Endpoint accepts multiple params, object/dict expected.")
    unknown = [name for name in body if name not in names]
    if unknown:
        raise _BadRequest(f"The following attributes are not expected: {', '.join(unknown)}")
    last = max(names.index(name) for name in body) + 1 if body else 0
    given = []
    for name, parameter in list(takes.items())[:last]:
        if name not in body and parameter.default is inspect.Parameter.empty:
            raise _BadRequest(f"{name} attribute expected.")
        given.append(body.get(name, parameter.default))
    return given


def _query(request: web.Request) -> list[Any]:
    """Filters and options from a query string: `field=value`, `field__gt=3`, `limit`, `sort`, `extra.x`."""
    filters: list[Any] = []
    options: Row = {}
    extra: Row = {}
    for key, value in request.query.items():
        if key in ("limit", "offset"):
            options[key] = _plain(value)
        elif key == "count":
            options[key] = value.lower() in ("true", "1")
        elif key == "sort":
            options["order_by"] = value.split(",")
        elif key.startswith("extra."):
            extra[key.removeprefix("extra.")] = _loose(value)
        else:
            field, _, operator = key.partition("__")
            several = operator in ("in", "nin")
            wanted = [_plain(each) for each in value.split(",")] if several else _plain(value)
            filters.append([field, _OPERATORS.get(operator, operator) or "=", wanted])
    if extra:
        options["extra"] = extra
    return [filters, options]


def _plain(value: str) -> Any:
    if value.isdigit():
        return int(value)
    return {"true": True, "false": False, "null": None}.get(value.lower(), value)


def _loose(value: str) -> Any:
    """JSON if it is JSON, else the text."""
    try:
        return json.loads(value)
    except ValueError:
        return value
