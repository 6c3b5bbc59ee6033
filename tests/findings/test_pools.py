"""Are the disks of a pool well, and has somebody looked lately?"""

from __future__ import annotations

from datetime import timedelta

import pytest

from truetally.findings.rule import Clear, Evidence
from truetally.model.findings import Severity
from truetally.model.refs import Kind, Ref
from truetally.model.truenas import Device, Scan
from worlds import NAS, NOW, a_pool, judge, settings, world

POOL = Ref(NAS, Kind.POOL, "tank")
DEGRADED, ERRORS = "pool-degraded", "pool-device-errors"
OVERDUE, SCRUB_ERRORS = "pool-scrub-overdue", "pool-scrub-errors"

MIRROR = Device("data", "MIRROR", "mirror-0", "DEGRADED")
WELL, ILL = Device("data", "DISK", "sda", "ONLINE"), Device("data", "DISK", "sdb", "FAULTED", 3, 14, 159)
SPARES = (Device("spare", "DISK", "sdx", "AVAIL"), Device("spare", "DISK", "sdy", "INUSE"))


def said(rule: str, **pool):
    return judge(rule, POOL, world(a_pool(**pool)))


# Status


def test_a_degraded_pool_is_found_with_its_ill_devices_and_their_counters():
    found = said(DEGRADED, status="DEGRADED", healthy=False, devices=(MIRROR, WELL, ILL, *SPARES))
    assert found.severity is None
    assert found.summary == "Pool tank is DEGRADED (devices sdb): it serves, with less redundancy"
    assert found.facts["devices"] == (
        "data mirror mirror-0: DEGRADED, 0 read, 0 write, 0 checksum errors",
        "data disk sdb: FAULTED, 3 read, 14 write, 159 checksum errors",
    )


def test_devices_that_are_online_and_have_counted_errors_are_named_too():
    found = said(DEGRADED, status="DEGRADED", devices=(ILL, Device("data", "DISK", "sdc", "ONLINE", 1)))
    assert found.facts["devices_with_errors"] == (
        "data disk sdc: ONLINE, 1 read, 0 write, 0 checksum errors",
    )


@pytest.mark.parametrize("status", ["FAULTED", "UNAVAIL", "OFFLINE", "SUSPENDED", "REMOVED"])
def test_a_pool_that_cannot_be_used_is_critical(status):
    found = said(DEGRADED, status=status, healthy=False, status_detail="one or more devices is missing")
    assert found.severity is Severity.CRITICAL
    assert found.facts["status_detail"] == "one or more devices is missing"


@pytest.mark.parametrize("status", ["ONLINE", "UNKNOWN", ""])
def test_a_pool_that_is_well_or_whose_status_is_not_told_is_not_found(status):
    assert isinstance(said(DEGRADED, status=status), Clear)


def test_a_pool_that_is_not_in_the_list_is_not_judged_by_what_it_was():
    assert isinstance(judge(DEGRADED, POOL, world()), Clear)


# Counters


@pytest.mark.parametrize("counted", [{"read_errors": 1}, {"write_errors": 1}, {"checksum_errors": 1}])
def test_one_error_is_enough(counted):
    found = said(ERRORS, devices=(WELL, Device("cache", "DISK", "nvme0n1", "ONLINE", **counted)))
    assert isinstance(found, Evidence)
    assert "nvme0n1" in found.summary
    assert found.facts[next(iter(counted))] == 1


def test_a_device_without_errors_is_well():
    assert isinstance(said(ERRORS, devices=(WELL, *SPARES)), Clear)


def test_the_devices_of_a_degraded_pool_are_told_once():
    assert isinstance(said(ERRORS, status="DEGRADED", devices=(ILL,)), Clear)


# Scrubs


def ago(days: float):
    return NOW - timedelta(days=days)


def a_scan(days: float, function: str = "SCRUB", state: str = "FINISHED", **changes) -> Scan:
    ended_at = None if state == "SCANNING" else ago(days)
    return Scan(function, state, ago(days + 0.5), ended_at, **changes)


def test_a_pool_is_overdue_when_its_last_scrub_ended_more_than_35_days_ago():
    found = said(OVERDUE, scan=a_scan(35.1))
    assert isinstance(found, Evidence)
    assert found.facts["days"] == 35
    assert found.since == ago(0.1)


def test_time_alone_makes_a_pool_overdue_and_the_rule_says_when():
    found = said(OVERDUE, scan=a_scan(34))
    assert isinstance(found, Clear)
    assert found.again_at == NOW + timedelta(days=1)


@pytest.mark.parametrize(
    "scan",
    [
        None,
        Scan("SCRUB", "FINISHED"),
        a_scan(100, state="SCANNING"),
        a_scan(1, "RESILVER"),
        a_scan(1, state="CANCELED"),
    ],
    ids=["never", "when is not told", "running", "hidden by a resilver", "hidden by a canceled one"],
)
def test_a_pool_whose_last_scrub_is_not_known_is_not_overdue(scan):
    assert isinstance(said(OVERDUE, scan=scan), Clear)


@pytest.mark.parametrize("scan", [a_scan(40, "RESILVER"), a_scan(40, state="CANCELED")])
def test_after_any_scan_that_old_no_scrub_has_come(scan):
    assert isinstance(said(OVERDUE, scan=scan), Evidence)


def test_a_pool_that_cannot_be_scrubbed_is_not_overdue():
    assert isinstance(said(OVERDUE, scan=a_scan(100), status="OFFLINE"), Clear)
    assert isinstance(said(OVERDUE, scan=a_scan(100), status="DEGRADED"), Evidence)


def test_how_long_is_a_setting():
    patient = settings(rules={"scrub_overdue_after": "90d"})
    assert isinstance(judge(OVERDUE, POOL, world(a_pool(scan=a_scan(60)), config=patient)), Clear)


@pytest.mark.parametrize("state", ["FINISHED", "SCANNING", "CANCELED"])
def test_errors_beyond_repair_are_found(state):
    found = said(SCRUB_ERRORS, scan=a_scan(1, state=state, errors=2))
    assert isinstance(found, Evidence)
    assert found.facts["errors"] == 2


@pytest.mark.parametrize("scan", [None, a_scan(1)])
def test_a_scan_without_errors_is_none(scan):
    assert isinstance(said(SCRUB_ERRORS, scan=scan), Clear)


@pytest.mark.parametrize("rule", [DEGRADED, ERRORS, OVERDUE, SCRUB_ERRORS])
def test_while_pools_cannot_be_read_nothing_is_said(rule):
    blind = world(a_pool(status="FAULTED"), incomplete=[(NAS, Kind.POOL)])
    assert judge(rule, POOL, blind) is None
