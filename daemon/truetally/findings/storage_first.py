"""Reading again in the order that proves that nobody wants something: the NAS first, then every cluster.

Whatever came to refer to the object while the NAS was read, is seen in the clusters.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from datetime import timedelta

from truetally.findings.rule import Order, Reread
from truetally.graph.world import World
from truetally.model.refs import Kind, Ref
from truetally.model.truenas import DatasetUse

# Whatever may refer to storage, in Kubernetes.
REFERRING = frozenset(
    {
        Kind.PERSISTENT_VOLUME,
        Kind.PERSISTENT_VOLUME_CLAIM,
        Kind.POD,
        Kind.VOLUME_ATTACHMENT,
        Kind.VOLUME_SNAPSHOT,
        Kind.VOLUME_SNAPSHOT_CONTENT,
    }
)


# How long what was read of a path's use counts; after that a suspicion may have it read again.
USE_IS_VALID = timedelta(minutes=15)


def use_of(world: World, nas: str, path: str) -> DatasetUse | None:
    """Who was using a path when that was last read; None if it was not, or too long ago."""
    known = world.use(nas, path)
    if known is None or world.ticks - known[1] > USE_IS_VALID.total_seconds():
        return None
    return known[0]


def reread(ref: Ref, nas_kinds: AbstractSet[Kind], used: Iterable[str]) -> Reread:
    """What to read again: the object, these kinds of its NAS, these paths' use, and all that may refer."""
    objects = {ref} | {Ref(ref.source, Kind.DATASET_USE, path) for path in used}
    return Reread(
        Order.STORAGE_FIRST,
        nas=ref.source,
        objects=frozenset(objects),
        nas_kinds=frozenset(nas_kinds),
        cluster_kinds=REFERRING,
    )


def confirmed(ref: Ref, world: World, since: float, nas_kinds: AbstractSet[Kind], used: Iterable[str]) -> str:
    """Empty if all of that was read after `since`, and every cluster after it; otherwise why not."""
    node = world.node(ref)
    if node is None or node.asked_at < since:
        return "it has not been read again"
    if not world.listed_since(nas_kinds, (ref.source,), since):
        return "the NAS has not been read again"
    read = [node.asked_at]
    for path in used:
        known = world.use(ref.source, path)
        if known is None or known[1] < since:
            return f"the use of {path} has not been read"
        read.append(known[1])
    read += [world.graph.completeness(ref.source, kind).listed_at or since for kind in nas_kinds]
    if not world.listed_since(REFERRING, world.clusters, max(read)):
        return "the clusters have not been read after the NAS"
    return ""
