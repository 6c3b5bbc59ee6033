"""What differs between the TrueNAS generations.

The endpoint `GET /api/versions` lists the API versions a server can speak; what it can do is
told by the newest of them, never by the version's name (the word SCALE was dropped in 25.04).
A server without that endpoint is 22.12 to 24.10 and only speaks the protocol of `/websocket`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from truetally.sources.truenas.calls import Wire
from truetally.sources.truenas.ddp import Ddp
from truetally.sources.truenas.jsonrpc import JsonRpc


class Engine(StrEnum):
    """How datasets are best listed."""

    POOL_DATASET = "pool.dataset.query"
    ZFS_RESOURCE = "zfs.resource.query"


class Generation(msgspec.Struct, frozen=True):
    """What a server of this generation offers.

    Attributes:
        since: the first version of it, as (major, minor).
        wire: the protocol it is spoken to by.
        snapshots: the method that lists snapshots.
        snapshot_detail: the method that tells one snapshot's user properties, source and holds.
        snapshot_properties: the few that a listing asks for. 26 does not tell deferred destruction nor the
            number of holds any more; a snapshot that waits for its last clone is known there by the clone's
            origin.
        tells_origin: whether `pool.dataset.query` tells where a user property comes from.
    """

    name: str
    since: tuple[int, int]
    wire: Wire
    snapshots: str
    snapshot_detail: str
    datasets: Engine
    tells_origin: bool
    snapshot_properties: tuple[str, ...] = ("creation", "used", "referenced", "defer_destroy", "userrefs")

    @property
    def has_users(self) -> bool:
        """Whether API keys belong to users with roles (25.04+); before, a key has a list of its own."""
        return self.since >= (25, 4)

    @property
    def has_scram(self) -> bool:
        """Whether one can log in without sending the key (26+)."""
        return self.since >= (26, 0)


LEGACY = Generation(
    "22.12 to 24.10",
    (22, 12),
    Ddp(),
    "zfs.snapshot.query",
    "zfs.snapshot.query",
    Engine.POOL_DATASET,
    tells_origin=True,
)
_25_04 = Generation(
    "25.04",
    (25, 4),
    JsonRpc(),
    "zfs.snapshot.query",
    "zfs.snapshot.query",
    Engine.POOL_DATASET,
    tells_origin=True,
)
_25_10 = Generation(
    "25.10",
    (25, 10),
    JsonRpc(),
    "pool.snapshot.query",
    "pool.snapshot.query",
    Engine.ZFS_RESOURCE,
    tells_origin=False,
)
_26 = Generation(
    "26",
    (26, 0),
    JsonRpc(),
    "pool.snapshot.query",
    "zfs.resource.snapshot.query",
    Engine.ZFS_RESOURCE,
    tells_origin=False,
    snapshot_properties=("creation", "used", "referenced"),
)


def generation(versions: Sequence[str]) -> Generation | None:
    """The generation of a server that lists these API versions; None if we can speak none of them."""
    known = [(int(m[1]), int(m[2])) for v in versions if (m := re.fullmatch(r"v(\d+)\.(\d+).*", v))]
    newest = max(known, default=(0, 0))
    return next((each for each in (_26, _25_10, _25_04) if newest >= each.since), None)
