"""What differs between the TrueNAS versions that speak JSON-RPC.

The endpoint `GET /api/versions` lists the API versions a server can speak; what it can do is
told by the newest of them, never by the version's name (the word SCALE was dropped in 25.04).
The older generations, which only speak the legacy websocket protocol, are not supported yet.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum

import msgspec


class Engine(StrEnum):
    """How datasets are best listed."""

    POOL_DATASET = "pool.dataset.query"
    ZFS_RESOURCE = "zfs.resource.query"


class Generation(msgspec.Struct, frozen=True):
    """What a server of this generation offers.

    Attributes:
        snapshots: the method that lists snapshots.
        snapshot_detail: the method that tells one snapshot's user properties, source and holds.
        snapshot_properties: the few that a listing asks for. 26 does not tell deferred destruction any more;
            a snapshot that waits for its last clone is known there by the clone's origin.
        tells_origin: whether `pool.dataset.query` tells where a user property comes from.
    """

    name: str
    snapshots: str
    snapshot_detail: str
    datasets: Engine
    tells_origin: bool
    snapshot_properties: tuple[str, ...] = ("creation", "used", "referenced", "defer_destroy")


_25_04 = Generation(
    "25.04", "zfs.snapshot.query", "zfs.snapshot.query", Engine.POOL_DATASET, tells_origin=True
)
_25_10 = Generation(
    "25.10", "pool.snapshot.query", "pool.snapshot.query", Engine.ZFS_RESOURCE, tells_origin=False
)
_26 = Generation(
    "26",
    "pool.snapshot.query",
    "zfs.resource.snapshot.query",
    Engine.ZFS_RESOURCE,
    tells_origin=False,
    snapshot_properties=("creation", "used", "referenced"),
)


def generation(versions: Sequence[str]) -> Generation | None:
    """The generation of a server that lists these API versions; None if it is none we can speak with."""
    known = [(int(m[1]), int(m[2])) for v in versions if (m := re.fullmatch(r"v(\d+)\.(\d+).*", v))]
    newest = max(known, default=(0, 0))
    if newest >= (26, 0):
        return _26
    if newest >= (25, 10):
        return _25_10
    return _25_04 if newest >= (25, 4) else None
