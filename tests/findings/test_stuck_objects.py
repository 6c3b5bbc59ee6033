"""What does not go although it was deleted, and who is in the way? And what does nobody seem to want?"""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from truetally.findings import catalogue
from truetally.findings.ledger import Ledger
from truetally.findings.rule import Clear, Evidence, Order
from truetally.graph.graph import Changes
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.findings import Severity
from truetally.model.observations import Lost, Trouble
from truetally.model.refs import Kind, Ref
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
    a_snapshot,
    a_volume,
    accused,
    an_attachment,
    judge,
    properties,
    settings,
    world,
)

VOLUME_STUCK, CLAIM_STUCK, SNAPSHOT_STUCK, CONTENT_STUCK, UNUSED = (
    "volume-deletion-stuck",
    "claim-deletion-stuck",
    "snapshot-deletion-stuck",
    "content-deletion-stuck",
    "claim-unused",
)
CLAIM = Ref(CLUSTER, Kind.PERSISTENT_VOLUME_CLAIM, "default/data")
REGISTERED = k8s.CSIDriver(DRIVER)
CLASS = k8s.StorageClass("nfs", DRIVER)
PV_PROTECTION, PROVISIONER = (
    "kubernetes.io/pv-protection",
    "external-provisioner.volume.kubernetes.io/finalizer",
)
ATTACHER = "external-attacher/org-democratic-csi-nfs"
PVC_PROTECTION = "kubernetes.io/pvc-protection"
AS_SOURCE = "snapshot.storage.kubernetes.io/pvc-as-source-protection"
VS_SOURCE = "snapshot.storage.kubernetes.io/volumesnapshot-as-source-protection"
VS_BOUND = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection"
VSC_BOUND = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"
EXEMPT = {"truetally.io/ignore": "true"}
AWAY = f"CSI driver {DRIVER} is not registered any more, so nobody works off its finalizer"


def leaving_volume(*finalizers, **changes):
    base = {"deleted_at": OLD, "finalizers": finalizers, "phase": "Released"}
    return a_volume(**(base | changes))


def leaving_claim(*finalizers, **changes):
    return a_claim(**({"deleted_at": OLD, "finalizers": finalizers} | changes))


def a_volume_snapshot(**changes):
    snapshot = k8s.VolumeSnapshot(
        "default", "snap", SNAPSHOT_UID, OLD, source_claim="data", bound_content=a_content().name, ready=True
    )
    return msgspec.structs.replace(snapshot, **changes)


def leaving_snapshot(*finalizers, **changes):
    return a_volume_snapshot(**({"deleted_at": OLD, "finalizers": finalizers} | changes))


def leaving_content(*finalizers, **changes):
    return a_content(**({"deleted_at": OLD, "finalizers": finalizers} | changes))


def a_pod(name="web", phase="Running", **changes):
    pod = k8s.Pod("default", name, f"u-{name}", phase, "node1", claims=("data",))
    return msgspec.structs.replace(pod, **changes)


def the_only(rule, in_world):
    """What the rule finds on the only subject that it has in the world."""
    (ref,) = in_world.graph.refs(catalogue.BY_ID[rule].subject)
    return judge(rule, ref, in_world)


def blocked(rule, *values):
    evidence = the_only(rule, world(*values))
    assert isinstance(evidence, Evidence)
    return evidence.facts["blocked_by"]


# Which finalizer, and what blocks it

CLONE = a_dataset(f"{PATH}x", origin=f"{PATH}@auto-1")
ON_NAS = (a_pool(), a_dataset(), REGISTERED)
DETACHED = a_dataset(
    f"tank/k8s/nfs/snaps/{NAME}/snapshot-{SNAPSHOT_UID}",
    user_properties=properties(**{"democratic-csi:csi_snapshot_name": f"snapshot-{SNAPSHOT_UID}"}),
)
DETACHED_HANDLE = f"{NAME}/snapshot-{SNAPSHOT_UID}"

BLOCKED = {
    "a volume by its claim": (
        VOLUME_STUCK,
        (leaving_volume(PV_PROTECTION, phase="Bound"), a_claim(), REGISTERED),
        ("claim default/data is bound to it",),
    ),
    "a volume by its attachment": (
        VOLUME_STUCK,
        (leaving_volume(ATTACHER), an_attachment(), REGISTERED),
        ("attachment csi-1 still stands",),
    ),
    "a volume by a finalizer that is left over": (
        VOLUME_STUCK,
        (leaving_volume(ATTACHER), REGISTERED),
        (f"finalizer {ATTACHER} is left over: the volume has no attachment",),
    ),
    "a volume by a clone": (
        VOLUME_STUCK,
        (leaving_volume(PROVISIONER), *ON_NAS, CLONE),
        (f"{PATH} has the clone {PATH}x",),
    ),
    "a volume by snapshots that are not CSI's": (
        VOLUME_STUCK,
        (leaving_volume(PROVISIONER), *ON_NAS, a_snapshot(), a_snapshot("auto-1")),
        (f"{PATH}@auto-1 is a snapshot that is not CSI's",),
    ),
    "a volume by a hold": (
        VOLUME_STUCK,
        (leaving_volume(PROVISIONER), *ON_NAS, a_snapshot(holds=("backup",))),
        (f"snapshot {PATH}@snapshot-{SNAPSHOT_UID} is held (backup)",),
    ),
    "a volume by a driver that is away": (VOLUME_STUCK, (leaving_volume(PROVISIONER),), (AWAY,)),
    "a volume by what the driver says": (
        VOLUME_STUCK,
        (leaving_volume(PROVISIONER, status_message="dataset is busy"), REGISTERED),
        ("the driver says: dataset is busy",),
    ),
    "a volume by a stranger's finalizer": (
        VOLUME_STUCK,
        (leaving_volume("example.com/keep"),),
        ("finalizer example.com/keep belongs to neither Kubernetes nor democratic-csi",),
    ),
    "a volume by nothing that is seen": (VOLUME_STUCK, (leaving_volume(PV_PROTECTION), REGISTERED), ()),
    "a claim by its pods": (
        CLAIM_STUCK,
        (leaving_claim(PVC_PROTECTION), CLASS, a_pod("a"), a_pod("b", "Pending"), a_pod("c", "Succeeded")),
        ("pod default/a uses it", "pod default/b uses it"),
    ),
    "a claim by a snapshot that is not ready": (
        CLAIM_STUCK,
        (leaving_claim(AS_SOURCE), CLASS, a_volume_snapshot(ready=False, error="timeout")),
        ("VolumeSnapshot default/snap of it is not ready: timeout",),
    ),
    "a claim by a snapshot that is ready": (
        CLAIM_STUCK,
        (leaving_claim(AS_SOURCE), CLASS, a_volume_snapshot()),
        (),
    ),
    "a claim by a stranger's finalizer": (
        CLAIM_STUCK,
        (leaving_claim("example.com/keep"), CLASS),
        ("finalizer example.com/keep belongs to neither Kubernetes nor democratic-csi",),
    ),
    "a snapshot by a claim that is restored from it": (
        SNAPSHOT_STUCK,
        (
            leaving_snapshot(VS_SOURCE),
            a_content(),
            a_claim("new", phase="Pending", volume_name="", data_source="VolumeSnapshot/snap"),
            a_claim("old", uid="u2", data_source="VolumeSnapshot/snap"),
            a_claim("else", uid="u3", phase="Pending", data_source="VolumeSnapshot/other"),
        ),
        ("claim default/new is being restored from it",),
    ),
    "a snapshot by its content": (
        SNAPSHOT_STUCK,
        (leaving_snapshot(VS_BOUND), a_content(error="busy"), REGISTERED),
        (f"its content {a_content().name} is still there: busy",),
    ),
    "a snapshot by a driver that is away": (
        SNAPSHOT_STUCK,
        (leaving_snapshot(VS_BOUND), a_content()),
        (f"its content {a_content().name} is still there", AWAY),
    ),
    "a content by its snapshot": (
        CONTENT_STUCK,
        (leaving_content(VSC_BOUND), a_volume_snapshot(), REGISTERED),
        ("VolumeSnapshot default/snap still uses it",),
    ),
    "a content by a clone of its detached snapshot": (
        CONTENT_STUCK,
        (
            leaving_content(VSC_BOUND, snapshot_handle=DETACHED_HANDLE),
            REGISTERED,
            DETACHED,
            a_dataset(f"{PARENT}/restored", origin=f"{DETACHED.path}@volume-source-for-volume-x"),
        ),
        (f"{PARENT}/restored is a clone of its detached snapshot {DETACHED.path}",),
    ),
    "a content by a hold": (
        CONTENT_STUCK,
        (leaving_content(VSC_BOUND), REGISTERED, a_snapshot(holds=("zrepl",))),
        (f"ZFS snapshot {PATH}@snapshot-{SNAPSHOT_UID} is held (zrepl)",),
    ),
    "a content by no snapshot that nobody holds": (
        CONTENT_STUCK,
        (leaving_content(VSC_BOUND), REGISTERED, a_snapshot()),
        (),
    ),
    "a content by a snapshotter that has not finished": (
        CONTENT_STUCK,
        (
            leaving_content(
                VSC_BOUND,
                annotations={"snapshot.storage.kubernetes.io/volumesnapshot-being-deleted": "yes"},
                error="DeleteSnapshot failed",
            ),
            REGISTERED,
            leaving_snapshot(),
        ),
        (
            "the snapshotter has not finished: annotation volumesnapshot-being-deleted",
            "the driver says: DeleteSnapshot failed",
        ),
    ),
    "a content by a driver that is away": (CONTENT_STUCK, (leaving_content(VSC_BOUND),), (AWAY,)),
    "a content by a stranger's finalizer": (
        CONTENT_STUCK,
        (leaving_content("example.com/keep"), REGISTERED),
        ("finalizer example.com/keep belongs to neither Kubernetes nor democratic-csi",),
    ),
}


@pytest.mark.parametrize("what", BLOCKED)
def test_what_blocks_a_deletion_is_named(what):
    rule, values, expected = BLOCKED[what]
    if what.startswith("a snapshot by a claim"):
        evidence = judge(rule, Ref(CLUSTER, Kind.VOLUME_SNAPSHOT, "default/snap"), world(*values))
        assert evidence.facts["blocked_by"] == expected
    else:
        assert blocked(rule, *values) == expected


def test_a_session_on_a_volume_that_goes_is_named():
    attributes = {"node_attach_driver": "iscsi", "iqn": "iqn.x:csi-x", "portal": "10.0.0.10"}
    volume = leaving_volume(PROVISIONER, csi=a_csi_source(NAME, server="", share="", **attributes))
    chain = [
        truenas.IscsiTarget(5, "csi-x"),
        truenas.IscsiExtent(6, "csi-x", "DISK", PATH),
        truenas.IscsiTargetExtent(7, 5, 6, 0),
        truenas.IscsiSession("iqn.node1", "10.0.0.5", "iqn.x:csi-x"),
    ]
    assert blocked(VOLUME_STUCK, volume, *ON_NAS, *chain) == ("an iSCSI session of iqn.node1 is on it",)


def test_the_finalizers_and_the_time_are_told():
    evidence = the_only(VOLUME_STUCK, world(leaving_volume(PV_PROTECTION, PROVISIONER), REGISTERED))
    assert evidence.facts["finalizers"] == (PV_PROTECTION, PROVISIONER)
    assert evidence.since == OLD
    assert evidence.summary == (
        f"Volume {NAME} is being deleted and does not go: "
        "nothing that truetally can see is in the way of its finalizers"
    )


def test_a_bound_volume_is_not_said_to_be_blocked_by_its_dataset():
    bound = leaving_volume(PV_PROTECTION, PROVISIONER, phase="Bound")
    assert blocked(VOLUME_STUCK, bound, a_claim(), *ON_NAS, CLONE) == ("claim default/data is bound to it",)


def test_a_claim_that_pods_use_stays_by_design():
    used = the_only(CLAIM_STUCK, world(leaving_claim(PVC_PROTECTION), CLASS, a_pod()))
    unused = the_only(CLAIM_STUCK, world(leaving_claim(PVC_PROTECTION), CLASS))
    more = the_only(CLAIM_STUCK, world(leaving_claim(PVC_PROTECTION, "x/y"), CLASS, a_pod()))
    assert [e.severity for e in (used, unused, more)] == [Severity.INFO, None, None]


@pytest.mark.parametrize("rule", [VOLUME_STUCK, CLAIM_STUCK, SNAPSHOT_STUCK, CONTENT_STUCK])
def test_a_deletion_is_stuck_only_after_its_time(rule):
    since = NOW - timedelta(minutes=29)
    young = {
        VOLUME_STUCK: leaving_volume(PV_PROTECTION, deleted_at=since),
        CLAIM_STUCK: leaving_claim(PVC_PROTECTION, deleted_at=since),
        SNAPSHOT_STUCK: leaving_snapshot(VS_BOUND, deleted_at=since),
        CONTENT_STUCK: leaving_content(VSC_BOUND, deleted_at=since),
    }[rule]
    more = [a_content()] if rule == SNAPSHOT_STUCK else []
    in_world, ledger, declared = world(young, CLASS, REGISTERED, *more), Ledger(), catalogue.BY_ID[rule]
    (ref,) = in_world.graph.refs(declared.subject)
    ledger.found(declared, ref, judge(rule, ref, in_world), in_world)
    assert ledger.mature(in_world.ticks + 59) == []
    assert [f.subject for f in ledger.mature(in_world.ticks + 60)] == [ref]


GOING = {
    "nobody deletes the volume": (VOLUME_STUCK, (a_volume(finalizers=(PROVISIONER,)),)),
    "nobody deletes the claim": (CLAIM_STUCK, (a_claim(finalizers=(PVC_PROTECTION,)), CLASS)),
    "nobody deletes the snapshot": (SNAPSHOT_STUCK, (a_volume_snapshot(finalizers=(VS_BOUND,)), a_content())),
    "nobody deletes the content": (CONTENT_STUCK, (a_content(finalizers=(VSC_BOUND,)),)),
    "nothing keeps the volume": (VOLUME_STUCK, (leaving_volume(),)),
    "nothing keeps the claim": (CLAIM_STUCK, (leaving_claim(), CLASS)),
    "nothing keeps the snapshot": (SNAPSHOT_STUCK, (leaving_snapshot(), a_content())),
    "nothing keeps the content": (CONTENT_STUCK, (leaving_content(),)),
    "the volume is another driver's": (
        VOLUME_STUCK,
        (leaving_volume(PROVISIONER, csi=k8s.CsiSource("ebs.csi.aws.com", "vol-1")),),
    ),
    "the volume is in-tree": (VOLUME_STUCK, (leaving_volume(PROVISIONER, csi=None),)),
    "the claim is another driver's": (
        CLAIM_STUCK,
        (leaving_claim(PVC_PROTECTION), k8s.StorageClass("nfs", "ebs.csi.aws.com")),
    ),
    "the claim's class is unknown": (CLAIM_STUCK, (leaving_claim(PVC_PROTECTION),)),
    "the snapshot is another driver's": (
        SNAPSHOT_STUCK,
        (leaving_snapshot(VS_BOUND), a_content(driver="ebs.csi.aws.com")),
    ),
    "the snapshot's class is unknown": (SNAPSHOT_STUCK, (leaving_snapshot(VS_BOUND, bound_content=""),)),
    "the content is another driver's": (CONTENT_STUCK, (leaving_content(VSC_BOUND, driver="x"),)),
    "the volume is exempted": (VOLUME_STUCK, (leaving_volume(PROVISIONER, annotations=EXEMPT),)),
    "the claim is exempted": (CLAIM_STUCK, (leaving_claim(PVC_PROTECTION, annotations=EXEMPT), CLASS)),
    "the snapshot is exempted": (
        SNAPSHOT_STUCK,
        (leaving_snapshot(VS_BOUND, annotations=EXEMPT), a_content()),
    ),
    "the content is exempted": (CONTENT_STUCK, (leaving_content(VSC_BOUND, annotations=EXEMPT),)),
}


@pytest.mark.parametrize("why", GOING)
def test_nothing_is_stuck_when(why):
    rule, values = GOING[why]
    assert isinstance(the_only(rule, world(*values)), Clear)


def test_a_snapshot_without_content_is_ours_by_its_class():
    class_ = k8s.VolumeSnapshotClass("snaps", DRIVER)
    snapshot = leaving_snapshot(VS_BOUND, bound_content="", snapshot_class="snaps")
    assert accused(SNAPSHOT_STUCK, world(snapshot, class_)) == ["default/snap"]


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        (rule, kind)
        for rule in (VOLUME_STUCK, CLAIM_STUCK, SNAPSHOT_STUCK, CONTENT_STUCK, UNUSED)
        for kind in sorted(catalogue.BY_ID[rule].needs)
    ],
)
def test_nothing_is_judged_before_all_is_listed(rule, kind):
    values = (leaving_volume(PROVISIONER), leaving_claim(PVC_PROTECTION), CLASS, a_content())
    in_world = world(*values, leaving_snapshot(VS_BOUND), incomplete=[(CLUSTER, kind)])
    assert accused(rule, in_world) == []


# Claims that no pod uses


def unused(*values, claim=None, volume=None, dataset=None, **how):
    claim, volume, dataset = (
        claim or a_claim(created_at=LONG_AGO),
        volume or a_volume(),
        dataset or a_dataset(),
    )
    return world(a_pool(), claim, volume, dataset, *values, **how)


LONG_AGO = NOW - timedelta(days=41)


def test_a_claim_that_no_pod_uses_is_mentioned():
    in_world = unused()
    evidence = judge(UNUSED, CLAIM, in_world)
    assert evidence.summary == "No pod has used claim default/data for 40 days"
    assert catalogue.BY_ID[UNUSED].severity is Severity.INFO
    assert catalogue.BY_ID[UNUSED].pending(in_world) == timedelta(days=40)


def old_claim(name="data", **changes):
    return a_claim(name, **({"created_at": LONG_AGO} | changes))


ISCSI = a_volume(
    csi=a_csi_source(
        NAME, server="", share="", node_attach_driver="iscsi", iqn="iqn.x:csi-x", portal="10.0.0.10"
    )
)
ISCSI_CHAIN = (
    truenas.IscsiTarget(5, "csi-x"),
    truenas.IscsiExtent(6, "csi-x", "DISK", PATH),
    truenas.IscsiTargetExtent(7, 5, 6, 0),
)
WANTED = {
    "a pod runs": {"values": (a_pod(),)},
    "a pod is about to start": {"values": (a_pod(phase="Pending"),)},
    "a job's pod has ended": {"values": (a_pod(phase="Succeeded"),)},
    "a pod has failed": {"values": (a_pod(phase="Failed"),)},
    "it is attached": {"values": (an_attachment(),)},
    "an NFS client has it": {"values": (truenas.NfsClient("10.0.0.5", 3, f"/mnt/{PATH}"),)},
    "an iSCSI session is on it": {
        "values": (*ISCSI_CHAIN, truenas.IscsiSession("iqn.n", "10.0.0.5", "iqn.x:csi-x")),
        "volume": ISCSI,
    },
    "another claim is made from it": {
        "values": (a_claim("copy", uid="u2", volume_name="", data_source="PersistentVolumeClaim/data"),)
    },
    "a pod owns it (ephemeral)": {"claim": old_claim(owners=("Pod/web",))},
    "an operator owns it": {"claim": old_claim(owners=("Cluster/db",))},
    "it is young": {"claim": a_claim(created_at=NOW - timedelta(days=39))},
    "it is pending": {"claim": old_claim(phase="Pending")},
    "it is lost": {"claim": old_claim(phase="Lost")},
    "it is being deleted": {"claim": old_claim(deleted_at=NOW)},
    "it is exempted": {"claim": old_claim(annotations=EXEMPT)},
    "its volume is exempted": {
        "volume": a_volume(annotations={"pv.kubernetes.io/provisioned-by": DRIVER} | EXEMPT)
    },
    "a person made its volume": {"volume": a_volume(annotations={})},
    "its dataset is not there": {"dataset": a_dataset(f"{PARENT}/other")},
    "its data is on no configured NAS": {"volume": a_volume(csi=a_csi_source(NAME, server="192.0.2.9"))},
}


@pytest.mark.parametrize("why", WANTED)
def test_a_claim_is_not_called_unused_when(why):
    how = dict(WANTED[why])
    assert isinstance(judge(UNUSED, CLAIM, unused(*how.pop("values", ()), **how)), Clear)


def test_the_control_over_iscsi_without_a_session_is():
    assert accused(UNUSED, unused(*ISCSI_CHAIN, volume=ISCSI)) == ["default/data"]


@pytest.mark.parametrize("name", ["data-web-0", "data-my-db-12", "www-web-3", "db-1"])
def test_a_claim_that_a_stateful_set_may_want_again_is_left_alone(name):
    claim = old_claim(name)
    volume = a_volume(claim=k8s.ClaimRef("default", name, claim.uid))
    assert accused(UNUSED, unused(claim=claim, volume=volume)) == []


@pytest.mark.parametrize("name", ["data", "data-web", "v2", "web-2024a"])
def test_a_claim_of_another_name_is_not(name):
    claim = old_claim(name)
    volume = a_volume(claim=k8s.ClaimRef("default", name, claim.uid))
    assert accused(UNUSED, unused(claim=claim, volume=volume)) == [f"default/{name}"]


def test_a_young_claim_is_looked_at_again_when_it_is_old():
    created = NOW - timedelta(days=39)
    answer = judge(UNUSED, CLAIM, unused(claim=a_claim(created_at=created)))
    assert answer == Clear("it is not old enough", created + timedelta(days=40))


def test_smb_clients_that_cannot_be_seen_may_use_it():
    share = truenas.SmbShare(3, "media", f"/mnt/{PATH}")
    smb = a_volume(csi=a_csi_source(NAME, node_attach_driver="smb", share="media"))
    seen_all = unused(share, volume=smb)
    untold = unused(share, volume=smb)
    lost = Lost(NAS, Kind.SMB_CLIENT, Trouble.UNTOLD, "25.10 does not tell", 2.0)
    untold.graph.apply(lost, Changes())
    assert (accused(UNUSED, seen_all), accused(UNUSED, untold)) == (["default/data"], [])
    over_nfs = unused()
    over_nfs.graph.apply(lost, Changes())
    assert accused(UNUSED, over_nfs) == ["default/data"]
    client = truenas.SmbClient("laptop", "media")
    assert accused(UNUSED, unused(share, client, volume=smb)) == []


def test_how_long_is_configured():
    config = settings(rules={"claim_unused_after": "7d", "deletion_stuck_after": "5m"})
    in_world = unused(claim=a_claim(created_at=NOW - timedelta(days=8)), config=config)
    assert accused(UNUSED, in_world) == ["default/data"]
    assert catalogue.BY_ID[UNUSED].pending(in_world) == timedelta(days=7)
    assert catalogue.BY_ID[CLAIM_STUCK].pending(in_world) == timedelta(minutes=5)


def test_it_is_confirmed_by_listing_the_cluster_again():
    in_world, rule = unused(), catalogue.BY_ID[UNUSED]
    reread = rule.reread(CLAIM, in_world)
    assert (reread.order, reread.cluster, reread.cluster_kinds) == (Order.CLUSTER_FIRST, CLUSTER, rule.needs)
    assert rule.confirmed(CLAIM, in_world, 10.0) == "the cluster has not been read again"
    assert rule.confirmed(CLAIM, in_world, 0.5) == ""
