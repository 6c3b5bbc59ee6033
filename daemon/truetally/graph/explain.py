"""The links of a volume chain, one by one: what belongs to it, in which role, and what proves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from truetally.csi import democratic_csi as csi
from truetally.graph import chains
from truetally.graph.world import World
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.answers import Link
from truetally.model.observations import Value
from truetally.model.refs import KUBERNETES_KINDS, Kind, Ref

# From the pod down to the disk, as a person would walk it.
_ORDER = (
    Kind.POD,
    Kind.PERSISTENT_VOLUME_CLAIM,
    Kind.PERSISTENT_VOLUME,
    Kind.VOLUME_ATTACHMENT,
    Kind.VOLUME_SNAPSHOT,
    Kind.VOLUME_SNAPSHOT_CONTENT,
    Kind.ISCSI_SESSION,
    Kind.ISCSI_TARGET,
    Kind.ISCSI_TARGET_EXTENT,
    Kind.ISCSI_EXTENT,
    Kind.NVME_SESSION,
    Kind.NVME_SUBSYSTEM,
    Kind.NVME_NAMESPACE,
    Kind.NFS_CLIENT,
    Kind.NFS_SHARE,
    Kind.SMB_CLIENT,
    Kind.SMB_SHARE,
    Kind.DATASET,
    Kind.SNAPSHOT_TASK,
    Kind.REPLICATION_TASK,
    Kind.SNAPSHOT,
    Kind.EVENT,
)
_RANK = {kind: rank for rank, kind in enumerate(_ORDER)}
_SNAPSHOTS_SHOWN = 100


def links(world: World, subject: Ref) -> tuple[Link, ...]:
    """All links of the chains that a subject is part of, from the pod down to the disk."""
    related = {r for r in world.graph.related(subject) if r.kind in _RANK}
    for ref in [r for r in related if r.kind is Kind.DATASET]:
        related |= set(chains.snapshots_of(world, ref.source, ref.name)[:_SNAPSHOTS_SHOWN])
        related |= set(chains.tasks_of(world, ref.source, ref.name))
    ordered = sorted(related, key=lambda r: (_RANK[r.kind], r))
    return tuple(link for ref in ordered if (link := _link(world, ref, subject)) is not None)


def _link(world: World, ref: Ref, subject: Ref) -> Link | None:
    node = world.node(ref)
    if node is None:
        return None
    role, state, detail = _look(node.value)
    proof, strength = ("", "") if ref == subject else _proof(world, ref, node.value)
    source_kinds = KUBERNETES_KINDS if ref.source in world.clusters else frozenset({ref.kind})
    if ref.kind in source_kinds and not world.graph.proves_absence(ref.source, ref.kind):
        detail = "; ".join(filter(None, (detail, f"{ref.source} is not readable now: this may be stale")))
    return Link(ref, role, proof, strength, detail, state)


def _look(value: Value) -> tuple[str, str, str]:
    describe = _DESCRIBE.get(type(value))
    return describe(value) if describe is not None else (type(value).__name__, "", "")


def _enabled(
    value: truenas.NfsShare | truenas.SmbShare | truenas.IscsiExtent | truenas.NvmeNamespace,
) -> str:
    return "locked" if value.locked else "enabled" if value.enabled else "disabled"


_DESCRIBE: dict[type, Callable[[Any], tuple[str, str, str]]] = {
    k8s.Pod: lambda v: ("pod", v.phase, f"on node {v.node}" if v.node else ""),
    k8s.PersistentVolumeClaim: lambda v: ("claim", v.phase, f"class {v.storage_class}"),
    k8s.PersistentVolume: lambda v: ("volume", v.phase, f"reclaim policy {v.reclaim_policy}"),
    k8s.VolumeAttachment: lambda v: (
        "attachment",
        "attached" if v.attached else "not attached",
        f"to node {v.node}",
    ),
    k8s.VolumeSnapshot: lambda v: ("snapshot request", "ready" if v.ready else "not ready", v.error),
    k8s.VolumeSnapshotContent: lambda v: (
        "snapshot content",
        "ready" if v.ready else "not ready",
        v.snapshot_handle or v.source_snapshot_handle,
    ),
    k8s.Event: lambda v: ("event", v.type, f"{v.reason}: {v.message}"),
    truenas.Dataset: lambda v: (
        "zvol" if v.kind == "VOLUME" else "dataset",
        "locked" if v.locked else "",
        "",
    ),
    truenas.Snapshot: lambda v: ("ZFS snapshot", "being destroyed" if v.defer_destroy else "", ""),
    truenas.NfsShare: lambda v: ("NFS share", _enabled(v), v.path),
    truenas.SmbShare: lambda v: ("SMB share", _enabled(v), f"{v.name} at {v.path}"),
    truenas.IscsiTarget: lambda v: ("iSCSI target", "", v.name),
    truenas.IscsiExtent: lambda v: ("iSCSI extent", _enabled(v), v.disk),
    truenas.IscsiTargetExtent: lambda v: ("iSCSI link", "", f"LUN {v.lun}"),
    truenas.IscsiSession: lambda v: ("iSCSI session", "live", f"from {v.address}"),
    truenas.NvmeSubsystem: lambda v: ("NVMe-oF subsystem", "", v.nqn or v.name),
    truenas.NvmeNamespace: lambda v: ("NVMe-oF namespace", _enabled(v), f"NSID {v.nsid} of {v.device}"),
    truenas.NvmeSession: lambda v: ("NVMe-oF session", "live", f"of {v.host_nqn} from {v.address}"),
    truenas.NfsClient: lambda v: ("NFS client", "connected", f"version {v.version} from {v.address}"),
    truenas.SmbClient: lambda v: ("SMB client", "connected", f"{v.machine} at {v.share}"),
    truenas.SnapshotTask: lambda v: ("snapshot task", "enabled" if v.enabled else "disabled", v.schedule),
    truenas.ReplicationTask: lambda v: ("replication task", "enabled" if v.enabled else "disabled", v.name),
}


def _proof(world: World, ref: Ref, value: Value) -> tuple[str, str]:
    for proof in _proofs(world, ref, value):
        return proof
    return "shares a name with it", chains.WEAK


def _proofs(world: World, ref: Ref, value: Value) -> Iterator[tuple[str, str]]:
    match value:
        case k8s.Pod():
            yield ("mounts the claim or its export", chains.EXACT)
        case k8s.PersistentVolumeClaim(volume_name=name) if name:
            yield (f"is bound to volume {name}", chains.EXACT)
        case k8s.PersistentVolume():
            found = chains.backing(world, ref)
            if found is not None and found.dataset is not None:
                yield (found.how, found.strength)
            elif found is not None:
                yield (found.how, chains.WEAK)
        case k8s.VolumeAttachment(volume_name=name):
            yield (f"attaches volume {name}", chains.EXACT)
        case k8s.VolumeSnapshot(source_claim=claim) if claim:
            yield (f"was taken of claim {claim}", chains.EXACT)
        case k8s.VolumeSnapshotContent(source_volume_handle=handle) if handle:
            yield (f"was taken of volume handle {handle}", chains.EXACT)
        case k8s.Event():
            yield ("is about the claim's uid", chains.EXACT)
        case truenas.Snapshot(dataset=dataset):
            yield (f"is a snapshot of {dataset}", chains.EXACT)
        case truenas.NfsShare() | truenas.SmbShare():
            yield ("exports the dataset's mountpoint", chains.EXACT)
        case truenas.IscsiExtent():
            yield ("its disk is the zvol", chains.EXACT)
        case truenas.IscsiTargetExtent(target=target, extent=extent):
            yield (f"links target {target} to extent {extent}", chains.EXACT)
        case truenas.IscsiTarget(name=name):
            yield (f"the volume's IQN ends in {name}, or a link leads to the extent", chains.EXACT)
        case truenas.IscsiSession(target=target):
            yield (f"is on {target}", chains.EXACT)
        case truenas.NvmeNamespace(type=what):
            inside = "its file lies in the dataset" if what == "FILE" else "its device is the zvol"
            yield (inside, chains.EXACT)
        case truenas.NvmeSubsystem(name=name):
            yield (f"the volume's NQN is that of {name}, or a namespace of it is the zvol", chains.EXACT)
        case truenas.NvmeSession(subsystem=subsystem):
            yield (f"is on subsystem {subsystem}", chains.EXACT)
        case truenas.NfsClient(export=export) if export:
            yield (f"mounts {export}", chains.EXACT)
        case truenas.SmbClient(share=share):
            yield (f"is connected to share {share}", chains.EXACT)
        case truenas.SnapshotTask() | truenas.ReplicationTask():
            yield ("names the dataset", chains.EXACT)
        case truenas.Dataset():
            yield from _dataset_proof(world, ref, value)


def _dataset_proof(world: World, ref: Ref, dataset: truenas.Dataset) -> Iterator[tuple[str, str]]:
    for reference in chains.references(world, ref):
        if reference.strength == chains.EXACT:
            yield (f"{reference.ref.kind.value} {reference.ref.name}: {reference.how}", chains.EXACT)
            return
    if csi.is_managed(dataset):
        yield (f"democratic-csi made it for {csi.own(dataset, csi.VOLUME_NAME)}", chains.WEAK)
