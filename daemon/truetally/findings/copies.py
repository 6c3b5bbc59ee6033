"""Leftovers of copying: what democratic-csi needed to clone a volume, or to copy a snapshot, and left behind.

To make a volume from another it takes a snapshot `volume-source-for-volume-<new volume>`
of the source, and deletes it with the new volume. For a detached snapshot it makes a
plain dataset `<parent of snapshots>/<volume>` around it, and takes a snapshot
`volume-source-for-snapshot-<name>`. An attempt that is given up leaves them (domain notes on
democratic-csi, §1.5 step 0, §1.6, §4.3). Neither carries a mark of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from truetally.csi import democratic_csi as csi
from truetally.findings import orphans, storage_first
from truetally.findings.ownership import (
    IGNORE,
    Ownership,
    exemption_mark,
    ownership,
    ownership_of_name,
)
from truetally.findings.rule import Clear, Evidence, Judgement, Rule
from truetally.findings.snapshots import without_snapshot_api
from truetally.graph import chains, snapshots
from truetally.graph.world import World
from truetally.model.findings import Severity
from truetally.model.memories import MemoryKind
from truetally.model.refs import Kind, Ref
from truetally.model.truenas import Dataset, DatasetUse, Origin, Snapshot
from truetally.settings import DriverSettings

# A filesystem without a file refers to some 100 KiB of its own; on wide raidz or dRAID to several times more.
_EMPTY_BYTES = 1 << 20
_CLONE_SOURCE = "volume-source-for-"
_RUNNING = "jobs:"

_CLONES = frozenset({Kind.DATASET})
_CONTENTS = frozenset({Kind.POOL, Kind.DATASET, Kind.SNAPSHOT, Kind.NFS_SHARE, Kind.SMB_SHARE})


# Snapshots that were taken to clone from


def _judge_source(ref: Ref, world: World) -> Judgement:
    snapshot = world.snapshot(ref)
    if snapshot is None:
        return Clear("the snapshot is gone")
    if not snapshot.name.startswith(_CLONE_SOURCE):
        return Clear("it was not taken to clone from")
    made = snapshots.made(world, ref)
    if made is None or not csi.uuid_in(made.made_for):
        return Clear("its name does not tell for which claim or VolumeSnapshot it was taken")
    dataset = world.dataset(ref.source, snapshot.dataset)
    if dataset is None or not csi.is_managed(dataset):
        return Clear("it is on no volume of democratic-csi")
    if reason := next(_needed(ref, snapshot, made.made_for, world), ""):
        return Clear(reason, world.now + storage_first.USE_IS_VALID)
    if young := _young(snapshot.created_at, world):
        return young
    if reason := next(_hidden(ref.source, dataset, world), ""):
        return Clear(reason, world.now + storage_first.USE_IS_VALID)
    owner = _owner_of_source(ref.source, dataset, world)
    if not (owner.proven and owner.exclusive):
        return Clear(f"its owner is not known: {owner.text}", world.now + storage_first.USE_IS_VALID)
    because = (owner.text, "nothing is cloned from it", f"nothing in any watched cluster is {made.made_for}")
    return Evidence(
        f"Snapshot {ref.name} was taken to make {made.made_for}, which does not exist",
        {
            "dataset": snapshot.dataset,
            "made_for": made.made_for,
            "used_bytes": snapshot.used_bytes,
            "created_at": snapshot.created_at.isoformat() if snapshot.created_at else None,
            "because": because,
        },
    )


def _needed(ref: Ref, snapshot: Snapshot, made_for: str, world: World) -> Iterator[str]:
    """Who may still need a clone source, or what it was taken for."""
    if made_for.startswith("snapshot-"):
        yield from _untold(world)
    if snapshot.defer_destroy:
        yield "it is destroyed already, and waits for its last clone"
    if snapshot.holds:
        yield f"it is held ({', '.join(snapshot.holds)})"
    for clone in snapshots.clones(world, ref, snapshot):
        yield f"{clone} is a clone of it"
    for reference in chains.references_to_name(world, made_for):
        yield f"{reference.ref} is, or was asked for as, {made_for}"
    volume = snapshot.dataset.rpartition("/")[2]
    for handle in (f"{volume}/{made_for}", f"{volume}@{made_for}"):
        for content in world.sharing(f"s:{handle}", Kind.VOLUME_SNAPSHOT_CONTENT):
            yield f"{content} has the handle {handle}"
    for dataset in chains.datasets_named(world, made_for):
        yield f"{dataset} bears the name {made_for}"
    use = storage_first.use_of(world, ref.source, snapshot.dataset) or DatasetUse()
    for job in use.jobs:
        yield f"job {job} runs on its dataset"
    for unknown in use.unknown:
        if unknown.startswith(_RUNNING):
            yield f"it cannot be read whether a copy runs: {unknown}"


def _owner_of_source(nas: str, dataset: Dataset, world: World) -> Ownership:
    """Whose the snapshot's dataset is: a volume, or a detached snapshot that was restored from."""
    if not csi.own(dataset, csi.SNAPSHOT_NAME):
        return ownership(world, nas, dataset)
    container = world.dataset(nas, dataset.parent)
    driver = _driver_of(world, nas, container) if container is not None else None
    if container is None or driver is None:
        return Ownership(False, False, f"no configured driver has its detached snapshots in {dataset.parent}")
    return ownership_of_name(world, nas, driver.parent, container.leaf)


# Containers of detached snapshots


def _judge_container(ref: Ref, world: World) -> Judgement:
    dataset = world.dataset(ref.source, ref.name)
    if dataset is None:
        return Clear("the dataset is gone")
    driver = _driver_of(world, ref.source, dataset)
    if driver is None:
        return Clear("it lies below no driver's parent of detached snapshots")
    if dataset.kind != "FILESYSTEM" or csi.is_managed(dataset):
        return Clear("it is no container of detached snapshots")
    if world.graph.remembered(MemoryKind.VOLUME, dataset.leaf) is None:
        return Clear("no watched cluster is known to have had a volume of its name")
    if reason := next(_filled(ref, dataset, world), ""):
        return Clear(reason, world.now + storage_first.USE_IS_VALID)
    if young := _young(dataset.created_at, world):
        return young
    if reason := next(_hidden(ref.source, dataset, world), ""):
        return Clear(reason, world.now + storage_first.USE_IS_VALID)
    owner = ownership_of_name(world, ref.source, driver.parent, dataset.leaf)
    if not (owner.proven and owner.exclusive):
        return Clear(f"its owner is not known: {owner.text}", world.now + storage_first.USE_IS_VALID)
    because = (
        owner.text,
        f"{dataset.parent} is configured as its parent of detached snapshots",
        "it holds no dataset and no snapshot, and neither volume nor content is of its name",
    )
    return Evidence(
        f"Dataset {ref.name} was made for detached snapshots, and is empty",
        {
            "volume": dataset.leaf,
            "used_bytes": dataset.used_bytes,
            "created_at": dataset.created_at.isoformat() if dataset.created_at else None,
            "because": because,
        },
    )


def _filled(ref: Ref, dataset: Dataset, world: World) -> Iterator[str]:
    """What is in a container, and who wants it or its volume."""
    yield from _untold(world)
    nas, path = ref.source, ref.name
    for part in chains.children_of(world, nas, path) + chains.snapshots_of(world, nas, path):
        yield f"{part} is in it"
    if dataset.referenced_bytes is None:
        yield "the NAS does not tell how much it holds"
    elif dataset.referenced_bytes > _EMPTY_BYTES:
        yield f"it holds {dataset.referenced_bytes} bytes, so a person may keep files there"
    for reference in chains.references(world, ref):
        yield f"{reference.ref} refers to it ({reference.how})"
    for reference in chains.references_to_name(world, dataset.leaf):
        yield f"{reference.ref} refers to it ({reference.how})"
    for other in chains.datasets_named(world, dataset.leaf):
        if other != ref:
            yield f"its volume may be {other}, of which the next detached snapshot would lie here"
    for share in world.sharing(f"p:{csi.dataset_of_mount(dataset.mountpoint or path)}", *_EXPORTING):
        yield f"{share} leads to it"
    for task in chains.tasks_of(world, nas, path):
        yield f"{task} names it"
    for client in chains.clients_of(world, nas, csi.dataset_of_mount(dataset.mountpoint or path)):
        yield f"{client} uses it"
    use = storage_first.use_of(world, nas, path) or DatasetUse()
    if busy := orphans.in_use(use, ""):
        yield busy
    for unknown in use.unknown:
        yield f"its use cannot be read: {unknown}"


_EXPORTING = (Kind.NFS_SHARE, Kind.SMB_SHARE)


def _driver_of(world: World, nas: str, container: Dataset) -> DriverSettings | None:
    """The driver that has its detached snapshots where a container lies."""
    drivers = world.settings.drivers
    return next((d for d in drivers if d.nas == nas and d.snapshots_parent == container.parent), None)


# Both


def _young(created_at: datetime | None, world: World) -> Clear | None:
    grace = world.settings.rules.grace
    if created_at is None:
        return Clear("its age is unknown")
    if world.now - created_at < grace:
        return Clear("it is younger than the grace", created_at + grace)
    return None


def _untold(world: World) -> Iterator[str]:
    if absent := without_snapshot_api(world):
        yield f"cluster {absent} does not have the snapshot API, so nothing can refer to it there"


def _hidden(nas: str, dataset: Dataset, world: World) -> Iterator[str]:
    """Why a dataset is not to be judged by what is seen of it."""
    if not world.pool_is_there(nas, dataset.pool):
        yield f"pool {dataset.pool} is not there to be looked at"
    if dataset.locked:
        yield "its dataset is locked"
    if dataset.readonly or any(p.origin is Origin.RECEIVED for p in dataset.user_properties.values()):
        yield "its dataset looks like a replica"
    if mark := exemption_mark(dataset):
        yield f"its dataset is exempted by its property {IGNORE}={mark}"


def _confirmed_source(ref: Ref, world: World, since: float) -> str:
    return storage_first.confirmed(ref, world, since, _CLONES, (ref.name.partition("@")[0],))


CLONE_SOURCE_LEFT = Rule(
    id="clone-source-left",
    title="Snapshot that was taken to clone from, and was left behind",
    fix=(
        "Make sure that no copy of the dataset is running, then destroy this one snapshot (never with -r or "
        "-R): it may keep its volume from being deleted."
    ),
    severity=Severity.INFO,
    subject=Kind.SNAPSHOT,
    needs=orphans.DATASET_WITHOUT_VOLUME.needs,
    judge=_judge_source,
    pending=lambda world: world.settings.rules.grace,
    reread=lambda ref, _world: storage_first.reread(ref, _CLONES, (ref.name.partition("@")[0],)),
    confirmed=_confirmed_source,
)


def _confirmed_container(ref: Ref, world: World, since: float) -> str:
    return storage_first.confirmed(ref, world, since, _CONTENTS, (ref.name,))


SNAPSHOT_CONTAINER_EMPTY = Rule(
    id="snapshot-container-empty",
    title="Dataset for a volume's detached snapshots that holds none",
    fix=(
        "Destroy the dataset without -r, so that anything unexpected in it makes that fail. To keep it, set "
        f"the ZFS property {IGNORE}=<why> on it."
    ),
    severity=Severity.INFO,
    subject=Kind.DATASET,
    needs=orphans.DATASET_WITHOUT_VOLUME.needs,
    judge=_judge_container,
    pending=lambda world: world.settings.rules.grace,
    reread=lambda ref, _world: storage_first.reread(ref, _CONTENTS, (ref.name,)),
    confirmed=_confirmed_container,
)
