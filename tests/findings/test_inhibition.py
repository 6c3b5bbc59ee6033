"""Is what one cause explains hidden behind it, and nothing else?"""

from __future__ import annotations

import msgspec
import pytest

from truetally.findings.catalogue import BY_ID, RULES
from truetally.findings.inhibition import hidden_by, hides, hiding
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.findings import Finding, Severity, State, fingerprint
from truetally.model.refs import Kind, Ref
from worlds import (
    CLUSTER,
    NAME,
    NAS,
    NOW,
    NVME_NAME,
    PATH,
    a_claim,
    a_content,
    a_csi_source,
    a_dataset,
    a_namespace,
    a_pool,
    a_share,
    a_snapshot,
    a_subsystem,
    a_volume,
    an_attachment,
    an_nvme_volume,
    ref_of,
    seen,
    world,
)


def a_finding(rule: str, subject: Ref, state: State = State.OPEN) -> Finding:
    print_ = fingerprint(rule, subject)
    return Finding(print_, rule, subject, Severity.WARNING, state, "it is so", "", {}, NOW)


def away(source: str, state: State = State.OPEN) -> Finding:
    return a_finding("source-unavailable", Ref(source, Kind.SOURCE, source), state)


def ill(pool: str = "tank", nas: str = NAS, state: State = State.OPEN) -> Finding:
    return a_finding("pool-degraded", Ref(nas, Kind.POOL, pool), state)


ORPHAN = a_finding("dataset-without-volume", ref_of(a_dataset()))
VOLUME = a_finding("volume-without-dataset", ref_of(a_volume()))
GONE = a_pool(status="UNAVAIL")


# A source that is away


def test_a_nas_that_is_away_hides_what_is_on_it_and_what_depends_on_it():
    in_world = world(a_volume(), a_claim())
    assert hides(away(NAS), ORPHAN, in_world)
    assert hides(away(NAS), VOLUME, in_world)
    assert hides(away(NAS), ill(), in_world)
    assert hides(away(NAS), a_finding("source-unavailable", Ref(NAS, Kind.SOURCE, f"{NAS}/Pool")), in_world)


def test_a_nas_that_is_away_does_not_hide_what_is_elsewhere():
    foreign = a_volume(csi=a_csi_source(server="10.9.9.9"))
    assert not hides(away(NAS), VOLUME, world(foreign))
    assert not hides(away("nas2"), ORPHAN, world())
    assert not hides(away(NAS), a_finding("claim-pending", ref_of(a_claim())), world(a_claim(volume_name="")))


def test_a_cluster_that_is_away_hides_what_is_in_it_only():
    assert hides(away(CLUSTER), VOLUME, world())
    assert not hides(away(CLUSTER), ORPHAN, world())


def test_a_kind_that_may_not_be_read_hides_nothing():
    denied = a_finding("source-unavailable", Ref(NAS, Kind.SOURCE, f"{NAS}/Pool"))
    assert not hides(denied, ORPHAN, world())


@pytest.mark.parametrize("state", [State.PENDING, State.RESOLVED])
def test_what_has_not_been_told_or_is_over_hides_nothing(state):
    assert not hides(away(NAS, state), ORPHAN, world())
    assert not hides(ill(state=state), ORPHAN, world(GONE))


def test_what_is_held_still_explains():
    assert hides(ill(state=State.HELD), ORPHAN, world(GONE))


# A pool that cannot be used

ON_THE_POOL = {
    "its datasets": (ref_of(a_dataset()), ()),
    "its snapshots": (ref_of(a_snapshot()), ()),
    "itself, of another rule": (Ref(NAS, Kind.POOL, "tank"), ()),
    "volumes on it": (ref_of(a_volume()), (a_volume(),)),
    "claims on it": (ref_of(a_claim()), (a_claim(), a_volume())),
    "attachments of its volumes": (ref_of(an_attachment()), (an_attachment(), a_volume())),
    "contents of its snapshots": (ref_of(a_content()), (a_content(), a_volume())),
    "its shares": (ref_of(a_share()), (a_share(),)),
    "block volumes on it": (
        ref_of(an_nvme_volume()),
        (an_nvme_volume(), a_namespace(), a_subsystem(NVME_NAME)),
    ),
    "its subsystems": (ref_of(a_subsystem()), (a_namespace(), a_subsystem())),
    "its extents": (Ref(NAS, Kind.ISCSI_EXTENT, "7"), (truenas.IscsiExtent(7, "x", "DISK", PATH),)),
    "its targets": (
        Ref(NAS, Kind.ISCSI_TARGET, "3"),
        (
            truenas.IscsiTarget(3, "x"),
            truenas.IscsiTargetExtent(5, 3, 7, 0),
            truenas.IscsiExtent(7, "x", "DISK", PATH),
        ),
    ),
    "links to its extents": (
        Ref(NAS, Kind.ISCSI_TARGET_EXTENT, "5"),
        (truenas.IscsiTargetExtent(5, 3, 7, 0), truenas.IscsiExtent(7, "x", "DISK", PATH)),
    ),
}


@pytest.mark.parametrize("what", ON_THE_POOL)
def test_a_pool_that_cannot_be_used_hides(what):
    subject, values = ON_THE_POOL[what]
    about = a_finding("dataset-without-volume", subject)
    about = msgspec.structs.replace(about, rule=_a_rule_on(subject.kind))
    assert hides(ill(), about, world(GONE, *values))
    assert not hides(ill("fast"), about, world(GONE, a_pool(name="fast", status="UNAVAIL"), *values))
    assert not hides(ill(nas="nas2"), about, world(GONE, *values))


def _a_rule_on(kind: Kind) -> str:
    return next(
        (rule.id for rule in RULES if rule.subject is kind and rule.id != "pool-degraded"), "claim-pending"
    )


@pytest.mark.parametrize("status", ["ONLINE", "DEGRADED"])
def test_a_pool_that_serves_hides_nothing(status):
    assert not hides(ill(), ORPHAN, world(a_pool(status=status)))


def test_a_volume_that_nobody_knows_the_place_of_is_not_hidden():
    lost = world(GONE, a_volume(csi=k8s.CsiSource("d", NAME)))
    assert not hides(ill(), VOLUME, lost)


def test_a_volume_of_the_same_handle_in_another_cluster_does_not_place_a_content():
    about = a_finding("content-without-snapshot", ref_of(a_content()))
    assert hides(ill(), about, world(GONE, a_content(), seen(a_volume(), source=CLUSTER)))
    assert not hides(ill(), about, world(GONE, a_content(), seen(a_volume(), source="other")))


# What is shown


def test_a_finding_does_not_hide_itself_and_no_two_hide_each_other():
    in_world = world(GONE, a_volume())
    known = [away(NAS), away(CLUSTER), ill(), ORPHAN, VOLUME]
    pairs = {(a.rule, b.rule) for a in known for b in known if hides(a, b, in_world)}
    assert all((b, a) not in pairs for a, b in pairs)
    assert pairs


def test_a_finding_of_a_rule_that_this_version_does_not_have_is_not_hidden():
    assert not hides(away(NAS), a_finding("rule-of-yesterday", ref_of(a_dataset())), world())


def test_everything_that_hides_a_finding_is_named():
    in_world = world(GONE)
    by = hiding([away(NAS), ill(), ORPHAN, away(CLUSTER, State.PENDING)])
    assert by == [away(NAS), ill()]
    assert hidden_by(ORPHAN, by, in_world) == (away(NAS).fingerprint, ill().fingerprint)


def test_only_rules_that_exist_are_said_to_hide():
    assert {i.rule for rule in RULES for i in rule.hidden_by} <= set(BY_ID)
