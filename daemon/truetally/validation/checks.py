"""All checks of the configuration, as far as it can be seen from Kubernetes and TrueNAS.

Domain facts: democratic-csi master 8a4a28a and v1.9.4 (names, lengths, quotas, versions), branch next 9ed7f8a
(TrueNAS 25.04 and newer), middleware 22.12 to 26 (REST is gone in 26).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import timedelta

from truetally.csi import democratic_csi as csi
from truetally.graph import chains
from truetally.graph.graph import value_of
from truetally.graph.world import World
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.refs import Kind, Ref
from truetally.settings import DriverSettings
from truetally.validation.check import Check, Item, error, ok, unknown, warning

# ZFS names a zvol's device `zvol/<dataset>`, at most 255 characters (SCALE); a volume is `pvc-` and a uid.
_LONGEST_PATH, _VOLUME_NAME = 255, len("/pvc-") + 36
_SERVICES = {"nfs": "nfs", "smb": "cifs", "iscsi": "iscsitarget", "nvmeof": "nvmet"}
_FILESYSTEMS = {
    "nfs": frozenset({"", "nfs"}),
    "smb": frozenset({"", "cifs", "smb"}),
    "iscsi": frozenset({"", "ext4", "ext3", "xfs", "btrfs", "ntfs", "vfat", "exfat"}),
    "nvmeof": frozenset({"", "ext4", "ext3", "xfs", "btrfs", "ntfs", "vfat", "exfat"}),
}
_FS_TYPE = ("csi.storage.k8s.io/fstype", "fsType")
_KEY_ENDS_SOON = timedelta(days=14)
_POOL_FULL = 0.9


def _driver(driver: DriverSettings) -> str:
    return f"driver {driver.driver} in {driver.cluster}"


def _all(world: World, kind: Kind) -> Iterator[Ref]:
    return iter(sorted(world.graph.refs(kind)))


def _classes(world: World) -> Iterator[tuple[Ref, k8s.StorageClass]]:
    """The StorageClasses of democratic-csi."""
    for ref in _all(world, Kind.STORAGE_CLASS):
        value = value_of(world.node(ref), k8s.StorageClass)
        if value is not None and world.is_our_driver(ref.source, value.provisioner):
            yield ref, value


def _drivers(world: World) -> list[tuple[str, str]]:
    """Each (cluster, CSI driver name) of democratic-csi that is configured, or has a StorageClass."""
    found = {(d.cluster, d.driver) for d in world.settings.drivers}
    found |= {(ref.source, class_.provisioner) for ref, class_ in _classes(world)}
    return sorted(found)


def _volumes_of(world: World, cluster: str, driver: str) -> Iterator[tuple[Ref, k8s.PersistentVolume]]:
    for name, node in sorted(world.graph.nodes(cluster, Kind.PERSISTENT_VOLUME).items()):
        value = node.value
        if isinstance(value, k8s.PersistentVolume) and value.csi is not None and value.csi.driver == driver:
            yield Ref(cluster, Kind.PERSISTENT_VOLUME, name), value


def _protocols(world: World, cluster: str, driver: str) -> set[str]:
    """By what its volumes are reached; a driver has one, and before its first volume its name may tell it."""
    found = {
        value.csi.attributes.get("node_attach_driver", "")
        for _, value in _volumes_of(world, cluster, driver)
        if value.csi is not None
    }
    found &= _SERVICES.keys()
    return found or {each for each in _SERVICES if re.search(rf"(^|[.-]){each}([.-]|$)", driver)}


# Drivers and their parents


def _parents_exist(world: World) -> Iterator[Item]:
    for driver in world.settings.drivers:
        for role, path in (("parent", driver.parent), ("snapshots_parent", driver.snapshots_parent)):
            if path is None:
                continue
            about = f"{_driver(driver)}: {role} {path}"
            dataset = world.dataset(driver.nas, path)
            if dataset is None and not world.pool_is_there(driver.nas, path.partition("/")[0]):
                yield unknown(about, f"its pool is not imported on {driver.nas}")
            elif dataset is None:
                yield error(
                    about,
                    f"there is no such dataset on {driver.nas}",
                    "correct `parent` under drivers; it is the driver's own zfs.datasetParentName",
                )
            elif dataset.locked:
                yield error(about, "it is locked", f"unlock {path} on {driver.nas}")
            elif dataset.readonly:
                yield error(
                    about, "it is read-only", f"set readonly=off on {path}; or is {driver.nas} the replica?"
                )
            elif dataset.kind != "FILESYSTEM":
                yield error(about, "it is a zvol", "name the dataset above the volumes")
            else:
                yield ok(about, "it exists and can be written")


def _parents_apart(world: World) -> Iterator[Item]:
    named = [
        (driver, path)
        for driver in world.settings.drivers
        for path in filter(None, (driver.parent, driver.snapshots_parent))
    ]
    for index, (driver, path) in enumerate(named):
        about = f"{_driver(driver)}: {path}"
        shared = [
            other
            for other, its in named[:index] + named[index + 1 :]
            if other.nas == driver.nas and (its == path or its.startswith(path + "/"))
        ]
        # Two deployments on one parent overwrite each other's listings (democratic-csi README, "parent").
        if shared:
            yield error(
                about,
                f"it is, or holds, a parent of {_driver(shared[0])}",
                "give each deployment a parent of its own, none within another",
            )
        else:
            yield ok(about, "no other deployment uses it")


def _one_owner(world: World) -> Iterator[Item]:
    for driver in world.settings.drivers:
        about = f"{_driver(driver)}: {driver.parent}"
        stamps = world.graph.stamps(driver.nas, driver.parent)
        instances = {stamp.instance_id for stamp, count in stamps.items() if count}
        foreign = sorted(instances - {driver.instance_id or ""})
        if driver.instance_id and foreign:
            names = ", ".join(each or "none" for each in foreign)
            yield warning(
                about,
                f"volumes there carry another instance id ({names}) than {driver.instance_id}",
                "move one of the deployments to a parent of its own; leftovers there are of unknown owner",
            )
        elif len(instances) > 1:
            names = ", ".join(sorted(each or "none" for each in instances))
            yield warning(
                about,
                f"volumes there carry several instance ids ({names})",
                "tell ours under drivers (instance_id), and move the other deployment to a parent of its own",
            )
        else:
            yield ok(about, "all volumes there are of one deployment")


def _lengths(world: World) -> Iterator[Item]:
    for driver in world.settings.drivers:
        length = len("zvol/") + len(driver.parent) + _VOLUME_NAME
        about = f"{_driver(driver)}: {driver.parent}"
        if length > _LONGEST_PATH:
            yield error(
                about,
                f"the path of a volume there is {length} characters long, and ZFS takes {_LONGEST_PATH}",
                "use a shorter parent",
            )
        else:
            yield ok(about, f"the path of a volume is {length} of {_LONGEST_PATH} characters")


def _room(world: World) -> Iterator[Item]:
    for nas, name in sorted({(d.nas, d.parent.partition("/")[0]) for d in world.settings.drivers}):
        pool = world.pool(nas, name)
        about = f"pool {name} ({nas})"
        if pool is None:
            yield error(about, "there is no such pool", "import it, or correct `parent` under drivers")
        elif pool.status not in ("ONLINE", "DEGRADED"):
            yield error(about, f"it is {pool.status}", f"see to pool {name} on {nas}")
        elif pool.size_bytes and pool.allocated_bytes is not None:
            share = pool.allocated_bytes / pool.size_bytes
            if share > _POOL_FULL:
                yield error(
                    about, f"it is {share:.0%} full", "free space or add disks; ZFS slows down from here"
                )
            else:
                yield ok(about, f"it is {pool.status} and {share:.0%} full")
        else:
            yield unknown(about, "its size is not told")


def _services(world: World) -> Iterator[Item]:
    seen: set[tuple[str, str]] = set()
    for driver in world.settings.drivers:
        for protocol in sorted(_protocols(world, driver.cluster, driver.driver)):
            name = _SERVICES[protocol]
            if (driver.nas, name) in seen:
                continue
            seen.add((driver.nas, name))
            about = f"service {name} ({driver.nas})"
            service = value_of(world.node(Ref(driver.nas, Kind.SERVICE, name)), truenas.Service)
            if service is None:
                yield unknown(about, "this TrueNAS does not list it")
            elif service.state != "RUNNING":
                yield error(
                    about, f"it is {service.state}", f"start {name} on {driver.nas}, and let it start at boot"
                )
            elif not service.enabled:
                yield warning(about, "it runs, and will not after a reboot", f"let {name} start at boot")
            else:
                yield ok(about, "it runs, and starts at boot")


def _versions(world: World) -> Iterator[Item]:
    """What democratic-csi can speak to: its drivers for TrueNAS need REST, which 26 has no more."""
    for driver in world.settings.drivers:
        system = world.system(driver.nas)
        about = f"{_driver(driver)} on {driver.nas}"
        version = _version(system.version) if system is not None else None
        if system is None or version is None:
            yield unknown(about, "the version of the NAS is not known")
        elif version >= (26, 0):
            yield error(
                about,
                f"{system.version} has no REST API, and democratic-csi's TrueNAS drivers need it",
                "stay on 25.10 until democratic-csi speaks JSON-RPC, or use zfs-generic over SSH",
            )
        elif version >= (25, 4):
            yield warning(
                about,
                f"{system.version} needs democratic-csi's branch `next`; the Probe of 1.9.4 fails there",
                "check which image the deployment runs, and test snapshots and restores after each upgrade",
            )
        else:
            yield ok(about, f"democratic-csi 1.9 works with {system.version}")


def _version(text: str) -> tuple[int, int] | None:
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


# Kubernetes


def _registered(world: World) -> Iterator[Item]:
    for cluster, driver in _drivers(world):
        about = f"CSIDriver {driver} ({cluster})"
        if world.node(Ref(cluster, Kind.CSI_DRIVER, driver)) is None:
            yield error(
                about,
                "it is not registered",
                "install the driver, or correct the provisioner of its StorageClasses",
            )
        else:
            yield ok(about, "it is registered")


def _on_every_node(world: World) -> Iterator[Item]:
    for cluster, driver in _drivers(world):
        about = f"CSIDriver {driver} ({cluster})"
        without = []
        nodes = 0
        for name, node in sorted(world.graph.nodes(cluster, Kind.NODE).items()):
            if not isinstance(node.value, k8s.Node) or node.value.unschedulable or not node.value.ready:
                continue
            nodes += 1
            there = value_of(world.node(Ref(cluster, Kind.CSI_NODE, name)), k8s.CSINode)
            if there is None or driver not in there.drivers:
                without.append(name)
        if without:
            more = f" and {len(without) - 5} more" if len(without) > 5 else ""
            yield error(
                about,
                f"it does not run on {', '.join(without[:5])}{more}",
                "pods with its volumes cannot start there: look at tolerations, node selectors and crashes",
            )
        else:
            yield ok(about, f"it runs on all {nodes} schedulable nodes")


def _configured(world: World) -> Iterator[Item]:
    known = {(d.cluster, d.driver) for d in world.settings.drivers}
    for ref, class_ in _classes(world):
        about = f"StorageClass {ref.name} ({ref.source})"
        if (ref.source, class_.provisioner) in known:
            yield ok(about, f"its provisioner {class_.provisioner} is configured under drivers")
        else:
            yield warning(
                about,
                f"its provisioner {class_.provisioner} is not configured under drivers",
                "add it with its NAS and parent; without that its leftovers are of unknown owner",
            )


def _one_default(world: World) -> Iterator[Item]:
    for cluster in world.clusters:
        defaults = [
            name
            for name, node in sorted(world.graph.nodes(cluster, Kind.STORAGE_CLASS).items())
            if isinstance(node.value, k8s.StorageClass) and node.value.is_default
        ]
        if len(defaults) > 1:
            yield warning(
                f"StorageClasses ({cluster})",
                f"{len(defaults)} are the default: {', '.join(defaults)}; the newest wins",
                "leave the annotation storageclass.kubernetes.io/is-default-class on one",
            )
        else:
            yield ok(f"StorageClasses ({cluster})", f"the default is {defaults[0] if defaults else 'none'}")


def _filesystems(world: World) -> Iterator[Item]:
    for ref, class_ in _classes(world):
        wanted = next((class_.parameters[key] for key in _FS_TYPE if class_.parameters.get(key)), "")
        protocols = _protocols(world, ref.source, class_.provisioner)
        about = f"StorageClass {ref.name} ({ref.source})"
        if len(protocols) != 1:
            yield unknown(about, "it cannot be told by what protocol its volumes are reached")
            continue
        (protocol,) = protocols
        if wanted not in _FILESYSTEMS[protocol]:
            fits = ", ".join(sorted(filter(None, _FILESYSTEMS[protocol])))
            yield error(about, f"fsType {wanted} does not fit {protocol}", f"use one of {fits}, or none")
        else:
            yield ok(about, f"fsType {wanted or '(none)'} fits {protocol}")


def _expansion(world: World) -> Iterator[Item]:
    """A driver without quotas (`datasetEnableQuotas`) tells a capacity of 0 and expands nothing."""
    for ref, class_ in _classes(world):
        about = f"StorageClass {ref.name} ({ref.source})"
        if not class_.allow_expansion:
            yield ok(about, "it allows no expansion")
            continue
        checked, without = 0, []
        for volume, value in _volumes_of(world, ref.source, class_.provisioner):
            found = chains.backing(world, volume)
            if value.storage_class != ref.name or found is None or found.dataset is None:
                continue
            dataset = world.dataset(found.dataset.source, found.dataset.name)
            if dataset is not None and dataset.kind == "FILESYSTEM":
                checked += 1
                if not dataset.quota_bytes:
                    without.append(volume.name)
        if without:
            yield warning(
                about,
                f"{len(without)} of its {checked} volumes have no quota, like {without[0]}",
                "set zfs.datasetEnableQuotas: true in the driver; without it an expansion changes nothing",
            )
        else:
            yield ok(about, f"it allows expansion, and its {checked} filesystem volumes have quotas")


def _snapshot_api(world: World) -> Iterator[Item]:
    for cluster in world.clusters:
        about = f"snapshot API ({cluster})"
        state = world.graph.completeness(cluster, Kind.VOLUME_SNAPSHOT)
        if state.absent:
            yield warning(
                about,
                "the VolumeSnapshot CRDs are not installed",
                "install the CRDs and the snapshot-controller, if volumes are to be snapshotted",
            )
        else:
            yield ok(about, "the VolumeSnapshot CRDs are installed")


def _snapshot_classes(world: World) -> Iterator[Item]:
    by_driver: dict[tuple[str, str], list[k8s.VolumeSnapshotClass]] = {}
    for ref in _all(world, Kind.VOLUME_SNAPSHOT_CLASS):
        value = value_of(world.node(ref), k8s.VolumeSnapshotClass)
        if value is not None:
            by_driver.setdefault((ref.source, value.driver), []).append(value)
    for cluster, driver in _drivers(world):
        about = f"VolumeSnapshotClasses of {driver} ({cluster})"
        if world.graph.completeness(cluster, Kind.VOLUME_SNAPSHOT_CLASS).absent:
            continue
        classes = by_driver.get((cluster, driver), [])
        defaults = [each.name for each in classes if each.is_default]
        if not classes:
            yield warning(
                about,
                "there is none",
                f"make one with driver: {driver}, if its volumes are to be snapshotted",
            )
        elif len(defaults) > 1:
            yield error(
                about,
                f"several are the default: {', '.join(defaults)}; a VolumeSnapshot without class then fails",
                "leave the annotation snapshot.storage.kubernetes.io/is-default-class on one",
            )
        else:
            kept = [each.name for each in classes if each.deletion_policy == "Retain"]
            note = f"; {', '.join(kept)} keep the ZFS snapshot when theirs is deleted" if kept else ""
            yield ok(about, f"{len(classes)} with {defaults[0] if defaults else 'none'} as default{note}")


def _static_volumes(world: World) -> Iterator[Item]:
    for cluster in world.clusters:
        risky = []
        for name, node in sorted(world.graph.nodes(cluster, Kind.PERSISTENT_VOLUME).items()):
            value = node.value
            if (
                isinstance(value, k8s.PersistentVolume)
                and value.csi is not None
                and world.is_our_driver(cluster, value.csi.driver)
                and value.reclaim_policy == "Delete"
                and not csi.is_provisioned(value)
            ):
                risky.append(name)
        about = f"PersistentVolumes made by hand ({cluster})"
        if risky:
            yield warning(
                about,
                f"{len(risky)} have reclaim policy Delete, like {risky[0]}: with the claim goes the dataset",
                'kubectl patch pv NAME -p \'{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}\'',
            )
        else:
            yield ok(about, "none has reclaim policy Delete")


# The NAS


def _target_groups(world: World) -> Iterator[Item]:
    for nas in world.nas_names:
        portals = {int(name) for name in world.graph.nodes(nas, Kind.ISCSI_PORTAL) if name.isdecimal()}
        groups = {int(name) for name in world.graph.nodes(nas, Kind.ISCSI_INITIATOR) if name.isdecimal()}
        broken: Counter[str] = Counter()
        for name, node in sorted(world.graph.nodes(nas, Kind.ISCSI_TARGET).items()):
            target = node.value
            if not isinstance(target, truenas.IscsiTarget):
                continue
            if not target.portals:
                broken[f"target {target.name or name} has no portal"] += 1
            for portal in set(target.portals) - portals:
                broken[f"portal {portal} does not exist, and targets name it"] += 1
            for group in set(target.initiator_groups) - groups:
                broken[f"initiator group {group} does not exist, and targets name it"] += 1
        about = f"iSCSI ({nas})"
        for what, count in sorted(broken.items()):
            yield error(
                about,
                f"{what} ({count})",
                "correct targetGroups in the driver's configuration, or the target",
            )
        if not broken:
            yield ok(about, "all portals and initiator groups that targets name exist")


def _transport(world: World) -> Iterator[Item]:
    for nas in world.settings.nas:
        about = f"connection to {nas.name}"
        for url in (nas.url, *nas.failover_urls):
            if url.startswith("ws://"):
                yield warning(
                    about, f"{url} is not encrypted", "use wss://; plain ws:// is for a lab on loopback"
                )
            else:
                yield ok(about, f"{url} is encrypted, and its certificate is verified")


def _keys(world: World) -> Iterator[Item]:
    for nas in world.settings.nas:
        about = f"user {nas.username} on {nas.name}"
        system = world.system(nas.name)
        if nas.password is not None:
            yield warning(
                about, "truetally logs in with a password", "make an API key; it can be taken back alone"
            )
        if system is not None and system.roles is not None and "FULL_ADMIN" in system.roles:
            yield warning(
                about,
                "it may do everything",
                "give it a user with READONLY_ADMIN; see `truetally doctor nas`",
            )
        elif system is not None and system.roles is not None:
            yield ok(about, f"its roles are {', '.join(system.roles)}")
        yield from _ends(world, nas.name, about)


def _ends(world: World, nas: str, about: str) -> Iterator[Item]:
    for name, node in sorted(world.graph.nodes(nas, Kind.API_KEY).items()):
        key = node.value
        if not isinstance(key, truenas.ApiKey) or key.expires_at is None:
            continue
        left = key.expires_at - world.now
        if left < _KEY_ENDS_SOON:
            yield warning(
                about,
                f"API key {key.name or name} ends on {key.expires_at:%Y-%m-%d}",
                "make a new one and put it where the configuration says; no restart is needed",
            )


_DATASETS = frozenset({Kind.POOL, Kind.DATASET})
_PROVISIONERS = frozenset({Kind.STORAGE_CLASS, Kind.PERSISTENT_VOLUME})

CHECKS: tuple[Check, ...] = (
    Check("parent-exists", "The parent datasets of all drivers", _DATASETS, _parents_exist),
    Check("parents-apart", "Each deployment has parents of its own", frozenset(), _parents_apart),
    Check("one-owner", "One deployment for each parent", _DATASETS, _one_owner),
    Check("name-length", "Paths are short enough for ZFS", frozenset(), _lengths),
    Check("pool-room", "The pools are there and have room", frozenset({Kind.POOL}), _room),
    Check(
        "service-running",
        "The services of the protocols run",
        frozenset({Kind.SERVICE}) | _PROVISIONERS,
        _services,
    ),
    Check("driver-version", "democratic-csi works with this TrueNAS", frozenset({Kind.SYSTEM}), _versions),
    Check(
        "driver-registered",
        "The CSI drivers are registered",
        frozenset({Kind.CSI_DRIVER, Kind.STORAGE_CLASS}),
        _registered,
    ),
    Check(
        "driver-on-nodes",
        "The CSI drivers run on every node",
        frozenset({Kind.CSI_NODE, Kind.NODE, Kind.STORAGE_CLASS}),
        _on_every_node,
    ),
    Check(
        "driver-configured", "truetally knows the driver of every StorageClass", _PROVISIONERS, _configured
    ),
    Check("one-default-class", "One default StorageClass", frozenset({Kind.STORAGE_CLASS}), _one_default),
    Check("fs-type", "fsType fits the protocol", _PROVISIONERS, _filesystems),
    Check("expansion", "Volumes that may grow have quotas", _PROVISIONERS | _DATASETS, _expansion),
    Check("snapshot-api", "The snapshot API is installed", frozenset({Kind.VOLUME_SNAPSHOT}), _snapshot_api),
    Check(
        "snapshot-classes",
        "The VolumeSnapshotClasses",
        frozenset({Kind.VOLUME_SNAPSHOT_CLASS, Kind.STORAGE_CLASS}),
        _snapshot_classes,
    ),
    Check(
        "static-volumes",
        "Volumes made by hand are not deleted by accident",
        frozenset({Kind.PERSISTENT_VOLUME}),
        _static_volumes,
    ),
    Check(
        "target-groups",
        "Portals and initiator groups exist",
        frozenset({Kind.ISCSI_TARGET, Kind.ISCSI_PORTAL, Kind.ISCSI_INITIATOR}),
        _target_groups,
    ),
    Check("nas-encrypted", "The NAS is spoken to over TLS", frozenset(), _transport),
    Check("nas-user", "The user and its key", frozenset({Kind.SYSTEM}), _keys),
)


def ids(checks: Iterable[Check] = CHECKS) -> list[str]:
    """The names of the checks."""
    return [check.id for check in checks]
