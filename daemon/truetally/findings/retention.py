"""Retention: snapshots that outlive what was said of them, and datasets with too many of them.

How long a snapshot is kept is said by the first matching entry under `retention` in the
configuration, or by the lifetime of the periodic task that made it. truetally does not
know when whatever prunes comes by. So it asks which snapshots were superfluous already
some time ago (`rules.retention_slack`), among those that are still there: what has been
made since could only have made more of them so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase

import msgspec

from truetally.csi import democratic_csi as csi
from truetally.findings.ownership import IGNORE, exemption_mark
from truetally.findings.rule import Clear, Evidence, Judgement, Order, Reread, Rule
from truetally.graph import chains
from truetally.graph.graph import value_of
from truetally.graph.snapshots import (
    Made,
    clones,
    held_for_replication,
    lifetime,
    made,
    space_returned,
    tasks_covering,
    volumes_on,
)
from truetally.graph.world import World
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.findings import Fact, Severity
from truetally.model.refs import Kind, Ref
from truetally.model.snapshots import Maker
from truetally.settings import RetentionKeep, RetentionSettings, grid_steps, written

# As many are named, and read again one by one before the finding is told.
_NAMED = 5
# TrueNAS lets snapshots keep the end that a task had given them when the task is changed or deleted
# (`fixate_removal_date`; middleware 22.12 to 26, `removal_date_property`). The time is the NAS's own.
_REMOVAL_DATE = "org.truenas:destroy_at_"


class Point(msgspec.Struct, frozen=True):
    """A snapshot as retention sees it; `period` is what its maker made it for, if its name says so."""

    name: str
    at: datetime
    period: str = ""


class Overdue(msgspec.Struct, frozen=True):
    """A snapshot that is past its retention, and why."""

    ref: Ref
    snapshot: truenas.Snapshot
    why: str


# What is kept

_BUCKETS: dict[str, Callable[[datetime], object]] = {
    "hourly": lambda at: (at.date(), at.hour),
    "daily": lambda at: at.date(),
    "weekly": lambda at: at.isocalendar()[:2],
    "monthly": lambda at: (at.year, at.month),
    "yearly": lambda at: at.year,
}


def kept_by_counts(points: Iterable[Point], keep: RetentionKeep) -> set[str]:
    """The snapshots that counts per period keep.

    Of each of the youngest periods that have a snapshot, the first and the last one are kept: programs
    differ in which of them they keep, and either is right. What sanoid made for a period is counted by
    that period alone, as sanoid does; for one that has no count (`frequently`) it is kept.
    """
    newest_first = sorted(points, key=lambda point: point.at, reverse=True)
    kept: set[str] = set()
    for period, bucket_of in _BUCKETS.items():
        count: int = getattr(keep, period)
        buckets: dict[object, list[Point]] = {}
        for point in newest_first:
            if not point.period:
                buckets.setdefault(bucket_of(point.at), []).append(point)
        for bucket in list(buckets.values())[:count]:
            kept |= {bucket[0].name, bucket[-1].name}
        kept |= {p.name for p in [p for p in newest_first if p.period == period][:count]}
    return kept | {point.name for point in newest_first if point.period and point.period not in _BUCKETS}


def kept_by_grid(points: Iterable[Point], steps: Sequence[tuple[timedelta, int | None]]) -> set[str]:
    """The snapshots that a grid keeps, laid back from the youngest one (zrepl `pruning/keep_grid.go`).

    zrepl keeps the oldest ones of each step. The youngest of a step is kept here as well: it may have become
    so only since zrepl last looked.
    """
    newest_first = sorted(points, key=lambda point: point.at, reverse=True)
    if not newest_first:
        return set()
    end = newest_first[0].at
    kept = {point.name for point in newest_first if point.at == end}
    left = [point for point in newest_first if point.at < end]
    for length, count in steps:
        if not left:
            break
        inside = [point for point in left if point.at >= end - length]
        left = left[len(inside) :]
        end -= length
        if inside:
            oldest = inside if count is None else inside[len(inside) - count :] if count else []
            kept |= {point.name for point in oldest} | {inside[0].name}
    return kept


# Which retention is for which snapshot


class _Volume(msgspec.Struct, frozen=True):
    """What of a PersistentVolume a retention may ask for."""

    namespace: str
    storage_class: str
    names: tuple[str, ...]


def _volumes(world: World, ref: Ref) -> Sequence[_Volume]:
    found = []
    for each in volumes_on(world, ref):
        if (volume := world.volume(each)) is not None:
            claim = volume.claim
            names = (claim.name, f"{claim.namespace}/{claim.name}") if claim is not None else ()
            found.append(
                _Volume(claim.namespace if claim else "", volume.storage_class, (volume.name, *names))
            )
    return found


def _matches(
    policy: RetentionSettings,
    made_: Made,
    dataset: truenas.Dataset,
    volumes: Sequence[_Volume],
    world: World,
) -> bool | None:
    """Whether a retention is for a snapshot of the dataset; None if that cannot be known.

    A volume that is gone took its names and classes with it: what they would have matched is not known.
    """
    match = policy.match
    if made_.maker.value not in policy.makers:
        return False
    lost = None if csi.is_managed(dataset) and not volumes else False
    answers: list[bool | None] = []
    if match.namespace is not None:
        namespaces = [v.namespace for v in volumes] + _namespaces(world, made_)
        answers.append(_any(match.namespace, namespaces) or (lost if not namespaces else False))
    if match.storage_class is not None:
        answers.append(_any(match.storage_class, [v.storage_class for v in volumes]) or lost)
    if match.name is not None:
        names = [dataset.path, dataset.leaf, *(name for v in volumes for name in v.names)]
        answers.append(_any(match.name, names) or lost)
    if match.snapshot_class is not None:
        of_csi = made_.maker in (Maker.CSI, Maker.VELERO)
        classes = _classes(world, made_)
        answers.append(_any(match.snapshot_class, classes) or (None if of_csi and not classes else False))
    if False in answers:
        return False
    return None if None in answers else True


def _any(pattern: str, texts: Iterable[str]) -> bool:
    return any(fnmatchcase(text, pattern) for text in texts)


def _namespaces(world: World, made_: Made) -> list[str]:
    contents = (value_of(world.node(each), k8s.VolumeSnapshotContent) for each in made_.contents)
    return [c.snapshot_namespace for c in contents if c is not None and c.snapshot_namespace]


def _classes(world: World, made_: Made) -> list[str]:
    snapshots = (value_of(world.node(each), k8s.VolumeSnapshot) for each in made_.volume_snapshots)
    return [s.snapshot_class for s in snapshots if s is not None]


def _policy(
    world: World, made_: Made, dataset: truenas.Dataset, volumes: Sequence[_Volume]
) -> tuple[int | None, bool]:
    """Which retention is for a snapshot, by its place, and whether that is certain."""
    for place, policy in enumerate(world.settings.retention):
        match _matches(policy, made_, dataset, volumes, world):
            case True:
                return place, True
            case None:
                return None, False
    return None, True


# What is overdue

_Held = tuple[Ref, truenas.Snapshot, Made]


def overdue(world: World, ref: Ref) -> tuple[Overdue, ...]:
    """The snapshots of a dataset that are past their retention and that nothing known keeps from being
    destroyed, the oldest first."""
    key = "overdue", ref
    known = world.memo.get(key)
    if not isinstance(known, tuple):
        world.memo[key] = known = _overdue(world, ref)
    return known


def _overdue(world: World, ref: Ref) -> tuple[Overdue, ...]:
    dataset = world.dataset(ref.source, ref.name)
    if dataset is None:
        return ()
    before = _counts_from(world, ref)
    old = [(r, s) for r, s in _snapshots(world, ref) if s.created_at is not None and s.created_at <= before]
    volumes = _volumes(world, ref) if old and world.settings.retention else ()
    of_policy: dict[int, list[_Held]] = {}
    found: list[Overdue] = []
    for snapshot_ref, snapshot in old:
        made_ = made(world, snapshot_ref)
        if made_ is None or snapshot.created_at is None:
            continue
        policy, certain = _policy(world, made_, dataset, volumes)
        if policy is not None:
            of_policy.setdefault(policy, []).append((snapshot_ref, snapshot, made_))
        elif certain and (why := _past_its_task(world, ref, snapshot.created_at, made_)):
            found.append(Overdue(snapshot_ref, snapshot, why))
    for place, members in of_policy.items():
        found += _past_policy(world, world.settings.retention[place], members)
    able = [each for each in found if not _kept_back(world, each)]
    return tuple(sorted(able, key=lambda each: (each.snapshot.created_at, each.ref)))


def _counts_from(world: World, ref: Ref) -> datetime:
    """What is younger is neither overdue nor makes another so."""
    if world.settings.retention:
        return _as_of(world)
    lifetimes = (lifetime(task) for _, task in tasks_covering(world, ref.source, ref.name))
    shortest = min((life for life in lifetimes if life is not None), default=None)
    return _as_of(world) - shortest if shortest is not None else datetime.min.replace(tzinfo=UTC)


def _past_its_task(world: World, ref: Ref, created_at: datetime, made_: Made) -> str:
    """The longest lifetime among the tasks that could have made it counts; one without any keeps it."""
    tasks = [t for r in made_.tasks if (t := value_of(world.node(r), truenas.SnapshotTask)) is not None]
    lifetimes = [life for task in tasks if (life := lifetime(task)) is not None]
    if not tasks or len(lifetimes) < len(tasks):
        return ""
    if _as_of(world) - created_at <= max(lifetimes) or held_for_replication(world, ref.source, ref.name):
        return ""
    longest = tasks[lifetimes.index(max(lifetimes))]
    disabled = "" if any(task.enabled for task in tasks) else ", and is disabled"
    return f"snapshot task {longest.id} keeps its own for {longest.lifetime}{disabled}"


def _past_policy(world: World, policy: RetentionSettings, members: Sequence[_Held]) -> Iterator[Overdue]:
    as_of = _as_of(world)
    points = [Point(s.name, s.created_at, m.period) for _, s, m in members if s.created_at is not None]
    kept = {point.name for point in points}
    if policy.keep is not None:
        kept = kept_by_counts(points, policy.keep)
    elif policy.grid is not None:
        kept = kept_by_grid(points, grid_steps(policy.grid))
    at = {point.name: point.at for point in points}
    for ref, snapshot, _ in members:
        if policy.max_age is not None and as_of - at[snapshot.name] > policy.max_age:
            yield Overdue(ref, snapshot, f"the configuration keeps it for {written(policy.max_age)}")
        elif snapshot.name not in kept:
            yield Overdue(ref, snapshot, f"the configuration keeps {_counts(policy)}")


def _counts(policy: RetentionSettings) -> str:
    if policy.keep is None:
        return policy.grid or ""
    counts = {period: getattr(policy.keep, period) for period in _BUCKETS}
    return ", ".join(f"{count} {period}" for period, count in counts.items() if count)


def _kept_back(world: World, each: Overdue) -> bool:
    snapshot = each.snapshot
    if snapshot.defer_destroy or snapshot.holds or clones(world, each.ref, snapshot):
        return True
    dates = [p.value for n, p in (snapshot.user_properties or {}).items() if n.startswith(_REMOVAL_DATE)]
    return any(not _is_past(date, _as_of(world)) for date in dates)


def _is_past(date: str, as_of: datetime) -> bool:
    try:
        # The slack is longer than any time zone is off.
        return datetime.fromisoformat(date).replace(tzinfo=UTC) < as_of
    except ValueError:
        return False


def _as_of(world: World) -> datetime:
    return world.now - world.settings.rules.retention_slack


def _snapshots(world: World, ref: Ref) -> list[tuple[Ref, truenas.Snapshot]]:
    refs = chains.snapshots_of(world, ref.source, ref.name)
    return [(each, snapshot) for each in refs if (snapshot := world.snapshot(each)) is not None]


def _judge_retention(ref: Ref, world: World) -> Judgement:
    dataset = world.dataset(ref.source, ref.name)
    if dataset is None:
        return Clear("the dataset is gone")
    if mark := exemption_mark(dataset):
        return Clear(f"it is exempted by its property {IGNORE}={mark}")
    snapshots = _snapshots(world, ref)
    if not snapshots:
        return Clear("it has no snapshots")
    found = overdue(world, ref)
    if not found:
        again_at = _next_at(world, ref.source, ref.name, snapshots)
        return Clear("none of its snapshots is known to be past its retention", again_at)
    space = space_returned(
        dataset.snapshots_bytes, [s for _, s in snapshots], {each.snapshot.name for each in found}
    )
    oldest = found[0].snapshot
    facts: dict[str, Fact] = {
        "snapshots": tuple(each.snapshot.name for each in found[:_NAMED]),
        "count": len(found),
        "oldest_at": oldest.created_at.isoformat() if oldest.created_at else None,
        "returns_at_least_bytes": space.at_least_bytes,
        "returns_at_most_bytes": space.at_most_bytes,
        "because": tuple(dict.fromkeys(each.why for each in found)),
    }
    some = f"{len(found)} snapshots" if len(found) > 1 else f"Snapshot {oldest.name}"
    verb = "are past their" if len(found) > 1 else "is past its"
    return Evidence(f"{some} of {ref.name} {verb} retention", facts)


def _next_at(
    world: World, nas: str, path: str, snapshots: Sequence[tuple[Ref, truenas.Snapshot]]
) -> datetime | None:
    """When the next snapshot becomes old enough to make a difference: by any lifetime, or to be counted."""
    spans = {policy.max_age or timedelta(0) for policy in world.settings.retention}
    spans |= {timedelta(0) for policy in world.settings.retention if policy.keep or policy.grid}
    for _, task in tasks_covering(world, nas, path):
        if (life := lifetime(task)) is not None:
            spans.add(life)
    slack = world.settings.rules.retention_slack
    moments = [s.created_at + span + slack for _, s in snapshots if s.created_at for span in spans]
    # A second later: at that very moment it is not overdue yet.
    return min((at + timedelta(seconds=1) for at in moments if at >= world.now), default=None)


def _reread(ref: Ref, world: World) -> Reread:
    named = frozenset(each.ref for each in overdue(world, ref)[:_NAMED])
    return Reread(Order.STORAGE_FIRST, nas=ref.source, objects=named)


def _confirmed(ref: Ref, world: World, since: float) -> str:
    """A list does not tell holds and removal dates; the named ones have been read singly."""
    for each in overdue(world, ref)[:_NAMED]:
        node = world.node(each.ref)
        if node is None or node.asked_at < since or each.snapshot.user_properties is None:
            return f"snapshot {each.snapshot.name} has not been read again"
    return ""


SNAPSHOT_RETENTION = Rule(
    id="snapshot-retention",
    title="Snapshots past their retention",
    fix=(
        "See why whatever prunes them does not: the task may be disabled or changed, or the program runs no "
        "more. If nobody needs them, delete the VolumeSnapshot of those that have one, and destroy just the "
        "others, after looking at their holds and at what replication still needs. Or say under `retention` "
        "that they are kept longer."
    ),
    severity=Severity.WARNING,
    subject=Kind.DATASET,
    needs=frozenset(
        {
            Kind.DATASET,
            Kind.SNAPSHOT,
            Kind.SNAPSHOT_TASK,
            Kind.REPLICATION_TASK,
            Kind.PERSISTENT_VOLUME,
            Kind.VOLUME_SNAPSHOT,
            Kind.VOLUME_SNAPSHOT_CONTENT,
        }
    ),
    judge=_judge_retention,
    pending=lambda world: world.settings.rules.grace,
    reread=_reread,
    confirmed=_confirmed,
)


# How many

# What has been told is taken back only when a few are gone: otherwise each new snapshot would tell it again.
_UNTOLD_BELOW = 0.95


def _judge_count(ref: Ref, world: World) -> Judgement:
    dataset = world.dataset(ref.source, ref.name)
    if dataset is None:
        return Clear("the dataset is gone")
    if mark := exemption_mark(dataset):
        return Clear(f"it is exempted by its property {IGNORE}={mark}")
    refs = chains.snapshots_of(world, ref.source, ref.name)
    limit = _limit(world, ref, dataset)
    told = world.told(SNAPSHOTS_TOO_MANY.id, ref) is not None
    if len(refs) <= (limit * _UNTOLD_BELOW if told else limit):
        return Clear(f"it has {len(refs)} snapshots, and {limit} are allowed")
    makers = Counter(m.maker.value for each in refs if (m := made(world, each)) is not None)
    facts: dict[str, Fact] = {
        "count": len(refs),
        "recommended": limit,
        "made_by": tuple(f"{maker}: {count}" for maker, count in makers.most_common()),
        "snapshots_bytes": dataset.snapshots_bytes,
    }
    return Evidence(f"Dataset {ref.name} has {len(refs)} snapshots, more than {limit}", facts)


def _limit(world: World, ref: Ref, dataset: truenas.Dataset) -> int:
    rules = world.settings.rules
    if rules.snapshots_per_volume is None:
        return rules.snapshots_per_dataset
    is_volume = csi.is_managed(dataset) or bool(volumes_on(world, ref))
    return rules.snapshots_per_volume if is_volume else rules.snapshots_per_dataset


SNAPSHOTS_TOO_MANY = Rule(
    id="snapshots-too-many",
    title="Dataset with more snapshots than recommended",
    fix=(
        "See which maker has most of them, and give it a shorter lifetime or a longer interval. Very many "
        "snapshots take long to list and to destroy, and Windows shows none of them."
    ),
    severity=Severity.WARNING,
    subject=Kind.DATASET,
    needs=frozenset({Kind.DATASET, Kind.SNAPSHOT}),
    judge=_judge_count,
    pending=lambda world: world.settings.rules.grace,
)
