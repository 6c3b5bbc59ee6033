"""Which keys an object answers to: two objects that share a key may belong together.

A key finds candidates and is deliberately generous: it protects. Whether a candidate
really matches, and how strong the proof is, is decided where the question is asked
(`chains.py`), because only an exact match may ever accuse.

    p:<dataset path>    datasets, shares, extents, namespaces, and volumes and clients that mount that path
    h:<handle>          datasets by name, volumes by handle and name, contents by their source
    u:<uuid>            the claim or VolumeSnapshot that a CSI name was made from, and what has it in its name
    t:<target>          iSCSI targets, their sessions, volumes by IQN
    m:<share>           SMB shares, their clients and volumes by share name
    i:<nas>/t|x/<id>    targets, extents and the links between them
    q:<nqn>             NVMe-oF subsystems and volumes by NQN
    n:<nas>/<id>        NVMe-oF subsystems, their namespaces and sessions
    a:<asset>           zvols that remember their target's or subsystem's name, volumes by that in IQN or NQN
    v:<cluster>/<name>  volumes, claims bound to them, attachments
    c:<cluster>/<claim> claims, volumes reserved for them, pods, snapshots taken of them
    s:<handle>          snapshots by CSI handle: `volume@name`, or `volume/name` when detached
    k:<cluster>/<name>  VolumeSnapshotContents and the VolumeSnapshots bound to them
    e:<cluster>/<uid>   events about an object

A key in capitals points one way: it is asked for by the object it names, and is no kinship.

    D:<nas>/<path>      the snapshots of a dataset
    O:<nas>/<path>      the clones of a dataset's snapshots
    N:<nas>/<path>      the children of a dataset
    T:<nas>/<path>      the snapshot and replication tasks that name a dataset
    F:<handle>          volumes made from the content of this volume
    C:<cluster>/<claim> claims made from this claim
    W:<dataset path>    what mounts, exports or keeps something somewhere below that path
    A:<cluster>/<Kind>/<name>  the attachments to a node, or by a CSI driver
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from truetally.csi import democratic_csi as csi
from truetally.model import kubernetes as k8s
from truetally.model import truenas as nas
from truetally.model.observations import Value
from truetally.model.refs import Kind, Ref


def keys_of(ref: Ref, value: Value) -> tuple[str, ...]:
    """All keys of an object, without repetition."""
    make = _KEYS.get(type(value))
    return tuple(dict.fromkeys(make(ref.source, value))) if make else ()


def is_kinship(key: str) -> bool:
    """Whether sharing the key makes two objects candidates of one volume chain."""
    return key[0].islower()


def pointed_at(key: str) -> Ref | None:
    """The dataset that a one-way key names together with its NAS."""
    if key[0] not in "DOT":
        return None
    source, _, path = key[2:].partition("/")
    return Ref(source, Kind.DATASET, path)


def pointing_at(ref: Ref) -> str | None:
    """The one-way key by which others name this object without being kin to each other."""
    if ref.kind not in (Kind.NODE, Kind.CSI_DRIVER):
        return None
    return f"A:{ref.source}/{ref.kind.value}/{ref.name}"


def _persistent_volume(source: str, volume: k8s.PersistentVolume) -> Iterator[str]:
    yield f"v:{source}/{volume.name}"
    yield from _by_name(volume.name)
    if volume.claim is not None:
        yield f"c:{source}/{volume.claim.namespace}/{volume.claim.name}"
    if volume.csi is not None:
        yield from _by_name(volume.csi.volume_handle)
        yield from _by_name(volume.csi.volume_handle.rpartition("/")[2])
        yield from _hints(volume.csi.attributes)
    if (backend := csi.backend(volume)) is not None:
        yield from _backend(backend)


def _by_name(name: str) -> Iterator[str]:
    yield f"h:{name}"
    if uuid := csi.uuid_in(name):
        yield f"u:{uuid}"


def _backend(backend: csi.Backend) -> Iterator[str]:
    if backend.path:
        yield from _mounted(backend.path)
    if backend.iqn:
        yield from _called(backend.iqn)
    if backend.share:
        yield f"m:{backend.share}"
    if backend.nqn:
        yield f"q:{backend.nqn}"
    for asset in (backend.share, csi.asset_of_nqn(backend.nqn)):
        yield from _by_asset(asset)


def _by_asset(asset: str) -> Iterator[str]:
    """A volume is meant by the name of its target, share or subsystem too, when that is gone."""
    if asset:
        yield f"a:{asset}"
        yield from _named(asset)


def _called(iqn: str) -> Iterator[str]:
    yield from _iqn(iqn)
    for name in csi.targets_of_iqn(iqn):
        yield from _by_asset(name)


def _iqn(iqn: str) -> Iterator[str]:
    return (f"t:{name}" for name in csi.targets_of_iqn(iqn))


_HINTED = {"target": "t", "share": "m", "subsystem": "q"}


def _hints(attributes: Mapping[str, str]) -> Iterator[str]:
    for what, value in csi.hints(attributes):
        if what == "path" and value:
            yield from _mounted(value)
        elif value:
            yield f"{_HINTED[what]}:{value}"
            yield from _by_asset(csi.asset_of_nqn(value) if what == "subsystem" else value)


def _mounted(path: str) -> Iterator[str]:
    """A mount may be of a directory inside a dataset, so every dataset above it is in use as well."""
    yield f"p:{path}"
    while "/" in (path := path.rpartition("/")[0]):
        yield f"W:{path}"


def _claim(source: str, claim: k8s.PersistentVolumeClaim) -> Iterator[str]:
    yield f"c:{source}/{claim.namespace}/{claim.name}"
    yield f"u:{claim.uid.lower()}"
    yield f"e:{source}/{claim.uid}"
    if claim.volume_name:
        yield f"v:{source}/{claim.volume_name}"
        yield f"h:{claim.volume_name}"
    kind, _, name = claim.data_source.partition("/")
    if kind == "PersistentVolumeClaim":
        yield f"C:{source}/{claim.namespace}/{name}"


def _pod(source: str, pod: k8s.Pod) -> Iterator[str]:
    for claim in pod.claims:
        yield f"c:{source}/{pod.namespace}/{claim}"
    for nfs in pod.nfs:
        yield from _mounted(csi.dataset_of_mount(nfs.path))
    for iscsi in pod.iscsi:
        yield from _called(iscsi.iqn)
    for inline in pod.csi:
        yield from _hints(inline.attributes)


def _attachment(source: str, attachment: k8s.VolumeAttachment) -> Iterator[str]:
    yield f"v:{source}/{attachment.volume_name}"
    yield f"A:{source}/{Kind.NODE.value}/{attachment.node}"
    yield f"A:{source}/{Kind.CSI_DRIVER.value}/{attachment.attacher}"


def _volume_snapshot(source: str, snapshot: k8s.VolumeSnapshot) -> Iterator[str]:
    yield f"u:{snapshot.uid.lower()}"
    if snapshot.source_claim:
        yield f"c:{source}/{snapshot.namespace}/{snapshot.source_claim}"
    for content in (snapshot.bound_content, snapshot.source_content):
        if content:
            yield f"k:{source}/{content}"


def _content(source: str, content: k8s.VolumeSnapshotContent) -> Iterator[str]:
    yield f"k:{source}/{content.name}"
    if content.snapshot_uid:
        yield f"u:{content.snapshot_uid.lower()}"
    if content.source_volume_handle:
        yield f"h:{content.source_volume_handle}"
    for handle in (content.snapshot_handle, content.source_snapshot_handle):
        if handle:
            yield f"s:{handle}"
            yield f"h:{csi.split_snapshot_handle(handle)[0]}"


def _event(source: str, event: k8s.Event) -> Iterator[str]:
    yield f"e:{source}/{event.about_uid}"


def _dataset(source: str, dataset: nas.Dataset) -> Iterator[str]:
    yield f"p:{dataset.path}"
    yield f"N:{source}/{dataset.parent}"
    if dataset.mountpoint:
        yield f"p:{csi.dataset_of_mount(dataset.mountpoint)}"
    yield from _by_name(dataset.leaf)
    grandparent, _, parent = dataset.parent.rpartition("/")
    if grandparent and csi.SNAPSHOT_NAME in dataset.user_properties:
        yield f"s:{parent}/{dataset.leaf}"
    if (name := dataset.user_properties.get(csi.VOLUME_NAME)) is not None:
        yield from _by_name(name.value)
    for remembered in (csi.ISCSI_NAME, csi.NVMEOF_NAME):
        if (asset := dataset.user_properties.get(remembered)) is not None:
            yield f"a:{asset.value.lower()}"
    if dataset.origin:
        yield f"O:{source}/{dataset.origin.partition('@')[0]}"
    if (content_source := dataset.user_properties.get(csi.SOURCE_ID)) is not None:
        yield f"F:{csi.split_snapshot_handle(content_source.value)[0] or content_source.value}"


def _snapshot(source: str, snapshot: nas.Snapshot) -> Iterator[str]:
    yield f"D:{source}/{snapshot.dataset}"
    yield f"s:{snapshot.dataset.rpartition('/')[2]}@{snapshot.name}"
    if uuid := csi.uuid_in(snapshot.name):
        yield f"u:{uuid}"


def _exported(path: str, name: str = "") -> Iterator[str]:
    """What leads to a volume is found by the volume's name too: its dataset may be gone."""
    yield f"h:{path.rpartition('/')[2]}"
    for uuid in csi.uuids_in(f"{path.rpartition('/')[2]} {name}"):
        yield f"u:{uuid}"


def _nfs_share(_source: str, share: nas.NfsShare) -> Iterator[str]:
    path = csi.dataset_of_mount(share.path)
    yield f"p:{path}"
    yield from _exported(path)


def _smb_share(_source: str, share: nas.SmbShare) -> Iterator[str]:
    path = csi.dataset_of_mount(share.path)
    yield from _mounted(path)
    yield f"m:{share.name.lower()}"
    yield from _exported(path, share.name)


def _target(source: str, target: nas.IscsiTarget) -> Iterator[str]:
    yield f"t:{target.name.lower()}"
    yield f"i:{source}/t/{target.id}"
    yield from _named(target.name)


def _named(asset: str) -> Iterator[str]:
    if name := csi.volume_name_in(asset):
        yield from _by_name(name)


def _extent(source: str, extent: nas.IscsiExtent) -> Iterator[str]:
    # A FILE extent is a file somewhere inside a dataset.
    yield from _mounted(csi.dataset_of_mount(extent.disk))
    yield f"i:{source}/x/{extent.id}"
    yield from _exported(csi.dataset_of_mount(extent.disk), extent.name)


def _target_extent(source: str, link: nas.IscsiTargetExtent) -> Iterator[str]:
    yield f"i:{source}/t/{link.target}"
    yield f"i:{source}/x/{link.extent}"


def _session(_source: str, session: nas.IscsiSession) -> Iterator[str]:
    yield from _iqn(session.target)


def _subsystem(source: str, subsystem: nas.NvmeSubsystem) -> Iterator[str]:
    if subsystem.nqn:
        yield f"q:{csi.subsystem_of_nqn(subsystem.nqn)}"
    yield f"n:{source}/{subsystem.id}"
    yield from _named(subsystem.name)


def _namespace(source: str, namespace: nas.NvmeNamespace) -> Iterator[str]:
    path = path_of_namespace(namespace)
    yield from _mounted(path)
    yield from _exported(path)
    yield f"n:{source}/{namespace.subsystem}"


def path_of_namespace(namespace: nas.NvmeNamespace) -> str:
    """The path of the zvol, or of the file without `/mnt/`."""
    if namespace.type == "FILE":
        return csi.dataset_of_mount(namespace.device)
    return csi.dataset_of_device(namespace.device)


def _nvme_session(source: str, session: nas.NvmeSession) -> Iterator[str]:
    yield f"n:{source}/{session.subsystem}"


def _nfs_client(_source: str, client: nas.NfsClient) -> Iterator[str]:
    if client.export:
        yield from _mounted(csi.dataset_of_mount(client.export))
    for file in client.files:
        if file.startswith("/mnt/"):
            yield from _mounted(csi.dataset_of_mount(file))


def _smb_client(_source: str, client: nas.SmbClient) -> Iterator[str]:
    yield f"m:{client.share.lower()}"


def _snapshot_task(source: str, task: nas.SnapshotTask) -> Iterator[str]:
    yield f"T:{source}/{task.dataset}"


def _replication_task(source: str, task: nas.ReplicationTask) -> Iterator[str]:
    """Only the paths on this NAS; where the direction does not tell, all of them."""
    local = task.transport in ("", "LOCAL")
    if local or task.direction != "PULL":
        for path in task.sources:
            yield f"T:{source}/{path}"
    if local or task.direction != "PUSH":
        yield f"T:{source}/{task.target}"


def _use(_source: str, _value: nas.DatasetUse) -> Iterable[str]:
    return ()


_KEYS: dict[type, Callable[[str, Any], Iterable[str]]] = {
    k8s.PersistentVolume: _persistent_volume,
    k8s.PersistentVolumeClaim: _claim,
    k8s.Pod: _pod,
    k8s.VolumeAttachment: _attachment,
    k8s.VolumeSnapshot: _volume_snapshot,
    k8s.VolumeSnapshotContent: _content,
    k8s.Event: _event,
    nas.Dataset: _dataset,
    nas.Snapshot: _snapshot,
    nas.NfsShare: _nfs_share,
    nas.SmbShare: _smb_share,
    nas.IscsiTarget: _target,
    nas.IscsiExtent: _extent,
    nas.IscsiTargetExtent: _target_extent,
    nas.IscsiSession: _session,
    nas.NvmeSubsystem: _subsystem,
    nas.NvmeNamespace: _namespace,
    nas.NvmeSession: _nvme_session,
    nas.NfsClient: _nfs_client,
    nas.SmbClient: _smb_client,
    nas.SnapshotTask: _snapshot_task,
    nas.ReplicationTask: _replication_task,
    nas.DatasetUse: _use,
}
