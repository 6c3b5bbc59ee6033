"""Inhibition: which finding hides which, so that one cause is not told a thousand times.

A NAS that is away hides what depends on it, and a pool that cannot be used hides its
datasets and the volumes on them. The rules declare it; nothing is judged otherwise for
it, and a hidden finding stays what it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from truetally.findings import catalogue
from truetally.findings.rule import Rule, Within
from truetally.graph import chains
from truetally.graph.graph import value_of
from truetally.graph.world import World
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.findings import Finding, State
from truetally.model.refs import Kind, Ref

_TOLD = (State.OPEN, State.HELD)

_HIDING = frozenset(inhibition.rule for rule in catalogue.RULES for inhibition in rule.hidden_by)


def hides(finding: Finding, other: Finding, world: World) -> bool:
    """Whether a finding that has been told explains another one, so that the other need not be told."""
    rule = catalogue.BY_ID.get(other.rule)
    if rule is None or finding.state not in _TOLD or finding.fingerprint == other.fingerprint:
        return False
    return any(
        inhibition.rule == finding.rule and _is_within(inhibition.within, finding.subject, rule, other, world)
        for inhibition in rule.hidden_by
    )


def hiding(findings: Iterable[Finding]) -> list[Finding]:
    """Those of the findings that could hide others."""
    return [each for each in findings if each.rule in _HIDING and each.state in _TOLD]


def hidden_by(finding: Finding, by: Iterable[Finding], world: World) -> tuple[str, ...]:
    """The fingerprints of those that hide a finding."""
    return tuple(each.fingerprint for each in by if hides(each, finding, world))


def _is_within(within: Within, subject: Ref, rule: Rule, other: Finding, world: World) -> bool:
    if within is Within.SOURCE:
        # Of a source's findings, the one about all of it bears its name; the others name a kind as well.
        sources = (other.subject.source, rule.nas_of(other.subject, world))
        return subject.name == subject.source and subject.source in sources
    pool = world.pool(subject.source, subject.name)
    if pool is None or pool.status in ("ONLINE", "DEGRADED"):
        return False
    return subject in _pools_of(other.subject, world)


def _pools_of(ref: Ref, world: World) -> Iterator[Ref]:
    for nas, path in _places(ref, world):
        yield Ref(nas, Kind.POOL, path.partition("/")[0])


def _places(ref: Ref, world: World) -> Iterator[tuple[str, str]]:
    """Where the data is that an object is about: the NAS, and the path of a dataset or of something in it."""
    match ref.kind:
        case Kind.POOL | Kind.DATASET | Kind.SNAPSHOT:
            yield ref.source, ref.name.partition("@")[0]
        case Kind.ISCSI_TARGET:
            yield from ((ref.source, extent.disk) for extent in chains.extents_of(world, ref))
        case Kind.NVME_SUBSYSTEM:
            for namespace in chains.namespaces_of(world, ref):
                yield from _paths(Ref(ref.source, Kind.NVME_NAMESPACE, str(namespace.id)), world)
        case Kind.ISCSI_TARGET_EXTENT:
            link = value_of(world.node(ref), truenas.IscsiTargetExtent)
            if link is not None:
                yield from _paths(Ref(ref.source, Kind.ISCSI_EXTENT, str(link.extent)), world)
        case Kind.NFS_SHARE | Kind.SMB_SHARE | Kind.ISCSI_EXTENT | Kind.NVME_NAMESPACE:
            yield from _paths(ref, world)
        case _:
            for volume in _volumes_of(ref, world):
                found = chains.backing(world, volume)
                if found is not None and found.nas is not None:
                    yield found.nas, found.dataset.name if found.dataset is not None else found.path


def _paths(ref: Ref, world: World) -> Iterator[tuple[str, str]]:
    node = world.node(ref)
    yield from ((ref.source, key[2:]) for key in (node.keys if node is not None else ()) if key[:2] == "p:")


def _volumes_of(ref: Ref, world: World) -> Iterator[Ref]:
    """The PersistentVolumes that something in a cluster is about."""
    if ref.kind is Kind.PERSISTENT_VOLUME:
        yield ref
        return
    value = world.node(ref)
    claim, attachment = value_of(value, k8s.PersistentVolumeClaim), value_of(value, k8s.VolumeAttachment)
    content = value_of(value, k8s.VolumeSnapshotContent)
    if claim is not None and claim.volume_name:
        yield Ref(ref.source, Kind.PERSISTENT_VOLUME, claim.volume_name)
    if attachment is not None:
        yield Ref(ref.source, Kind.PERSISTENT_VOLUME, attachment.volume_name)
    if content is not None:
        for handle in filter(None, (content.source_volume_handle, content.snapshot_handle.partition("@")[0])):
            volumes = world.sharing(f"h:{handle}", Kind.PERSISTENT_VOLUME)
            yield from (volume for volume in volumes if volume.source == ref.source)
