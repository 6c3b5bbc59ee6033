"""Whose a volume is, where several deployments share a parent and only a marker tells them apart."""

from __future__ import annotations

import pytest

from truetally.findings.ownership import ownership, ownership_of_name
from worlds import DRIVER, NAME, NAS, PARENT, a_dataset, a_pool, properties, settings, world

MARKER = "k8s:cluster"


def configured(*drivers):
    base = {"driver": DRIVER, "cluster": "prod", "nas": NAS, "parent": PARENT}
    clusters = [{"name": name, "kubeconfig": "/dev/null"} for name in ("prod", "stage")]
    return settings(drivers=[base | each for each in drivers], clusters=clusters)


def marked(value):
    return {"marker_property": MARKER, "marker_value": value}


def owner(config, *beside, **marks):
    mine = a_dataset(user_properties=properties(instance_id=None, **marks))
    return ownership(world(a_pool(), mine, *beside, config=config), NAS, mine)


@pytest.mark.parametrize(
    ("marks", "ours"), [({MARKER: "prod"}, True), ({MARKER: "other"}, False), ({}, False)]
)
def test_where_a_marker_is_configured_a_volume_is_ours_only_if_it_carries_it(marks, ours):
    found = owner(configured(marked("prod")), **marks)
    assert (found.proven and found.exclusive) is ours
    assert ours or "k8s:cluster=prod" in found.text or "marked k8s:cluster=other" in found.text


def test_of_a_neighbour_without_marker_its_name_alone_proves_nothing_either():
    found = ownership_of_name(world(a_pool(), config=configured(marked("prod"))), NAS, PARENT, NAME)
    assert not found.exclusive


def test_of_two_deployments_that_may_have_made_it_the_one_that_keeps_what_is_deleted_counts():
    found = owner(configured({}, {"cluster": "stage", "retains_deleted": True}))
    assert found.driver is not None
    assert found.driver.retains_deleted


def test_a_deployment_whose_instance_id_or_marker_it_does_not_carry_has_not_made_it():
    keeps = {"cluster": "stage", "retains_deleted": True, "instance_id": "stage"}
    found = owner(configured({}, keeps))
    assert found.driver is not None
    assert not found.driver.retains_deleted
