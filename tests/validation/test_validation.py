"""Each check on a world where all is right, and on one where exactly its thing is wrong."""

from __future__ import annotations

from datetime import timedelta

import pytest

from truetally.graph.graph import Changes
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.observations import Listed, Lost, Trouble
from truetally.model.refs import Kind
from truetally.validation import Outcome, validate
from truetally.validation.checks import CHECKS
from worlds import (
    CLUSTER,
    DRIVER,
    NAS,
    NOW,
    PARENT,
    PATH,
    a_claim,
    a_dataset,
    a_pool,
    a_share,
    a_volume,
    properties,
    settings,
    world,
)

DRIVER_CONFIG = {
    "driver": DRIVER,
    "cluster": CLUSTER,
    "nas": NAS,
    "parent": PARENT,
    "instance_id": "cluster-a",
}


def a_class(name: str = "truenas-nfs", **changes) -> k8s.StorageClass:
    return k8s.StorageClass(name, **({"provisioner": DRIVER, "is_default": True} | changes))


def whole(**replaced):
    """All that has to be there; a value replaces the one of its key, None leaves it out."""
    values = {
        "system": truenas.System("TrueNAS-SCALE-24.10.2", roles=("READONLY_ADMIN",)),
        "pool": a_pool(size_bytes=100, allocated_bytes=50),
        "top": a_dataset("tank", user_properties={}),
        "parent": a_dataset(PARENT, user_properties={}),
        "dataset": a_dataset(quota_bytes=1 << 30),
        "share": a_share(),
        "service": truenas.Service("nfs", True, "RUNNING"),
        "class": a_class(),
        "driver": k8s.CSIDriver(DRIVER, attach_required=False),
        "node": k8s.Node("node-1", "uid-1"),
        "csi_node": k8s.CSINode("node-1", (DRIVER,)),
        "snapshots": k8s.VolumeSnapshotClass("truenas", DRIVER, is_default=True),
        "volume": a_volume(storage_class="truenas-nfs"),
        "claim": a_claim(),
        "portal": truenas.IscsiPortal(1, 1, ("0.0.0.0:3260",)),
        "group": truenas.IscsiInitiator(1),
        "target": truenas.IscsiTarget(1, "x", portals=(1,), initiator_groups=(1,)),
    } | replaced
    return [value for value in values.values() if value is not None]


def outcomes(in_world) -> dict[str, set[Outcome]]:
    found: dict[str, set[Outcome]] = {check.id: set() for check in CHECKS}
    for item in validate(CHECKS, in_world):
        found[item.check].add(item.outcome)
        assert item.fix or item.outcome in (Outcome.OK, Outcome.UNKNOWN), item
    return found


def test_where_all_is_right_every_check_looked_at_something_and_is_content():
    assert outcomes(world(*whole())) == {check.id: {Outcome.OK} for check in CHECKS}


TWO_DRIVERS = [DRIVER_CONFIG, DRIVER_CONFIG | {"driver": "org.democratic-csi.other"}]
LONG = "tank/" + "x" * 240

WRONG = {
    "parent-exists": (whole(parent=None), {}, Outcome.ERROR),
    "parent-exists, locked": (
        whole(parent=a_dataset(PARENT, user_properties={}, locked=True)),
        {},
        Outcome.ERROR,
    ),
    "parent-exists, no pool": (whole(pool=None, top=None, parent=None), {}, Outcome.UNKNOWN),
    "parents-apart": (whole(), {"drivers": TWO_DRIVERS}, Outcome.ERROR),
    "parents-apart, nested": (
        whole(),
        {"drivers": [DRIVER_CONFIG, TWO_DRIVERS[1] | {"parent": f"{PARENT}/inner"}]},
        Outcome.ERROR,
    ),
    "one-owner": (
        whole(other=a_dataset(f"{PARENT}/pvc-x", user_properties=properties(instance_id="cluster-b"))),
        {},
        Outcome.WARNING,
    ),
    "name-length": (whole(), {"drivers": [DRIVER_CONFIG | {"parent": LONG}]}, Outcome.ERROR),
    "pool-room": (whole(pool=a_pool(size_bytes=100, allocated_bytes=95)), {}, Outcome.ERROR),
    "pool-room, ill": (whole(pool=a_pool(status="SUSPENDED")), {}, Outcome.ERROR),
    "service-running": (whole(service=truenas.Service("nfs", True, "STOPPED")), {}, Outcome.ERROR),
    "service-running, not at boot": (
        whole(service=truenas.Service("nfs", False, "RUNNING")),
        {},
        Outcome.WARNING,
    ),
    "service-running, not listed": (whole(service=None), {}, Outcome.UNKNOWN),
    "driver-version": (whole(system=truenas.System("TrueNAS-26.0.0")), {}, Outcome.ERROR),
    "driver-version, branch": (whole(system=truenas.System("TrueNAS-25.10.2")), {}, Outcome.WARNING),
    "driver-registered": (whole(driver=None), {}, Outcome.ERROR),
    "driver-on-nodes": (whole(csi_node=k8s.CSINode("node-1", ())), {}, Outcome.ERROR),
    "driver-on-nodes, no CSINode": (whole(csi_node=None), {}, Outcome.ERROR),
    "driver-configured": (whole(), {"drivers": []}, Outcome.WARNING),
    "one-default-class": (whole(second=a_class("second")), {}, Outcome.WARNING),
    "fs-type": (whole(**{"class": a_class(parameters={"fsType": "ext4"})}), {}, Outcome.ERROR),
    "expansion": (
        whole(**{"class": a_class(allow_expansion=True)}, dataset=a_dataset(quota_bytes=None)),
        {},
        Outcome.WARNING,
    ),
    "snapshot-classes": (whole(snapshots=None), {}, Outcome.WARNING),
    "snapshot-classes, two defaults": (
        whole(more=k8s.VolumeSnapshotClass("more", DRIVER, is_default=True)),
        {},
        Outcome.ERROR,
    ),
    "static-volumes": (
        whole(
            static=a_volume(
                "by-hand",
                reclaim_policy="Delete",
                annotations={},
                csi=k8s.CsiSource(
                    DRIVER, "by-hand", attributes={"server": "10.0.0.10", "share": f"/mnt/{PATH}"}
                ),
            )
        ),
        {},
        Outcome.WARNING,
    ),
    "target-groups": (whole(portal=None), {}, Outcome.ERROR),
    "target-groups, no portal": (whole(target=truenas.IscsiTarget(1, "x")), {}, Outcome.ERROR),
    "nas-encrypted": (
        whole(),
        {"nas": [settings().nas[0].model_dump() | {"url": "ws://127.0.0.1"}]},
        Outcome.WARNING,
    ),
    "nas-user": (whole(system=truenas.System("24.10", roles=("FULL_ADMIN",))), {}, Outcome.WARNING),
    "nas-user, key ends": (
        whole(key=truenas.ApiKey(1, "k", "truetally", NOW + timedelta(days=3))),
        {},
        Outcome.WARNING,
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_by_its_check(case):
    values, config, outcome = WRONG[case]
    assert outcome in outcomes(world(*values, config=settings(**config)))[case.partition(",")[0]]


def test_every_check_has_a_world_in_which_it_fails():
    told = {case.partition(",")[0] for case in WRONG} | {"snapshot-api"}
    assert told == {check.id for check in CHECKS}


def test_without_the_snapshot_crds_that_is_told():
    here = world(*whole(snapshots=None))
    for kind in (Kind.VOLUME_SNAPSHOT, Kind.VOLUME_SNAPSHOT_CLASS, Kind.VOLUME_SNAPSHOT_CONTENT):
        here.graph.apply(Listed(CLUSTER, kind, frozenset(), 2.0, absent=True), Changes())
    assert outcomes(here)["snapshot-api"] == {Outcome.WARNING}


def test_what_is_not_known_in_full_is_unknown_and_never_right():
    here = world(*whole())
    here.graph.apply(Lost(NAS, Kind.SERVICE, Trouble.DENIED, "grant SERVICE_READ", 2.0), Changes())
    found = [item for item in validate(CHECKS, here) if item.check == "service-running"]
    assert [item.outcome for item in found] == [Outcome.UNKNOWN]
    assert "grant SERVICE_READ" in found[0].found


@pytest.mark.parametrize(
    ("node", "outcome"),
    [
        (k8s.Node("node-2", "u", unschedulable=True), Outcome.OK),
        (k8s.Node("node-2", "u", ready=False), Outcome.OK),
        (k8s.Node("node-2", "u"), Outcome.ERROR),
    ],
)
def test_only_nodes_that_pods_can_go_to_need_the_driver(node, outcome):
    assert outcomes(world(*whole(second=node)))["driver-on-nodes"] == {outcome}


def test_a_driver_without_volumes_is_known_by_its_name():
    values = whole(volume=None, claim=None, dataset=None, share=None)
    assert outcomes(world(*values))["service-running"] == {Outcome.OK}


def test_volumes_of_other_drivers_are_no_concern():
    foreign = a_volume("other", csi=k8s.CsiSource("ebs.csi.aws.com", "h"), reclaim_policy="Delete")
    classes = a_class("ebs", provisioner="ebs.csi.aws.com", is_default=False)
    assert outcomes(world(*whole(foreign=foreign, classes=classes))) == outcomes(world(*whole()))
