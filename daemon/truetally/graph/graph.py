"""The graph: every object the sources have shown, indexed by the keys it answers to.

One writer applies observations in order. Older evidence never overwrites newer: a
list that was asked for before an object was re-read neither changes nor removes it.
Absence is believed only of a kind whose last full list has ended and whose source
has not been lost since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import msgspec

from truetally.csi import democratic_csi as csi
from truetally.graph.correlate import is_kinship, keys_of, pointed_at, pointing_at
from truetally.model.kubernetes import PersistentVolume, VolumeSnapshotContent
from truetally.model.memories import Memory, MemoryKind
from truetally.model.observations import Gone, Listed, Lost, Observation, Seen, Trouble, Value
from truetally.model.refs import Kind, Ref
from truetally.model.truenas import Dataset

T = TypeVar("T")

_VOLUME, _SNAPSHOT = MemoryKind.VOLUME, MemoryKind.SNAPSHOT

_NO_REFS: frozenset[Ref] = frozenset()

# A list that has lost more than half of what was known is more likely half an answer than half a cluster.
_DOUBTFUL_FROM = 4
_DOUBTFUL_LEFT = 0.5

# How long the time of an object's disappearance is remembered, in seconds: longer than any request may take,
# so that an answer that was under way cannot bring the object back.
_REMEMBER_GONE = 900.0


# From a session to its zvol: session, target, targetextent, extent, zvol.
_CHAIN_LENGTH = 4
_CHAIN_SIZE = 2000

# A pod mounts many volumes, and a snapshot or an event leads nowhere that its volume doesn't lead to.
_LEAVES = frozenset({Kind.POD, Kind.SNAPSHOT, Kind.EVENT})


class Node(msgspec.Struct):
    """One object: what it was when last seen, and when that was asked."""

    value: Value
    asked_at: float
    keys: tuple[str, ...]


class Completeness(msgspec.Struct):
    """What is known of a kind at a source.

    Attributes:
        listed_at: when the last full list was asked for; None before the first and after a loss.
        doubted_since: when a list came that had suddenly lost most of its objects; such a list proves no
            absence until a later one agrees with it.
    """

    listed_at: float | None = None
    absent: bool = False
    trouble: Trouble | None = None
    reason: str = ""
    doubted_since: float | None = None


class Stamp(msgspec.Struct, frozen=True):
    """Whose volume a dataset says it is."""

    provisioner_driver: str
    instance_id: str
    marker: str = ""


class Changes(msgspec.Struct):
    """What a batch has changed: objects, and kinds whose completeness is another now."""

    refs: set[Ref] = msgspec.field(default_factory=set)
    kinds: set[tuple[str, Kind]] = msgspec.field(default_factory=set)


class Graph:
    """The correlation graph.

    Args:
        doubt_for: seconds for which a list that suddenly shrank is not believed.
        marker_properties: the ZFS user properties by which operators mark a cluster's datasets.
    """

    def __init__(self, doubt_for: float = 3600.0, marker_properties: Iterable[str] = ()) -> None:
        self._kinds: dict[tuple[str, Kind], dict[str, Node]] = {}
        self._index: dict[str, set[Ref]] = {}
        self._complete: dict[tuple[str, Kind], Completeness] = {}
        self._lost_at: dict[tuple[str, Kind], float] = {}
        self._gone: dict[Ref, float] = {}
        self._doubt_for = doubt_for
        self._markers = tuple(marker_properties)
        self._stamps: dict[tuple[str, str], Counter[Stamp]] = {}
        self._provisioners: Counter[tuple[str, str]] = Counter()
        self._csi_drivers: Counter[tuple[str, str]] = Counter()
        self._memories: dict[tuple[MemoryKind, str], Memory] = {}
        self._fresh: dict[tuple[MemoryKind, str], Memory] = {}

    # What is known

    def node(self, ref: Ref) -> Node | None:
        """The object, or None."""
        return self._kinds.get((ref.source, ref.kind), {}).get(ref.name)

    def nodes(self, source: str, kind: Kind) -> Mapping[str, Node]:
        """All objects of a kind at a source, by name."""
        return self._kinds.get((source, kind), {})

    def refs(self, kind: Kind) -> Iterator[Ref]:
        """All objects of a kind at every source."""
        for (source, this), nodes in list(self._kinds.items()):
            if this is kind:
                for name in list(nodes):
                    yield Ref(source, kind, name)

    def sharing(self, key: str) -> frozenset[Ref] | set[Ref]:
        """The objects that answer to a key."""
        return self._index.get(key, _NO_REFS)

    def neighbours(self, ref: Ref) -> set[Ref]:
        """The objects that share a key with this one, the datasets that it names, and what names it."""
        node = self.node(ref)
        found: set[Ref] = set()
        for key in node.keys if node else ():
            if is_kinship(key):
                found |= self.sharing(key)
            elif (named := pointed_at(key)) is not None:
                found.add(named)
        if (pointing := pointing_at(ref)) is not None:
            found |= self.sharing(pointing)
        found.discard(ref)
        return found

    def related(self, ref: Ref) -> set[Ref]:
        """The objects that a change of this one may concern, itself among them: its whole volume chain."""
        found, edge = {ref}, {ref}
        for _ in range(_CHAIN_LENGTH):
            edge = {n for r in edge if r.kind not in _LEAVES for n in self.neighbours(r)} - found
            if not edge or len(found) > _CHAIN_SIZE:
                break
            found |= edge
        return found

    def completeness(self, source: str, kind: Kind) -> Completeness:
        """What is known of a kind at a source."""
        return self._complete.get((source, kind)) or Completeness()

    def proves_absence(self, source: str, kind: Kind) -> bool:
        """Whether an object that is not in the graph does not exist."""
        state = self.completeness(source, kind)
        return state.listed_at is not None and state.doubted_since is None

    def count(self, kind: Kind) -> int:
        """How many objects of a kind there are at all sources."""
        return sum(len(nodes) for (_, this), nodes in self._kinds.items() if this is kind)

    def stamps(self, nas: str, parent: str) -> Mapping[Stamp, int]:
        """Whose volumes the children of a dataset say they are, and how many."""
        return self._stamps.get((nas, parent), Counter())

    def provisioners(self) -> Mapping[tuple[str, str], int]:
        """The (driver id, instance id) pairs that PersistentVolumes of the watched clusters have ever named.

        They outlive their last volume: its dataset, if it is left behind, is ours all the same.
        """
        return self._provisioners

    def remembered(self, kind: MemoryKind, name: str) -> Memory | None:
        """What was once seen of a provisioned volume (by CSI name) or of a retained snapshot (by handle)."""
        return self._memories.get((kind, name))

    def recall(self, memories: Iterable[Memory]) -> None:
        """Takes up what was remembered before."""
        self._memories.update({(m.kind, m.name): m for m in memories})

    def fresh_memories(self) -> list[Memory]:
        """The memories that have come up since this was last asked, to be written down."""
        fresh, self._fresh = list(self._fresh.values()), {}
        return fresh

    def keep_fresh(self, memories: Iterable[Memory]) -> None:
        """Gives memories back that could not be written down."""
        self._fresh = {(m.kind, m.name): m for m in memories} | self._fresh

    def has_provisioned(self, cluster: str, driver: str) -> bool:
        """Whether a volume in the cluster was made by democratic-csi under this CSI driver name."""
        return self._csi_drivers[cluster, driver] > 0

    # What changes it

    def apply(self, observation: Observation, changes: Changes) -> None:
        """Takes one observation in, and notes in `changes` what is different now."""
        match observation:
            case Seen():
                self._see(observation, changes)
            case Gone():
                self._forget(observation.ref, observation.asked_at, changes)
            case Listed():
                self._end_list(observation, changes)
            case Lost():
                self._lose(observation, changes)

    def use_markers(self, names: Iterable[str]) -> None:
        """Takes other marker properties, and counts anew whose volumes the datasets say they are."""
        self._markers = tuple(names)
        self._stamps.clear()
        for (source, kind), nodes in self._kinds.items():
            for node in nodes.values() if kind is Kind.DATASET else ():
                if isinstance(node.value, Dataset):
                    self._stamp_of(source, node.value, +1)

    def drop_source(self, source: str, changes: Changes) -> None:
        """Forgets all of a source that is no longer configured."""
        for at, kind in [key for key in self._kinds if key[0] == source]:
            for name in list(self._kinds[at, kind]):
                self._remove(Ref(source, kind, name), changes)
            del self._kinds[at, kind]
        self._lost_at = {key: at for key, at in self._lost_at.items() if key[0] != source}
        for key in [key for key in self._complete if key[0] == source]:
            del self._complete[key]
            changes.kinds.add(key)

    def _see(self, seen: Seen, changes: Changes) -> None:
        ref, value = seen.ref, seen.value
        nodes = self._kinds.setdefault((ref.source, ref.kind), {})
        node = nodes.get(ref.name)
        if node is None:
            if self._gone.pop(ref, -1.0) > seen.asked_at:
                return
            node = nodes[ref.name] = Node(value, seen.asked_at, keys_of(ref, value))
            self._index_keys(ref, node.keys)
            self._count(ref, value, +1)
            changes.refs.add(ref)
            return
        if seen.asked_at < node.asked_at:
            return
        node.asked_at = seen.asked_at
        if node.value == value:
            return
        # Whoever was related before has to be looked at again, too.
        changes.refs |= self.neighbours(ref)
        self._count(ref, node.value, -1)
        self._count(ref, value, +1)
        node.value = value
        if (keys := keys_of(ref, value)) != node.keys:
            self._unindex_keys(ref, node.keys)
            self._index_keys(ref, keys)
            node.keys = keys
        changes.refs.add(ref)

    def _forget(self, ref: Ref, asked_at: float, changes: Changes) -> None:
        node = self.node(ref)
        if node is not None and node.asked_at > asked_at:
            return
        if len(self._gone) > 4096:
            self._gone = {r: at for r, at in self._gone.items() if asked_at - at < _REMEMBER_GONE}
        self._gone[ref] = asked_at
        if node is not None:
            self._remove(ref, changes)

    def _remove(self, ref: Ref, changes: Changes) -> None:
        changes.refs |= self.neighbours(ref)
        changes.refs.add(ref)
        node = self._kinds[ref.source, ref.kind].pop(ref.name)
        self._unindex_keys(ref, node.keys)
        self._count(ref, node.value, -1)

    def _end_list(self, listed: Listed, changes: Changes) -> None:
        key = (listed.source, listed.kind)
        if listed.asked_at < self._lost_at.get(key, listed.asked_at):
            # Its end was overtaken by the loss of the source: what has been deleted since, nobody knows.
            return
        before = self._complete.get(key) or Completeness()
        nodes = self._kinds.get(key, {})
        missing = [
            n for n, node in nodes.items() if n not in listed.names and node.asked_at <= listed.asked_at
        ]
        doubted = self._doubt(before, len(nodes), len(missing), listed.asked_at)
        for name in missing:
            self._forget(Ref(listed.source, listed.kind, name), listed.asked_at, changes)
        after = Completeness(listed_at=listed.asked_at, absent=listed.absent, doubted_since=doubted)
        self._complete[key] = after
        if (before.listed_at is None, before.doubted_since, before.absent) != (False, doubted, listed.absent):
            changes.kinds.add(key)

    def _doubt(self, before: Completeness, known: int, missing: int, asked_at: float) -> float | None:
        if known >= _DOUBTFUL_FROM and known - missing < known * _DOUBTFUL_LEFT:
            return asked_at
        if before.doubted_since is not None and asked_at - before.doubted_since < self._doubt_for:
            return before.doubted_since
        return None

    def _lose(self, lost: Lost, changes: Changes) -> None:
        key = (lost.source, lost.kind)
        before = self._complete.get(key) or Completeness()
        self._complete[key] = Completeness(
            trouble=lost.trouble, reason=lost.reason, doubted_since=before.doubted_since
        )
        self._lost_at[key] = max(lost.asked_at, self._lost_at.get(key, lost.asked_at))
        if before.listed_at is not None or (before.trouble, before.reason) != (lost.trouble, lost.reason):
            changes.kinds.add(key)

    def _index_keys(self, ref: Ref, keys: tuple[str, ...]) -> None:
        for key in keys:
            self._index.setdefault(key, set()).add(ref)

    def _unindex_keys(self, ref: Ref, keys: tuple[str, ...]) -> None:
        for key in keys:
            refs = self._index[key]
            refs.discard(ref)
            if not refs:
                del self._index[key]

    def _count(self, ref: Ref, value: Value, by: int) -> None:
        """Keeps the census by which a parent's exclusiveness and a volume's past are judged."""
        if isinstance(value, Dataset):
            self._stamp_of(ref.source, value, by)
        elif isinstance(value, PersistentVolume) and (who := csi.provisioner(value)) is not None:
            self._provisioners[who] += max(by, 0)
            if value.csi is not None:
                self._csi_drivers[ref.source, value.csi.driver] += by
            self._remember(Memory(_VOLUME, value.name, ref.source, value.reclaim_policy == "Retain"), by)
        elif isinstance(value, VolumeSnapshotContent) and value.deletion_policy == "Retain":
            handle = value.snapshot_handle or value.source_snapshot_handle
            if handle:
                self._remember(Memory(_SNAPSHOT, handle, ref.source, True), by)

    def _remember(self, memory: Memory, by: int) -> None:
        """Takes a memory in; it is worth writing down when it is new or other, and when its object goes."""
        if self._memories.get((memory.kind, memory.name)) != memory or by < 0:
            self._fresh[memory.kind, memory.name] = memory
        self.recall([memory])

    def _stamp_of(self, nas: str, dataset: Dataset, by: int) -> None:
        if csi.is_managed(dataset):
            self._stamps.setdefault((nas, dataset.parent), Counter())[self.stamp(dataset)] += by

    def stamp(self, dataset: Dataset) -> Stamp:
        """Whose volume the dataset says it is."""
        markers = (csi.own(dataset, name) for name in self._markers)
        return Stamp(
            csi.own(dataset, csi.PROVISIONER_DRIVER),
            csi.own(dataset, csi.INSTANCE_ID),
            "\n".join(f"{name}={value}" for name, value in zip(self._markers, markers, strict=True) if value),
        )


def value_of(node: Node | None, kind: type[T]) -> T | None:
    """The node's value, if it is of that type."""
    return node.value if node is not None and isinstance(node.value, kind) else None
