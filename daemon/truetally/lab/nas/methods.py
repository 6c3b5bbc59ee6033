"""All methods together: importing the modules that define them fills the table."""

from __future__ import annotations

from truetally.lab.nas import (
    encryption,
    filesystem,
    nvmet,
    pools,
    replication,
    reporting,
    sharing,
    storage,
    system,
)
from truetally.lab.nas.table import METHODS, Caller, Method, call, find

__all__ = [
    "METHODS",
    "Caller",
    "Method",
    "call",
    "encryption",
    "filesystem",
    "find",
    "nvmet",
    "pools",
    "replication",
    "reporting",
    "sharing",
    "storage",
    "system",
]
