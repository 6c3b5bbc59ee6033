"""Is a dataset an orphan? Only if all ten conditions hold; every other answer says which one does not."""

from __future__ import annotations

from datetime import timedelta

import pytest

from truetally.findings import orphans
from truetally.findings.rule import Clear
from truetally.graph.graph import Changes
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.observations import Gone, Listed, Seen
from truetally.model.refs import KUBERNETES_KINDS, Kind, Ref
from worlds import (
    CLUSTER,
    DRIVER,
    NAME,
    NAS,
    NOW,
    PARENT,
    PATH,
    a_claim,
    a_content,
    a_csi_source,
    a_dataset,
    a_pool,
    a_snapshot,
    a_volume,
    accused,
    judge,
    properties,
    ref_of,
    seen,
    settings,
    world,
)

ORPHAN, UNKNOWN, RETAINED = "dataset-without-volume", "dataset-owner-unknown", "dataset-retained"
OTHER = f"{PARENT}/pvc-3b4f5f0e-8f1a-4c8a-9d0e-00000000000b"


def verdict(*values, **how):
    in_world = world(*values, **how)
    found = orphans.conditions(in_world, Ref(NAS, Kind.DATASET, PATH))
    return orphans.verdict(found).value


def test_a_dataset_that_no_volume_uses_is_found():
    assert accused(ORPHAN, world(a_pool(), a_dataset())) == [PATH]


def test_a_dataset_that_a_volume_uses_is_not():
    assert accused(ORPHAN, world(a_pool(), a_dataset(), a_volume())) == []


@pytest.mark.parametrize(
    "kind", sorted(orphans.REFERRING | {Kind.DATASET, Kind.POOL, Kind.SNAPSHOT, Kind.NFS_SHARE})
)
def test_nothing_is_found_before_everything_that_could_refer_to_it_is_listed_in_full(kind):
    source = CLUSTER if kind in KUBERNETES_KINDS else NAS
    assert accused(ORPHAN, world(a_pool(), a_dataset(), incomplete=[(source, kind)])) == []


def test_one_cluster_of_two_that_cannot_be_read_is_enough_to_accuse_nobody():
    two = settings(clusters=[{"name": CLUSTER, "kubeconfig": "/x"}, {"name": "edge", "kubeconfig": "/y"}])
    whole = world(a_pool(), a_dataset(), config=two)
    torn = world(a_pool(), a_dataset(), config=two, incomplete=[("edge", Kind.PERSISTENT_VOLUME)])
    assert (accused(ORPHAN, whole), accused(ORPHAN, torn)) == ([PATH], [])


REFERENCES = {
    "a released volume that is retained": a_volume(phase="Released", reclaim_policy="Retain"),
    "a volume of another driver with the same export": a_volume(
        "media",
        csi=k8s.CsiSource("nfs.csi.k8s.io", "x", "", {"server": "10.0.0.10", "share": f"/mnt/{PATH}"}),
    ),
    "an in-tree NFS volume": a_volume("adopted", csi=None, nfs=k8s.NfsSource("10.0.0.10", f"/mnt/{PATH}/")),
    "a volume that mounts a directory inside it": a_volume(
        "sub", csi=None, nfs=k8s.NfsSource("10.0.0.10", f"/mnt/{PATH}/a/b")
    ),
    "the same export by a name truetally does not know": a_volume(
        "alias", csi=None, nfs=k8s.NfsSource("storage.example.com", f"/mnt/{PATH}")
    ),
    "a volume that merely has its handle": a_volume("renamed", csi=a_csi_source(NAME, share="", server="")),
    "a pending claim with its uid": a_claim(phase="Pending", volume_name=""),
    "a claim that is bound to its name": a_claim(uid="another", volume_name=NAME),
    "a pod that mounts the export inline": k8s.Pod(
        "default", "pod", "u", nfs=(k8s.NfsSource("10.0.0.10", f"/mnt/{PATH}"),)
    ),
    "a snapshot content of it": a_content(),
    "a pre-provisioned snapshot content": a_content(
        snapshot_handle="", source_volume_handle="", source_snapshot_handle=f"{NAME}@x"
    ),
    "a clone of its snapshot": a_dataset(OTHER, origin=f"{PATH}@volume-source-for-volume-x"),
    "a volume made from its content": a_dataset(
        OTHER, user_properties=properties(source_id=NAME, volume_name="b")
    ),
    "a child dataset": a_dataset(f"{PATH}/child", user_properties={}),
}


@pytest.mark.parametrize("what", REFERENCES)
def test_a_dataset_is_not_found_while_something_refers_to_it(what):
    in_world = world(a_pool(), a_dataset(), REFERENCES[what])
    assert PATH not in accused(ORPHAN, in_world) + accused(UNKNOWN, in_world)


def test_a_volume_in_a_second_watched_cluster_protects_it():
    two = settings(clusters=[{"name": CLUSTER, "kubeconfig": "/x"}, {"name": "edge", "kubeconfig": "/y"}])
    in_world = world(a_pool(), a_dataset(), seen(a_volume(), source="edge"), config=two)
    assert accused(ORPHAN, in_world) == []


def test_a_templated_name_is_matched_by_the_drivers_own_property():
    path = f"{PARENT}/default-data"
    dataset = a_dataset(path, user_properties=properties(volume_name=NAME))
    volume = a_volume(csi=a_csi_source("default-data", share=""))
    assert accused(ORPHAN, world(a_pool(), dataset, volume)) == []


def test_a_name_that_only_begins_alike_is_no_reference():
    longer = a_volume(NAME + "0", claim=None, csi=a_csi_source(NAME + "0"))
    assert accused(ORPHAN, world(a_pool(), a_dataset(), longer)) == [PATH]


def test_a_restored_volume_is_not_protected_by_the_one_it_was_restored_from():
    clone = a_dataset(OTHER, user_properties=properties(source_id=NAME, volume_name=OTHER.rpartition("/")[2]))
    assert accused(ORPHAN, world(a_pool(), a_dataset(), a_volume(), clone)) == [OTHER]


NOT_ORPHANED = {
    "in flight": {"created_at": NOW - timedelta(minutes=59)},
    "unreadable": {"locked": True},
    "unknown owner": {"readonly": True},
    "exempt": {"user_properties": properties(ignore="archive of 2025")},
    "no volume of democratic-csi": {"user_properties": {}},
}


@pytest.mark.parametrize("answer", NOT_ORPHANED)
def test_each_other_answer_has_its_name(answer):
    assert verdict(a_pool(), a_dataset(**NOT_ORPHANED[answer])) == answer


def test_a_dataset_whose_age_is_unknown_is_left_alone():
    assert accused(ORPHAN, world(a_pool(), a_dataset(created_at=None))) == []


def test_an_inherited_mark_is_no_mark():
    inherited = a_dataset(user_properties=properties(truenas.Origin.INHERITED))
    assert accused(ORPHAN, world(a_pool(), inherited)) == []


def test_a_replica_is_nobodys_orphan():
    received = a_dataset(user_properties=properties(truenas.Origin.RECEIVED))
    assert accused(ORPHAN, world(a_pool(), received)) == []


def test_where_the_nas_hides_the_source_of_properties_the_name_has_to_agree():
    def of(name):
        return a_dataset(user_properties=properties(truenas.Origin.UNKNOWN, volume_name=name))

    assert accused(ORPHAN, world(a_pool(), of(NAME))) == [PATH]
    assert accused(ORPHAN, world(a_pool(), of("pvc-of-its-parent"))) == []
    assert accused(UNKNOWN, world(a_pool(), of("pvc-of-its-parent"))) == [PATH]


@pytest.mark.parametrize("pool", [a_pool(status="OFFLINE"), a_pool(name="other")])
def test_a_pool_that_is_not_there_hides_its_datasets(pool):
    assert accused(ORPHAN, world(pool, a_dataset())) == []


def test_an_iscsi_session_means_in_use():
    iscsi = [
        truenas.IscsiTarget(5, "csi-x"),
        truenas.IscsiExtent(6, "csi-x", "DISK", PATH),
        truenas.IscsiTargetExtent(7, 5, 6, 0),
    ]
    session = truenas.IscsiSession("iqn.node1", "10.0.0.5", "iqn.2005-10.org.freenas.ctl:csi-x")
    assert accused(ORPHAN, world(a_pool(), a_dataset(), *iscsi)) == [PATH]
    assert verdict(a_pool(), a_dataset(), *iscsi, session) == "in use"


def test_a_held_snapshot_means_in_use():
    assert verdict(a_pool(), a_dataset(), a_snapshot(holds=("zettarepl",))) == "in use"


# Whose is it?


def unconfigured(**changes):
    return settings(drivers=[], **changes)


def test_under_a_parent_nobody_vouches_for_the_owner_is_unknown():
    in_world = world(a_pool(), a_dataset(), config=unconfigured())
    assert (accused(ORPHAN, in_world), accused(UNKNOWN, in_world)) == ([], [PATH])


def test_a_live_neighbour_with_our_instance_id_vouches_for_the_parent():
    live = a_volume("pvc-live", claim=None, csi=a_csi_source("pvc-live"))
    in_world = world(a_pool(), a_dataset(), a_dataset(f"{PARENT}/pvc-live"), live, config=unconfigured())
    assert accused(ORPHAN, in_world) == [PATH]


def test_a_live_neighbour_without_instance_id_is_not_enough():
    bare = properties(instance_id=None)
    live = a_volume("pvc-live", claim=None, csi=a_csi_source("pvc-live", provisioner_driver_instance_id=""))
    neighbour = a_dataset(f"{PARENT}/pvc-live", user_properties=bare)
    in_world = world(a_pool(), a_dataset(user_properties=bare), neighbour, live, config=unconfigured())
    assert (accused(ORPHAN, in_world), accused(UNKNOWN, in_world)) == ([], [PATH])


@pytest.mark.parametrize(
    "foreign",
    [{"instance_id": "cluster-b"}, {"instance_id": None}, {"instance_id": None, "driver": "freenas-nfs"}],
    ids=str,
)
def test_a_foreign_volume_under_the_same_parent_makes_the_owner_unknown(foreign):
    neighbour = a_dataset(OTHER, user_properties=properties(volume_name=OTHER.rpartition("/")[2], **foreign))
    live = a_volume("pvc-live", claim=None, csi=a_csi_source("pvc-live"))
    in_world = world(a_pool(), a_dataset(), neighbour, live)
    assert accused(ORPHAN, in_world) == []
    assert PATH in accused(UNKNOWN, in_world)


def test_a_marker_of_our_cluster_decides_among_several():
    marked = settings(
        drivers=[
            {
                "driver": DRIVER,
                "cluster": CLUSTER,
                "nas": NAS,
                "parent": PARENT,
                "instance_id": "cluster-a",
                "marker_property": "k8s:cluster",
                "marker_value": "prod",
            }
        ]
    )
    ours = a_dataset(user_properties=properties(**{"k8s:cluster": "prod"}))
    theirs = a_dataset(OTHER, user_properties=properties(instance_id="b", **{"k8s:cluster": "edge"}))
    assert accused(ORPHAN, world(a_pool(), ours, theirs, config=marked)) == [PATH]


def test_a_deleted_volume_that_was_retained_is_kept_on_purpose():
    in_world = world(a_pool(), a_dataset(), a_volume(reclaim_policy="Retain"))
    in_world.graph.apply(Gone(ref_of(a_volume()), 2.0), Changes())
    assert (accused(ORPHAN, in_world), accused(RETAINED, in_world)) == ([], [PATH])


def test_a_detached_snapshot_is_no_volume_and_its_owner_no_question():
    snapshot = a_dataset(
        f"tank/k8s/nfs/snaps/{NAME}/snapshot-7c1d2e3f-0000-4000-8000-00000000000a",
        user_properties=properties(volume_name=None, **{"democratic-csi:csi_snapshot_name": "snapshot-x"}),
    )
    in_world = world(a_pool(), a_dataset(), a_volume(), snapshot)
    assert accused(ORPHAN, in_world) + accused(UNKNOWN, in_world) == []


def test_the_last_volume_of_a_driver_is_found_although_another_driver_lives_on():
    iscsi = a_csi_source("z", "org.democratic-csi.iscsi", provisioner_driver="freenas-api-iscsi", share="")
    other = a_volume("pvc-z", claim=None, csi=iscsi)
    assert accused(ORPHAN, world(a_pool(), a_dataset(), other)) == [PATH]


@pytest.mark.parametrize(
    ("policies", "kept"), [(["Retain"], True), (["Retain", "Delete"], False), ([], False)]
)
def test_where_every_class_of_the_driver_retains_a_leftover_is_kept_on_purpose(policies, kept):
    classes = [k8s.StorageClass(f"c{n}", DRIVER, policy) for n, policy in enumerate(policies)]
    other = k8s.StorageClass("other", "ebs.csi.aws.com", "Delete")
    in_world = world(a_pool(), a_dataset(), other, *classes)
    assert (accused(RETAINED, in_world), accused(ORPHAN, in_world)) == (
        ([PATH], []) if kept else ([], [PATH])
    )


# Who uses it right now?


def with_use(**use):
    value = truenas.DatasetUse(**use)
    return world(a_pool(), a_dataset(), _use(value))


def _use(value):
    return Seen(Ref(NAS, Kind.DATASET_USE, PATH), value, 99.0)


@pytest.mark.parametrize(
    "use",
    [
        {"clients": ("10.0.0.7",)},
        {"processes": ("smbd",)},
        {"sessions": ("iqn.node",)},
        {"jobs": ("replication.run_onetime",)},
        {"holds": ("keep on tank/k8s/pvc@a",)},
        {"attachments": ("Replication: nightly",)},
        {"attachments": ("Snapshot Task: daily",)},
    ],
    ids=str,
)
def test_whoever_uses_it_on_the_nas_protects_it(use):
    assert accused(ORPHAN, with_use(**use)) == []


def test_its_own_share_is_no_use():
    assert accused(ORPHAN, with_use(attachments=("NFS Share: /mnt/x",))) == [PATH]


def test_when_its_use_cannot_be_read_the_answer_is_unknown():
    in_world = with_use(unknown=("NFS clients: needs READONLY_ADMIN",))
    assert (accused(ORPHAN, in_world), accused(UNKNOWN, in_world)) == ([], [PATH])


# What must have been read again before it is told?


def test_a_suspicion_is_believed_only_after_nas_and_then_clusters_were_read_again():
    rule = orphans.DATASET_WITHOUT_VOLUME
    in_world = world(a_pool(), seen(a_dataset(), 50.0), _use(truenas.DatasetUse()))
    subject = Ref(NAS, Kind.DATASET, PATH)
    assert rule.confirmed(subject, in_world, 60.0) == "the dataset has not been read again"
    assert rule.confirmed(subject, in_world, 10.0) == "the clusters have not been read after the NAS"
    for kind in orphans.REFERRING:
        in_world.graph.apply(Listed(CLUSTER, kind, frozenset(), 99.5), Changes())
    assert rule.confirmed(subject, in_world, 10.0) == ""


def test_why_not_is_told():
    answer = judge(ORPHAN, Ref(NAS, Kind.DATASET, PATH), world(a_pool(), a_dataset(), a_volume()))
    assert isinstance(answer, Clear)
    assert answer.reason == f"PersistentVolume {NAME} (prod) refers to it (R3: mounts its path)"
