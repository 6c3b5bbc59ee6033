"""What outlives an object: that a volume was ours, and that it was to be kept."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class MemoryKind(StrEnum):
    """What is remembered: a provisioned volume by its CSI name, or a retained snapshot by its handle."""

    VOLUME = "volume"
    SNAPSHOT = "snapshot"


class Memory(msgspec.Struct, frozen=True):
    """One thing that was once seen in a watched cluster.

    Attributes:
        retained: whether its reclaim or deletion policy was Retain when it was last seen.
    """

    kind: MemoryKind
    name: str
    cluster: str
    retained: bool
