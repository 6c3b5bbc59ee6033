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


class Device(msgspec.Struct, frozen=True, gc=False):
    """A disk or a group of disks (mirror, raidz) of a pool, with the errors that ZFS counted on it.

    Attributes:
        role: what it is for: `data`, `log`, `cache`, `spare`, `special` or `dedup`.
        type: `DISK`, `MIRROR`, `RAIDZ1` and so on, as `pool.query` calls it.
    """

    role: str
    type: str
    name: str
    status: str
    read_errors: int = 0
    write_errors: int = 0
    checksum_errors: int = 0


class Scan(msgspec.Struct, frozen=True, gc=False):
    """The last scrub or resilver of a pool; `state` is SCANNING, FINISHED or CANCELED."""

    function: str
    state: str
    started_at: datetime | None = None
    ended_at: datetime | None = None
    percent: float | None = None
    errors: int = 0


class Pool(msgspec.Struct, frozen=True, gc=False):
    """A pool; the sizes of a pool that is offline are None."""

    name: str
    status: str
    healthy: bool
    size_bytes: int | None = None
    allocated_bytes: int | None = None
    free_bytes: int | None = None
    fragmentation_percent: int | None = None
    status_detail: str = ""
    scan: Scan | None = None
    devices: tuple[Device, ...] = ()


class Dataset(msgspec.Struct, frozen=True, gc=False):
    """A filesystem or zvol.

    Attributes:
        kind: FILESYSTEM or VOLUME.
        origin: the snapshot that it was cloned from, or empty.
        reserved_bytes: `refreservation`; of a thick zvol about its `volsize`, of a sparse one none.
        snapshots_changed: the second (Unix time of the NAS) in which a snapshot of it last came or went
            (OpenZFS 2.1.5+).
    """

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
    encrypted: bool | None = None
    logical_used_bytes: int | None = None
    volblocksize_bytes: int | None = None
    snapshots_changed: int | None = None
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


class IscsiPortal(msgspec.Struct, frozen=True, gc=False):
    """An iSCSI portal; `listen` holds `address:port`."""

    id: int
    tag: int | None = None
    listen: tuple[str, ...] = ()
    comment: str = ""


class IscsiInitiator(msgspec.Struct, frozen=True, gc=False):
    """A group of initiators that may log in; an empty one lets all in."""

    id: int
    initiators: tuple[str, ...] = ()
    comment: str = ""


class IscsiTarget(msgspec.Struct, frozen=True, gc=False):
    """An iSCSI target; its IQN is the system's basename, `:` and this name."""

    id: int
    name: str
    alias: str = ""
    portals: tuple[int, ...] = ()
    initiator_groups: tuple[int, ...] = ()


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


class NvmeSubsystem(msgspec.Struct, frozen=True, gc=False):
    """An NVMe-oF subsystem (25.10+); a PersistentVolume names its `nqn`. `ports` and `hosts` are ids."""

    id: int
    name: str
    nqn: str
    any_host: bool = False
    ports: tuple[int, ...] = ()
    hosts: tuple[int, ...] = ()


class NvmeNamespace(msgspec.Struct, frozen=True, gc=False):
    """A namespace of a subsystem; `device` is the zvol's path without `zvol/`, or the file's."""

    id: int
    nsid: int | None
    subsystem: int
    type: str
    device: str
    enabled: bool = True
    locked: bool | None = None


class NvmePort(msgspec.Struct, frozen=True, gc=False):
    """Where subsystems can be reached."""

    id: int
    transport: str
    address: str
    service: str = ""
    enabled: bool = True


class NvmeHost(msgspec.Struct, frozen=True, gc=False):
    """A host that may connect."""

    id: int
    nqn: str


class NvmeSession(msgspec.Struct, frozen=True, gc=False):
    """A live connection of a host to a subsystem (by id)."""

    host_nqn: str
    address: str
    subsystem: int
    port: int | None = None
    controller: int | None = None


class NfsClient(msgspec.Struct, frozen=True, gc=False):
    """A client that has mounted something. Version 3 tells the export; of a version 4 client the open
    files are known, if it has any."""

    address: str
    version: int
    export: str = ""
    files: tuple[str, ...] = ()


class SmbClient(msgspec.Struct, frozen=True, gc=False):
    """A client that is connected to a share."""

    machine: str
    share: str
    session: str = ""


class SnapshotTask(msgspec.Struct, frozen=True, gc=False):
    """A periodic snapshot task; `schedule` is a cron expression of five fields."""

    id: int
    dataset: str
    recursive: bool
    enabled: bool
    naming_schema: str
    schedule: str = ""
    lifetime: str = ""
    exclude: tuple[str, ...] = ()
    state: str = ""


class ReplicationTask(msgspec.Struct, frozen=True, gc=False):
    """A replication task; `direction` is PUSH or PULL.

    Attributes:
        holds_pending: whether snapshots are kept beyond their task's lifetime until they are replicated.
    """

    id: int
    name: str
    direction: str
    sources: tuple[str, ...]
    target: str
    recursive: bool
    enabled: bool
    transport: str = ""
    state: str = ""
    holds_pending: bool | None = None


class ApiKey(msgspec.Struct, frozen=True, gc=False):
    """An API key of our own user; before 25.04 keys have no user and no end."""

    id: int
    name: str
    username: str = ""
    expires_at: datetime | None = None
    revoked: bool = False


class DiskLoad(msgspec.Struct, frozen=True, gc=False):
    """What disks do at the moment, per second."""

    read_bytes: float = 0.0
    write_bytes: float = 0.0
    reads: float = 0.0
    writes: float = 0.0
    busy_percent: float = 0.0


class Performance(msgspec.Struct, frozen=True, gc=False):
    """The latest sample of what the NAS does (`reporting.realtime`, else `reporting.netdata_get_data`).

    Attributes:
        disks: load by disk; versions that only tell the sum have it under an empty name.
        pools_used_bytes: used space by pool (25.10+).
    """

    disks: Mapping[str, DiskLoad] = {}
    arc_size_bytes: int | None = None
    arc_hit_percent: float | None = None
    memory_available_bytes: int | None = None
    pools_used_bytes: Mapping[str, int] = {}


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
    """The NAS itself: version, the addresses and names it is known by, and the iSCSI base name.

    Attributes:
        boot_id: another one after each boot.
        failover: `SINGLE`, `MASTER`, `BACKUP` and so on, as `failover.status` says.
        update: what `update.status` (25.10+) or `update.check_available` says, in a word.
        roles: the roles of our own user (`auth.me`); None where the version has none.
    """

    version: str
    hostname: str = ""
    addresses: tuple[str, ...] = ()
    iscsi_basename: str = ""
    boot_id: str = ""
    failover: str = ""
    update: str = ""
    roles: tuple[str, ...] | None = None


class DatasetUse(msgspec.Struct, frozen=True, gc=False):
    """Who uses a dataset right now, read for a verification only.

    Attributes:
        attachments: `type: name` of all that TrueNAS says is attached (`pool.dataset.attachments`).
        processes: names of processes that have files open below it (`pool.dataset.processes`).
        clients: NFS and SMB clients that may be using it; a client whose path TrueNAS does not tell counts.
        sessions: iSCSI initiators with a session on a target that leads to it.
        jobs: running jobs that name the path, one above it, or a task that may.
        holds: `tag on snapshot` of every snapshot of it that is held.
        unknown: what could not be read, each with the reason and what to grant.
    """

    attachments: tuple[str, ...] = ()
    processes: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


TruenasObject = (
    Pool
    | Dataset
    | Snapshot
    | NfsShare
    | SmbShare
    | IscsiPortal
    | IscsiInitiator
    | IscsiTarget
    | IscsiExtent
    | IscsiTargetExtent
    | IscsiSession
    | NvmeSubsystem
    | NvmeNamespace
    | NvmePort
    | NvmeHost
    | NvmeSession
    | NfsClient
    | SmbClient
    | SnapshotTask
    | ReplicationTask
    | ApiKey
    | Performance
    | Service
    | Alert
    | System
    | DatasetUse
)
