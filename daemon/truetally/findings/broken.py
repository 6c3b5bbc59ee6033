"""Broken links: both ends of a volume exist, and the way between them is missing or leads elsewhere.

A volume whose share, target or extent is gone cannot be mounted, although its data is
safe; democratic-csi does not make it again by itself (domain notes on democratic-csi,
§1.5). Worse is a way that leads to the data of another volume: with a retained target
of the same name, a new claim gets an old one's data (democratic-csi issue #289). On
the side of Kubernetes a claim can lose its volume, and a snapshot's content its
VolumeSnapshot.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import msgspec

from truetally.csi import democratic_csi as csi
from truetally.findings.exposure import Exposure, exposure
from truetally.findings.ownership import exemption_mark, ownership
from truetally.findings.rule import Clear, Evidence, Judgement, Order, Reread, Rule
from truetally.findings.volumes import claim_is_ours, ignored, nas_of_volume, pods_using
from truetally.graph.graph import value_of
from truetally.graph.world import World
from truetally.model import kubernetes as k8s
from truetally.model.findings import Fact, Severity
from truetally.model.refs import Kind, Ref
from truetally.model.truenas import Dataset, Origin

_VOLUMES = frozenset({Kind.PERSISTENT_VOLUME, Kind.PERSISTENT_VOLUME_CLAIM})
_WAY = frozenset(
    {
        Kind.POOL,
        Kind.DATASET,
        Kind.NFS_SHARE,
        Kind.SMB_SHARE,
        Kind.ISCSI_TARGET,
        Kind.ISCSI_EXTENT,
        Kind.ISCSI_TARGET_EXTENT,
        Kind.NVME_SUBSYSTEM,
        Kind.NVME_NAMESPACE,
    }
)

# The drivers that make their shares through TrueNAS. The others (zfs-generic-*) use `sharenfs`, targetcli or
# nvmetcli behind its back, so that their shares are in no list of it (democratic-csi 1.9.4, src/driver).
_SHARING_DRIVERS = ("freenas-", "truenas-")

_BLOCK = frozenset({csi.Protocol.ISCSI, csi.Protocol.NVMEOF})


def _soon(world: World) -> timedelta:
    return min(world.settings.rules.grace, timedelta(minutes=5))


class _Mount(msgspec.Struct, frozen=True):
    """A volume that pods are meant to mount now, and where."""

    volume: k8s.PersistentVolume
    claim: k8s.ClaimRef
    backend: csi.Backend
    nas: str

    @property
    def handle(self) -> str:
        return self.volume.csi.volume_handle if self.volume.csi else ""

    @property
    def of_claim(self) -> str:
        return f"volume {self.volume.name} of claim {self.claim.namespace}/{self.claim.name}"


def _mount(ref: Ref, world: World) -> _Mount | Clear:
    """The volume, if it is in regular use: bound, made by democratic-csi, on a NAS that is watched."""
    volume = world.volume(ref)
    if volume is None:
        return Clear("the volume is gone")
    if ignored(volume.annotations):
        return Clear("it is exempted by its annotation truetally.io/ignore")
    if volume.deleted_at is not None or volume.phase != "Bound" or volume.claim is None:
        return Clear(f"it is {'being deleted' if volume.deleted_at else volume.phase or 'not bound'}")
    if not csi.is_provisioned(volume) or volume.csi is None:
        return Clear("democratic-csi did not make it, so truetally does not know how it is shared")
    driver = volume.csi.attributes.get("provisioner_driver", "")
    if not driver.startswith(_SHARING_DRIVERS):
        return Clear(f"driver {driver} does not share its volumes through TrueNAS")
    if world.now - volume.created_at < _soon(world):
        return Clear("it has only just been made", volume.created_at + _soon(world))
    if reason := _claim_is_leaving(ref.source, volume.claim, world):
        return Clear(reason)
    backend = csi.backend(volume)
    nas = world.nas_at(backend.hosts) if backend is not None else None
    if backend is None or nas is None:
        return Clear("its data is on no configured NAS")
    return _Mount(volume, volume.claim, backend, nas)


def _claim_is_leaving(cluster: str, bound: k8s.ClaimRef, world: World) -> str:
    claim = world.claim(Ref(cluster, Kind.PERSISTENT_VOLUME_CLAIM, f"{bound.namespace}/{bound.name}"))
    if claim is None or (bound.uid and claim.uid != bound.uid):
        return "its claim is gone, so it is about to be released"
    if claim.deleted_at is not None:
        return "its claim is being deleted"
    if ignored(claim.annotations):
        return "its claim is exempted by its annotation truetally.io/ignore"
    return ""


def _home(world: World, mount: _Mount) -> Dataset | None:
    """The one dataset on the NAS that carries the volume's own marks, whatever its share leads to."""
    names = dict.fromkeys((mount.volume.name, mount.handle))
    refs = dict.fromkeys(ref for name in names for ref in world.sharing(f"h:{name}", Kind.DATASET))
    datasets = (world.dataset(ref.source, ref.name) for ref in refs if ref.source == mount.nas)
    own = [d for d in datasets if d is not None and _is_home(d, mount)]
    return own[0] if len(own) == 1 else None


def _is_surely_home(world: World, mount: _Mount, home: Dataset) -> bool:
    """Whether the dataset lies where volumes of a watched cluster lie; a copy of it may lie anywhere."""
    if mount.backend.protocol is csi.Protocol.NFS and home.path == mount.backend.path:
        return True
    return ownership(world, mount.nas, home).proven


def _is_home(dataset: Dataset, mount: _Mount) -> bool:
    if not csi.is_managed(dataset) or csi.own(dataset, csi.SNAPSHOT_NAME):
        return False
    if dataset.readonly or any(p.origin is Origin.RECEIVED for p in dataset.user_properties.values()):
        return False
    # TrueNAS 25.10+ does not tell an inherited property from an own one: there the name has to agree.
    hidden = dataset.user_properties[csi.MANAGED].origin is Origin.UNKNOWN
    if dataset.leaf != mount.handle and (hidden or csi.own(dataset, csi.VOLUME_NAME) != mount.volume.name):
        return False
    attributes = mount.volume.csi.attributes if mount.volume.csi else {}
    return csi.own(dataset, csi.PROVISIONER_DRIVER) == attributes.get("provisioner_driver", "") and csi.own(
        dataset, csi.INSTANCE_ID
    ) == attributes.get("provisioner_driver_instance_id", "")


def _expected(world: World, mount: _Mount) -> Dataset | None:
    """The dataset that the volume ought to lead to: what its own path proves, or what carries its marks."""
    if mount.backend.protocol is csi.Protocol.NFS:
        return _dataset_at(world, mount.nas, mount.backend.path)
    return _home(world, mount)


def _judge_share(ref: Ref, world: World) -> Judgement:
    mount = _mount(ref, world)
    if isinstance(mount, Clear):
        return mount
    way = exposure(world, mount.nas, mount.volume, mount.backend, "")
    served = _dataset_at(world, mount.nas, way.path) if way.path else None
    if served is not None and not served.locked:
        return Clear(f"it is served by {way.by}")
    home = _expected(world, mount)
    if home is None:
        return Clear("which dataset is its own is not known")
    if mark := exemption_mark(home):
        return Clear(f"its dataset is exempted by its property truetally:ignore={mark}")
    if not world.pool_is_there(mount.nas, home.pool):
        return Clear(f"pool {home.pool} is not there to be looked at")
    if home.locked:
        locked = Exposure(broken=f"dataset {home.path} is locked", mend=f"unlock dataset {home.path}")
        return _unmountable(ref, world, mount, home, locked)
    if served is not None:
        return Clear(f"{served.path}, to which {way.by} leads, is locked")
    way = exposure(world, mount.nas, mount.volume, mount.backend, home.path)
    if way.unknown:
        return Clear(way.unknown)
    if way.broken:
        return _unmountable(ref, world, mount, home, way)
    if mount.backend.protocol not in _BLOCK:
        return Clear(f"{way.by} serves a directory")
    if not world.pool_is_there(mount.nas, way.path.partition("/")[0]):
        return Clear(f"the pool of {way.path} is not there to be looked at")
    nothing = msgspec.structs.replace(way, broken=f"{way.by} leads to {way.path}, which does not exist")
    return _unmountable(ref, world, mount, home, nothing)


def _unmountable(ref: Ref, world: World, mount: _Mount, home: Dataset, way: Exposure) -> Judgement:
    if not _is_surely_home(world, mount, home):
        return Clear(f"whether {home.path} is its own dataset is not known")
    pods = _pods(ref.source, mount.claim, world)
    facts: dict[str, Fact] = {
        "nas": mount.nas,
        "claim": f"{mount.claim.namespace}/{mount.claim.name}",
        "protocol": mount.backend.protocol.value,
        "dataset": home.path,
        "missing": way.broken,
        "to_mend": way.mend,
        "pods": pods,
    }
    severity = Severity.CRITICAL if pods else None
    return Evidence(f"No pod can mount {mount.of_claim}: {way.broken}", facts, severity=severity)


def _pods(cluster: str, claim: k8s.ClaimRef, world: World) -> tuple[str, ...]:
    return tuple(ref.name for ref, _ in pods_using(world, cluster, claim.namespace, claim.name))[:10]


def _reread_way(ref: Ref, world: World) -> Reread:
    return Reread(
        Order.CLUSTER_FIRST,
        nas=nas_of_volume(ref, world),
        nas_kinds=_WAY,
        cluster_kinds=_VOLUMES,
        cluster=ref.source,
    )


def _confirmed_way(ref: Ref, world: World, since: float) -> str:
    """The volume is newer than the suspicion, and the NAS was read after it."""
    node = world.node(ref)
    if node is None or node.asked_at < since or not world.listed_since(_VOLUMES, (ref.source,), since):
        return "the volume has not been read again"
    nas = nas_of_volume(ref, world)
    if nas is None or not world.listed_since(_WAY, (nas,), node.asked_at):
        return "the NAS has not been read after the cluster"
    return ""


VOLUME_SHARE_MISSING = Rule(
    id="volume-share-missing",
    title="PersistentVolume that cannot be mounted because its share, target or extent is missing",
    fix=(
        "The data is there, and only the way to it is broken. democratic-csi does not mend it by itself: do "
        "what to_mend says. The new share's id has to be written on the dataset, or the driver will leave "
        "the share behind when it deletes the volume."
    ),
    severity=Severity.WARNING,
    subject=Kind.PERSISTENT_VOLUME,
    needs=_VOLUMES | _WAY,
    judge=_judge_share,
    pending=_soon,
    nas_of=nas_of_volume,
    reread=_reread_way,
    confirmed=_confirmed_way,
)


def _judge_data(ref: Ref, world: World) -> Judgement:
    mount = _mount(ref, world)
    if isinstance(mount, Clear):
        return mount
    way = exposure(world, mount.nas, mount.volume, mount.backend, "")
    if way.unknown or way.broken:
        return Clear(way.unknown or f"it serves nothing: {way.broken}")
    served = _dataset_at(world, mount.nas, way.path)
    if served is None:
        return Clear(f"{way.by} leads to no dataset of its own")
    if reason := _its_own(served, mount):
        return Clear(reason)
    if served.locked:
        return Clear(f"{served.path}, to which {way.by} leads, is locked")
    home = _home(world, mount)
    for dataset in (served, home):
        if dataset is not None and (mark := exemption_mark(dataset)):
            return Clear(f"{dataset.path} is exempted by its property truetally:ignore={mark}")
    owner = _owner_of(ref, served, world)
    if home is not None and not _is_surely_home(world, mount, home):
        home = None
    if home is None and owner is None:
        return Clear(f"nothing proves that {served.path} belongs to another volume")
    if home is not None:
        way = exposure(world, mount.nas, mount.volume, mount.backend, home.path)
    name = owner.name if owner is not None else csi.own(served, csi.VOLUME_NAME)
    facts: dict[str, Fact] = {
        "nas": mount.nas,
        "claim": f"{mount.claim.namespace}/{mount.claim.name}",
        "protocol": mount.backend.protocol.value,
        "served_by": way.by,
        "serves": served.path,
        "serves_volume": name,
        "own_dataset": home.path if home is not None else None,
        "to_mend": (way.mend or None) if home is not None else None,
        "other_volume": str(owner) if owner is not None else None,
        "pods": _pods(ref.source, mount.claim, world),
    }
    return Evidence(
        f"V{mount.of_claim[1:]} serves the data of {name}: {way.by} leads to {served.path}", facts
    )


def _dataset_at(world: World, nas: str, path: str) -> Dataset | None:
    for ref in world.sharing(f"p:{path}", Kind.DATASET):
        if ref.source == nas:
            return world.dataset(nas, ref.name)
    return None


def _its_own(served: Dataset, mount: _Mount) -> str:
    """Why the dataset that is served may well be the volume's own; empty if it is marked as another's."""
    marked = csi.own(served, csi.VOLUME_NAME)
    if not csi.is_managed(served) or not marked or csi.own(served, csi.SNAPSHOT_NAME):
        return f"{served.path} is marked as no volume's; somebody may have put it there"
    if served.user_properties[csi.MANAGED].origin is Origin.UNKNOWN and marked != served.leaf:
        return f"this TrueNAS hides whether {served.path} carries its mark itself"
    if not {marked, served.leaf}.isdisjoint({mount.volume.name, mount.handle}):
        return f"{served.path} carries its name"
    if mount.claim.uid and csi.uuid_in(marked) == mount.claim.uid.lower():
        return f"{served.path} was made for its claim"
    return ""


def _owner_of(ref: Ref, dataset: Dataset, world: World) -> Ref | None:
    """Another volume, in any watched cluster, that the dataset's own marks name."""
    names = dict.fromkeys((csi.own(dataset, csi.VOLUME_NAME), dataset.leaf))
    for other in (o for name in names for o in world.sharing(f"h:{name}", Kind.PERSISTENT_VOLUME)):
        volume = world.volume(other)
        if other == ref or volume is None or volume.csi is None or not csi.is_provisioned(volume):
            continue
        if other.name == csi.own(dataset, csi.VOLUME_NAME) or volume.csi.volume_handle == dataset.leaf:
            return other
    return None


VOLUME_SERVES_OTHER_DATA = Rule(
    id="volume-serves-other-data",
    title="PersistentVolume that serves the data of another volume",
    fix=(
        "Stop the pods of the claim at once: they read, and may overwrite, what is not theirs. Keep a "
        "snapshot of both datasets, then do what to_mend says, and start the pods again."
    ),
    severity=Severity.CRITICAL,
    subject=Kind.PERSISTENT_VOLUME,
    needs=_VOLUMES | _WAY,
    judge=_judge_data,
    pending=_soon,
    nas_of=nas_of_volume,
    reread=_reread_way,
    confirmed=_confirmed_way,
)


def _judge_lost(ref: Ref, world: World) -> Judgement:
    claim = world.claim(ref)
    if claim is None:
        return Clear("the claim is gone")
    if claim.phase != "Lost" or claim.deleted_at is not None:
        return Clear(f"the claim is {'being deleted' if claim.deleted_at else claim.phase}")
    if ignored(claim.annotations):
        return Clear("it is exempted by its annotation truetally.io/ignore")
    kept = _datasets_of(claim.volume_name, world)
    if not (claim_is_ours(ref.source, claim, world) or kept):
        return Clear("it is no claim of democratic-csi")
    volume = world.volume(Ref(ref.source, Kind.PERSISTENT_VOLUME, claim.volume_name))
    if volume is not None and volume.claim is None:
        return Clear(f"volume {claim.volume_name} is back, and waits to be bound")
    if volume is not None and volume.claim is not None and volume.claim.uid in ("", claim.uid):
        return Clear(f"volume {claim.volume_name} is back, and names this claim")
    why = f"volume {claim.volume_name} does not exist" if claim.volume_name else "it names no volume any more"
    if volume is not None and volume.claim is not None:
        other = f"{volume.claim.namespace}/{volume.claim.name}"
        why = f"volume {claim.volume_name} is bound to claim {other} (uid {volume.claim.uid})"
    facts: dict[str, Fact] = {
        "volume": claim.volume_name,
        "because": (why,),
        "datasets": tuple(kept),
        "requested_bytes": claim.requested_bytes,
        "storage_class": claim.storage_class,
        "pods": _pods(ref.source, k8s.ClaimRef(claim.namespace, claim.name), world),
    }
    return Evidence(f"Claim {ref.name} has lost its volume: {why}", facts)


def _datasets_of(volume: str, world: World) -> list[str]:
    """The datasets that democratic-csi made for a volume, as `path (NAS)`."""
    refs = world.sharing(f"h:{volume}", Kind.DATASET) if volume else []
    return [
        f"{ref.name} ({ref.source})"
        for ref in refs
        if (dataset := world.dataset(ref.source, ref.name)) is not None and csi.is_managed(dataset)
    ]


_CLAIMED = _VOLUMES | {Kind.STORAGE_CLASS}


def _confirmed_by(kinds: frozenset[Kind]) -> Callable[[Ref, World, float], str]:
    def confirmed(ref: Ref, world: World, since: float) -> str:
        again = world.listed_since(kinds, (ref.source,), since)
        return "" if again else "the cluster has not been read again"

    return confirmed


CLAIM_LOST = Rule(
    id="claim-lost",
    title="PersistentVolumeClaim that has lost its volume",
    fix=(
        "If the data is wanted and a dataset of the volume is still there, create the PersistentVolume again "
        "with the same name, handle and attributes and a claimRef to this claim; then it binds by itself. "
        "Otherwise delete the claim and restore it from a backup."
    ),
    severity=Severity.CRITICAL,
    subject=Kind.PERSISTENT_VOLUME_CLAIM,
    needs=_CLAIMED,
    judge=_judge_lost,
    pending=_soon,
    nas_of=lambda _ref, _world: None,
    reread=lambda ref, _world: Reread(Order.CLUSTER_FIRST, cluster_kinds=_CLAIMED, cluster=ref.source),
    confirmed=_confirmed_by(_CLAIMED),
)


# Backup tools keep a content without its VolumeSnapshot on purpose, to restore from it (velero issue #7511).
_BACKUP_LABELS = ("velero.io/", "k10.kasten.io/", "kanister.io/")


def _judge_content(ref: Ref, world: World) -> Judgement:
    content = value_of(world.node(ref), k8s.VolumeSnapshotContent)
    if content is None:
        return Clear("the content is gone")
    if reason := _content_is_left_alone(ref.source, content, world):
        return Clear(reason)
    grace = world.settings.rules.grace
    if world.now - content.created_at < grace:
        return Clear("it is younger than the grace", content.created_at + grace)
    wanted = f"{content.snapshot_namespace}/{content.snapshot_name}"
    if user := _snapshot_of(ref, content, world):
        return Clear(f"{user} uses it")
    snapshot = next(
        (s for r in world.sharing(f"s:{content.snapshot_handle}", Kind.SNAPSHOT) if (s := world.snapshot(r))),
        None,
    )
    facts: dict[str, Fact] = {
        "volume_snapshot": wanted,
        "volume_snapshot_uid": content.snapshot_uid,
        "deletion_policy": content.deletion_policy,
        "snapshot_handle": content.snapshot_handle or content.source_snapshot_handle,
        "used_bytes": snapshot.used_bytes if snapshot is not None else None,
        "created_at": content.created_at.isoformat(),
    }
    kept = (
        ", and its deletion policy Retain keeps the snapshot" if content.deletion_policy == "Retain" else ""
    )
    severity = Severity.INFO if content.deletion_policy == "Retain" else None
    summary = f"VolumeSnapshot {wanted} of content {ref.name} does not exist{kept}"
    return Evidence(summary, facts, severity=severity)


def _content_is_left_alone(cluster: str, content: k8s.VolumeSnapshotContent, world: World) -> str:
    if content.deleted_at is not None:
        return "it is being deleted"
    if ignored(content.annotations):
        return "it is exempted by its annotation truetally.io/ignore"
    if not world.is_our_driver(cluster, content.driver):
        return "it is no snapshot of democratic-csi"
    if any(label.startswith(_BACKUP_LABELS) for label in content.labels):
        return "a backup tool keeps it on purpose"
    if any(name.startswith(_IN_FLIGHT) for name in content.annotations):
        return "its snapshot is being made or deleted"
    if not content.snapshot_name or not content.snapshot_uid:
        return "a person made it for a VolumeSnapshot that is yet to come"
    if world.graph.completeness(cluster, Kind.VOLUME_SNAPSHOT).absent:
        return "the cluster does not have the snapshot API"
    return ""


_IN_FLIGHT = "snapshot.storage.kubernetes.io/volumesnapshot-being-"


def _snapshot_of(ref: Ref, content: k8s.VolumeSnapshotContent, world: World) -> Ref | None:
    """A VolumeSnapshot that the content was made for, or that names the content."""
    cluster = ref.source
    named = world.sharing(f"k:{cluster}/{ref.name}", Kind.VOLUME_SNAPSHOT)
    uid = content.snapshot_uid.lower()
    same = [r for r in world.sharing(f"u:{uid}", Kind.VOLUME_SNAPSHOT) if r.source == cluster]
    return next(iter(named + same), None)


_SNAPSHOTS = frozenset({Kind.VOLUME_SNAPSHOT, Kind.VOLUME_SNAPSHOT_CONTENT})

CONTENT_UNREFERENCED = Rule(
    id="content-unreferenced",
    title="VolumeSnapshotContent without its VolumeSnapshot",
    fix=(
        "Make sure that no backup needs the snapshot. To restore from it, create a VolumeSnapshot that names "
        "this content; to free it, set its deletionPolicy to Delete and delete the content."
    ),
    severity=Severity.WARNING,
    subject=Kind.VOLUME_SNAPSHOT_CONTENT,
    needs=_SNAPSHOTS,
    judge=_judge_content,
    pending=lambda world: world.settings.rules.grace,
    nas_of=lambda _ref, _world: None,
    reread=lambda ref, _world: Reread(Order.CLUSTER_FIRST, cluster_kinds=_SNAPSHOTS, cluster=ref.source),
    confirmed=_confirmed_by(_SNAPSHOTS),
)
