"""The whole state of a lab NAS as plain JSON: to keep it in a file, and to begin from one.

A dump has everything that outlives a restart, and live sessions besides; jobs, tokens and
faults are left out. Without `secrets` it may be shown to anyone: keys and passwords then
become others when it is loaded. `inventory` is the short form: what a complete watcher
must have seen.
"""

from __future__ import annotations

import secrets as random
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from truetally.lab.nas import space
from truetally.lab.nas.dataset import Dataset, Encryption, Snapshot
from truetally.lab.nas.failures import NasRefusal
from truetally.lab.nas.machine import ApiKey, Grant, Machine, Row, Table, User
from truetally.lab.nas.pool import Pool, Scan, Vdev
from truetally.lab.nas.samples import load_truenas_sample
from truetally.lab.nas.zfs import Zfs

__all__ = ["FORMAT", "dump", "inventory", "load", "load_truenas_sample"]

FORMAT = 1
_HIDDEN = "********"
_SECRETS = frozenset(("secret", "peersecret", "dhchap_key", "dhchap_ctrl_key", "encryption_key"))
# What both a machine and its dump have under the same name.
_PLAIN = (
    "hostname",
    "boot_id",
    "basename",
    "addresses",
    "standby_of",
    "services",
    "alerts",
    "sessions",
    "nfs3_clients",
    "nfs4_clients",
    "smb_clients",
    "processes",
)
_DATASET = ("kind", "txg", "guid", "origin", "origin_txg", "comments", "user", "native", "native_received")
_SNAPSHOT = ("txg", "guid", "referenced_bytes", "volsize", "user", "holds", "defer_destroy")
_VDEV = ("kind", "guid", "disk", "state", "read_errors", "write_errors", "checksum_errors")
_POOL = ("name", "id", "guid", "size_bytes", "status", "imported", "data_errors")
_KINDS: Mapping[str, str] = {
    "nfs_share": "sharing.nfs",
    "smb_share": "sharing.smb",
    "iscsi_portal": "iscsi.portal",
    "iscsi_initiator": "iscsi.initiator",
    "iscsi_target": "iscsi.target",
    "iscsi_extent": "iscsi.extent",
    "iscsi_target_extent": "iscsi.targetextent",
    "nvme_subsystem": "nvmet.subsys",
    "nvme_namespace": "nvmet.namespace",
    "nvme_port": "nvmet.port",
    "nvme_host": "nvmet.host",
}


def inventory(machine: Machine) -> dict[str, list[str]]:
    """What there is to see, by kind and name as truetally names it, in order.

    Pools, datasets and snapshots go by their names, sessions by who has them, all else by id.
    Kinds that the version does not know are empty.
    """
    zfs = machine.zfs
    found = {
        "pool": sorted(zfs.pools),
        "dataset": sorted(each.name for each in zfs.visible()),
        "snapshot": list(zfs.snapshots_by_path()[0]),
    }
    for kind, table in _KINDS.items():
        known = machine.number >= (25, 10) or not table.startswith("nvmet.")
        rows = machine.tables[table].rows if known and table in machine.tables else {}
        found[kind] = sorted(str(row_id) for row_id in rows)
    found["iscsi_session"] = sorted(f"{each['initiator']}>{each['target']}" for each in machine.sessions)
    return found


def dump(machine: Machine, *, secrets: bool = False) -> Row:
    """Everything that `load` needs, as values that JSON can tell."""
    zfs = machine.zfs
    data: Row = {"format": FORMAT, "version": machine.version}
    data |= {name: _copied(getattr(machine, name)) for name in _PLAIN}
    pools = [*zfs.pools.values(), *zfs.exported.values()]
    datasets = [each for pool in pools for each in pool.root.below()]
    data["txg"] = zfs.txg
    data["pools"] = [_pool(pool, exported=pool.name in zfs.exported) for pool in pools]
    data["datasets"] = [_dataset(each, secrets=secrets) for each in datasets]
    data["snapshots"] = [_snapshot(taken) for each in datasets for taken in each.snapshots.values()]
    data["tables"] = {
        name: {"last": table.last, "rows": [_told(row, secrets=secrets) for row in table.rows.values()]}
        for name, table in machine.tables.items()
    }
    data["keys"] = [_key(key, secrets=secrets) for key in machine.keys.values()]
    data["users"] = [_user(user, secrets=secrets) for user in machine.users.values()]
    return data


def _copied(value: Any) -> Any:
    """A value of its own, as JSON would bring it back."""
    if isinstance(value, Mapping):
        return {str(key): _copied(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_copied(each) for each in value]
    return value


def _told(row: Row, *, secrets: bool) -> Row:
    copied: Row = _copied(row)
    if not secrets:
        copied |= {name: _HIDDEN for name in _SECRETS & copied.keys() if copied[name]}
    return copied


def _time(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None


def _counts(blocks: Mapping[int, int]) -> dict[str, int]:
    return {str(birth): count for birth, count in sorted(blocks.items())}


def _pool(pool: Pool, *, exported: bool) -> Row:
    row = {name: getattr(pool, name) for name in _POOL}
    row["exported"] = exported
    row["vdevs"] = {name: [_vdev(each) for each in vdevs] for name, vdevs in pool.vdevs.items()}
    scan = pool.scan
    row["scan"] = scan and {
        "function": scan.function,
        "started_at": _time(scan.started_at),
        "takes_seconds": scan.takes.total_seconds(),
        "size_bytes": scan.size_bytes,
        "errors": scan.errors,
        "paused_at": _time(scan.paused_at),
        "idle_seconds": scan.idle.total_seconds(),
        "cancelled_at": _time(scan.cancelled_at),
        "told": scan.told,
    }
    return row


def _vdev(vdev: Vdev) -> Row:
    row: Row = {name: getattr(vdev, name) for name in _VDEV}
    row["children"] = [_vdev(each) for each in vdev.children]
    return row


def _dataset(dataset: Dataset, *, secrets: bool) -> Row:
    row: Row = {"name": dataset.name} | {name: _copied(getattr(dataset, name)) for name in _DATASET}
    row["created_at"] = _time(dataset.created_at)
    row["snapshots_changed"] = _time(dataset.snapshots_changed)
    row["received"] = sorted(dataset.received)
    row["live"] = _counts(dataset.live)
    row["compression_ratio"] = dataset.compression_ratio
    key = dataset.encryption
    row["encryption_root"] = key.root.name if key is not None else None
    if key is not None and key.root is dataset:
        names = ("key_format", "algorithm", "pbkdf2iters", "loaded", "in_database")
        row["encryption"] = {name: getattr(key, name) for name in names}
        row["encryption"]["key"] = key.key if secrets else None
    return row


def _snapshot(taken: Snapshot) -> Row:
    row: Row = {"dataset": taken.dataset, "name": taken.name}
    row |= {name: _copied(getattr(taken, name)) for name in _SNAPSHOT}
    row["created_at"] = _time(taken.created_at)
    row["received"] = sorted(taken.received)
    row["dead"] = _counts(taken.dead)
    return row


def _key(key: ApiKey, *, secrets: bool) -> Row:
    return {
        "id": key.id,
        "username": key.username,
        "secret": key.secret if secrets else None,
        "roles": sorted(key.roles),
        "created_at": _time(key.created_at),
        "expires_at": _time(key.expires_at),
        "revoked": key.revoked,
        "revoked_reason": key.revoked_reason,
        "allowlist": None if key.allowlist is None else [list(each) for each in key.allowlist],
    }


def _user(user: User, *, secrets: bool) -> Row:
    return {
        "name": user.name,
        "password": user.password if secrets else None,
        "roles": sorted(user.roles),
        "otp": user.otp if secrets else None,
    }


def load(machine: Machine, data: Any) -> None:
    """Let a machine have the state of a dump, and nothing of what it had.

    Nobody is told: it is as if the NAS had been started with this state. The version of the
    dump does not matter.

    Raises:
        ValueError: it is no dump, or one that contradicts itself; the machine is as it was.
    """
    if not isinstance(data, Mapping) or "format" not in data:
        raise ValueError("this is no state of a lab NAS: it has no member `format`")
    if data["format"] != FORMAT:
        text = f"the state has format {data['format']!r}, and this truetally reads only {FORMAT}"
        raise ValueError(f"{text}; dump it again with the same truetally")
    try:
        zfs = _zfs(machine, data)
        tables = {name: _table(given) for name, given in data["tables"].items()}
        keys = {int(each["id"]): _loaded_key(each) for each in data["keys"]}
        users = {each["name"]: _loaded_user(each) for each in data["users"]}
        plain = {name: _copied(data[name]) for name in _PLAIN}
    except KeyError as error:
        raise ValueError(
            f"the state of the lab NAS has no member {error.args[0]!r} where one is needed"
        ) from error
    except (TypeError, AttributeError, NasRefusal) as error:
        raise ValueError(f"the state of the lab NAS cannot be read: {error}") from error
    unknown = tables.keys() - machine.tables.keys()
    if unknown:
        raise ValueError(f"the state has tables that the lab does not know: {', '.join(sorted(unknown))}")
    machine.tables.update({name: Table() for name in machine.tables} | tables)
    machine.keys, machine.users = keys, users
    # Which services there are is the version's, and not the dump's.
    plain["services"] = {name: plain["services"].get(name, row) for name, row in machine.services.items()}
    for name, value in plain.items():
        setattr(machine, name, value)
    # Others hold on to the machine's Zfs, so it stays and changes its content.
    vars(machine.zfs).update(vars(zfs))


def _zfs(machine: Machine, data: Mapping[str, Any]) -> Zfs:
    zfs = Zfs(machine.now)
    roots: dict[str, Dataset] = {}
    for given in data["datasets"]:
        dataset = _loaded_dataset(given)
        dataset.changes = zfs.changes
        plant(zfs, dataset, roots)
    _give_keys(zfs, data["datasets"])
    for given in data["snapshots"]:
        taken = _loaded_snapshot(given)
        if taken.dataset not in zfs.datasets:
            raise ValueError(f"the snapshot {taken.path} belongs to no dataset of the state")
        zfs.datasets[taken.dataset].snapshots[taken.name] = taken
    link_clones(zfs)
    count_all(roots.values())
    for given in data["pools"]:
        if given["name"] not in roots:
            raise ValueError(f"the pool {given['name']} has no dataset of its name")
        pool = _loaded_pool(given, roots[given["name"]])
        zfs.pools[pool.name] = pool
        if given["exported"]:
            zfs.export_pool(pool.name)
    stray = roots.keys() - zfs.pools.keys() - zfs.exported.keys()
    if stray:
        raise ValueError(f"the dataset {min(stray)} belongs to no pool of the state")
    zfs.txg = int(data["txg"])
    zfs.last_pool = max((pool["id"] for pool in data["pools"]), default=0)
    return zfs


def plant(zfs: Zfs, dataset: Dataset, roots: dict[str, Dataset]) -> None:
    """Put a dataset into the tree below its parent, which must be there, or among the roots."""
    above, _, leaf = dataset.name.rpartition("/")
    if dataset.name in zfs.datasets:
        raise ValueError(f"the dataset {dataset.name} is there twice")
    if not above:
        roots[dataset.name] = dataset
    elif above not in zfs.datasets:
        raise ValueError(f"the dataset {dataset.name} has no parent, or comes before it")
    else:
        dataset.parent = zfs.datasets[above]
        dataset.parent.children[leaf] = dataset
    zfs.datasets[dataset.name] = dataset


def link_clones(zfs: Zfs) -> None:
    """Let every origin know its clones."""
    for dataset in zfs.datasets.values():
        if not dataset.origin:
            continue
        name, _, leaf = dataset.origin.partition("@")
        origin = zfs.datasets[name].snapshots.get(leaf) if name in zfs.datasets else None
        if origin is None:
            raise ValueError(f"the origin {dataset.origin} of {dataset.name} is not in the state")
        origin.clones.add(dataset.name)


def count_all(roots: Iterable[Dataset]) -> None:
    """Charge all space anew, children before their parents."""
    for root in roots:
        for each in reversed(list(root.below())):
            space.recount(each)


def _give_keys(zfs: Zfs, rows: Iterable[Row]) -> None:
    keys: dict[str, Encryption] = {}
    for given in rows:
        if given.get("encryption") is not None:
            values = dict(given["encryption"])
            values["key"] = values["key"] or random.token_hex(32)
            keys[given["name"]] = Encryption(zfs.datasets[given["name"]], **values)
    for given in rows:
        root = given["encryption_root"]
        if root is not None:
            if root not in keys:
                raise ValueError(f"the encryption root {root} of {given['name']} is not in the state")
            zfs.datasets[given["name"]].encryption = keys[root]


def _instant(text: Any) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"the time {text!r} of the state has no time zone")
    return at


def _maybe(text: Any) -> datetime | None:
    return _instant(text) if text is not None else None


def _blocks(given: Mapping[str, int]) -> dict[int, int]:
    return {int(birth): int(count) for birth, count in given.items()}


def _loaded_dataset(given: Row) -> Dataset:
    values = {name: _copied(given[name]) for name in _DATASET}
    made = Dataset(given["name"], created_at=_instant(given["created_at"]), **values)
    made.snapshots_changed = _maybe(given["snapshots_changed"])
    made.received = set(given["received"])
    made.live = _blocks(given["live"])
    made.compression_ratio = float(given["compression_ratio"])
    return made


def _loaded_snapshot(given: Row) -> Snapshot:
    values = {name: _copied(given[name]) for name in _SNAPSHOT}
    made = Snapshot(given["dataset"], given["name"], created_at=_instant(given["created_at"]), **values)
    made.received = set(given["received"])
    made.dead = _blocks(given["dead"])
    return made


def _loaded_pool(given: Row, root: Dataset) -> Pool:
    vdevs = {name: [_loaded_vdev(each) for each in rows] for name, rows in given["vdevs"].items()}
    scan = given["scan"]
    return Pool(
        **{name: given[name] for name in _POOL},
        root=root,
        vdevs=vdevs,
        scan=_loaded_scan(scan) if scan is not None else None,
    )


def _loaded_vdev(given: Row) -> Vdev:
    children = [_loaded_vdev(each) for each in given["children"]]
    return Vdev(**{name: given[name] for name in _VDEV}, children=children)


def _loaded_scan(given: Row) -> Scan:
    return Scan(
        given["function"],
        _instant(given["started_at"]),
        timedelta(seconds=given["takes_seconds"]),
        given["size_bytes"],
        given["errors"],
        _maybe(given["paused_at"]),
        timedelta(seconds=given["idle_seconds"]),
        _maybe(given["cancelled_at"]),
        bool(given["told"]),
    )


def _table(given: Row) -> Table:
    table = Table()
    for row in given["rows"]:
        table.last = int(row["id"]) - 1
        table.add(_copied(row))
    table.last = int(given["last"])
    return table


def _loaded_key(given: Row) -> ApiKey:
    allowlist = given["allowlist"]
    return ApiKey(
        int(given["id"]),
        given["username"],
        given["secret"] or random.token_urlsafe(48).replace("-", "0")[:64],
        frozenset(given["roles"]),
        _instant(given["created_at"]),
        _maybe(given["expires_at"]),
        bool(given["revoked"]),
        given["revoked_reason"],
        None if allowlist is None else tuple(Grant(*each) for each in allowlist),
    )


def _loaded_user(given: Row) -> User:
    password = given["password"] or random.token_urlsafe()
    return User(given["name"], password, frozenset(given["roles"]), given["otp"])
