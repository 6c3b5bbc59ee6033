"""What a dataset lets be written and set, and why it refuses.

Refusals are those of a system call, with its errno: a quota is EDQUOT, a full pool or
device ENOSPC, and what is locked or read-only is not written to at all.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import TYPE_CHECKING

from truetally.lab.nas import space
from truetally.lab.nas.dataset import Dataset, thick_bytes
from truetally.lab.nas.failures import CallError
from truetally.lab.nas.native import NATIVES, raw

if TYPE_CHECKING:
    from truetally.lab.nas.zfs import Zfs


def set_native(zfs: Zfs, dataset: Dataset, properties: Mapping[str, str | int | bool | None]) -> None:
    """See `Zfs.set_native`."""
    for key, value in properties.items():
        own = raw(key, "" if value is None else value)[0]
        if NATIVES[own].only not in ("", dataset.kind):
            text = (
                f"cannot set property for '{dataset.name}': '{key}' does not apply to datasets of this type"
            )
            raise CallError(text, errno.EINVAL)
        before = dict(dataset.native), dict(dataset.native_received)
        room = space.room(dataset.parent or dataset, zfs.pool_bytes(dataset))
        charged = dataset.charged_bytes
        dataset.set_native(own, value)
        wrong = _beyond(dataset, own, dataset.charged_bytes - charged, room)
        if wrong is not None:
            dataset.native, dataset.native_received = before
            zfs.changes.natives += 1
            dataset.settle()
            raise CallError(f"cannot set property for '{dataset.name}': {wrong}", errno.ENOSPC)


def _beyond(dataset: Dataset, own: str, more: int, room: int) -> str | None:
    if more > max(room, 0) and own in ("reservation", "refreservation", "volsize"):
        return "out of space"
    quota = own == "quota" and 0 < dataset.quota < dataset.used_bytes
    if quota or (own == "refquota" and 0 < dataset.refquota < dataset.referenced_bytes):
        return "size is less than current used or reserved space"
    return None


def write(zfs: Zfs, dataset: Dataset, size: int) -> None:
    """See `Zfs.write`."""
    _refuse_unwritable(dataset, size)
    more = size - dataset.referenced_bytes
    if more > 0:
        _admit(zfs, dataset, more, size)
        space.bear(dataset, more)
    elif more < 0:
        space.free(dataset, -more)


def overwrite(zfs: Zfs, dataset: Dataset, size: int) -> None:
    """See `Zfs.overwrite`."""
    _refuse_unwritable(dataset, size)
    size = min(size, dataset.referenced_bytes)
    _admit(zfs, dataset, size - space.freed_at_once(dataset, size), dataset.referenced_bytes)
    space.free(dataset, size)
    space.bear(dataset, size)


def need(zfs: Zfs, dataset: Dataset, size: int, what: str, kept: int | None = None) -> None:
    """Refuse what takes more than there is.

    Args:
        what: what the operator was about to do to the dataset.
        kept: what is kept for it besides the room of all; None is its refreservation.
    """
    pool_bytes = zfs.pool_bytes(dataset)
    kept = dataset.refreservation_bytes if kept is None else kept
    if size <= max(space.room(dataset, pool_bytes), 0) + kept:
        return
    if zfs.pools[dataset.pool].root.used_bytes + size - kept > pool_bytes:
        raise CallError(f"cannot {what} '{dataset.name}': out of space", errno.ENOSPC)
    raise CallError(f"cannot {what} '{dataset.name}': disk quota exceeded", errno.EDQUOT)


def _admit(zfs: Zfs, dataset: Dataset, more: int, size: int) -> None:
    if dataset.refquota and size > dataset.refquota:
        raise CallError(f"cannot write to '{dataset.name}': disk quota exceeded", errno.EDQUOT)
    if dataset.volsize and size > thick_bytes(dataset):
        raise CallError(f"cannot write to '{dataset.name}': no space left on device", errno.ENOSPC)
    need(zfs, dataset, more, "write to")


def _refuse_unwritable(dataset: Dataset, size: int) -> None:
    if size < 0:
        raise CallError(f"cannot write to '{dataset.name}': {size} bytes", errno.EINVAL)
    if dataset.locked:
        raise CallError(f"cannot write to '{dataset.name}': encryption key not loaded", errno.EACCES)
    if dataset.readonly:
        raise CallError(f"cannot write to '{dataset.name}': read-only file system", errno.EROFS)
