"""Volumes and claims that are stuck: released and not gone, or asked for and not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

from truetally.csi import democratic_csi as csi
from truetally.findings.rule import Clear, Evidence, Judgement, Order, Reread, Rule
from truetally.graph import chains
from truetally.graph.correlate import path_of_namespace
from truetally.graph.graph import value_of
from truetally.graph.world import World
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.findings import Fact, Severity
from truetally.model.refs import Kind, Ref

_IGNORE = "truetally.io/ignore"


def ignored(annotations: Mapping[str, str]) -> bool:
    """Whether an object's annotations exempt it."""
    value = annotations.get(_IGNORE, "")
    return bool(value) and value.lower() not in ("false", "no", "0")


def claim_is_ours(cluster: str, claim: k8s.PersistentVolumeClaim, world: World) -> bool:
    """Whether democratic-csi has made, or is to make, what a claim asks for."""
    volume = world.volume(Ref(cluster, Kind.PERSISTENT_VOLUME, claim.volume_name))
    class_ = class_of(claim, cluster, world)
    drivers = [claim.annotations.get(name, "") for name in _PROVISIONER_ANNOTATIONS]
    drivers += [class_.provisioner] if class_ is not None else []
    drivers += [volume.csi.driver] if volume is not None and volume.csi is not None else []
    return any(driver and world.is_our_driver(cluster, driver) for driver in drivers)


_PROVISIONER_ANNOTATIONS = (
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
)


def pods_using(world: World, cluster: str, namespace: str, claim: str) -> Iterator[tuple[Ref, k8s.Pod]]:
    """The pods that mount a claim, or are about to; a pod that has ended uses nothing any more."""
    for ref in world.sharing(f"c:{cluster}/{namespace}/{claim}", Kind.POD):
        pod = value_of(world.node(ref), k8s.Pod)
        if pod is not None and pod.phase not in ("Succeeded", "Failed"):
            yield ref, pod


def nas_of_volume(ref: Ref, world: World) -> str | None:
    """The configured NAS that a PersistentVolume names; None for a foreign server or no network storage."""
    found = chains.backing(world, ref)
    return found.nas if found is not None else None


def _judge_released(ref: Ref, world: World) -> Judgement:
    volume = world.volume(ref)
    if volume is None:
        return Clear("the volume is gone")
    if volume.phase not in ("Released", "Failed"):
        return Clear(f"the volume is {volume.phase}")
    if volume.deleted_at is not None:
        return Clear("it is being deleted; volume-deletion-stuck tells if that does not end")
    if volume.csi is None or not world.is_our_driver(ref.source, volume.csi.driver):
        return Clear("it is no volume of democratic-csi")
    if ignored(volume.annotations):
        return Clear(f"it is exempted by its annotation {_IGNORE}")
    since = volume.phase_changed_at
    facts: dict[str, Fact] = {
        "phase": volume.phase,
        "reclaim_policy": volume.reclaim_policy,
        "message": volume.status_message or None,
        "claim": f"{volume.claim.namespace}/{volume.claim.name}" if volume.claim else None,
        "blocked_by": tuple(_blockers(ref, world)),
    }
    if volume.phase == "Released" and volume.reclaim_policy == "Retain":
        summary = f"Volume {ref.name} is released, and its reclaim policy Retain keeps it and its data"
        return Evidence(summary, facts, since, Severity.INFO)
    why = f": {volume.status_message}" if volume.status_message else ""
    return Evidence(f"Volume {ref.name} is {volume.phase} and is not being deleted{why}", facts, since)


def _blockers(ref: Ref, world: World) -> list[str]:
    """What is known to keep democratic-csi from deleting the dataset."""
    found = chains.backing(world, ref)
    if found is None or found.nas is None or found.dataset is None:
        return []
    nas, path = found.nas, found.dataset.name
    blockers = [f"clone {clone.name}" for clone in chains.clones_of(world, nas, path)]
    blockers += chains.live_sessions(world, nas, path)
    blockers += [f"snapshot {s.name}" for s in chains.snapshots_of(world, nas, path)]
    return blockers[:10]


VOLUME_RELEASED = Rule(
    id="volume-released",
    title="Released or Failed PersistentVolume that lingers",
    fix=(
        "With reclaim policy Delete, remove what blocks the deletion (clones, snapshots, sessions) and "
        "democratic-csi finishes it by itself. With Retain, delete volume and dataset when the data is no "
        "longer wanted, or bind it again by removing spec.claimRef."
    ),
    severity=Severity.WARNING,
    subject=Kind.PERSISTENT_VOLUME,
    needs=frozenset({Kind.PERSISTENT_VOLUME}),
    judge=_judge_released,
    pending=lambda world: world.settings.rules.released_after,
    nas_of=nas_of_volume,
)


def _judge_pending(ref: Ref, world: World) -> Judgement:
    claim = world.claim(ref)
    if claim is None:
        return Clear("the claim is gone")
    if claim.phase != "Pending" or claim.deleted_at is not None:
        return Clear(f"the claim is {claim.phase}")
    if ignored(claim.annotations):
        return Clear(f"it is exempted by its annotation {_IGNORE}")
    class_ = class_of(claim, ref.source, world)
    if class_ is None:
        if not claim.storage_class or claim.volume_name:
            return Clear("it waits for a volume that a person has to make")
        cause = f"StorageClass {claim.storage_class} does not exist"
    elif not world.is_our_driver(ref.source, class_.provisioner):
        return Clear("its StorageClass is not of democratic-csi")
    elif _waits_for_consumer(claim, class_):
        return Clear("its StorageClass waits for the first pod that uses it")
    else:
        cause = _cause(claim, ref.source, world)
    facts: dict[str, Fact] = {
        "storage_class": claim.storage_class,
        "requested_bytes": claim.requested_bytes,
        "cause": cause,
        "data_source": claim.data_source or None,
    }
    return Evidence(f"Claim {ref.name} is pending: {cause}", facts, claim.created_at)


def class_of(claim: k8s.PersistentVolumeClaim, cluster: str, world: World) -> k8s.StorageClass | None:
    """The StorageClass that a claim names, if it exists."""
    if claim.storage_class is None:
        return None
    node = world.node(Ref(cluster, Kind.STORAGE_CLASS, claim.storage_class))
    return value_of(node, k8s.StorageClass)


def _waits_for_consumer(claim: k8s.PersistentVolumeClaim, class_: k8s.StorageClass) -> bool:
    selected = "volume.kubernetes.io/selected-node" in claim.annotations
    return class_.binding_mode == "WaitForFirstConsumer" and not selected


def _cause(claim: k8s.PersistentVolumeClaim, cluster: str, world: World) -> str:
    events = []
    for ref in world.sharing(f"e:{cluster}/{claim.uid}", Kind.EVENT):
        event = value_of(world.node(ref), k8s.Event)
        if event is not None:
            events.append(event)
    if not events:
        return "no event says why; look whether the CSI controller runs"
    events.sort(key=lambda e: (e.type == "Warning", e.last_at.timestamp() if e.last_at else 0.0))
    return f"{events[-1].reason}: {events[-1].message}"


CLAIM_PENDING = Rule(
    id="claim-pending",
    title="PersistentVolumeClaim pending for too long",
    fix="Read the cause. Mend the StorageClass, the driver or the NAS; then it binds by itself.",
    severity=Severity.WARNING,
    subject=Kind.PERSISTENT_VOLUME_CLAIM,
    needs=frozenset({Kind.PERSISTENT_VOLUME_CLAIM, Kind.STORAGE_CLASS}),
    judge=_judge_pending,
    pending=lambda world: world.settings.rules.claim_pending_after,
    nas_of=lambda _ref, _world: None,
)


def _judge_attachment(ref: Ref, world: World) -> Judgement:
    attachment = value_of(world.node(ref), k8s.VolumeAttachment)
    if attachment is None:
        return Clear("the attachment is gone")
    if not world.is_our_driver(ref.source, attachment.attacher):
        return Clear("it is no attachment of democratic-csi")
    if not attachment.volume_name:
        return Clear("it attaches an inline volume, which no PersistentVolume stands for")
    stale = _why_stale(attachment, ref.source, world)
    if not stale:
        return Clear("its volume and node exist")
    if user := _user_on_node(attachment, ref.source, world):
        return Clear(f"it is still in use by {user}")
    volume = Ref(ref.source, Kind.PERSISTENT_VOLUME, attachment.volume_name)
    nowhere = world.volume(volume) is None and not world.sharing(f"h:{volume.name}", *_NAMED)
    if nowhere and (untold := _untold(ref, world)):
        return Clear(f"what its volume was on a NAS is not known, and {untold}")
    facts: dict[str, Fact] = {
        "node": attachment.node,
        "volume": attachment.volume_name,
        "attached": attachment.attached,
        "because": (stale,),
        "error": attachment.error or None,
    }
    summary = f"Attachment of volume {attachment.volume_name} to node {attachment.node} is stale: {stale}"
    return Evidence(summary, facts, attachment.deleted_at)


def _why_stale(attachment: k8s.VolumeAttachment, cluster: str, world: World) -> str:
    if world.node(Ref(cluster, Kind.NODE, attachment.node)) is None:
        return "the node does not exist"
    if world.node(Ref(cluster, Kind.PERSISTENT_VOLUME, attachment.volume_name)) is None:
        return "the volume does not exist"
    if attachment.deleted_at is not None:
        return "its deletion does not finish"
    driver = value_of(world.node(Ref(cluster, Kind.CSI_DRIVER, attachment.attacher)), k8s.CSIDriver)
    if driver is not None and not driver.attach_required:
        # Kubernetes has no eye on it any more once the driver says so (kubernetes issue #129572).
        return f"driver {attachment.attacher} attaches nothing (attachRequired is false)"
    return ""


def _user_on_node(attachment: k8s.VolumeAttachment, cluster: str, world: World) -> str:
    """A pod on that node that mounts the volume, or an iSCSI or NVMe-oF session to it from anywhere."""
    ref = Ref(cluster, Kind.PERSISTENT_VOLUME, attachment.volume_name)
    volume = world.volume(ref)
    if volume is not None and volume.claim is not None:
        claim = f"c:{cluster}/{volume.claim.namespace}/{volume.claim.name}"
        for other in world.sharing(claim, Kind.POD):
            pod = value_of(world.node(other), k8s.Pod)
            if pod is not None and pod.node == attachment.node and pod.phase in ("Running", "Pending"):
                return f"pod {other.name}"
    found = chains.backing(world, ref)
    if found is not None and found.nas is not None and found.dataset is not None:
        for session in chains.live_sessions(world, found.nas, found.dataset.name):
            return f"an {session}"
    named = _sessions_by_name(attachment.volume_name, world)
    return next(chain(_sessions_by_address(volume, world), named), "")


def _sessions_by_address(volume: k8s.PersistentVolume | None, world: World) -> Iterator[str]:
    """The live sessions on what a volume names, dataset behind it or not: its pool may be away."""
    backend = csi.backend(volume) if volume is not None else None
    if backend is not None and backend.iqn:
        for ref in chains.sessions_of_iqn(world, backend.iqn):
            yield f"an iSCSI session of {ref.name.partition('>')[0]}"
    if backend is not None and backend.nqn:
        for ref in world.sharing(f"q:{backend.nqn}", Kind.NVME_SUBSYSTEM):
            for connection in chains.nvme_sessions_at(world, ref.source, int(ref.name)):
                yield f"an NVMe-oF session of {connection.host_nqn}"


def _sessions_by_name(name: str, world: World) -> Iterator[str]:
    """The live sessions on what carries a volume's name: the volume or its dataset may be gone."""
    for nas, path in dict.fromkeys(_paths_named(name, world)):
        yield from (f"an {session}" for session in chains.live_sessions(world, nas, path))
    for ref in world.sharing(f"h:{name}", Kind.ISCSI_TARGET):
        target = value_of(world.node(ref), truenas.IscsiTarget)
        for session in chains.sessions_at(world, ref.source, target) if target is not None else ():
            yield f"an iSCSI session of {session.initiator}"
    for ref in world.sharing(f"h:{name}", Kind.NVME_SUBSYSTEM):
        for connection in chains.nvme_sessions_at(world, ref.source, int(ref.name)):
            yield f"an NVMe-oF session of {connection.host_nqn}"


def _paths_named(name: str, world: World) -> Iterator[tuple[str, str]]:
    """NAS and path of datasets that carry a volume's name, and of what serves such while the pool is away."""
    for ref in world.sharing(f"h:{name}", Kind.DATASET):
        yield ref.source, ref.name
    for ref in world.sharing(f"h:{name}", Kind.ISCSI_EXTENT):
        if (extent := value_of(world.node(ref), truenas.IscsiExtent)) is not None:
            yield ref.source, extent.disk
    for ref in world.sharing(f"h:{name}", Kind.NVME_NAMESPACE):
        if (namespace := value_of(world.node(ref), truenas.NvmeNamespace)) is not None:
            yield ref.source, path_of_namespace(namespace)


_NAMED = (Kind.DATASET, Kind.ISCSI_TARGET, Kind.ISCSI_EXTENT, Kind.NVME_SUBSYSTEM, Kind.NVME_NAMESPACE)
# What leads from a volume to its sessions; read again before an attachment is called stale.
_SESSIONS = frozenset(
    {
        Kind.DATASET,
        Kind.ISCSI_TARGET,
        Kind.ISCSI_EXTENT,
        Kind.ISCSI_TARGET_EXTENT,
        Kind.ISCSI_SESSION,
        Kind.NVME_SUBSYSTEM,
        Kind.NVME_NAMESPACE,
        Kind.NVME_SESSION,
    }
)
_ATTACHMENT_NEEDS = frozenset(
    {
        Kind.VOLUME_ATTACHMENT,
        Kind.NODE,
        Kind.PERSISTENT_VOLUME,
        Kind.PERSISTENT_VOLUME_CLAIM,
        Kind.POD,
        Kind.CSI_DRIVER,
    }
)


def _nas_of_attachment(ref: Ref, world: World) -> str | None:
    attachment = value_of(world.node(ref), k8s.VolumeAttachment)
    if attachment is None:
        return None
    volume = Ref(ref.source, Kind.PERSISTENT_VOLUME, attachment.volume_name)
    if world.volume(volume) is not None:
        return nas_of_volume(volume, world)
    named = world.sharing(f"h:{attachment.volume_name}", *_NAMED)
    if named:
        return named[0].source
    return next(iter(world.nas_names)) if len(world.nas_names) == 1 else None


def _untold(ref: Ref, world: World) -> str:
    """Why a volume that is gone may still be in use on a NAS, while nothing there carries its name."""
    for nas in world.nas_names:
        for gap in world.gaps(_SESSIONS, ref, nas):
            return f"{nas} cannot be read: {gap.reason}"
        for session in _sessions_of_nobody(world, nas):
            return f"{session} on {nas} is of no volume that is known"
    return ""


def _sessions_of_nobody(world: World, nas: str) -> Iterator[str]:
    """The live sessions on what no PersistentVolume names; targets may be called otherwise than volumes."""
    for node in world.graph.nodes(nas, Kind.ISCSI_SESSION).values():
        iscsi = value_of(node, truenas.IscsiSession)
        if iscsi is not None and not any(
            world.sharing(f"t:{name}", Kind.PERSISTENT_VOLUME) for name in csi.targets_of_iqn(iscsi.target)
        ):
            yield f"the iSCSI session of {iscsi.initiator}"
    for node in world.graph.nodes(nas, Kind.NVME_SESSION).values():
        nvme = value_of(node, truenas.NvmeSession)
        if nvme is None:
            continue
        at = world.node(Ref(nas, Kind.NVME_SUBSYSTEM, str(nvme.subsystem)))
        subsystem = value_of(at, truenas.NvmeSubsystem)
        nqn = csi.subsystem_of_nqn(subsystem.nqn) if subsystem is not None else ""
        if not world.sharing(f"q:{nqn}", Kind.PERSISTENT_VOLUME):
            yield f"the NVMe-oF session of {nvme.host_nqn}"


def _confirmed_attachment(ref: Ref, world: World, since: float) -> str:
    if not world.listed_since(_ATTACHMENT_NEEDS, (ref.source,), since):
        return "the cluster has not been read again"
    nas = _nas_of_attachment(ref, world)
    if nas is not None and not world.listed_since(_SESSIONS, (nas,), since):
        return "the sessions on the NAS have not been read again"
    return ""


ATTACHMENT_STALE = Rule(
    id="attachment-stale",
    title="Stale VolumeAttachment",
    fix=(
        "Make sure that the node is really off and no session of it is left on the NAS, then delete the "
        "VolumeAttachment."
    ),
    severity=Severity.WARNING,
    subject=Kind.VOLUME_ATTACHMENT,
    needs=_ATTACHMENT_NEEDS | _SESSIONS,
    judge=_judge_attachment,
    pending=lambda world: world.settings.rules.attachment_stale_after,
    nas_of=_nas_of_attachment,
    reread=lambda ref, world: Reread(
        Order.CLUSTER_FIRST,
        nas=_nas_of_attachment(ref, world),
        nas_kinds=_SESSIONS,
        cluster_kinds=_ATTACHMENT_NEEDS,
        cluster=ref.source,
    ),
    confirmed=_confirmed_attachment,
)
