"""Leftovers of sharing: what democratic-csi made on the NAS to export a volume, and leads to nothing.

democratic-csi deletes the share first and the dataset second. Its API drivers take what
is left down with the dataset; the SSH drivers destroy the dataset alone when an id does
not agree, and leave share, target and extent behind (domain notes on democratic-csi,
§1.6). A creation that is given up leaves a target without extent (§1.5, state C).

None of these objects carries a mark, and their dataset, which did, is gone. So they are
only called orphaned if a watched cluster is known to have had the volume that their
name and path tell, or if what is left of it is an orphan itself; what lies in a parent
of ours beyond that is of unknown owner. Whoever still speaks of the path, the name, the
IQN or the NQN protects them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from truetally.csi import democratic_csi as csi
from truetally.findings import orphans, storage_first
from truetally.findings.ownership import IGNORE, Ownership, exemption_mark, ownership_of_name
from truetally.findings.rule import Clear, Evidence, Judgement, Reread, Rule
from truetally.graph import chains
from truetally.graph.correlate import path_of_namespace
from truetally.graph.graph import value_of
from truetally.graph.world import World
from truetally.model import truenas
from truetally.model.findings import Fact, Severity
from truetally.model.memories import MemoryKind
from truetally.model.refs import Kind, Ref
from truetally.model.truenas import Dataset, Origin

# What cannot be read of a path at which there is no dataset; all the rest has to be.
_OF_A_DATASET = ("attachments:", "processes:")

_GONE = Clear("it is gone")


class _Leftover(msgspec.Struct, frozen=True):
    """An object whose other end is missing, and the volume that it was made for.

    Attributes:
        says: the sentence that accuses it.
        volume: the volume's handle, as the object's path, comment or name tells it.
        path: the dataset that it leads to; empty if it leads to none.
        target, subsystem: what a volume would name to use it.
    """

    ref: Ref
    says: str
    volume: str
    facts: dict[str, Fact]
    path: str = ""
    target: truenas.IscsiTarget | None = None
    subsystem: truenas.NvmeSubsystem | None = None

    @property
    def nas(self) -> str:
        """The NAS that it is on."""
        return self.ref.source

    @property
    def parent(self) -> str:
        """The dataset below which its volume was."""
        return self.path.rpartition("/")[0]


# What is it, and does it lead anywhere?


def _nfs_share(ref: Ref, world: World) -> _Leftover | Clear:
    share = value_of(world.node(ref), truenas.NfsShare)
    if share is None:
        return _GONE
    path = csi.dataset_of_mount(share.path)
    if reason := _leads_somewhere(world, ref, path) or _set_aside(share.enabled, share.locked, share.comment):
        return Clear(reason)
    made_by = csi.dataset_in_comment(share.comment)
    if made_by is None and not _was_seen(world, path.rpartition("/")[2]):
        return Clear("its comment is not one that democratic-csi writes")
    if made_by is not None and made_by[1] != path:
        return Clear(f"its comment names another dataset, {made_by[1]}")
    if made_by is not None and not _is_ours(world, ref.source, path, made_by[0]):
        return Clear(f"its comment names CSI driver {made_by[0]}, which no watched cluster uses there")
    return _Leftover(
        ref,
        f"NFS share of {share.path} has no dataset any more",
        path.rpartition("/")[2],
        {"path": share.path, "comment": share.comment or None},
        path,
    )


def _smb_share(ref: Ref, world: World) -> _Leftover | Clear:
    share = value_of(world.node(ref), truenas.SmbShare)
    if share is None:
        return _GONE
    path = csi.dataset_of_mount(share.path)
    if reason := _leads_somewhere(world, ref, path) or _set_aside(share.enabled, share.locked, share.comment):
        return Clear(reason)
    if not _named_after(world, share.name, path):
        return Clear("its name is not one that democratic-csi gives to a share of this path")
    says = f"SMB share {share.name} of {share.path} has no dataset any more"
    return _Leftover(ref, says, path.rpartition("/")[2], {"path": share.path, "name": share.name}, path)


def _extent(ref: Ref, world: World) -> _Leftover | Clear:
    extent = value_of(world.node(ref), truenas.IscsiExtent)
    if extent is None:
        return _GONE
    if reason := _no_extent_of_ours(world, extent) or _leads_somewhere(world, ref, extent.disk):
        return Clear(reason)
    targets = tuple(t.name for each, t in chains.targets_of(world, ref.source, extent.disk))
    facts: dict[str, Fact] = {"name": extent.name, "disk": extent.disk, "targets": targets}
    says = f"iSCSI extent {extent.name} has no zvol any more: {extent.disk} does not exist"
    return _Leftover(ref, says, extent.disk.rpartition("/")[2], facts, extent.disk)


def _no_extent_of_ours(world: World, extent: truenas.IscsiExtent) -> str:
    if extent.type != "DISK":
        return "it is a file, and democratic-csi makes extents of zvols"
    if reason := _set_aside(extent.enabled, extent.locked, extent.comment):
        return reason
    if not _named_after(world, extent.name, extent.disk):
        return "its name is not one that democratic-csi gives to an extent of this zvol"
    return ""


def _namespace(ref: Ref, world: World) -> _Leftover | Clear:
    namespace = value_of(world.node(ref), truenas.NvmeNamespace)
    if namespace is None:
        return _GONE
    path = path_of_namespace(namespace)
    if namespace.type != "ZVOL":
        return Clear("it is a file, and democratic-csi makes namespaces of zvols")
    if reason := _leads_somewhere(world, ref, path) or _set_aside(namespace.enabled, namespace.locked):
        return Clear(reason)
    subsystem = _subsystem_of(world, ref.source, namespace)
    if subsystem is None:
        return Clear("its subsystem is not known, so nothing tells whose it is")
    if not _named_after(world, subsystem.name, path):
        return Clear(f"its subsystem {subsystem.name} is not one that democratic-csi makes for this zvol")
    facts: dict[str, Fact] = {"device": path, "nsid": namespace.nsid, "subsystem": subsystem.name}
    says = f"NVMe-oF namespace {path} of subsystem {subsystem.name} has no zvol any more"
    return _Leftover(ref, says, path.rpartition("/")[2], facts, path, subsystem=subsystem)


def _subsystem_of(world: World, nas: str, namespace: truenas.NvmeNamespace) -> truenas.NvmeSubsystem | None:
    refs = world.sharing(f"n:{nas}/{namespace.subsystem}", Kind.NVME_SUBSYSTEM)
    return next((value_of(world.node(ref), truenas.NvmeSubsystem) for ref in refs), None)


def _target(ref: Ref, world: World) -> _Leftover | Clear:
    target = value_of(world.node(ref), truenas.IscsiTarget)
    if target is None:
        return _GONE
    if extent := next(chains.extents_of(world, ref), None):
        return Clear(f"it leads to extent {extent.name}")
    if reason := _no_asset(target.name, target.alias):
        return Clear(reason)
    says = f"iSCSI target {target.name} has no extent"
    volume = csi.volume_name_in(target.name)
    return _Leftover(ref, says, volume, {"name": target.name}, target=target)


def _subsystem(ref: Ref, world: World) -> _Leftover | Clear:
    subsystem = value_of(world.node(ref), truenas.NvmeSubsystem)
    if subsystem is None:
        return _GONE
    if namespace := next(chains.namespaces_of(world, ref), None):
        return Clear(f"it has namespace {namespace.device}")
    if reason := _no_asset(subsystem.name):
        return Clear(reason)
    if not subsystem.nqn:
        return Clear("its NQN is not told, and a volume may name it")
    facts: dict[str, Fact] = {"name": subsystem.name, "nqn": subsystem.nqn}
    says = f"NVMe-oF subsystem {subsystem.name} has no namespace"
    return _Leftover(ref, says, csi.volume_name_in(subsystem.name), facts, subsystem=subsystem)


def _link(ref: Ref, world: World) -> _Leftover | Clear:
    link = value_of(world.node(ref), truenas.IscsiTargetExtent)
    if link is None:
        return _GONE
    target = value_of(world.node(Ref(ref.source, Kind.ISCSI_TARGET, str(link.target))), truenas.IscsiTarget)
    extent = value_of(world.node(Ref(ref.source, Kind.ISCSI_EXTENT, str(link.extent))), truenas.IscsiExtent)
    facts: dict[str, Fact] = {"target": link.target, "extent": link.extent, "lun": link.lun}
    if target is not None and extent is not None:
        return Clear(f"it links target {target.name} to extent {extent.name}")
    if extent is not None:
        if reason := _no_extent_of_ours(world, extent):
            return Clear(f"extent {extent.name}: {reason}")
        says = f"The link of iSCSI extent {extent.name} leads to target {link.target}, which does not exist"
        return _Leftover(ref, says, extent.disk.rpartition("/")[2], facts, extent.disk)
    if target is not None:
        if reason := _no_asset(target.name, target.alias):
            return Clear(f"target {target.name}: {reason}")
        says = f"The link of iSCSI target {target.name} leads to extent {link.extent}, which does not exist"
        return _Leftover(ref, says, csi.volume_name_in(target.name), facts, target=target)
    return Clear("neither its target nor its extent exists, so nothing tells whose it was")


_TRACES: dict[Kind, Callable[[Ref, World], _Leftover | Clear]] = {
    Kind.NFS_SHARE: _nfs_share,
    Kind.SMB_SHARE: _smb_share,
    Kind.ISCSI_EXTENT: _extent,
    Kind.NVME_NAMESPACE: _namespace,
    Kind.ISCSI_TARGET: _target,
    Kind.NVME_SUBSYSTEM: _subsystem,
    Kind.ISCSI_TARGET_EXTENT: _link,
}


def _leads_somewhere(world: World, ref: Ref, path: str) -> str:
    for dataset in world.sharing(f"p:{path}", Kind.DATASET):
        if dataset.source == ref.source:
            return f"it leads to dataset {dataset.name}"
    return ""


def _set_aside(enabled: bool, locked: bool | None, comment: str = "") -> str:
    """Why an object without its other end is left alone all the same."""
    if not enabled:
        return "it is disabled: a person keeps it, or its pool was exported"
    if locked:
        return "it is locked, so its dataset is encrypted and not gone"
    if IGNORE in comment:
        return f"it is exempted by {IGNORE} in its comment"
    return ""


def _no_asset(name: str, alias: str = "") -> str:
    if IGNORE in alias:
        return f"it is exempted by {IGNORE} in its alias"
    return "" if csi.volume_name_in(name) else "its name is not one that democratic-csi gives"


def _named_after(world: World, asset: str, path: str) -> bool:
    """Whether an asset is named after a path's volume, as democratic-csi does, and that is a CSI volume."""
    handle = path.rpartition("/")[2]
    is_csi_name = bool(csi.uuid_in(handle)) or _was_seen(world, handle)
    return is_csi_name and handle.lower() in asset.lower()


def _was_seen(world: World, volume: str) -> bool:
    return world.graph.remembered(MemoryKind.VOLUME, volume) is not None


def _is_ours(world: World, nas: str, path: str, driver: str) -> bool:
    if any(d.driver == driver for d in world.drivers_of_parent(nas, path.rpartition("/")[0])):
        return True
    return any(world.graph.has_provisioned(cluster, driver) for cluster in world.clusters)


# Does anybody want it?


def _wanted(left: _Leftover, world: World) -> Iterator[str]:
    """Whatever speaks against calling it a leftover, the strongest first."""
    yield from _unreadable(left, world)
    for reference in _references(left, world):
        yield f"{reference.ref} refers to it ({reference.how})"
    yield from _users(left, world)
    yield from _elsewhere(left, world)


def _references(left: _Leftover, world: World) -> Iterator[chains.Reference]:
    if left.path:
        yield from chains.references_at(world, left.nas, left.path)
    if left.target is not None:
        yield from chains.references_to_target(world, left.nas, left.target)
    if left.subsystem is not None:
        yield from chains.references_to_subsystem(world, left.nas, left.subsystem)
    yield from chains.references_to_name(world, left.volume)


def _users(left: _Leftover, world: World) -> Iterator[str]:
    if left.target is not None:
        for session in chains.sessions_at(world, left.nas, left.target):
            yield f"an iSCSI session of {session.initiator} is on it"
    if left.subsystem is not None:
        for connection in chains.nvme_sessions_at(world, left.nas, left.subsystem.id):
            yield f"an NVMe-oF session of {connection.host_nqn} is on it"
    if not left.path:
        return
    for live in chains.live_sessions(world, left.nas, left.path):
        yield f"an {live} is on it"
    for client in chains.clients_of(world, left.nas, left.path):
        yield f"{client} uses it"
    for task in chains.tasks_of(world, left.nas, left.path):
        yield f"{task} names its path"
    use = storage_first.use_of(world, left.nas, left.path) or truenas.DatasetUse()
    for user in (*use.clients, *use.sessions, *use.jobs):
        yield f"{user} uses its path"
    for unknown in use.unknown:
        if not unknown.startswith(_OF_A_DATASET):
            yield f"its use cannot be read: {unknown}"


def _elsewhere(left: _Leftover, world: World) -> Iterator[str]:
    """A dataset that bears the volume's name: where it is what is left of it, that is no more wanted."""
    for ref in chains.datasets_named(world, left.volume):
        dataset = world.dataset(ref.source, ref.name)
        if dataset is None or _is_copy(world, ref, dataset):
            continue
        if ref.source != left.nas or left.path not in ("", ref.name):
            yield f"{ref} bears its name: the volume may have been moved"
            continue
        found = orphans.conditions(world, ref)
        if (verdict := orphans.verdict(found)) is not orphans.Verdict.ORPHAN:
            failing = next((c.text for c in found if c.holds is not True and c.otherwise is verdict), "")
            yield f"its dataset {ref.name} is there, and is {verdict.value}: {failing}"


def _is_copy(world: World, ref: Ref, dataset: Dataset) -> bool:
    """A replica, or the container of the volume's detached snapshots: neither is the volume."""
    if any(d.snapshots_parent == dataset.parent and d.nas == ref.source for d in world.settings.drivers):
        return True
    return _is_received(dataset) and not world.drivers_of_parent(ref.source, dataset.parent)


def _is_received(dataset: Dataset) -> bool:
    return any(p.origin is Origin.RECEIVED for p in dataset.user_properties.values())


def _unreadable(left: _Leftover, world: World) -> Iterator[str]:
    """A dataset is only missing where its parent is there to be looked at."""
    for parent in [left.parent] if left.path else _parents(left, world):
        dataset = world.dataset(left.nas, parent)
        if dataset is None or not world.pool_is_there(left.nas, dataset.pool):
            yield f"its parent dataset {parent} is not there to be looked at"
        elif dataset.locked:
            yield f"its parent dataset {parent} is locked"
        elif dataset.readonly or _is_received(dataset):
            yield f"its parent dataset {parent} looks like a replica"
        elif mark := exemption_mark(dataset):
            yield f"its parent dataset is exempted by its property {IGNORE}={mark}"
    if not left.path:
        for pool in world.graph.nodes(left.nas, Kind.POOL):
            if not world.pool_is_there(left.nas, pool):
                yield f"its zvol may be in pool {pool}, which is not there to be looked at"
        return
    parts = chains.children_of(world, left.nas, left.path) + chains.snapshots_of(world, left.nas, left.path)
    if parts and world.dataset(left.nas, left.path) is None:
        yield f"{parts[0]} is there, so the lists do not agree yet"


# Whose is it?


def _parents(left: _Leftover, world: World) -> list[str]:
    """Where the volume of an object without a path can have been: the parents of the cluster that had it."""
    memory = world.graph.remembered(MemoryKind.VOLUME, left.volume)
    if memory is None:
        return []
    return [d.parent for d in world.settings.drivers if d.nas == left.nas and d.cluster == memory.cluster]


def _owner(left: _Leftover, world: World) -> Ownership:
    """Whose it is; called when nothing speaks against it, so a dataset of its volume is an orphan."""
    for ref in chains.datasets_named(world, left.volume):
        dataset = world.dataset(ref.source, ref.name)
        if dataset is not None and not _is_copy(world, ref, dataset):
            return Ownership(True, True, f"dataset {ref.name} of the same volume is orphaned, and is ours")
    if left.path:
        owner = ownership_of_name(world, left.nas, left.parent, left.volume)
        if not (owner.proven and owner.exclusive):
            return owner
        if not _was_seen(world, left.volume):
            text = f"no watched cluster is known to have had {left.volume}, whose mark went with its dataset"
            return Ownership(True, False, text)
        return Ownership(True, True, f"PersistentVolume {left.volume} was seen before, and {owner.text}")
    parents = _parents(left, world)
    owners = [ownership_of_name(world, left.nas, parent, left.volume) for parent in parents]
    if not owners:
        return Ownership(False, False, "no watched cluster with a driver for this NAS ever had its volume")
    shared = next((owner for owner in owners if not (owner.proven and owner.exclusive)), None)
    return shared or Ownership(True, True, f"PersistentVolume {left.volume} was seen before")


# The verdict


def _judge(ref: Ref, world: World) -> Judgement:
    found = _unwanted(ref, world)
    if isinstance(found, Clear):
        return found
    left, owner = found
    if not (owner.proven and owner.exclusive):
        return Clear(f"its owner is not known: {owner.text}", world.now + storage_first.USE_IS_VALID)
    return _evidence(left, owner)


def _judge_owner(ref: Ref, world: World) -> Judgement:
    found = _unwanted(ref, world)
    if isinstance(found, Clear):
        return found
    left, owner = found
    if not owner.proven:
        return Clear(
            f"its parent is not known to be ours: {owner.text}", world.now + storage_first.USE_IS_VALID
        )
    if owner.exclusive:
        return Clear("it is orphaned, and its owner is known", world.now + storage_first.USE_IS_VALID)
    return _evidence(left, owner)


def _unwanted(ref: Ref, world: World) -> tuple[_Leftover, Ownership] | Clear:
    """A leftover that nobody wants, and whose it is; worked out once for all rules."""
    known = world.memo.get(("leftover", ref))
    if not isinstance(known, tuple | Clear):
        world.memo["leftover", ref] = known = _judged_unwanted(ref, world)
    return known


def _judged_unwanted(ref: Ref, world: World) -> tuple[_Leftover, Ownership] | Clear:
    left = _TRACES[ref.kind](ref, world)
    if isinstance(left, Clear):
        return left
    if (reason := next(_wanted(left, world), None)) is not None:
        return Clear(reason, world.now + storage_first.USE_IS_VALID)
    return left, _owner(left, world)


def _evidence(left: _Leftover, owner: Ownership) -> Evidence:
    absent = f"no dataset is at {left.path}" if left.path else "nothing is linked to it"
    because = (owner.text, absent, "nothing in any watched cluster refers to it, and no session is on it")
    return Evidence(left.says, {**left.facts, "volume": left.volume, "because": because})


_ISCSI = frozenset({Kind.ISCSI_TARGET, Kind.ISCSI_EXTENT, Kind.ISCSI_TARGET_EXTENT, Kind.ISCSI_SESSION})
_NVME = frozenset({Kind.NVME_SUBSYSTEM, Kind.NVME_NAMESPACE, Kind.NVME_SESSION})


def _nas_kinds(kind: Kind) -> frozenset[Kind]:
    """What has to be listed again, so that what is missing is missing indeed."""
    protocol = next((kinds for kinds in (_ISCSI, _NVME) if kind in kinds), frozenset({kind}))
    return protocol | {Kind.POOL, Kind.DATASET}


def _read_use_of(ref: Ref, world: World) -> list[str]:
    """The paths whose use has to be known: where it leads, and what is left of its volume."""
    left = _TRACES[ref.kind](ref, world)
    if isinstance(left, Clear):
        return []
    named = [r.name for r in chains.datasets_named(world, left.volume) if r.source == left.nas]
    return list(dict.fromkeys(path for path in (left.path, *named) if path))


def _reread(ref: Ref, world: World) -> Reread:
    return storage_first.reread(ref, _nas_kinds(ref.kind), _read_use_of(ref, world))


def _confirmed(ref: Ref, world: World, since: float) -> str:
    return storage_first.confirmed(ref, world, since, _nas_kinds(ref.kind), _read_use_of(ref, world))


def _rule(subject: Kind, id_: str, title: str, fix: str) -> Rule:
    return Rule(
        id=id_,
        title=title,
        fix=fix,
        severity=Severity.WARNING,
        subject=subject,
        needs=orphans.DATASET_WITHOUT_VOLUME.needs,
        judge=_judge,
        pending=lambda world: world.settings.rules.grace,
        reread=_reread,
        confirmed=_confirmed,
    )


_KEEP = f"To keep it, disable it or write {IGNORE} into its comment."

NFS_SHARE_ORPHANED = _rule(
    Kind.NFS_SHARE,
    "nfs-share-orphaned",
    "NFS share of a volume whose dataset is gone",
    f"Make sure that the path holds nothing that somebody wants, then delete the share in TrueNAS. {_KEEP}",
)
SMB_SHARE_ORPHANED = _rule(
    Kind.SMB_SHARE,
    "smb-share-orphaned",
    "SMB share of a volume whose dataset is gone",
    f"Make sure that the path holds nothing that somebody wants, then delete the share in TrueNAS. {_KEEP}",
)
TARGET_ORPHANED = _rule(
    Kind.ISCSI_TARGET,
    "target-orphaned",
    "iSCSI target of a volume without extent",
    "Delete the target in TrueNAS, without force. If it is the last one of its initiator group, TrueNAS "
    "deletes the group as well: make sure that democratic-csi does not need it. To keep the target, write "
    f"{IGNORE} into its alias.",
)
EXTENT_ORPHANED = _rule(
    Kind.ISCSI_EXTENT,
    "extent-orphaned",
    "iSCSI extent of a volume whose zvol is gone",
    f"Delete the extent in TrueNAS, then its target if nothing else is on it, both without force. {_KEEP}",
)
TARGET_LINK_ORPHANED = _rule(
    Kind.ISCSI_TARGET_EXTENT,
    "target-link-orphaned",
    "Link of an iSCSI target to an extent, one of which is gone",
    "Delete the link (iscsi.targetextent.delete), without force.",
)
SUBSYSTEM_ORPHANED = _rule(
    Kind.NVME_SUBSYSTEM,
    "subsystem-orphaned",
    "NVMe-oF subsystem of a volume without namespace",
    "Delete the subsystem in TrueNAS, without force.",
)
NAMESPACE_ORPHANED = _rule(
    Kind.NVME_NAMESPACE,
    "namespace-orphaned",
    "NVMe-oF namespace of a volume whose zvol is gone",
    "Delete the namespace in TrueNAS, then its subsystem if it has no other. To keep it, disable it.",
)


def _of_unknown_owner(rule: Rule, id_: str) -> Rule:
    """The note on what another rule would find, if it were known whose it is."""
    return Rule(
        id=id_,
        title=f"{rule.title}, and whose owner is not known",
        fix=(
            "Look for the volume's name in clusters without truetally, and watch those too. If none has it, "
            f"this is a leftover: {rule.fix[0].lower()}{rule.fix[1:]}"
        ),
        severity=Severity.INFO,
        subject=rule.subject,
        needs=rule.needs,
        judge=_judge_owner,
        pending=rule.pending,
    )


NFS_SHARE_OWNER_UNKNOWN = _of_unknown_owner(NFS_SHARE_ORPHANED, "nfs-share-owner-unknown")
SMB_SHARE_OWNER_UNKNOWN = _of_unknown_owner(SMB_SHARE_ORPHANED, "smb-share-owner-unknown")
EXTENT_OWNER_UNKNOWN = _of_unknown_owner(EXTENT_ORPHANED, "extent-owner-unknown")
NAMESPACE_OWNER_UNKNOWN = _of_unknown_owner(NAMESPACE_ORPHANED, "namespace-owner-unknown")
