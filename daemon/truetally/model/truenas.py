"""TrueNAS objects, cut down to what truetally judges by.

Sizes are bytes; times are aware datetimes in UTC. `None` means that this NAS's
version or our role does not tell; it never means zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import msgspec


class Origin(StrEnum):
    """Where ZFS says the value of a user property comes from.

    TrueNAS 25.10 and newer report every user property as LOCAL, or no source at all
    (middleware 25.10 `pool_/dataset_query_utils.py`): that is UNKNOWN here.
    """

    LOCAL = "LOCAL"
    INHERITED = "INHERITED"
    RECEIVED = "RECEIVED"
    UNKNOWN = "UNKNOWN"


class UserProperty(msgspec.Struct, frozen=True, gc=False):
    """A ZFS user property; unset ones (absent, empty or `-`) are not kept."""

    value: str
    origin: Origin = Origin.UNKNOWN


class Pool(msgspec.Struct, frozen=True, gc=False):
    """A pool; the sizes of a pool that is offline are None."""

    name: str
    status: str
    healthy: bool
    size_bytes: int | None = None
    allocated_bytes: int | None = None
    free_bytes: int | None = None
    fragmentation_percent: int | None = None


class Dataset(msgspec.Struct, frozen=True, gc=False):
    """A filesystem or zvol. `kind` is FILESYSTEM or VOLUME; `origin` the snapshot it was cloned from."""

    path: str
    pool: str
    kind: str
    created_at: datetime | None = None
    used_bytes: int | None = None
    referenced_bytes: int | None = None
    available_bytes: int | None = None
    snapshots_bytes: int | None = None
    quota_bytes: int | None = None
    reserved_bytes: int | None = None
    volsize_bytes: int | None = None
    mountpoint: str | None = None
    origin: str = ""
    locked: bool | None = None
    readonly: bool | None = None
    user_properties: Mapping[str, UserProperty] = {}

    @property
    def leaf(self) -> str:
        """The last component of the path."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> str:
        """The path without its last component; empty for a pool's root."""
        return self.path.rpartition("/")[0]


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """A ZFS snapshot. A bulk listing does not read user properties or holds (None): they cost too much at
    ten thousand snapshots; the re-read of one snapshot does."""

    dataset: str
    name: str
    created_at: datetime | None = None
    used_bytes: int | None = None
    referenced_bytes: int | None = None
    createtxg: int | None = None
    defer_destroy: bool | None = None
    holds: tuple[str, ...] | None = None
    clones: tuple[str, ...] | None = None
    user_properties: Mapping[str, UserProperty] | None = None

    @property
    def path(self) -> str:
        """`dataset@name`."""
        return f"{self.dataset}@{self.name}"


class NfsShare(msgspec.Struct, frozen=True, gc=False):
    """An NFS share; `path` is the mountpoint, as `/mnt/tank/…`."""

    id: int
    path: str
    enabled: bool = True
    locked: bool | None = None
    comment: str = ""
    hosts: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()


class SmbShare(msgspec.Struct, frozen=True, gc=False):
    """An SMB share; `path` is the mountpoint."""

    id: int
    name: str
    path: str
    enabled: bool = True
    locked: bool | None = None
    comment: str = ""


class IscsiTarget(msgspec.Struct, frozen=True, gc=False):
    """An iSCSI target; its IQN is the system's basename, `:` and this name."""

    id: int
    name: str
    alias: str = ""


class IscsiExtent(msgspec.Struct, frozen=True, gc=False):
    """An iSCSI extent; `disk` is the zvol's path without `zvol/` for a DISK extent, the file's for a FILE."""

    id: int
    name: str
    type: str
    disk: str
    enabled: bool = True
    locked: bool | None = None
    comment: str = ""


class IscsiTargetExtent(msgspec.Struct, frozen=True, gc=False):
    """The link of a target to an extent at a LUN."""

    id: int
    target: int
    extent: int
    lun: int | None = None


class IscsiSession(msgspec.Struct, frozen=True, gc=False):
    """A live session of an initiator at a target (full IQN)."""

    initiator: str
    address: str
    target: str


class Service(msgspec.Struct, frozen=True, gc=False):
    """A service such as `nfs`, `cifs`, `iscsitarget`; `state` is RUNNING, STOPPED or UNKNOWN."""

    name: str
    enabled: bool
    state: str


class Alert(msgspec.Struct, frozen=True, gc=False):
    """An alert of the NAS itself."""

    uuid: str
    klass: str
    level: str
    text: str
    at: datetime | None = None
    dismissed: bool = False


class System(msgspec.Struct, frozen=True, gc=False):
    """The NAS itself: version, the addresses and names it is known by, and the iSCSI base name."""

    version: str
    hostname: str = ""
    addresses: tuple[str, ...] = ()
    iscsi_basename: str = ""


class DatasetUse(msgspec.Struct, frozen=True, gc=False):
    """Who uses a dataset right now, read for a verification only.

    Attributes:
        attachments: `type: name` of all that TrueNAS says is attached (`pool.dataset.attachments`).
        processes: names of processes that have files open below it (`pool.dataset.processes`).
        clients: NFS and SMB clients that may be using it; a client whose path TrueNAS does not tell counts.
        sessions: iSCSI initiators with a session on a target that leads to it.
        jobs: running jobs that name the path.
        unknown: what could not be read, each with the reason and what to grant.
    """

    attachments: tuple[str, ...] = ()
    processes: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


TruenasObject = (
    Pool
    | Dataset
    | Snapshot
    | NfsShare
    | SmbShare
    | IscsiTarget
    | IscsiExtent
    | IscsiTargetExtent
    | IscsiSession
    | Service
    | Alert
    | System
    | DatasetUse
)
