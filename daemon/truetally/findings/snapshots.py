"""Snapshots that one side has and the other doesn't know.

Only what democratic-csi made as a CSI snapshot is judged: a ZFS snapshot named after a
VolumeSnapshot's uid that carries its own mark. Periodic, replication and clone-source
snapshots inherit the volume's properties, and are nobody's orphan (democratic-csi
issue #562).
"""

from __future__ import annotations

from datetime import timedelta

from truetally.csi import democratic_csi as csi
from truetally.findings.ownership import ownership
from truetally.findings.rule import Clear, Evidence, Judgement, Order, Reread, Rule
from truetally.findings.volumes import ignored
from truetally.graph import chains
from truetally.graph.graph import value_of
from truetally.graph.world import World
from truetally.model import kubernetes as k8s
from truetally.model.findings import Fact, Severity
from truetally.model.memories import MemoryKind
from truetally.model.refs import Kind, Ref
from truetally.model.truenas import Snapshot

_CONTENTS = frozenset(
    {
        Kind.VOLUME_SNAPSHOT,
        Kind.VOLUME_SNAPSHOT_CONTENT,
        Kind.PERSISTENT_VOLUME,
        Kind.PERSISTENT_VOLUME_CLAIM,
    }
)
_ZFS = frozenset({Kind.POOL, Kind.DATASET, Kind.SNAPSHOT})


def _judge_snapshot(ref: Ref, world: World) -> Judgement:
    snapshot = world.snapshot(ref)
    if snapshot is None:
        return Clear("the snapshot is gone")
    if not snapshot.name.startswith("snapshot-") or not csi.uuid_in(snapshot.name):
        return Clear("its name is not one that the snapshotter gives")
    if reason := _wanted(ref, snapshot, world):
        return Clear(reason)
    grace = world.settings.rules.grace
    if snapshot.created_at is None:
        return Clear("its age is unknown")
    if world.now - snapshot.created_at < grace:
        return Clear("it is younger than the grace", snapshot.created_at + grace)
    dataset = world.dataset(ref.source, snapshot.dataset)
    if dataset is None or not csi.is_managed(dataset):
        return Clear("it is on no volume of democratic-csi")
    owner = ownership(world, ref.source, dataset)
    if not (owner.proven and owner.exclusive):
        return Clear(f"its owner is not known: {owner.text}")
    if absent := without_snapshot_api(world):
        return Clear(f"cluster {absent} does not have the snapshot API, so nothing can refer to it there")
    facts: dict[str, Fact] = {
        "dataset": snapshot.dataset,
        "created_at": snapshot.created_at.isoformat(),
        "used_bytes": snapshot.used_bytes,
        "because": (owner.text, "no VolumeSnapshotContent in any watched cluster has its handle"),
    }
    return Evidence(f"No VolumeSnapshotContent refers to ZFS snapshot {ref.name}", facts)


def _wanted(ref: Ref, snapshot: Snapshot, world: World) -> str:
    """Who wants the snapshot; empty if nobody is known to."""
    handle = f"{snapshot.dataset.rpartition('/')[2]}@{snapshot.name}"
    for other in world.sharing(f"s:{handle}", Kind.VOLUME_SNAPSHOT_CONTENT):
        return f"{other} has its handle"
    for other in world.sharing(f"u:{csi.uuid_in(snapshot.name)}", Kind.VOLUME_SNAPSHOT):
        return f"it was made for {other}"
    for other in world.sharing(f"u:{csi.uuid_in(snapshot.name)}", Kind.VOLUME_SNAPSHOT_CONTENT):
        return f"it was made for the VolumeSnapshot of {other}"
    if world.graph.remembered(MemoryKind.SNAPSHOT, handle) is not None:
        return "its content had the deletion policy Retain"
    if snapshot.defer_destroy:
        return "it is destroyed already, and waits for its last clone"
    if snapshot.holds:
        return f"it is held ({', '.join(snapshot.holds)})"
    if snapshot.clones:
        return f"{snapshot.clones[0]} is a clone of it"
    for clone in chains.clones_of(world, ref.source, snapshot.dataset):
        value = world.dataset(clone.source, clone.name)
        if value is not None and value.origin == ref.name:
            return f"{clone} is a clone of it"
    if snapshot.user_properties is not None and not _is_csi(snapshot):
        return "it does not carry democratic-csi's mark itself"
    return ""


def _is_csi(snapshot: Snapshot) -> bool:
    """A snapshot inherits the volume's mark, but not a csi_snapshot_name that is its own name."""
    properties = snapshot.user_properties or {}
    own_name = csi.counted(properties.get(csi.SNAPSHOT_NAME))
    return csi.counted(properties.get(csi.MANAGED)) == "true" and own_name == snapshot.name


def without_snapshot_api(world: World) -> str:
    """A cluster in which nothing can refer to a snapshot, because it has no snapshot CRDs (any more)."""
    for cluster in world.clusters:
        if world.graph.completeness(cluster, Kind.VOLUME_SNAPSHOT_CONTENT).absent:
            return cluster
    return ""


def _confirmed_snapshot(ref: Ref, world: World, since: float) -> str:
    node = world.node(ref)
    snapshot = world.snapshot(ref)
    if node is None or snapshot is None or node.asked_at < since:
        return "the snapshot has not been read again"
    if snapshot.user_properties is None:
        return "the NAS does not tell the snapshot's properties"
    if not world.listed_since(_CONTENTS, world.clusters, node.asked_at):
        return "the clusters have not been read after the NAS"
    return ""


SNAPSHOT_WITHOUT_CONTENT = Rule(
    id="snapshot-without-content",
    title="CSI snapshot on the NAS without VolumeSnapshotContent",
    fix="Make sure that no backup tool still needs it, then destroy this one snapshot (never with -r or -R).",
    severity=Severity.WARNING,
    subject=Kind.SNAPSHOT,
    needs=_CONTENTS | _ZFS,
    judge=_judge_snapshot,
    pending=lambda world: world.settings.rules.grace,
    reread=lambda ref, _world: Reread(
        Order.STORAGE_FIRST, nas=ref.source, objects=frozenset({ref}), cluster_kinds=_CONTENTS
    ),
    confirmed=_confirmed_snapshot,
)


def _content(ref: Ref, world: World) -> k8s.VolumeSnapshotContent | None:
    return value_of(world.node(ref), k8s.VolumeSnapshotContent)


def _volume_dataset(ref: Ref, world: World) -> Ref | None:
    """The dataset that a content's snapshot is on, found by a volume that proves where it is."""
    content = _content(ref, world)
    if content is None:
        return None
    handle = csi.split_snapshot_handle(content.snapshot_handle)[0] or content.source_volume_handle
    for other in world.sharing(f"h:{handle}", Kind.PERSISTENT_VOLUME):
        volume = world.volume(other)
        if volume is None or volume.csi is None or volume.csi.volume_handle != handle:
            continue
        found = chains.backing(world, other)
        if other.source == ref.source and found is not None and found.strength == chains.EXACT:
            return found.dataset
    for driver in world.settings.drivers:
        if driver.cluster == ref.source and driver.driver == content.driver:
            return Ref(driver.nas, Kind.DATASET, f"{driver.parent}/{handle}")
    return None


def _nas_of_content(ref: Ref, world: World) -> str | None:
    dataset = _volume_dataset(ref, world)
    return dataset.source if dataset is not None else None


def _judge_content(ref: Ref, world: World) -> Judgement:
    content = _content(ref, world)
    if content is None:
        return Clear("the content is gone")
    if content.deleted_at is not None:
        return Clear("it is being deleted")
    if ignored(content.annotations):
        return Clear("it is exempted by its annotation truetally.io/ignore")
    if not world.is_our_driver(ref.source, content.driver):
        return Clear("it is no snapshot of democratic-csi")
    handle = content.snapshot_handle
    if not handle or "@" not in handle:
        return Clear("it has no ZFS snapshot of its own (not made yet, or detached)")
    dataset = _volume_dataset(ref, world)
    if dataset is None:
        return Clear("truetally does not know on which NAS its volume is")
    name = csi.split_snapshot_handle(handle)[1]
    path = f"{dataset.name}@{name}"
    if present := world.sharing(f"s:{handle}", Kind.SNAPSHOT, Kind.DATASET):
        return Clear(f"its snapshot is {present[0].name}")
    if not world.pool_is_there(dataset.source, dataset.name.partition("/")[0]):
        return Clear("its pool is not there to be looked at")
    facts: dict[str, Fact] = {
        "nas": dataset.source,
        "expected_at": path,
        "snapshot": f"{content.snapshot_namespace}/{content.snapshot_name}"
        if content.snapshot_name
        else None,
        "deletion_policy": content.deletion_policy,
    }
    return Evidence(f"ZFS snapshot {path}, which content {ref.name} refers to, does not exist", facts)


def _reread_content(ref: Ref, world: World) -> Reread:
    dataset, content = _volume_dataset(ref, world), _content(ref, world)
    objects = set()
    if dataset is not None and content is not None:
        name = csi.split_snapshot_handle(content.snapshot_handle)[1]
        objects = {
            dataset,
            Ref(dataset.source, Kind.SNAPSHOT, f"{dataset.name}@{name}"),
            Ref(dataset.source, Kind.POOL, dataset.name.partition("/")[0]),
        }
    return Reread(
        Order.CLUSTER_FIRST,
        nas=dataset.source if dataset is not None else None,
        objects=frozenset(objects),
        nas_kinds=frozenset({Kind.SNAPSHOT}),
        cluster_kinds=frozenset({Kind.VOLUME_SNAPSHOT_CONTENT}),
        cluster=ref.source,
    )


def _confirmed_content(ref: Ref, world: World, since: float) -> str:
    node = world.node(ref)
    if node is None or node.asked_at < since:
        return "the content has not been read again"
    nas = _nas_of_content(ref, world)
    if nas is None or not world.listed_since({Kind.SNAPSHOT}, (nas,), node.asked_at):
        return "the NAS has not been read after the cluster"
    return ""


CONTENT_WITHOUT_SNAPSHOT = Rule(
    id="content-without-snapshot",
    title="VolumeSnapshotContent whose ZFS snapshot is gone",
    fix="Nothing can be restored from it any more: take a new snapshot, then delete this VolumeSnapshot.",
    severity=Severity.WARNING,
    subject=Kind.VOLUME_SNAPSHOT_CONTENT,
    needs=frozenset({Kind.VOLUME_SNAPSHOT_CONTENT, Kind.PERSISTENT_VOLUME}) | _ZFS,
    judge=_judge_content,
    pending=lambda world: min(world.settings.rules.grace, timedelta(minutes=5)),
    nas_of=_nas_of_content,
    reread=_reread_content,
    confirmed=_confirmed_content,
)
