"""ZFS's own properties: which there are, what they are when nobody set them, and which are inherited.

Defaults are those of a dataset that TrueNAS made (its pools have `atime` off and `lz4`
from the start). A size may be written as people write it (`10G`); `none` is zero.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from truetally.lab.nas.failures import CallError

_UNITS = {"K": 10, "M": 20, "G": 30, "T": 40, "P": 50}


class Shape(StrEnum):
    """How TrueNAS shows a value: a limit that is not set is null, a size never is."""

    WORD = "word"
    SWITCH = "switch"
    NUMBER = "number"
    SIZE = "size"
    LIMIT = "limit"


@dataclass(frozen=True, slots=True)
class Native:
    """One property; `only` names the kind of dataset that has it, empty for both."""

    default: str
    shape: Shape = Shape.WORD
    inherited: bool = True
    only: str = ""


def _limit(only: str = "") -> Native:
    return Native("0", Shape.LIMIT, inherited=False, only=only)


NATIVES: Mapping[str, Native] = {
    "dedup": Native("off"),
    "checksum": Native("on"),
    "sync": Native("standard"),
    "compression": Native("lz4"),
    "copies": Native("1", Shape.NUMBER),
    "readonly": Native("off", Shape.SWITCH),
    "snapdir": Native("hidden"),
    "snapdev": Native("hidden"),
    "special_small_blocks": Native("0"),
    "aclmode": Native("discard", only="FILESYSTEM"),
    "acltype": Native("posix", only="FILESYSTEM"),
    "xattr": Native("sa", only="FILESYSTEM"),
    "casesensitivity": Native("sensitive", inherited=False, only="FILESYSTEM"),
    "atime": Native("off", Shape.SWITCH, only="FILESYSTEM"),
    "exec": Native("on", Shape.SWITCH, only="FILESYSTEM"),
    "recordsize": Native("131072", Shape.SIZE, only="FILESYSTEM"),
    "quota": _limit("FILESYSTEM"),
    "refquota": _limit("FILESYSTEM"),
    "reservation": _limit(),
    "refreservation": _limit(),
    "volsize": Native("0", Shape.SIZE, inherited=False, only="VOLUME"),
    "volblocksize": Native("16384", Shape.SIZE, inherited=False, only="VOLUME"),
}
# TrueNAS's names of those that ZFS calls otherwise.
RENAMED: Mapping[str, str] = {
    "deduplication": "dedup",
    "special_small_block_size": "special_small_blocks",
}
_SIZED = (Shape.SIZE, Shape.LIMIT)


def size(text: str) -> int:
    """The bytes that a size means, or ValueError."""
    bare = text.strip().upper().removesuffix("B").removesuffix("I")
    if bare in ("", "NONE"):
        return 0
    unit = _UNITS.get(bare[-1])
    return int(float(bare[:-1]) * (1 << unit)) if unit is not None else int(bare)


def raw(name: str, value: str | int | bool) -> tuple[str, str]:
    """A property's own name and its value as ZFS keeps it.

    Raises:
        CallError: EINVAL for a property that there is not, or a value that it cannot have.
    """
    own = RENAMED.get(name, name)
    native = NATIVES.get(own)
    if native is None:
        raise CallError(f"cannot set property: invalid property '{name}'", errno.EINVAL)
    if isinstance(value, bool):
        return own, "on" if value else "off"
    if native.shape not in _SIZED:
        return own, str(value).lower()
    try:
        bytes_ = value if isinstance(value, int) else size(value)
    except ValueError as error:
        raise CallError(f"cannot set property: bad numeric value '{value}'", errno.EINVAL) from error
    if bytes_ < 0:
        raise CallError(f"cannot set property: bad numeric value '{value}'", errno.EINVAL)
    return own, str(bytes_)
