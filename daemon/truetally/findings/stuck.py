"""What stays although it should go, and what stays although nobody seems to want it.

Kubernetes deletes an object only when its last finalizer is gone. Each finalizer of
storage waits for something that can be looked at: a pod, a claim, an attachment, a
clone, a session. Whoever knows which one need not remove the finalizer by hand, which
is how datasets get orphaned (domain notes on democratic-csi, §1.6).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from truetally.csi import democratic_csi as csi
from truetally.findings.rule import Clear, Evidence, Judgement, Order, Reread, Rule
from truetally.findings.volumes import claim_is_ours, ignored, nas_of_volume, pods_using
from truetally.graph import chains
from truetally.graph.graph import value_of
from truetally.graph.world import World
from truetally.model import kubernetes as k8s
from truetally.model.findings import Fact, Severity
from truetally.model.refs import Kind, Ref

# Finalizers: kubernetes v1.34 pkg/volume/util/finalizer.go, sig-storage-lib-external-provisioner v13,
# external-attacher v4 pkg/controller, external-snapshotter v8.2 pkg/utils.
_CLAIM_PROTECTION = "kubernetes.io/pvc-protection"
_SOURCE_PROTECTION = "snapshot.storage.kubernetes.io/pvc-as-source-protection"
_VOLUME_PROTECTION = "kubernetes.io/pv-protection"
_PROVISIONER = "external-provisioner.volume.kubernetes.io/finalizer"
_ATTACHER = "external-attacher/"
_SNAPSHOT_SOURCE = "snapshot.storage.kubernetes.io/volumesnapshot-as-source-protection"
_SNAPSHOT_BOUND = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection"
_CONTENT_BOUND = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"
_SHOWN = 10


def _no_concern(finalizers: tuple[str, ...], annotations: Mapping[str, str], ours: bool) -> str:
    """Why the deletion of an object is no concern of ours; empty if it is."""
    if not ours:
        return "it is none of democratic-csi's"
    if ignored(annotations):
        return "it is exempted by its annotation truetally.io/ignore"
    if not finalizers:
        return "nothing keeps it any more"
    return ""


def _stuck(
    what: str,
    deleted_at: datetime | None,
    finalizers: tuple[str, ...],
    blockers: Iterable[str],
    more: dict[str, Fact] | None = None,
    severity: Severity | None = None,
) -> Evidence:
    blocked_by = tuple(dict.fromkeys(blockers))[:_SHOWN]
    facts: dict[str, Fact] = {
        "deleted_at": deleted_at.isoformat() if deleted_at is not None else None,
        "finalizers": finalizers,
        "blocked_by": blocked_by,
    }
    why = blocked_by[0] if blocked_by else "nothing that truetally can see is in the way of its finalizers"
    return Evidence(
        f"{what} is being deleted and does not go: {why}", facts | (more or {}), deleted_at, severity
    )


def _driver_away(cluster: str, driver: str, world: World) -> Iterator[str]:
    if driver and world.node(Ref(cluster, Kind.CSI_DRIVER, driver)) is None:
        yield f"CSI driver {driver} is not registered any more, so nobody works off its finalizer"


# Volumes


def _judge_volume(ref: Ref, world: World) -> Judgement:
    volume = world.volume(ref)
    if volume is None:
        return Clear("the volume is gone")
    if volume.deleted_at is None:
        return Clear("nobody has asked to delete it")
    driver = volume.csi.driver if volume.csi is not None else ""
    ours = bool(driver) and world.is_our_driver(ref.source, driver)
    if reason := _no_concern(volume.finalizers, volume.annotations, ours):
        return Clear(reason)
    more: dict[str, Fact] = {
        "phase": volume.phase,
        "reclaim_policy": volume.reclaim_policy,
        "message": volume.status_message or None,
    }
    blockers = [b for f in volume.finalizers for b in _blockers_of_volume(ref, volume, f, world)]
    return _stuck(f"Volume {ref.name}", volume.deleted_at, volume.finalizers, blockers, more)


def _blockers_of_volume(
    ref: Ref, volume: k8s.PersistentVolume, finalizer: str, world: World
) -> Iterator[str]:
    driver = volume.csi.driver if volume.csi is not None else ""
    if finalizer == _VOLUME_PROTECTION:
        for claim in world.sharing(f"v:{ref.source}/{ref.name}", Kind.PERSISTENT_VOLUME_CLAIM):
            yield f"claim {claim.name} is bound to it"
    elif finalizer.startswith(_ATTACHER):
        attachments = world.sharing(f"v:{ref.source}/{ref.name}", Kind.VOLUME_ATTACHMENT)
        for each in attachments:
            yield f"attachment {each.name} still stands"
        if not attachments:
            yield f"finalizer {finalizer} is left over: the volume has no attachment"
        yield from _driver_away(ref.source, driver, world)
    elif finalizer == _PROVISIONER:
        if volume.phase not in ("Bound", "Available"):
            yield from _in_the_way_on_the_nas(ref, world)
            yield from _driver_away(ref.source, driver, world)
            if volume.status_message:
                yield f"the driver says: {volume.status_message}"
    else:
        yield f"finalizer {finalizer} belongs to neither Kubernetes nor democratic-csi"


def _in_the_way_on_the_nas(ref: Ref, world: World) -> Iterator[str]:
    """What keeps democratic-csi from destroying the dataset, which ZFS refuses until it is gone."""
    found = chains.backing(world, ref)
    if found is None or found.nas is None or found.dataset is None:
        return
    nas, path = found.nas, found.dataset.name
    yield from (f"{path} has the clone {clone.name}" for clone in chains.clones_of(world, nas, path))
    yield from (f"an {session} is on it" for session in chains.live_sessions(world, nas, path))
    for each in chains.snapshots_of(world, nas, path):
        snapshot = world.snapshot(each)
        if snapshot is None:
            continue
        if snapshot.holds:
            yield f"snapshot {each.name} is held ({', '.join(snapshot.holds)})"
        elif not (snapshot.name.startswith("snapshot-") and csi.uuid_in(snapshot.name)):
            yield f"{each.name} is a snapshot that is not CSI's"


# Claims


def _judge_claim(ref: Ref, world: World) -> Judgement:
    claim = world.claim(ref)
    if claim is None:
        return Clear("the claim is gone")
    if claim.deleted_at is None:
        return Clear("nobody has asked to delete it")
    ours = claim_is_ours(ref.source, claim, world)
    if reason := _no_concern(claim.finalizers, claim.annotations, ours):
        return Clear(reason)
    blockers = [b for f in claim.finalizers for b in _blockers_of_claim(ref, claim, f, world)]
    pods = tuple(r.name for r, _ in pods_using(world, ref.source, claim.namespace, claim.name))
    # That a claim stays while pods use it is what its protection is for; it goes with the last of them.
    by_design = bool(pods) and claim.finalizers == (_CLAIM_PROTECTION,)
    more: dict[str, Fact] = {"phase": claim.phase, "volume": claim.volume_name, "pods": pods[:_SHOWN]}
    severity = Severity.INFO if by_design else None
    return _stuck(f"Claim {ref.name}", claim.deleted_at, claim.finalizers, blockers, more, severity)


def _blockers_of_claim(
    ref: Ref, claim: k8s.PersistentVolumeClaim, finalizer: str, world: World
) -> Iterator[str]:
    if finalizer == _CLAIM_PROTECTION:
        for pod, _ in pods_using(world, ref.source, claim.namespace, claim.name):
            yield f"pod {pod.name} uses it"
    elif finalizer == _SOURCE_PROTECTION:
        for each in world.sharing(f"c:{ref.source}/{claim.namespace}/{claim.name}", Kind.VOLUME_SNAPSHOT):
            snapshot = value_of(world.node(each), k8s.VolumeSnapshot)
            if snapshot is not None and not snapshot.ready:
                error = f": {snapshot.error}" if snapshot.error else ""
                yield f"VolumeSnapshot {each.name} of it is not ready{error}"
    else:
        yield f"finalizer {finalizer} belongs to neither Kubernetes nor democratic-csi"


# VolumeSnapshots and their contents


def _judge_snapshot(ref: Ref, world: World) -> Judgement:
    snapshot = value_of(world.node(ref), k8s.VolumeSnapshot)
    if snapshot is None:
        return Clear("the VolumeSnapshot is gone")
    if snapshot.deleted_at is None:
        return Clear("nobody has asked to delete it")
    ours = _snapshot_is_ours(ref.source, snapshot, world)
    if reason := _no_concern(snapshot.finalizers, snapshot.annotations, ours):
        return Clear(reason)
    blockers = [b for f in snapshot.finalizers for b in _blockers_of_snapshot(ref, snapshot, f, world)]
    more: dict[str, Fact] = {"content": snapshot.bound_content or None, "message": snapshot.error or None}
    return _stuck(f"VolumeSnapshot {ref.name}", snapshot.deleted_at, snapshot.finalizers, blockers, more)


def _snapshot_is_ours(cluster: str, snapshot: k8s.VolumeSnapshot, world: World) -> bool:
    content = _content(cluster, snapshot.bound_content or snapshot.source_content, world)
    if content is not None:
        return world.is_our_driver(cluster, content.driver)
    node = world.node(Ref(cluster, Kind.VOLUME_SNAPSHOT_CLASS, snapshot.snapshot_class))
    class_ = value_of(node, k8s.VolumeSnapshotClass)
    return class_ is not None and world.is_our_driver(cluster, class_.driver)


def _content(cluster: str, name: str, world: World) -> k8s.VolumeSnapshotContent | None:
    return value_of(world.node(Ref(cluster, Kind.VOLUME_SNAPSHOT_CONTENT, name)), k8s.VolumeSnapshotContent)


def _blockers_of_snapshot(
    ref: Ref, snapshot: k8s.VolumeSnapshot, finalizer: str, world: World
) -> Iterator[str]:
    if finalizer == _SNAPSHOT_SOURCE:
        for name in _claims_made_from(world, ref.source).get(f"{snapshot.namespace}/{snapshot.name}", ()):
            yield f"claim {name} is being restored from it"
    elif finalizer == _SNAPSHOT_BOUND:
        content = _content(ref.source, snapshot.bound_content, world)
        if content is not None:
            said = f": {content.error}" if content.error else ""
            yield f"its content {content.name} is still there{said}"
            yield from _driver_away(ref.source, content.driver, world)
    else:
        yield f"finalizer {finalizer} belongs to neither Kubernetes nor democratic-csi"


def _claims_made_from(world: World, cluster: str) -> dict[str, list[str]]:
    """The claims that wait to be restored, by the VolumeSnapshot (`namespace/name`) they are made from."""
    known = world.memo.get(("restoring", cluster))
    if isinstance(known, dict):
        return known
    found: dict[str, list[str]] = {}
    for name, node in world.graph.nodes(cluster, Kind.PERSISTENT_VOLUME_CLAIM).items():
        claim = value_of(node, k8s.PersistentVolumeClaim)
        if claim is not None and claim.phase == "Pending" and claim.data_source.startswith("VolumeSnapshot/"):
            source = claim.data_source.removeprefix("VolumeSnapshot/")
            found.setdefault(f"{claim.namespace}/{source}", []).append(name)
    world.memo["restoring", cluster] = found
    return found


def _judge_content(ref: Ref, world: World) -> Judgement:
    content = _content(ref.source, ref.name, world)
    if content is None:
        return Clear("the content is gone")
    if content.deleted_at is None:
        return Clear("nobody has asked to delete it")
    ours = world.is_our_driver(ref.source, content.driver)
    if reason := _no_concern(content.finalizers, content.annotations, ours):
        return Clear(reason)
    blockers = [b for f in content.finalizers for b in _blockers_of_content(ref, content, f, world)]
    more: dict[str, Fact] = {
        "snapshot_handle": content.snapshot_handle or content.source_snapshot_handle,
        "deletion_policy": content.deletion_policy,
        "message": content.error or None,
    }
    return _stuck(f"Content {ref.name}", content.deleted_at, content.finalizers, blockers, more)


def _blockers_of_content(
    ref: Ref, content: k8s.VolumeSnapshotContent, finalizer: str, world: World
) -> Iterator[str]:
    if finalizer != _CONTENT_BOUND:
        yield f"finalizer {finalizer} belongs to neither Kubernetes nor democratic-csi"
        return
    for each in world.sharing(f"k:{ref.source}/{ref.name}", Kind.VOLUME_SNAPSHOT):
        snapshot = value_of(world.node(each), k8s.VolumeSnapshot)
        if snapshot is not None and snapshot.deleted_at is None:
            yield f"VolumeSnapshot {each.name} still uses it"
    handle = content.snapshot_handle or content.source_snapshot_handle
    # A detached snapshot is a dataset, and cannot be destroyed while volumes are cloned from it (issue #549).
    for dataset in world.sharing(f"s:{handle}", Kind.DATASET):
        for clone in chains.clones_of(world, dataset.source, dataset.name):
            yield f"{clone.name} is a clone of its detached snapshot {dataset.name}"
    for each in world.sharing(f"s:{handle}", Kind.SNAPSHOT):
        zfs = world.snapshot(each)
        if zfs is not None and zfs.holds:
            yield f"ZFS snapshot {each.name} is held ({', '.join(zfs.holds)})"
    for mark in ("created", "deleted"):
        if f"snapshot.storage.kubernetes.io/volumesnapshot-being-{mark}" in content.annotations:
            yield f"the snapshotter has not finished: annotation volumesnapshot-being-{mark}"
    yield from _driver_away(ref.source, content.driver, world)
    if content.error:
        yield f"the driver says: {content.error}"


def _after(world: World) -> timedelta:
    return world.settings.rules.deletion_stuck_after


def _nowhere(_ref: Ref, _world: World) -> str | None:
    return None


VOLUME_DELETION_STUCK = Rule(
    id="volume-deletion-stuck",
    title="PersistentVolume whose deletion does not end",
    fix=(
        "Remove what blocked_by names, and it goes by itself. Do not remove the finalizer while the dataset "
        "is there: nobody would delete it any more."
    ),
    severity=Severity.WARNING,
    subject=Kind.PERSISTENT_VOLUME,
    needs=frozenset(
        {
            Kind.PERSISTENT_VOLUME,
            Kind.PERSISTENT_VOLUME_CLAIM,
            Kind.VOLUME_ATTACHMENT,
            Kind.CSI_DRIVER,
        }
    ),
    judge=_judge_volume,
    pending=_after,
    nas_of=nas_of_volume,
)

CLAIM_DELETION_STUCK = Rule(
    id="claim-deletion-stuck",
    title="PersistentVolumeClaim whose deletion does not end",
    fix=(
        "Stop the pods that use it, or mend the snapshot that is being taken of it; then it goes by itself. "
        "With reclaim policy Delete the data goes with it."
    ),
    severity=Severity.WARNING,
    subject=Kind.PERSISTENT_VOLUME_CLAIM,
    needs=frozenset(
        {
            Kind.PERSISTENT_VOLUME_CLAIM,
            Kind.PERSISTENT_VOLUME,
            Kind.STORAGE_CLASS,
            Kind.POD,
            Kind.VOLUME_SNAPSHOT,
        }
    ),
    judge=_judge_claim,
    pending=_after,
    nas_of=_nowhere,
)

_SNAPSHOT_KINDS = frozenset(
    {
        Kind.VOLUME_SNAPSHOT,
        Kind.VOLUME_SNAPSHOT_CONTENT,
        Kind.VOLUME_SNAPSHOT_CLASS,
        Kind.PERSISTENT_VOLUME_CLAIM,
        Kind.CSI_DRIVER,
    }
)

SNAPSHOT_DELETION_STUCK = Rule(
    id="snapshot-deletion-stuck",
    title="VolumeSnapshot whose deletion does not end",
    fix=(
        "Remove what blocked_by names. If nothing is, look at the snapshot controller's log; remove the "
        "finalizer only when the ZFS snapshot is gone."
    ),
    severity=Severity.WARNING,
    subject=Kind.VOLUME_SNAPSHOT,
    needs=_SNAPSHOT_KINDS,
    judge=_judge_snapshot,
    pending=_after,
    nas_of=_nowhere,
)

CONTENT_DELETION_STUCK = Rule(
    id="content-deletion-stuck",
    title="VolumeSnapshotContent whose deletion does not end",
    fix=(
        "Remove what blocked_by names: clones of a detached snapshot have to be promoted or deleted first. "
        "If nothing is named, restart the csi-snapshotter; remove the finalizer only when the ZFS snapshot "
        "is gone."
    ),
    severity=Severity.WARNING,
    subject=Kind.VOLUME_SNAPSHOT_CONTENT,
    needs=_SNAPSHOT_KINDS,
    judge=_judge_content,
    pending=_after,
    nas_of=_nowhere,
)


# Claims that nobody uses

_USERS = frozenset({Kind.PERSISTENT_VOLUME_CLAIM, Kind.PERSISTENT_VOLUME, Kind.POD, Kind.VOLUME_ATTACHMENT})

# A StatefulSet keeps `<template>-<set>-<ordinal>` when it is scaled down (kubernetes v1.34
# pkg/controller/statefulset/stateful_set_utils.go); operators number theirs alike.
_NUMBERED = re.compile(r".+-[0-9]+")


def _judge_unused(ref: Ref, world: World) -> Judgement:
    claim = world.claim(ref)
    if claim is None:
        return Clear("the claim is gone")
    if claim.phase != "Bound" or claim.deleted_at is not None or not claim.volume_name:
        return Clear(f"the claim is {'being deleted' if claim.deleted_at else claim.phase}")
    volume = world.volume(Ref(ref.source, Kind.PERSISTENT_VOLUME, claim.volume_name))
    if volume is None or not csi.is_provisioned(volume):
        return Clear("democratic-csi did not make its volume")
    if ignored(claim.annotations) or ignored(volume.annotations):
        return Clear("it is exempted by its annotation truetally.io/ignore")
    if reason := _may_be_wanted(ref, claim, world):
        return Clear(reason)
    if reason := _is_used(ref, claim, world):
        return Clear(reason)
    after = world.settings.rules.claim_unused_after
    if world.now - claim.created_at < after:
        return Clear("it is not old enough", claim.created_at + after)
    if reason := _is_used_on_nas(ref.source, claim, world):
        return Clear(reason)
    facts: dict[str, Fact] = {
        "volume": claim.volume_name,
        "storage_class": claim.storage_class,
        "capacity_bytes": claim.capacity_bytes or claim.requested_bytes,
        "created_at": claim.created_at.isoformat(),
        "reclaim_policy": volume.reclaim_policy,
    }
    return Evidence(f"No pod has used claim {ref.name} for {after.days} days", facts)


def _may_be_wanted(ref: Ref, claim: k8s.PersistentVolumeClaim, world: World) -> str:
    """Who may want a claim that no pod uses; truetally sees neither StatefulSets nor CronJobs."""
    if claim.owners:
        return f"{claim.owners[0]} owns it"
    if _NUMBERED.fullmatch(claim.name):
        return "its name is one that a StatefulSet gives, which may be scaled to 0"
    if world.sharing(f"C:{ref.source}/{claim.namespace}/{claim.name}", Kind.PERSISTENT_VOLUME_CLAIM):
        return "another claim is made from it"
    return ""


def _is_used(ref: Ref, claim: k8s.PersistentVolumeClaim, world: World) -> str:
    """Who uses a claim, or has done so lately; a pod that has ended is a sign of a job that comes again."""
    cluster = ref.source
    for pod in world.sharing(f"c:{cluster}/{claim.namespace}/{claim.name}", Kind.POD):
        return f"pod {pod.name} uses it, or has used it"
    for attachment in world.sharing(f"v:{cluster}/{claim.volume_name}", Kind.VOLUME_ATTACHMENT):
        return f"attachment {attachment.name} stands for it"
    return ""


def _is_used_on_nas(cluster: str, claim: k8s.PersistentVolumeClaim, world: World) -> str:
    """Who is connected to the volume, of those that the NAS can tell."""
    found = chains.backing(world, Ref(cluster, Kind.PERSISTENT_VOLUME, claim.volume_name))
    if found is None or found.nas is None or found.dataset is None:
        return "where its data is is not known, so nobody can be seen to use it"
    nas, dataset = found.nas, world.dataset(found.nas, found.dataset.name)
    for session in chains.live_sessions(world, nas, found.dataset.name):
        return f"an {session} is on it"
    if found.backend.protocol is csi.Protocol.SMB and not world.graph.proves_absence(nas, Kind.SMB_CLIENT):
        return f"{nas} does not tell who is connected to its SMB shares"
    mounted = csi.dataset_of_mount((dataset.mountpoint if dataset else None) or found.dataset.name)
    for client in chains.clients_of(world, nas, mounted):
        return f"{client} uses it"
    return ""


def _confirmed_unused(ref: Ref, world: World, since: float) -> str:
    return "" if world.listed_since(_USERS, (ref.source,), since) else "the cluster has not been read again"


CLAIM_UNUSED = Rule(
    id="claim-unused",
    title="PersistentVolumeClaim that no pod uses",
    fix=(
        "Look whether a workload that is scaled to 0 or a rare job wants it. If not, take a snapshot and "
        "delete the claim; if so, annotate it with truetally.io/ignore."
    ),
    severity=Severity.INFO,
    subject=Kind.PERSISTENT_VOLUME_CLAIM,
    needs=_USERS,
    judge=_judge_unused,
    pending=lambda world: world.settings.rules.claim_unused_after,
    nas_of=_nowhere,
    reread=lambda ref, _world: Reread(Order.CLUSTER_FIRST, cluster_kinds=_USERS, cluster=ref.source),
    confirmed=_confirmed_unused,
)
