"""The list of all snapshots, each with what both sides know of it and what is said against it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from truetally.csi import democratic_csi as csi
from truetally.findings import catalogue
from truetally.findings.retention import SNAPSHOT_RETENTION, overdue
from truetally.graph import chains
from truetally.graph.graph import value_of
from truetally.graph.snapshots import Made, Space, clones, made, space_returned, volumes_on
from truetally.graph.world import World
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.answers import SnapshotAnswer
from truetally.model.findings import Finding, State
from truetally.model.refs import Kind, Ref
from truetally.model.snapshots import Maker, SnapshotVerdict


class SnapshotList:
    """All snapshots of a world.

    Args:
        findings: all that are not resolved.
    """

    def __init__(self, world: World, findings: Iterable[Finding]) -> None:
        self._world = world
        self._findings: dict[Ref, list[Finding]] = defaultdict(list)
        for finding in findings:
            self._findings[finding.subject].append(finding)

    def __iter__(self) -> Iterator[SnapshotAnswer | None]:
        """Each snapshot, in no order; None for each thing that was looked at and is none."""
        for kind in (Kind.SNAPSHOT, Kind.DATASET):
            for ref in self._world.graph.refs(kind):
                yield self._answer(ref)

    def _dataset(self, ref: Ref) -> truenas.Dataset | None:
        return self._world.dataset(ref.source, ref.name.partition("@")[0])

    def _answer(self, ref: Ref) -> SnapshotAnswer | None:
        made_, value = made(self._world, ref), self._world.snapshot(ref) or self._dataset(ref)
        if made_ is None or value is None:
            return None
        is_zfs = isinstance(value, truenas.Snapshot)
        content = self._content(made_)
        cluster, volume = self._volume(ref, made_, content)
        claim = volume.claim if volume is not None else None
        return SnapshotAnswer(
            nas=ref.source,
            dataset=value.dataset if isinstance(value, truenas.Snapshot) else value.parent,
            name=value.name if isinstance(value, truenas.Snapshot) else value.leaf,
            path=ref.name,
            maker=made_.maker.value,
            how=made_.how,
            created_at=value.created_at,
            used_bytes=value.used_bytes,
            referenced_bytes=value.referenced_bytes,
            holds=value.holds if isinstance(value, truenas.Snapshot) else (),
            clones=self._clones(ref, value),
            cluster=cluster,
            volume=volume.name if volume is not None else "",
            namespace=claim.namespace if claim is not None else "",
            claim=claim.name if claim is not None else "",
            volume_snapshot=_snapshot_of(made_, content),
            content=content.name if content is not None else "",
            tasks=tuple(task.name for task in made_.tasks),
            verdict=self._verdict(ref, value, made_).value,
            findings=sum(f.state is State.OPEN for f in self._findings.get(ref, ())),
            detached=not is_zfs,
        )

    def _content(self, made_: Made) -> k8s.VolumeSnapshotContent | None:
        values = (value_of(self._world.node(each), k8s.VolumeSnapshotContent) for each in made_.contents)
        return next((value for value in values if value is not None), None)

    def _volume(
        self, ref: Ref, made_: Made, content: k8s.VolumeSnapshotContent | None
    ) -> tuple[str, k8s.PersistentVolume | None]:
        """The volume that the snapshot is on, or that a detached one was taken of; and its cluster."""
        on = volumes_on(self._world, Ref(ref.source, Kind.DATASET, ref.name.partition("@")[0]))
        found = on[0] if on else None
        if made_.maker is Maker.DETACHED and content is not None:
            handle = csi.split_snapshot_handle(content.snapshot_handle)[0] or content.source_volume_handle
            same = [
                each
                for each in self._world.sharing(f"h:{handle}", Kind.PERSISTENT_VOLUME)
                if each.source == made_.contents[0].source
            ]
            found = same[0] if same else None
        if found is not None:
            return found.source, self._world.volume(found)
        known = (*made_.contents, *made_.volume_snapshots)
        return (known[0].source if known else ""), None

    def _clones(self, ref: Ref, value: truenas.Snapshot | truenas.Dataset) -> tuple[str, ...]:
        if isinstance(value, truenas.Snapshot):
            return clones(self._world, ref, value)
        return tuple(each.name for each in chains.clones_of(self._world, ref.source, ref.name))

    def _verdict(self, ref: Ref, value: truenas.Snapshot | truenas.Dataset, made_: Made) -> SnapshotVerdict:
        """Only what has been read again at both sides is called orphaned."""
        for finding in self._findings.get(ref, ()):
            rule = catalogue.BY_ID.get(finding.rule)
            if rule is not None and rule.reread is not None and rule is not SNAPSHOT_RETENTION:
                return _ACCUSED.get(finding.state, SnapshotVerdict.UNKNOWN)
        if isinstance(value, truenas.Snapshot) and value.defer_destroy:
            return SnapshotVerdict.DEFERRED
        if self._is_overdue(ref):
            return SnapshotVerdict.OVERDUE
        if made_.contents or made_.volume_snapshots:
            return SnapshotVerdict.REFERENCED
        return SnapshotVerdict.KEPT

    def _is_overdue(self, ref: Ref) -> bool:
        dataset = Ref(ref.source, Kind.DATASET, ref.name.partition("@")[0])
        told = any(
            f.rule == SNAPSHOT_RETENTION.id and f.state is State.OPEN for f in self._findings.get(dataset, ())
        )
        return told and any(each.ref == ref for each in overdue(self._world, dataset))


_ACCUSED = {State.OPEN: SnapshotVerdict.ORPHANED, State.PENDING: SnapshotVerdict.SUSPECTED}


def _snapshot_of(made_: Made, content: k8s.VolumeSnapshotContent | None) -> str:
    if made_.volume_snapshots:
        return made_.volume_snapshots[0].name
    if content is not None and content.snapshot_name:
        return f"{content.snapshot_namespace}/{content.snapshot_name}"
    return ""


def by_name(answer: SnapshotAnswer) -> tuple[str, str, float, str]:
    """The order of datasets, and in each of them of age."""
    created_at = answer.created_at.timestamp() if answer.created_at is not None else 0.0
    return answer.nas, answer.dataset, created_at, answer.name


def by_size(answer: SnapshotAnswer) -> tuple[int, str, str, float, str]:
    """The largest first."""
    return -(answer.used_bytes or 0), *by_name(answer)


def is_of(answer: SnapshotAnswer, volume: str) -> bool:
    """Whether the snapshot is of a volume, given by volume, claim or dataset."""
    names = {answer.volume, answer.dataset, answer.dataset.rpartition("/")[2], answer.path}
    if answer.claim:
        names |= {answer.claim, f"{answer.namespace}/{answer.claim}"}
    return bool(volume) and volume in names


def spaces(world: World, listed: Iterable[SnapshotAnswer]) -> Iterator[Space]:
    """What destroying all of these would free, dataset by dataset.

    What is held, cloned or destroyed already frees nothing now.
    """
    going: dict[tuple[str, str], set[str]] = defaultdict(set)
    for each in listed:
        if each.holds or each.clones or each.verdict == SnapshotVerdict.DEFERRED.value:
            continue
        if each.detached:
            yield Space(each.used_bytes or 0, each.used_bytes)
        else:
            going[each.nas, each.dataset].add(each.name)
    for (nas, path), names in going.items():
        dataset = world.dataset(nas, path)
        refs = chains.snapshots_of(world, nas, path)
        snapshots = [s for ref in refs if (s := world.snapshot(ref)) is not None]
        yield space_returned(dataset.snapshots_bytes if dataset is not None else None, snapshots, names)
