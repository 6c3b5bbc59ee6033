"""Objects as a cluster with democratic-csi has them.

What the API's own controllers and the CSI sidecars add is there: finalizers,
annotations and the names they make up (external-provisioner 3.6, external-snapshotter
8.2, democratic-csi 1.9). What only the apiserver adds (uid, age, resourceVersion) is
left to it, except where a name is made from an uid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from truetally.lab.cluster.resources import RESOURCES
from truetally.lab.cluster.store import Manifest, timestamp
from truetally.model.refs import Kind

DRIVER_NFS = "org.democratic-csi.nfs"
DRIVER_ISCSI = "org.democratic-csi.iscsi"

# external-provisioner names itself by its start in milliseconds, a random number and the driver.
_PROVISIONER_STARTED = "1763970000000-8081"

_NODE_INFO = {
    "architecture": "amd64",
    "bootID": "",
    "containerRuntimeVersion": "containerd://2.1.4",
    "kernelVersion": "6.1.0",
    "kubeProxyVersion": "",
    "kubeletVersion": "v1.34.4",
    "machineID": "",
    "operatingSystem": "linux",
    "osImage": "Debian GNU/Linux 12 (bookworm)",
    "systemUUID": "",
}


def namespace(name: str) -> Manifest:
    """A Namespace."""
    return _object(
        Kind.NAMESPACE,
        name,
        labels={"kubernetes.io/metadata.name": name},
        spec={"finalizers": ["kubernetes"]},
        status={"phase": "Active"},
    )


def node(name: str, *, ready: bool = True, unschedulable: bool = False) -> Manifest:
    """A Node."""
    reason = "KubeletReady" if ready else "NodeStatusUnknown"
    condition = {"type": "Ready", "status": "True" if ready else "Unknown", "reason": reason}
    return _object(
        Kind.NODE,
        name,
        labels={"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"},
        spec={"unschedulable": True} if unschedulable else {},
        status={"conditions": [condition], "nodeInfo": _NODE_INFO},
    )


def csi_node(name: str, drivers: Iterable[str]) -> Manifest:
    """The CSINode of a node: the drivers whose node plugin has registered there."""
    registered = [{"name": driver, "nodeID": name, "topologyKeys": None} for driver in drivers]
    return _object(Kind.CSI_NODE, name, spec={"drivers": registered})


def csi_driver(name: str) -> Manifest:
    """A CSIDriver; the democratic-csi chart asks for attachment even where nothing gets attached."""
    return _object(Kind.CSI_DRIVER, name, spec={"attachRequired": True, "podInfoOnMount": True})


def storage_class(
    name: str,
    driver: str,
    *,
    reclaim_policy: str = "Delete",
    binding_mode: str = "Immediate",
    parameters: Mapping[str, str] | None = None,
    default: bool = False,
) -> Manifest:
    """A StorageClass."""
    return _object(
        Kind.STORAGE_CLASS,
        name,
        annotations={"storageclass.kubernetes.io/is-default-class": "true"} if default else None,
        labels={"app.kubernetes.io/name": "democratic-csi", "app.kubernetes.io/managed-by": "Helm"},
        provisioner=driver,
        reclaimPolicy=reclaim_policy,
        allowVolumeExpansion=True,
        volumeBindingMode=binding_mode,
        parameters=dict(parameters or {}),
    )


def claim(
    namespace: str,
    name: str,
    storage_class: str,
    *,
    uid: str = "",
    driver: str = DRIVER_NFS,
    volume_name: str = "",
    size: str = "10Gi",
    access_modes: Sequence[str] = ("ReadWriteOnce",),
    data_source: Mapping[str, str] | None = None,
) -> Manifest:
    """A PersistentVolumeClaim: Bound if it has a volume, Pending without one."""
    annotations = {
        "volume.beta.kubernetes.io/storage-provisioner": driver,
        "volume.kubernetes.io/storage-provisioner": driver,
    }
    spec: Manifest = {
        "accessModes": list(access_modes),
        "resources": {"requests": {"storage": size}},
        "storageClassName": storage_class,
        "volumeMode": "Filesystem",
    }
    status: Manifest = {"phase": "Pending"}
    if data_source:
        spec["dataSource"] = dict(data_source)
    if volume_name:
        annotations |= {
            "pv.kubernetes.io/bind-completed": "yes",
            "pv.kubernetes.io/bound-by-controller": "yes",
        }
        spec["volumeName"] = volume_name
        status = {
            "phase": "Bound",
            "accessModes": list(access_modes),
            "capacity": {"storage": size},
        }
    return _object(
        Kind.PERSISTENT_VOLUME_CLAIM,
        name,
        namespace=namespace,
        uid=uid,
        annotations=annotations,
        finalizers=["kubernetes.io/pvc-protection"],
        spec=spec,
        status=status,
    )


def bound(claim: Manifest, volume: Manifest) -> Manifest:
    """The claim after Kubernetes has bound it to the volume."""
    metadata, spec = claim["metadata"], claim["spec"]
    done = {"pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes"}
    annotations = metadata.get("annotations", {}) | done
    return claim | {
        "metadata": metadata | {"annotations": annotations},
        "spec": spec | {"volumeName": volume["metadata"]["name"]},
        "status": {
            "phase": "Bound",
            "accessModes": spec["accessModes"],
            "capacity": volume["spec"]["capacity"],
        },
    }


def nfs_attributes(server: str, share: str, *, instance_id: str = "") -> dict[str, str]:
    """The volume attributes that `freenas-api-nfs` answers with; `share` is a path on the NAS."""
    attributes = {
        "node_attach_driver": "nfs",
        "provisioner_driver": "freenas-api-nfs",
        "server": server,
        "share": share,
    }
    return _with_instance(attributes, instance_id)


def iscsi_attributes(portal: str, iqn: str, *, lun: int = 0, instance_id: str = "") -> dict[str, str]:
    """The volume attributes that `freenas-api-iscsi` answers with."""
    attributes = {
        "interface": "",
        "iqn": iqn,
        "lun": str(lun),
        "node_attach_driver": "iscsi",
        "portal": portal,
        "portals": "",
        "provisioner_driver": "freenas-api-iscsi",
    }
    return _with_instance(attributes, instance_id)


def volume(
    claim: Manifest,
    attributes: Mapping[str, str],
    *,
    driver: str = DRIVER_NFS,
    fs_type: str = "nfs",
    handle: str = "",
    reclaim_policy: str = "Delete",
    phase: str = "Bound",
) -> Manifest:
    """The PersistentVolume that external-provisioner makes for a claim, which must have its uid."""
    metadata, spec = claim["metadata"], claim["spec"]
    name = f"pvc-{metadata['uid']}"
    identity = {"storage.kubernetes.io/csiProvisionerIdentity": f"{_PROVISIONER_STARTED}-{driver}"}
    return _object(
        Kind.PERSISTENT_VOLUME,
        name,
        annotations={
            "pv.kubernetes.io/provisioned-by": driver,
            "volume.kubernetes.io/provisioner-deletion-secret-name": "",
            "volume.kubernetes.io/provisioner-deletion-secret-namespace": "",
        },
        finalizers=[
            "kubernetes.io/pv-protection",
            "external-provisioner.volume.kubernetes.io/finalizer",
        ],
        spec={
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": reclaim_policy,
            "storageClassName": spec["storageClassName"],
            "volumeMode": "Filesystem",
            "claimRef": _reference(claim),
            "csi": {
                "driver": driver,
                "fsType": fs_type,
                "volumeHandle": handle or name,
                "volumeAttributes": dict(attributes) | identity,
            },
        },
        status={"phase": phase},
    )


def attachment(volume: Manifest, node: str, *, attached: bool = True) -> Manifest:
    """The VolumeAttachment of a CSI volume and a node, by the name that Kubernetes derives for it."""
    csi = volume["spec"]["csi"]
    digest = hashlib.sha256(f"{csi['volumeHandle']}{csi['driver']}{node}".encode()).hexdigest()
    return _object(
        Kind.VOLUME_ATTACHMENT,
        f"csi-{digest}",
        spec={
            "attacher": csi["driver"],
            "nodeName": node,
            "source": {"persistentVolumeName": volume["metadata"]["name"]},
        },
        status={"attached": attached},
    )


def pod(
    namespace: str,
    name: str,
    claims: Sequence[str],
    *,
    node: str = "",
    phase: str = "Running",
    uid: str = "",
) -> Manifest:
    """A Pod that mounts claims of its namespace."""
    volumes: list[Manifest] = [
        {"name": f"data-{n}", "persistentVolumeClaim": {"claimName": claim}} for n, claim in enumerate(claims)
    ]
    mounts = [{"name": v["name"], "mountPath": f"/{v['name']}"} for v in volumes]
    # Every pod has the token volume too: a reader must pass over kinds of volumes it doesn't know.
    token = {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}
    volumes.append({"name": "kube-api-access", "projected": {"sources": [token], "defaultMode": 420}})
    spec: Manifest = {
        "volumes": volumes,
        "containers": [{"name": "app", "image": "registry.example/app:1", "volumeMounts": mounts}],
        "restartPolicy": "Always",
        "serviceAccountName": "default",
    }
    if node:
        spec["nodeName"] = node
    return _object(Kind.POD, name, namespace=namespace, uid=uid, spec=spec, status={"phase": phase})


def snapshot_class(
    name: str,
    driver: str,
    *,
    deletion_policy: str = "Delete",
    parameters: Mapping[str, str] | None = None,
) -> Manifest:
    """A VolumeSnapshotClass."""
    given: Manifest = {"parameters": dict(parameters)} if parameters else {}
    return _object(Kind.VOLUME_SNAPSHOT_CLASS, name, driver=driver, deletionPolicy=deletion_policy, **given)


def snapshot(
    namespace: str,
    name: str,
    claim_name: str,
    snapshot_class: str,
    *,
    uid: str = "",
    taken_at: datetime | None = None,
    restore_size: str = "10Gi",
) -> Manifest:
    """A VolumeSnapshot: ready and bound to `snapcontent-UID` if it has an uid and a time, else new."""
    status: Manifest = {}
    if uid and taken_at:
        status = {
            "boundVolumeSnapshotContentName": f"snapcontent-{uid}",
            "creationTime": timestamp(taken_at),
            "readyToUse": True,
            "restoreSize": restore_size,
        }
    return _object(
        Kind.VOLUME_SNAPSHOT,
        name,
        namespace=namespace,
        uid=uid,
        finalizers=[
            "snapshot.storage.kubernetes.io/volumesnapshot-as-source-protection",
            "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection",
        ],
        spec={
            "source": {"persistentVolumeClaimName": claim_name},
            "volumeSnapshotClassName": snapshot_class,
        },
        status=status,
    )


def snapshot_content(
    snapshot: Manifest,
    volume: Manifest,
    *,
    handle: str = "",
    deletion_policy: str = "Delete",
    taken_at: datetime | None = None,
    restore_size_bytes: int = 10 * 2**30,
) -> Manifest:
    """The VolumeSnapshotContent of a snapshot, which must have its uid.

    Its handle, if not given, is that of a snapshot attached to its volume:
    `VOLUME@snapshot-UID` (democratic-csi 1.9).
    """
    uid = snapshot["metadata"]["uid"]
    csi = volume["spec"]["csi"]
    status: Manifest = {
        "readyToUse": True,
        "restoreSize": restore_size_bytes,
        "snapshotHandle": handle or f"{csi['volumeHandle']}@snapshot-{uid}",
    }
    if taken_at:
        status["creationTime"] = int(taken_at.timestamp()) * 1_000_000_000
    return _object(
        Kind.VOLUME_SNAPSHOT_CONTENT,
        f"snapcontent-{uid}",
        finalizers=["snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"],
        spec={
            "deletionPolicy": deletion_policy,
            "driver": csi["driver"],
            "source": {"volumeHandle": csi["volumeHandle"]},
            "sourceVolumeMode": "Filesystem",
            "volumeSnapshotClassName": snapshot["spec"]["volumeSnapshotClassName"],
            "volumeSnapshotRef": _reference(snapshot),
        },
        status=status,
    )


def event(
    about: Manifest,
    reason: str,
    message: str,
    at: datetime,
    *,
    component: str = "persistentvolume-controller",
    warning: bool = False,
    count: int = 1,
) -> Manifest:
    """An Event about an object; those about cluster-wide objects stand in `default`."""
    metadata = about["metadata"]
    suffix = hashlib.sha256(f"{reason}{message}".encode()).hexdigest()[:16]
    return _object(
        Kind.EVENT,
        f"{metadata['name']}.{suffix}",
        namespace=metadata.get("namespace", "default"),
        involvedObject=_reference(about),
        reason=reason,
        message=message,
        type="Warning" if warning else "Normal",
        count=count,
        firstTimestamp=timestamp(at),
        lastTimestamp=timestamp(at),
        eventTime=None,
        source={"component": component},
        reportingComponent=component,
        reportingInstance="",
    )


def _object(
    kind: Kind,
    name: str,
    *,
    namespace: str = "",
    uid: str = "",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    finalizers: Sequence[str] = (),
    **body: Any,
) -> Manifest:
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": uid,
        "labels": labels,
        "annotations": annotations,
        "finalizers": finalizers,
    }
    return {
        "apiVersion": RESOURCES[kind].api_version,
        "kind": kind.value,
        "metadata": {field: value for field, value in metadata.items() if value},
        **body,
    }


def _reference(about: Manifest) -> Manifest:
    metadata = about["metadata"]
    reference = {
        "apiVersion": about["apiVersion"],
        "kind": about["kind"],
        "namespace": metadata.get("namespace"),
        "name": metadata["name"],
        "uid": metadata.get("uid"),
    }
    return {field: value for field, value in reference.items() if value}


def _with_instance(attributes: dict[str, str], instance_id: str) -> dict[str, str]:
    return attributes | {"provisioner_driver_instance_id": instance_id} if instance_id else attributes
