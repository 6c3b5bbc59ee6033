"""The storage methods: pools and datasets.

`pool.dataset.delete` first removes whatever is attached to the path and then tries
to destroy it: a dataset with snapshots is refused, and has lost its share by then.
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from typing import Any

from truetally.lab.nas import tree
from truetally.lab.nas.checks import ask_for_force, names, property_changes, texts
from truetally.lab.nas.encryption import encrypt
from truetally.lab.nas.failures import CallError, InstanceNotFound, Invalid
from truetally.lab.nas.filesystem import forget
from truetally.lab.nas.jobs import jobs_of
from truetally.lab.nas.machine import Event, Machine, Row
from truetally.lab.nas.pool_rows import pool_row
from truetally.lab.nas.query import Query, checked
from truetally.lab.nas.sharing import attached, detach
from truetally.lab.nas.snapshots import snapshot_row
from truetally.lab.nas.table import Caller, asked, filled, method
from truetally.lab.nas.zfs import Dataset, Snapshot, under

_DATASET_EXTRA = [
    "flat",
    "properties",
    "retrieve_children",
    "retrieve_user_props",
    "snapshots",
    "snapshots_count",
    "snapshots_properties",
    "snapshots_recursive",
]
# Sizes may come as text: democratic-csi 1.9 sends its quotas so.
_SIZES = ("refquota", "quota", "reservation", "refreservation", "volsize")
_WORDS = (
    "sync",
    "snapdev",
    "compression",
    "exec",
    "special_small_block_size",
    "copies",
    "snapdir",
    "deduplication",
    "checksum",
    "readonly",
    "aclmode",
    "acltype",
    "atime",
    "casesensitivity",
    "recordsize",
    "volblocksize",
)
_UNTOUCHED = (
    "managedby",
    "quota_warning",
    "quota_critical",
    "refquota_warning",
    "refquota_critical",
    "force_size",
)
_CREATE: Row = {
    **dict.fromkeys((*_SIZES, *_WORDS, *_UNTOUCHED)),
    "name": "",
    "type": "FILESYSTEM",
    "sparse": False,
    "comments": "",
    "encryption": False,
    "encryption_options": None,
    "inherit_encryption": True,
    "share_type": "GENERIC",
    "create_ancestors": False,
    "user_properties": [],
}
# These are only said when a dataset is made.
_ONCE = ("casesensitivity", "volblocksize")
_UPDATE: Row = {
    **{name: None for name in (*_SIZES, *_WORDS, *_UNTOUCHED) if name not in _ONCE},
    "comments": None,
    "create_ancestors": False,
    "user_properties": None,
    "user_properties_update": [],
}
_UNFIT = {"INHERIT", None}


@method("pool.query", "POOL_READ")
def pool_query(caller: Caller, filters: Any = (), options: Any = None) -> Any:
    """All pools."""
    return asked(caller, filters, options).apply(pool_rows(caller.machine))


def pool_rows(machine: Machine) -> list[Row]:
    """All pools as this version shows them."""
    number, now = machine.number, machine.now()
    return [
        pool_row(pool, newest=number >= (26, 0), number=number, now=now)
        for pool in machine.zfs.pools.values()
    ]


@method("pool.dataset.query", "DATASET_READ")
def dataset_query(caller: Caller, filters: Any = (), options: Any = None) -> Any:
    """Datasets; which ones a query looks at at all depends on the engine."""
    query = asked(caller, filters, options)
    zfs, old_engine = caller.machine.zfs, caller.machine.old_engine
    children = query.option("retrieve_children", default=True)
    if query.count and not old_engine:
        # The new engine counts before it filters.
        return sum(1 for _ in zfs.visible())
    # The new engine walks everything for one dataset too; what it answers is the same.
    named = query.names("id", "name")
    if named is not None:
        looked_at = [zfs.dataset(name) for name in named if zfs.find(name) is not None]
    elif not children and (old_engine or not query.filters):
        looked_at = [pool.root for pool in zfs.imported()]
    else:
        looked_at = list(zfs.visible())
    return query.apply(_dataset_rows(caller.machine, looked_at, query, children=children))


def _dataset_rows(machine: Machine, looked_at: list[Dataset], query: Query, *, children: bool) -> list[Row]:
    shown = {each.name: each for top in looked_at for each in (top.below() if children else [top])}
    rows = {name: _dataset_row(machine, each, query) for name, each in shown.items()}
    if not children:
        return list(rows.values())
    for each in looked_at:
        tree.nested(each, rows)
    if not query.option("flat", default=True):
        return [rows[each.name] for each in looked_at if each.parent is None]
    return [rows[each.name] for each in looked_at]


def _dataset_row(machine: Machine, dataset: Dataset, query: Query) -> Row:
    row = tree.dataset_row(
        dataset,
        machine.zfs,
        old_engine=machine.old_engine,
        wanted=names(query.option("properties"), "options.extra.properties"),
        user_properties=query.option("retrieve_user_props", default=True),
    )
    if query.option("snapshots"):
        wanted = names(query.option("snapshots_properties"), "options.extra.snapshots_properties")
        taken = dataset.snapshots.values()
        row["snapshots"] = [snapshot_row(machine, snapshot, wanted, holds=False) for snapshot in taken]
    if query.option("snapshots_count"):
        row["snapshot_count"] = len(dataset.snapshots)
    return row


def _the_dataset(caller: Caller, name: Any) -> Dataset:
    found = caller.machine.zfs.find(name) if isinstance(name, str) else None
    if found is None:
        raise InstanceNotFound(f"PoolDataset {name} does not exist")
    return found


def _instance(machine: Machine, dataset: Dataset) -> Row:
    rows = _dataset_rows(machine, [dataset], checked(), children=True)
    return rows[0]


@method("pool.dataset.get_instance", "DATASET_READ")
def dataset_get(caller: Caller, id: Any, options: Any = None) -> Row:  # noqa: A002
    """One dataset."""
    checked((), options)
    return _instance(caller.machine, _the_dataset(caller, id))


@method("pool.dataset.create", "DATASET_WRITE")
def dataset_create(caller: Caller, data: Any) -> Row:
    """A new dataset, told with an event."""
    machine = caller.machine
    given = filled(data, _CREATE, where="data", required=["name"])
    texts(given, "pool_dataset_create", "name")
    if given["type"] == "VOLUME" and not given["volsize"]:
        raise Invalid.at("pool_dataset_create.volsize", "This field is required for VOLUME")
    if given["name"] in machine.zfs.datasets:
        raise Invalid.at("pool_dataset_create.name", f"Path {given['name']} already exists", errno.EEXIST)
    parent = given["name"].rpartition("/")[0]
    if machine.zfs.find(parent) is None and not given["create_ancestors"]:
        text = "Parent dataset does not exist for specified name"
        raise Invalid.at("pool_dataset_create.name", text, errno.ENOENT)
    native = _native(given)
    volsize = int(native.pop("volsize", 0)) if given["type"] == "VOLUME" else 0
    made = machine.zfs.create(
        given["name"],
        volsize=volsize,
        user=_user_properties(given["user_properties"]),
        parents=given["create_ancestors"],
        sparse=given["type"] != "VOLUME" or given["sparse"],
        native=native,
    )
    encrypt(made, given)
    made.comments = given["comments"] if given["comments"] != "INHERIT" else ""
    row = _instance(machine, made)
    # The fields of dataset events are sent by hand, from 25.04 too (dataset.py `do_create`).
    machine.emit(Event("added", "pool.dataset.query", made.name, row))
    return row


def _native(given: Row) -> dict[str, Any]:
    """The ZFS properties that a body sets."""
    sizes = {name: _bytes(name, given[name]) for name in _SIZES if given.get(name) is not None}
    return sizes | {name: given[name] for name in _WORDS if given.get(name) not in _UNFIT}


def _bytes(name: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as mistake:
        raise Invalid.at(f"pool_dataset.{name}", "Input should be a valid integer") from mistake


def _user_properties(given: list[Row]) -> dict[str, str]:
    return {each["key"]: str(each["value"]) for each in given}


@method("pool.dataset.update", "DATASET_WRITE")
def dataset_update(caller: Caller, id: Any, data: Any) -> Row:  # noqa: A002
    """Change sizes and user properties of a dataset."""
    machine, dataset = caller.machine, _the_dataset(caller, id)
    given = filled(data, _UPDATE, where="data")
    native = _native(given)
    _refuse_shrinking(dataset, native)
    machine.zfs.set_user(id, property_changes(given["user_properties_update"], "pool_dataset_update"))
    if given["user_properties"] is not None:
        dataset.user = _user_properties(given["user_properties"])
    inherited = {name: None for name in _WORDS if given.get(name) == "INHERIT"}
    machine.zfs.set_native(id, native | inherited)
    if given["comments"] is not None:
        dataset.comments = given["comments"]
    row = _instance(machine, dataset)
    machine.emit(Event("changed", "pool.dataset.query", dataset.name, row))
    return row


def _refuse_shrinking(dataset: Dataset, native: Row) -> None:
    if native.get("volsize", dataset.volsize) < dataset.volsize:
        text = "You cannot shrink a zvol from GUI, this may lead to data loss."
        raise Invalid.at("pool_dataset_update.volsize", text)


@method("pool.dataset.delete", "DATASET_DELETE")
def dataset_delete(caller: Caller, id: Any, options: Any = None) -> bool:  # noqa: A002
    """Remove what is attached to a dataset, then destroy it; the first happens even if the second fails."""
    given = filled(options or {}, {"recursive": False, "force": False}, where="options")
    machine, dataset = caller.machine, _the_dataset(caller, id)
    recursive = bool(given["recursive"])
    if dataset.children and not recursive:
        text = f"Failed to delete dataset: cannot destroy '{id}': filesystem has children"
        raise CallError(text, errno.ENOTEMPTY)
    detach(machine, dataset.name)
    try:
        gone = machine.zfs.destroy(id, recursive=recursive, clones=recursive and machine.number >= (26, 0))
    except CallError as error:
        raise CallError(f"Failed to delete dataset: {error.reason}", error.number) from error
    forget(machine, dataset.name)
    machine.removed(gone)
    return True


@method("pool.dataset.destroy_snapshots", "SNAPSHOT_WRITE", until=(26, 0))
def dataset_destroy_snapshots(caller: Caller, name: Any, snapshots: Any = None) -> int:
    """Destroy the snapshots of a dataset, all unless some are named, as a job; its number.

    That a call without names means all is inferred from democratic-csi, which sends none.
    """
    machine = caller.machine
    given = filled(snapshots or {}, {"all": False, "recursive": False, "snapshots": []}, where="snapshots")

    def work() -> list[str]:
        top = _the_dataset(caller, name)
        chosen = list(top.below()) if given["recursive"] else [top]
        doomed = [taken for each in chosen for taken in each.snapshots.values() if _named(given, taken)]
        gone = [taken.path for taken in doomed if machine.zfs.destroy_snapshot(taken.path)]
        machine.removed(gone)
        return [path.partition("@")[2] for path in gone]

    return jobs_of(machine).start(caller, "pool.dataset.destroy_snapshots", [name, given], work)


def _named(given: Row, taken: Snapshot) -> bool:
    """Whether a snapshot is named, alone or by its place between two others by name."""
    if given["all"] or not given["snapshots"]:
        return True
    return any(
        taken.name == each
        if isinstance(each, str)
        else (each.get("start") or "") <= taken.name <= (each.get("end") or taken.name)
        for each in given["snapshots"]
    )


@method("pool.dataset.attachments", "DATASET_READ")
def dataset_attachments(caller: Caller, id: Any) -> list[Row]:  # noqa: A002
    """What is attached to a dataset and below it."""
    return attached(caller.machine, _the_dataset(caller, id).name)


@method("pool.dataset.processes", "DATASET_READ")
def dataset_processes(caller: Caller, id: Any) -> list[Row]:  # noqa: A002
    """Processes with open files below a dataset."""
    name = _the_dataset(caller, id).name
    processes = caller.machine.processes.items()
    return [row for place, rows in processes if under(place, [name]) for row in rows]


@method("pool.dataset.snapshot_count", "DATASET_READ")
def dataset_snapshot_count(caller: Caller, dataset: Any) -> int:
    """How many snapshots a dataset has."""
    return len(_the_dataset(caller, dataset).snapshots)


@method("pool.dataset.promote", "DATASET_WRITE")
def dataset_promote(caller: Caller, id: Any) -> None:  # noqa: A002
    """Make a clone independent of its origin."""
    caller.machine.zfs.promote(_the_dataset(caller, id).name)


@method("pool.dataset.rename", "DATASET_WRITE", since=(25, 10))
def dataset_rename(caller: Caller, id: Any, data: Any) -> None:  # noqa: A002
    """Rename a dataset; shares go on naming the old path, and nobody is told."""
    members = {"new_name": "", "recursive": False, "force": False}
    given = filled(data, members, where="data", required=["new_name"])
    dataset = _the_dataset(caller, id)
    ask_for_force(given, "pool_dataset_rename")
    caller.machine.zfs.rename(dataset.name, given["new_name"])


@method("zfs.resource.query", "ZFS_RESOURCE_READ", since=(25, 10))
def resource_query(caller: Caller, data: Any = None) -> list[Row]:
    """Datasets by path, opened directly and shown plainly."""
    machine = caller.machine
    defaults: Row = {
        "paths": [],
        "properties": [],
        "get_user_properties": False,
        "get_source": True,
        "nest_results": False,
        "get_children": False,
    }
    if machine.number >= (26, 0):
        defaults["max_depth"] = 0
    given = filled(data or {}, defaults, where="data")
    tops = _resource_tops(machine, given["paths"], children=given["get_children"])
    chosen = [each for top in tops for each in (top.below() if given["get_children"] else [top])]
    rows = {each.name: _resource_row(machine, each, given) for each in chosen}
    if given["nest_results"] and given["get_children"]:
        return [tree.nested(top, rows) for top in tops]
    return list(rows.values())


def _resource_row(machine: Machine, dataset: Dataset, given: Row) -> Row:
    wanted: Collection[str] | None = given["properties"]
    row = tree.resource_row(
        dataset, machine.zfs, wanted, user=given["get_user_properties"], source=given["get_source"]
    )
    if machine.number >= (26, 0):
        row["tier"] = None
    return row


def _resource_tops(machine: Machine, paths: list[str], *, children: bool) -> list[Dataset]:
    if not paths:
        return [pool.root for pool in machine.zfs.imported()]
    for path in paths:
        others = [other for other in paths if other != path]
        if children and under(path, others):
            raise Invalid.at("zfs.resource.query", "Paths must not overlap when get_children is set")
        if "@" in path:
            raise Invalid.at("zfs.resource.query", "Set `paths` to datasets, not snapshots")
        if machine.zfs.find(path) is None:
            raise Invalid.at("zfs.resource.query", f"'{path}' not found", errno.ENOENT)
    return [machine.zfs.dataset(path) for path in paths]
