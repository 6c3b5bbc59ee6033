"""What a NAS serves under the name that a volume carries: the way from share, IQN or NQN to a dataset.

democratic-csi makes that way once, while it makes the volume (domain notes §1.5: the id that it
writes on the dataset keeps a later call from making the share again). A way that somebody breaks
stays broken until a person mends it, so each break comes with the steps that mend it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from truetally.csi.democratic_csi import Backend, Protocol, dataset_of_mount
from truetally.graph import chains
from truetally.graph.correlate import path_of_namespace
from truetally.graph.graph import value_of
from truetally.graph.world import World
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.refs import Kind, Ref


class Exposure(msgspec.Struct, frozen=True):
    """Where the name that a volume carries leads on its NAS.

    Attributes:
        path: the dataset it leads to; empty if it leads nowhere.
        by: the share, extent or namespace that serves that dataset.
        broken: what is missing or switched off on the way; empty if the way is whole.
        mend: the steps that make it whole again.
        unknown: why it cannot be told; nothing is to be concluded then.
    """

    path: str = ""
    by: str = ""
    broken: str = ""
    mend: str = ""
    unknown: str = ""


def exposure(world: World, nas: str, volume: k8s.PersistentVolume, backend: Backend, home: str) -> Exposure:
    """Follows a CSI volume on its NAS; `home` is the dataset that it ought to lead to, for what to mend."""
    follow = _FOLLOW.get(backend.protocol)
    if follow is None or volume.csi is None:
        return Exposure(unknown=f"truetally does not follow {backend.protocol.value}")
    return follow(world, nas, volume, backend, home)


def _property(name: str, home: str) -> str:
    return f"zfs set democratic-csi:freenas_{name}=<its new id> {home}"


def _nfs(world: World, nas: str, volume: k8s.PersistentVolume, backend: Backend, home: str) -> Exposure:
    mount = f"/mnt/{backend.path}"
    shares = _shares_at(world, nas, backend.path)
    if any(share.enabled for share in shares):
        return Exposure(backend.path, f"NFS share of {mount}")
    # A share of a directory above may export it as well; whether its clients get there cannot be seen.
    above = backend.path
    while above := above.rpartition("/")[0]:
        if any(share.enabled for share in _shares_at(world, nas, above)):
            return Exposure(unknown=f"the NFS share of /mnt/{above} may serve it")
    if shares:
        return Exposure(
            broken=f"NFS share {shares[0].id} of {mount} is disabled", mend=f"enable NFS share {shares[0].id}"
        )
    driver = volume.csi.driver if volume.csi else ""
    return Exposure(
        broken=f"no NFS share exports {mount}",
        mend=(
            f"create an NFS share of {mount} with the options of its neighbours and the comment "
            f"'democratic-csi ({driver}): {home}', then {_property('nfs_share_id', home)}"
        ),
    )


def _shares_at(world: World, nas: str, path: str) -> list[truenas.NfsShare]:
    refs = world.sharing(f"p:{path}", Kind.NFS_SHARE)
    values = (value_of(world.node(ref), truenas.NfsShare) for ref in refs if ref.source == nas)
    return [share for share in values if share is not None]


def _smb(world: World, nas: str, volume: k8s.PersistentVolume, backend: Backend, home: str) -> Exposure:
    if not backend.share:
        return Exposure(unknown="the volume names no SMB share")
    for ref in world.sharing(f"m:{backend.share}", Kind.SMB_SHARE):
        share = value_of(world.node(ref), truenas.SmbShare)
        if ref.source != nas or share is None:
            continue
        if not share.enabled:
            return Exposure(
                broken=f"SMB share {share.name} is disabled",
                mend=f"enable SMB share {share.name} (id {share.id})",
            )
        return Exposure(
            dataset_of_mount(share.path),
            f"SMB share {share.name}",
            mend=f"set the path of SMB share {share.name} (id {share.id}) to /mnt/{home}",
        )
    name = volume.csi.attributes.get("share", backend.share) if volume.csi else backend.share
    return Exposure(
        broken=f"SMB share {name} does not exist",
        mend=(
            f"create an SMB share named {name} of /mnt/{home} with the options of its neighbours, then "
            f"{_property('smb_share_id', home)}"
        ),
    )


def _iscsi(world: World, nas: str, volume: k8s.PersistentVolume, backend: Backend, home: str) -> Exposure:
    if not backend.iqn:
        return Exposure(unknown="the volume names no iSCSI target")
    targets = chains.targets_called(world, nas, backend.iqn)
    target = chains.target_meant(world, nas, backend.iqn)
    lun = _lun(volume)
    if not targets:
        if any(r.source == nas for r in chains.sessions_of_iqn(world, backend.iqn)):
            return Exposure(unknown=f"an iSCSI session is on target {target}, so the NAS serves it")
        mend = f"create target {target} with the portals and initiator groups of its neighbours, "
        return Exposure(
            broken=f"iSCSI target {target} does not exist",
            mend=(f"{mend}{_property('iscsi_target_id', home)}, {_link(world, nas, target, lun, home)}"),
        )
    links = _links_of(world, targets)
    meant = [each for each in links if each.lun == lun] or [each for each in links if each.lun is None]
    if not meant:
        others = ", ".join(str(each.lun) for each in links)
        only = f" (only at LUN {others})" if links else ""
        return Exposure(
            broken=f"iSCSI target {target} has no extent at LUN {lun}{only}",
            mend=f"take target {target}, {_link(world, nas, target, lun, home)}",
        )
    ways = [_behind_link(world, nas, target, each, home) for each in meant]
    return _only(ways, f"target {target} has several extents that may be meant")


def _lun(volume: k8s.PersistentVolume) -> int:
    """The LUN that the volume names; democratic-csi's own is always 0."""
    text = volume.csi.attributes.get("lun", "").strip() if volume.csi else ""
    return int(text) if text.isdecimal() else 0


def _links_of(world: World, targets: list[Ref]) -> list[truenas.IscsiTargetExtent]:
    refs = (
        ref
        for target in targets
        for ref in world.sharing(f"i:{target.source}/t/{target.name}", Kind.ISCSI_TARGET_EXTENT)
    )
    values = (value_of(world.node(ref), truenas.IscsiTargetExtent) for ref in refs)
    return [link for link in values if link is not None]


def _link(world: World, nas: str, target: str, lun: int, home: str) -> str:
    extent = _extent_of(world, nas, target, home)
    return f"link it to {extent} at LUN {lun}, then {_property('iscsi_targettoextent_id', home)}"


def _extent_of(world: World, nas: str, asset: str, home: str) -> str:
    """The extent of the zvol that a target is to be linked to, in words."""
    for ref in world.sharing(f"p:{home}", Kind.ISCSI_EXTENT):
        extent = value_of(world.node(ref), truenas.IscsiExtent)
        if ref.source == nas and extent is not None:
            return f"extent {extent.name} (id {extent.id})"
    return f"a new DISK extent {asset} of zvol/{home} ({_property('iscsi_extent_id', home)})"


def _behind_link(world: World, nas: str, target: str, link: truenas.IscsiTargetExtent, home: str) -> Exposure:
    extent = value_of(world.node(Ref(nas, Kind.ISCSI_EXTENT, str(link.extent))), truenas.IscsiExtent)
    if extent is None:
        wanted = _extent_of(world, nas, target, home)
        return Exposure(
            broken=f"iSCSI target {target} is linked to extent {link.extent}, which does not exist",
            mend=f"link target {target} to {wanted} at LUN {link.lun or 0}",
        )
    if extent.type != "DISK":
        return Exposure(unknown=f"extent {extent.name} is a file, which democratic-csi does not make")
    if not extent.enabled:
        return Exposure(
            broken=f"iSCSI extent {extent.name} is disabled",
            mend=f"enable extent {extent.name} (id {extent.id})",
        )
    return Exposure(
        extent.disk,
        f"iSCSI extent {extent.name}",
        mend=f"set the device of extent {extent.name} (id {extent.id}) to zvol/{home}",
    )


def _nvmeof(world: World, nas: str, volume: k8s.PersistentVolume, backend: Backend, home: str) -> Exposure:
    if not backend.nqn:
        return Exposure(unknown="the volume names no NVMe-oF subsystem")
    subsystems = [r for r in world.sharing(f"q:{backend.nqn}", Kind.NVME_SUBSYSTEM) if r.source == nas]
    number = 1 if backend.nsid is None else backend.nsid
    if not subsystems:
        nqn = volume.csi.attributes.get("nqn", backend.nqn) if volume.csi else backend.nqn
        return Exposure(
            broken=f"NVMe-oF subsystem {nqn} does not exist",
            mend=(
                f"create a subsystem with the NQN {nqn} and the ports of its neighbours, "
                f"{_property('nvmeof_subsystem_id', home)}, {_create(number, home)}"
            ),
        )
    namespaces = [n for ref in subsystems for n in chains.namespaces_of(world, ref)]
    meant = [n for n in namespaces if backend.nsid in (None, n.nsid)]
    meant = meant or [n for n in namespaces if n.nsid is None]
    if not meant:
        return Exposure(
            broken=f"NVMe-oF subsystem {backend.nqn} has no namespace {number}",
            mend=f"take subsystem {backend.nqn}, {_create(number, home)}",
        )
    ways = [_behind_namespace(each, home) for each in meant]
    return _only(ways, f"subsystem {backend.nqn} has several namespaces that may be meant")


def _create(number: int, home: str) -> str:
    return f"create namespace {number} of zvol/{home} in it, {_property('nvmeof_namespace_id', home)}"


def _behind_namespace(namespace: truenas.NvmeNamespace, home: str) -> Exposure:
    if namespace.type != "ZVOL":
        return Exposure(unknown=f"namespace {namespace.id} is a file, which democratic-csi does not make")
    if not namespace.enabled:
        return Exposure(
            broken=f"NVMe-oF namespace {namespace.id} is disabled",
            mend=f"enable namespace {namespace.id}",
        )
    return Exposure(
        path_of_namespace(namespace),
        f"NVMe-oF namespace {namespace.id}",
        mend=f"set the device of namespace {namespace.id} to zvol/{home}",
    )


def _only(ways: list[Exposure], several: str) -> Exposure:
    return ways[0] if len(ways) == 1 else Exposure(unknown=several)


_Follow = Callable[[World, str, k8s.PersistentVolume, Backend, str], Exposure]

_FOLLOW: dict[Protocol, _Follow] = {
    Protocol.NFS: _nfs,
    Protocol.SMB: _smb,
    Protocol.ISCSI: _iscsi,
    Protocol.NVMEOF: _nvmeof,
}
