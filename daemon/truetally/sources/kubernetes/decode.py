"""From the API's JSON to slim values, without a detour through dictionaries.

The wire structs declare only what is kept; msgspec skips the rest of each object. That
is fifty times faster than the client library's models, and keeps the loop free.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar

import msgspec

from truetally.model import kubernetes as k8s
from truetally.model.refs import Kind

T = TypeVar("T")

_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_QUANTITY = re.compile(
    r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]?)"
)
_EPOCH = datetime.fromtimestamp(0, UTC)

# The reasons by which the storage controllers and the kubelet speak of volumes (external-provisioner v13 lib,
# kubernetes v1.34 pkg/controller/volume and pkg/kubelet/events, external-snapshotter v8.2.1).
STORAGE_REASONS = frozenset(
    [
        "Provisioning",
        "ProvisioningSucceeded",
        "ProvisioningFailed",
        "ProvisioningCleanupFailed",
        "VolumeDelete",
        "VolumeFailedDelete",
        "ExternalProvisioning",
        "WaitForFirstConsumer",
        "WaitForPodScheduled",
        "FailedBinding",
        "VolumeMismatch",
        "ExternalExpanding",
        "ClaimLost",
        "ClaimMisbound",
        "SuccessfulAttachVolume",
        "FailedAttachVolume",
        "FailedMount",
        "FailedMapVolume",
        "AlreadyMountedVolume",
        "FailedMountOnFilesystemMismatch",
        "VolumeResizeFailed",
        "VolumeResizeSuccessful",
        "FileSystemResizeFailed",
        "FileSystemResizeSuccessful",
        "FileSystemResizeRequired",
        "Resizing",
        "VolumePermissionChangeInProgress",
        "CreatingSnapshot",
        "SnapshotCreated",
        "SnapshotReady",
        "SnapshotCreationFailed",
        "SnapshotContentCreationFailed",
        "CreateSnapshotContentFailed",
        "SnapshotContentCheckandUpdateFailed",
        "SnapshotContentMissing",
        "SnapshotContentMismatch",
        "SnapshotContentMisbound",
        "SnapshotMisbound",
        "SnapshotBindFailed",
        "SnapshotHandleSet",
        "SnapshotPVCSourceMissing",
        "SnapshotDeletePending",
        "SnapshotDeleteError",
        "SnapshotFinalizerError",
        "SnapshotContentObjectDeleteError",
        "SnapshotStatusUpdateFailed",
        "GetSnapshotClassFailed",
        "SetDefaultSnapshotClassFailed",
        "SnapshotValidationError",
        "ErrorPVCFinalizer",
    ]
)


def quantity(text: str) -> int:
    """Bytes of a Kubernetes quantity such as `10Gi`, `1500M`, `1e9` or `128974848000m`, rounded up.

    Raises:
        ValueError: the text is no quantity.
    """
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no quantity")
    number, suffix = Decimal(match[1]), match[2]
    value = number * (1 << _BINARY[suffix]) if suffix in _BINARY else number.scaleb(_DECIMAL[suffix])
    return int(value.to_integral_value(rounding="ROUND_CEILING"))


class _Wire(msgspec.Struct, rename="camel", gc=False):
    pass


class _Owner(_Wire):
    kind: str = ""
    name: str = ""


class Meta(_Wire):
    """`metadata` of an object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    finalizers: list[str] | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[_Owner] | None = None


class ListMeta(_Wire):
    """`metadata` of a list."""

    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class ObjectList(_Wire, Generic[T]):
    """One page of a list."""

    metadata: ListMeta
    items: list[T] | None = None


class WatchLine(_Wire):
    """One line of a watch; what the object is depends on the type."""

    type: str
    object: msgspec.Raw


class OnlyMeta(_Wire):
    """An object of which only the metadata is wanted."""

    metadata: Meta


class ApiStatus(_Wire):
    """The API's own `Status` object."""

    code: int = 0
    reason: str = ""
    message: str = ""


class _ClaimRef(_Wire):
    namespace: str = ""
    name: str = ""
    uid: str = ""


class _Csi(_Wire):
    driver: str = ""
    volume_handle: str = ""
    fs_type: str = ""
    volume_attributes: dict[str, str] | None = None


class _Nfs(_Wire):
    server: str = ""
    path: str = ""


class _Iscsi(_Wire):
    target_portal: str = ""
    portals: list[str] | None = None
    iqn: str = ""
    lun: int = 0


class _VolumeSpec(_Wire):
    capacity: dict[str, str] | None = None
    persistent_volume_reclaim_policy: str = "Retain"
    storage_class_name: str = ""
    claim_ref: _ClaimRef | None = None
    csi: _Csi | None = None
    nfs: _Nfs | None = None
    iscsi: _Iscsi | None = None


class _VolumeStatus(_Wire):
    phase: str = ""
    message: str = ""
    last_phase_transition_time: datetime | None = None


class _Volume(_Wire):
    metadata: Meta
    spec: _VolumeSpec = msgspec.field(default_factory=_VolumeSpec)
    status: _VolumeStatus = msgspec.field(default_factory=_VolumeStatus)


class _DataSource(_Wire):
    kind: str = ""
    name: str = ""


class _Requests(_Wire):
    requests: dict[str, str] | None = None


class _ClaimSpec(_Wire):
    storage_class_name: str | None = None
    volume_name: str = ""
    resources: _Requests | None = None
    data_source: _DataSource | None = None
    data_source_ref: _DataSource | None = None


class _ClaimStatus(_Wire):
    phase: str = ""
    capacity: dict[str, str] | None = None


class _Claim(_Wire):
    metadata: Meta
    spec: _ClaimSpec = msgspec.field(default_factory=_ClaimSpec)
    status: _ClaimStatus = msgspec.field(default_factory=_ClaimStatus)


class _Class(_Wire):
    metadata: Meta
    provisioner: str = ""
    reclaim_policy: str = "Delete"
    volume_binding_mode: str = "Immediate"
    allow_volume_expansion: bool = False
    parameters: dict[str, str] | None = None


class _AttachSource(_Wire):
    persistent_volume_name: str = ""


class _AttachSpec(_Wire):
    attacher: str = ""
    node_name: str = ""
    source: _AttachSource = msgspec.field(default_factory=_AttachSource)


class _Error(_Wire):
    message: str = ""


class _AttachStatus(_Wire):
    attached: bool = False
    attach_error: _Error | None = None
    detach_error: _Error | None = None


class _Attachment(_Wire):
    metadata: Meta
    spec: _AttachSpec = msgspec.field(default_factory=_AttachSpec)
    status: _AttachStatus = msgspec.field(default_factory=_AttachStatus)


class _DriverSpec(_Wire):
    attach_required: bool = True


class _Driver(_Wire):
    metadata: Meta
    spec: _DriverSpec = msgspec.field(default_factory=_DriverSpec)


class _Named(_Wire):
    name: str = ""


class _CsiNodeSpec(_Wire):
    drivers: list[_Named] | None = None


class _CsiNode(_Wire):
    metadata: Meta
    spec: _CsiNodeSpec = msgspec.field(default_factory=_CsiNodeSpec)


class _NodeSpec(_Wire):
    unschedulable: bool = False


class _Condition(_Wire):
    type: str = ""
    status: str = ""


class _NodeStatus(_Wire):
    conditions: list[_Condition] | None = None


class _Node(_Wire):
    metadata: Meta
    spec: _NodeSpec = msgspec.field(default_factory=_NodeSpec)
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)


class _PodClaim(_Wire):
    claim_name: str = ""


class _PodCsi(_Wire):
    driver: str = ""
    volume_attributes: dict[str, str] | None = None


class _PodVolume(_Wire):
    name: str = ""
    persistent_volume_claim: _PodClaim | None = None
    ephemeral: dict[str, msgspec.Raw] | None = None
    nfs: _Nfs | None = None
    iscsi: _Iscsi | None = None
    csi: _PodCsi | None = None


class _PodSpec(_Wire):
    node_name: str = ""
    volumes: list[_PodVolume] | None = None


class _Phase(_Wire):
    phase: str = ""


class _Pod(_Wire):
    metadata: Meta
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)
    status: _Phase = msgspec.field(default_factory=_Phase)


class _Namespace(_Wire):
    metadata: Meta
    status: _Phase = msgspec.field(default_factory=_Phase)


class _Involved(_Wire):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class _Series(_Wire):
    count: int = 1
    last_observed_time: datetime | None = None


class _Event(_Wire):
    metadata: Meta
    reason: str = ""
    message: str = ""
    type: str = "Normal"
    count: int = 1
    involved_object: _Involved = msgspec.field(default_factory=_Involved)
    last_timestamp: datetime | None = None
    event_time: datetime | None = None
    series: _Series | None = None


class _SnapshotSource(_Wire):
    persistent_volume_claim_name: str = ""
    volume_snapshot_content_name: str = ""


class _SnapshotSpec(_Wire):
    volume_snapshot_class_name: str = ""
    source: _SnapshotSource = msgspec.field(default_factory=_SnapshotSource)


class _SnapshotStatus(_Wire):
    bound_volume_snapshot_content_name: str = ""
    ready_to_use: bool | None = None
    error: _Error | None = None


class _Snapshot(_Wire):
    metadata: Meta
    spec: _SnapshotSpec = msgspec.field(default_factory=_SnapshotSpec)
    status: _SnapshotStatus | None = None


class _ContentSource(_Wire):
    volume_handle: str = ""
    snapshot_handle: str = ""


class _ContentSpec(_Wire):
    driver: str = ""
    deletion_policy: str = "Delete"
    source: _ContentSource = msgspec.field(default_factory=_ContentSource)
    volume_snapshot_ref: _ClaimRef = msgspec.field(default_factory=_ClaimRef)


class _ContentStatus(_Wire):
    snapshot_handle: str = ""
    ready_to_use: bool | None = None
    restore_size: int | None = None
    error: _Error | None = None


class _Content(_Wire):
    metadata: Meta
    spec: _ContentSpec = msgspec.field(default_factory=_ContentSpec)
    status: _ContentStatus | None = None


class _SnapshotClass(_Wire):
    metadata: Meta
    driver: str = ""
    deletion_policy: str = "Delete"
    parameters: dict[str, str] | None = None


def _kept(annotations: dict[str, str] | None) -> Mapping[str, str]:
    return {sys.intern(k): v for k, v in (annotations or {}).items() if k in k8s.KEPT_ANNOTATIONS}


def _strings(values: Mapping[str, str] | None) -> Mapping[str, str]:
    """Attribute names, and most of their values, repeat in every volume."""
    return {sys.intern(k): sys.intern(v) if len(v) < 40 else v for k, v in (values or {}).items()}


def _finalizers(meta: Meta) -> tuple[str, ...]:
    return tuple(sys.intern(each) for each in meta.finalizers or ())


def _storage(sizes: Mapping[str, str] | None) -> int:
    return quantity(sizes["storage"]) if sizes and "storage" in sizes else 0


def _born(meta: Meta) -> datetime:
    return meta.creation_timestamp or _EPOCH


def _message(*errors: _Error | None) -> str:
    return next((e.message for e in errors if e is not None), "")


def _nfs(wire: _Nfs | None) -> k8s.NfsSource | None:
    return k8s.NfsSource(sys.intern(wire.server), wire.path) if wire is not None else None


def _iscsi(wire: _Iscsi | None) -> k8s.IscsiSource | None:
    if wire is None:
        return None
    return k8s.IscsiSource((wire.target_portal, *(wire.portals or ())), wire.iqn, wire.lun)


def _volume(wire: _Volume) -> k8s.PersistentVolume:
    meta, spec, csi, ref = wire.metadata, wire.spec, wire.spec.csi, wire.spec.claim_ref
    return k8s.PersistentVolume(
        name=meta.name,
        uid=meta.uid,
        created_at=_born(meta),
        deleted_at=meta.deletion_timestamp,
        phase=sys.intern(wire.status.phase),
        status_message=wire.status.message,
        reclaim_policy=sys.intern(spec.persistent_volume_reclaim_policy),
        storage_class=sys.intern(spec.storage_class_name),
        capacity_bytes=_storage(spec.capacity),
        claim=k8s.ClaimRef(sys.intern(ref.namespace), ref.name, ref.uid) if ref is not None else None,
        csi=k8s.CsiSource(
            sys.intern(csi.driver),
            csi.volume_handle,
            sys.intern(csi.fs_type),
            _strings(csi.volume_attributes),
        )
        if csi is not None
        else None,
        nfs=_nfs(spec.nfs),
        iscsi=_iscsi(spec.iscsi),
        finalizers=_finalizers(meta),
        annotations=_kept(meta.annotations),
        phase_changed_at=wire.status.last_phase_transition_time,
    )


def _claim(wire: _Claim) -> k8s.PersistentVolumeClaim:
    meta, spec = wire.metadata, wire.spec
    source = spec.data_source_ref or spec.data_source
    return k8s.PersistentVolumeClaim(
        namespace=sys.intern(meta.namespace),
        name=meta.name,
        uid=meta.uid,
        created_at=_born(meta),
        deleted_at=meta.deletion_timestamp,
        phase=sys.intern(wire.status.phase),
        storage_class=sys.intern(spec.storage_class_name) if spec.storage_class_name is not None else None,
        volume_name=spec.volume_name,
        requested_bytes=_storage(spec.resources.requests) if spec.resources is not None else 0,
        capacity_bytes=_storage(wire.status.capacity),
        data_source=f"{source.kind}/{source.name}" if source is not None else "",
        finalizers=_finalizers(meta),
        annotations=_kept(meta.annotations),
        owners=tuple(f"{owner.kind}/{owner.name}" for owner in meta.owner_references or ()),
    )


def _default(annotations: Mapping[str, str] | None, name: str) -> bool:
    return (annotations or {}).get(name) == "true"


def _storage_class(wire: _Class) -> k8s.StorageClass:
    return k8s.StorageClass(
        name=wire.metadata.name,
        provisioner=wire.provisioner,
        reclaim_policy=wire.reclaim_policy,
        binding_mode=wire.volume_binding_mode,
        allow_expansion=wire.allow_volume_expansion,
        is_default=_default(wire.metadata.annotations, "storageclass.kubernetes.io/is-default-class"),
        parameters=wire.parameters or {},
    )


def _attachment(wire: _Attachment) -> k8s.VolumeAttachment:
    return k8s.VolumeAttachment(
        name=wire.metadata.name,
        created_at=_born(wire.metadata),
        attacher=sys.intern(wire.spec.attacher),
        node=sys.intern(wire.spec.node_name),
        volume_name=wire.spec.source.persistent_volume_name,
        attached=wire.status.attached,
        deleted_at=wire.metadata.deletion_timestamp,
        error=_message(wire.status.attach_error, wire.status.detach_error),
    )


def _csi_driver(wire: _Driver) -> k8s.CSIDriver:
    return k8s.CSIDriver(wire.metadata.name, wire.spec.attach_required)


def _csi_node(wire: _CsiNode) -> k8s.CSINode:
    return k8s.CSINode(wire.metadata.name, tuple(sys.intern(d.name) for d in wire.spec.drivers or ()))


def _node(wire: _Node) -> k8s.Node:
    ready = any(c.type == "Ready" and c.status == "True" for c in wire.status.conditions or ())
    return k8s.Node(wire.metadata.name, wire.metadata.uid, ready, wire.spec.unschedulable)


def _pod(wire: _Pod) -> k8s.Pod:
    meta, volumes = wire.metadata, wire.spec.volumes or ()
    claims = [v.persistent_volume_claim.claim_name for v in volumes if v.persistent_volume_claim is not None]
    claims += [f"{meta.name}-{v.name}" for v in volumes if v.ephemeral is not None]
    return k8s.Pod(
        namespace=sys.intern(meta.namespace),
        name=meta.name,
        uid=meta.uid,
        phase=sys.intern(wire.status.phase),
        node=sys.intern(wire.spec.node_name),
        deleted_at=meta.deletion_timestamp,
        claims=tuple(claims),
        nfs=tuple(k8s.NfsSource(v.nfs.server, v.nfs.path) for v in volumes if v.nfs is not None),
        iscsi=tuple(source for v in volumes if (source := _iscsi(v.iscsi)) is not None),
        csi=tuple(
            k8s.CsiSource(v.csi.driver, "", "", _strings(v.csi.volume_attributes))
            for v in volumes
            if v.csi is not None
        ),
    )


def _namespace(wire: _Namespace) -> k8s.Namespace:
    return k8s.Namespace(wire.metadata.name, wire.status.phase, wire.metadata.labels or {})


def _event(wire: _Event) -> k8s.Event | None:
    if wire.reason not in STORAGE_REASONS:
        return None
    about, series = wire.involved_object, wire.series
    name = f"{about.namespace}/{about.name}" if about.namespace else about.name
    return k8s.Event(
        namespace=sys.intern(wire.metadata.namespace),
        name=wire.metadata.name,
        reason=sys.intern(wire.reason),
        message=wire.message,
        about=f"{about.kind} {name}",
        about_uid=about.uid,
        type=sys.intern(wire.type),
        last_at=(series.last_observed_time if series else None) or wire.last_timestamp or wire.event_time,
        count=series.count if series is not None else wire.count,
    )


def _snapshot(wire: _Snapshot) -> k8s.VolumeSnapshot:
    meta, status = wire.metadata, wire.status or _SnapshotStatus()
    return k8s.VolumeSnapshot(
        namespace=sys.intern(meta.namespace),
        name=meta.name,
        uid=meta.uid,
        created_at=_born(meta),
        deleted_at=meta.deletion_timestamp,
        snapshot_class=sys.intern(wire.spec.volume_snapshot_class_name),
        source_claim=wire.spec.source.persistent_volume_claim_name,
        source_content=wire.spec.source.volume_snapshot_content_name,
        bound_content=status.bound_volume_snapshot_content_name,
        ready=status.ready_to_use,
        error=_message(status.error),
        finalizers=_finalizers(meta),
        annotations=_kept(meta.annotations),
    )


def _content(wire: _Content) -> k8s.VolumeSnapshotContent:
    meta, spec, status = wire.metadata, wire.spec, wire.status or _ContentStatus()
    return k8s.VolumeSnapshotContent(
        name=meta.name,
        uid=meta.uid,
        created_at=_born(meta),
        driver=sys.intern(spec.driver),
        deleted_at=meta.deletion_timestamp,
        deletion_policy=sys.intern(spec.deletion_policy),
        source_volume_handle=spec.source.volume_handle,
        source_snapshot_handle=spec.source.snapshot_handle,
        snapshot_handle=status.snapshot_handle,
        snapshot_namespace=sys.intern(spec.volume_snapshot_ref.namespace),
        snapshot_name=spec.volume_snapshot_ref.name,
        snapshot_uid=spec.volume_snapshot_ref.uid,
        ready=status.ready_to_use,
        restore_size_bytes=status.restore_size,
        error=_message(status.error),
        finalizers=_finalizers(meta),
        labels=meta.labels or {},
        annotations=_kept(meta.annotations),
    )


def _snapshot_class(wire: _SnapshotClass) -> k8s.VolumeSnapshotClass:
    default = _default(wire.metadata.annotations, "snapshot.storage.kubernetes.io/is-default-class")
    return k8s.VolumeSnapshotClass(
        wire.metadata.name, wire.driver, wire.deletion_policy, default, wire.parameters or {}
    )


class Decoder:
    """Decodes one kind's list pages and watched objects."""

    def __init__(self, kind: Kind) -> None:
        wire, self._value = _KINDS[kind]
        # The type is only known here, at run time: msgspec builds the decoder from it.
        self._page: msgspec.json.Decoder[Any] = msgspec.json.Decoder(ObjectList[wire])  # type: ignore[valid-type]
        self._object: msgspec.json.Decoder[Any] = msgspec.json.Decoder(wire)

    def page(self, body: bytes) -> tuple[ListMeta, list[tuple[str, k8s.KubernetesObject]]]:
        """A page's metadata, and each kept object with its name.

        Raises:
            msgspec.DecodeError, ValueError: the body is no list of this kind.
        """
        page = self._page.decode(body)
        values = ((name_of(wire.metadata), self._value(wire)) for wire in page.items or ())
        return page.metadata, [(name, value) for name, value in values if value is not None]

    def object(self, raw: msgspec.Raw) -> tuple[Meta, k8s.KubernetesObject | None]:
        """A watched object; None for one that is not kept.

        Raises:
            msgspec.DecodeError, ValueError: it is no object of this kind.
        """
        wire = self._object.decode(raw)
        return wire.metadata, self._value(wire)


def name_of(meta: Meta) -> str:
    """`namespace/name`, or the name alone."""
    return f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name


_KINDS: dict[Kind, tuple[type, Callable[[Any], k8s.KubernetesObject | None]]] = {
    Kind.PERSISTENT_VOLUME: (_Volume, _volume),
    Kind.PERSISTENT_VOLUME_CLAIM: (_Claim, _claim),
    Kind.STORAGE_CLASS: (_Class, _storage_class),
    Kind.VOLUME_ATTACHMENT: (_Attachment, _attachment),
    Kind.CSI_DRIVER: (_Driver, _csi_driver),
    Kind.CSI_NODE: (_CsiNode, _csi_node),
    Kind.NODE: (_Node, _node),
    Kind.POD: (_Pod, _pod),
    Kind.NAMESPACE: (_Namespace, _namespace),
    Kind.EVENT: (_Event, _event),
    Kind.VOLUME_SNAPSHOT: (_Snapshot, _snapshot),
    Kind.VOLUME_SNAPSHOT_CONTENT: (_Content, _content),
    Kind.VOLUME_SNAPSHOT_CLASS: (_SnapshotClass, _snapshot_class),
}
