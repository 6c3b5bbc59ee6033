"""Does a CSI snapshot exist on one side only?"""

from __future__ import annotations

from datetime import timedelta

import pytest

from truetally.csi import democratic_csi as csi
from truetally.findings.snapshots import SNAPSHOT_WITHOUT_CONTENT
from truetally.graph.graph import Changes
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.observations import Gone, Listed
from truetally.model.refs import Kind, Ref
from worlds import (
    CLUSTER,
    NAME,
    NAS,
    NOW,
    PATH,
    SNAPSHOT_UID,
    a_content,
    a_dataset,
    a_pool,
    a_snapshot,
    a_volume,
    accused,
    properties,
    ref_of,
    seen,
    settings,
    world,
)

ON_NAS, IN_CLUSTER = "snapshot-without-content", "content-without-snapshot"
ZFS = f"{PATH}@snapshot-{SNAPSHOT_UID}"
WHOLE = (a_pool(), a_dataset(), a_volume())


def marks(origin=truenas.Origin.LOCAL, name=f"snapshot-{SNAPSHOT_UID}"):
    return properties(origin, **{csi.SNAPSHOT_NAME: name})


def test_a_csi_snapshot_that_no_content_refers_to_is_found():
    assert accused(ON_NAS, world(*WHOLE, a_snapshot())) == [ZFS]


WANTED = {
    "a content has its handle": (a_snapshot(), a_content()),
    "a content is pre-provisioned with its handle": (
        a_snapshot(),
        a_content(
            snapshot_handle="", snapshot_uid="", source_snapshot_handle=f"{NAME}@snapshot-{SNAPSHOT_UID}"
        ),
    ),
    "its VolumeSnapshot is still being made": (
        a_snapshot(),
        k8s.VolumeSnapshot("default", "snap", SNAPSHOT_UID, NOW),
    ),
    "its content has no handle yet": (a_snapshot(), a_content(snapshot_handle="", source_volume_handle="")),
    "it waits for its last clone": (a_snapshot(defer_destroy=True),),
    "it is held": (a_snapshot(holds=("velero",)),),
    "a dataset is a clone of it": (a_snapshot(), a_dataset(f"{PATH}x", origin=ZFS)),
    "it is young": (a_snapshot(created_at=NOW - timedelta(minutes=5)),),
    "its age is unknown": (a_snapshot(created_at=None),),
    "it is a periodic snapshot": (a_snapshot("auto-2026-11-24_00-00"),),
    "it is a clone source": (a_snapshot(f"volume-source-for-volume-{NAME}"),),
    "it only inherits the mark": (a_snapshot(user_properties=marks(truenas.Origin.INHERITED)),),
    "its mark names another snapshot": (a_snapshot(user_properties=marks(name="snapshot-other")),),
    "it is on no volume of democratic-csi": (
        a_snapshot(dataset="tank/media"),
        a_dataset("tank/media", user_properties={}),
    ),
}


@pytest.mark.parametrize("why", WANTED)
def test_a_snapshot_is_left_alone_when(why):
    assert accused(ON_NAS, world(*WHOLE, *WANTED[why])) == []


def test_the_handle_is_what_counts_and_not_a_name_that_looks_alike():
    other = a_content(snapshot_handle=f"{NAME}@snapshot-{SNAPSHOT_UID}0", snapshot_uid="another")
    assert accused(ON_NAS, world(*WHOLE, a_snapshot(), other)) == [ZFS]


def test_a_snapshot_whose_content_was_retained_is_kept_on_purpose():
    kept = a_content(deletion_policy="Retain")
    in_world = world(*WHOLE, a_snapshot(), kept)
    in_world.graph.apply(Gone(ref_of(kept), 2.0), Changes())
    assert accused(ON_NAS, in_world) == []
    dropped = a_content()
    in_world = world(*WHOLE, a_snapshot(), dropped)
    in_world.graph.apply(Gone(ref_of(dropped), 2.0), Changes())
    assert accused(ON_NAS, in_world) == [ZFS]


def test_in_a_parent_of_unknown_owner_nobodys_snapshot_is_accused():
    foreign = a_dataset(f"{PATH}x", user_properties=properties(instance_id="cluster-b", volume_name="x"))
    assert accused(ON_NAS, world(*WHOLE, foreign, a_snapshot())) == []


def test_a_cluster_without_the_snapshot_api_proves_nothing():
    in_world = world(*WHOLE, a_snapshot())
    absent = Listed(CLUSTER, Kind.VOLUME_SNAPSHOT_CONTENT, frozenset(), 2.0, absent=True)
    in_world.graph.apply(absent, Changes())
    assert accused(ON_NAS, in_world) == []


def test_it_is_believed_only_when_its_own_properties_and_then_the_clusters_were_read_again():
    subject = Ref(NAS, Kind.SNAPSHOT, ZFS)
    bare = world(*WHOLE, seen(a_snapshot(), 50.0))
    assert (
        SNAPSHOT_WITHOUT_CONTENT.confirmed(subject, bare, 10.0)
        == "the NAS does not tell the snapshot's properties"
    )
    read = world(*WHOLE, seen(a_snapshot(user_properties=marks()), 50.0))
    confirmed = SNAPSHOT_WITHOUT_CONTENT.confirmed
    assert confirmed(subject, read, 60.0) == "the snapshot has not been read again"
    assert confirmed(subject, read, 10.0) == "the clusters have not been read after the NAS"
    for kind in (Kind.VOLUME_SNAPSHOT, Kind.VOLUME_SNAPSHOT_CONTENT):
        read.graph.apply(Listed(CLUSTER, kind, frozenset(), 60.0), Changes())
    for kind in (Kind.PERSISTENT_VOLUME, Kind.PERSISTENT_VOLUME_CLAIM):
        names = frozenset(read.graph.nodes(CLUSTER, kind))
        read.graph.apply(Listed(CLUSTER, kind, names, 60.0), Changes())
    assert confirmed(subject, read, 10.0) == ""


# The other way round

CONTENT = a_content().name


def test_a_content_whose_zfs_snapshot_is_gone_is_found():
    assert accused(IN_CLUSTER, world(*WHOLE, a_content())) == [CONTENT]


def test_it_is_found_as_well_when_the_whole_volume_is_gone():
    assert accused(IN_CLUSTER, world(a_pool(), a_content())) == [CONTENT]


PRESENT = {
    "its snapshot exists": (a_snapshot(), a_content()),
    "it is being deleted": (a_content(deleted_at=NOW),),
    "it is not made yet": (a_content(snapshot_handle=""),),
    "it is detached": (a_content(snapshot_handle=f"{NAME}/snapshot-{SNAPSHOT_UID}"),),
    "another driver made it": (a_content(driver="ebs.csi.aws.com"),),
    "somebody exempts it": (a_content(annotations={"truetally.io/ignore": "true"}),),
}


@pytest.mark.parametrize("why", PRESENT)
def test_a_content_is_left_alone_when(why):
    assert accused(IN_CLUSTER, world(*WHOLE, *PRESENT[why])) == []


def test_where_its_nas_is_not_known_nothing_is_said():
    assert accused(IN_CLUSTER, world(a_pool(), a_content(), config=settings(drivers=[]))) == []


def test_while_snapshots_are_not_listed_nothing_is_missed():
    torn = [(NAS, Kind.SNAPSHOT)]
    assert accused(IN_CLUSTER, world(*WHOLE, a_content(), incomplete=torn)) == []
    assert accused(ON_NAS, world(*WHOLE, a_snapshot(), incomplete=torn)) == []
