"""What an object is called, once and for all systems.

A name is only unique inside its kind and its source: two clusters have a
PersistentVolume of the same name, and two NAS a dataset of the same path.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """The kinds of objects that truetally knows, by the name their own system gives them."""

    # Kubernetes
    PERSISTENT_VOLUME = "PersistentVolume"
    PERSISTENT_VOLUME_CLAIM = "PersistentVolumeClaim"
    STORAGE_CLASS = "StorageClass"
    VOLUME_ATTACHMENT = "VolumeAttachment"
    CSI_DRIVER = "CSIDriver"
    CSI_NODE = "CSINode"
    NODE = "Node"
    POD = "Pod"
    NAMESPACE = "Namespace"
    EVENT = "Event"
    VOLUME_SNAPSHOT = "VolumeSnapshot"
    VOLUME_SNAPSHOT_CONTENT = "VolumeSnapshotContent"
    VOLUME_SNAPSHOT_CLASS = "VolumeSnapshotClass"
    # TrueNAS
    POOL = "Pool"
    DATASET = "Dataset"
    SNAPSHOT = "Snapshot"
    NFS_SHARE = "NfsShare"
    SMB_SHARE = "SmbShare"
    ISCSI_PORTAL = "IscsiPortal"
    ISCSI_INITIATOR = "IscsiInitiator"
    ISCSI_TARGET = "IscsiTarget"
    ISCSI_EXTENT = "IscsiExtent"
    ISCSI_TARGET_EXTENT = "IscsiTargetExtent"
    ISCSI_SESSION = "IscsiSession"
    NVME_SUBSYSTEM = "NvmeSubsystem"
    NVME_NAMESPACE = "NvmeNamespace"
    NVME_PORT = "NvmePort"
    NVME_HOST = "NvmeHost"
    NVME_SESSION = "NvmeSession"
    NFS_CLIENT = "NfsClient"
    SMB_CLIENT = "SmbClient"
    SNAPSHOT_TASK = "SnapshotTask"
    REPLICATION_TASK = "ReplicationTask"
    API_KEY = "ApiKey"
    PERFORMANCE = "Performance"
    SERVICE = "Service"
    ALERT = "Alert"
    SYSTEM = "System"
    DATASET_USE = "DatasetUse"
    # truetally itself
    SOURCE = "Source"

    __hash__ = str.__hash__  # Enum's own hash is a Python function, and refs are hashed all day


KUBERNETES_KINDS = frozenset(
    {
        Kind.PERSISTENT_VOLUME,
        Kind.PERSISTENT_VOLUME_CLAIM,
        Kind.STORAGE_CLASS,
        Kind.VOLUME_ATTACHMENT,
        Kind.CSI_DRIVER,
        Kind.CSI_NODE,
        Kind.NODE,
        Kind.POD,
        Kind.NAMESPACE,
        Kind.EVENT,
        Kind.VOLUME_SNAPSHOT,
        Kind.VOLUME_SNAPSHOT_CONTENT,
        Kind.VOLUME_SNAPSHOT_CLASS,
    }
)

TRUENAS_KINDS = frozenset(
    {
        Kind.POOL,
        Kind.DATASET,
        Kind.SNAPSHOT,
        Kind.NFS_SHARE,
        Kind.SMB_SHARE,
        Kind.ISCSI_PORTAL,
        Kind.ISCSI_INITIATOR,
        Kind.ISCSI_TARGET,
        Kind.ISCSI_EXTENT,
        Kind.ISCSI_TARGET_EXTENT,
        Kind.ISCSI_SESSION,
        Kind.NVME_SUBSYSTEM,
        Kind.NVME_NAMESPACE,
        Kind.NVME_PORT,
        Kind.NVME_HOST,
        Kind.NVME_SESSION,
        Kind.NFS_CLIENT,
        Kind.SMB_CLIENT,
        Kind.SNAPSHOT_TASK,
        Kind.REPLICATION_TASK,
        Kind.API_KEY,
        Kind.SERVICE,
        Kind.ALERT,
        Kind.SYSTEM,
    }
)


class Ref(msgspec.Struct, frozen=True, order=True, gc=False):
    """One object of one source.

    Attributes:
        source: the configured name of the cluster or NAS.
        kind: what it is.
        name: `namespace/name` for namespaced Kubernetes objects, the plain name for others; the path of a
            dataset, `dataset@snapshot` of a snapshot, the id (as text) of a share, target, extent,
            targetextent; the service's name; the alert's uuid; `initiator>target` of an iSCSI session,
            `host nqn>subsystem id#controller` of an NVMe-oF one; `address>export` or `nfs4#id` of an NFS
            client, `machine>share#session` of an SMB one; for the kinds SYSTEM, PERFORMANCE and SOURCE the
            source's own name; for DATASET_USE the dataset's path.
    """

    source: str
    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind.value} {self.name} ({self.source})"
