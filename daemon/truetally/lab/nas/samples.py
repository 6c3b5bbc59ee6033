"""States that were recorded from a real driver's work, as `truenas-*.json` and `storage.json` tell them.

A record has what the API showed, so space is told only in sums: that snapshots share
their blocks with the head as far as sizes allow is inferred. A dataset that was recorded
alone brings the datasets above it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from truetally.lab.nas import space
from truetally.lab.nas.dataset import Snapshot
from truetally.lab.nas.failures import NasRefusal
from truetally.lab.nas.machine import ApiKey, Machine, Row
from truetally.lab.nas.native import NATIVES, RENAMED, Shape
from truetally.lab.nas.table import Caller, call
from truetally.lab.nas.zfs import Zfs

_TABLES: Mapping[str, str] = {
    "nfs": "sharing.nfs",
    "smb": "sharing.smb",
    "iscsi_target": "iscsi.target",
    "iscsi_extent": "iscsi.extent",
    "iscsi_targetextent": "iscsi.targetextent",
}
_NVMET = ("subsys", "port", "host", "namespace", "port_subsys", "host_subsys")
# What TrueNAS makes itself: not asked for when a row is made, and set as it was recorded.
_OWN = frozenset(("serial", "naa", "vendor", "product_id", "rel_tgt_id", "subnqn", "index", "locked"))
_SMB_FLAT = ("hostsallow", "hostsdeny", "guestok")
_RECORDED_POOL = 100 << 30
_A_PORT = {"addr_trtype": "TCP", "addr_traddr": "0.0.0.0", "addr_trsvcid": 4420}  # noqa: S104


def load_truenas_sample(machine: Machine, data: Any) -> None:
    """Add what a record tells to a machine; pools that are not there are made.

    Nobody is told, except of shares and targets, which are made as by the API under the
    ids that were recorded.

    Raises:
        ValueError: it is no such record, or tells of what this version does not have.
    """
    if not isinstance(data, Mapping) or not data.keys() & {"datasets", "dataset"}:
        raise ValueError("this is no record of a TrueNAS: it has neither `datasets` nor `dataset`")
    nvmet = data.get("nvmet") or {}
    if nvmet.get("subsys") and machine.number < (25, 10):
        raise ValueError(
            f"the record has NVMe-oF, and TrueNAS {machine.version} has none; use 25.10 or newer"
        )
    try:
        _place_datasets(machine.zfs, data)
        for member, table in _TABLES.items():
            for row in data.get(member) or ():
                _make(machine, table, row)
        for kind in _NVMET:
            for row in nvmet.get(kind) or () if nvmet.get("subsys") else ():
                _make(machine, f"nvmet.{kind}", row)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the record of a TrueNAS cannot be read: {error!r}") from error
    except NasRefusal as error:
        raise ValueError(f"the record of a TrueNAS contradicts itself: {error.said}") from error


def _place_datasets(zfs: Zfs, data: Mapping[str, Any]) -> None:
    rows = data.get("datasets") or [data["dataset"]]
    ordered = sorted(rows, key=lambda row: str(row["name"]))
    for row in ordered:
        if zfs.find(row["name"]) is None:
            _place(zfs, row)
    for row in sorted(data.get("snapshots") or (), key=lambda row: int(row["createtxg"])):
        _place_snapshot(zfs, row)
    for row in ordered:
        _set_origin(zfs, row)
    for pool in zfs.imported():
        for each in reversed(list(pool.root.below())):
            space.recount(each)


def _raw(row: Row, name: str, otherwise: str = "") -> str:
    shown = row.get(name)
    return str(shown["rawvalue"]) if isinstance(shown, Mapping) else otherwise


def _place(zfs: Zfs, row: Row) -> None:
    name = str(row["name"])
    above = name.rpartition("/")[0]
    pool = name.partition("/")[0]
    if pool not in zfs.pools:
        zfs.create_pool(pool, int(_raw(row, "available", "0")) or _RECORDED_POOL)
    if above and zfs.find(above) is None:
        zfs.create(above, parents=True)
    volsize = int(_raw(row, "volsize", "0")) or (1 << 30 if row["type"] == "VOLUME" else 0)
    made = zfs.create(name, volsize=volsize) if above else zfs.dataset(name)
    created = int(_raw(row, "creation", "0"))
    made.created_at = datetime.fromtimestamp(created, UTC) if created else made.created_at
    made.user = {key: _text(value) for key, value in row.get("user_properties", {}).items() if _own(value)}
    made.live = {0: int(_raw(row, "referenced", str(made.referenced_bytes)))}
    for shown, native in ((RENAMED_BACK.get(name, name), name) for name in NATIVES):
        value = _raw(row, shown).lower()
        # The recorder called everything LOCAL, so what is as by default is taken for not set.
        if value and value not in (NATIVES[native].default, "none") and native != "volsize":
            made.set_native(native, int(value) if NATIVES[native].shape in _NUMBERS else value)


RENAMED_BACK: Mapping[str, str] = {own: shown for shown, own in RENAMED.items()}
_NUMBERS = (Shape.SIZE, Shape.LIMIT)


def _own(value: Any) -> bool:
    """Whether a user property is the dataset's own; `storage.json` tells bare values."""
    return not isinstance(value, Mapping) or value.get("source") != "INHERITED"


def _text(value: Any) -> str:
    return str(value["rawvalue"]) if isinstance(value, Mapping) else str(value)


def _place_snapshot(zfs: Zfs, row: Row) -> None:
    dataset = zfs.dataset(row["dataset"])
    known = row["properties"]
    txg, created = int(row["createtxg"]), int(_raw(known, "creation", "0"))
    referenced = int(_raw(known, "referenced", "0"))
    taken = Snapshot(
        dataset.name, row["snapshot_name"], datetime.fromtimestamp(created, UTC), txg, referenced
    )
    shown = {**known, **row.get("user_properties", {})}
    taken.user = {key: _text(value) for key, value in shown.items() if ":" in key and _own(value)}
    taken.holds = dict.fromkeys(row.get("holds") or (), 1)
    taken.defer_destroy = _raw(known, "defer_destroy") == "on"
    taken.volsize = dataset.volsize
    taken.dead = {0: extra} if (extra := referenced - sum(dataset.live.values())) > 0 else {}
    dataset.snapshots[taken.name] = taken
    dataset.snapshots_changed = taken.created_at
    zfs.txg = max(zfs.txg, txg)
    zfs.snapshots_changed()


def _set_origin(zfs: Zfs, row: Row) -> None:
    path = _raw(row, "origin")
    dataset = zfs.dataset(row["name"])
    if not path or dataset.origin:
        return
    origin = zfs.snapshot(path)
    size = sum(dataset.live.values())
    shared = min(size, origin.referenced_bytes)
    dataset.origin, dataset.origin_txg = path, origin.txg
    dataset.live = {birth: count for birth, count in ((0, shared), (origin.txg, size - shared)) if count}
    origin.clones.add(dataset.name)


def _make(machine: Machine, table: str, row: Row) -> None:
    """Make a row under its recorded id, by the method that a client would call."""
    kept = machine.tables[table]
    if row["id"] in kept.rows:
        raise ValueError(f"{table} has a row {row['id']} already; load the record into an empty lab")
    last = kept.last
    kept.last = int(row["id"]) - 1
    caller = Caller(machine, key=ApiKey(0, "root", "", frozenset(("FULL_ADMIN",)), machine.now()))
    call(caller, f"{table}.create", [_asked(machine, table, row)])
    kept.last = max(last, kept.last)
    # A link of a port that the recorder knew twice is made once.
    if row["id"] in kept.rows:
        kept.change(row["id"], {name: row[name] for name in _OWN & row.keys() if name != "locked"})


def _asked(machine: Machine, table: str, row: Row) -> Row:
    asked = {name: value for name, value in row.items() if name not in _OWN | {"id"}}
    if table == "nvmet.port" and not asked:
        return dict(_A_PORT)
    if table == "sharing.nfs" and machine.number < (25, 4) and not asked.get("expose_snapshots"):
        asked.pop("expose_snapshots", None)
    if table == "nvmet.namespace":
        del asked["subsys"]
    elif table == "sharing.smb" and machine.number >= (25, 10):
        options = {name: asked.pop(name) for name in _SMB_FLAT if name in asked}
        asked |= {"purpose": "LEGACY_SHARE", "options": options}
    elif table == "iscsi.extent":
        del asked["path"]
    return asked
