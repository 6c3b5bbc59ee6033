"""Clones and their origins turned round, and datasets turned back to what they were."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING

from truetally.lab.nas import space
from truetally.lab.nas.dataset import Dataset, Snapshot
from truetally.lab.nas.failures import CallError

if TYPE_CHECKING:
    from truetally.lab.nas.zfs import Zfs


def promote(zfs: Zfs, name: str) -> None:
    """See `Zfs.promote`."""
    clone = zfs.dataset(name)
    if not clone.origin:
        raise CallError(f"cannot promote '{name}': not a cloned filesystem", errno.EINVAL)
    shared = zfs.snapshot(clone.origin)
    original = zfs.dataset(shared.dataset)
    moved = [taken for taken in original.snapshots.values() if taken.txg <= shared.txg]
    twice = next((taken.name for taken in moved if taken.name in clone.snapshots), None)
    if twice is not None:
        raise CallError(f"cannot promote '{name}': snapshot name '{twice}' conflicts", errno.EEXIST)
    shared.clones.discard(name)
    space.swap(clone, original, shared)
    for taken in moved:
        taken.dataset = name
        for other in taken.clones:
            zfs.datasets[other].origin = taken.path
    clone.origin, original.origin = original.origin, shared.path
    beyond = zfs.find_snapshot(clone.origin) if clone.origin else None
    if beyond is not None:
        beyond.clones ^= {original.name, name}
    shared.clones.add(original.name)
    zfs.snapshots_changed(clone, original)


def roll_back(zfs: Zfs, path: str, *, recursive: bool, clones: bool) -> list[str]:
    """See `Zfs.rollback`."""
    target = zfs.snapshot(path)
    dataset = zfs.datasets[target.dataset]
    newer = [taken for taken in dataset.snapshots.values() if taken.txg > target.txg]
    refusal = _refusal(zfs, dataset, newer, recursive=recursive, clones=clones)
    if refusal is not None:
        raise CallError(f"cannot rollback to '{path}': {refusal[0]}", refusal[1])
    gone: list[str] = []
    for taken in reversed(newer):
        for clone in sorted(taken.clones):
            if clone in zfs.datasets:
                gone += zfs.destroy(clone, recursive=True, clones=True)
        gone.append(taken.path)
        # One whose destruction waited for its clones has gone with them.
        if taken.name in dataset.snapshots:
            zfs.drop(taken)
    space.roll_back(dataset, target)
    if target.volsize:
        dataset.set_native("volsize", target.volsize)
    return gone


def _refusal(
    zfs: Zfs, dataset: Dataset, newer: list[Snapshot], *, recursive: bool, clones: bool
) -> tuple[str, int] | None:
    if newer and not (recursive or clones):
        return "more recent snapshots or bookmarks exist", errno.EEXIST
    if any(taken.holds for taken in newer):
        return "dataset is busy", errno.EBUSY
    made = [zfs.datasets[clone] for taken in newer for clone in taken.clones]
    if made and not clones:
        return "clones of previous snapshots exist", errno.EBUSY
    # What must go with the clones may be the dataset itself.
    if any(each is dataset for clone in made for top in zfs.with_clones(clone) for each in top.below()):
        return "dataset is busy", errno.EBUSY
    return None


def refuse_dependents(dataset: Dataset) -> None:
    """Refuse to destroy a dataset alone that has children or snapshots."""
    if dataset.children:
        raise CallError(f"cannot destroy '{dataset.name}': filesystem has children", errno.ENOTEMPTY)
    if dataset.snapshots:
        cloned = any(taken.clones for taken in dataset.snapshots.values())
        what = "filesystem has dependent clones" if cloned else "filesystem has dependent snapshots"
        raise CallError(f"cannot destroy '{dataset.name}': {what}", errno.EBUSY)


def refuse_outsiders(name: str, snapshots: Iterable[Snapshot], doomed: set[str]) -> None:
    """Refuse to destroy snapshots that are held, or that others than the doomed were cloned from."""
    for taken in snapshots:
        if taken.clones - doomed:
            raise CallError(f"cannot destroy '{name}': filesystem has dependent clones", errno.EBUSY)
        if taken.holds:
            raise CallError(f"cannot destroy '{taken.path}': dataset is busy", errno.EBUSY)
