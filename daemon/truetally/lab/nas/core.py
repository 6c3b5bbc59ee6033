"""The methods of a session itself: subscriptions, options, jobs, and what there is to call."""

from __future__ import annotations

import errno
import json
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from truetally.lab.nas.failures import CallError, InstanceNotFound, Invalid, NasRefusal
from truetally.lab.nas.jobs import jobs_of
from truetally.lab.nas.machine import Event, Machine, Row, Version
from truetally.lab.nas.table import METHODS, Caller, asked, call, filled, find, grants, method

REALTIME = "reporting.realtime"
_LEAST_SECONDS = 2
_UNDER_WAY = ("WAITING", "RUNNING")


@method("core.ping", public=True)
def ping(caller: Caller) -> str:
    """Answer."""
    return "pong"


@method("core.set_options", public=True, since=(25, 4))
def set_options(caller: Caller, options: Any) -> Row | None:
    """Options of this connection."""
    caller.options = filled(options, caller.options, where="options")
    return dict(caller.options) if caller.machine.number >= (25, 10) else None


@method("core.subscribe", since=(25, 4))
def core_subscribe(caller: Caller, event: Any) -> str:
    """Subscribe; the answer is what `core.unsubscribe` takes."""
    ident = str(uuid.uuid4())
    subscribe(caller, ident, str(event))
    return ident


def subscribe(caller: Caller, ident: str, name: str) -> None:
    """Subscribe; a full admin may subscribe to what does not exist, and never hears of it."""
    if not may_hear(caller, name.partition(":")[0]):
        raise CallError("Not authorized", errno.EACCES)
    caller.subscriptions[ident] = name


def may_hear(caller: Caller, collection: str) -> bool:
    """Whether a session may subscribe to a collection; without a login, to none."""
    if caller.key is None:
        return False
    allowed = caller.allows("SUBSCRIBE", collection)
    if allowed is not None:
        return allowed
    if caller.full_admin or collection == "core.get_jobs":
        return True
    return any(grants(caller.roles, role) for role in _heard_by(caller, collection))


def _heard_by(caller: Caller, collection: str) -> Sequence[str]:
    """The roles any one of which suffices to hear of a collection; none where it does not exist."""
    if collection in _EVENTS:
        role, since, until = _EVENTS[collection]
        return [role] if since <= caller.machine.number < until else []
    read = METHODS.get(collection)
    return read.roles if read is not None and read.exists(caller) else ()


_ALWAYS, _NEVER = (0, 0), (99, 0)
# The collections that are named after no method, or after one that the lab has not (schemas of 25.04 to 26).
_EVENTS: dict[str, tuple[str, Version, Version]] = {
    REALTIME: ("REPORTING_READ", _ALWAYS, _NEVER),
    "zfs.pool.scan": ("POOL_SCRUB_READ", _ALWAYS, (26, 0)),
    "pool.scan": ("POOL_SCRUB_READ", (26, 0), _NEVER),
    "zpool.query": ("POOL_READ", (26, 0), _NEVER),
    "iscsi.auth.query": ("SHARING_ISCSI_AUTH_READ", _ALWAYS, _NEVER),
    "privilege.query": ("PRIVILEGE_READ", _ALWAYS, _NEVER),
    "disk.query": ("READONLY_ADMIN", _ALWAYS, _NEVER),
    "system.ready": ("SYSTEM_GENERAL_READ", _ALWAYS, _NEVER),
    "system.reboot": ("SYSTEM_GENERAL_READ", _ALWAYS, _NEVER),
    "system.reboot.info": ("SYSTEM_GENERAL_READ", (24, 10), _NEVER),
    "system.shutdown": ("SYSTEM_GENERAL_READ", _ALWAYS, _NEVER),
    "failover.status": ("FAILOVER_READ", _ALWAYS, _NEVER),
    "auth.sessions": ("FULL_ADMIN", _ALWAYS, _NEVER),
}


def sampled_every(collection: str) -> float:
    """How many seconds lie between two samples of `reporting.realtime`, with `:{"interval":N}` or without.

    Raises:
        Invalid: the parameters are wrong; the texts of that are inferred.
    """
    text = collection.partition(":")[2]
    try:
        params = json.loads(text or "{}")
    except ValueError as mistake:
        raise Invalid.at("reporting.realtime", f"Invalid parameters: {mistake}") from mistake
    given = filled(params, {"interval": _LEAST_SECONDS}, where="reporting.realtime")["interval"]
    if not isinstance(given, int) or given < _LEAST_SECONDS:
        text = f"Input should be greater than or equal to {_LEAST_SECONDS}"
        raise Invalid.at("reporting.realtime.interval", text)
    return float(given)


@method("core.unsubscribe", since=(25, 4))
def unsubscribe(caller: Caller, ident: Any) -> None:
    """End a subscription."""
    caller.subscriptions.pop(ident, None)


@method("core.get_jobs")
def get_jobs(caller: Caller, filters: Any = (), options: Any = None) -> Any:
    """Jobs; all of them for a full admin, one's own for others."""
    query = asked(caller, filters, options)
    return query.apply(row for row in caller.machine.jobs if may_see_job(caller, row))


def may_see_job(caller: Caller, job: Row) -> bool:
    """Whether a job is the caller's own, or the caller may see all."""
    return caller.full_admin or bool(job["credentials"]["data"]["username"] == caller.username)


def when_ended(machine: Machine, number: int, then: Callable[[Row], object]) -> None:
    """Call back with a job's row as soon as it has ended, which may be now."""
    row = machine.jobs[number - 1]
    if row["state"] not in _UNDER_WAY:
        then(row)
        return

    def listen(event: Event) -> None:
        if event.collection == "core.get_jobs" and event.id == number and row["state"] not in _UNDER_WAY:
            machine.listeners.remove(listen)
            then(row)

    machine.listeners.append(listen)


def outcome(row: Row) -> Any:
    """What a job that has ended returned.

    Raises:
        CallError: it failed or was aborted.
    """
    if row["state"] == "SUCCESS":
        return row["result"]
    error = row["error"] or f"{row['method']} was aborted"
    raise CallError(error.partition("] ")[2] or error, (row["exc_info"] or {}).get("errno") or errno.EFAULT)


@method("core.job_wait")
def job_wait(caller: Caller, id: Any) -> int:  # noqa: A002
    """A job that ends as another one does."""
    machine = caller.machine
    if (
        not isinstance(id, int)
        or not 0 < id <= len(machine.jobs)
        or not may_see_job(caller, machine.jobs[id - 1])
    ):
        # The text of this refusal is inferred.
        raise InstanceNotFound(f"Job {id} does not exist")
    jobs = jobs_of(machine)
    number = int(machine.start_job("core.job_wait", [id], username=caller.username)["id"])
    jobs.waiting[number] = lambda: outcome(machine.jobs[id - 1])
    when_ended(machine, id, lambda _: jobs.finish(number))
    return number


@method("core.bulk")
def bulk(caller: Caller, method: Any, params: Any = (), description: Any = None) -> int:
    """A job that calls a method once for each list of parameters."""
    if not isinstance(params, list) or not all(isinstance(each, list) for each in params):
        raise Invalid.at("params", "Input should be a valid list")
    find(caller, str(method))
    arguments = [method, params, description]
    return jobs_of(caller.machine).start(
        caller, "core.bulk", arguments, lambda: [_one_of_many(caller, method, each) for each in params]
    )


def _one_of_many(caller: Caller, name: str, params: list[Any]) -> Row:
    try:
        value = call(caller, name, params)
    except NasRefusal as refused:
        return {"job_id": None, "error": refused.said, "result": None}
    if not METHODS[name].job:
        return {"job_id": None, "error": None, "result": value}
    row = jobs_of(caller.machine).finish(value)
    return {"job_id": value, "error": row["error"], "result": row["result"]}


@method("core.get_methods", since=(25, 10))
def get_methods(caller: Caller, service: Any = None, target: Any = "WS") -> Row:
    """What can be called here."""
    return {
        name: {"roles": list(each.roles), "require_websocket": False, "job": each.job}
        for name, each in sorted(METHODS.items())
        if each.exists(caller) and (service is None or name.startswith(f"{service}."))
    }


@method("core.get_services", since=(25, 10))
def get_services(caller: Caller, target: Any = "WS") -> Row:
    """The namespaces; which of them are CRUD services is told by what they have."""
    names = {name for name, each in METHODS.items() if each.exists(caller)}
    services = {name.rpartition(".")[0] for name in names}
    return {
        each: {"type": "crud" if f"{each}.create" in names else "service", "config_schema": None}
        for each in sorted(services)
    }
