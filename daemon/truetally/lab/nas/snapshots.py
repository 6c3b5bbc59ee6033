"""The methods about snapshots; 25.10 has given them another name, and 26 a second service besides."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

from truetally.lab.nas import tree
from truetally.lab.nas.checks import ask_for_force, names, property_changes
from truetally.lab.nas.failures import InstanceNotFound, Invalid
from truetally.lab.nas.machine import Event, Machine, Row
from truetally.lab.nas.query import Query, checked
from truetally.lab.nas.table import Caller, asked, filled, method
from truetally.lab.nas.zfs import Snapshot


def _candidates(machine: Machine, query: Query) -> Iterable[Snapshot]:
    """The snapshots that the filters can leave, found without a walk where one can."""
    zfs = machine.zfs
    named = query.names("id", "name")
    if named is not None:
        return [zfs.snapshot(path) for path in named if zfs.find_snapshot(path) is not None]
    datasets = query.names("dataset")
    if datasets is not None:
        found = [zfs.find(name) for name in datasets]
        return [taken for each in found if each is not None for taken in each.snapshots.values()]
    return [taken for each in zfs.visible() for taken in each.snapshots.values()]


def snapshot_row(machine: Machine, snapshot: Snapshot, wanted: Collection[str] | None, *, holds: bool) -> Row:
    """A snapshot as this version shows it; 26 tells no holds but its own."""
    newest = machine.number >= (26, 0)
    shown = {tag: count for tag, count in snapshot.holds.items() if tag == "truenas" or not newest}
    return tree.snapshot_row(
        snapshot, machine.zfs, wanted=wanted, holds=shown if holds else None, newest=newest
    )


@method("zfs.snapshot.query", "SNAPSHOT_READ", until=(26, 0))
@method("pool.snapshot.query", "SNAPSHOT_READ", since=(25, 10))
def snapshot_query(caller: Caller, filters: Any = (), options: Any = None) -> Any:
    """Snapshots; only names are quick to read."""
    machine, query = caller.machine, asked(caller, filters, options)
    least, most = query.option("min_txg", 0) or 0, query.option("max_txg", 0) or 0
    candidates, query = tree.page_by_path(machine.zfs, query) or (_candidates(machine, query), query)
    chosen = [taken for taken in candidates if taken.txg >= least and (not most or taken.txg <= most)]
    if query.count or list(query.select) == ["name"]:
        return query.apply(map(tree.snapshot_name_row, chosen))
    if not query.filters and not query.order_by and not query.get:
        # A page needs no more rows than it shows; the real one builds them all.
        chosen = chosen[query.offset : query.offset + query.limit if query.limit else None]
        query = replace(query, offset=0, limit=0)
    wanted = names(query.option("properties"), "options.extra.properties")
    holds = bool(query.option("holds"))
    return query.apply(snapshot_row(machine, taken, wanted, holds=holds) for taken in chosen)


def _the_snapshot(caller: Caller, path: Any) -> Snapshot:
    found = caller.machine.zfs.find_snapshot(path) if isinstance(path, str) else None
    if found is None:
        raise InstanceNotFound(f"Snapshot {path} not found")
    return found


@method("zfs.snapshot.get_instance", "SNAPSHOT_READ", until=(26, 0))
@method("pool.snapshot.get_instance", "SNAPSHOT_READ", since=(25, 10))
def snapshot_get(caller: Caller, id: Any, options: Any = None) -> Row:  # noqa: A002
    """One snapshot."""
    query = checked((), options)
    holds = bool(query.option("holds"))
    return snapshot_row(caller.machine, _the_snapshot(caller, id), query.option("properties"), holds=holds)


@method("zfs.snapshot.create", "SNAPSHOT_WRITE", until=(26, 0))
@method("pool.snapshot.create", "SNAPSHOT_WRITE", since=(25, 10))
def snapshot_create(caller: Caller, data: Any) -> Row:
    """A snapshot, told with an event."""
    machine = caller.machine
    defaults: Row = {
        "dataset": "",
        "name": "",
        "recursive": False,
        "exclude": [],
        "vmware_sync": False,
        "properties": {},
        "suspend_vms": False,
    }
    given = filled(data, defaults, where="data", required=["dataset", "name"])
    top = machine.zfs.dataset(given["dataset"])
    user = {key: str(value) for key, value in given["properties"].items()}
    taken = machine.zfs.take(top.name, given["name"], user=user)
    if given["recursive"]:
        for child in list(top.below())[1:]:
            machine.zfs.take(child.name, given["name"], user=user)
    row = snapshot_row(machine, taken, None, holds=False)
    machine.emit(Event("added", _snapshots(machine), taken.path, row))
    return row


def _snapshots(machine: Machine) -> str:
    return "zfs.snapshot.query" if machine.number < (25, 10) else "pool.snapshot.query"


@method("zfs.snapshot.update", "SNAPSHOT_WRITE", until=(26, 0))
@method("pool.snapshot.update", "SNAPSHOT_WRITE", since=(25, 10))
def snapshot_update(caller: Caller, id: Any, data: Any) -> Row:  # noqa: A002
    """Change user properties of a snapshot; 26 says it did, and does nothing."""
    machine, taken = caller.machine, _the_snapshot(caller, id)
    given = filled(data, {"user_properties_update": [], "user_properties_remove": []}, where="data")
    if machine.number < (26, 0):
        changes = property_changes(given["user_properties_update"], "snapshot_update")
        removed = dict.fromkeys(given["user_properties_remove"])
        machine.zfs.set_user(taken.path, {**changes, **removed})
    return snapshot_row(machine, taken, None, holds=False)


@method("zfs.snapshot.delete", "SNAPSHOT_DELETE", until=(26, 0))
@method("pool.snapshot.delete", "SNAPSHOT_DELETE", since=(25, 10))
def snapshot_delete(caller: Caller, id: Any, options: Any = None) -> bool:  # noqa: A002
    """Destroy a snapshot; `defer` lets one with clones or holds go later."""
    given = filled(options or {}, {"defer": False, "recursive": False}, where="options")
    machine = caller.machine
    taken = _the_snapshot(caller, id)
    doomed = [taken.path]
    if given["recursive"]:
        below = machine.zfs.dataset(taken.dataset).below()
        doomed = [f"{each.name}@{taken.name}" for each in below if taken.name in each.snapshots]
    for path in doomed:
        if machine.zfs.destroy_snapshot(path, defer=bool(given["defer"])):
            machine.removed([path])
    extra = {"recursive": given["recursive"]}
    machine.emit(Event("removed", _snapshots(machine), taken.path, extra=extra))
    return True


@method("zfs.snapshot.clone", "FULL_ADMIN", until=(26, 0))
@method("pool.snapshot.clone", "DATASET_WRITE", "SNAPSHOT_WRITE", since=(25, 10))
def snapshot_clone(caller: Caller, data: Any) -> bool:
    """Clone a snapshot; nobody is told."""
    defaults: Row = {"snapshot": "", "dataset_dst": "", "dataset_properties": {}}
    given = filled(data, defaults, where="data", required=["snapshot", "dataset_dst"])
    properties = given["dataset_properties"]
    own = {key: str(value) for key, value in properties.items() if ":" in key}
    native = {key: value for key, value in properties.items() if ":" not in key}
    caller.machine.zfs.clone(given["snapshot"], given["dataset_dst"], user=own, native=native)
    return True


@method("zfs.snapshot.hold", "FULL_ADMIN", until=(26, 0))
@method("pool.snapshot.hold", "SNAPSHOT_WRITE", since=(25, 10))
def snapshot_hold(caller: Caller, id: Any, options: Any = None) -> None:  # noqa: A002
    """Hold a snapshot with the tag `truenas`."""
    filled(options or {}, {"recursive": False}, where="options")
    caller.machine.zfs.hold(_the_snapshot(caller, id).path)


@method("zfs.snapshot.release", "FULL_ADMIN", until=(26, 0))
@method("pool.snapshot.release", "SNAPSHOT_WRITE", since=(25, 10))
def snapshot_release(caller: Caller, id: Any, options: Any = None) -> None:  # noqa: A002
    """Release every tag of a snapshot, other people's too."""
    filled(options or {}, {"recursive": False}, where="options")
    machine, taken = caller.machine, _the_snapshot(caller, id)
    machine.zfs.release(taken.path)
    if machine.zfs.find_snapshot(taken.path) is None:
        machine.removed([taken.path])


@method("pool.snapshot.rename", "SNAPSHOT_WRITE", since=(25, 10))
def snapshot_rename(caller: Caller, id: Any, data: Any) -> None:  # noqa: A002
    """Give a snapshot another name; nobody is told."""
    members = {"new_name": "", "force": False}
    if caller.machine.number >= (26, 0):
        members["recursive"] = False
    given = filled(data, members, where="data", required=["new_name"])
    taken = _the_snapshot(caller, id)
    ask_for_force(given, "pool_snapshot_rename")
    caller.machine.zfs.rename_snapshot(taken.path, given["new_name"].rpartition("@")[2])


@method("zfs.snapshot.rollback", "FULL_ADMIN", until=(26, 0))
@method("pool.snapshot.rollback", "SNAPSHOT_WRITE", "POOL_WRITE", since=(25, 10))
def snapshot_rollback(caller: Caller, id: Any, options: Any = None) -> None:  # noqa: A002
    """Let a dataset be what a snapshot shows; the kernel tells of what was destroyed for it."""
    members = dict.fromkeys(("recursive", "recursive_clones", "force", "recursive_rollback"), False)
    given = filled(options or {}, members, where="options")
    machine, taken = caller.machine, _the_snapshot(caller, id)
    recursive, clones = bool(given["recursive"]), bool(given["recursive_clones"])
    machine.removed(machine.zfs.rollback(taken.path, recursive=recursive, clones=clones))


@method("zfs.resource.snapshot.query", "SNAPSHOT_READ", since=(26, 0))
def snapshot_resource_query(caller: Caller, data: Any = None) -> list[Row]:
    """Snapshots by path of dataset or snapshot, with all hold tags and user properties."""
    defaults: Row = {
        "paths": [],
        "recursive": False,
        "properties": [],
        "get_user_properties": False,
        "get_source": False,
        "get_holds": False,
        "min_txg": 0,
        "max_txg": 0,
    }
    given = filled(data or {}, defaults, where="data")
    machine = caller.machine
    return [
        tree.snapshot_resource_row(
            taken,
            machine.zfs,
            given["properties"],
            user=given["get_user_properties"],
            holds=given["get_holds"],
        )
        for taken in _resource_snapshots(machine, given["paths"], recursive=given["recursive"])
        if taken.txg >= given["min_txg"] and (not given["max_txg"] or taken.txg <= given["max_txg"])
    ]


def _resource_snapshots(machine: Machine, paths: list[str], *, recursive: bool) -> Iterable[Snapshot]:
    zfs = machine.zfs
    for path in paths or [pool.name for pool in zfs.imported()]:
        single = zfs.find_snapshot(path) if "@" in path else None
        if single is not None:
            yield single
            continue
        top = zfs.find(path)
        if top is None:
            raise Invalid.at("zfs.resource.snapshot.query", f"'{path}' not found", errno.ENOENT)
        for each in top.below() if recursive or not paths else [top]:
            yield from each.snapshots.values()
