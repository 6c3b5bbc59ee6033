"""How democratic-csi names and marks what it makes on a TrueNAS.

Facts from democratic-csi master 8a4a28a and v1.9.4 (`src/driver/freenas/api.js`,
`src/driver/controller-zfs/index.js`, `src/driver/index.js`): the dataset of a volume
is `<parent>/<volume handle>`, exactly one level below the configured parent; a
snapshot handle with `@` names a ZFS snapshot below that parent, one without names
a dataset below the parent of detached snapshots.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum

import msgspec

from truetally.model.kubernetes import PersistentVolume
from truetally.model.truenas import Dataset, NvmeNamespace, NvmeSubsystem, Origin, UserProperty

MANAGED = "democratic-csi:managed_resource"
VOLUME_NAME = "democratic-csi:csi_volume_name"
PROVISIONER_DRIVER = "democratic-csi:volume_context_provisioner_driver"
INSTANCE_ID = "democratic-csi:volume_context_provisioner_instance_id"
SOURCE_ID = "democratic-csi:csi_volume_content_source_id"
SUCCESS = "democratic-csi:provision_success"
SNAPSHOT_NAME = "democratic-csi:csi_snapshot_name"
ISCSI_NAME = "democratic-csi:freenas_iscsi_assets_name"
NVMEOF_NAME = "democratic-csi:freenas_nvmeof_assets_name"
NVMEOF_SUBSYSTEM = "democratic-csi:freenas_nvmeof_subsystem_id"
NVMEOF_NAMESPACE = "democratic-csi:freenas_nvmeof_namespace_id"

# What is judged by. The rest (ids that are re-used, the share's context) proves nothing; the name of a target
# or subsystem protects what a volume still names when it is gone; the ids of NVMe-oF count only together
# with a name, and only to tell a zvol's own namespace from another's.
KEPT_PROPERTIES = frozenset(
    {
        MANAGED,
        VOLUME_NAME,
        PROVISIONER_DRIVER,
        INSTANCE_ID,
        SOURCE_ID,
        SUCCESS,
        SNAPSHOT_NAME,
        ISCSI_NAME,
        NVMEOF_NAME,
        NVMEOF_SUBSYSTEM,
        NVMEOF_NAMESPACE,
    }
)

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_CSI_NAME = re.compile(rf"[a-z0-9]+-{_UUID.pattern}")
_SHARE_COMMENT = re.compile(r"democratic-csi \((.+)\): (.+)")


class Protocol(StrEnum):
    """How nodes reach a volume."""

    NFS = "nfs"
    SMB = "smb"
    ISCSI = "iscsi"
    NVMEOF = "nvmeof"
    OTHER = "other"


class Backend(msgspec.Struct, frozen=True):
    """Where a PersistentVolume says that its data is.

    Attributes:
        hosts: the host names or addresses of the NAS as the PersistentVolume writes them.
        path: the dataset path that the NFS export implies; empty for the others.
        iqn: the iSCSI target's full name, lower case.
        share: the SMB share's name, lower case.
        nqn: the NVMe-oF subsystem's name, lower case.
        nsid: the namespace in that subsystem; None if the volume does not say.
    """

    protocol: Protocol
    hosts: tuple[str, ...] = ()
    path: str = ""
    iqn: str = ""
    share: str = ""
    nqn: str = ""
    nsid: int | None = None


def dataset_of_mount(path: str) -> str:
    """The dataset path of a mountpoint: `/mnt/tank/a/` is `tank/a`."""
    return path.removeprefix("/mnt/").strip("/")


def dataset_of_device(path: str) -> str:
    """The zvol's path of an extent's `disk`; TrueNAS writes a space as `+` there."""
    return path.removeprefix("/dev/").removeprefix("zvol/").strip("/").replace("+", " ")


def targets_of_iqn(iqn: str) -> tuple[str, ...]:
    """What the target's own name may be, lower case, longest first.

    It follows the base name and a colon; but both may hold colons themselves, as in
    `iqn.2010-01.com.acme:storage`, so which colon it is, is only known with the base name of the NAS. A
    target may also be called by a whole IQN; then that is its name.
    """
    parts = iqn.lower().split(":")
    return tuple(":".join(parts[at:]) for at in range(len(parts)))


def asset_of_nqn(nqn: str) -> str:
    """The name that a subsystem was made with: what follows the last colon of its NQN, lower case."""
    return nqn.strip().rpartition(":")[2].lower()


def subsystem_of_nqn(nqn: str) -> str:
    """The NVMe Qualified Name of a subsystem as it is compared: lower case."""
    return nqn.strip().lower()


def smb_share_of(text: str) -> str:
    """The share's own name of `share`, `/share/directory` or `//host/share/directory`, lower case."""
    parts = [part for part in text.replace("\\", "/").split("/") if part]
    if text.replace("\\", "/").startswith("//"):
        parts = parts[1:]
    return parts[0].lower() if parts else ""


def host_of(portal: str) -> str:
    """The host of `host`, `host:port`, `[v6]:port` or `scheme://host:port`."""
    text = portal.strip().partition("://")[2] or portal.strip()
    if text.startswith("["):
        return text[1:].partition("]")[0].lower()
    host, colon, _ = text.partition(":")
    return text.lower() if colon and text.count(":") > 1 else host.lower()


def uuid_in(name: str) -> str:
    """The last UUID in a CSI name such as `pvc-<claim uid>` or `snapshot-<uid>`; empty if there is none."""
    found = _UUID.findall(name.lower())
    return found[-1] if found else ""


def uuids_in(name: str) -> tuple[str, ...]:
    """All UUIDs in a name."""
    return tuple(dict.fromkeys(_UUID.findall(name.lower())))


def volume_name_in(asset: str) -> str:
    """The CSI name of the volume that a target, subsystem or SMB share is named after.

    An asset's name is a prefix, the volume handle and a suffix, in lower case. The provisioner's handles are
    `pvc-<claim uid>`, or have another word before the uid. Empty if there is no such name, or more than one.
    """
    found = _CSI_NAME.findall(asset.lower())
    if len(found) != 1 or len(uuids_in(asset)) != 1:
        return ""
    name: str = found[0]
    return name[name.index("pvc-") :] if "pvc-" in name else name


def dataset_in_comment(comment: str) -> tuple[str, str] | None:
    """The CSI driver's name and the dataset that the comment of an NFS share names; None for another comment.

    Unless `shareCommentTemplate` is set, it is `democratic-csi (<csi-name>): <dataset>` (v1.9.4,
    `createShare`).
    """
    found = _SHARE_COMMENT.fullmatch(comment.strip())
    return (found[1], found[2]) if found is not None else None


def backend(volume: PersistentVolume) -> Backend | None:
    """Where the volume's data is; None for a volume that is on no network storage we know."""
    if volume.nfs is not None:
        return Backend(Protocol.NFS, (host_of(volume.nfs.server),), path=dataset_of_mount(volume.nfs.path))
    if volume.iscsi is not None:
        hosts = tuple(host_of(p) for p in volume.iscsi.portals)
        return Backend(Protocol.ISCSI, hosts, iqn=volume.iscsi.iqn.lower())
    if volume.csi is None:
        return None
    return _csi_backend(volume.csi.attributes)


def _csi_backend(attributes: Mapping[str, str]) -> Backend | None:
    match attributes.get("node_attach_driver", ""):
        case "nfs":
            path = dataset_of_mount(attributes.get("share", ""))
            return Backend(Protocol.NFS, (host_of(attributes.get("server", "")),), path=path)
        case "smb":
            share = smb_share_of(attributes.get("share", ""))
            return Backend(Protocol.SMB, (host_of(attributes.get("server", "")),), share=share)
        case "iscsi":
            return Backend(Protocol.ISCSI, tuple(_portals(attributes)), iqn=attributes.get("iqn", "").lower())
        case "nvmeof":
            hosts = tuple(host_of(t) for t in _split(attributes, "transport", "transports"))
            nsid = attributes.get("nsid", "").strip()
            return Backend(
                Protocol.NVMEOF,
                hosts,
                nqn=subsystem_of_nqn(attributes.get("nqn", "")),
                nsid=int(nsid) if nsid.isdecimal() else None,
            )
        case "":
            return _foreign_backend(attributes)
        case _:
            return Backend(Protocol.OTHER)


def _foreign_backend(attributes: Mapping[str, str]) -> Backend | None:
    """Other drivers may mount our exports too (csi-driver-nfs: `server` and `share`)."""
    if "server" in attributes and "share" in attributes:
        path = dataset_of_mount(attributes["share"])
        return Backend(Protocol.NFS, (host_of(attributes["server"]),), path=path)
    return None


def hints(attributes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Whatever a volume's attributes could mean: `path`, `target`, `subsystem` or `share`, and its value.

    Every driver has keys of its own (csi-driver-nfs: `share` and `subDir`; csi-driver-smb: `source`;
    truenas-csi: `nfsPath`, `targetIQN`; tns-csi: `nqn`). A hint protects what it could mean, and proves
    nothing.
    """
    for key, value in attributes.items():
        if "/mnt/" in value:
            path = dataset_of_mount(value[value.index("/mnt/") :])
            yield "path", path
            for inner in ("subDir", "subdir", "subPath", "subpath"):
                if below := attributes.get(inner, "").strip("/"):
                    yield "path", f"{path}/{below}"
        elif value.startswith("iqn."):
            yield from (("target", name) for name in targets_of_iqn(value))
        elif value.strip().lower().startswith("nqn."):
            yield "subsystem", subsystem_of_nqn(value)
        elif value.startswith(("//", "\\\\")) or key == "share":
            yield "share", smb_share_of(value)
        elif "/" in value and " " not in value:
            yield "path", value.strip("/")


def _portals(attributes: Mapping[str, str]) -> Iterator[str]:
    for portal in _split(attributes, "portal", "portals"):
        yield host_of(portal)


def _split(attributes: Mapping[str, str], *keys: str) -> Iterator[str]:
    for key in keys:
        yield from (part for part in attributes.get(key, "").split(",") if part.strip())


def is_provisioned(volume: PersistentVolume) -> bool:
    """Whether democratic-csi made the volume itself, rather than a person by hand (`node-manual`, static)."""
    if volume.csi is None or "pv.kubernetes.io/provisioned-by" not in volume.annotations:
        return False
    return volume.csi.attributes.get("provisioner_driver", "node-manual") != "node-manual"


def provisioner(volume: PersistentVolume) -> tuple[str, str] | None:
    """The driver id and instance id that a provisioned volume names; None for others."""
    if volume.csi is None or "provisioner_driver" not in volume.csi.attributes:
        return None
    attributes = volume.csi.attributes
    return attributes["provisioner_driver"], attributes.get("provisioner_driver_instance_id", "")


def is_kept(name: str) -> bool:
    """Whether a user property is one that is judged by: of democratic-csi's some, of others all."""
    return name in KEPT_PROPERTIES or not name.startswith("democratic-csi:")


def counted(prop: UserProperty | None) -> str:
    """The property's value if it can be the object's own: an inherited or received one is no evidence."""
    if prop is None or prop.origin in (Origin.INHERITED, Origin.RECEIVED):
        return ""
    return prop.value


def own(dataset: Dataset, name: str) -> str:
    """The value of a user property that the dataset itself carries; empty otherwise."""
    return counted(dataset.user_properties.get(name))


def is_managed(dataset: Dataset) -> bool:
    """Whether the dataset carries democratic-csi's mark itself, as far as the NAS's version can tell."""
    return own(dataset, MANAGED) == "true"


def is_own_namespace(dataset: Dataset, namespace: NvmeNamespace, subsystem: NvmeSubsystem) -> bool:
    """Whether democratic-csi itself has made a namespace for the zvol, in the zvol's own subsystem.

    The subsystem has the asset name that the zvol remembers. Before that is written down (it comes last), the
    zvol remembers the subsystem's id, and the name has the zvol's own inside it. An id that the zvol
    remembers and that is another's says no.
    """
    if not own(dataset, PROVISIONER_DRIVER).endswith("-nvmeof"):
        return False
    said = own(dataset, NVMEOF_SUBSYSTEM), own(dataset, NVMEOF_NAMESPACE)
    if said[0] not in ("", str(subsystem.id)) or said[1] not in ("", str(namespace.id)):
        return False
    if asset := own(dataset, NVMEOF_NAME):
        return subsystem.name.lower() == asset.lower()
    return bool(said[0]) and dataset.leaf.lower() in subsystem.name.lower()


def makes_detached_snapshots(parameters: Mapping[str, str]) -> bool:
    """Whether a VolumeSnapshotClass copies each snapshot into a dataset of its own.

    The driver also takes its parameters with a prefix: `democratic-csi.org/`, with its id or instance id.
    """
    return any(
        key.rpartition("/")[2] == "detachedSnapshots" and value.lower() == "true"
        for key, value in parameters.items()
    )


def split_snapshot_handle(handle: str) -> tuple[str, str, bool]:
    """Volume handle, snapshot name, and whether it is an attached (ZFS) snapshot."""
    if "@" in handle:
        volume, _, snapshot = handle.partition("@")
        return volume, snapshot, True
    volume, _, snapshot = handle.rpartition("/")
    return volume, snapshot, False
