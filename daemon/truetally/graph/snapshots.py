"""The map of snapshots: who made each one, what of Kubernetes it belongs to, and what it costs.

A ZFS snapshot belongs to a VolumeSnapshot if a VolumeSnapshotContent has its handle, or if
it is named after the VolumeSnapshot's uid. To a periodic task of TrueNAS it belongs if its
name can be read by the task's naming schema, on the task's dataset or below a recursive one;
that is how TrueNAS itself finds what to destroy (zettarepl `snapshot/name.py`,
`snapshot/task/snapshot_owner.py`). All other makers are known by their names only. What
they are called proves nothing, and accuses nobody.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

import msgspec

from truetally.csi import democratic_csi as csi
from truetally.graph import chains
from truetally.graph.graph import value_of
from truetally.graph.world import World
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.refs import Kind, Ref
from truetally.model.snapshots import Maker

_CLONE_SOURCE = re.compile(r"volume-source-for-(volume|snapshot)-(.+)")
# sanoid `autosnap_2026-11-24_12:00:01_hourly` (sanoid 2.2, `taksnapshots`); `_monthly` and so on.
_SANOID = re.compile(r"autosnap_.+_(frequently|hourly|daily|weekly|monthly|yearly)")
# A periodic task's name by TrueNAS's default schema, `auto-%Y-%m-%d_%H-%M`, perhaps with more after it.
_AUTO = re.compile(r"auto-\d{4}-\d{2}-\d{2}_\d{2}-\d{2}")

_LIFETIMES = {
    "HOUR": timedelta(hours=1),
    "DAY": timedelta(days=1),
    "WEEK": timedelta(weeks=1),
    # A calendar's month and year; the longest are meant, so that nothing is overdue too early.
    "MONTH": timedelta(days=31),
    "YEAR": timedelta(days=366),
}


class Made(msgspec.Struct, frozen=True):
    """Who made a snapshot, and what belongs to it.

    Attributes:
        how: what tells so.
        period: `hourly`, `daily` and so on, where the name says it.
        tasks: the periodic tasks that the snapshot can be of.
        contents: VolumeSnapshotContents that have its handle or were made for its VolumeSnapshot.
        volume_snapshots: VolumeSnapshots that it was made for.
        made_for: the volume or snapshot that a clone source was taken for.
    """

    maker: Maker
    how: str
    period: str = ""
    tasks: tuple[Ref, ...] = ()
    contents: tuple[Ref, ...] = ()
    volume_snapshots: tuple[Ref, ...] = ()
    made_for: str = ""


def made(world: World, ref: Ref) -> Made | None:
    """Who made a ZFS snapshot, or a dataset that is a detached snapshot; None for anything else."""
    if ref.kind is Kind.DATASET:
        return _detached(world, ref)
    snapshot = world.snapshot(ref)
    if snapshot is None:
        return None
    if clone := _CLONE_SOURCE.fullmatch(snapshot.name):
        return Made(
            Maker.CLONE_SOURCE, f"democratic-csi took it to make a {clone[1]} from it", made_for=clone[2]
        )
    if replica := replica_of(world, ref.source, snapshot.dataset):
        return Made(Maker.REPLICATION, replica)
    handle = f"{snapshot.dataset.rpartition('/')[2]}@{snapshot.name}"
    return (
        _of_kubernetes(world, ref.source, snapshot, handle)
        or _of_task(world, ref.source, snapshot)
        or _by_name(snapshot.name)
    )


def _of_kubernetes(world: World, nas: str, snapshot: truenas.Snapshot, handle: str) -> Made | None:
    contents, volume_snapshots = _objects(world, handle, snapshot.name)
    if contents or volume_snapshots:
        how = f"{(contents or volume_snapshots)[0]} refers to it"
    elif snapshot.name.startswith("snapshot-") and csi.uuid_in(snapshot.name):
        dataset = world.dataset(nas, snapshot.dataset)
        if dataset is None or not csi.is_managed(dataset):
            return None
        how = "it is named as democratic-csi names a VolumeSnapshot's"
    else:
        return None
    by_velero = any(_is_velero(world, each) for each in (*contents, *volume_snapshots))
    return Made(
        Maker.VELERO if by_velero else Maker.CSI, how, contents=contents, volume_snapshots=volume_snapshots
    )


def _objects(world: World, handle: str, name: str) -> tuple[tuple[Ref, ...], tuple[Ref, ...]]:
    """The contents and VolumeSnapshots of a snapshot: by its handle, and by the uid in its name."""
    contents = world.sharing(f"s:{handle}", Kind.VOLUME_SNAPSHOT_CONTENT)
    found: list[Ref] = []
    if uuid := csi.uuid_in(name):
        contents += world.sharing(f"u:{uuid}", Kind.VOLUME_SNAPSHOT_CONTENT)
        found += world.sharing(f"u:{uuid}", Kind.VOLUME_SNAPSHOT)
    for content in contents:
        found += world.sharing(f"k:{content.source}/{content.name}", Kind.VOLUME_SNAPSHOT)
    return tuple(dict.fromkeys(contents)), tuple(dict.fromkeys(found))


def _is_velero(world: World, ref: Ref) -> bool:
    """Velero labels the contents of its backups, and calls their VolumeSnapshots `velero-…` (Velero 1.14)."""
    if ref.kind is Kind.VOLUME_SNAPSHOT:
        return ref.name.partition("/")[2].startswith("velero-")
    content = value_of(world.node(ref), k8s.VolumeSnapshotContent)
    return content is not None and any(label.startswith("velero.io/") for label in content.labels)


def _of_task(world: World, nas: str, snapshot: truenas.Snapshot) -> Made | None:
    found = [
        (ref, task)
        for ref, task in tasks_covering(world, nas, snapshot.dataset)
        if is_named_by(snapshot.name, task.naming_schema)
    ]
    if not found:
        return None
    ref, task = found[0]
    how = f"task {ref.name} on {task.dataset} names its snapshots {task.naming_schema}"
    return Made(Maker.TASK, how, tasks=tuple(ref for ref, _ in found))


def _by_name(name: str) -> Made:
    if period := _SANOID.fullmatch(name):
        return Made(Maker.SANOID, "it is named as sanoid names its own", period=period[1])
    if name.startswith("zrepl_"):
        return Made(Maker.ZREPL, "it is named as zrepl names its own")
    if name.startswith("syncoid_"):
        return Made(Maker.REPLICATION, "it is named as syncoid names its own")
    if name.lower().startswith("velero"):
        return Made(Maker.VELERO, "it is named after Velero")
    if _AUTO.match(name):
        return Made(Maker.TASK, "it is named as a periodic task's, and no task that is there now makes it")
    return Made(Maker.MANUAL, "its name tells of no program that truetally knows")


def _detached(world: World, ref: Ref) -> Made | None:
    dataset = world.dataset(ref.source, ref.name)
    # Whatever is restored from a detached snapshot, or lies inside it, has a name of its own.
    if dataset is None or csi.own(dataset, csi.SNAPSHOT_NAME) != dataset.leaf:
        return None
    handle = f"{dataset.parent.rpartition('/')[2]}/{dataset.leaf}"
    contents, volume_snapshots = _objects(world, handle, dataset.leaf)
    how = f"democratic-csi's mark on it says that it is snapshot {dataset.leaf}"
    return Made(Maker.DETACHED, how, contents=contents, volume_snapshots=volume_snapshots)


# Tasks


def tasks_covering(world: World, nas: str, path: str) -> tuple[tuple[Ref, truenas.SnapshotTask], ...]:
    """The periodic tasks, enabled or not, that snapshot a dataset: its own, and recursive ones above it."""
    key = "tasks covering", nas, path
    known = world.memo.get(key)
    if not isinstance(known, tuple):
        world.memo[key] = known = tuple(_tasks_covering(world, nas, path))
    return known


def _tasks_covering(world: World, nas: str, path: str) -> Iterator[tuple[Ref, truenas.SnapshotTask]]:
    for above in _upwards(path):
        for ref in world.sharing(f"T:{nas}/{above}", Kind.SNAPSHOT_TASK):
            task = value_of(world.node(ref), truenas.SnapshotTask)
            if task is None or (above != path and not task.recursive):
                continue
            if not any(is_within(path, each) or fnmatchcase(path, each) for each in task.exclude):
                yield ref, task


def replica_of(world: World, nas: str, path: str) -> str:
    """What makes a dataset a replica, whose snapshots came with it; empty if nothing is known to."""
    key = "replica of", nas, path
    known = world.memo.get(key)
    if not isinstance(known, str):
        world.memo[key] = known = _replica_of(world, nas, path)
    return known


def _replica_of(world: World, nas: str, path: str) -> str:
    for above in _upwards(path):
        for ref in world.sharing(f"T:{nas}/{above}", Kind.REPLICATION_TASK):
            task = value_of(world.node(ref), truenas.ReplicationTask)
            local = task is not None and (task.transport in ("", "LOCAL") or task.direction == "PULL")
            if task is not None and local and task.target == above:
                return f"replication {task.name or ref.name} writes to {above}"
    dataset = world.dataset(nas, path)
    if dataset is not None and any(
        p.origin is truenas.Origin.RECEIVED for p in dataset.user_properties.values()
    ):
        return "its dataset was received"
    return ""


def held_for_replication(world: World, nas: str, path: str) -> str:
    """The replication that may keep a dataset's snapshots until it has sent them; empty if none does."""
    for above in _upwards(path):
        for ref in world.sharing(f"T:{nas}/{above}", Kind.REPLICATION_TASK):
            task = value_of(world.node(ref), truenas.ReplicationTask)
            if task is None or task.holds_pending is False or above not in task.sources:
                continue
            if above == path or task.recursive:
                return task.name or ref.name
    return ""


def _upwards(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition("/")[0]


def is_within(path: str, above: str) -> bool:
    """Whether a dataset is that dataset or below it."""
    return path == above or path.startswith(f"{above}/")


def is_named_by(name: str, schema: str) -> bool:
    """Whether a snapshot's name can be read by a task's naming schema, as zettarepl reads it.

    Schemas are those of `strftime`; `%s` stands for Unix seconds, and then alone. A `+` of a time zone is
    written as `:`, which ZFS allows in names.
    """
    literal = schema.partition("%")[0]
    if "%" not in schema or not name.startswith(literal):
        return False
    if "%s" in schema:
        before, _, after = schema.partition("%s")
        return re.fullmatch(f"{re.escape(before)}[0-9]+{re.escape(after)}", name) is not None
    try:
        datetime.strptime(name.replace(":", "+") if "%z" in schema else name, schema)  # noqa: DTZ007
    except (ValueError, re.error):
        return False
    return True


def lifetime(task: truenas.SnapshotTask) -> timedelta | None:
    """How long a task keeps its snapshots; None if it does not say, or in a unit that is not known."""
    number, _, unit = task.lifetime.partition(" ")
    length = _LIFETIMES.get(unit)
    return int(number) * length if length is not None and number.isdecimal() else None


# Volumes, clones and space


def volumes_on(world: World, ref: Ref) -> tuple[Ref, ...]:
    """The PersistentVolumes whose data is a dataset, by what they lead to.

    One that only mounts a directory below the dataset is on another dataset, and none of these.
    """
    key = "volumes on", ref
    known = world.memo.get(key)
    if not isinstance(known, tuple):
        candidates = dict.fromkeys(
            each for name in _names(world, ref) for each in world.sharing(name, Kind.PERSISTENT_VOLUME)
        )
        backings = ((each, chains.backing(world, each)) for each in candidates)
        found = sorted(each for each, backing in backings if backing is not None and backing.dataset == ref)
        world.memo[key] = known = tuple(found)
    return known


def _names(world: World, ref: Ref) -> Iterator[str]:
    """The keys that a dataset's volumes may have in common with it, or with what exports it."""
    dataset = world.dataset(ref.source, ref.name)
    if dataset is None:
        return
    yield from (f"p:{dataset.path}", f"h:{dataset.leaf}")
    if dataset.mountpoint:
        yield f"p:{csi.dataset_of_mount(dataset.mountpoint)}"
    if name := csi.own(dataset, csi.VOLUME_NAME):
        yield f"h:{name}"
    for share in world.sharing(f"p:{dataset.path}", Kind.SMB_SHARE):
        smb = value_of(world.node(share), truenas.SmbShare)
        if smb is not None:
            yield f"m:{smb.name.lower()}"
    for _, target in chains.targets_of(world, ref.source, ref.name):
        yield f"t:{target.name.lower()}"
    for _, subsystem in chains.namespaces_at(world, ref.source, ref.name):
        if subsystem is not None and subsystem.nqn:
            yield f"q:{csi.subsystem_of_nqn(subsystem.nqn)}"


def clones(world: World, ref: Ref, snapshot: truenas.Snapshot) -> tuple[str, ...]:
    """The datasets that were cloned from a snapshot, by what the snapshot and what the clones say."""
    found = list(snapshot.clones or ())
    for clone in chains.clones_of(world, ref.source, snapshot.dataset):
        dataset = world.dataset(clone.source, clone.name)
        if dataset is not None and dataset.origin == ref.name:
            found.append(clone.name)
    return tuple(dict.fromkeys(found))


class Space(msgspec.Struct, frozen=True):
    """How much would come back; `at_most_bytes` is None where the NAS does not tell enough to say."""

    at_least_bytes: int
    at_most_bytes: int | None


def space_returned(
    snapshots_bytes: int | None, snapshots: Sequence[truenas.Snapshot], destroyed: Collection[str]
) -> Space:
    """What destroying some of a dataset's snapshots, by name, would free; none of them cloned or held.

    ZFS tells of a snapshot only what it alone keeps (`used`). What several keep together is in no snapshot's
    `used`, and comes back when the last of them goes: so the sum of the destroyed ones' `used` comes back at
    least. At most all that snapshots keep comes back (`usedbysnapshots`), without what each remaining one
    keeps alone. If all go, both are the same.

    Args:
        snapshots_bytes: `usedbysnapshots` of the dataset.
        snapshots: all snapshots of the dataset.
    """
    going = [s for s in snapshots if s.name in destroyed]
    at_least = sum(s.used_bytes or 0 for s in going)
    if not going:
        return Space(0, 0)
    if snapshots_bytes is None:
        return Space(at_least, None)
    if len(going) == len(snapshots):
        # Read at another moment than the snapshots, it may be less than their sum.
        return Space(max(at_least, snapshots_bytes), max(at_least, snapshots_bytes))
    staying = sum(s.used_bytes or 0 for s in snapshots if s.name not in destroyed)
    return Space(at_least, max(at_least, snapshots_bytes - staying))


def total(spaces: Sequence[Space]) -> Space:
    """The space of several datasets together."""
    at_most = [s.at_most_bytes for s in spaces]
    known = [each for each in at_most if each is not None]
    return Space(sum(s.at_least_bytes for s in spaces), sum(known) if len(known) == len(at_most) else None)
