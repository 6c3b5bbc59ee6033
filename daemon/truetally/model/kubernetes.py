"""Kubernetes objects, cut down to what storage needs.

Values only: the decoding of the API's JSON stands in `sources/kubernetes/decode.py`.
Sizes are bytes; times are aware datetimes in UTC; a `deleted_at` is the object's
`deletionTimestamp`: deletion was asked for, and the object is still there.

Values hold no cycles, so the garbage collector need not look at them (`gc=False`): at ten
thousand volumes it would otherwise stop the loop for a fifth of a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec


class CsiSource(msgspec.Struct, frozen=True, gc=False):
    """`spec.csi` of a PersistentVolume."""

    driver: str
    volume_handle: str
    fs_type: str = ""
    attributes: Mapping[str, str] = {}


class NfsSource(msgspec.Struct, frozen=True, gc=False):
    """An in-tree or inline NFS volume."""

    server: str
    path: str


class IscsiSource(msgspec.Struct, frozen=True, gc=False):
    """An in-tree or inline iSCSI volume."""

    portals: tuple[str, ...]
    iqn: str
    lun: int = 0


class ClaimRef(msgspec.Struct, frozen=True, gc=False):
    """`spec.claimRef` of a PersistentVolume; the uid is empty while only pre-bound."""

    namespace: str
    name: str
    uid: str = ""


class PersistentVolume(msgspec.Struct, frozen=True, gc=False):
    """A PersistentVolume; `annotations` keeps only those truetally reads (see `KEPT_ANNOTATIONS`)."""

    name: str
    uid: str
    created_at: datetime
    deleted_at: datetime | None = None
    phase: str = ""
    status_message: str = ""
    reclaim_policy: str = "Retain"
    storage_class: str = ""
    capacity_bytes: int = 0
    claim: ClaimRef | None = None
    csi: CsiSource | None = None
    nfs: NfsSource | None = None
    iscsi: IscsiSource | None = None
    finalizers: tuple[str, ...] = ()
    annotations: Mapping[str, str] = {}
    phase_changed_at: datetime | None = None


class PersistentVolumeClaim(msgspec.Struct, frozen=True, gc=False):
    """A PersistentVolumeClaim; `data_source` is `Kind/name` of what it is restored or cloned from, `owners`
    are `Kind/name` of its owner references."""

    namespace: str
    name: str
    uid: str
    created_at: datetime
    deleted_at: datetime | None = None
    phase: str = ""
    storage_class: str | None = None
    volume_name: str = ""
    requested_bytes: int = 0
    capacity_bytes: int = 0
    data_source: str = ""
    finalizers: tuple[str, ...] = ()
    annotations: Mapping[str, str] = {}
    owners: tuple[str, ...] = ()


class StorageClass(msgspec.Struct, frozen=True, gc=False):
    """A StorageClass."""

    name: str
    provisioner: str
    reclaim_policy: str = "Delete"
    binding_mode: str = "Immediate"
    allow_expansion: bool = False
    is_default: bool = False
    parameters: Mapping[str, str] = {}


class VolumeAttachment(msgspec.Struct, frozen=True, gc=False):
    """A VolumeAttachment: the intent that a volume is attached to a node, no proof of a session."""

    name: str
    created_at: datetime
    attacher: str
    node: str
    volume_name: str
    attached: bool = False
    deleted_at: datetime | None = None
    error: str = ""


class CSIDriver(msgspec.Struct, frozen=True, gc=False):
    """A CSIDriver."""

    name: str
    attach_required: bool = True


class CSINode(msgspec.Struct, frozen=True, gc=False):
    """A CSINode and the names of the drivers registered on it."""

    name: str
    drivers: tuple[str, ...] = ()


class Node(msgspec.Struct, frozen=True, gc=False):
    """A Node."""

    name: str
    uid: str
    ready: bool = True
    unschedulable: bool = False


class Pod(msgspec.Struct, frozen=True, gc=False):
    """A Pod, by its volumes: `claims` are claim names in its namespace (generic ephemeral ones by the
    name that Kubernetes gives them: `<pod>-<volume>`)."""

    namespace: str
    name: str
    uid: str
    phase: str = ""
    node: str = ""
    deleted_at: datetime | None = None
    claims: tuple[str, ...] = ()
    nfs: tuple[NfsSource, ...] = ()
    iscsi: tuple[IscsiSource, ...] = ()
    csi: tuple[CsiSource, ...] = ()


class Namespace(msgspec.Struct, frozen=True, gc=False):
    """A Namespace."""

    name: str
    phase: str = "Active"
    labels: Mapping[str, str] = {}


class Event(msgspec.Struct, frozen=True, gc=False):
    """A storage event; `about` is `Kind namespace/name` (or `Kind name`) of the involved object."""

    namespace: str
    name: str
    reason: str
    message: str
    about: str
    about_uid: str = ""
    type: str = "Normal"
    last_at: datetime | None = None
    count: int = 1


class VolumeSnapshot(msgspec.Struct, frozen=True, gc=False):
    """A VolumeSnapshot."""

    namespace: str
    name: str
    uid: str
    created_at: datetime
    deleted_at: datetime | None = None
    snapshot_class: str = ""
    source_claim: str = ""
    source_content: str = ""
    bound_content: str = ""
    ready: bool | None = None
    error: str = ""
    finalizers: tuple[str, ...] = ()
    annotations: Mapping[str, str] = {}


class VolumeSnapshotContent(msgspec.Struct, frozen=True, gc=False):
    """A VolumeSnapshotContent; a handle given in its spec (pre-provisioned) counts as a reference just as
    one in its status does."""

    name: str
    uid: str
    created_at: datetime
    driver: str
    deleted_at: datetime | None = None
    deletion_policy: str = "Delete"
    source_volume_handle: str = ""
    source_snapshot_handle: str = ""
    snapshot_handle: str = ""
    snapshot_namespace: str = ""
    snapshot_name: str = ""
    snapshot_uid: str = ""
    ready: bool | None = None
    restore_size_bytes: int | None = None
    error: str = ""
    finalizers: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}


class VolumeSnapshotClass(msgspec.Struct, frozen=True, gc=False):
    """A VolumeSnapshotClass."""

    name: str
    driver: str
    deletion_policy: str = "Delete"
    is_default: bool = False
    parameters: Mapping[str, str] = {}


KubernetesObject = (
    PersistentVolume
    | PersistentVolumeClaim
    | StorageClass
    | VolumeAttachment
    | CSIDriver
    | CSINode
    | Node
    | Pod
    | Namespace
    | Event
    | VolumeSnapshot
    | VolumeSnapshotContent
    | VolumeSnapshotClass
)

KEPT_ANNOTATIONS = frozenset(
    {
        "pv.kubernetes.io/provisioned-by",
        "volume.kubernetes.io/storage-provisioner",
        "volume.beta.kubernetes.io/storage-provisioner",
        "volume.kubernetes.io/selected-node",
        "truetally.io/ignore",
        "truetally.io/ignore-reason",
        "truetally.io/ignore-until",
        "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted",
        "snapshot.storage.kubernetes.io/volumesnapshot-being-created",
    }
)
