"""What is kept of an object, and under which name?"""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest

from truetally.model import kubernetes as k8s
from truetally.model.refs import KUBERNETES_KINDS, Kind
from truetally.sources.kubernetes.decode import Decoder


def decoded(kind, **fields):
    meta = {"name": "it", "uid": "u-1", "resourceVersion": "7", "creationTimestamp": "2026-11-24T06:25:30Z"}
    thing = {"metadata": {**meta, **fields.pop("metadata", {})}, **fields}
    _, value = Decoder(kind).object(msgspec.Raw(json.dumps(thing).encode()))
    return value


@pytest.mark.parametrize("kind", sorted(KUBERNETES_KINDS - {Kind.EVENT}))
def test_every_kind_is_decoded_from_its_name_alone(kind):
    assert decoded(kind).name == "it"


@pytest.mark.parametrize("kind", sorted(KUBERNETES_KINDS))
def test_fields_that_nobody_declared_are_passed_over(kind):
    decoded(kind, novelty={"deep": [1, {"deeper": None}]}, metadata={"managedFields": [{"f:x": {}}]})


@pytest.mark.parametrize("kind", sorted(KUBERNETES_KINDS))
def test_an_empty_list_may_be_null(kind):
    meta, found = Decoder(kind).page(b'{"metadata": {"resourceVersion": "9"}, "items": null}')
    assert (meta.resource_version, meta.continue_, found) == ("9", "", [])


def test_a_volume_of_a_csi_driver_keeps_its_handle_and_its_claim():
    volume = decoded(
        Kind.PERSISTENT_VOLUME,
        spec={
            "capacity": {"storage": "10Gi"},
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": "nfs",
            "claimRef": {"namespace": "shop", "name": "data", "uid": "u-2"},
            "csi": {
                "driver": "org.democratic-csi.nfs",
                "volumeHandle": "pvc-1",
                "fsType": "nfs",
                "volumeAttributes": {"server": "10.0.0.10", "share": "/mnt/tank/pvc-1"},
            },
        },
        status={"phase": "Bound"},
        metadata={"finalizers": ["kubernetes.io/pv-protection"]},
    )
    assert volume.capacity_bytes == 10 * 2**30
    assert volume.claim == k8s.ClaimRef("shop", "data", "u-2")
    assert volume.csi.volume_handle == "pvc-1"
    assert volume.csi.attributes["share"] == "/mnt/tank/pvc-1"
    assert (volume.phase, volume.reclaim_policy) == ("Bound", "Delete")
    assert volume.finalizers == ("kubernetes.io/pv-protection",)
    assert volume.created_at == datetime(2026, 11, 24, 6, 25, 30, tzinfo=UTC)


def test_a_claim_tells_no_class_from_the_empty_class():
    assert decoded(Kind.PERSISTENT_VOLUME_CLAIM, spec={}).storage_class is None
    assert decoded(Kind.PERSISTENT_VOLUME_CLAIM, spec={"storageClassName": ""}).storage_class == ""


def test_a_claim_keeps_who_owns_it():
    owners = [{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "u"}]
    owned = decoded(Kind.PERSISTENT_VOLUME_CLAIM, metadata={"ownerReferences": owners})
    assert (owned.owners, decoded(Kind.PERSISTENT_VOLUME_CLAIM).owners) == (("Pod/web",), ())


def test_a_generic_ephemeral_volume_is_a_claim_named_after_its_pod():
    volumes = [
        {"name": "data", "persistentVolumeClaim": {"claimName": "mine"}},
        {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
        {"name": "config", "configMap": {"name": "c"}},
    ]
    assert decoded(Kind.POD, spec={"volumes": volumes}).claims == ("mine", "it-scratch")


def test_events_that_are_not_about_storage_are_not_kept():
    assert decoded(Kind.EVENT, reason="Pulled") is None
    event = decoded(
        Kind.EVENT,
        reason="FailedMount",
        message="exit status 32",
        count=4,
        series=None,
        eventTime=None,
        involvedObject={"kind": "Pod", "namespace": "shop", "name": "app", "uid": "u-3"},
    )
    assert (event.about, event.count) == ("Pod shop/app", 4)


def test_a_snapshot_that_failed_tells_why_and_one_without_status_is_neither_ready_nor_failed():
    failed = decoded(
        Kind.VOLUME_SNAPSHOT, status={"readyToUse": False, "error": {"message": "dataset does not exist"}}
    )
    assert (failed.ready, failed.error) == (False, "dataset does not exist")
    fresh = decoded(Kind.VOLUME_SNAPSHOT)
    assert (fresh.ready, fresh.error) == (None, "")


@pytest.mark.parametrize("status", ["True", "False", "Unknown"])
def test_a_node_is_ready_only_when_it_says_so(status):
    node = decoded(Kind.NODE, status={"conditions": [{"type": "Ready", "status": status}]})
    assert node.ready is (status == "True")


def test_an_object_of_another_shape_is_refused():
    with pytest.raises(msgspec.DecodeError):
        decoded(Kind.POD, spec="text")


def test_a_size_that_is_no_quantity_is_refused():
    with pytest.raises(ValueError, match="no quantity"):
        decoded(Kind.PERSISTENT_VOLUME, spec={"capacity": {"storage": "much"}})
