"""What a change that the NAS announces makes us read again.

Events are hints: none is believed, and none may be needed. Collections and their gaps:
middleware 22.12 to 27 (`service/crud_service.py`, `plugins/zfs_/zfs_events.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from truetally.model.refs import Kind
from truetally.sources.truenas.calls import Change

Version = tuple[int, int]
_NEVER: Version = (99, 0)


class Collection(msgspec.Struct, frozen=True):
    """A collection that can be subscribed to.

    Attributes:
        roles: any one of which suffices (25.04+).
        until: the first version without it.
    """

    name: str
    kind: Kind
    roles: tuple[str, ...]
    since: Version = (22, 12)
    until: Version = _NEVER


_NVME = (
    ("nvmet.subsys.query", Kind.NVME_SUBSYSTEM),
    ("nvmet.host_subsys.query", Kind.NVME_SUBSYSTEM),
    ("nvmet.port_subsys.query", Kind.NVME_SUBSYSTEM),
    ("nvmet.namespace.query", Kind.NVME_NAMESPACE),
    ("nvmet.port.query", Kind.NVME_PORT),
    ("nvmet.host.query", Kind.NVME_HOST),
)
_COLLECTIONS = (
    Collection("pool.query", Kind.POOL, ("POOL_READ",)),
    Collection("zpool.query", Kind.POOL, ("POOL_READ",), since=(26, 0)),
    Collection("zfs.pool.scan", Kind.POOL, ("POOL_SCRUB_READ",), until=(26, 0)),
    Collection("pool.scan", Kind.POOL, ("POOL_SCRUB_READ",), since=(26, 0)),
    Collection("pool.dataset.query", Kind.DATASET, ("DATASET_READ",)),
    Collection("zfs.snapshot.query", Kind.SNAPSHOT, ("SNAPSHOT_READ",), until=(25, 10)),
    Collection("pool.snapshot.query", Kind.SNAPSHOT, ("SNAPSHOT_READ",), since=(25, 10)),
    Collection("sharing.nfs.query", Kind.NFS_SHARE, ("SHARING_NFS_READ",)),
    Collection("sharing.smb.query", Kind.SMB_SHARE, ("SHARING_SMB_READ",)),
    Collection("iscsi.portal.query", Kind.ISCSI_PORTAL, ("SHARING_ISCSI_PORTAL_READ",)),
    Collection("iscsi.initiator.query", Kind.ISCSI_INITIATOR, ("SHARING_ISCSI_INITIATOR_READ",)),
    Collection("iscsi.target.query", Kind.ISCSI_TARGET, ("SHARING_ISCSI_TARGET_READ",)),
    Collection("iscsi.extent.query", Kind.ISCSI_EXTENT, ("SHARING_ISCSI_EXTENT_READ",)),
    Collection("iscsi.targetextent.query", Kind.ISCSI_TARGET_EXTENT, ("SHARING_ISCSI_TARGETEXTENT_READ",)),
    *(Collection(name, kind, ("SHARING_NVME_TARGET_READ",), since=(25, 10)) for name, kind in _NVME),
    Collection("pool.snapshottask.query", Kind.SNAPSHOT_TASK, ("SNAPSHOT_TASK_READ",)),
    Collection("replication.query", Kind.REPLICATION_TASK, ("REPLICATION_TASK_READ",)),
    Collection("api_key.query", Kind.API_KEY, ("API_KEY_READ",)),
    Collection("service.query", Kind.SERVICE, ("SERVICE_READ",)),
    Collection("alert.list", Kind.ALERT, ("ALERT_LIST_READ",)),
    Collection("update.status", Kind.SYSTEM, ("SYSTEM_UPDATE_READ",), since=(25, 10)),
    Collection("failover.status", Kind.SYSTEM, ("FAILOVER_READ",)),
    Collection("system.reboot.info", Kind.SYSTEM, ("SYSTEM_GENERAL_READ",)),
)

COLLECTIONS: Mapping[str, Kind] = {each.name: each.kind for each in _COLLECTIONS}

# Kinds that are read as a whole: they are small, or an event's id is not what we call the object.
_WHOLE = frozenset(
    {
        Kind.POOL,
        Kind.SERVICE,
        Kind.ALERT,
        Kind.SYSTEM,
        Kind.API_KEY,
        Kind.NVME_SUBSYSTEM,
    }
)


def followed(version: Version) -> tuple[Collection, ...]:
    """What can be subscribed to in a version."""
    return tuple(each for each in _COLLECTIONS if each.since <= version < each.until)


def hinted(change: Change) -> tuple[Kind, str] | None:
    """The kind, and the object's name or an empty one for the whole kind; None for what we do not follow."""
    kind = COLLECTIONS.get(change.collection)
    if kind is None or _goes_on(change):
        return None
    name = "" if change.id is None else str(change.id)
    if kind is Kind.DATASET and _is_temporary(name):
        return None
    if kind is Kind.DATASET and "@" in name:
        # The destruction of a snapshot is announced as that of a dataset with its name (zfs_events.py).
        kind = Kind.SNAPSHOT
    if kind in _WHOLE or not _can_be_read(kind, name):
        return kind, ""
    return kind, name


class _Scan(msgspec.Struct):
    state: str | None = None


class _Scanned(msgspec.Struct):
    scan: _Scan | None = None


def _goes_on(change: Change) -> bool:
    """Whether it only says how far a scrub or resilver has come, which it does every two seconds."""
    if not change.collection.endswith("pool.scan"):
        return False
    try:
        told = msgspec.json.decode(change.fields, type=_Scanned | None)
    except msgspec.DecodeError:
        return False
    return told is not None and told.scan is not None and told.scan.state == "SCANNING"


def _is_temporary(name: str) -> bool:
    """Whether ZFS made it for the time of a receive: it vanishes by itself."""
    return name.partition("@")[0].rpartition("/")[2].startswith("%")


def _can_be_read(kind: Kind, name: str) -> bool:
    """Paths name datasets and snapshots; everything else has a number, or is not what we think."""
    return bool(name) if kind in (Kind.DATASET, Kind.SNAPSHOT) else name.isdecimal()
