"""Where bytes are charged as blocks are born, overwritten and freed, and what room is left.

The model is ZFS's own, with counters in place of blocks: a block that the head frees is
gone if no snapshot shows it, else it stays with the newest one that does, and moves to
the one before when that is destroyed. Which blocks an overwrite hits is not known, so
the oldest go first. Slop space and metadata are left out: what a pool has allocated is
what its root dataset uses.
"""

from __future__ import annotations

from collections import Counter

from truetally.lab.nas.dataset import Dataset, Snapshot


def newest_snapshot(dataset: Dataset) -> Snapshot | None:
    """The last snapshot of a dataset."""
    return next(reversed(dataset.snapshots.values()), None)


def _horizon(dataset: Dataset) -> int:
    """The birth of what is written now."""
    newest = newest_snapshot(dataset)
    return newest.txg if newest is not None else dataset.origin_txg


def bear(dataset: Dataset, size: int) -> None:
    """Let a dataset hold so many new bytes."""
    if size:
        birth = _horizon(dataset)
        dataset.live[birth] = dataset.live.get(birth, 0) + size
        dataset.referenced_bytes += size
        dataset.own_bytes += size
        dataset.unique_bytes += size
    dataset.settle()


def free(dataset: Dataset, size: int) -> None:
    """Let a dataset drop so many of its oldest bytes."""
    last, horizon = newest_snapshot(dataset), _horizon(dataset)
    left = size
    for birth in sorted(dataset.live):
        taken = min(dataset.live[birth], left)
        left -= taken
        dataset.live[birth] -= taken
        if not dataset.live[birth]:
            del dataset.live[birth]
        if last is not None and birth < horizon and taken:
            last.dead[birth] = last.dead.get(birth, 0) + taken
        if not left:
            break
    recount(dataset)


def freed_at_once(dataset: Dataset, size: int) -> int:
    """How many bytes `free` would give back to the pool."""
    horizon = _horizon(dataset)
    older = sum(count for birth, count in dataset.live.items() if birth < horizon)
    return max(size - older, 0)


def recount(dataset: Dataset) -> None:
    """Count a dataset's bytes and those of its snapshots from its blocks, and charge them."""
    since, horizon = dataset.origin_txg, _horizon(dataset)
    dataset.referenced_bytes = sum(dataset.live.values())
    dataset.own_bytes = sum(count for birth, count in dataset.live.items() if birth >= since)
    dataset.unique_bytes = sum(count for birth, count in dataset.live.items() if birth >= horizon)
    dataset.snapshots_bytes = 0
    before = since
    for taken in dataset.snapshots.values():
        dataset.snapshots_bytes += sum(count for birth, count in taken.dead.items() if birth >= since)
        taken.used_bytes = sum(count for birth, count in taken.dead.items() if birth >= before)
        before = taken.txg
    dataset.settle()


def shown_by(dataset: Dataset, snapshot: Snapshot) -> dict[int, int]:
    """The bytes that a snapshot of the dataset shows, by birth."""
    found = Counter({birth: count for birth, count in dataset.live.items() if birth < snapshot.txg})
    for later in dataset.snapshots.values():
        if later.txg >= snapshot.txg:
            found.update({birth: count for birth, count in later.dead.items() if birth < snapshot.txg})
    return dict(found)


def written(dataset: Dataset, snapshot: Snapshot) -> int:
    """The bytes that a snapshot shows and the one before it does not."""
    before = dataset.origin_txg
    for taken in dataset.snapshots.values():
        if taken is snapshot:
            break
        before = taken.txg
    return sum(count for birth, count in shown_by(dataset, snapshot).items() if birth >= before)


def forget_snapshot(dataset: Dataset, snapshot: Snapshot) -> None:
    """Take a snapshot out of its dataset; what only it showed is free, the rest is its predecessor's."""
    taken = list(dataset.snapshots.values())
    place = taken.index(snapshot)
    before = taken[place - 1] if place else None
    horizon = before.txg if before is not None else dataset.origin_txg
    del dataset.snapshots[snapshot.name]
    if before is not None:
        for birth, count in snapshot.dead.items():
            if birth < horizon:
                before.dead[birth] = before.dead.get(birth, 0) + count
    recount(dataset)


def roll_back(dataset: Dataset, snapshot: Snapshot) -> None:
    """Let the head be what its newest snapshot shows."""
    dataset.live = shown_by(dataset, snapshot)
    snapshot.dead.clear()
    recount(dataset)


def swap(clone: Dataset, original: Dataset, shared: Snapshot) -> None:
    """Move the snapshots up to the shared one from the original to its clone, with their blocks."""
    whole = Counter(shown_by(original, shared))
    kept = Counter({birth: count for birth, count in clone.live.items() if birth < shared.txg})
    for each in clone.snapshots.values():
        kept.update({birth: count for birth, count in each.dead.items() if birth < shared.txg})
    moved = {taken.name: taken for taken in original.snapshots.values() if taken.txg <= shared.txg}
    shared.dead = dict(whole - kept)
    original.snapshots = {name: taken for name, taken in original.snapshots.items() if taken.txg > shared.txg}
    clone.snapshots = {**moved, **clone.snapshots}
    clone.origin_txg, original.origin_txg = original.origin_txg, shared.txg
    recount(clone)
    recount(original)


def room(dataset: Dataset, pool_bytes: int) -> int:
    """What may still be written below a dataset, by its pool, the quotas above it and its reservation."""
    if dataset.parent is None:
        left = pool_bytes - dataset.used_bytes
    else:
        left = room(dataset.parent, pool_bytes) + max(dataset.reservation - dataset.used_bytes, 0)
    return min(left, dataset.quota - dataset.used_bytes) if dataset.quota else left


def available(dataset: Dataset, pool_bytes: int) -> int:
    """What ZFS calls available: the room, what is kept for the dataset alone, and its refquota."""
    left = room(dataset, pool_bytes) + dataset.refreservation_bytes
    if dataset.refquota:
        left = min(left, dataset.refquota - dataset.referenced_bytes)
    return max(left, 0)


def logical(dataset: Dataset) -> int:
    """What a dataset, its snapshots and all below it hold, before compression."""
    return sum(
        int((each.own_bytes + each.snapshots_bytes) * each.compression_ratio) for each in dataset.below()
    )
