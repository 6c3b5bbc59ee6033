"""Capacity: pools and volumes that have little room left, or that have promised more than there is.

Everything here is what stands now, without history. A percentage that wavers around its
threshold must not open and resolve a finding with every reading: what has been told is
taken back only two points below the threshold it was told for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

import msgspec

from truetally.csi import democratic_csi as csi
from truetally.findings.ownership import IGNORE, exemption_mark
from truetally.findings.rule import Clear, Evidence, Judgement, Rule
from truetally.findings.volumes import ignored, nas_of_volume
from truetally.graph import chains
from truetally.graph.graph import value_of
from truetally.graph.world import World
from truetally.model import kubernetes as k8s
from truetally.model.findings import Fact, Finding, Severity
from truetally.model.refs import Kind, Ref
from truetally.model.truenas import Dataset

HYSTERESIS = 2.0
"""How many points below its threshold a percentage has to fall before what was told of it is taken back."""

_THRESHOLD = "threshold_percent"

# A zvol whose block size the NAS does not tell may have been rounded up by as much as this.
_UNTOLD_BLOCK = 1 << 20

_AT_ONCE = timedelta(0)


class _Level(msgspec.Struct, frozen=True):
    percent: float
    severity: Severity


def _reached(percent: float, levels: Iterable[_Level], told: Finding | None) -> _Level | None:
    """The highest level that is reached, or that was told and has not been left by the hysteresis yet."""
    before = told.facts.get(_THRESHOLD) if told is not None else None
    reached = None
    for level in sorted(levels, key=lambda each: each.percent):
        was_told = isinstance(before, int | float) and before >= level.percent
        if percent >= level.percent - (HYSTERESIS if was_told else 0.0):
            reached = level
    return reached


# Pools


def _judge_fullness(ref: Ref, world: World) -> Judgement:
    pool = world.pool(ref.source, ref.name)
    if pool is None:
        return Clear("the pool is gone")
    if not pool.size_bytes or pool.allocated_bytes is None:
        return Clear(f"the NAS does not tell how full it is (it is {pool.status})")
    percent = 100.0 * pool.allocated_bytes / pool.size_bytes
    rules = world.settings.rules
    levels = (
        _Level(rules.pool_full_warning, Severity.WARNING),
        _Level(rules.pool_full_critical, Severity.CRITICAL),
    )
    level = _reached(percent, levels, world.told(POOL_NEARLY_FULL.id, ref))
    if level is None:
        return Clear(f"it is {percent:.1f} % full")
    facts: dict[str, Fact] = {
        "used_percent": round(percent, 1),
        _THRESHOLD: level.percent,
        "allocated_bytes": pool.allocated_bytes,
        "free_bytes": pool.free_bytes,
        "size_bytes": pool.size_bytes,
        "fragmentation_percent": pool.fragmentation_percent,
    }
    return Evidence(f"Pool {ref.name} is {percent:.1f} % full", facts, severity=level.severity)


POOL_NEARLY_FULL = Rule(
    id="pool-nearly-full",
    title="Pool that is nearly full",
    fix=(
        "Free space (leftover datasets, old snapshots: `truetally findings`, `truetally snapshots`) or add "
        "disks. ZFS gets slow as a pool fills up, and every volume on a full one stops being written."
    ),
    severity=Severity.WARNING,
    subject=Kind.POOL,
    needs=frozenset({Kind.POOL}),
    judge=_judge_fullness,
    pending=lambda _world: _AT_ONCE,
)


class _Promises(msgspec.Struct):
    """What a pool has promised; `thin_bytes` of it is not reserved."""

    bytes: int = 0
    thin_bytes: int = 0
    volumes: int = 0

    def add(self, size: int, thin: int, volumes: int) -> None:
        self.bytes += size
        self.thin_bytes += thin
        self.volumes += volumes


def _promise(dataset: Dataset) -> int:
    """What may be written to a dataset, as its users see it; none of a filesystem without a quota.

    What is read-only (a replica) and what is a detached snapshot is not written to, so nothing is promised
    by its size.
    """
    size = dataset.volsize_bytes if dataset.kind == "VOLUME" else dataset.quota_bytes
    if not size or dataset.readonly or csi.own(dataset, csi.SNAPSHOT_NAME):
        return 0
    return size


def _promised(world: World, nas: str, pool: str) -> _Promises:
    """The promises of a pool's volumes: of datasets without children, and no more than a parent's own quota.

    The quota of a parent is no promise beside those of its children, but a limit to their sum.
    """
    datasets = {dataset.path: dataset for dataset in _of_pool(world, nas, pool)}
    sums: dict[str, _Promises] = {"": _Promises()}
    for path in datasets:
        sums.setdefault(path.rpartition("/")[0], _Promises())
    for path, dataset in datasets.items():
        if path not in sums and (own := _promise(dataset)):
            sums[dataset.parent].add(own, max(0, own - (dataset.reserved_bytes or 0)), 1)
    for path in sorted(filter(None, sums), key=lambda each: each.count("/"), reverse=True):
        found, above = sums[path], sums.setdefault(path.rpartition("/")[0], _Promises())
        limit = (_promise(datasets[path]) if path in datasets else 0) or found.bytes
        above.add(min(found.bytes, limit), min(found.thin_bytes, limit), found.volumes)
    return sums[""]


def _of_pool(world: World, nas: str, pool: str) -> Sequence[Dataset]:
    values = (value_of(node, Dataset) for node in world.graph.nodes(nas, Kind.DATASET).values())
    return [dataset for dataset in values if dataset is not None and dataset.pool == pool]


def _usable(root: Dataset | None) -> int | None:
    """What datasets can use of a pool: its own size counts the parity of raidz, its root dataset does not."""
    if root is None or root.used_bytes is None or root.available_bytes is None:
        return None
    return root.used_bytes + root.available_bytes


def _judge_promises(ref: Ref, world: World) -> Judgement:
    pool = world.pool(ref.source, ref.name)
    if pool is None:
        return Clear("the pool is gone")
    usable = _usable(world.dataset(ref.source, ref.name)) or pool.size_bytes
    if not usable:
        return Clear(f"the NAS does not tell how large it is (it is {pool.status})")
    factor = world.settings.rules.pool_overcommit_factor
    promises = _promised(world, ref.source, ref.name)
    ratio = promises.bytes / usable
    if ratio <= factor or not promises.thin_bytes:
        return Clear(f"it has promised {ratio:.2f} times its size")
    facts: dict[str, Fact] = {
        "promised_bytes": promises.bytes,
        "promised_thin_bytes": promises.thin_bytes,
        "usable_bytes": usable,
        "ratio": round(ratio, 2),
        "allowed_ratio": factor,
        "volumes": promises.volumes,
    }
    return Evidence(f"Pool {ref.name} has promised {ratio:.1f} times its size to its volumes", facts)


POOL_OVERCOMMITTED = Rule(
    id="pool-overcommitted",
    title="Pool that has promised more than it has",
    fix=(
        "If it is meant, raise `pool_overcommit_factor`. Otherwise add disks, make volumes smaller, or "
        "reserve space for those that must not run out (`datasetEnableReservation`, `zvolEnableReservation`)."
    ),
    severity=Severity.INFO,
    subject=Kind.POOL,
    needs=frozenset({Kind.POOL, Kind.DATASET}),
    judge=_judge_promises,
    pending=lambda world: world.settings.rules.grace,
)


def _judge_reservations(ref: Ref, world: World) -> Judgement:
    """ZFS keeps reservations by taking them from what is available to all others.

    `zpool list` and TrueNAS's pool page still call that space free.
    """
    pool, root = world.pool(ref.source, ref.name), world.dataset(ref.source, ref.name)
    if pool is None:
        return Clear("the pool is gone")
    usable = _usable(root)
    if root is None or root.available_bytes is None or not usable:
        return Clear(f"the NAS does not tell what is available in it (it is {pool.status})")
    left = root.available_bytes
    unwritten = sum(
        max(0, (dataset.reserved_bytes or 0) - dataset.referenced_bytes)
        for dataset in _of_pool(world, ref.source, ref.name)
        if dataset.referenced_bytes is not None
    )
    left_percent = 100.0 * left / usable
    if unwritten <= left:
        return Clear(f"{left_percent:.1f} % of it is available beside its reservations")
    was_told = world.told(POOL_RESERVATIONS_EXCEED_FREE.id, ref) is not None
    enough = 100.0 - world.settings.rules.pool_full_warning + (HYSTERESIS if was_told else 0.0)
    if left_percent > enough:
        return Clear(f"its reservations leave {left_percent:.1f} % of it available")
    facts: dict[str, Fact] = {
        "reserved_unwritten_bytes": unwritten,
        "available_bytes": left,
        "available_percent": round(left_percent, 1),
        "pool_free_bytes": pool.free_bytes,
        "usable_bytes": usable,
    }
    summary = f"Reservations take more of pool {ref.name}'s free space than they leave: {left_percent:.1f} %"
    return Evidence(summary, facts)


POOL_RESERVATIONS_EXCEED_FREE = Rule(
    id="pool-reservations-exceed-free",
    title="Pool whose free space is mostly reserved",
    fix=(
        "Volumes without a reservation will be the first that cannot be written, although the pool looks "
        "free. Lower refreservations that are larger than need be, free space, or add disks."
    ),
    severity=Severity.WARNING,
    subject=Kind.POOL,
    needs=frozenset({Kind.POOL, Kind.DATASET}),
    judge=_judge_reservations,
    pending=lambda _world: timedelta(minutes=5),
)


# Volumes

_NEEDS = frozenset(
    {
        Kind.PERSISTENT_VOLUME,
        Kind.PERSISTENT_VOLUME_CLAIM,
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


def _live(ref: Ref, world: World) -> tuple[k8s.PersistentVolume, Dataset] | str:
    """A bound volume with the dataset that surely holds its data; otherwise why there is nothing to judge."""
    volume = world.volume(ref)
    if volume is None:
        return "the volume is gone"
    if volume.phase != "Bound" or volume.deleted_at is not None:
        return f"it is {'being deleted' if volume.deleted_at else volume.phase}"
    if ignored(volume.annotations):
        return "it is exempted by its annotation truetally.io/ignore"
    claim = _claim(ref.source, volume, world)
    if claim is not None and ignored(claim.annotations):
        return "its claim is exempted by its annotation truetally.io/ignore"
    found = _backing(ref, world)
    if found is None or found.dataset is None or found.strength != chains.EXACT:
        return "truetally does not know for sure which dataset is behind it"
    dataset = world.dataset(found.dataset.source, found.dataset.name)
    if dataset is None:
        return "its dataset is gone"
    if mark := exemption_mark(dataset):
        return f"its dataset is exempted by its property {IGNORE}={mark}"
    return volume, dataset


def _backing(ref: Ref, world: World) -> chains.Backing | None:
    """Where a volume's data is, found once for all rules."""
    key = ("backing", ref)
    if key not in world.memo:
        world.memo[key] = chains.backing(world, ref)
    found = world.memo[key]
    return found if isinstance(found, chains.Backing) else None


def _claim(cluster: str, volume: k8s.PersistentVolume, world: World) -> k8s.PersistentVolumeClaim | None:
    if volume.claim is None:
        return None
    name = f"{volume.claim.namespace}/{volume.claim.name}"
    return world.claim(Ref(cluster, Kind.PERSISTENT_VOLUME_CLAIM, name))


def _called(ref: Ref, volume: k8s.PersistentVolume) -> str:
    """A volume by the name that its users know."""
    claim = volume.claim
    return f"claim {claim.namespace}/{claim.name}" if claim is not None else f"volume {ref.name}"


def _judge_volume_fullness(ref: Ref, world: World) -> Judgement:
    live = _live(ref, world)
    if isinstance(live, str):
        return Clear(live)
    volume, dataset = live
    size = dataset.volsize_bytes if dataset.kind == "VOLUME" else dataset.quota_bytes
    if not size:
        return Clear("its dataset has no quota, so only the pool limits it")
    if dataset.referenced_bytes is None:
        return Clear("the NAS does not tell how much its dataset refers to")
    percent = 100.0 * dataset.referenced_bytes / size
    level = _reached(percent, _levels_of(dataset, world), world.told(VOLUME_NEARLY_FULL.id, ref))
    if level is None:
        return Clear(f"{percent:.1f} % of it is written")
    facts: dict[str, Fact] = {
        "claim": f"{volume.claim.namespace}/{volume.claim.name}" if volume.claim else None,
        "dataset": dataset.path,
        "used_percent": round(percent, 1),
        _THRESHOLD: level.percent,
        "referenced_bytes": dataset.referenced_bytes,
        "volsize_bytes" if dataset.kind == "VOLUME" else "quota_bytes": size,
    }
    name = _called(ref, volume)
    if dataset.kind == "VOLUME":
        summary = (
            f"The zvol of {name} has been written to {percent:.1f} % of its size; only the filesystem on it "
            "knows how much of that is still in use"
        )
    else:
        summary = f"The volume of {name} is {percent:.1f} % full"
    return Evidence(summary, facts, severity=level.severity)


def _levels_of(dataset: Dataset, world: World) -> tuple[_Level, ...]:
    """A zvol never tells that it is full.

    Its blocks stay written after their file is deleted, until the filesystem discards them; and compressed
    ones count for less than they hold. So it is worth a note, and only when nearly all of it is written.
    """
    rules = world.settings.rules
    if dataset.kind == "VOLUME":
        return (_Level(rules.volume_full_critical, Severity.INFO),)
    return (
        _Level(rules.volume_full_warning, Severity.WARNING),
        _Level(rules.volume_full_critical, Severity.CRITICAL),
    )


VOLUME_NEARLY_FULL = Rule(
    id="volume-nearly-full",
    title="Volume that is nearly full",
    fix=(
        "Delete what is not needed in it, or expand the claim. For a block volume look with `df` on the node "
        "first: if the filesystem has room, mount it with `discard` or run `fstrim`."
    ),
    severity=Severity.WARNING,
    subject=Kind.PERSISTENT_VOLUME,
    needs=_NEEDS,
    judge=_judge_volume_fullness,
    pending=lambda _world: _AT_ONCE,
    nas_of=nas_of_volume,
)


def _judge_size(ref: Ref, world: World) -> Judgement:
    live = _live(ref, world)
    if isinstance(live, str):
        return Clear(live)
    volume, dataset = live
    if not csi.is_provisioned(volume):
        return Clear("democratic-csi did not make it, and a capacity that is written by hand binds nobody")
    if not volume.capacity_bytes:
        return Clear("it promises no size")
    size = dataset.volsize_bytes if dataset.kind == "VOLUME" else dataset.quota_bytes
    if not size:
        return Clear("quotas are disabled for its dataset")
    if _fits(size, volume.capacity_bytes, dataset):
        return Clear("both sides say the same size")
    if _is_expanding(ref.source, volume, size, dataset, world):
        return Clear("it is being expanded")
    facts: dict[str, Fact] = {
        "claim": f"{volume.claim.namespace}/{volume.claim.name}" if volume.claim else None,
        "dataset": dataset.path,
        "capacity_bytes": volume.capacity_bytes,
        "volsize_bytes" if dataset.kind == "VOLUME" else "quota_bytes": size,
    }
    smaller = size < volume.capacity_bytes
    what = "smaller" if smaller else "larger"
    summary = f"Dataset {dataset.path} is {what} than the volume of {_called(ref, volume)} says"
    return Evidence(summary, facts, severity=None if smaller else Severity.INFO)


# democratic-csi's API drivers set no refquota below this (TrueNAS refuses it).
_LEAST_QUOTA = 1 << 30


def _fits(size: int, wanted: int, dataset: Dataset) -> bool:
    """Whether a dataset has the size that was wanted of it.

    democratic-csi rounds a volsize up to the next block, and makes no quota below 1 GiB.
    """
    if dataset.kind != "VOLUME":
        return size == max(wanted, _LEAST_QUOTA) or size == wanted
    return 0 <= size - wanted < (dataset.volblocksize_bytes or _UNTOLD_BLOCK)


def _is_expanding(
    cluster: str, volume: k8s.PersistentVolume, size: int, dataset: Dataset, world: World
) -> bool:
    """An expansion makes the dataset larger first, and the PersistentVolume when that has succeeded."""
    claim = _claim(cluster, volume, world)
    if claim is None or claim.requested_bytes <= volume.capacity_bytes:
        return False
    return _fits(size, claim.requested_bytes, dataset)


VOLUME_SIZE_DIFFERS = Rule(
    id="volume-size-differs",
    title="Volume whose size the NAS and Kubernetes disagree on",
    fix=(
        "Set refquota or volsize on the NAS to the volume's capacity (never shrink a zvol), or expand the "
        "claim so that democratic-csi does it."
    ),
    severity=Severity.WARNING,
    subject=Kind.PERSISTENT_VOLUME,
    needs=_NEEDS,
    judge=_judge_size,
    pending=lambda world: world.settings.rules.grace,
    nas_of=nas_of_volume,
)
