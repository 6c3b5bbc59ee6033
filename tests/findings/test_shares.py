"""Shares, targets, extents and namespaces whose other end is gone: found only if they are surely nobody's."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from truetally.findings import catalogue, orphans
from truetally.findings.rule import Clear, Order
from truetally.graph.graph import Changes
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.findings import Severity
from truetally.model.memories import Memory, MemoryKind
from truetally.model.observations import Listed, Lost, Seen, Trouble
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
    a_namespace,
    a_pool,
    a_snapshot,
    a_subsystem,
    a_volume,
    a_zvol,
    accused,
    an_attachment,
    an_nvme_session,
    an_nvme_volume,
    judge,
    properties,
    ref_of,
    seen,
    settings,
    world,
)

NFS, SMB, TARGET, EXTENT = "nfs-share-orphaned", "smb-share-orphaned", "target-orphaned", "extent-orphaned"
LINK, SUBSYSTEM, NAMESPACE = "target-link-orphaned", "subsystem-orphaned", "namespace-orphaned"
RULES = (NFS, SMB, TARGET, EXTENT, LINK, SUBSYSTEM, NAMESPACE)
ASSET = f"csi-{NAME}-clustera"
IQN = f"iqn.2005-10.org.freenas.ctl:{ASSET}"
OTHER = f"{PARENT}/pvc-3b4f5f0e-8f1a-4c8a-9d0e-00000000000b"


def a_parent(**changes):
    return a_dataset(PARENT, user_properties={}, **changes)


def an_nfs_share(path=PATH, driver=DRIVER, **changes):
    share = truenas.NfsShare(1, f"/mnt/{path}", comment=f"democratic-csi ({driver}): {path}")
    return msgspec.structs.replace(share, **changes)


def an_smb_share(name=ASSET, **changes):
    return msgspec.structs.replace(truenas.SmbShare(1, name, f"/mnt/{PATH}"), **changes)


def a_target(name=ASSET, **changes):
    return msgspec.structs.replace(truenas.IscsiTarget(5, name), **changes)


def an_extent(name=ASSET, disk=PATH, **changes):
    return msgspec.structs.replace(truenas.IscsiExtent(6, name, "DISK", disk), **changes)


def a_link(target=5, extent=6):
    return truenas.IscsiTargetExtent(7, target, extent, 0)


def an_iscsi_volume(iqn=IQN, **changes):
    attributes = {"node_attach_driver": "iscsi", "portal": "10.0.0.10:3260", "iqn": iqn, "lun": "0"}
    source = a_csi_source("a-handle", server="", share="", **attributes)
    return a_volume("of-iqn", **{"claim": None, "csi": source} | changes)


# What each rule finds, and its object's name.
LEFT_OVER = {
    NFS: [an_nfs_share()],
    SMB: [an_smb_share()],
    TARGET: [a_target()],
    EXTENT: [a_target(), a_link(), an_extent()],
    LINK: [a_target(), a_link()],
    SUBSYSTEM: [a_subsystem()],
    NAMESPACE: [a_subsystem(), a_namespace()],
}
SUBJECT = {NFS: "1", SMB: "1", TARGET: "5", EXTENT: "6", LINK: "7", SUBSYSTEM: "1", NAMESPACE: "2"}
BY_NAME = (TARGET, LINK, SUBSYSTEM)  # without a path
BY_PATH = (NFS, SMB, EXTENT, NAMESPACE)

each_rule = pytest.mark.parametrize("rule", RULES)


def left_over(rule, *more, pool=None, parent=None, instead=None, seen_before=True, **how):
    """A world with one leftover, whose volume a watched cluster once had."""
    objects = LEFT_OVER[rule] if instead is None else instead
    in_world = world(pool or a_pool(), parent or a_parent(), *objects, *more, **how)
    if seen_before:
        in_world.graph.recall([Memory(MemoryKind.VOLUME, NAME, CLUSTER, False)])
    return in_world


def why_not(rule, in_world):
    answer = judge(rule, Ref(NAS, catalogue.BY_ID[rule].subject, SUBJECT[rule]), in_world)
    assert isinstance(answer, Clear)
    return answer.reason


@each_rule
def test_a_leftover_is_found(rule):
    assert accused(rule, left_over(rule)) == [SUBJECT[rule]]


@each_rule
def test_a_volume_that_no_watched_cluster_has_had_could_be_anybodys(rule):
    in_world = left_over(rule, seen_before=False)
    assert accused(rule, in_world) == []
    assert "its owner is not known" in why_not(rule, in_world)


def test_a_whole_volume_is_left_alone():
    whole = [
        [a_dataset(), an_nfs_share(), a_volume(), a_claim()],
        [a_dataset(), an_smb_share(), a_volume()],
        [a_zvol(), a_target(), an_extent(), a_link(), an_iscsi_volume()],
        [a_zvol(), a_subsystem(), a_namespace(), an_nvme_volume(), an_nvme_session()],
    ]
    for values in whole:
        in_world = world(a_pool(), a_parent(), *values)
        assert [rule for rule in RULES if accused(rule, in_world)] == []


# The other end


@pytest.mark.parametrize("rule", BY_PATH)
def test_a_dataset_that_nothing_uses_is_for_another_rule_to_find(rule):
    in_world = left_over(rule, a_zvol() if rule == NAMESPACE else a_dataset())
    assert accused(rule, in_world) == []
    assert why_not(rule, in_world) == f"it leads to dataset {PATH}"
    assert accused("dataset-without-volume", in_world) == [PATH]


@pytest.mark.parametrize("rule", BY_PATH)
def test_a_dataset_on_another_nas_is_not_the_one_it_led_to_but_protects(rule):
    in_world = left_over(rule, seen(a_dataset(), source="nas2"))
    assert "may have been moved" in why_not(rule, in_world)


def test_a_dataset_that_is_mounted_there_is_the_one_it_leads_to():
    elsewhere = a_dataset("tank/other", mountpoint=f"/mnt/{PATH}", user_properties={})
    assert accused(NFS, left_over(NFS, elsewhere)) == []


def test_a_target_and_a_subsystem_that_lead_to_something_are_left_to_the_rule_on_that():
    assert accused(TARGET, left_over(EXTENT)) == []
    assert accused(SUBSYSTEM, left_over(NAMESPACE)) == []


def test_a_link_between_two_that_exist_is_none_that_leads_nowhere():
    assert accused(LINK, left_over(LINK, an_extent())) == []


def test_a_link_whose_ends_are_both_gone_is_nobodys():
    assert "neither" in why_not(LINK, left_over(LINK, instead=[a_link()]))


def test_a_link_whose_target_is_gone_is_known_by_its_extent():
    assert accused(LINK, left_over(LINK, instead=[a_link(), an_extent()])) == ["7"]
    orphan = left_over(LINK, a_zvol(), instead=[a_link(), an_extent()])
    assert accused(LINK, orphan) == ["7"]
    in_use = left_over(LINK, a_zvol(), a_volume(), instead=[a_link(), an_extent()])
    assert accused(LINK, in_use) == []


# Does anybody speak of it?


def by_hand(name="by-hand", **attributes):
    return a_volume(name, claim=None, annotations={}, csi=k8s.CsiSource("d", "x", "", attributes))


NAMED = {
    "the PersistentVolume": a_volume(csi=a_csi_source(share="", server="")),
    "one that is released and retained": a_volume(phase="Released", reclaim_policy="Retain"),
    "a pending claim": a_claim(phase="Pending", volume_name=""),
    "a claim bound to it": a_claim(uid="another"),
    "a claim that is lost": a_claim(uid="another", phase="Lost"),
    "a content of its snapshot": a_content(),
    "a pre-provisioned content": a_content(
        snapshot_handle="", source_volume_handle="", source_snapshot_handle=f"{NAME}@x"
    ),
    "a content of its detached snapshot": a_content(
        source_volume_handle="", snapshot_handle=f"{NAME}/snapshot-{SNAPSHOT_UID}"
    ),
    "an attachment": an_attachment(),
}
AT_PATH = {
    "an in-tree NFS volume": a_volume(
        "x", claim=None, csi=None, nfs=k8s.NfsSource("10.0.0.10", f"/mnt/{PATH}")
    ),
    "a directory inside it": a_volume(
        "x", claim=None, csi=None, nfs=k8s.NfsSource("nas", f"/mnt/{PATH}/sub")
    ),
    "a volume of another driver": by_hand(nfsPath=f"/mnt/{PATH}"),
    "an inline NFS volume": k8s.Pod("default", "p", "u", nfs=(k8s.NfsSource("nas", f"/mnt/{PATH}"),)),
    "a file extent inside it": truenas.IscsiExtent(99, "x", "FILE", f"/mnt/{PATH}/disk.img"),
    "a snapshot task": truenas.SnapshotTask(1, PATH, False, True, "auto-%Y"),
    "a replication task": truenas.ReplicationTask(1, "restore", "PULL", ("b/x",), PATH, False, True),
    "a child of the dataset": a_dataset(f"{PATH}/child", user_properties={}),
    "a snapshot of the dataset": a_snapshot("auto"),
}
IN_ISCSI = {
    "a volume by IQN": an_iscsi_volume(),
    "a volume by IQN in capitals": an_iscsi_volume(IQN.upper().replace("IQN.", "iqn.")),
    "an in-tree volume": a_volume("x", claim=None, csi=None, iscsi=k8s.IscsiSource(("10.0.0.10",), IQN)),
    "an inline volume": k8s.Pod("default", "p", "u", iscsi=(k8s.IscsiSource(("10.0.0.10",), IQN),)),
    "a volume of another driver": by_hand(targetIQN=IQN),
    "a session": truenas.IscsiSession("iqn.node1", "10.0.0.5", IQN),
}
IN_NVME = {
    "a volume by NQN": an_nvme_volume(handle="x", name="x", claim=None),
    "a volume of another driver": by_hand(nqn=a_subsystem().nqn),
    "a session": an_nvme_session(),
}
IN_SMB = {
    "a volume by share": by_hand(source=f"//10.0.0.10/{ASSET}"),
    "a client": truenas.SmbClient("10.0.0.9", ASSET),
}
PROTECTING = (
    [(rule, what, value) for rule in RULES for what, value in NAMED.items()]
    + [(rule, what, value) for rule in BY_PATH for what, value in AT_PATH.items()]
    + [(rule, what, value) for rule in (TARGET, EXTENT, LINK) for what, value in IN_ISCSI.items()]
    + [(rule, what, value) for rule in (SUBSYSTEM, NAMESPACE) for what, value in IN_NVME.items()]
    + [(SMB, what, value) for what, value in IN_SMB.items()]
    + [(NFS, "a client", truenas.NfsClient("10.0.0.9", 3, f"/mnt/{PATH}"))]
)


@pytest.mark.parametrize(("rule", "what", "value"), PROTECTING, ids=[f"{r}: {w}" for r, w, _ in PROTECTING])
def test_whoever_speaks_of_it_protects_it(rule, what, value):
    assert accused(rule, left_over(rule, value)) == []


@each_rule
def test_a_volume_in_a_second_watched_cluster_protects_it(rule):
    two = settings(clusters=[{"name": CLUSTER, "kubeconfig": "/x"}, {"name": "edge", "kubeconfig": "/y"}])
    assert accused(rule, left_over(rule, config=two)) == [SUBJECT[rule]]
    assert accused(rule, left_over(rule, seen(a_volume(), source="edge"), config=two)) == []
    assert accused(rule, left_over(rule, seen(a_claim(), source="edge"), config=two)) == []


@each_rule
@pytest.mark.parametrize("kind", sorted(orphans.REFERRING | {Kind.DATASET, Kind.POOL}))
def test_nothing_is_found_before_everything_that_could_speak_of_it_is_listed(rule, kind):
    source = CLUSTER if kind in KUBERNETES_KINDS else NAS
    assert accused(rule, left_over(rule, incomplete=[(source, kind)])) == []


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        (TARGET, Kind.ISCSI_EXTENT),
        (TARGET, Kind.ISCSI_TARGET_EXTENT),
        (TARGET, Kind.ISCSI_SESSION),
        (LINK, Kind.ISCSI_TARGET),
        (LINK, Kind.ISCSI_EXTENT),
        (SUBSYSTEM, Kind.NVME_NAMESPACE),
        (SUBSYSTEM, Kind.NVME_SESSION),
        (NAMESPACE, Kind.NVME_SUBSYSTEM),
    ],
)
def test_nothing_is_missing_from_a_list_that_is_lost(rule, kind):
    in_world = left_over(rule)
    in_world.graph.apply(Lost(NAS, kind, Trouble.FAILED, "it failed", 2.0), Changes())
    assert accused(rule, in_world) == []


# Is its dataset there to be looked at?


@each_rule
@pytest.mark.parametrize("pool", [a_pool(status="OFFLINE"), a_pool(name="other")], ids=["offline", "absent"])
def test_a_pool_that_is_not_there_hides_its_datasets(rule, pool):
    assert accused(rule, left_over(rule, pool=pool)) == []


@pytest.mark.parametrize("rule", BY_NAME)
def test_what_has_no_path_could_lead_into_any_pool(rule):
    offline = truenas.Pool("fast", "OFFLINE", False)
    assert accused(rule, left_over(rule, offline)) == []


@each_rule
@pytest.mark.parametrize(
    "parent",
    [{"locked": True}, {"readonly": True}, {"path": "tank/elsewhere"}],
    ids=["locked", "replica", "gone"],
)
def test_below_a_parent_that_cannot_be_looked_into_nothing_is_missing(rule, parent):
    changed = msgspec.structs.replace(a_parent(), **parent)
    assert accused(rule, left_over(rule, parent=changed)) == []


@each_rule
def test_a_parent_can_be_exempted(rule):
    marked = msgspec.structs.replace(
        a_parent(), user_properties={"truetally:ignore": truenas.UserProperty("old", truenas.Origin.LOCAL)}
    )
    assert accused(rule, left_over(rule, parent=marked)) == []


@pytest.mark.parametrize(
    ("rule", "objects"),
    [
        (NFS, [an_nfs_share(enabled=False)]),
        (SMB, [an_smb_share(enabled=False)]),
        (EXTENT, [an_extent(enabled=False)]),
        (NAMESPACE, [a_subsystem(), a_namespace(enabled=False)]),
        (NFS, [an_nfs_share(locked=True)]),
        (SMB, [an_smb_share(locked=True)]),
        (EXTENT, [an_extent(locked=True)]),
        (NAMESPACE, [a_subsystem(), a_namespace(locked=True)]),
        (NFS, [an_nfs_share(comment="truetally:ignore")]),
        (SMB, [an_smb_share(comment="truetally:ignore, for Ann")]),
        (EXTENT, [an_extent(comment="truetally:ignore")]),
        (TARGET, [a_target(alias="truetally:ignore")]),
        (LINK, [a_link(), a_target(alias="truetally:ignore")]),
        (LINK, [a_link(), an_extent(enabled=False)]),
    ],
)
def test_what_is_disabled_locked_or_exempted_is_left_alone(rule, objects):
    assert accused(rule, left_over(rule, instead=objects)) == []


# Did democratic-csi make it, for a watched cluster?


MEDIA = f"{PARENT}/media"


@pytest.mark.parametrize(
    ("rule", "objects"),
    [
        (NFS, [an_nfs_share(MEDIA, comment="")]),
        (NFS, [an_nfs_share(MEDIA, comment="films")]),
        (NFS, [an_nfs_share(comment=f"democratic-csi ({DRIVER}): {OTHER}")]),
        (NFS, [an_nfs_share(driver="org.democratic-csi.of-somebody-else")]),
        (NFS, [an_nfs_share(f"{PATH}/deeper")]),
        (NFS, [an_nfs_share(f"tank/other/{NAME}")]),
        (SMB, [an_smb_share("Media")]),
        (SMB, [an_smb_share("media", path=f"/mnt/{MEDIA}")]),
        (SMB, [an_smb_share(path=f"/mnt/tank/other/{NAME}")]),
        (EXTENT, [an_extent("disk")]),
        (EXTENT, [an_extent("media", MEDIA)]),
        (EXTENT, [an_extent(type="FILE", disk=f"/mnt/{PATH}")]),
        (EXTENT, [an_extent(type="FILE")]),
        (EXTENT, [an_extent(disk=f"tank/other/{NAME}")]),
        (TARGET, [a_target("vmware")]),
        (TARGET, [a_target(f"{NAME}-{SNAPSHOT_UID}")]),
        (LINK, [a_link(), a_target("vmware")]),
        (LINK, [a_link(), an_extent("disk")]),
        (SUBSYSTEM, [a_subsystem("vmware")]),
        (SUBSYSTEM, [a_subsystem(nqn="")]),
        (NAMESPACE, [a_namespace()]),
        (NAMESPACE, [a_subsystem("vmware"), a_namespace()]),
        (NAMESPACE, [a_subsystem(), a_namespace(f"/mnt/{PATH}", type="FILE")]),
        (NAMESPACE, [a_subsystem(), a_namespace(f"tank/other/{NAME}")]),
    ],
)
def test_what_a_person_or_another_driver_made_is_left_alone(rule, objects):
    in_world = left_over(rule, instead=objects)
    assert accused(rule, in_world) + accused(UNKNOWN.get(rule, rule), in_world) == []


def test_a_share_with_a_comment_of_its_own_template_is_found_if_its_volume_was_seen():
    templated = [an_nfs_share(comment="pvc default/data")]
    assert accused(NFS, left_over(NFS, instead=templated)) == ["1"]
    unseen = left_over(NFS, instead=templated, seen_before=False)
    assert accused(NFS, unseen) + accused(UNKNOWN[NFS], unseen) == []


@each_rule
def test_a_foreign_volume_under_the_same_parent_makes_the_owner_unknown(rule):
    foreign = properties(instance_id="cluster-b", volume_name=OTHER.rpartition("/")[2])
    in_world = left_over(rule, a_dataset(OTHER, user_properties=foreign))
    assert "cluster-b" in why_not(rule, in_world)


@each_rule
def test_under_a_parent_that_nobody_vouches_for_the_owner_is_unknown(rule):
    in_world = left_over(rule, config=settings(drivers=[]), seen_before=False)
    expected = "which no watched cluster uses" if rule == NFS else "its owner is not known"
    assert expected in why_not(rule, in_world)


@pytest.mark.parametrize("rule", BY_PATH)
def test_a_live_neighbour_vouches_for_what_was_seen_before(rule):
    neighbour = OTHER.rpartition("/")[2]
    live = [a_dataset(OTHER), a_volume(neighbour, claim=None, csi=a_csi_source(neighbour))]
    learned = settings(drivers=[])
    assert accused(rule, left_over(rule, *live, config=learned)) == [SUBJECT[rule]]
    assert accused(rule, left_over(rule, *live, config=learned, seen_before=False)) == []


def test_a_volume_that_another_clusters_driver_had_on_another_nas_proves_nothing_here():
    elsewhere = settings(
        clusters=[{"name": CLUSTER, "kubeconfig": "/x"}, {"name": "edge", "kubeconfig": "/y"}],
    )
    in_world = left_over(TARGET, seen_before=False, config=elsewhere)
    in_world.graph.recall([Memory(MemoryKind.VOLUME, NAME, "edge", False)])
    assert "its owner is not known" in why_not(TARGET, in_world)


UNKNOWN = {
    NFS: "nfs-share-owner-unknown",
    SMB: "smb-share-owner-unknown",
    EXTENT: "extent-owner-unknown",
    NAMESPACE: "namespace-owner-unknown",
}


@pytest.mark.parametrize("rule", BY_PATH)
def test_what_lies_in_our_parent_and_was_never_seen_is_told_as_information(rule):
    in_world = left_over(rule, seen_before=False)
    assert accused(UNKNOWN[rule], in_world) == [SUBJECT[rule]]
    declared = catalogue.BY_ID[UNKNOWN[rule]]
    assert (declared.severity, declared.reread) == (Severity.INFO, None)


@pytest.mark.parametrize("rule", BY_PATH)
def test_a_foreign_volume_beside_it_leaves_its_owner_to_be_asked_for(rule):
    foreign = properties(instance_id="cluster-b", volume_name=OTHER.rpartition("/")[2])
    in_world = left_over(rule, a_dataset(OTHER, user_properties=foreign))
    assert accused(UNKNOWN[rule], in_world) == [SUBJECT[rule]]


@pytest.mark.parametrize("rule", BY_PATH)
@pytest.mark.parametrize(
    ("more", "how", "reason"),
    [
        ([], {}, "it is orphaned"),
        ([a_claim()], {}, "refers to it"),
        ([], {"config": settings(drivers=[])}, "not known to be ours"),
    ],
    ids=["orphaned", "wanted", "in no parent of ours"],
)
def test_no_owner_is_asked_for_where_it_is(rule, more, how, reason):
    # A comment that names a driver would say more than the parent.
    objects = [an_nfs_share(comment="by a template")] if rule == NFS else None
    in_world = left_over(rule, *more, instead=objects, **how)
    answer = judge(UNKNOWN[rule], Ref(NAS, catalogue.BY_ID[rule].subject, SUBJECT[rule]), in_world)
    assert isinstance(answer, Clear)
    assert reason in answer.reason


# What is left of its volume?


@pytest.mark.parametrize("rule", BY_NAME)
def test_a_zvol_that_is_orphaned_itself_proves_whose_it_is(rule):
    assert accused(rule, left_over(rule, a_zvol(), seen_before=False)) == [SUBJECT[rule]]


@pytest.mark.parametrize("rule", BY_NAME)
@pytest.mark.parametrize(
    "zvol",
    [
        a_zvol(created_at=NOW - timedelta(minutes=59)),
        a_zvol(locked=True),
        a_zvol(user_properties={}),
        a_zvol(user_properties=properties(truenas.Origin.RECEIVED)),
        a_zvol(user_properties=properties(ignore="archive")),
        a_zvol(f"tank/trash/{NAME}"),
    ],
    ids=["half-created and young", "locked", "unmarked", "restored by zfs receive", "exempted", "renamed"],
)
def test_a_zvol_that_is_no_orphan_protects_what_leads_to_it(rule, zvol):
    assert accused(rule, left_over(rule, zvol)) == []


@pytest.mark.parametrize("rule", BY_PATH)
def test_a_dataset_that_was_renamed_protects_its_shares(rule):
    assert "may have been moved" in why_not(rule, left_over(rule, a_dataset(f"tank/trash/{NAME}")))


@each_rule
def test_neither_a_replica_nor_the_container_of_its_snapshots_is_the_volume(rule):
    driver = {"driver": DRIVER, "cluster": CLUSTER, "nas": NAS, "parent": PARENT}
    config = settings(drivers=[driver | {"instance_id": "cluster-a", "snapshots_parent": "tank/snaps"}])
    replica = a_dataset(f"tank/backup/{NAME}", user_properties=properties(truenas.Origin.RECEIVED))
    container = a_dataset(f"tank/snaps/{NAME}", user_properties={})
    assert accused(rule, left_over(rule, replica, container, config=config)) == [SUBJECT[rule]]


# Who uses it right now, and what must have been read again before it is told?


def use(**what):
    return Seen(Ref(NAS, Kind.DATASET_USE, PATH), truenas.DatasetUse(**what), 99.0)


@pytest.mark.parametrize("rule", BY_PATH)
@pytest.mark.parametrize(
    "found",
    [
        {"jobs": ("replication.run_onetime",)},
        {"clients": ("10.0.0.9",)},
        {"sessions": ("iqn.node1",)},
        {"unknown": ("NFS and SMB clients: the role SHARING_NFS_WRITE is needed",)},
    ],
    ids=str,
)
def test_whoever_uses_the_path_now_or_may_do_so_protects_it(rule, found):
    assert accused(rule, left_over(rule, use(**found))) == []


def test_what_was_read_long_ago_of_its_use_says_nothing():
    found = use(jobs=("replication.run_onetime",))
    assert accused(NFS, left_over(NFS, found, ticks=99.0 + 15 * 60)) == []
    assert accused(NFS, left_over(NFS, found, ticks=100.0 + 15 * 60)) == ["1"]


@pytest.mark.parametrize("rule", BY_PATH)
def test_that_a_missing_dataset_has_no_attachments_to_be_read_is_no_reason_to_doubt(rule):
    found = use(unknown=("attachments: not found", "processes: not found"))
    assert accused(rule, left_over(rule, found)) == [SUBJECT[rule]]


@each_rule
def test_a_suspicion_is_believed_only_after_nas_and_then_clusters_were_read_again(rule):
    declared, in_world = catalogue.BY_ID[rule], left_over(rule)
    subject = Ref(NAS, declared.subject, SUBJECT[rule])
    asked = declared.reread(subject, in_world)
    assert asked.order is Order.STORAGE_FIRST
    assert (asked.nas, asked.cluster, asked.cluster_kinds) == (NAS, None, orphans.REFERRING)
    assert subject in asked.objects
    assert {Kind.DATASET, Kind.POOL} < asked.nas_kinds

    def after(*observations):
        for each in observations:
            in_world.graph.apply(each, Changes())
        return declared.confirmed(subject, in_world, 60.0)

    def lists(kinds, source, at):
        return [Listed(source, kind, frozenset(in_world.graph.nodes(source, kind)), at) for kind in kinds]

    value = in_world.node(subject).value
    assert after() == "it has not been read again"
    assert after(seen(value, 70.0)) == "the NAS has not been read again"
    answer = after(*lists(asked.nas_kinds, NAS, 71.0))
    if rule in BY_PATH:
        assert answer == f"the use of {PATH} has not been read"
        answer = after(Seen(Ref(NAS, Kind.DATASET_USE, PATH), truenas.DatasetUse(), 72.0))
    assert answer == "the clusters have not been read after the NAS"
    assert after(*lists(orphans.REFERRING, CLUSTER, 70.5)) == "the clusters have not been read after the NAS"
    assert after(*lists(orphans.REFERRING, CLUSTER, 73.0)) == ""
    assert accused(rule, in_world) == [SUBJECT[rule]]


def test_what_happens_to_the_claim_is_brought_before_what_bears_its_uid():
    for rule in RULES:
        in_world = left_over(rule, a_claim(phase="Pending", volume_name=""))
        related = in_world.graph.related(ref_of(a_claim()))
        assert Ref(NAS, catalogue.BY_ID[rule].subject, SUBJECT[rule]) in related


def test_why_not_is_told():
    in_world = left_over(NFS, a_volume())
    assert why_not(NFS, in_world) == f"PersistentVolume {NAME} (prod) refers to it (R3: mounts its path)"
