"""Does a NAS cry out, will its key let us in next week, and do the services run that volumes need?"""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from truetally.findings.nas import NAS_SERVICE_STOPPED
from truetally.findings.rule import Clear, Evidence
from truetally.graph.graph import Changes
from truetally.model import kubernetes as k8s
from truetally.model.findings import Severity
from truetally.model.refs import Kind, Ref
from truetally.model.truenas import Alert, ApiKey, Service
from worlds import CLUSTER, NAS, NOW, a_csi_source, a_volume, an_nvme_volume, judge, seen, settings, world

ALERT, KEY, SERVICE = "nas-alert", "nas-key-expires", "nas-service-stopped"


# Alerts


def alerted(level: str = "CRITICAL", text: str = "Pool tank is ill", **changes):
    alert = msgspec.structs.replace(Alert("u1", "VolumeStatus", level, text, NOW), **changes)
    return judge(ALERT, Ref(NAS, Kind.ALERT, "u1"), world(alert))


@pytest.mark.parametrize("level", ["CRITICAL", "ALERT", "EMERGENCY"])
def test_a_grave_alert_is_told_with_its_text(level):
    found = alerted(level)
    assert found.summary == f"nas1 raises an alert ({level}): Pool tank is ill"
    assert found.facts["class"] == "VolumeStatus"


@pytest.mark.parametrize("level", ["INFO", "NOTICE", "WARNING", "ERROR", ""])
def test_lesser_alerts_stay_on_the_nas(level):
    assert isinstance(alerted(level), Clear)


def test_a_dismissed_alert_is_settled():
    assert isinstance(alerted(dismissed=True), Clear)


def test_what_an_alert_says_is_one_line_of_visible_text_and_not_endless():
    found = alerted(text="a\x1b[2J\n\u202eb" + "x" * 400)
    assert found.facts["text"].startswith("a [2J b")
    assert found.summary.isprintable()
    assert len(found.summary) < 250


# Keys


def a_key(days: float | None, id: int = 1, **changes) -> ApiKey:  # noqa: A002
    expires_at = None if days is None else NOW + timedelta(days=days)
    return msgspec.structs.replace(ApiKey(id, f"key{id}", "truetally", expires_at), **changes)


def keyed(key: ApiKey, *others: ApiKey, **config):
    return judge(KEY, Ref(NAS, Kind.API_KEY, "1"), world(key, *others, config=settings(**config)))


@pytest.mark.parametrize(
    ("days", "severity"),
    [(14, None), (3.1, None), (3, Severity.CRITICAL), (0.1, Severity.CRITICAL), (-1, Severity.CRITICAL)],
)
def test_a_key_that_expires_is_found(days, severity):
    found = keyed(a_key(days))
    assert isinstance(found, Evidence)
    assert found.severity is severity


def test_a_key_that_has_expired_is_said_to_have():
    assert "expires on 2026-11-29 at 12:00 UTC" in keyed(a_key(5)).summary
    assert "expired on 2026-11-23 at 12:00 UTC" in keyed(a_key(-1)).summary


def test_time_alone_brings_it_and_the_rule_says_when():
    found = keyed(a_key(20))
    assert isinstance(found, Clear)
    assert found.again_at == NOW + timedelta(days=6)


LASTING = {
    "it never expires": a_key(None),
    "it is another user's": a_key(1, username="backup"),
    "it belongs to nobody, as before 25.04": a_key(1, username=""),
    "it is revoked": a_key(1, revoked=True),
}


@pytest.mark.parametrize("why", LASTING)
def test_a_key_is_left_alone_when(why):
    assert isinstance(keyed(LASTING[why]), Clear)


def test_whoever_logs_in_with_a_password_needs_no_key():
    with_password = settings().nas[0].model_copy(update={"api_key": None, "password": object()})
    config = settings().model_copy(update={"nas": (with_password,)})
    assert isinstance(judge(KEY, Ref(NAS, Kind.API_KEY, "1"), world(a_key(1), config=config)), Clear)


def test_an_old_key_that_has_expired_is_no_trouble_while_a_newer_one_is_valid():
    assert isinstance(keyed(a_key(-1), a_key(90, 2)), Clear)
    assert isinstance(keyed(a_key(-1), a_key(None, 2)), Clear)


@pytest.mark.parametrize(
    "other",
    [a_key(-2, 2), a_key(90, 2, revoked=True), a_key(90, 2, username="backup")],
    ids=["expired too", "revoked", "another user's"],
)
def test_a_key_that_lets_nobody_in_is_no_newer_key(other):
    assert isinstance(keyed(a_key(-1), other), Evidence)


def test_a_key_that_still_works_is_told_even_beside_a_newer_one_because_nobody_knows_which_is_used():
    found = keyed(a_key(5), a_key(90, 2))
    assert found.facts["other_valid_keys"] == ("key2",)


# Services

SMB = a_csi_source(node_attach_driver="smb", server="10.0.0.10", share="data")
ISCSI = a_csi_source(
    node_attach_driver="iscsi", portal="10.0.0.10:3260", iqn="iqn.x:csi-a", share="", server=""
)
NEEDED = {
    "nfs": a_volume(),
    "cifs": a_volume(csi=SMB),
    "iscsitarget": a_volume(csi=ISCSI),
    "nvmet": an_nvme_volume(),
}


def served(name: str, *values, state: str = "STOPPED"):
    return judge(SERVICE, Ref(NAS, Kind.SERVICE, name), world(Service(name, True, state), *values))


@pytest.mark.parametrize("name", NEEDED)
def test_a_stopped_service_that_a_volume_needs_is_found(name):
    found = served(name, NEEDED[name])
    assert found.facts["claims"] == ("default/data",)
    assert found.facts["volumes"] == 1


@pytest.mark.parametrize("name", NEEDED)
def test_a_service_that_only_other_volumes_need_may_be_stopped(name):
    others = [msgspec.structs.replace(v, name=f"pvc-{n}") for n, v in NEEDED.items() if n != name]
    assert isinstance(served(name, *others), Clear)


def test_an_in_tree_volume_needs_its_service_too():
    by_hand = a_volume(csi=None, annotations={}, nfs=k8s.NfsSource("10.0.0.10", "/mnt/tank/media"))
    assert isinstance(served("nfs", by_hand), Evidence)


WELL = {
    "it runs": served("nfs", a_volume(), state="RUNNING"),
    "its state is not told": served("nfs", a_volume(), state="UNKNOWN"),
    "no volume knows it": served("ssh", a_volume()),
    "the volume is released": served("nfs", a_volume(phase="Released")),
    "the volume is being deleted": served("nfs", a_volume(deleted_at=NOW)),
    "the volume is on another server": served("nfs", a_volume(csi=a_csi_source(server="10.9.9.9"))),
    "there is no volume": served("nfs"),
}


@pytest.mark.parametrize("why", WELL)
def test_a_service_is_no_trouble_when(why):
    assert isinstance(WELL[why], Clear)


def test_a_stopped_service_is_looked_at_again_at_full_steps_of_the_clock():
    at = {served("nfs").again_at}
    stopped = world(Service("nfs", True, "STOPPED"), now=NOW + timedelta(minutes=9, seconds=59))
    at.add(judge(SERVICE, Ref(NAS, Kind.SERVICE, "nfs"), stopped).again_at)
    assert at == {NOW + timedelta(minutes=10)}


def test_while_a_cluster_cannot_be_read_it_is_not_said_that_nobody_needs_the_service():
    blind = world(Service("nfs", True, "STOPPED"), incomplete=[(CLUSTER, Kind.PERSISTENT_VOLUME)])
    assert judge(SERVICE, Ref(NAS, Kind.SERVICE, "nfs"), blind) is None


def test_a_stopped_service_is_believed_only_when_it_was_read_again():
    ref = Ref(NAS, Kind.SERVICE, "nfs")
    in_world = world(Service("nfs", True, "STOPPED"), a_volume())
    assert NAS_SERVICE_STOPPED.reread(ref, in_world).nas_kinds == {Kind.SERVICE}
    assert NAS_SERVICE_STOPPED.confirmed(ref, in_world, 5.0) == "the service has not been read again"
    in_world.graph.apply(seen(Service("nfs", True, "STOPPED"), 6.0), Changes())
    assert NAS_SERVICE_STOPPED.confirmed(ref, in_world, 5.0) == ""
