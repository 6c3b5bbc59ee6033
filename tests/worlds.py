"""A small valid world to judge in: one cluster, one NAS, one whole volume. Tests say what is different."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from truetally.csi import democratic_csi as csi
from truetally.findings import catalogue
from truetally.findings.rule import Evidence, Judgement, gaps
from truetally.graph.graph import Changes, Graph
from truetally.graph.world import World
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.findings import Finding
from truetally.model.observations import Listed, Seen, Value
from truetally.model.refs import KUBERNETES_KINDS, TRUENAS_KINDS, Kind, Ref
from truetally.settings import Settings

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
OLD = NOW - timedelta(days=30)
CLUSTER, NAS = "prod", "nas1"
PARENT = "tank/k8s/nfs/vols"
UID = "3b4f5f0e-8f1a-4c8a-9d0e-000000000001"
NAME = f"pvc-{UID}"
PATH = f"{PARENT}/{NAME}"
DRIVER = "org.democratic-csi.nfs"


def settings(**changes: Any) -> Settings:
    base: dict[str, Any] = {
        "clusters": [{"name": CLUSTER, "kubeconfig": "/dev/null"}],
        "nas": [
            {
                "name": NAS,
                "url": "wss://nas1.example.com",
                "username": "truetally",
                "api_key": {"env": "KEY"},
                "addresses": ["10.0.0.10"],
            }
        ],
        "drivers": [
            {"driver": DRIVER, "cluster": CLUSTER, "nas": NAS, "parent": PARENT, "instance_id": "cluster-a"}
        ],
    }
    return Settings.model_validate(base | changes)


def two_nas() -> Settings:
    """`nas1` at 10.0.0.10 and `nas2` at 10.0.0.11."""
    names = ((NAS, "10.0.0.10"), ("nas2", "10.0.0.11"))
    each = {"username": "u", "api_key": {"env": "K"}}
    return settings(nas=[{"name": n, "url": f"wss://{n}", "addresses": [a]} | each for n, a in names])


def properties(
    origin: truenas.Origin = truenas.Origin.LOCAL, **values: str | None
) -> dict[str, truenas.UserProperty]:
    base: dict[str, str | None] = {
        csi.MANAGED: "true",
        csi.VOLUME_NAME: NAME,
        csi.PROVISIONER_DRIVER: "freenas-api-nfs",
        csi.INSTANCE_ID: "cluster-a",
        csi.SUCCESS: "true",
    }
    names = {"managed": csi.MANAGED, "volume_name": csi.VOLUME_NAME, "instance_id": csi.INSTANCE_ID}
    names |= {"driver": csi.PROVISIONER_DRIVER, "source_id": csi.SOURCE_ID, "ignore": "truetally:ignore"}
    base |= {names.get(k, k): v for k, v in values.items()}
    return {k: truenas.UserProperty(v, origin) for k, v in base.items() if v is not None}


def a_dataset(path: str = PATH, **changes: Any) -> truenas.Dataset:
    dataset = truenas.Dataset(
        path=path,
        pool=path.partition("/")[0],
        kind="FILESYSTEM",
        created_at=OLD,
        used_bytes=1 << 30,
        mountpoint=f"/mnt/{path}",
        locked=False,
        readonly=False,
        user_properties=properties(volume_name=path.rpartition("/")[2]),
    )
    return msgspec.structs.replace(dataset, **changes)


def a_volume(name: str = NAME, **changes: Any) -> k8s.PersistentVolume:
    volume = k8s.PersistentVolume(
        name=name,
        uid=f"uid-of-{name}",
        created_at=OLD,
        phase="Bound",
        reclaim_policy="Delete",
        storage_class="nfs",
        capacity_bytes=1 << 30,
        claim=k8s.ClaimRef("default", "data", UID),
        csi=a_csi_source(name),
        annotations={"pv.kubernetes.io/provisioned-by": DRIVER},
    )
    return msgspec.structs.replace(volume, **changes)


def a_csi_source(handle: str = NAME, driver: str = DRIVER, **attributes: str) -> k8s.CsiSource:
    base = {
        "node_attach_driver": "nfs",
        "provisioner_driver": "freenas-api-nfs",
        "provisioner_driver_instance_id": "cluster-a",
        "server": "10.0.0.10",
        "share": f"/mnt/{PARENT}/{handle}",
    }
    return k8s.CsiSource(driver, handle, "nfs", {k: v for k, v in (base | attributes).items() if v})


def a_claim(name: str = "data", uid: str = UID, **changes: Any) -> k8s.PersistentVolumeClaim:
    claim = k8s.PersistentVolumeClaim(
        namespace="default",
        name=name,
        uid=uid,
        created_at=OLD,
        phase="Bound",
        storage_class="nfs",
        volume_name=NAME,
        requested_bytes=1 << 30,
    )
    return msgspec.structs.replace(claim, **changes)


def a_content(**changes: Any) -> k8s.VolumeSnapshotContent:
    content = k8s.VolumeSnapshotContent(
        name=f"snapcontent-{SNAPSHOT_UID}",
        uid="uid-of-content",
        created_at=OLD,
        driver=DRIVER,
        source_volume_handle=NAME,
        snapshot_handle=f"{NAME}@snapshot-{SNAPSHOT_UID}",
        snapshot_namespace="default",
        snapshot_name="snap",
        snapshot_uid=SNAPSHOT_UID,
        ready=True,
    )
    return msgspec.structs.replace(content, **changes)


SNAPSHOT_UID = "7c1d2e3f-0000-4000-8000-00000000000a"


def a_snapshot(
    name: str = f"snapshot-{SNAPSHOT_UID}", dataset: str = PATH, **changes: Any
) -> truenas.Snapshot:
    return msgspec.structs.replace(truenas.Snapshot(dataset, name, created_at=OLD), **changes)


def a_pool(**changes: Any) -> truenas.Pool:
    return msgspec.structs.replace(truenas.Pool("tank", "ONLINE", True), **changes)


def a_share(path: str = PATH, id: int = 1) -> truenas.NfsShare:  # noqa: A002
    return truenas.NfsShare(id, f"/mnt/{path}")


NVME_NAME = f"csi-{NAME}-clustera"
NQN = f"nqn.2011-06.com.truenas:uuid:11111111-2222-3333-4444-555555555555:{NVME_NAME}"


def a_zvol(path: str = PATH, asset: str | None = NVME_NAME, **changes: Any) -> truenas.Dataset:
    """A zvol that `freenas-api-nvmeof` has made, with the marks of its subsystem 1 and namespace 2."""
    own = {csi.NVMEOF_SUBSYSTEM: "1", csi.NVMEOF_NAMESPACE: "2", csi.NVMEOF_NAME: asset}
    marks = properties(driver="freenas-api-nvmeof", volume_name=path.rpartition("/")[2], **own)
    zvol = a_dataset(path, kind="VOLUME", mountpoint=None, user_properties=marks)
    return msgspec.structs.replace(zvol, **changes)


def an_nvme_volume(
    nqn: str = NQN, nsid: str = "1", handle: str = NAME, **changes: Any
) -> k8s.PersistentVolume:
    attributes = {"node_attach_driver": "nvmeof", "nqn": nqn, "nsid": nsid}
    attributes |= {"provisioner_driver": "freenas-api-nvmeof", "transport": "tcp://10.0.0.10:4420"}
    return a_volume(csi=a_csi_source(handle, server="", share="", transports="", **attributes), **changes)


def a_subsystem(name: str = NVME_NAME, id: int = 1, **changes: Any) -> truenas.NvmeSubsystem:  # noqa: A002
    nqn = f"{NQN.removesuffix(NVME_NAME)}{name}"
    return msgspec.structs.replace(truenas.NvmeSubsystem(id, name, nqn, any_host=True), **changes)


def a_namespace(device: str = PATH, **changes: Any) -> truenas.NvmeNamespace:
    return msgspec.structs.replace(truenas.NvmeNamespace(2, 1, 1, "ZVOL", device), **changes)


def an_nvme_session(subsystem: int = 1) -> truenas.NvmeSession:
    return truenas.NvmeSession("nqn.2014-08.org.nvmexpress:uuid:node1", "10.0.0.5", subsystem, 1, 1)


def an_attachment(**changes: Any) -> k8s.VolumeAttachment:
    attachment = k8s.VolumeAttachment("csi-1", OLD, DRIVER, "node1", NAME, attached=True)
    return msgspec.structs.replace(attachment, **changes)


_KINDS: Mapping[type, Kind] = {
    k8s.PersistentVolume: Kind.PERSISTENT_VOLUME,
    k8s.PersistentVolumeClaim: Kind.PERSISTENT_VOLUME_CLAIM,
    k8s.StorageClass: Kind.STORAGE_CLASS,
    k8s.VolumeAttachment: Kind.VOLUME_ATTACHMENT,
    k8s.Node: Kind.NODE,
    k8s.CSIDriver: Kind.CSI_DRIVER,
    k8s.CSINode: Kind.CSI_NODE,
    k8s.Pod: Kind.POD,
    k8s.Event: Kind.EVENT,
    k8s.VolumeSnapshot: Kind.VOLUME_SNAPSHOT,
    k8s.VolumeSnapshotContent: Kind.VOLUME_SNAPSHOT_CONTENT,
    k8s.VolumeSnapshotClass: Kind.VOLUME_SNAPSHOT_CLASS,
    truenas.Pool: Kind.POOL,
    truenas.Dataset: Kind.DATASET,
    truenas.Snapshot: Kind.SNAPSHOT,
    truenas.NfsShare: Kind.NFS_SHARE,
    truenas.SmbShare: Kind.SMB_SHARE,
    truenas.IscsiPortal: Kind.ISCSI_PORTAL,
    truenas.IscsiInitiator: Kind.ISCSI_INITIATOR,
    truenas.IscsiTarget: Kind.ISCSI_TARGET,
    truenas.IscsiExtent: Kind.ISCSI_EXTENT,
    truenas.IscsiTargetExtent: Kind.ISCSI_TARGET_EXTENT,
    truenas.IscsiSession: Kind.ISCSI_SESSION,
    truenas.NvmeSubsystem: Kind.NVME_SUBSYSTEM,
    truenas.NvmeNamespace: Kind.NVME_NAMESPACE,
    truenas.NvmeSession: Kind.NVME_SESSION,
    truenas.NfsClient: Kind.NFS_CLIENT,
    truenas.SmbClient: Kind.SMB_CLIENT,
    truenas.SnapshotTask: Kind.SNAPSHOT_TASK,
    truenas.ReplicationTask: Kind.REPLICATION_TASK,
    truenas.System: Kind.SYSTEM,
    truenas.ApiKey: Kind.API_KEY,
    truenas.Service: Kind.SERVICE,
    truenas.Alert: Kind.ALERT,
}


def ref_of(value: Value, source: str | None = None) -> Ref:
    kind = _KINDS[type(value)]
    source = source or (CLUSTER if kind in KUBERNETES_KINDS else NAS)
    match value:
        case truenas.Dataset() | truenas.Snapshot():
            name = value.path
        case truenas.IscsiSession():
            name = f"{value.initiator}>{value.target}"
        case truenas.NvmeSession():
            name = f"{value.host_nqn}>{value.subsystem}/{value.controller}"
        case truenas.NfsClient():
            name = f"{value.address}>{value.export}"
        case truenas.SmbClient():
            name = f"{value.machine}>{value.share}"
        case truenas.System():
            name = source
        case truenas.Pool() | truenas.Service():
            name = value.name
        case truenas.Alert():
            name = value.uuid
        case _ if hasattr(value, "namespace"):
            name = f"{value.namespace}/{value.name}"  # type: ignore[union-attr]
        case _ if kind in TRUENAS_KINDS:
            name = str(value.id)  # type: ignore[union-attr]
        case _:
            name = value.name  # type: ignore[union-attr]
    return Ref(source, kind, name)


def seen(value: Value, asked_at: float = 1.0, source: str | None = None) -> Seen:
    return Seen(ref_of(value, source), value, asked_at)


def world(
    *values: Value | Seen,
    config: Settings | None = None,
    incomplete: Iterable[tuple[str, Kind]] = (),
    now: datetime = NOW,
    ticks: float = 100.0,
    told: Iterable[Finding] = (),
) -> World:
    """A world in which these objects have been seen, and all kinds listed in full but the named ones.

    `told` are the findings that are open already.
    """
    config = config or settings()
    graph = Graph(marker_properties=[d.marker_property for d in config.drivers if d.marker_property])
    changes = Changes()
    for value in values:
        graph.apply(value if isinstance(value, Seen) else seen(value), changes)
        if isinstance(value, truenas.Pool):
            graph.apply(seen(a_dataset(value.name, user_properties={})), changes)
    missing = set(incomplete)
    sources = [(c.name, KUBERNETES_KINDS) for c in config.clusters] + [
        (n.name, TRUENAS_KINDS) for n in config.nas
    ]
    for source, kinds in sources:
        for kind in kinds:
            if (source, kind) not in missing:
                names = frozenset(graph.nodes(source, kind))
                graph.apply(Listed(source, kind, names, 1.0), changes)
    standing = {(finding.rule, finding.subject): finding for finding in told}
    return World(graph, config, now, ticks, lambda rule, subject: standing.get((rule, subject)))


def judge(rule: str, subject: Ref, in_world: World) -> Judgement | None:
    """What a rule says; None if it cannot be run."""
    declared = catalogue.BY_ID[rule]
    return None if gaps(declared, subject, in_world) else declared.judge(subject, in_world)


def accused(rule: str, in_world: World) -> list[str]:
    """The names of the subjects that a rule finds something on."""
    subjects = in_world.graph.refs(catalogue.BY_ID[rule].subject)
    return sorted(ref.name for ref in subjects if isinstance(judge(rule, ref, in_world), Evidence))
