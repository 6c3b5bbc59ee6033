"""The lab's world: a cluster, a NAS and democratic-csi between them, and what people do with volumes.

Each deed changes both sides in the order in which the real controllers would: the driver makes
the dataset first and its PersistentVolume comes a little later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from truetally.lab.cluster import LabCluster, objects
from truetally.lab.nas import LabNas
from truetally.lab.nas.driver import Driver
from truetally.model.refs import Kind

Manifest = dict[str, Any]

DRIVER = "org.democratic-csi.nfs"
PARENT = "tank/k8s/nfs/vols"
SNAPSHOTS_PARENT = "tank/k8s/nfs/snaps"
INSTANCE = "lab"
GIB = 1 << 30

# The same names in every lab, so that what the README shows is what a person sees.
_NAMES = UUID("7d1f5e0a-5c1b-4b62-9d3e-0c5f2a6b7c8d")
_NODES = ("node-1", "node-2", "node-3")


@dataclass(frozen=True, slots=True)
class Volume:
    """A provisioned volume: what each side calls it."""

    namespace: str
    claim: str
    name: str
    handle: str

    @property
    def dataset(self) -> str:
        """Its dataset on the NAS."""
        return f"{PARENT}/{self.handle}"


class LabWorld:
    """One cluster and one NAS, and the deeds that a story is made of."""

    def __init__(self, now: Callable[[], datetime], version: str = "25.10") -> None:
        self._now = now
        self.nas = LabNas(version, now=now)
        self.nas.zfs.create_pool("tank")
        self.cluster = LabCluster(now, snapshot_crds=True)
        self.driver = Driver(
            self.nas,
            parent=PARENT,
            snapshots_parent=SNAPSHOTS_PARENT,
            protocol="nfs",
            name=DRIVER,
            instance_id=INSTANCE,
        )

    def furnish(self) -> None:
        """What stands before the first claim: nodes, the driver, classes, namespaces."""
        put = self.cluster.apply
        for node in _NODES:
            put(objects.node(node))
            put(objects.csi_node(node, [DRIVER]))
        put(objects.csi_driver(DRIVER))
        put(objects.storage_class("truenas-nfs", DRIVER, default=True))
        put(objects.snapshot_class("truenas-nfs", DRIVER))
        for namespace in ("default", "shop", "load"):
            put(objects.namespace(namespace))

    def populate(self, volumes: int, snapshots_per_volume: int) -> None:
        """Many whole volumes at once, each with a claim, and periodic snapshots that nobody made by CSI."""
        claims = [self._claim("load", f"data-{n}") for n in range(volumes)]
        names = [f"pvc-{claim['metadata']['uid']}" for claim in claims]
        for claim, name in zip(claims, names, strict=True):
            handle, attributes = self.driver.create_volume(name, GIB)
            volume = self._bind(claim, handle, attributes)
            for number in range(snapshots_per_volume):
                self.nas.ssh.snapshot(f"{volume.dataset}@auto-{number}")

    def provision(self, namespace: str, name: str) -> Volume:
        """A claim is made, and democratic-csi provisions and binds its volume."""
        claim = self._claim(namespace, name)
        handle, attributes = self.driver.create_volume(f"pvc-{claim['metadata']['uid']}", GIB)
        return self._bind(claim, handle, attributes)

    def use(self, volume: Volume, pod: str) -> None:
        """A pod mounts the claim."""
        node = _NODES[0]
        manifest = self._existing(Kind.PERSISTENT_VOLUME, volume.name)
        self.cluster.apply(objects.attachment(manifest, node))
        self.cluster.apply(objects.pod(volume.namespace, pod, [volume.claim], node=node))

    def snapshot(self, volume: Volume, name: str) -> str:
        """A VolumeSnapshot is taken; returns its handle."""
        uid, taken_at = _uid("snapshot", volume.namespace, name), self._now()
        snapshot = objects.snapshot(
            volume.namespace, name, volume.claim, "truenas-nfs", uid=uid, taken_at=taken_at
        )
        self.cluster.apply(snapshot)
        handle = self.driver.create_snapshot(volume.handle, f"snapshot-{uid}")
        manifest = self._existing(Kind.PERSISTENT_VOLUME, volume.name)
        self.cluster.apply(objects.snapshot_content(snapshot, manifest, handle=handle, taken_at=taken_at))
        return handle

    def drop_snapshot(self, volume: Volume, name: str, handle: str) -> None:
        """The VolumeSnapshot is deleted, and its ZFS snapshot with it."""
        uid = _uid("snapshot", volume.namespace, name)
        self.driver.delete_snapshot(handle)
        self.cluster.delete(Kind.VOLUME_SNAPSHOT_CONTENT, f"snapcontent-{uid}")
        self.cluster.delete(Kind.VOLUME_SNAPSHOT, name, volume.namespace)

    def stop_using(self, volume: Volume, pod: str) -> None:
        """The pod goes, and its attachment with it."""
        manifest = self._existing(Kind.PERSISTENT_VOLUME, volume.name)
        self.cluster.delete(Kind.POD, pod, volume.namespace)
        self.cluster.delete(
            Kind.VOLUME_ATTACHMENT, objects.attachment(manifest, _NODES[0])["metadata"]["name"]
        )

    def lose(self, volume: Volume) -> None:
        """Somebody removes finalizers and force-deletes claim and volume: the driver is never asked."""
        self.cluster.delete(Kind.PERSISTENT_VOLUME_CLAIM, volume.claim, volume.namespace)
        self.cluster.delete(Kind.PERSISTENT_VOLUME, volume.name)

    def clean_up(self, volume: Volume) -> None:
        """An administrator removes share and dataset on the NAS, in the driver's order."""
        self.driver.delete_volume(volume.handle)

    def _claim(self, namespace: str, name: str) -> Manifest:
        uid = _uid("claim", namespace, name)
        return self.cluster.apply(
            objects.claim(namespace, name, "truenas-nfs", uid=uid, driver=DRIVER, size="1Gi")
        )

    def _bind(self, claim: Manifest, handle: str, attributes: dict[str, str]) -> Volume:
        volume = self.cluster.apply(objects.volume(claim, attributes, driver=DRIVER, handle=handle))
        self.cluster.apply(objects.bound(claim, volume))
        metadata = claim["metadata"]
        return Volume(metadata["namespace"], metadata["name"], volume["metadata"]["name"], handle)

    def _existing(self, kind: Kind, name: str) -> Manifest:
        found = self.cluster.get(kind, name)
        if found is None:
            raise LookupError(f"the lab has no {kind.value} {name}")
        return found


def _uid(*words: str) -> str:
    return str(uuid5(_NAMES, "/".join(words)))
