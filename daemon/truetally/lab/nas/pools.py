"""The methods about pools themselves: scrubs, exports and imports; and the blows that a pool can take.

A scrub runs by the clock of the machine. While it does, `tell_scans` tells subscribers
how far it is (`zfs.pool.scan` up to 25.10, `pool.scan` from 26 on); the real one does so
every two seconds, which is `watch_scans`. A disk that fails is told with
`pool.query` up to 25.10, and with nothing from 26 on.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from truetally.lab.nas.failures import CallError, InstanceNotFound, Invalid
from truetally.lab.nas.jobs import jobs_of
from truetally.lab.nas.machine import Event, Machine, Row
from truetally.lab.nas.pool import Pool, Vdev
from truetally.lab.nas.pool_rows import pool_row, scan_row, zpool_row
from truetally.lab.nas.query import checked
from truetally.lab.nas.sharing import detach
from truetally.lab.nas.table import Caller, asked, filled, method

_SCRUB_TAKES = timedelta(hours=1)
_SCHEDULE = {"minute": "00", "hour": "00", "dom": "*", "month": "*", "dow": "7"}
_THRESHOLD_DAYS = 35
TOLD_EVERY = timedelta(seconds=2)
_STATES = ("ONLINE", "FAULTED", "UNAVAIL", "REMOVED", "OFFLINE", "DEGRADED")
_ERRORS = ("read_errors", "write_errors", "checksum_errors")


def _row(machine: Machine, pool: Pool) -> Row:
    newest = machine.number >= (26, 0)
    return pool_row(pool, newest=newest, number=machine.number, now=machine.now())


def _the_pool(machine: Machine, name: Any) -> Pool:
    """A pool by its id or name."""
    for pool in machine.zfs.pools.values():
        if name in (pool.id, pool.name):
            return pool
    raise InstanceNotFound(f"Pool {name} does not exist")


def tell_pool(machine: Machine, pool: Pool, msg: str = "changed") -> None:
    """Emit `pool.query`."""
    fields = _row(machine, pool) if msg != "removed" else None
    machine.emit(Event(msg, "pool.query", pool.id, fields))


def strike(
    machine: Machine,
    name: str,
    disk: str,
    state: str | None = None,
    *,
    read_errors: int = 0,
    write_errors: int = 0,
    checksum_errors: int = 0,
) -> Vdev:
    """Let a disk have a state (ONLINE, DEGRADED, FAULTED, OFFLINE, REMOVED, UNAVAIL), and more errors."""
    pool = machine.zfs.pool(name)
    struck = pool.disk(disk)
    if state is not None and state not in _STATES:
        raise CallError(f"a disk cannot be {state}; it can be {', '.join(_STATES)}", errno.EINVAL)
    before = pool.state
    struck.state = state or struck.state
    struck.read_errors += read_errors
    struck.write_errors += write_errors
    struck.checksum_errors += checksum_errors
    if machine.number < (26, 0) and pool.state != before:
        tell_pool(machine, pool)
    return struck


def clear_errors(machine: Machine, name: str) -> None:
    """`zpool clear`: no disk has errors, and those that were faulted are back."""
    pool = machine.zfs.pool(name)
    before, pool.data_errors = pool.state, 0
    for each in pool.disks():
        each.state = "ONLINE" if each.state == "FAULTED" else each.state
        for counter in _ERRORS:
            setattr(each, counter, 0)
    if machine.number < (26, 0) and pool.state != before:
        tell_pool(machine, pool)


def resilver(machine: Machine, name: str, takes: timedelta = _SCRUB_TAKES) -> None:
    """Begin a resilver, as after a disk was replaced."""
    machine.zfs.start_scan(name, "RESILVER", takes)
    tell_scans(machine)


def tell_scans(machine: Machine) -> None:
    """Tell of every scan that runs, and once of each that has ended."""
    collection = "pool.scan" if machine.number >= (26, 0) else "zfs.pool.scan"
    for pool in machine.zfs.imported():
        scan = pool.scan
        if scan is None or scan.told:
            continue
        now = machine.now()
        scan.told = scan.state(now) != "SCANNING"
        fields = {"name": pool.name, "scan": scan_row(scan, now)}
        machine.emit(Event("changed", collection, None, fields))


async def watch_scans(machine: Machine, every: timedelta = TOLD_EVERY) -> None:
    """Tell of scans as the real one does, until cancelled."""
    while True:
        tell_scans(machine)
        await asyncio.sleep(every.total_seconds())


@method("pool.get_instance", "POOL_READ")
def pool_get(caller: Caller, id: Any, options: Any = None) -> Row:  # noqa: A002
    """One pool."""
    checked((), options)
    return _row(caller.machine, _the_pool(caller.machine, id))


@method("pool.scrub.query", "POOL_SCRUB_READ")
def scrub_query(caller: Caller, filters: Any = (), options: Any = None) -> Any:
    """When pools are scrubbed: every pool has the task that TrueNAS makes with it."""
    machine, query = caller.machine, asked(caller, filters, options)
    return query.apply(
        {
            "id": pool.id,
            "pool": pool.id,
            "pool_name": pool.name,
            "threshold": _THRESHOLD_DAYS,
            "description": "",
            "schedule": dict(_SCHEDULE),
            "enabled": True,
        }
        for pool in machine.zfs.pools.values()
    )


@method("pool.scrub.scrub", "POOL_WRITE")
def scrub(caller: Caller, name: Any, action: Any = "START") -> int:
    """Start, stop or pause a scrub, as a job; its number.

    The job ends at once, the scrub does not (inferred).
    """
    machine = caller.machine
    if action not in ("START", "STOP", "PAUSE"):
        raise Invalid.at("action", "Input should be 'START', 'STOP' or 'PAUSE'")
    return jobs_of(machine).start(
        caller, "pool.scrub.scrub", [name, action], lambda: _scrub(machine, name, action)
    )


def _scrub(machine: Machine, name: Any, action: str) -> None:
    pool, now = _the_pool(machine, name), machine.now()
    scan = pool.scan
    running = scan is not None and scan.state(now) == "SCANNING"
    if action == "START" and scan is not None and running and scan.paused_at is not None:
        scan.idle += now - scan.paused_at
        scan.paused_at = None
    elif action == "START":
        machine.zfs.start_scan(pool.name, "SCRUB", _SCRUB_TAKES)
    elif scan is None or not running:
        raise CallError(f"cannot stop scrubbing {pool.name}: there is no active scrub", errno.ENOENT)
    elif action == "PAUSE":
        scan.paused_at = scan.paused_at or now
    else:
        scan.cancelled_at = now
    tell_scans(machine)


@method("pool.scrub.run", "POOL_WRITE")
def scrub_run(caller: Caller, name: Any, threshold: Any = _THRESHOLD_DAYS) -> None:
    """Start a scrub unless the last one ended within so many days."""
    machine = caller.machine
    pool, now = _the_pool(machine, name), machine.now()
    ended = pool.scan.ended_at(now) if pool.scan is not None else None
    if ended is None or now - ended >= timedelta(days=threshold):
        _scrub(machine, pool.name, "START")


@method("zpool.query", "POOL_READ", since=(26, 0))
def zpool_query(caller: Caller, data: Any = None) -> list[Row]:
    """Pools by name, with what is asked for; names that there are not are left out (inferred)."""
    machine = caller.machine
    defaults: Row = {"pool_names": None, "properties": None}
    defaults |= dict.fromkeys(("topology", "scan", "expand", "features"), False)
    given = filled(data or {}, defaults, where="data")
    return [
        zpool_row(
            pool,
            machine.now(),
            properties=given["properties"],
            topology=given["topology"],
            scan=given["scan"],
        )
        for pool in machine.zfs.imported()
        if given["pool_names"] is None or pool.name in given["pool_names"]
    ]


@method("zpool.scrub.run", "POOL_WRITE", since=(26, 0))
def zpool_scrub_run(caller: Caller, data: Any) -> int:
    """Start, pause or cancel a scrub, as a job; its number. An error scrub is a scrub here."""
    machine = caller.machine
    defaults: Row = {"pool_name": "", "scan_type": "SCRUB", "action": "START", "threshold": _THRESHOLD_DAYS}
    given = filled(data, defaults, where="data", required=["pool_name"])
    actions = {"START": "START", "PAUSE": "PAUSE", "CANCEL": "STOP"}
    if given["action"] not in actions:
        raise Invalid.at("data.action", "Input should be 'START', 'PAUSE' or 'CANCEL'")
    return jobs_of(machine).start(
        caller,
        "zpool.scrub.run",
        [given],
        lambda: _scrub(machine, given["pool_name"], actions[given["action"]]),
    )


@method("pool.export", "POOL_WRITE")
def pool_export(caller: Caller, id: Any, options: Any = None) -> int:  # noqa: A002
    """Export a pool, as a job; its number. That `cascade` removes what is attached is inferred."""
    machine = caller.machine
    defaults = {"cascade": False, "restart_services": False, "destroy": False}
    given = filled(options or {}, defaults, where="options")

    def work() -> None:
        pool = _the_pool(machine, id)
        if given["cascade"]:
            for each in pool.root.below():
                detach(machine, each.name)
        machine.zfs.export_pool(pool.name)
        if given["destroy"]:
            del machine.zfs.exported[pool.name]
        tell_pool(machine, pool, "removed")

    return jobs_of(machine).start(caller, "pool.export", [id, given], work)


@method("pool.import_find", "POOL_READ")
def pool_import_find(caller: Caller) -> int:
    """Which pools could be imported, as a job; its number."""
    machine = caller.machine

    def work() -> list[Row]:
        return [_importable(pool) for pool in machine.zfs.exported.values()]

    return jobs_of(machine).start(caller, "pool.import_find", [], work)


def _importable(pool: Pool) -> Row:
    return {"name": pool.name, "guid": str(pool.guid), "status": pool.state, "hostname": ""}


@method("pool.import_pool", "POOL_WRITE")
def pool_import(caller: Caller, data: Any) -> int:
    """Import an exported pool by its guid, as a job; its number."""
    machine = caller.machine
    defaults = {"guid": "", "name": None, "enable_attachments": False}
    given = filled(data, defaults, where="pool_import", required=["guid"])

    def work() -> bool:
        pool = machine.zfs.import_pool(_exported(machine.zfs.exported.values(), given["guid"]))
        tell_pool(machine, pool, "added")
        return True

    return jobs_of(machine).start(caller, "pool.import_pool", [given], work)


def _exported(pools: Iterable[Pool], guid: str) -> str:
    for pool in pools:
        if str(pool.guid) == guid:
            return pool.name
    raise CallError(f"Pool with guid {guid!r} not found", errno.ENOENT)
