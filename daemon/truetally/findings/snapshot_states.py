"""Snapshots that both sides know and that are not as they should be.

They are not ready, do not tell their size, have been destroyed and wait, or are in the
way of a volume's deletion. Nothing here is called unused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from truetally.csi import democratic_csi as csi
from truetally.findings.ownership import IGNORE, exemption_mark
from truetally.findings.rule import Clear, Evidence, Judgement, Rule
from truetally.findings.volumes import ignored, nas_of_volume
from truetally.graph import chains
from truetally.graph.graph import value_of
from truetally.graph.snapshots import clones, made
from truetally.graph.world import World
from truetally.model import kubernetes as k8s
from truetally.model.findings import Fact, Severity
from truetally.model.refs import Kind, Ref
from truetally.model.snapshots import Maker

_EXEMPT = "it is exempted by its annotation truetally.io/ignore"
_NAMED = 10


def _nowhere(_ref: Ref, _world: World) -> str | None:
    """The cluster alone is judged."""
    return None


# Not ready


def _judge_ready(ref: Ref, world: World) -> Judgement:
    snapshot = value_of(world.node(ref), k8s.VolumeSnapshot)
    if snapshot is None:
        return Clear("the VolumeSnapshot is gone")
    if snapshot.deleted_at is not None:
        return Clear("it is being deleted")
    if snapshot.ready:
        return Clear("it is ready to use")
    if ignored(snapshot.annotations):
        return Clear(_EXEMPT)
    content = _content_of(snapshot, ref.source, world)
    class_ = _class_of(snapshot, ref.source, world)
    drivers = _drivers(snapshot, content, class_, ref.source, world)
    if not any(world.is_our_driver(ref.source, driver) for driver in drivers):
        return Clear("it is not known to be a snapshot of democratic-csi")
    rules = world.settings.rules
    if class_ is not None and csi.makes_detached_snapshots(class_.parameters):
        # All data is copied, for which the driver waits as long as it takes (domain notes, §1.7).
        until = snapshot.created_at + rules.detached_snapshot_not_ready_after
        if world.now < until:
            return Clear("it is a detached snapshot, and all its data is being copied", until)
    cause = snapshot.error or (content.error if content is not None else "")
    cause = cause or _event(ref.source, (snapshot.uid, content.uid if content is not None else ""), world)
    facts: dict[str, Fact] = {
        "cause": cause or None,
        "claim": f"{snapshot.namespace}/{snapshot.source_claim}" if snapshot.source_claim else None,
        "snapshot_class": snapshot.snapshot_class or None,
        "content": content.name if content is not None else None,
        "snapshot_handle": content.snapshot_handle or None if content is not None else None,
    }
    why = cause or (
        "no event says why; look whether the snapshot controller and the csi-snapshotter run"
        if content is not None
        else "it has no VolumeSnapshotContent; look whether the snapshot controller runs"
    )
    return Evidence(f"VolumeSnapshot {ref.name} is not ready to use: {why}", facts, snapshot.created_at)


def _content_of(snapshot: k8s.VolumeSnapshot, cluster: str, world: World) -> k8s.VolumeSnapshotContent | None:
    name = snapshot.bound_content or snapshot.source_content
    if not name:
        # The content is made before the VolumeSnapshot is told its name, and is called after its uid.
        name = f"snapcontent-{snapshot.uid}"
    return value_of(world.node(Ref(cluster, Kind.VOLUME_SNAPSHOT_CONTENT, name)), k8s.VolumeSnapshotContent)


def _class_of(snapshot: k8s.VolumeSnapshot, cluster: str, world: World) -> k8s.VolumeSnapshotClass | None:
    node = world.node(Ref(cluster, Kind.VOLUME_SNAPSHOT_CLASS, snapshot.snapshot_class))
    return value_of(node, k8s.VolumeSnapshotClass)


def _drivers(
    snapshot: k8s.VolumeSnapshot,
    content: k8s.VolumeSnapshotContent | None,
    class_: k8s.VolumeSnapshotClass | None,
    cluster: str,
    world: World,
) -> list[str]:
    """Whose snapshot it is: its content says so, or its class, or the volume that it is taken of."""
    if content is not None:
        return [content.driver]
    if class_ is not None:
        return [class_.driver]
    claim = world.claim(
        Ref(cluster, Kind.PERSISTENT_VOLUME_CLAIM, f"{snapshot.namespace}/{snapshot.source_claim}")
    )
    if claim is None:
        return []
    volume = world.volume(Ref(cluster, Kind.PERSISTENT_VOLUME, claim.volume_name))
    return [volume.csi.driver] if volume is not None and volume.csi is not None else []


def _event(cluster: str, uids: Iterable[str], world: World) -> str:
    """The youngest warning about one of the objects."""
    refs = [r for uid in uids if uid for r in world.sharing(f"e:{cluster}/{uid}", Kind.EVENT)]
    events = [event for r in refs if (event := value_of(world.node(r), k8s.Event)) is not None]
    warnings = [event for event in events if event.type == "Warning"]
    if not warnings:
        return ""
    last = max(warnings, key=lambda event: event.last_at.timestamp() if event.last_at else 0.0)
    return f"{last.reason}: {last.message}"


SNAPSHOT_NOT_READY = Rule(
    id="snapshot-not-ready",
    title="VolumeSnapshot that is not ready to use",
    fix=(
        "Read the cause. Mend the VolumeSnapshotClass, the driver or the NAS; then it becomes ready by "
        "itself. Until then nothing can be restored from it, and the claim that it is taken of stays."
    ),
    severity=Severity.WARNING,
    subject=Kind.VOLUME_SNAPSHOT,
    needs=frozenset(
        {
            Kind.VOLUME_SNAPSHOT,
            Kind.VOLUME_SNAPSHOT_CONTENT,
            Kind.VOLUME_SNAPSHOT_CLASS,
            Kind.PERSISTENT_VOLUME_CLAIM,
            Kind.PERSISTENT_VOLUME,
        }
    ),
    judge=_judge_ready,
    pending=lambda world: world.settings.rules.snapshot_not_ready_after,
    nas_of=_nowhere,
)


# Without a size


def _judge_size(ref: Ref, world: World) -> Judgement:
    content = value_of(world.node(ref), k8s.VolumeSnapshotContent)
    if content is None:
        return Clear("the content is gone")
    if content.deleted_at is not None:
        return Clear("it is being deleted")
    if not content.ready:
        return Clear("it is not ready, and need not tell its size yet")
    if content.restore_size_bytes:
        return Clear(f"its size is {content.restore_size_bytes} bytes")
    if not world.is_our_driver(ref.source, content.driver):
        return Clear("it is no snapshot of democratic-csi")
    if ignored(content.annotations):
        return Clear(_EXEMPT)
    facts: dict[str, Fact] = {
        "restore_size_bytes": content.restore_size_bytes,
        "snapshot": f"{content.snapshot_namespace}/{content.snapshot_name}"
        if content.snapshot_name
        else None,
        "snapshot_handle": content.snapshot_handle or content.source_snapshot_handle or None,
    }
    return Evidence(
        f"VolumeSnapshotContent {ref.name} does not tell how large a restored volume must be", facts
    )


SNAPSHOT_WITHOUT_RESTORE_SIZE = Rule(
    id="snapshot-without-restore-size",
    title="VolumeSnapshotContent without restoreSize",
    fix=(
        "Ask for at least the size of the original volume when you restore from it: programs that rely on "
        "restoreSize (KubeVirt's smart clone, Velero) fail. Newer versions of democratic-csi tell it."
    ),
    severity=Severity.INFO,
    subject=Kind.VOLUME_SNAPSHOT_CONTENT,
    needs=frozenset({Kind.VOLUME_SNAPSHOT_CONTENT}),
    judge=_judge_size,
    pending=lambda world: world.settings.rules.snapshot_not_ready_after,
    nas_of=_nowhere,
)


# Destroyed, and waiting


def _judge_deferred(ref: Ref, world: World) -> Judgement:
    snapshot = world.snapshot(ref)
    if snapshot is None:
        return Clear("the snapshot is gone")
    if not snapshot.defer_destroy:
        return Clear("nobody has destroyed it, as far as this NAS tells")
    dataset = world.dataset(ref.source, snapshot.dataset)
    if dataset is not None and (mark := exemption_mark(dataset)):
        return Clear(f"its dataset is exempted by its property {IGNORE}={mark}")
    dependent = clones(world, ref, snapshot)
    facts: dict[str, Fact] = {
        "clones": dependent[:_NAMED],
        "holds": snapshot.holds,
        "used_bytes": snapshot.used_bytes,
        "created_at": snapshot.created_at.isoformat() if snapshot.created_at else None,
    }
    waits_for = f"clone {dependent[0]}" if len(dependent) == 1 else "its last clone or hold"
    return Evidence(f"ZFS snapshot {ref.name} is destroyed, and waits for {waits_for}", facts)


SNAPSHOT_DEFERRED = Rule(
    id="snapshot-deferred",
    title="Destroyed snapshot that waits for its clones",
    fix=(
        "Nothing has to be done: ZFS destroys it with its last clone. democratic-csi has told Kubernetes "
        "that it is gone. To be rid of it earlier, delete the volumes that were made from it."
    ),
    severity=Severity.INFO,
    subject=Kind.SNAPSHOT,
    needs=frozenset({Kind.SNAPSHOT, Kind.DATASET}),
    judge=_judge_deferred,
    pending=lambda world: world.settings.rules.grace,
)


# In the way of a deletion

# democratic-csi destroys its own with the volume (1.9) or has them deleted first (`next`); one that something
# was cloned from is in the way by its clone.
_OWN = frozenset({Maker.CSI, Maker.VELERO, Maker.CLONE_SOURCE})


def _judge_blocking(ref: Ref, world: World) -> Judgement:
    volume = world.volume(ref)
    if volume is None:
        return Clear("the volume is gone")
    if volume.phase not in ("Released", "Failed"):
        return Clear(f"the volume is {volume.phase}")
    if volume.reclaim_policy != "Delete":
        return Clear(f"its reclaim policy is {volume.reclaim_policy}: nobody deletes its dataset")
    if volume.csi is None or not world.is_our_driver(ref.source, volume.csi.driver):
        return Clear("it is no volume of democratic-csi")
    if ignored(volume.annotations):
        return Clear(_EXEMPT)
    where = _dataset_of(ref, volume, world)
    if where is None:
        return Clear("truetally does not know its dataset")
    dependent = chains.clones_of(world, where.source, where.name)
    snapshots = chains.snapshots_of(world, where.source, where.name)
    foreign = [s for s in snapshots if (m := made(world, s)) is not None and m.maker not in _OWN]
    held = [s for s in snapshots if (value := world.snapshot(s)) is not None and value.holds]
    if not dependent and not foreign and not held:
        return Clear("no clone, hold or foreign snapshot is in the way of its deletion")
    facts: dict[str, Fact] = {
        "dataset": where.name,
        "clones": tuple(_with_claim(world, clone) for clone in dependent[:_NAMED]),
        "held": tuple(s.name.partition("@")[2] for s in held[:_NAMED]),
        "foreign_snapshots": tuple(s.name.partition("@")[2] for s in foreign[:_NAMED]),
        "made_by": _makers(world, foreign),
        "message": volume.status_message or None,
    }
    return Evidence(_in_the_way(ref.name, dependent, held, foreign), facts, volume.phase_changed_at)


def _dataset_of(ref: Ref, volume: k8s.PersistentVolume, world: World) -> Ref | None:
    """The volume's dataset. A delete that failed has taken the share or target away before, and with it what
    leads from the volume to the dataset; then the dataset's own mark has to say that it is the volume's."""
    found = chains.backing(world, ref)
    if found is None or found.dataset is None or found.strength == chains.EXACT:
        return found.dataset if found is not None else None
    dataset = world.dataset(found.dataset.source, found.dataset.name)
    is_own = (
        dataset is not None and csi.is_managed(dataset) and csi.own(dataset, csi.VOLUME_NAME) == volume.name
    )
    return found.dataset if is_own else None


def _with_claim(world: World, clone: Ref) -> str:
    for ref in world.sharing(f"h:{clone.name.rpartition('/')[2]}", Kind.PERSISTENT_VOLUME):
        volume = world.volume(ref)
        if volume is not None and volume.claim is not None:
            return f"{clone.name} (claim {volume.claim.namespace}/{volume.claim.name} in {ref.source})"
    return clone.name


def _makers(world: World, snapshots: Sequence[Ref]) -> tuple[str, ...]:
    count = Counter(m.maker.value for each in snapshots if (m := made(world, each)) is not None)
    return tuple(f"{maker}: {number}" for maker, number in count.most_common())


def _in_the_way(name: str, dependent: Sequence[Ref], held: Sequence[Ref], foreign: Sequence[Ref]) -> str:
    if dependent:
        return f"Volume {name} cannot be deleted because of {_number(dependent, 'clone')}"
    if held:
        return f"Volume {name} cannot be deleted because of {_number(held, 'held snapshot')}"
    what = _number(foreign, "snapshot")
    return f"Volume {name} is not deleted, maybe because of {what} not made by democratic-csi"


def _number(things: Sequence[Ref], what: str) -> str:
    return f"1 {what}" if len(things) == 1 else f"{len(things)} {what}s"


SNAPSHOT_BLOCKS_DELETE = Rule(
    id="snapshot-blocks-delete",
    title="Snapshots or clones in the way of a volume's deletion",
    fix=(
        "Clones: delete the claims that were made from this volume, or promote their datasets. Holds: see "
        "who holds, and release them. Foreign snapshots: democratic-csi 1.9 destroys them with the volume, "
        "newer versions refuse; if nobody needs them, destroy just those. Then the driver deletes the volume "
        "itself. Do not remove the volume's finalizers: its dataset would be orphaned."
    ),
    severity=Severity.WARNING,
    subject=Kind.PERSISTENT_VOLUME,
    needs=frozenset({Kind.PERSISTENT_VOLUME, Kind.DATASET, Kind.SNAPSHOT, Kind.VOLUME_SNAPSHOT_CONTENT}),
    judge=_judge_blocking,
    pending=lambda world: world.settings.rules.released_after,
    nas_of=nas_of_volume,
)
