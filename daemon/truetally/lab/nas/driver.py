"""democratic-csi, as it acts on a NAS: what it makes, in which order, and what it leaves when it is stopped.

Facts of democratic-csi master 8a4a28a, for NVMe-oF of its branch `next`: a volume gets its
marks with the dataset, then its size, its share, the share's context and last
`provision_success`; deletion takes the share first and the dataset second. Over SSH none
of the dataset steps makes an event; shares always go over the API.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Literal

from truetally.lab.nas.failures import CallError
from truetally.lab.nas.jobs import jobs_of
from truetally.lab.nas.machine import Row
from truetally.lab.nas.server import LabNas
from truetally.lab.nas.tree import mountpoint
from truetally.lab.nas.zfs import Dataset

Protocol = Literal["nfs", "smb", "iscsi", "nvmeof"]
_PREFIX = "democratic-csi:"
_GIB = 1 << 30
_SOURCE_FOR_VOLUME = "volume-source-for-volume-"
_BLOCK = 16 * 1024
_ON_ZVOLS = ("iscsi", "nvmeof")


class Step(StrEnum):
    """After which step the driver stops; what is then left has a letter in the domain document."""

    SOURCE_SNAPSHOT = "source snapshot"
    REPLICATED = "replicated"  # state B: no marks, one snapshot inside
    DATASET = "dataset"  # state A: marked, no share
    SIZE = "size"
    TARGET = "target"  # state C: a target without extent, or a subsystem without namespace
    EXTENT = "extent"  # state C: both, not linked; or a namespace that no port shows
    SHARE = "share"  # state D: whole, without its context and success mark
    SHARE_CONTEXT = "share context"
    COMPLETE = "complete"
    SHARE_DELETED = "share deleted"  # of a deletion
    ORIGIN_DELETED = "origin deleted"  # of a deletion


class Driver:
    """One democratic-csi deployment: one parent dataset, one protocol.

    Args:
        protocol: `nvmeof` needs TrueNAS 25.10.
        over: `ssh` for the freenas-nfs family, `api` for freenas-api-nfs.
        deletes_snapshots: DeleteVolume destroys attached snapshots silently, as 1.9 does; by default all but
            NVMe-oF, which 1.9 does not know.
    """

    def __init__(
        self,
        nas: LabNas,
        parent: str = "tank/k8s/nfs/vols",
        snapshots_parent: str = "tank/k8s/nfs/snaps",
        protocol: Protocol = "nfs",
        name: str = "",
        instance_id: str | None = None,
        *,
        over: Literal["ssh", "api"] = "ssh",
        server: str = "127.0.0.1",
        deletes_snapshots: bool | None = None,
    ) -> None:
        self.nas = nas
        self.parent = parent
        self.snapshots_parent = snapshots_parent
        self.protocol: Protocol = protocol
        self.name = name or f"org.democratic-csi.{protocol}"
        self.instance_id = instance_id
        self.driver = f"freenas-api-{protocol}" if over == "api" else f"freenas-{protocol}"
        self._over_api = over == "api"
        self._server = server
        self._deletes_snapshots = protocol != "nvmeof" if deletes_snapshots is None else deletes_snapshots
        for each in (parent, snapshots_parent):
            if nas.zfs.find(each) is None:
                nas.zfs.create(each, parents=True)
        if protocol == "nvmeof" and not nas.machine.tables["nvmet.port"].rows:
            nas.call("nvmet.port.create", {"addr_trtype": "TCP", "addr_traddr": "0.0.0.0"})  # noqa: S104

    def dataset_of(self, handle: str) -> str:
        """The dataset of a volume."""
        return f"{self.parent}/{handle}"

    def snapshot_of(self, handle: str) -> str:
        """The ZFS snapshot of an attached handle, or the dataset of a detached one."""
        return f"{self.parent if '@' in handle else self.snapshots_parent}/{handle}"

    def create_volume(
        self,
        csi_name: str,
        size: int = _GIB,
        *,
        source: str | None = None,
        detached: bool = False,
        stop_after: Step = Step.COMPLETE,
    ) -> tuple[str, dict[str, str]]:
        """CreateVolume; its handle and attributes.

        Args:
            source: the handle of a snapshot or volume that it begins as.
            detached: replicate the source instead of cloning it.
            stop_after: leave what stands after this step, as a crash would.
        """
        for step in self._creation(csi_name, size, source, detached=detached):
            if step is stop_after:
                break
        return csi_name, self._attributes(csi_name)

    def create_many(
        self, csi_names: Iterable[str], size: int = _GIB, snapshots_per_volume: int = 0
    ) -> dict[str, dict[str, str]]:
        """Many whole volumes, each with CSI snapshots `snapshot-<name>-<n>`; attributes by handle."""
        made = dict(self.create_volume(name, size) for name in csi_names)
        for handle in made:
            for number in range(snapshots_per_volume):
                self.create_snapshot(handle, f"snapshot-{handle}-{number}")
        return made

    def restore(self, csi_name: str, snapshot_handle: str, size: int = _GIB) -> tuple[str, dict[str, str]]:
        """A volume from a snapshot."""
        return self.create_volume(csi_name, size, source=snapshot_handle)

    def clone(self, csi_name: str, volume_handle: str, size: int = _GIB) -> tuple[str, dict[str, str]]:
        """A volume from a volume."""
        return self.create_volume(csi_name, size, source=volume_handle)

    def delete_volume(self, handle: str, *, stop_after: Step = Step.COMPLETE) -> None:
        """DeleteVolume; CallError where ZFS refuses, with the share gone by then."""
        name = self.dataset_of(handle)
        dataset = self.nas.zfs.find(name)
        if dataset is None:
            return
        self._delete_share(dataset)
        if stop_after is Step.SHARE_DELETED:
            return
        self._delete_origin(dataset)
        if stop_after is not Step.ORIGIN_DELETED:
            self._refuse_snapshots(dataset)
            self._destroy(name, recursive=True)

    def _refuse_snapshots(self, dataset: Dataset) -> None:
        """`next` keeps a volume that has CSI snapshots; over SSH it takes every one for such (PR 565)."""
        if self._deletes_snapshots:
            return
        mark = f"{_PREFIX}managed_resource"
        if any(mark in taken.user or not self._over_api for taken in dataset.snapshots.values()):
            raise CallError("filesystem has dependent snapshots", errno.EBUSY)

    def create_snapshot(self, volume_handle: str, name: str, *, detached: bool = False) -> str:
        """CreateSnapshot; its handle. `detached` replicates it into a dataset of its own."""
        marks = {
            "managed_resource": "true",
            "csi_snapshot_name": name,
            "csi_snapshot_source_volume_id": volume_handle,
            "provision_success": "true",
        }
        if detached:
            return self._detached_snapshot(volume_handle, name, marks)
        self._take(self.dataset_of(volume_handle), name, _prefixed(marks))
        return f"{volume_handle}@{name}"

    def delete_snapshot(self, handle: str) -> None:
        """DeleteSnapshot; one with clones only goes when they go, and the driver says OK."""
        path = self.snapshot_of(handle)
        if "@" in handle:
            if self.nas.zfs.find_snapshot(path) is not None:
                self._delete_snapshot(path)
            return
        if self.nas.zfs.find(path) is None:
            return
        self._destroy(path, recursive=True)
        container = path.rpartition("/")[0]
        if not self.nas.zfs.dataset(container).children:
            self._destroy(container, recursive=False)

    def _creation(self, name: str, size: int, source: str | None, *, detached: bool) -> Iterator[Step]:
        path = self.dataset_of(name)
        marks = self._marks(name, source)
        origin = self._source_snapshot(name, source)
        if source is not None:
            yield Step.SOURCE_SNAPSHOT
        if origin is not None and detached:
            yield from self._replicate(origin, path, name)
            self._set(path, marks)
        elif origin is not None:
            self.nas.zfs.clone(origin, path, user=marks)
            if source is not None and "/" in source:
                self._delete_snapshot(origin)
        else:
            self._create(path, size, marks)
        yield Step.DATASET
        self._resize(path, size)
        yield Step.SIZE
        yield from self._share(path, name)
        yield Step.SHARE
        self._set(path, _prefixed({"csi_share_volume_context": self._context(name)}))
        yield Step.SHARE_CONTEXT
        self._set(path, _prefixed({"provision_success": "true"}))
        yield Step.COMPLETE

    def _context(self, name: str) -> str:
        """The attributes as the dataset remembers them, where numbers still are numbers."""
        told = self._attributes(name).items()
        shared: Row = {key: value for key, value in told if not key.startswith("provisioner_")}
        numbers = {key: int(shared[key]) for key in ("lun", "nsid") if key in shared}
        return json.dumps(shared | numbers, separators=(",", ":"))

    def _marks(self, name: str, source: str | None) -> dict[str, str]:
        marks = {
            "managed_resource": "true",
            "csi_volume_name": name,
            "volume_context_provisioner_driver": self.driver,
        }
        if self.instance_id is not None:
            marks["volume_context_provisioner_instance_id"] = self.instance_id
        if source is not None:
            kind = "snapshot" if "@" in source or "/" in source else "volume"
            marks |= {"csi_volume_content_source_type": kind, "csi_volume_content_source_id": source}
        return _prefixed(marks)

    def _source_snapshot(self, name: str, source: str | None) -> str | None:
        if source is None:
            return None
        if "@" in source:
            return self.snapshot_of(source)
        path = self.snapshot_of(source) if "/" in source else self.dataset_of(source)
        leaf = f"{_SOURCE_FOR_VOLUME}{name}"
        # A retry takes the snapshot that an earlier attempt left.
        if self.nas.zfs.find_snapshot(f"{path}@{leaf}") is None:
            self._take(path, leaf, {})
        return f"{path}@{leaf}"

    def _replicate(self, origin: str, path: str, name: str) -> Iterator[Step]:
        self._copy(origin, path)
        yield Step.REPLICATED
        for leaf in list(self.nas.zfs.dataset(path).snapshots):
            self.nas.zfs.destroy_snapshot(f"{path}@{leaf}")
        if origin.endswith(f"@{_SOURCE_FOR_VOLUME}{name}"):
            self._delete_snapshot(origin)

    def _copy(self, origin: str, path: str) -> None:
        """A full copy by replication without properties; no event is made of the dataset."""
        name, _, leaf = origin.partition("@")
        if not self._over_api:
            self.nas.zfs.receive(origin, path, properties=False)
            return
        task = {
            "direction": "PUSH",
            "transport": "LOCAL",
            "source_datasets": [name],
            "target_dataset": path,
            "name_regex": f"^{leaf}$",
            "recursive": False,
            "retention_policy": "NONE",
            "readonly": "IGNORE",
            "properties": False,
            "only_from_scratch": True,
        }
        number = self.nas.call("replication.run_onetime", task)
        job = jobs_of(self.nas.machine).finish(number)
        if job["state"] != "SUCCESS":
            raise CallError(str(job["error"]))

    def _create(self, path: str, size: int, marks: Mapping[str, str]) -> None:
        volsize = -(-size // _BLOCK) * _BLOCK if self.protocol in _ON_ZVOLS else 0
        if not self._over_api:
            self.nas.ssh.create_dataset(path, volsize=volsize, user=marks)
            return
        kind: Row = {"type": "FILESYSTEM"}
        if volsize:
            kind = {"type": "VOLUME", "volsize": volsize, "sparse": True, "refreservation": 0}
        properties = [{"key": key, "value": value} for key, value in marks.items()]
        self.nas.call("pool.dataset.create", {"name": path, "user_properties": properties, **kind})

    def _resize(self, path: str, size: int) -> None:
        what = "volsize" if self.protocol in _ON_ZVOLS else "refquota"
        rounded = -(-size // _BLOCK) * _BLOCK if self.protocol in _ON_ZVOLS else size
        if self._over_api:
            self.nas.call("pool.dataset.update", path, {what: rounded})
        else:
            setattr(self.nas.zfs.dataset(path), what, rounded)

    def _set(self, path: str, properties: Mapping[str, str | None]) -> None:
        if not self._over_api:
            self.nas.ssh.set(path, properties)
            return
        changes = [
            {"key": key, "remove": True} if value is None else {"key": key, "value": value}
            for key, value in properties.items()
        ]
        self.nas.call("pool.dataset.update", path, {"user_properties_update": changes})

    def _take(self, path: str, leaf: str, marks: Mapping[str, str]) -> None:
        if self._over_api:
            self._snapshot_call("create", {"dataset": path, "name": leaf, "properties": dict(marks)})
        else:
            self.nas.ssh.snapshot(f"{path}@{leaf}", user=marks)

    def _snapshot_call(self, what: str, *params: Any) -> Any:
        service = "zfs.snapshot" if self.nas.machine.old_engine else "pool.snapshot"
        return self.nas.call(f"{service}.{what}", *params)

    def _delete_snapshot(self, path: str) -> None:
        if self._over_api:
            self._snapshot_call("delete", path, {"defer": True})
        else:
            self.nas.ssh.destroy(path, defer=True)

    def _destroy(self, path: str, *, recursive: bool) -> None:
        if self._over_api:
            self.nas.call("pool.dataset.delete", path, {"recursive": recursive, "force": True})
        else:
            self.nas.ssh.destroy(path, recursive=recursive)

    def _detached_snapshot(self, volume: str, name: str, marks: Mapping[str, str]) -> str:
        leaf = f"volume-source-for-snapshot-{name}"
        self._take(self.dataset_of(volume), leaf, {})
        origin = f"{self.dataset_of(volume)}@{leaf}"
        path = f"{self.snapshots_parent}/{volume}/{name}"
        self._copy(origin, path)
        self._set(path, _prefixed(marks))
        self._delete_snapshot(f"{path}@{leaf}")
        self._delete_snapshot(origin)
        return f"{volume}/{name}"

    def _share(self, path: str, name: str) -> Iterator[Step]:
        if self.protocol in _ON_ZVOLS:
            chain = self._share_iscsi if self.protocol == "iscsi" else self._share_nvmeof
            yield from chain(path, name)
            return
        if self.protocol == "nfs":
            comment = f"democratic-csi ({self.name}): {path}"
            share = self.nas.call("sharing.nfs.create", {"path": mountpoint(path), "comment": comment})
        else:
            purpose = {} if self.nas.machine.old_engine else {"purpose": "LEGACY_SHARE"}
            data = {"name": name.lower(), "path": mountpoint(path), **purpose}
            share = self.nas.call("sharing.smb.create", data)
        self._set(path, _prefixed({f"freenas_{self.protocol}_share_id": str(share["id"])}))

    def _share_iscsi(self, path: str, name: str) -> Iterator[Step]:
        asset = name.lower()
        groups = [{"portal": 1, "initiator": 1, "authmethod": "NONE", "auth": None}]
        target = self.nas.call("iscsi.target.create", {"name": asset, "groups": groups})
        self._set(path, _prefixed({"freenas_iscsi_target_id": str(target["id"])}))
        yield Step.TARGET
        extent = self.nas.call("iscsi.extent.create", {"name": asset, "disk": f"zvol/{path}"})
        self._set(path, _prefixed({"freenas_iscsi_extent_id": str(extent["id"])}))
        yield Step.EXTENT
        ends = {"target": target["id"], "extent": extent["id"], "lunid": 0}
        link = self.nas.call("iscsi.targetextent.create", ends)
        self._set(path, _prefixed({"freenas_iscsi_targettoextent_id": str(link["id"])}))
        self._set(path, _prefixed({"freenas_iscsi_assets_name": asset}))

    def _share_nvmeof(self, path: str, name: str) -> Iterator[Step]:
        asset = name.lower()
        subsys = self.nas.call("nvmet.subsys.create", {"name": asset, "allow_any_host": True})
        self._set(path, _prefixed({"freenas_nvmeof_subsystem_id": str(subsys["id"])}))
        yield Step.TARGET
        device = {"device_type": "ZVOL", "device_path": f"zvol/{path}", "subsys_id": subsys["id"]}
        namespace = self.nas.call("nvmet.namespace.create", device)
        self._set(path, _prefixed({"freenas_nvmeof_namespace_id": str(namespace["id"])}))
        yield Step.EXTENT
        for port in list(self.nas.machine.tables["nvmet.port"].rows):
            self.nas.call("nvmet.port_subsys.create", {"port_id": port, "subsys_id": subsys["id"]})
        self._set(path, _prefixed({"freenas_nvmeof_assets_name": asset}))

    def _delete_nvmeof(self, dataset: Dataset) -> None:
        """Delete namespace and subsystem by their ids, whatever they are by now."""
        for kind, mark, options in (
            ("nvmet.namespace", "freenas_nvmeof_namespace_id", {}),
            ("nvmet.subsys", "freenas_nvmeof_subsystem_id", {"force": True}),
        ):
            number = dataset.user.get(_PREFIX + mark)
            if number is None:
                continue
            if int(number) in self.nas.machine.tables[kind].rows:
                self.nas.call(f"{kind}.delete", int(number), options)
            self._set(dataset.name, {_PREFIX + mark: None})

    def _delete_share(self, dataset: Dataset) -> None:
        """Delete what the properties name, if it still is what it was; then drop the property."""
        if self.protocol == "nvmeof":
            self._delete_nvmeof(dataset)
            return
        if self.protocol == "iscsi":
            asset = dataset.user.get(f"{_PREFIX}freenas_iscsi_assets_name", dataset.name.rpartition("/")[2])
            for kind in ("target", "extent"):
                self._delete_named(dataset, f"iscsi.{kind}", f"freenas_iscsi_{kind}_id", "name", asset)
            return
        kind = f"sharing.{self.protocol}"
        mark = f"freenas_{self.protocol}_share_id"
        self._delete_named(dataset, kind, mark, "path", mountpoint(dataset.name))

    def _delete_named(self, dataset: Dataset, kind: str, mark: str, key: str, expected: str) -> None:
        number = dataset.user.get(_PREFIX + mark)
        if number is None:
            return
        row: Row | None = self.nas.machine.tables[kind].rows.get(int(number))
        if row is not None and row[key] == expected:
            self.nas.call(f"{kind}.delete", row["id"])
        self._set(dataset.name, {_PREFIX + mark: None})

    def _delete_origin(self, dataset: Dataset) -> None:
        if f"@{_SOURCE_FOR_VOLUME}" not in dataset.origin:
            return
        self._delete_snapshot(dataset.origin)

    def _attributes(self, name: str) -> dict[str, str]:
        path = self.dataset_of(name)
        attributes: dict[str, str] = {"node_attach_driver": self.protocol}
        if self.protocol == "iscsi":
            attributes |= {
                "portal": f"{self._server}:3260",
                "portals": "",
                "interface": "",
                "iqn": f"{self.nas.machine.basename}:{name.lower()}",
                "lun": "0",
            }
        elif self.protocol == "nvmeof":
            attributes |= self._nvmeof_attributes(name.lower())
        else:
            share = mountpoint(path) if self.protocol == "nfs" else name.lower()
            attributes |= {"server": self._server, "share": share}
        attributes["provisioner_driver"] = self.driver
        if self.instance_id is not None:
            attributes["provisioner_driver_instance_id"] = self.instance_id
        return attributes

    def _nvmeof_attributes(self, asset: str) -> dict[str, str]:
        """Where the namespace is; before there is one, what its subsystem is going to be called."""
        tables = self.nas.machine.tables
        named = tables["nvmet.subsys"].where("name", asset)
        base = self.nas.call("nvmet.global.config")["basenqn"]
        shown = tables["nvmet.namespace"].where("subsys_id", named[0]["id"]) if named else []
        return {
            "transport": f"tcp://{self._server}:4420",
            "transports": "",
            "nqn": named[0]["subnqn"] if named else f"{base}:{asset}",
            "nsid": str(shown[0]["nsid"] if shown else 1),
        }


def _prefixed(marks: Mapping[str, str]) -> dict[str, str]:
    return {f"{_PREFIX}{key}": value for key, value in marks.items()}
