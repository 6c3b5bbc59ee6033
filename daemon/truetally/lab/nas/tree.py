"""How the middleware shows ZFS: the rows of datasets, resources, snapshots and pools.

Two engines differ in what a client can know. Up to 25.04 (py-libzfs) a dataset
shows every property and where a user property comes from; from 25.10 on
(pylibzfs, `pool_/dataset_query_utils.py`) it shows a fixed set, and calls every user
property LOCAL, the inherited ones too.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any

from truetally.lab.nas import space
from truetally.lab.nas.dataset import Effective
from truetally.lab.nas.native import NATIVES, RENAMED, Shape
from truetally.lab.nas.query import Query
from truetally.lab.nas.zfs import Dataset, Pool, Snapshot, Zfs, under

Row = dict[str, Any]
# What the middleware shows in place of ZFS's own names, and for what only encryption has.
_SHOWN = {own: shown for shown, own in RENAMED.items()}
_KEYS = {"encryption_algorithm": "encryption", "key_format": "keyformat"}
_ASKED = {own: shown for shown, own in {**RENAMED, **_KEYS}.items()}
_FILESYSTEM_ONLY = frozenset(
    ["mountpoint", *(name for name, native in NATIVES.items() if native.only == "FILESYSTEM")]
)
_VOLUME_ONLY = frozenset(name for name, native in NATIVES.items() if native.only == "VOLUME")
_OLD_ENGINE_ONLY = frozenset(
    ("referenced", "written", "logicalused", "guid", "createtxg", "snapshots_changed")
)
_SUFFIXES = ("", "K", "M", "G", "T", "P")


def date(at: datetime) -> dict[str, int]:
    """A time in EJSON."""
    return {"$date": int(at.timestamp() * 1000)}


def human(size: int) -> str:
    """A size as ZFS prints it for people."""
    number, suffix = float(size), 0
    while number >= 1024 and suffix < len(_SUFFIXES) - 1:
        number, suffix = number / 1024, suffix + 1
    return f"{number:.3g}{_SUFFIXES[suffix]}" if suffix else str(size)


def _property(
    raw: str, parsed: Any, value: str | None, source: str = "LOCAL", info: str | None = None
) -> Row:
    return {"parsed": parsed, "rawvalue": raw, "value": value, "source": source, "source_info": info}


def _size(number: int, source: str = "NONE") -> Row:
    return _property(str(number), number, human(number), source)


def _shown(shape: Shape, effective: Effective) -> Row:
    raw, source, info = effective
    if shape is Shape.WORD:
        return _property(raw, raw, raw.upper(), source, info)
    if shape is Shape.SWITCH:
        return _property(raw, raw == "on", raw.upper(), source, info)
    if shape is Shape.LIMIT and raw == "0":
        # An unset limit is null for TrueNAS, not zero.
        return _property("0", None, None, source, info)
    value = raw if shape is Shape.NUMBER else human(int(raw))
    return _property(raw, int(raw), value, source, info)


_PLAIN: Mapping[str, Row] = {
    "key_format": _property("none", "none", None, "DEFAULT"),
    "pbkdf2iters": _property("0", "0", "0", "DEFAULT"),
    "encryption_algorithm": _property("off", "off", None, "DEFAULT"),
}


def _encryption(dataset: Dataset) -> Mapping[str, Row]:
    key = dataset.encryption
    if key is None:
        return _PLAIN
    own = key.root is dataset
    iterations = str(key.pbkdf2iters)
    return {
        "key_format": _property(
            key.key_format, key.key_format, key.key_format.upper(), "LOCAL" if own else "NONE"
        ),
        "pbkdf2iters": _property(iterations, iterations, iterations, "LOCAL" if own else "NONE"),
        "encryption_algorithm": _property(key.algorithm, key.algorithm, key.algorithm.upper(), "NONE"),
    }


def mountpoint(name: str) -> str:
    """Where TrueNAS mounts a dataset."""
    return f"/mnt/{name}"


def available_bytes(dataset: Dataset, pools: Mapping[str, Pool]) -> int:
    """What is still free for a dataset, quotas and reservations considered."""
    return space.available(dataset, pools[dataset.pool].size_bytes)


def _natives(dataset: Dataset) -> dict[str, Row]:
    """The rows of ZFS's own properties; those that are merely inherited are made once for all children."""
    parent = dataset.parent
    if parent is None:
        return {_SHOWN.get(n, n): _shown(native.shape, dataset.effective(n)) for n, native in NATIVES.items()}
    found = dict(_inherited(parent))
    for name in (*dataset.native, *dataset.native_received):
        found[_SHOWN.get(name, name)] = _shown(NATIVES[name].shape, dataset.effective(name))
    return found


def _inherited(parent: Dataset) -> dict[str, Row]:
    bequest = parent.bequest()
    cached = parent.shown_to_children
    if cached is None or cached[0] is not bequest:
        rows = {
            _SHOWN.get(name, name): _shown(
                native.shape, bequest[name] if native.inherited else (native.default, "DEFAULT", None)
            )
            for name, native in NATIVES.items()
        }
        cached = parent.shown_to_children = (bequest, rows)
    return cached[1]


def _ratio(dataset: Dataset) -> Row:
    # Of the dataset itself, though ZFS counts what is below too (inferred to be near enough).
    raw = f"{dataset.compression_ratio:.2f}"
    return _property(raw, raw, f"{raw}x", "NONE")


def _properties(dataset: Dataset, pools: Mapping[str, Pool]) -> Row:
    created = dataset.created_at.replace(microsecond=0)
    where = mountpoint(dataset.name)
    guid, txg = str(dataset.guid), str(dataset.txg)
    return {
        **_natives(dataset),
        **_encryption(dataset),
        "compressratio": _ratio(dataset),
        "origin": _property(dataset.origin, dataset.origin, dataset.origin, "NONE"),
        "creation": _property(str(int(created.timestamp())), date(created), created.ctime(), "NONE"),
        "used": _size(dataset.used_bytes),
        "usedbychildren": _size(dataset.children_bytes),
        "usedbydataset": _size(dataset.own_bytes),
        "usedbyrefreservation": _size(dataset.refreservation_bytes),
        "usedbysnapshots": _size(dataset.snapshots_bytes),
        "available": _size(available_bytes(dataset, pools)),
        "mountpoint": _property(where, where, where, "DEFAULT"),
        "referenced": _size(dataset.referenced_bytes),
        "written": _size(dataset.unique_bytes),
        "logicalused": _size(space.logical(dataset)),
        "guid": _property(guid, dataset.guid, guid, "NONE"),
        "createtxg": _property(txg, dataset.txg, txg, "NONE"),
        "snapshots_changed": _changed(dataset),
    }


def _changed(dataset: Dataset) -> Row:
    at = int(dataset.snapshots_changed.timestamp()) if dataset.snapshots_changed is not None else 0
    return _property(str(at), at, str(at), "NONE")


def _names(dataset: Dataset, wanted: Collection[str] | None, *, old_engine: bool) -> frozenset[str] | None:
    """Which properties to leave out (None: `wanted` says which to show)."""
    if wanted is not None and not old_engine:
        return None
    foreign = _VOLUME_ONLY if dataset.kind == "FILESYSTEM" else _FILESYSTEM_ONLY
    return foreign if old_engine else foreign | _OLD_ENGINE_ONLY


def dataset_row(
    dataset: Dataset,
    zfs: Zfs,
    *,
    old_engine: bool,
    wanted: Collection[str] | None = None,
    user_properties: bool = True,
) -> Row:
    """A dataset as `pool.dataset.query` shows it, without its children."""
    key = dataset.encryption
    row: Row = {
        "id": dataset.name,
        "name": dataset.name,
        "pool": dataset.pool,
        "type": dataset.kind,
        "encrypted": key is not None,
        "encryption_root": key.root.name if key is not None else None,
        "key_loaded": key.loaded if key is not None else None,
        "locked": dataset.locked,
        "children": [],
    }
    properties = _properties(dataset, zfs.pools)
    left_out = _names(dataset, wanted, old_engine=old_engine)
    if left_out is None:
        shown = {_ASKED.get(name, name) for name in wanted or ()}
        row.update({name: value for name, value in properties.items() if name in shown})
    else:
        row.update({name: value for name, value in properties.items() if name not in left_out})
    # TrueNAS shows the mountpoint as plain text, and none for a zvol or a locked dataset.
    mounted = dataset.kind == "FILESYSTEM" and not dataset.locked
    row["mountpoint"] = mountpoint(dataset.name) if mounted else None
    if user_properties or old_engine:
        row["user_properties"] = _user_rows(dataset, old_engine=old_engine)
    if dataset.comments:
        row["comments"] = _property(dataset.comments, dataset.comments, dataset.comments)
    return row


def _user_rows(dataset: Dataset, *, old_engine: bool) -> Row:
    if not old_engine:
        return {key: _property(value, value, value) for key, (value, _) in dataset.user_properties().items()}
    return {
        key: _property(value, value, value, source, info)
        for key, (value, source, info) in dataset.user_effective().items()
    }


def nested(top: Dataset, rows: Mapping[str, Row]) -> Row:
    """The row of a dataset with the rows of all below it in `children`."""
    row = rows[top.name]
    row["children"] = [nested(child, rows) for child in top.children.values()]
    return row


def resource_row(
    dataset: Dataset, zfs: Zfs, properties: Collection[str] | None, *, user: bool, source: bool
) -> Row:
    """A dataset as `zfs.resource.query` shows it: real values, no sources of user properties."""
    shown: Row = {}
    if properties is not None:
        shown = _resource_properties(dataset, zfs, properties, source=source)
    return {
        "createtxg": dataset.txg,
        "guid": dataset.guid,
        "name": dataset.name,
        "pool": dataset.pool,
        "properties": shown,
        "type": dataset.kind,
        "user_properties": {key: value for key, (value, _) in dataset.user_properties().items()}
        if user
        else None,
        "children": None,
    }


def _resource_properties(dataset: Dataset, zfs: Zfs, wanted: Collection[str], *, source: bool) -> Row:
    foreign = _VOLUME_ONLY if dataset.kind == "FILESYSTEM" else _FILESYSTEM_ONLY
    back = {**RENAMED, **_KEYS}
    return {
        own: _resource_property(own, value, source=source)
        for name, value in _properties(dataset, zfs.pools).items()
        if name not in foreign and (not wanted or back.get(name, name) in wanted)
        for own in (back.get(name, name),)
    }


def _resource_property(name: str, shown: Row, *, source: bool) -> Row:
    value = shown["parsed"]
    if name == "creation":
        value = int(shown["rawvalue"])
    elif name == "origin":
        value = shown["rawvalue"] or None
    elif shown["rawvalue"] == "0" and value is None:
        value = 0
    whence = {"type": shown["source"], "value": shown.get("source_info")} if source else None
    return {"raw": shown["rawvalue"], "source": whence, "value": value}


def snapshot_user_properties(snapshot: Snapshot, zfs: Zfs) -> dict[str, tuple[str, str]]:
    """A snapshot's user properties, those of its dataset inherited."""
    above = zfs.datasets[snapshot.dataset].user_properties()
    inherited = {key: (value, "INHERITED") for key, (value, _) in above.items()}
    own = snapshot.user.items()
    return inherited | {
        key: (value, "RECEIVED" if key in snapshot.received else "LOCAL") for key, value in own
    }


def _snapshot_properties(
    snapshot: Snapshot, zfs: Zfs, wanted: Collection[str] | None, *, newest: bool
) -> Row:
    created = snapshot.created_at.replace(microsecond=0)
    plain: dict[str, Callable[[], tuple[str, Any]]] = {
        "type": lambda: ("snapshot", "snapshot"),
        "creation": lambda: (str(int(created.timestamp())), date(created)),
        "used": lambda: (str(snapshot.used_bytes), snapshot.used_bytes),
        "referenced": lambda: (str(snapshot.referenced_bytes), snapshot.referenced_bytes),
        "createtxg": lambda: (str(snapshot.txg), str(snapshot.txg)),
        "guid": lambda: (str(snapshot.guid), str(snapshot.guid)),
        "written": lambda: _written(snapshot, zfs),
    }
    plain["logicalreferenced"] = plain["referenced"]
    if snapshot.volsize:
        plain["volsize"] = lambda: (str(snapshot.volsize), snapshot.volsize)
    if not newest:
        plain["name"] = lambda: (snapshot.path, snapshot.path)
        # 26's schemas know no property that tells clones, holds or a deferred destroy.
        plain["userrefs"] = lambda: (str(len(snapshot.holds)), len(snapshot.holds))
        plain["defer_destroy"] = lambda: ("on" if snapshot.defer_destroy else "off", snapshot.defer_destroy)
        plain["clones"] = lambda: (",".join(sorted(snapshot.clones)),) * 2
    shown = plain if wanted is None else [name for name in plain if name in wanted]
    rows: Row = {}
    for name in shown:
        raw, parsed = plain[name]()
        rows[name] = {"value": raw, "rawvalue": raw, "parsed": parsed, "source": "NONE"}
    return rows


def _written(snapshot: Snapshot, zfs: Zfs) -> tuple[str, int]:
    size = space.written(zfs.datasets[snapshot.dataset], snapshot)
    return str(size), size


def snapshot_name_row(snapshot: Snapshot) -> Row:
    """What the fast path tells of a snapshot: names alone."""
    return {
        "id": snapshot.path,
        "name": snapshot.path,
        "pool": snapshot.dataset.partition("/")[0],
        "dataset": snapshot.dataset,
        "snapshot_name": snapshot.name,
        "type": "SNAPSHOT",
        "createtxg": str(snapshot.txg),
    }


def page_by_path(zfs: Zfs, query: Query) -> tuple[list[Snapshot], Query] | None:
    """A page of snapshots that is asked for by path alone, and what is left to do; None for other queries.

    A page `[["id", ">", last]]` in the order of ids needs no row but those it shows.
    """
    asked = query.option("min_txg") or query.option("max_txg")
    if asked or query.get or query.count or list(query.order_by) not in (["id"], ["name"]):
        return None
    paths, snapshots = zfs.snapshots_by_path()
    first, last, rest = 0, len(paths), []
    for each in query.filters:
        if len(each) != 3 or each[0] not in _NAME_FIELDS:
            return None
        bound = each[2] if each[0] in ("id", "name") and isinstance(each[2], str) else None
        if bound is not None and each[1] in (">", ">="):
            first = max(first, (bisect_right if each[1] == ">" else bisect_left)(paths, bound))
        elif bound is not None and each[1] in ("<", "<="):
            last = min(last, (bisect_left if each[1] == "<" else bisect_right)(paths, bound))
        else:
            rest.append(each)
    found: Iterator[Snapshot] = islice(snapshots, first, max(first, last))
    if rest:
        test = Query(filters=rest, count=True)
        found = (taken for taken in found if test.apply([snapshot_name_row(taken)]))
    end = query.offset + query.limit if query.limit else None
    page = list(islice(found, query.offset, end))
    return page, replace(query, filters=(), order_by=(), offset=0, limit=0)


_NAME_FIELDS = ("id", "name", "pool", "dataset", "snapshot_name")


def snapshot_row(
    snapshot: Snapshot,
    zfs: Zfs,
    *,
    wanted: Collection[str] | None,
    holds: Mapping[str, int] | None,
    newest: bool,
) -> Row:
    """A snapshot as `pool.snapshot.query` shows it; `wanted` None means every property."""
    row = snapshot_name_row(snapshot)
    properties = _snapshot_properties(snapshot, zfs, wanted, newest=newest)
    if not newest and (wanted is None or any(":" in name for name in wanted)):
        for key, (value, source) in snapshot_user_properties(snapshot, zfs).items():
            if wanted is None or key in wanted:
                properties[key] = {"value": value, "rawvalue": value, "parsed": value, "source": source}
    row["properties"] = properties
    if holds is not None:
        row["holds"] = dict(holds)
    return row


def snapshot_resource_row(
    snapshot: Snapshot, zfs: Zfs, properties: Collection[str] | None, *, user: bool, holds: bool
) -> Row:
    """A snapshot as `zfs.resource.snapshot.query` (26) shows it: every hold tag is visible here."""
    # None asks for no properties, an empty list for the default ones.
    wanted = (properties or None) if properties is not None else ()
    every = _snapshot_properties(snapshot, zfs, wanted, newest=True)
    shown = {name: _resource_property(name, value, source=False) for name, value in every.items()}
    users = snapshot_user_properties(snapshot, zfs) if user else {}
    return {
        "createtxg": snapshot.txg,
        "guid": snapshot.guid,
        "name": snapshot.path,
        "pool": snapshot.dataset.partition("/")[0],
        "dataset": snapshot.dataset,
        "snapshot_name": snapshot.name,
        "type": "SNAPSHOT",
        "holds": sorted(snapshot.holds) if holds else None,
        "properties": shown,
        "user_properties": {key: value for key, (value, _) in users.items()} if user else None,
    }


def datasets_under(zfs: Zfs, paths: Iterable[str]) -> Iterator[Dataset]:
    """The visible datasets at or below any of the paths."""
    tops = list(paths)
    return (dataset for dataset in zfs.visible() if under(dataset.name, tops))
