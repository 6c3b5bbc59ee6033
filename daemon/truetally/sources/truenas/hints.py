"""What a change that the NAS announces makes us read again.

Events are hints: none is believed, and none may be needed. Collections and their gaps:
middleware 22.12 to 27 (`service/crud_service.py`, `plugins/zfs_/zfs_events.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from truetally.model.refs import Kind
from truetally.sources.truenas.jsonrpc import Change

COLLECTIONS: Mapping[str, Kind] = {
    "pool.query": Kind.POOL,
    "pool.dataset.query": Kind.DATASET,
    "pool.snapshot.query": Kind.SNAPSHOT,
    "zfs.snapshot.query": Kind.SNAPSHOT,
    "sharing.nfs.query": Kind.NFS_SHARE,
    "sharing.smb.query": Kind.SMB_SHARE,
    "iscsi.target.query": Kind.ISCSI_TARGET,
    "iscsi.extent.query": Kind.ISCSI_EXTENT,
    "iscsi.targetextent.query": Kind.ISCSI_TARGET_EXTENT,
    "service.query": Kind.SERVICE,
    "alert.list": Kind.ALERT,
}

# Kinds that are so small that the whole list is read instead of one object.
_SMALL = frozenset({Kind.POOL, Kind.SERVICE, Kind.ALERT})


def hinted(change: Change) -> tuple[Kind, str] | None:
    """The kind, and the object's name or an empty one for the whole kind; None for what we do not follow."""
    kind = COLLECTIONS.get(change.collection)
    if kind is None:
        return None
    name = "" if change.id is None else str(change.id)
    if kind is Kind.DATASET and "@" in name:
        # The destruction of a snapshot is announced as that of a dataset with its name (zfs_events.py).
        kind = Kind.SNAPSHOT
    if kind in _SMALL or not _can_be_read(kind, name):
        return kind, ""
    return kind, name


def _can_be_read(kind: Kind, name: str) -> bool:
    """Paths name datasets and snapshots; everything else has a number, or is not what we think."""
    return bool(name) if kind in (Kind.DATASET, Kind.SNAPSHOT) else name.isdecimal()
