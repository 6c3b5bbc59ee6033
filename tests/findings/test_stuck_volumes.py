"""Is a volume, a claim or an attachment stuck, and what is in its way?"""

from __future__ import annotations

from datetime import timedelta

import pytest

from truetally.findings import catalogue
from truetally.graph.graph import Changes
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.findings import Severity
from truetally.model.observations import Gone, Listed
from truetally.model.refs import KUBERNETES_KINDS, Kind, Ref
from worlds import (
    CLUSTER,
    DRIVER,
    NAME,
    NAS,
    NOW,
    OLD,
    PATH,
    UID,
    a_claim,
    a_csi_source,
    a_dataset,
    a_pool,
    a_snapshot,
    a_volume,
    accused,
    an_attachment,
    judge,
    ref_of,
    two_nas,
    world,
)

RELEASED, PENDING, STALE = "volume-released", "claim-pending", "attachment-stale"
VOLUME = Ref(CLUSTER, Kind.PERSISTENT_VOLUME, NAME)
CLAIM = Ref(CLUSTER, Kind.PERSISTENT_VOLUME_CLAIM, "default/data")


# Released and Failed volumes


def test_a_failed_volume_is_found_with_the_drivers_message():
    failed = a_volume(phase="Failed", status_message="filesystem has dependent clones")
    evidence = judge(RELEASED, VOLUME, world(failed))
    assert (
        evidence.summary
        == f"Volume {NAME} is Failed and is not being deleted: filesystem has dependent clones"
    )


def test_what_blocks_the_deletion_is_named():
    released = a_volume(phase="Released", phase_changed_at=OLD)
    clone = a_dataset(f"{PATH}x", origin=f"{PATH}@snapshot-1")
    evidence = judge(RELEASED, VOLUME, world(a_pool(), a_dataset(), a_snapshot("auto-1"), released, clone))
    assert evidence.facts["blocked_by"] == (f"clone {PATH}x", f"snapshot {PATH}@auto-1")
    assert evidence.since == OLD


def test_a_released_volume_that_is_retained_is_only_mentioned():
    evidence = judge(RELEASED, VOLUME, world(a_volume(phase="Released", reclaim_policy="Retain")))
    assert evidence.severity is Severity.INFO


@pytest.mark.parametrize(
    "volume",
    [
        a_volume(),
        a_volume(phase="Released", csi=k8s.CsiSource("ebs.csi.aws.com", "vol-1")),
        a_volume(phase="Released", csi=None),
        a_volume(phase="Released", annotations={"truetally.io/ignore": "true"}),
        a_volume(phase="Released", deleted_at=OLD),
    ],
    ids=["bound", "of another driver", "in-tree", "exempted", "being deleted"],
)
def test_a_volume_is_left_alone_that_is(volume):
    assert accused(RELEASED, world(volume)) == []


# Pending claims


def pending(**changes):
    return a_claim(phase="Pending", volume_name="", created_at=NOW - timedelta(hours=1), **changes)


def a_class(**changes):
    return k8s.StorageClass("nfs", **({"provisioner": DRIVER} | changes))


def an_event(reason, message, type_="Warning", at=NOW):
    return k8s.Event(
        "default", f"data.{reason}", reason, message, "PersistentVolumeClaim default/data", UID, type_, at
    )


def test_a_pending_claim_is_found_with_its_cause():
    events = [
        an_event("ProvisioningFailed", "quota exceeded"),
        an_event("ExternalProvisioning", "waiting", "Normal"),
    ]
    evidence = judge(PENDING, CLAIM, world(pending(), a_class(), *events))
    assert evidence.summary == "Claim default/data is pending: ProvisioningFailed: quota exceeded"
    assert evidence.since == NOW - timedelta(hours=1)


def test_the_newest_warning_is_the_cause():
    events = [
        an_event("ProvisioningFailed", "old", at=NOW - timedelta(hours=1)),
        an_event("FailedBinding", "new", at=NOW),
    ]
    assert judge(PENDING, CLAIM, world(pending(), a_class(), *events)).facts["cause"] == "FailedBinding: new"


def test_a_class_that_does_not_exist_is_the_cause():
    evidence = judge(PENDING, CLAIM, world(pending()))
    assert evidence.facts["cause"] == "StorageClass nfs does not exist"


WAITING = {
    "its class waits for the first consumer": (pending(), a_class(binding_mode="WaitForFirstConsumer")),
    "another driver's class": (pending(), a_class(provisioner="ebs.csi.aws.com")),
    "it waits for a person": (pending(storage_class=""), a_class()),
    "it has no class": (pending(storage_class=None), a_class()),
    "it is bound": (a_claim(), a_class()),
    "it is being deleted": (pending(deleted_at=NOW), a_class()),
    "it is exempted": (pending(annotations={"truetally.io/ignore": "true"}), a_class()),
}


@pytest.mark.parametrize("why", WAITING)
def test_a_claim_is_left_alone_when(why):
    assert accused(PENDING, world(*WAITING[why])) == []


def test_a_claim_whose_node_is_chosen_waits_for_nobody_any_more():
    chosen = pending(annotations={"volume.kubernetes.io/selected-node": "node1"})
    assert accused(PENDING, world(chosen, a_class(binding_mode="WaitForFirstConsumer"))) == ["default/data"]


# Stale attachments

NODE = k8s.Node("node1", "u")


def test_an_attachment_to_a_node_that_is_gone_is_found():
    assert accused(STALE, world(a_volume(), an_attachment())) == ["csi-1"]


def test_an_attachment_of_a_volume_that_is_gone_is_found():
    in_world = world(NODE, an_attachment(), a_volume("other"))
    assert accused(STALE, in_world) == ["csi-1"]


def test_an_attachment_whose_deletion_does_not_end_is_found_since_then():
    evidence = judge(
        STALE,
        Ref(CLUSTER, Kind.VOLUME_ATTACHMENT, "csi-1"),
        world(NODE, a_volume(), an_attachment(deleted_at=OLD)),
    )
    assert evidence.since == OLD


def test_an_attachment_between_a_node_and_a_volume_that_exist_is_not():
    assert accused(STALE, world(NODE, a_volume(), an_attachment())) == []


def test_an_attachment_of_another_driver_is_not():
    assert accused(STALE, world(an_attachment(attacher="ebs.csi.aws.com"))) == []


def test_an_attachment_whose_pod_still_runs_there_is_not():
    pod = k8s.Pod("default", "p", "u", "Running", "node1", claims=("data",))
    assert accused(STALE, world(a_volume(), an_attachment(), pod)) == []


def test_an_attachment_with_a_live_iscsi_session_is_not():
    attributes = {"node_attach_driver": "iscsi", "iqn": "iqn.x:csi-x", "portal": "10.0.0.10"}
    volume = a_volume(csi=a_csi_source(NAME, server="", share="", **attributes))
    chain = [
        truenas.IscsiTarget(5, "csi-x"),
        truenas.IscsiExtent(6, "csi-x", "DISK", PATH),
        truenas.IscsiTargetExtent(7, 5, 6, 0),
    ]
    session = truenas.IscsiSession("iqn.node1", "10.0.0.5", "iqn.x:csi-x")
    without = world(a_pool(), volume, a_dataset(), an_attachment(), *chain)
    with_session = world(a_pool(), volume, a_dataset(), an_attachment(), *chain, session)
    assert (accused(STALE, without), accused(STALE, with_session)) == (["csi-1"], [])


LIVE = {
    "a session on the target of its zvol": (
        a_dataset(),
        truenas.IscsiTarget(5, "csi-x"),
        truenas.IscsiExtent(6, "csi-x", "DISK", PATH),
        truenas.IscsiTargetExtent(7, 5, 6, 0),
        truenas.IscsiSession("iqn.node1", "10.0.0.5", "iqn.x:csi-x"),
    ),
    "a session on the target of its extent, whose pool is away": (
        truenas.IscsiTarget(5, "csi-x"),
        truenas.IscsiExtent(6, "csi-x", "DISK", PATH),
        truenas.IscsiTargetExtent(7, 5, 6, 0),
        truenas.IscsiSession("iqn.node1", "10.0.0.5", "iqn.x:csi-x"),
    ),
    "a session on the subsystem of its namespace, whose pool is away": (
        truenas.NvmeSubsystem(1, "csi-x", "nqn.x"),
        truenas.NvmeNamespace(2, 1, 1, "ZVOL", PATH),
        truenas.NvmeSession("nqn.node1", "10.0.0.5", 1, 1, 1),
    ),
    "a session on a target with its name": (
        truenas.IscsiTarget(5, f"csi-{NAME}-x"),
        truenas.IscsiSession("iqn.node1", "10.0.0.5", f"iqn.x:csi-{NAME}-x"),
    ),
    "a session on a subsystem with its name": (
        truenas.NvmeSubsystem(1, f"csi-{NAME}-x", "nqn.x"),
        truenas.NvmeSession("nqn.node1", "10.0.0.5", 1, 1, 1),
    ),
}


@pytest.mark.parametrize("live", LIVE.values(), ids=LIVE)
def test_an_attachment_whose_volume_is_gone_and_whose_session_lives_is_not(live):
    values = [a_pool(), a_volume("other"), an_attachment(), *live]
    assert accused(STALE, world(*values)) == []
    assert accused(STALE, world(*values[:-1])) == ["csi-1"]


@pytest.mark.parametrize("nas", [NAS, "nas2"])
@pytest.mark.parametrize("kind", [Kind.ISCSI_SESSION, Kind.NVME_NAMESPACE])
def test_an_attachment_whose_volume_is_gone_is_not_stale_while_any_nas_is_unread(nas, kind):
    values = [a_volume("other"), an_attachment()]
    assert accused(STALE, world(*values, config=two_nas())) == ["csi-1"]
    assert accused(STALE, world(*values, config=two_nas(), incomplete=[(nas, kind)])) == []


OF_NOBODY = {
    "iscsi": [truenas.IscsiSession("iqn.node1", "10.0.0.5", "iqn.x:k8s-vol-8")],
    "nvmeof": [
        truenas.NvmeSubsystem(1, "k8s-vol-8", "nqn.x"),
        truenas.NvmeSession("nqn.node1", "10.0.0.5", 1, 1, 1),
    ],
}


@pytest.mark.parametrize("protocol", OF_NOBODY)
def test_a_session_that_no_volume_explains_may_be_that_of_a_volume_that_is_gone(protocol):
    """A templated name leads from the target to the volume only while the dataset can be seen."""
    words = {"iqn": "iqn.x:k8s-vol-8", "portal": "10.0.0.10"}
    if protocol == "nvmeof":
        words = {"nqn": "nqn.x", "transport": "tcp://10.0.0.10:4420", "nsid": "1"}
    source = a_csi_source("other", server="", share="", node_attach_driver=protocol, **words)
    sessions = OF_NOBODY[protocol]
    assert accused(STALE, world(a_volume("other"), an_attachment(), *sessions)) == []
    assert accused(STALE, world(a_volume("other", csi=source), an_attachment(), *sessions)) == ["csi-1"]


def test_the_sessions_are_read_again_before_an_attachment_is_called_stale():
    in_world = world(a_pool(), a_volume(), a_dataset(), an_attachment())
    rule, subject = catalogue.BY_ID[STALE], ref_of(an_attachment())
    assert Kind.ISCSI_SESSION in rule.reread(subject, in_world).nas_kinds
    lists = Changes()
    for kind in rule.needs & KUBERNETES_KINDS:
        names = frozenset(in_world.graph.nodes(CLUSTER, kind))
        in_world.graph.apply(Listed(CLUSTER, kind, names, 200.0), lists)
    assert "sessions" in rule.confirmed(subject, in_world, 200.0)


def test_an_attachment_with_a_session_is_not_stale_while_the_pool_of_its_zvol_is_away():
    attributes = {"node_attach_driver": "iscsi", "iqn": "iqn.x:csi-x", "portal": "10.0.0.10"}
    volume = a_volume(csi=a_csi_source(NAME, server="", share="", **attributes))
    session = truenas.IscsiSession("iqn.node1", "10.0.0.5", "iqn.x:csi-x")
    assert accused(STALE, world(volume, an_attachment(), session)) == []


# A driver that attaches nothing

UNATTACHING = k8s.CSIDriver(DRIVER, attach_required=False)


def test_an_attachment_that_its_driver_has_no_use_for_any_more_is_found():
    evidence = judge(
        STALE,
        Ref(CLUSTER, Kind.VOLUME_ATTACHMENT, "csi-1"),
        world(NODE, a_volume(), an_attachment(), UNATTACHING),
    )
    assert evidence.facts["because"] == (f"driver {DRIVER} attaches nothing (attachRequired is false)",)


@pytest.mark.parametrize("driver", [k8s.CSIDriver(DRIVER), k8s.CSIDriver("other", attach_required=False)])
def test_an_attachment_of_a_driver_that_attaches_is_not(driver):
    assert accused(STALE, world(NODE, a_volume(), an_attachment(), driver)) == []


def test_an_attachment_without_need_is_left_alone_while_its_pod_runs():
    pod = k8s.Pod("default", "p", "u", "Running", "node1", claims=("data",))
    assert accused(STALE, world(NODE, a_volume(), an_attachment(), UNATTACHING, pod)) == []


def test_why_an_attachment_is_stale_is_said_as_before():
    because = [
        judge(STALE, Ref(CLUSTER, Kind.VOLUME_ATTACHMENT, "csi-1"), world(*values, UNATTACHING)).facts[
            "because"
        ]
        for values in (
            (a_volume(), an_attachment()),
            (NODE, an_attachment()),
            (NODE, a_volume(), an_attachment(deleted_at=OLD)),
        )
    ]
    assert because == [
        ("the node does not exist",),
        ("the volume does not exist",),
        ("its deletion does not finish",),
    ]


def test_an_attachment_of_an_inline_volume_misses_no_volume():
    assert accused(STALE, world(NODE, an_attachment(volume_name=""))) == []


@pytest.mark.parametrize("named", [NODE, UNATTACHING], ids=["its node", "its driver"])
def test_an_attachment_is_judged_again_when_what_it_names_goes(named):
    in_world = world(NODE, UNATTACHING, a_volume(), an_attachment())
    changes = Changes()
    in_world.graph.apply(Gone(ref_of(named), 2.0), changes)
    assert Ref(CLUSTER, Kind.VOLUME_ATTACHMENT, "csi-1") in changes.refs


def test_the_attachments_of_a_node_are_no_kin():
    other = an_attachment(name="csi-2", volume_name="pvc-2")
    in_world = world(NODE, a_volume(), an_attachment(), other)
    assert ref_of(other) not in in_world.graph.related(ref_of(a_volume()))
    assert ref_of(other) in in_world.graph.related(ref_of(NODE))


@pytest.mark.parametrize("kind", sorted(catalogue.BY_ID[STALE].needs))
def test_no_attachment_is_stale_before_all_is_listed(kind):
    source = CLUSTER if kind in KUBERNETES_KINDS else NAS
    assert accused(STALE, world(a_volume(), an_attachment(), incomplete=[(source, kind)])) == []


@pytest.mark.parametrize(
    ("node", "phase", "stale"),
    [
        ("node1", "Running", []),
        ("node1", "Pending", []),
        ("node1", "Succeeded", ["csi-1"]),
        ("node2", "Running", ["csi-1"]),
    ],
)
def test_only_a_pod_on_its_own_node_that_has_not_ended_keeps_an_attachment(node, phase, stale):
    pod = k8s.Pod("default", "p", "u", phase, node, claims=("data",))
    assert accused(STALE, world(a_volume(), an_attachment(), pod)) == stale


@pytest.mark.parametrize(("phase", "policy"), [("Failed", "Retain"), ("Released", "Delete")])
def test_a_volume_that_does_not_stay_on_purpose_is_more_than_mentioned(phase, policy):
    evidence = judge(RELEASED, VOLUME, world(a_volume(phase=phase, reclaim_policy=policy)))
    assert evidence.severity is None


def test_a_stale_attachment_is_confirmed_by_listing_its_cluster_again():
    rule, in_world = catalogue.BY_ID[STALE], world(an_attachment())
    attachment = ref_of(an_attachment())
    assert rule.confirmed(attachment, in_world, 0.5) == ""
    assert rule.confirmed(attachment, in_world, 10.0) != ""
