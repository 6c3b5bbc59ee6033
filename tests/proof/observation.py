"""What truetally is told of the truth: late, doubled, in part, in another order, or not at all.

Only what real sources can do: a watch tells the changes of one kind in their order, at
any later time, and begins anew with a list; an answer of a NAS may come after a later
one, and says when it was asked for; hints of a NAS get lost, and a list makes up for
it; a list can break off, or lie by losing most of its objects; a source or a kind may
be away for any time.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Generator, Iterable, Sequence

import msgspec

from proof.deeds import _CONNECTIONS
from proof.model import Truth, Volume
from truetally.csi import democratic_csi as csi
from truetally.errors import AccessDenied, SourceUnavailable
from truetally.graph.graph import Graph
from truetally.model import kubernetes as k8s
from truetally.model.observations import Gone, Listed, Lost, Observation, Seen, Trouble, Value
from truetally.model.refs import KUBERNETES_KINDS, TRUENAS_KINDS, Kind, Ref
from truetally.model.truenas import DatasetUse, Snapshot

Emit = Callable[[Sequence[Observation]], None]


@types.coroutine
def pause() -> Generator[None, None, None]:
    """A request is under way: the world goes on meanwhile."""
    yield


class Source:
    """One watched cluster or NAS, and what of it is on its way to truetally."""

    def __init__(self, name: str, truth: Truth, emit: Emit) -> None:
        self.name, self._truth, self._rng, self._emit = name, truth, truth.rng, emit
        self.is_nas = name in truth.nas
        self.kinds = TRUENAS_KINDS if self.is_nas else KUBERNETES_KINDS
        self.up = True
        self.denied: set[Kind] = set()
        self.asked = False
        self.tells_all = False
        self._coming: list[tuple[Ref, Value | None, float]] = []

    # What goes on by itself

    def hear(self, changed: Iterable[Ref]) -> None:
        """Something has changed: a watch will tell; the hint of a NAS may get lost."""
        if not self.up:
            return
        for ref in changed:
            kept = not self.is_nas or ref.kind is Kind.SNAPSHOT or self._rng.random() < 0.6
            if ref.source == self.name and ref.kind not in self.denied and kept:
                self._coming.append((ref, self._truth.visible(ref), self._truth.ticks))

    def deliver(self, everything: bool = False) -> None:
        """Some or all of what is on its way arrives."""
        rng, now = self._rng, self._truth.ticks
        late: list[tuple[Ref, Value | None, float]] = []
        arriving: list[Observation] = []
        waiting: set[Kind] = set()
        if self.is_nas:
            rng.shuffle(self._coming)
        for ref, value, asked_at in self._coming:
            if not everything and (ref.kind in waiting or rng.random() < 0.3):
                late.append((ref, value, asked_at))
                if not self.is_nas:
                    waiting.add(ref.kind)
                continue
            arriving.append(self._one(ref, value, asked_at if self.is_nas else now))
            if rng.random() < 0.1:
                arriving.append(arriving[-1])
        self._coming = late
        if arriving:
            self._emit(arriving)

    def _one(self, ref: Ref, value: Value | None, at: float, in_full: bool = False) -> Observation:
        if value is None:
            return Gone(ref, at)
        self._note(value)
        if isinstance(value, Snapshot) and not in_full:
            value = msgspec.structs.replace(value, holds=None, clones=None, user_properties=None)
        return Seen(ref, value, at)

    def _note(self, value: Value) -> None:
        """What was told of a retention is what truetally can know of it."""
        told = self._truth.retention_told
        if isinstance(value, k8s.PersistentVolume):
            (told.add if value.reclaim_policy == "Retain" else told.discard)(value.name)
            if (who := csi.provisioner(value)) is not None:
                self._truth.provisioners_told.add(who)
        elif isinstance(value, k8s.VolumeSnapshotContent) and value.deletion_policy == "Retain":
            told.add(f"content {value.snapshot_handle}")

    def list(self, kinds: Iterable[Kind], breaks_off: bool = False, lies_to: Graph | None = None) -> None:
        """Lists kinds in full; or breaks off in the middle; or loses most objects without a word."""
        now = self._truth.ticks
        for kind in sorted(kinds):
            if kind in self.denied:
                self._emit([Lost(self.name, kind, Trouble.DENIED, "denied", now)])
                continue
            refs = [r for r in self._truth.of_kind(self.name, kind) if self._truth.visible(r) is not None]
            known = list(lies_to.nodes(self.name, kind)) if lies_to is not None else []
            if len(known) >= 4:
                left = set(known[: (len(known) - 1) // 2])
                refs = [r for r in refs if r.name in left]
            if not self.is_nas:
                self._coming = [each for each in self._coming if each[0].kind is not kind]
            if breaks_off and self._rng.random() < 0.3:
                some = refs[: self._rng.randrange(len(refs) + 1)]
                self._emit([self._one(r, self._truth.visible(r), now) for r in some])
                self._emit([Lost(self.name, kind, Trouble.FAILED, "it broke off", now)])
                continue
            seen = [self._one(r, self._truth.visible(r), now) for r in refs]
            self._emit([*seen, Listed(self.name, kind, frozenset(r.name for r in refs), now)])

    def lose(self) -> None:
        """The connection is lost; what was on its way is lost with it."""
        self.up = False
        self._coming = []
        now = self._truth.ticks
        self._emit([Lost(self.name, kind, Trouble.UNREACHABLE, "away", now) for kind in sorted(self.kinds)])

    def deny(self, kind: Kind) -> None:
        """A permission is taken away."""
        self.denied.add(kind)
        self._coming = [each for each in self._coming if each[0].kind is not kind]
        self._emit([Lost(self.name, kind, Trouble.DENIED, "denied", self._truth.ticks)])

    # What the reconciler asks

    async def relist(self, kinds: frozenset[Kind]) -> None:
        await pause()
        self._truth.ticks += 0.1
        self.asked = True
        if not self.up:
            raise SourceUnavailable(self.name, "away")
        self.list(kinds & self.kinds)
        if denied := kinds & self.denied:
            raise AccessDenied(self.name, f"listing {min(denied).value}", "the right to list it")

    async def reread(self, refs: frozenset[Ref]) -> None:
        await pause()
        self._truth.ticks += 0.1
        self.asked = True
        if not self.up:
            raise SourceUnavailable(self.name, "away")
        # Snapshots are followed every minute; what was new then is known.
        self.deliver(everything=True)
        for ref in sorted(refs):
            if ref.kind is Kind.DATASET_USE:
                self._emit([Seen(ref, self._use(ref), self._truth.ticks)])
            elif ref.kind in self.denied:
                raise AccessDenied(self.name, f"reading {ref.kind.value}", "the right to read it")
            else:
                self._emit([self._one(ref, self._truth.visible(ref), self._truth.ticks, in_full=True)])

    def _use(self, ref: Ref) -> DatasetUse:
        """Who uses a dataset; often not everything can be read."""
        truth = self._truth
        dataset = Ref(ref.source, Kind.DATASET, ref.name)
        volume = next((v for v in truth.volumes if v.ref == dataset), None)
        users = [u for u in truth.uses.get(dataset, ()) if u.kind in _CONNECTIONS and truth.exists(u)]
        sessions = tuple(u.name for u in users if u.kind in (Kind.ISCSI_SESSION, Kind.NVME_SESSION))
        tasks = [
            f"Snapshot Task: {u.name}"
            for u in truth.uses.get(dataset, ())
            if u.kind is Kind.SNAPSHOT_TASK and truth.exists(u)
        ]
        busy = sorted(truth.busy.get(dataset, ()))
        return DatasetUse(
            attachments=(*self._attached(volume), *tasks, *(b for b in busy if b.startswith("app"))),
            processes=tuple(b for b in busy if b.startswith("process")),
            clients=tuple(u.name for u in users if u.name not in sessions),
            holds=self._held(ref),
            sessions=sessions,
            jobs=tuple(b for b in busy if b.startswith("job")),
            unknown=("processes: denied",) if not self.tells_all and self._rng.random() < 0.03 else (),
        )

    def _held(self, ref: Ref) -> tuple[str, ...]:
        """The holds on its snapshots, which a list of snapshots does not tell."""
        found = (self._truth.get(r) for r in self._truth.of_kind(ref.source, Kind.SNAPSHOT))
        return tuple(
            f"{tag} on {each.name}"
            for each in found
            if isinstance(each, Snapshot) and each.dataset == ref.name
            for tag in each.holds or ()
        )

    def _attached(self, volume: Volume | None) -> tuple[str, ...]:
        parts = volume.parts if volume is not None else []
        return tuple(
            f"{_ATTACHMENTS[r.kind]}: {r.name}"
            for r in parts
            if r.kind in _ATTACHMENTS and self._truth.exists(r)
        )


_ATTACHMENTS = {
    Kind.NFS_SHARE: "NFS Share",
    Kind.SMB_SHARE: "SMB Share",
    Kind.ISCSI_EXTENT: "iSCSI Extent",
    Kind.NVME_NAMESPACE: "NVMe-oF Namespace",
}
