"""What cloning and detached snapshots leave behind: found only once nobody can still need it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from truetally.findings import catalogue, orphans
from truetally.findings.rule import Clear, Order
from truetally.graph.graph import Changes
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.memories import Memory, MemoryKind
from truetally.model.observations import Listed, Seen
from truetally.model.refs import KUBERNETES_KINDS, Kind, Ref
from worlds import (
    CLUSTER,
    DRIVER,
    NAME,
    NAS,
    NOW,
    PARENT,
    PATH,
    SNAPSHOT_UID,
    a_claim,
    a_content,
    a_csi_source,
    a_dataset,
    a_pool,
    a_snapshot,
    a_volume,
    accused,
    an_attachment,
    judge,
    properties,
    ref_of,
    seen,
    settings,
    world,
)

SOURCE, CONTAINER = "clone-source-left", "snapshot-container-empty"
NEW_UID = "9a4f5f0e-8f1a-4c8a-9d0e-0000000000ff"
NEW = f"pvc-{NEW_UID}"
SNAPSHOT = f"snapshot-{SNAPSHOT_UID}"
SNAPS = "tank/k8s/nfs/snaps"
HOLDER = f"{SNAPS}/{NAME}"
DRIVERS = [
    {
        "driver": DRIVER,
        "cluster": CLUSTER,
        "nas": NAS,
        "parent": PARENT,
        "snapshots_parent": SNAPS,
        "instance_id": "cluster-a",
    }
]
TWO = [{"name": CLUSTER, "kubeconfig": "/x"}, {"name": "edge", "kubeconfig": "/y"}]


def config(**changes):
    return settings(**{"drivers": DRIVERS} | changes)


UNMARKED = a_dataset(user_properties={})


def a_source(made_for=f"volume-{NEW}", dataset=PATH, **changes):
    return a_snapshot(f"volume-source-for-{made_for}", dataset, **{"clones": (), "holds": ()} | changes)


def a_container(path=HOLDER, **changes):
    return a_dataset(
        path, **{"user_properties": {}, "used_bytes": 98304, "referenced_bytes": 98304} | changes
    )


def a_detached(name=SNAPSHOT, **changes):
    marks = properties(volume_name=None, **{"democratic-csi:csi_snapshot_name": name})
    return a_dataset(f"{HOLDER}/{name}", **{"user_properties": marks} | changes)


def with_source(*more, snapshot=None, dataset=None, **how):
    """A volume in use, with a snapshot that was taken to clone it for a claim that does not exist."""
    volume = [dataset or a_dataset(), a_volume(), a_claim()]
    return world(a_pool(), *volume, snapshot or a_source(), *more, **{"config": config()} | how)


def with_container(*more, container=None, seen_before=True, **how):
    """An empty container of a volume that a watched cluster once had."""
    in_world = world(a_pool(), container or a_container(), *more, **{"config": config()} | how)
    if seen_before:
        in_world.graph.recall([Memory(MemoryKind.VOLUME, NAME, CLUSTER, False)])
    return in_world


def why_not(rule, name, in_world):
    answer = judge(rule, Ref(NAS, catalogue.BY_ID[rule].subject, name), in_world)
    assert isinstance(answer, Clear)
    return answer.reason


SOURCE_NAME = f"{PATH}@volume-source-for-volume-{NEW}"


# Snapshots to clone from


def test_a_clone_source_whose_clone_never_came_is_found_though_its_volume_is_in_use():
    assert accused(SOURCE, with_source()) == [SOURCE_NAME]


def test_one_that_was_taken_for_a_detached_snapshot_is_found():
    in_world = with_source(snapshot=a_source(f"snapshot-{SNAPSHOT}"))
    assert accused(SOURCE, in_world) == [f"{PATH}@volume-source-for-snapshot-{SNAPSHOT}"]


def test_one_on_a_detached_snapshot_is_found():
    name = f"{HOLDER}/{SNAPSHOT}"
    in_world = with_source(a_detached(), a_container(), a_content(), snapshot=a_source(dataset=name))
    assert accused(SOURCE, in_world) == [f"{name}@volume-source-for-volume-{NEW}"]


NEEDING = {
    "its clone": a_dataset(f"{PARENT}/other", origin=SOURCE_NAME, user_properties={}),
    "a dataset of the new volume's name": a_dataset(f"{PARENT}/{NEW}"),
    "one elsewhere": a_dataset(f"tank/trash/{NEW}", user_properties={}),
    "the new claim": a_claim("new", NEW_UID, phase="Pending", volume_name=""),
    "the new volume": a_volume(NEW, claim=None, csi=a_csi_source(NEW)),
    "a volume with its handle": a_volume("adopted", claim=None, csi=a_csi_source(NEW)),
    "a claim that waits for the new volume": a_claim("new", "another", volume_name=NEW),
    "an attachment of the new volume": k8s.VolumeAttachment("a", NOW, DRIVER, "node1", NEW),
    "a content of the new volume": a_content(source_volume_handle=NEW, snapshot_handle=f"{NEW}@x"),
}


@pytest.mark.parametrize("what", NEEDING)
def test_a_clone_source_is_needed_by(what):
    assert SOURCE_NAME not in accused(SOURCE, with_source(NEEDING[what]))


def test_a_claim_in_a_second_watched_cluster_needs_it_as_well():
    claim = seen(a_claim("new", NEW_UID, phase="Pending", volume_name=""), source="edge")
    assert accused(SOURCE, with_source(config=config(clusters=TWO))) == [SOURCE_NAME]
    assert accused(SOURCE, with_source(claim, config=config(clusters=TWO))) == []


@pytest.mark.parametrize(
    "asking",
    [
        k8s.VolumeSnapshot("default", "snap", SNAPSHOT_UID, NOW),
        a_content(source_volume_handle="", snapshot_handle=""),
        a_content(
            snapshot_uid="",
            source_volume_handle="",
            snapshot_handle="",
            source_snapshot_handle=f"{NAME}/{SNAPSHOT}",
        ),
        a_detached(),
    ],
    ids=["its VolumeSnapshot", "its content", "a pre-provisioned content", "its copy"],
)
def test_one_for_a_detached_snapshot_is_needed_by(asking):
    assert accused(SOURCE, with_source(asking, snapshot=a_source(f"snapshot-{SNAPSHOT}"))) == []


@pytest.mark.parametrize(
    "snapshot",
    [
        a_source(clones=("tank/x",)),
        a_source(holds=("zettarepl",)),
        a_source(defer_destroy=True),
        a_source(created_at=NOW - timedelta(minutes=59)),
        a_source(created_at=None),
        a_source("volume-default-data"),
        a_snapshot("auto-2026-11-01_00-00"),
        a_snapshot(f"snapshot-{NEW_UID}"),
    ],
    ids=["cloned", "held", "deferred", "young", "of unknown age", "templated", "periodic", "a CSI snapshot"],
)
def test_a_snapshot_is_no_clone_source_that_was_left_behind_when_it_is(snapshot):
    assert accused(SOURCE, with_source(snapshot=snapshot)) == []


@pytest.mark.parametrize(
    "dataset",
    [
        UNMARKED,
        a_dataset(user_properties=properties(truenas.Origin.RECEIVED)),
        a_dataset(user_properties=properties(truenas.Origin.INHERITED)),
        a_dataset(user_properties=properties(instance_id="cluster-b")),
        a_dataset(user_properties=properties(ignore="keep")),
        a_dataset(readonly=True),
        a_dataset(locked=True),
    ],
    ids=["unmarked", "replica", "inheriting", "of another cluster", "exempted", "read-only", "locked"],
)
def test_a_clone_source_is_left_alone_on_a_dataset_that_is(dataset):
    assert accused(SOURCE, with_source(dataset=dataset)) == []


def test_a_clone_source_on_an_unmarked_dataset_is_nobodys_where_no_instance_id_tells_either():
    nameless = config(drivers=[DRIVERS[0] | {"instance_id": None}])
    marked = a_dataset(user_properties=properties(instance_id=None))
    bare = a_volume(csi=a_csi_source(provisioner_driver_instance_id=""))
    found = [world(a_pool(), d, bare, a_claim(), a_source(), config=nameless) for d in (marked, UNMARKED)]
    assert [accused(SOURCE, each) for each in found] == [[SOURCE_NAME], []]


def test_a_clone_source_on_a_detached_snapshot_of_nobody_we_know_is_left_alone():
    name = f"{HOLDER}/{SNAPSHOT}"
    in_world = with_source(a_detached(), a_container(), snapshot=a_source(dataset=name), config=settings())
    assert accused(SOURCE, in_world) == []


@pytest.mark.parametrize("use", [{"jobs": ("replication.run_onetime",)}, {"unknown": ("jobs: no",)}], ids=str)
def test_a_copy_that_runs_or_may_run_needs_the_clone_source(use):
    assert accused(SOURCE, with_source(_use(PATH, **use))) == []


def test_that_its_volume_is_in_use_says_nothing_of_the_clone_source():
    for use in ({"clients": ("10.0.0.7",)}, {"unknown": ("NFS and SMB clients: no",)}):
        assert accused(SOURCE, with_source(_use(PATH, **use))) == [SOURCE_NAME]


# Containers of detached snapshots


def test_an_empty_container_of_a_volume_that_is_gone_is_found():
    assert accused(CONTAINER, with_container()) == [HOLDER]


def test_a_container_of_a_volume_that_no_watched_cluster_has_had_could_be_anybodys():
    assert accused(CONTAINER, with_container(seen_before=False)) == []


WANTING = {
    "a detached snapshot": a_detached(),
    "any other child": a_dataset(f"{HOLDER}/x", user_properties={}),
    "a snapshot": a_snapshot("auto", HOLDER),
    "its volume's dataset": a_dataset(),
    "its PersistentVolume": a_volume(csi=a_csi_source(server="", share="")),
    "its claim": a_claim(volume_name=""),
    "a content of its volume": a_content(),
    "a pre-provisioned content": a_content(
        source_volume_handle="", snapshot_handle="", source_snapshot_handle=f"{NAME}/{SNAPSHOT}"
    ),
    "a volume that mounts it": a_volume(
        "x", claim=None, csi=None, nfs=k8s.NfsSource("10.0.0.10", f"/mnt/{HOLDER}/a")
    ),
    "a pod that mounts it": k8s.Pod("default", "p", "u", nfs=(k8s.NfsSource("nas", f"/mnt/{HOLDER}"),)),
    "an attachment of its volume": an_attachment(),
    "an NFS share": truenas.NfsShare(1, f"/mnt/{HOLDER}"),
    "an SMB share": truenas.SmbShare(1, "x", f"/mnt/{HOLDER}"),
    "a snapshot task": truenas.SnapshotTask(1, HOLDER, False, True, "auto-%Y"),
    "a replication task": truenas.ReplicationTask(1, "r", "PULL", ("b/x",), HOLDER, False, True),
    "an NFS client": truenas.NfsClient("10.0.0.9", 3, f"/mnt/{HOLDER}"),
}


@pytest.mark.parametrize("what", WANTING)
def test_a_container_is_left_alone_for(what):
    assert accused(CONTAINER, with_container(WANTING[what])) == []


@pytest.mark.parametrize(
    "container",
    [
        a_container(created_at=NOW - timedelta(minutes=59)),
        a_container(created_at=None),
        a_container(referenced_bytes=2 << 20),
        a_container(referenced_bytes=None),
        a_container(locked=True),
        a_container(readonly=True),
        a_container(kind="VOLUME"),
        a_container(user_properties=properties()),
        a_container(user_properties={"truetally:ignore": truenas.UserProperty("x", truenas.Origin.LOCAL)}),
        a_container(f"{SNAPS}/films"),
        a_container(f"tank/elsewhere/{NAME}"),
        a_container(f"{HOLDER}/{NAME}"),
    ],
)
def test_a_dataset_is_no_empty_container_when_it_is_another(container):
    assert accused(CONTAINER, with_container(container=container)) == []


@pytest.mark.parametrize(
    "use",
    [
        {"clients": ("10.0.0.7",)},
        {"processes": ("smbd",)},
        {"jobs": ("replication.run_onetime",)},
        {"attachments": ("NFS Share: x",)},
        {"unknown": ("processes: the role DATASET_READ is needed",)},
    ],
    ids=str,
)
def test_whoever_uses_a_container_or_may_do_so_protects_it(use):
    assert accused(CONTAINER, with_container(_use(HOLDER, **use))) == []


def test_a_foreign_volume_beside_the_volumes_makes_the_owner_of_a_container_unknown():
    foreign = a_dataset(f"{PARENT}/{NEW}", user_properties=properties(instance_id="b", volume_name=NEW))
    assert "its owner is not known" in why_not(CONTAINER, HOLDER, with_container(foreign))


def test_a_container_below_a_parent_of_a_driver_on_another_nas_is_not_ours():
    nas = [
        {"name": name, "url": f"wss://{name}", "username": "u", "api_key": {"env": "K"}}
        for name in (NAS, "nas2")
    ]
    elsewhere = config(nas=nas, drivers=[DRIVERS[0] | {"nas": "nas2"}])
    assert accused(CONTAINER, with_container(config=config(nas=nas))) == [HOLDER]
    assert accused(CONTAINER, with_container(config=elsewhere)) == []


# Both


BOTH = [(SOURCE, SOURCE_NAME, with_source), (CONTAINER, HOLDER, with_container)]
each_rule = pytest.mark.parametrize(("rule", "name", "of"), BOTH, ids=[SOURCE, CONTAINER])


@each_rule
@pytest.mark.parametrize("kind", sorted(orphans.REFERRING | {Kind.DATASET, Kind.POOL, Kind.SNAPSHOT}))
def test_nothing_is_found_before_everything_that_could_need_it_is_listed(rule, name, of, kind):
    source = CLUSTER if kind in KUBERNETES_KINDS else NAS
    assert accused(rule, of(incomplete=[(source, kind)])) == []


@each_rule
def test_a_pool_that_is_not_there_hides_what_is_in_it(rule, name, of):
    assert accused(rule, of(a_pool(status="OFFLINE"))) == []


@pytest.mark.parametrize(
    ("rule", "in_world", "found"),
    [
        (CONTAINER, with_container(), []),
        (SOURCE, with_source(snapshot=a_source(f"snapshot-{SNAPSHOT}")), []),
        (SOURCE, with_source(), [SOURCE_NAME]),
    ],
    ids=["a container", "a source for a snapshot", "a source for a volume"],
)
def test_where_no_snapshot_could_be_asked_for_nothing_of_snapshots_is_found(rule, in_world, found):
    gone = Listed(CLUSTER, Kind.VOLUME_SNAPSHOT_CONTENT, frozenset(), 2.0, absent=True)
    in_world.graph.apply(gone, Changes())
    assert accused(rule, in_world) == found


@each_rule
def test_a_suspicion_is_believed_only_after_nas_and_then_clusters_were_read_again(rule, name, of):
    declared, in_world, path = catalogue.BY_ID[rule], of(), name.partition("@")[0]
    subject = Ref(NAS, declared.subject, name)
    asked = declared.reread(subject, in_world)
    assert (asked.order, asked.nas, asked.cluster) == (Order.STORAGE_FIRST, NAS, None)
    assert asked.objects == {subject, Ref(NAS, Kind.DATASET_USE, path)}
    assert asked.cluster_kinds == orphans.REFERRING
    assert Kind.DATASET in asked.nas_kinds

    def after(*observations):
        for each in observations:
            in_world.graph.apply(each, Changes())
        return declared.confirmed(subject, in_world, 60.0)

    def lists(kinds, source, at):
        return [Listed(source, kind, frozenset(in_world.graph.nodes(source, kind)), at) for kind in kinds]

    assert after() == "it has not been read again"
    assert after(seen(in_world.node(subject).value, 70.0)) == "the NAS has not been read again"
    assert after(*lists(asked.nas_kinds, NAS, 71.0)) == f"the use of {path} has not been read"
    assert after(_use(path, at=72.0)) == "the clusters have not been read after the NAS"
    assert after(*lists(orphans.REFERRING, CLUSTER, 71.5)) == "the clusters have not been read after the NAS"
    assert after(*lists(orphans.REFERRING, CLUSTER, 73.0)) == ""
    assert accused(rule, in_world) == [name]


def test_what_happens_to_the_claim_is_brought_before_what_was_made_for_it():
    claim = a_claim("new", NEW_UID, phase="Pending", volume_name="")
    assert Ref(NAS, Kind.SNAPSHOT, SOURCE_NAME) in with_source(claim).graph.related(ref_of(claim))
    assert Ref(NAS, Kind.DATASET, HOLDER) in with_container(a_claim()).graph.related(ref_of(a_claim()))


def _use(path, at=99.0, **what):
    return Seen(Ref(NAS, Kind.DATASET_USE, path), truenas.DatasetUse(**what), at)
