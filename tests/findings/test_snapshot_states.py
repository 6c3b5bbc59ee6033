"""Snapshots that both sides know: are they ready, do they tell their size, are they in the way?"""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from truetally.csi import democratic_csi as csi
from truetally.findings.rule import Evidence
from truetally.model import kubernetes as k8s
from truetally.model.refs import Kind
from worlds import (
    CLUSTER,
    DRIVER,
    NAME,
    NAS,
    NOW,
    OLD,
    PARENT,
    PATH,
    SNAPSHOT_UID,
    a_claim,
    a_content,
    a_csi_source,
    a_dataset,
    a_pool,
    a_share,
    a_snapshot,
    a_volume,
    accused,
    judge,
    properties,
    ref_of,
    world,
)

READY, SIZE = "snapshot-not-ready", "snapshot-without-restore-size"
DEFERRED, BLOCKS = "snapshot-deferred", "snapshot-blocks-delete"
CLASS = k8s.VolumeSnapshotClass("nightly", DRIVER)
DETACHED = k8s.VolumeSnapshotClass("nightly", DRIVER, parameters={"detachedSnapshots": "true"})
IGNORED = {"truetally.io/ignore": "true"}


def taken(**changes) -> k8s.VolumeSnapshot:
    snapshot = k8s.VolumeSnapshot(
        "default", "snap", SNAPSHOT_UID, NOW - timedelta(hours=2), snapshot_class="nightly", ready=False
    )
    return msgspec.structs.replace(snapshot, **({"source_claim": "data"} | changes))


HERE = ref_of(taken())
WHOLE = (a_pool(), a_dataset(), a_volume(), a_claim())


# Ready?


def test_a_volume_snapshot_that_does_not_become_ready_is_found_with_its_error():
    found = judge(READY, HERE, world(*WHOLE, CLASS, taken(error="rpc error: pool is full")))
    assert isinstance(found, Evidence)
    assert found.facts["cause"] == "rpc error: pool is full"
    assert found.since == taken().created_at


def test_the_error_may_stand_at_the_content_or_in_an_event():
    content = a_content(ready=False, error="no such dataset", snapshot_handle="")
    event = k8s.Event("default", "e", "SnapshotFailed", "try again", "", SNAPSHOT_UID, "Warning", NOW)
    chatter = k8s.Event("default", "n", "CreatingSnapshot", "wait", "", SNAPSHOT_UID, "Normal", NOW)
    older = msgspec.structs.replace(event, name="o", message="before", last_at=OLD)
    found = judge(READY, HERE, world(*WHOLE, CLASS, taken(), content))
    assert found.facts["cause"] == "no such dataset"
    found = judge(READY, HERE, world(*WHOLE, CLASS, taken(), event, chatter, older))
    assert found.facts["cause"] == "SnapshotFailed: try again"


@pytest.mark.parametrize(
    ("content", "who"), [(None, "snapshot controller"), (a_content(), "csi-snapshotter")]
)
def test_without_any_cause_it_is_said_who_should_be_looked_at(content, who):
    found = judge(READY, HERE, world(*WHOLE, CLASS, taken(), *([content] if content else [])))
    assert who in found.summary


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"bound_content": "bound"}, "bound"),
        ({"source_content": "given"}, "given"),
        ({"bound_content": "bound", "source_content": "given"}, "bound"),
        ({}, f"snapcontent-{SNAPSHOT_UID}"),
    ],
)
def test_the_content_is_found_by_the_name_that_either_side_knows(changes, name):
    contents = (
        a_content(name=each, error=each) for each in ("bound", "given", f"snapcontent-{SNAPSHOT_UID}")
    )
    found = judge(READY, HERE, world(*WHOLE, CLASS, taken(**changes), *contents))
    assert (found.facts["content"], found.facts["cause"]) == (name, name)


UNCONCERNED = {
    "it is ready": (taken(ready=True), CLASS),
    "it is being deleted": (taken(deleted_at=NOW), CLASS),
    "it is exempted": (taken(annotations=IGNORED), CLASS),
    "its class is of another driver": (taken(), k8s.VolumeSnapshotClass("nightly", "ebs.csi.aws.com")),
    "its content is of another driver": (taken(), CLASS, a_content(driver="ebs.csi.aws.com")),
    "whose it is cannot be known": (taken(source_claim="gone"),),
    "all its data is being copied": (taken(error="operation locked"), DETACHED),
}


@pytest.mark.parametrize("values", UNCONCERNED.values(), ids=UNCONCERNED)
def test_a_volume_snapshot_is_not_said_to_be_late_if(values):
    assert accused(READY, world(*WHOLE, *values)) == []


def test_without_its_class_the_source_volume_tells_whose_it_is():
    assert accused(READY, world(*WHOLE, taken())) == ["default/snap"]


def test_a_detached_snapshot_is_given_a_day():
    late = world(*WHOLE, DETACHED, taken(), now=NOW + timedelta(days=1))
    assert accused(READY, late) == ["default/snap"]
    assert judge(READY, HERE, world(*WHOLE, DETACHED, taken())).again_at == NOW + timedelta(hours=22)


@pytest.mark.parametrize(
    ("parameters", "detached"),
    [
        ({"detachedSnapshots": "true"}, True),
        ({"democratic-csi.org/freenas-nfs/detachedSnapshots": "true"}, True),
        ({"detachedSnapshots": "false"}, False),
        ({"x": "true"}, False),
        ({}, False),
    ],
)
def test_a_class_says_whether_its_snapshots_are_detached(parameters, detached):
    assert csi.makes_detached_snapshots(parameters) is detached


@pytest.mark.parametrize("kind", [Kind.VOLUME_SNAPSHOT_CONTENT, Kind.VOLUME_SNAPSHOT_CLASS])
def test_lateness_is_not_judged_before_the_cluster_is_known(kind):
    assert judge(READY, HERE, world(*WHOLE, CLASS, taken(), incomplete={(CLUSTER, kind)})) is None


# Its size?


@pytest.mark.parametrize("size", [None, 0])
def test_a_ready_content_that_tells_no_size_is_found(size):
    content = a_content(restore_size_bytes=size)
    assert accused(SIZE, world(content, a_volume())) == [content.name]


@pytest.mark.parametrize(
    "changes",
    [
        {"restore_size_bytes": 1},
        {"ready": False},
        {"ready": None},
        {"deleted_at": NOW},
        {"driver": "ebs.csi.aws.com"},
        {"annotations": IGNORED},
    ],
)
def test_a_content_need_not_tell_its_size_if(changes):
    assert accused(SIZE, world(a_content(**changes), a_volume())) == []


# Destroyed?


def test_a_destroyed_snapshot_tells_the_clone_that_it_waits_for():
    snapshot = a_snapshot(defer_destroy=True)
    clone = a_dataset(f"{PARENT}/pvc-clone", origin=snapshot.path)
    found = judge(DEFERRED, ref_of(snapshot), world(*WHOLE, snapshot, clone))
    assert found.facts["clones"] == (clone.path,)
    assert f"waits for clone {clone.path}" in found.summary


@pytest.mark.parametrize("told", [False, None])
def test_a_snapshot_that_nobody_destroyed_waits_for_nothing(told):
    assert accused(DEFERRED, world(*WHOLE, a_snapshot(defer_destroy=told))) == []


def test_a_destroyed_snapshot_is_never_an_orphan():
    around = world(*WHOLE, a_snapshot(defer_destroy=True))
    assert accused("snapshot-without-content", around) == []
    assert accused(DEFERRED, around) == [a_snapshot().path]


def test_a_destroyed_snapshot_of_an_exempted_dataset_is_not_told():
    exempted = a_dataset(user_properties=properties(ignore="yes"))
    assert accused(DEFERRED, world(exempted, a_snapshot(defer_destroy=True))) == []


# In the way?

RELEASED = a_volume(phase="Released", phase_changed_at=OLD)
GONE = ref_of(RELEASED)
AUTO = a_snapshot("auto-2026-11-20_12-00")


def test_a_clone_is_named_with_the_claim_that_uses_it():
    clone = a_dataset(f"{PARENT}/pvc-clone", origin=f"{PATH}@volume-source-for-volume-pvc-clone")
    volume = a_volume("pvc-clone", claim=k8s.ClaimRef("default", "copy"))
    found = judge(BLOCKS, GONE, world(a_pool(), a_dataset(), RELEASED, clone, volume))
    assert found.facts["clones"] == (f"{clone.path} (claim default/copy in {CLUSTER})",)
    assert found.summary == f"Volume {NAME} cannot be deleted because of 1 clone"
    assert found.since == OLD


def test_foreign_snapshots_are_named_by_who_made_them():
    found = judge(BLOCKS, GONE, world(a_pool(), a_dataset(), RELEASED, AUTO, a_snapshot()))
    assert found.facts["foreign_snapshots"] == (AUTO.name,)
    assert found.facts["made_by"] == ("task: 1",)
    assert "maybe because of 1 snapshot not made by democratic-csi" in found.summary


def test_a_held_snapshot_is_in_the_way_whoever_made_it():
    held = a_snapshot(holds=("keep",))
    found = judge(BLOCKS, GONE, world(a_pool(), a_dataset(), RELEASED, held))
    assert found.facts["held"] == (held.name,)


def test_the_dataset_is_found_by_its_own_mark_when_a_failed_delete_took_the_share():
    source = a_csi_source(node_attach_driver="smb", share=NAME)
    smb = msgspec.structs.replace(RELEASED, csi=source)
    assert accused(BLOCKS, world(a_pool(), a_dataset(), smb, AUTO)) == [NAME]
    foreign = a_dataset(user_properties=properties(volume_name="another"))
    assert accused(BLOCKS, world(a_pool(), foreign, smb, AUTO)) == []


FREE = {
    "it is in use": (a_volume(), AUTO),
    "it is only being asked to go": (a_volume(deleted_at=NOW), AUTO),
    "it is kept on purpose": (msgspec.structs.replace(RELEASED, reclaim_policy="Retain"), AUTO),
    "it is of another driver": (
        msgspec.structs.replace(
            RELEASED, csi=a_csi_source(driver="nfs.csi.k8s.io", provisioner_driver=""), annotations={}
        ),
        AUTO,
    ),
    "it is exempted": (msgspec.structs.replace(RELEASED, annotations=RELEASED.annotations | IGNORED), AUTO),
    "its data is on no NAS of ours": (
        msgspec.structs.replace(RELEASED, csi=a_csi_source(server="10.9.9.9")),
        AUTO,
    ),
    "it has only CSI snapshots": (RELEASED, a_snapshot(), a_snapshot("volume-source-for-volume-pvc-2")),
    "it has no snapshots": (RELEASED, a_share()),
}


@pytest.mark.parametrize("values", FREE.values(), ids=FREE)
def test_nothing_is_said_to_be_in_the_way_of_a_volume_if(values):
    assert accused(BLOCKS, world(a_pool(), a_dataset(), *values)) == []


@pytest.mark.parametrize("kind", [Kind.SNAPSHOT, Kind.DATASET])
def test_what_is_in_the_way_is_not_judged_before_the_nas_is_known(kind):
    around = world(a_pool(), a_dataset(), RELEASED, AUTO, incomplete={(NAS, kind)})
    assert judge(BLOCKS, GONE, around) is None
