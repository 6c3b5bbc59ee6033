"""How the middleware shows ZFS: the rows of datasets, resources, snapshots and pools.

Two engines differ in what a client can know. Up to 25.04 (py-libzfs) a dataset
shows every property and where a user property comes from; from 25.10 on
(pylibzfs, `pool_/dataset_query_utils.py`) it shows a fixed set, and calls every user
property LOCAL, the inherited ones too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from truetally.lab.nas.zfs import Dataset, Pool, Snapshot, Zfs, under

Row = dict[str, Any]
_PLAIN = {
    "deduplication": "OFF",
    "aclmode": "DISCARD",
    "acltype": "POSIX",
    "xattr": "SA",
    "casesensitivity": "SENSITIVE",
    "checksum": "ON",
    "sync": "STANDARD",
    "compression": "LZ4",
    "snapdir": "HIDDEN",
    "snapdev": "HIDDEN",
}
# ZFS's own names of those that the middleware shows under another one.
_RENAMED = {"dedup": "deduplication", "special_small_blocks": "special_small_block_size"}
_FILESYSTEM_ONLY = frozenset(
    [
        "aclmode",
        "acltype",
        "atime",
        "casesensitivity",
        "exec",
        "mountpoint",
        "quota",
        "recordsize",
        "refquota",
        "snapdir",
        "xattr",
    ]
)
_VOLUME_ONLY = frozenset(("volblocksize", "volsize"))
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


def _property(raw: str, parsed: Any, value: str | None, source: str = "LOCAL") -> Row:
    return {"parsed": parsed, "rawvalue": raw, "value": value, "source": source, "source_info": None}


def _size(number: int, source: str = "NONE") -> Row:
    return _property(str(number), number, human(number), source)


def _limit(number: int) -> Row:
    # An unset limit is null for TrueNAS, not zero.
    return _size(number, "LOCAL") if number else _property("0", None, None, "DEFAULT")


def _switch(on: bool, source: str = "DEFAULT") -> Row:
    return _property("on" if on else "off", on, "ON" if on else "OFF", source)


_CONSTANT: Mapping[str, Row] = {
    **{name: _property(value.lower(), value.lower(), value, "DEFAULT") for name, value in _PLAIN.items()},
    "compressratio": _property("1.00", "1.00", "1.00x", "NONE"),
    "copies": _property("1", 1, "1", "DEFAULT"),
    "atime": _switch(on=False),
    "exec": _switch(on=True),
    "key_format": _property("none", "none", None, "DEFAULT"),
    "pbkdf2iters": _property("0", "0", "0", "DEFAULT"),
    "special_small_block_size": _property("0", "0", "0", "DEFAULT"),
    "encryption_algorithm": _property("off", "off", None, "DEFAULT"),
}
_ENCRYPTED: Mapping[str, Row] = {
    "key_format": _property("hex", "hex", "HEX"),
    "encryption_algorithm": _property("aes-256-gcm", "aes-256-gcm", "AES-256-GCM", "NONE"),
}


def mountpoint(name: str) -> str:
    """Where TrueNAS mounts a dataset."""
    return f"/mnt/{name}"


def available_bytes(dataset: Dataset, pools: Mapping[str, Pool]) -> int:
    """What is still free for a dataset, its own quota considered."""
    pool = pools[dataset.pool]
    free = max(pool.size_bytes - pool.root.used_bytes, 0)
    limit = dataset.refquota or dataset.quota
    return min(free, max(limit - dataset.referenced_bytes, 0)) if limit else free


def _snapshots_bytes(dataset: Dataset) -> int:
    return sum(taken.used_bytes for taken in dataset.snapshots.values())


def _properties(dataset: Dataset, pools: Mapping[str, Pool]) -> Row:
    snapshots = _snapshots_bytes(dataset)
    children = sum(child.used_bytes for child in dataset.children.values())
    created = int(dataset.created_at.timestamp())
    referenced = _size(dataset.referenced_bytes)
    where = mountpoint(dataset.name)
    return {
        **_CONSTANT,
        **(_ENCRYPTED if dataset.encrypted else {}),
        "origin": _property(dataset.origin, dataset.origin, dataset.origin, "NONE"),
        "creation": _property(str(created), date(dataset.created_at), dataset.created_at.ctime(), "NONE"),
        "used": _size(dataset.used_bytes),
        "usedbychildren": _size(children),
        "usedbydataset": referenced,
        "usedbyrefreservation": _size(0),
        "usedbysnapshots": _size(snapshots),
        "available": _size(available_bytes(dataset, pools)),
        "readonly": _switch(dataset.readonly),
        "reservation": _limit(dataset.reservation),
        "refreservation": _limit(dataset.refreservation),
        "quota": _limit(dataset.quota),
        "refquota": _limit(dataset.refquota),
        "recordsize": _size(dataset.recordsize, "DEFAULT"),
        "volsize": _size(dataset.volsize, "LOCAL"),
        "volblocksize": _size(dataset.volblocksize, "DEFAULT"),
        "mountpoint": _property(where, where, where, "DEFAULT"),
        "referenced": referenced,
        "written": referenced,
        "logicalused": referenced,
        "guid": _property(str(dataset.txg << 20), dataset.txg << 20, str(dataset.txg << 20), "NONE"),
        "createtxg": _property(str(dataset.txg), dataset.txg, str(dataset.txg), "NONE"),
        "snapshots_changed": _changed(dataset),
    }


def _changed(dataset: Dataset) -> Row:
    newest = max((int(taken.created_at.timestamp()) for taken in dataset.snapshots.values()), default=0)
    return _property(str(newest), newest, str(newest), "NONE")


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
    row: Row = {
        "id": dataset.name,
        "name": dataset.name,
        "pool": dataset.pool,
        "type": dataset.kind,
        "encrypted": dataset.encrypted,
        "encryption_root": dataset.name if dataset.encrypted else None,
        "key_loaded": (not dataset.locked) if dataset.encrypted else None,
        "locked": dataset.locked,
        "children": [],
    }
    properties = _properties(dataset, zfs.pools)
    left_out = _names(dataset, wanted, old_engine=old_engine)
    if left_out is None:
        shown = {_RENAMED.get(name, name) for name in wanted or ()}
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
    return {
        key: _property(value, value, value, source if old_engine else "LOCAL")
        for key, (value, source) in dataset.user_properties().items()
    }


def nested(top: Dataset, rows: Mapping[str, Row]) -> Row:
    """The row of a dataset with the rows of all below it in `children`."""
    row = rows[top.name]
    row["children"] = [nested(child, rows) for child in top.children.values()]
    return row


def _resource_source(name: str) -> Row:
    return {"type": "NONE" if name in ("used", "available", "creation", "origin") else "LOCAL", "value": None}


def resource_row(
    dataset: Dataset, zfs: Zfs, properties: Collection[str] | None, *, user: bool, source: bool
) -> Row:
    """A dataset as `zfs.resource.query` shows it: real values, no sources of user properties."""
    shown: Row = {}
    if properties is not None:
        shown = _resource_properties(dataset, zfs, properties, source=source)
    return {
        "createtxg": dataset.txg,
        "guid": dataset.txg << 20,
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
    every = _properties(dataset, zfs.pools)
    back = {shown: name for name, shown in _RENAMED.items()} | {
        "encryption_algorithm": "encryption",
        "key_format": "keyformat",
    }
    names = {back.get(name, name): value for name, value in every.items() if name not in foreign}
    return {
        name: _resource_property(name, value, source=source)
        for name, value in names.items()
        if not wanted or name in wanted
    }


def _resource_property(name: str, shown: Row, *, source: bool) -> Row:
    value = shown["parsed"]
    if name == "creation":
        value = int(shown["rawvalue"])
    elif name == "origin":
        value = shown["rawvalue"] or None
    elif shown["rawvalue"] == "0" and value is None:
        value = 0
    return {"raw": shown["rawvalue"], "source": _resource_source(name) if source else None, "value": value}


def snapshot_user_properties(snapshot: Snapshot, zfs: Zfs) -> dict[str, tuple[str, str]]:
    """A snapshot's user properties, those of its dataset inherited."""
    above = zfs.datasets[snapshot.dataset].user_properties()
    inherited = {key: (value, "INHERITED") for key, (value, _) in above.items()}
    return inherited | {key: (value, "LOCAL") for key, value in snapshot.user.items()}


def _snapshot_properties(snapshot: Snapshot, wanted: Collection[str] | None, *, newest: bool) -> Row:
    created = int(snapshot.created_at.timestamp())
    plain: dict[str, tuple[str, Any]] = {
        "type": ("snapshot", "snapshot"),
        "creation": (str(created), date(snapshot.created_at)),
        "used": (str(snapshot.used_bytes), snapshot.used_bytes),
        "referenced": (str(snapshot.referenced_bytes), snapshot.referenced_bytes),
        "createtxg": (str(snapshot.txg), str(snapshot.txg)),
        "guid": (str(snapshot.txg << 20), str(snapshot.txg << 20)),
    }
    if not newest:
        # 26's schemas know no property that tells clones, holds or a deferred destroy.
        plain["userrefs"] = (str(len(snapshot.holds)), len(snapshot.holds))
        plain["defer_destroy"] = ("on" if snapshot.defer_destroy else "off", snapshot.defer_destroy)
        clones = ",".join(sorted(snapshot.clones))
        plain["clones"] = (clones, clones)
    return {
        name: {"value": raw, "rawvalue": raw, "parsed": parsed, "source": "NONE"}
        for name, (raw, parsed) in plain.items()
        if wanted is None or name in wanted
    }


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
    properties = _snapshot_properties(snapshot, wanted, newest=newest)
    if wanted is None and not newest:
        for key, (value, source) in snapshot_user_properties(snapshot, zfs).items():
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
    every = _snapshot_properties(snapshot, wanted, newest=True)
    shown = {name: _resource_property(name, value, source=False) for name, value in every.items()}
    users = snapshot_user_properties(snapshot, zfs) if user else {}
    return {
        "createtxg": snapshot.txg,
        "guid": snapshot.txg << 20,
        "name": snapshot.path,
        "pool": snapshot.dataset.partition("/")[0],
        "dataset": snapshot.dataset,
        "snapshot_name": snapshot.name,
        "type": "SNAPSHOT",
        "holds": sorted(snapshot.holds) if holds else None,
        "properties": shown,
        "user_properties": {key: value for key, (value, _) in users.items()} if user else None,
    }


def pool_row(pool: Pool, *, newest: bool) -> Row:
    """A pool as `pool.query` shows it; one that is offline has no sizes."""
    size = pool.size_bytes if pool.imported else None
    used = pool.root.used_bytes if pool.imported else None
    free = pool.size_bytes - pool.root.used_bytes if pool.imported else None
    row: Row = {
        "id": pool.id,
        "name": pool.name,
        "guid": str(pool.guid),
        "status": pool.status if pool.imported else "OFFLINE",
        "path": mountpoint(pool.name),
        "scan": None,
        "expand": None,
        "is_upgraded": True,
        "healthy": pool.healthy,
        "warning": False,
        "status_code": "OK" if pool.healthy else None,
        "status_detail": None,
        "size": size,
        "allocated": used,
        "free": free,
        "freeing": 0 if pool.imported else None,
        "dedup_table_size": 0 if pool.imported else None,
        "dedup_table_quota": "auto" if pool.imported else None,
        "fragmentation": "3" if pool.imported else None,
        "size_str": str(size) if pool.imported else None,
        "allocated_str": str(used) if pool.imported else None,
        "free_str": str(free) if pool.imported else None,
        "freeing_str": "0" if pool.imported else None,
        "autotrim": {"parsed": "off", "rawvalue": "off", "source": "DEFAULT", "value": "off"},
        "topology": None,
    }
    if newest:
        row["all_sed"] = False
    return row


def datasets_under(zfs: Zfs, paths: Iterable[str]) -> Iterator[Dataset]:
    """The visible datasets at or below any of the paths."""
    tops = list(paths)
    return (dataset for dataset in zfs.visible() if under(dataset.name, tops))
