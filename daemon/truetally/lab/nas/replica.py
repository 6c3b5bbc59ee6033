"""Replicas: what `zfs send | zfs receive` makes of a snapshot, the first time and later.

A received snapshot keeps the guid and creation time of the one sent, which is how the
next increment finds its base; its createtxg is the target's own.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from truetally.lab.nas import space
from truetally.lab.nas.dataset import Dataset, Snapshot
from truetally.lab.nas.failures import CallError
from truetally.lab.nas.native import NATIVES

if TYPE_CHECKING:
    from truetally.lab.nas.zfs import Zfs

# These describe the device, and go with every stream.
_ALWAYS_SENT = ("volsize", "volblocksize")


@dataclass(frozen=True, slots=True)
class Options:
    """How to send and receive; see `Zfs.receive`."""

    properties: bool = True
    readonly: bool | None = None
    intermediate: bool = False
    force: bool = False


def receive(zfs: Zfs, source: str, target: str, options: Options) -> Dataset:
    """See `Zfs.receive`."""
    name, _, leaf = source.partition("@")
    sent = zfs.dataset(name)
    upto = zfs.snapshot(source) if leaf else None
    there = zfs.find(target)
    _refuse_beyond(zfs, sent if upto is None else upto, there, target)
    made = there if there is not None and upto is not None else _begin(zfs, sent, target)
    _describe(sent, made, options)
    if upto is None:
        zfs.grow(made, sent.referenced_bytes - made.referenced_bytes)
    else:
        base = _base(zfs, sent, made, options) if there is not None else None
        for taken in _stream(sent, base, upto, options):
            _apply(zfs, sent, taken, made)
    if options.readonly is not None:
        made.set_native("readonly", options.readonly)
    return made


def _refuse_beyond(zfs: Zfs, sent: Dataset | Snapshot, there: Dataset | None, target: str) -> None:
    pool = zfs.pools.get(target.partition("/")[0])
    if pool is None:
        raise CallError(f"cannot open '{target}': no such pool", errno.ENOENT)
    # The whole of it, though an increment may need less (inferred: the real one ends when the room does).
    held = there.referenced_bytes if there is not None else 0
    if sent.referenced_bytes - held > pool.size_bytes - pool.root.used_bytes:
        raise CallError(f"cannot receive into '{target}': out of space", errno.ENOSPC)


def _begin(zfs: Zfs, sent: Dataset, target: str) -> Dataset:
    return zfs.create(target, volsize=sent.volsize, parents=True)


def _describe(sent: Dataset, made: Dataset, options: Options) -> None:
    names = [*NATIVES] if options.properties else _ALWAYS_SENT
    for name in names:
        value, source, _ = sent.effective(name)
        if source in ("LOCAL", "RECEIVED") and name != "reservation":
            made.native_received[name] = value
            if name in _ALWAYS_SENT:
                made.native[name] = made.native_received.pop(name)
    made.compression_ratio = sent.compression_ratio
    made.changes.natives += 1
    if options.properties:
        _keep(made, sent.user)
    made.settle()


def _keep(kept: Dataset | Snapshot, user: dict[str, str]) -> None:
    for key, value in user.items():
        if key not in kept.user or key in kept.received:
            kept.user[key] = value
            kept.received.add(key)


def _base(zfs: Zfs, sent: Dataset, made: Dataset, options: Options) -> Snapshot:
    known = {taken.guid for taken in sent.snapshots.values()}
    base = next((taken for taken in reversed(made.snapshots.values()) if taken.guid in known), None)
    if base is None:
        raise CallError(
            f"cannot receive new filesystem stream: destination '{made.name}' exists", errno.EEXIST
        )
    newest = space.newest_snapshot(made)
    changed = newest is not base or made.unique_bytes or made.referenced_bytes != base.referenced_bytes
    if changed and not options.force:
        text = f"destination {made.name} has been modified since most recent snapshot"
        raise CallError(f"cannot receive incremental stream: {text}", errno.ETXTBSY)
    if changed:
        zfs.rollback(base.path, recursive=True)
    return base


def _stream(sent: Dataset, base: Snapshot | None, upto: Snapshot, options: Options) -> list[Snapshot]:
    taken = list(sent.snapshots.values())
    first = next((n for n, each in enumerate(taken) if base is not None and each.guid == base.guid), -1)
    between = taken[first + 1 : taken.index(upto) + 1]
    return between if options.intermediate else [each for each in between if each is upto]


def _apply(zfs: Zfs, sent: Dataset, taken: Snapshot, made: Dataset) -> None:
    new = (
        min(space.written(sent, taken), taken.referenced_bytes) if made.snapshots else taken.referenced_bytes
    )
    space.free(made, max(made.referenced_bytes + new - taken.referenced_bytes, 0))
    space.bear(made, taken.referenced_bytes - made.referenced_bytes)
    kept = zfs.take(made.name, taken.name)
    kept.guid, kept.created_at, kept.volsize = taken.guid, taken.created_at, taken.volsize
    _keep(kept, taken.user)
