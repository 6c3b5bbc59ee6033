"""All methods together: importing the modules that define them fills the table."""

from __future__ import annotations

from truetally.lab.nas import (
    core,
    encryption,
    filesystem,
    logins,
    nvmet,
    pools,
    replication,
    reporting,
    sharing,
    snapshots,
    storage,
    system,
)
from truetally.lab.nas.table import METHODS, Caller, Method, call, find

__all__ = [
    "METHODS",
    "Caller",
    "Method",
    "call",
    "core",
    "encryption",
    "filesystem",
    "find",
    "logins",
    "nvmet",
    "pools",
    "replication",
    "reporting",
    "sharing",
    "snapshots",
    "storage",
    "system",
]
