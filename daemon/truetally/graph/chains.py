"""Volume chains: what belongs to one volume on both sides, and how strong the proof is.

The match rules are those of the domain notes on democratic-csi (R1 to R8): by the
driver's own properties, by the export's path, by IQN, by NQN, by SMB share. Each match
names its rule. A weak match (a name that merely agrees) protects, and never accuses.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from truetally.csi import democratic_csi as csi
from truetally.csi.democratic_csi import Backend, Protocol
from truetally.graph.correlate import path_of_namespace
from truetally.graph.graph import value_of
from truetally.graph.world import World
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.refs import Kind, Ref

EXACT = "exact"
WEAK = "weak"


class Reference(msgspec.Struct, frozen=True):
    """Something that refers to a storage object, how, and how strongly."""

    ref: Ref
    how: str
    strength: str


class Backing(msgspec.Struct, frozen=True):
    """Where a PersistentVolume's data should be, and what is there.

    Attributes:
        nas: the configured NAS that the volume names; None if it names another server.
        path: the dataset path that must exist, where the volume itself tells it; empty otherwise.
        dataset: the dataset that was found.
        how: what proves it, or what is missing.
        elsewhere: datasets that carry the volume's name although the volume does not lead to them.
    """

    backend: Backend
    nas: str | None
    path: str = ""
    dataset: Ref | None = None
    strength: str = ""
    how: str = ""
    elsewhere: tuple[Ref, ...] = ()


def backing(world: World, ref: Ref) -> Backing | None:
    """Follows a PersistentVolume to its dataset; None for a volume on no network storage we know."""
    volume = world.volume(ref)
    backend = csi.backend(volume) if volume is not None else None
    if volume is None or backend is None:
        return None
    nas = world.nas_at(backend.hosts)
    if nas is None:
        return Backing(backend, None, how="the volume names a server that is no configured NAS")
    found = _follow(world, nas, backend)
    if found.dataset is not None:
        return found
    named = tuple(_datasets_named(world, volume))
    here = [r for r in named if r.source == nas]
    if len(here) == 1 and not found.path:
        return msgspec.structs.replace(
            found, dataset=here[0], strength=WEAK, how=f"{found.how}; a dataset carries the volume's name"
        )
    return msgspec.structs.replace(found, elsewhere=named)


def _follow(world: World, nas: str, backend: Backend) -> Backing:
    match backend.protocol:
        case Protocol.NFS:
            return _at_path(world, nas, backend, backend.path, "R3: its NFS path is the dataset's mountpoint")
        case Protocol.ISCSI:
            return _behind_target(world, nas, backend)
        case Protocol.SMB:
            return _behind_share(world, nas, backend)
        case Protocol.NVMEOF:
            return _behind_subsystem(world, nas, backend)
        case _:
            return Backing(backend, nas, how="truetally does not follow this protocol yet")


def _at_path(world: World, nas: str, backend: Backend, path: str, how: str) -> Backing:
    for ref in world.sharing(f"p:{path}", Kind.DATASET):
        if ref.source == nas:
            return Backing(backend, nas, path, ref, EXACT, how)
    return Backing(backend, nas, path, how=f"dataset {path} is not on {nas}")


def _behind_target(world: World, nas: str, backend: Backend) -> Backing:
    """R4: IQN to target to targetextent to extent to zvol; democratic-csi's LUN is always 0."""
    targets = targets_called(world, nas, backend.iqn)
    if not targets:
        return Backing(backend, nas, how=f"target {backend.iqn} is not on {nas}")
    for target in targets:
        for extent in extents_of(world, target):
            return _at_path(world, nas, backend, extent.disk, "R4: its IQN leads to the extent of the zvol")
    return Backing(backend, nas, how=f"target {backend.iqn} has no extent")


def targets_called(world: World, nas: str, iqn: str) -> list[Ref]:
    """The targets of a NAS that an IQN means: with its base name one, without it all that it could be."""
    names = csi.targets_of_iqn(iqn)
    if name := _after_base(world, nas, iqn):
        names = (name, names[0])
    found = (r for name in names for r in world.sharing(f"t:{name}", Kind.ISCSI_TARGET))
    return [ref for ref in dict.fromkeys(found) if ref.source == nas]


def target_meant(world: World, nas: str, iqn: str) -> str:
    """The name that a target of this IQN has on a NAS, lower case; what follows the last colon at a guess."""
    return _after_base(world, nas, iqn) or csi.targets_of_iqn(iqn)[-1]


def _after_base(world: World, nas: str, iqn: str) -> str:
    """What follows the base name of the NAS in an IQN, or nothing where the base name is another."""
    system = world.system(nas)
    base = f"{system.iscsi_basename.lower()}:" if system is not None and system.iscsi_basename else ""
    return iqn.lower().removeprefix(base) if base and iqn.lower().startswith(base) else ""


def sessions_of_iqn(world: World, iqn: str) -> Iterator[Ref]:
    """The live iSCSI sessions on what an IQN could mean, on any NAS."""
    for name in csi.targets_of_iqn(iqn):
        yield from world.sharing(f"t:{name}", Kind.ISCSI_SESSION)


def _behind_subsystem(world: World, nas: str, backend: Backend) -> Backing:
    """R5: NQN to subsystem to namespace to zvol; a namespace whose number is not told may be the one."""
    subsystems = [r for r in world.sharing(f"q:{backend.nqn}", Kind.NVME_SUBSYSTEM) if r.source == nas]
    if not backend.nqn or not subsystems:
        return Backing(backend, nas, how=f"subsystem {backend.nqn or '(none)'} is not on {nas}")
    for ref in subsystems:
        namespaces = list(namespaces_of(world, ref))
        meant = [n for n in namespaces if backend.nsid in (None, n.nsid)]
        for namespace in meant or [n for n in namespaces if n.nsid is None]:
            return _at_namespace(world, nas, backend, namespace)
    number = "" if backend.nsid is None else f" {backend.nsid}"
    return Backing(backend, nas, how=f"subsystem {backend.nqn} has no namespace{number}")


def _at_namespace(world: World, nas: str, backend: Backend, namespace: truenas.NvmeNamespace) -> Backing:
    path = path_of_namespace(namespace)
    if namespace.type != "FILE":
        return _at_path(world, nas, backend, path, "R5: its NQN leads to the namespace of the zvol")
    while path := path.rpartition("/")[0]:
        found = _at_path(world, nas, backend, path, "R5: its NQN leads to a file in the dataset")
        if found.dataset is not None:
            return found
    return Backing(backend, nas, how=f"file {namespace.device} is in no dataset of {nas}")


def _behind_share(world: World, nas: str, backend: Backend) -> Backing:
    """R6: the SMB share's path."""
    for ref in world.sharing(f"m:{backend.share}", Kind.SMB_SHARE):
        share = value_of(world.node(ref), truenas.SmbShare)
        if ref.source == nas and share is not None:
            path = csi.dataset_of_mount(share.path)
            return _at_path(world, nas, backend, path, "R6: its SMB share exports the dataset")
    return Backing(backend, nas, how=f"SMB share {backend.share} is not on {nas}")


def extents_of(world: World, target: Ref) -> Iterator[truenas.IscsiExtent]:
    """The extents linked to a target, lowest LUN first."""
    links = []
    for ref in world.sharing(f"i:{target.source}/t/{target.name}", Kind.ISCSI_TARGET_EXTENT):
        link = value_of(world.node(ref), truenas.IscsiTargetExtent)
        if link is not None:
            links.append(link)
    for link in sorted(links, key=lambda each: each.lun or 0):
        extent = value_of(
            world.node(Ref(target.source, Kind.ISCSI_EXTENT, str(link.extent))), truenas.IscsiExtent
        )
        if extent is not None:
            yield extent


def targets_of(world: World, nas: str, path: str) -> Iterator[tuple[Ref, truenas.IscsiTarget]]:
    """The targets that lead to a zvol."""
    for extent in world.sharing(f"p:{path}", Kind.ISCSI_EXTENT):
        if extent.source != nas:
            continue
        for ref in world.sharing(f"i:{nas}/x/{extent.name}", Kind.ISCSI_TARGET_EXTENT):
            link = value_of(world.node(ref), truenas.IscsiTargetExtent)
            if link is None:
                continue
            target = Ref(nas, Kind.ISCSI_TARGET, str(link.target))
            value = value_of(world.node(target), truenas.IscsiTarget)
            if value is not None:
                yield target, value


def sessions_of(world: World, nas: str, path: str) -> Iterator[truenas.IscsiSession]:
    """The live iSCSI sessions on targets that lead to a zvol."""
    for _, target in targets_of(world, nas, path):
        yield from sessions_at(world, nas, target)


def sessions_at(world: World, nas: str, target: truenas.IscsiTarget) -> Iterator[truenas.IscsiSession]:
    """The live iSCSI sessions on a target."""
    for ref in world.sharing(f"t:{target.name.lower()}", Kind.ISCSI_SESSION):
        session = value_of(world.node(ref), truenas.IscsiSession)
        if ref.source == nas and session is not None:
            yield session


def namespaces_of(world: World, subsystem: Ref) -> Iterator[truenas.NvmeNamespace]:
    """The namespaces of a subsystem, lowest number first."""
    value = value_of(world.node(subsystem), truenas.NvmeSubsystem)
    if value is None:
        return
    found = []
    for ref in world.sharing(f"n:{subsystem.source}/{value.id}", Kind.NVME_NAMESPACE):
        namespace = value_of(world.node(ref), truenas.NvmeNamespace)
        if namespace is not None:
            found.append(namespace)
    yield from sorted(found, key=lambda each: (each.nsid or 0, each.id))


def namespaces_at(
    world: World, nas: str, path: str
) -> Iterator[tuple[truenas.NvmeNamespace, truenas.NvmeSubsystem | None]]:
    """The namespaces of a zvol, each with its subsystem; None for a subsystem that is not known."""
    for ref in world.sharing(f"p:{path}", Kind.NVME_NAMESPACE):
        namespace = value_of(world.node(ref), truenas.NvmeNamespace)
        if ref.source != nas or namespace is None:
            continue
        subsystems = world.sharing(f"n:{nas}/{namespace.subsystem}", Kind.NVME_SUBSYSTEM)
        values = (value_of(world.node(each), truenas.NvmeSubsystem) for each in subsystems)
        yield namespace, next(values, None)


def nvme_sessions_of(world: World, nas: str, path: str) -> Iterator[truenas.NvmeSession]:
    """The live NVMe-oF sessions on subsystems that have a namespace of a zvol."""
    for subsystem in dict.fromkeys(namespace.subsystem for namespace, _ in namespaces_at(world, nas, path)):
        yield from nvme_sessions_at(world, nas, subsystem)


def nvme_sessions_at(world: World, nas: str, subsystem: int) -> Iterator[truenas.NvmeSession]:
    """The live NVMe-oF sessions on a subsystem, by its id."""
    for ref in world.sharing(f"n:{nas}/{subsystem}", Kind.NVME_SESSION):
        session = value_of(world.node(ref), truenas.NvmeSession)
        if session is not None:
            yield session


def live_sessions(world: World, nas: str, path: str) -> Iterator[str]:
    """The live sessions on a zvol, of iSCSI and of NVMe-oF, as `iSCSI session of <initiator>`."""
    for session in sessions_of(world, nas, path):
        yield f"iSCSI session of {session.initiator}"
    for connection in nvme_sessions_of(world, nas, path):
        yield f"NVMe-oF session of {connection.host_nqn}"


def clients_of(world: World, nas: str, path: str) -> Iterator[str]:
    """The NFS and SMB clients that are known to have something of a mounted path, or to export it from above.

    A client of NFS version 4 without open files tells nothing; it is asked for when a suspicion is verified.
    """
    places = [f"W:{path}", *(f"p:{each}" for each in _upwards(path))]
    for key in places:
        for ref in world.sharing(key, Kind.NFS_CLIENT):
            client = value_of(world.node(ref), truenas.NfsClient)
            if ref.source == nas and client is not None:
                yield f"NFS client {client.address}"
        for ref in world.sharing(key, Kind.SMB_SHARE):
            share = value_of(world.node(ref), truenas.SmbShare)
            if ref.source == nas and share is not None:
                yield from _clients_of_share(world, nas, share)


def _upwards(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition("/")[0]


def _clients_of_share(world: World, nas: str, share: truenas.SmbShare) -> Iterator[str]:
    for ref in world.sharing(f"m:{share.name.lower()}", Kind.SMB_CLIENT):
        client = value_of(world.node(ref), truenas.SmbClient)
        if ref.source == nas and client is not None:
            yield f"SMB client {client.machine or client.session or client.share}"


def tasks_of(world: World, nas: str, path: str) -> list[Ref]:
    """The snapshot and replication tasks that name a dataset itself; one of an ancestor is no use of it."""
    return world.sharing(f"T:{nas}/{path}", Kind.SNAPSHOT_TASK, Kind.REPLICATION_TASK)


def _datasets_named(world: World, volume: k8s.PersistentVolume) -> Iterator[Ref]:
    names = dict.fromkeys((volume.name, volume.csi.volume_handle if volume.csi else volume.name))
    yield from dict.fromkeys(ref for name in names for ref in world.sharing(f"h:{name}", Kind.DATASET))


def references(world: World, ref: Ref) -> list[Reference]:
    """Everything, in any cluster, that speaks for a dataset being wanted."""
    dataset = world.dataset(ref.source, ref.name)
    if dataset is None:
        return []
    found: dict[Ref, Reference] = {}
    for reference in _references(world, ref, dataset):
        known = found.get(reference.ref)
        if known is None or (known.strength == WEAK and reference.strength == EXACT):
            found[reference.ref] = reference
    return list(found.values())


def _references(world: World, ref: Ref, dataset: truenas.Dataset) -> Iterator[Reference]:
    nas, path = ref.source, ref.name
    yield from references_at(world, nas, path)
    if (mounted := csi.dataset_of_mount(dataset.mountpoint or path)) != path:
        yield from _mounting(world, nas, mounted)
    yield from _references_by_name(world, dataset)


def references_at(world: World, nas: str, path: str) -> Iterator[Reference]:
    """Whatever leads to a path by mount, share, IQN or NQN; whether there is a dataset or not."""
    yield from _mounting(world, nas, path)
    for _, target in targets_of(world, nas, path):
        yield from references_to_target(world, nas, target)
    for _, subsystem in namespaces_at(world, nas, path):
        if subsystem is not None and subsystem.nqn:
            yield from references_to_subsystem(world, nas, subsystem)


def _mounting(world: World, nas: str, path: str) -> Iterator[Reference]:
    for volume in world.sharing(f"p:{path}", Kind.PERSISTENT_VOLUME, Kind.POD):
        yield Reference(volume, "R3: mounts its path", _strength(world, volume, nas))
    for volume in world.sharing(f"W:{path}", Kind.PERSISTENT_VOLUME, Kind.POD):
        yield Reference(volume, "mounts a directory inside it", _strength(world, volume, nas))
    yield from _through_smb(world, nas, path)
    for file in world.sharing(f"W:{path}", Kind.ISCSI_EXTENT, Kind.NVME_NAMESPACE):
        if file.source == nas:
            yield Reference(file, "is a file inside it", EXACT)


def references_to_target(world: World, nas: str, target: truenas.IscsiTarget) -> Iterator[Reference]:
    """The volumes and pods that name an iSCSI target."""
    for volume in world.sharing(f"t:{target.name.lower()}", Kind.PERSISTENT_VOLUME, Kind.POD):
        yield Reference(volume, f"R4: its IQN ends in {target.name}", _strength(world, volume, nas))


def references_to_subsystem(world: World, nas: str, subsystem: truenas.NvmeSubsystem) -> Iterator[Reference]:
    """The volumes and pods that name an NVMe-oF subsystem."""
    for volume in world.sharing(f"q:{csi.subsystem_of_nqn(subsystem.nqn)}", Kind.PERSISTENT_VOLUME, Kind.POD):
        how = f"R5: its NQN is that of subsystem {subsystem.name}"
        yield Reference(volume, how, _strength(world, volume, nas))


def _through_smb(world: World, nas: str, path: str) -> Iterator[Reference]:
    shares = world.sharing(f"p:{path}", Kind.SMB_SHARE) + world.sharing(f"W:{path}", Kind.SMB_SHARE)
    for share in shares:
        value = value_of(world.node(share), truenas.SmbShare)
        if share.source == nas and value is not None:
            for volume in world.sharing(f"m:{value.name.lower()}", Kind.PERSISTENT_VOLUME, Kind.POD):
                yield Reference(volume, f"R6: uses SMB share {value.name}", _strength(world, volume, nas))


def _strength(world: World, volume: Ref, nas: str) -> str:
    """A path or IQN is exact only on the server that the volume names."""
    value = world.volume(volume)
    backend = csi.backend(value) if value is not None else None
    return EXACT if backend is not None and world.nas_at(backend.hosts) == nas else WEAK


_NAMING = (
    Kind.PERSISTENT_VOLUME,
    Kind.PERSISTENT_VOLUME_CLAIM,
    Kind.VOLUME_SNAPSHOT_CONTENT,
    Kind.POD,
)


def _references_by_name(world: World, dataset: truenas.Dataset) -> Iterator[Reference]:
    own = csi.own(dataset, csi.VOLUME_NAME)
    for asset in filter(None, (csi.own(dataset, csi.ISCSI_NAME), csi.own(dataset, csi.NVMEOF_NAME))):
        for ref in world.sharing(f"a:{asset.lower()}", Kind.PERSISTENT_VOLUME, Kind.POD):
            yield Reference(ref, f"names its target or subsystem {asset}", WEAK)
    for name in dict.fromkeys((own, dataset.leaf)):
        if not name:
            continue
        for ref in world.sharing(f"h:{name}", *_NAMING):
            if ref.kind is Kind.PERSISTENT_VOLUME and name == own and ref.name == own:
                yield Reference(ref, "R2: csi_volume_name is its name", EXACT)
            elif ref.kind is Kind.VOLUME_SNAPSHOT_CONTENT:
                yield Reference(ref, "a snapshot of this volume belongs to it", WEAK)
            else:
                yield Reference(ref, f"R8: the name {name} agrees", WEAK)
        if uuid := csi.uuid_in(name):
            for ref in world.sharing(f"u:{uuid}", Kind.PERSISTENT_VOLUME_CLAIM):
                yield Reference(ref, "the volume was made for this claim (uid)", EXACT)


_SPEAKING = (
    *_NAMING,
    Kind.VOLUME_ATTACHMENT,
    Kind.VOLUME_SNAPSHOT,
)


def references_to_name(world: World, name: str) -> Iterator[Reference]:
    """Whatever in any cluster bears a CSI name, is about it, or has the uid in it."""
    keys = [f"h:{name}", *(f"u:{uuid}" for uuid in csi.uuids_in(name))]
    keys += [f"v:{cluster}/{name}" for cluster in world.clusters]
    for key in keys:
        for ref in world.sharing(key, *_SPEAKING):
            yield Reference(ref, f"R8: the name {name} agrees", WEAK)


def datasets_named(world: World, name: str) -> list[Ref]:
    """The datasets of every NAS that bear a CSI name, or the uid in it."""
    keys = [f"h:{name}", *(f"u:{uuid}" for uuid in csi.uuids_in(name))]
    return list(dict.fromkeys(ref for key in keys for ref in world.sharing(key, Kind.DATASET)))


def clones_of(world: World, nas: str, path: str) -> list[Ref]:
    """The datasets that were cloned from snapshots of a dataset and still depend on it."""
    return world.sharing(f"O:{nas}/{path}", Kind.DATASET)


def made_from(world: World, dataset: truenas.Dataset) -> list[Ref]:
    """The datasets whose content source is this volume."""
    return world.sharing(f"F:{dataset.leaf}", Kind.DATASET)


def snapshots_of(world: World, nas: str, path: str) -> list[Ref]:
    """The ZFS snapshots of a dataset."""
    return world.sharing(f"D:{nas}/{path}", Kind.SNAPSHOT)


def children_of(world: World, nas: str, path: str) -> list[Ref]:
    """The datasets directly below a dataset."""
    return [r for r in world.sharing(f"N:{nas}/{path}", Kind.DATASET) if r.source == nas]
