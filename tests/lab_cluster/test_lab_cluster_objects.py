"""Do the objects look as the CSI sidecars leave them?"""

from __future__ import annotations

from datetime import UTC, datetime

from truetally.lab.cluster import objects

TAKEN = datetime(2026, 11, 24, 6, 27, 52, tzinfo=UTC)
CLAIM = objects.claim("default", "data", "freenas-nfs", uid="1b4f")
VOLUME = objects.volume(CLAIM, objects.nfs_attributes("10.0.0.10", "/mnt/tank/k8s/pvc-1b4f", instance_id="a"))


def test_a_provisioned_volume_is_named_after_its_claim_and_says_who_made_it():
    csi = VOLUME["spec"]["csi"]
    assert VOLUME["metadata"]["name"] == csi["volumeHandle"] == "pvc-1b4f"
    assert VOLUME["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"] == csi["driver"]
    assert csi["volumeAttributes"] == {
        "node_attach_driver": "nfs",
        "provisioner_driver": "freenas-api-nfs",
        "provisioner_driver_instance_id": "a",
        "server": "10.0.0.10",
        "share": "/mnt/tank/k8s/pvc-1b4f",
        "storage.kubernetes.io/csiProvisionerIdentity": "1763970000000-8081-org.democratic-csi.nfs",
    }
    assert VOLUME["spec"]["claimRef"] == {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": "default",
        "name": "data",
        "uid": "1b4f",
    }


def test_a_new_claim_is_pending_and_a_bound_one_names_its_volume():
    bound = objects.bound(CLAIM, VOLUME)
    assert (CLAIM["status"]["phase"], CLAIM["spec"].get("volumeName")) == ("Pending", None)
    assert (bound["status"]["phase"], bound["spec"]["volumeName"]) == ("Bound", "pvc-1b4f")
    assert bound == objects.claim("default", "data", "freenas-nfs", uid="1b4f", volume_name="pvc-1b4f")


def test_an_attachment_has_the_name_that_kubernetes_derives():
    # printf 'pvc-1b4forg.democratic-csi.nfsworker-1' | sha256sum
    digest = "5abf2aa72ae3d50866c44939d15f07db5836c853b8702a545a35aaba3e5403fc"
    assert objects.attachment(VOLUME, "worker-1")["metadata"]["name"] == f"csi-{digest}"


def test_snapshot_and_content_point_at_each_other():
    snapshot = objects.snapshot("default", "snap", "data", "fast", uid="7c1d", taken_at=TAKEN)
    content = objects.snapshot_content(snapshot, VOLUME, taken_at=TAKEN)
    assert snapshot["status"]["boundVolumeSnapshotContentName"] == content["metadata"]["name"]
    assert content["spec"]["volumeSnapshotRef"]["uid"] == "7c1d"
    assert content["status"]["snapshotHandle"] == "pvc-1b4f@snapshot-7c1d"
    assert content["status"]["creationTime"] == 1795501672 * 10**9


def test_an_event_about_a_cluster_wide_object_stands_in_the_default_namespace():
    event = objects.event(VOLUME, "VolumeFailedDelete", "dataset is busy", TAKEN, warning=True)
    assert event["metadata"]["namespace"] == "default"
    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "name": "pvc-1b4f",
    }
