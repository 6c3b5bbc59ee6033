"""Is a pool or a volume nearly full, or has one promised more than there is?"""

from __future__ import annotations

from datetime import timedelta

import pytest

from truetally.csi import democratic_csi as csi
from truetally.findings.rule import Clear, Evidence
from truetally.model import truenas
from truetally.model.findings import Finding, Severity, State, fingerprint
from truetally.model.refs import Kind, Ref
from truetally.settings import RuleSettings
from worlds import (
    CLUSTER,
    NAME,
    NAS,
    NOW,
    NVME_NAME,
    a_claim,
    a_csi_source,
    a_dataset,
    a_namespace,
    a_pool,
    a_share,
    a_subsystem,
    a_volume,
    a_zvol,
    accused,
    an_nvme_volume,
    judge,
    properties,
    seen,
    settings,
    world,
)

POOL = Ref(NAS, Kind.POOL, "tank")
VOLUME = Ref(CLUSTER, Kind.PERSISTENT_VOLUME, NAME)
GIB = 1 << 30
FULL, PROMISED, RESERVED = "pool-nearly-full", "pool-overcommitted", "pool-reservations-exceed-free"
VOLUME_FULL, DIFFERS = "volume-nearly-full", "volume-size-differs"


def told(rule: str, subject: Ref, evidence: Evidence) -> Finding:
    """The evidence of a rule, as it was opened before."""
    return Finding(
        fingerprint(rule, subject),
        rule,
        subject,
        evidence.severity or Severity.WARNING,
        State.OPEN,
        evidence.summary,
        "",
        evidence.facts,
        NOW,
    )


def course(rule: str, subject: Ref, worlds) -> list[Severity | None]:
    """What a rule says of one reading after the other, each knowing what has been told before."""
    found, standing = [], ()
    for make in worlds:
        judgement = judge(rule, subject, make(standing))
        is_found = isinstance(judgement, Evidence)
        found.append(judgement.severity if is_found else None)
        standing = (told(rule, subject, judgement),) if is_found else ()
    return found


# Pools


def filled(percent: float, **changes) -> truenas.Pool:
    size = 1000 * GIB
    used = round(size * percent / 100)
    return a_pool(size_bytes=size, allocated_bytes=used, free_bytes=size - used, **changes)


def pool_course(*percents: float) -> list[Severity | None]:
    return course(FULL, POOL, [lambda standing, p=p: world(filled(p), told=standing) for p in percents])


@pytest.mark.parametrize(
    ("percent", "severity"),
    [(79.9, None), (80.0, Severity.WARNING), (89.9, Severity.WARNING), (90.0, Severity.CRITICAL)],
)
def test_a_pool_is_found_from_its_thresholds_on(percent, severity):
    assert pool_course(percent) == [severity]


def test_a_pool_that_wavers_around_its_threshold_is_told_once():
    assert pool_course(80.1, 79.9, 78.1, 79.9, 77.9, 79.9) == [*[Severity.WARNING] * 4, None, None]


def test_a_critical_pool_is_less_critical_two_points_lower_only():
    critical, warning = Severity.CRITICAL, Severity.WARNING
    assert pool_course(90, 89, 88.1, 87.9, 89.9, 90) == [*[critical] * 3, warning, warning, critical]


def test_what_was_told_as_a_warning_is_no_reason_to_call_it_critical_early():
    assert pool_course(80, 89.9) == [Severity.WARNING, Severity.WARNING]


def test_a_threshold_that_is_raised_counts_from_then_on():
    before = judge(FULL, POOL, world(filled(85)))
    raised = settings(rules={"pool_full_warning": 88})
    standing = (told(FULL, POOL, before),)
    assert isinstance(judge(FULL, POOL, world(filled(85), config=raised, told=standing)), Clear)


def test_a_pool_that_tells_no_size_is_not_judged():
    assert accused(FULL, world(a_pool(status="OFFLINE"))) == []
    assert accused(FULL, world(a_pool(size_bytes=0, allocated_bytes=0))) == []


def test_a_pools_figures_are_facts():
    facts = judge(FULL, POOL, world(filled(81.25))).facts
    assert facts["used_percent"] == 81.2
    assert facts["threshold_percent"] == 80
    assert facts["allocated_bytes"] + facts["free_bytes"] == facts["size_bytes"] == 1000 * GIB


def a_root(used: int = 100 * GIB, available: int = 900 * GIB, **changes):
    """The root dataset, read after the empty one that a pool brings into a test's world."""
    return seen(
        a_dataset("tank", used_bytes=used, available_bytes=available, user_properties={}, **changes), 2.0
    )


def a_thin(name: str, size: int, **changes) -> truenas.Dataset:
    return a_dataset(f"tank/{name}", quota_bytes=size, **changes)


def promised(*datasets: truenas.Dataset, root=None, **config) -> Evidence | Clear | None:
    rules = settings(rules=config)
    return judge(PROMISED, POOL, world(filled(10), root or a_root(), *datasets, config=rules))


def test_a_pool_that_has_promised_more_than_twice_its_size_is_found():
    found = promised(a_thin("a", 1500 * GIB), a_zvol("tank/b", volsize_bytes=600 * GIB))
    assert isinstance(found, Evidence)
    assert found.severity is None
    assert (found.facts["promised_bytes"], found.facts["volumes"]) == (2100 * GIB, 2)
    assert found.facts["ratio"] == 2.1


def test_a_pool_that_has_promised_twice_its_size_is_not_found():
    assert isinstance(promised(a_thin("a", 2000 * GIB)), Clear)


def test_the_factor_is_a_setting():
    assert isinstance(promised(a_thin("a", 2000 * GIB), pool_overcommit_factor=1.5), Evidence)


def test_size_is_what_datasets_can_use_and_not_the_raw_size_of_raidz():
    small = a_root(used=100 * GIB, available=500 * GIB)
    assert isinstance(promised(a_thin("a", 1500 * GIB), root=small), Evidence)


NO_PROMISE = {
    "it has no quota": a_dataset("tank/x"),
    "it is a read-only replica": a_thin("x", 3000 * GIB, readonly=True),
    "it is a detached snapshot": a_thin(
        "x", 3000 * GIB, user_properties=properties(**{csi.SNAPSHOT_NAME: "snapshot-1"})
    ),
    "it is on another pool": a_dataset("fast", quota_bytes=3000 * GIB),
    "all of it is reserved": a_thin("x", 3000 * GIB, reserved_bytes=3000 * GIB),
}


@pytest.mark.parametrize("why", NO_PROMISE)
def test_nothing_is_promised_too_much_when(why):
    assert isinstance(promised(NO_PROMISE[why]), Clear)


def test_a_parents_quota_is_no_promise_beside_those_of_its_children_but_limits_them():
    children = (a_thin("k8s/a", 1500 * GIB), a_thin("k8s/b", 1500 * GIB))
    assert isinstance(promised(a_thin("k8s", 1900 * GIB), *children), Clear)
    assert promised(a_thin("k8s", 2500 * GIB), *children).facts["promised_bytes"] == 2500 * GIB
    assert promised(a_thin("k8s", 9000 * GIB), *children).facts["promised_bytes"] == 3000 * GIB


def reserved(available: int, *datasets: truenas.Dataset, standing=()) -> Evidence | Clear | None:
    root = a_root(used=1000 * GIB - available, available=available)
    return judge(RESERVED, POOL, world(filled(30), root, *datasets, told=standing))


def thick(size: int, written: int) -> truenas.Dataset:
    return a_zvol("tank/thick", volsize_bytes=size, reserved_bytes=size, referenced_bytes=written)


def test_a_pool_whose_free_space_is_reserved_but_for_a_little_is_found():
    found = reserved(100 * GIB, thick(800 * GIB, 200 * GIB))
    assert isinstance(found, Evidence)
    assert found.facts["reserved_unwritten_bytes"] == 600 * GIB
    assert found.facts["available_percent"] == 10


@pytest.mark.parametrize(
    ("available", "dataset"),
    [
        (100 * GIB, thick(800 * GIB, 750 * GIB)),
        (300 * GIB, thick(800 * GIB, 100 * GIB)),
        (100 * GIB, a_zvol("tank/thin", volsize_bytes=800 * GIB, referenced_bytes=0)),
        (100 * GIB, a_zvol("tank/thick", reserved_bytes=800 * GIB)),
    ],
    ids=["it is written", "enough is left", "nothing is reserved", "what is written is not told"],
)
def test_reservations_are_no_trouble_when(available, dataset):
    assert isinstance(reserved(available, dataset), Clear)


def test_reservations_that_were_told_are_taken_back_two_points_later():
    much = thick(800 * GIB, 100 * GIB)
    standing = (told(RESERVED, POOL, reserved(200 * GIB, much)),)
    assert isinstance(reserved(210 * GIB, much), Clear)
    assert isinstance(reserved(210 * GIB, much, standing=standing), Evidence)
    assert isinstance(reserved(221 * GIB, much, standing=standing), Clear)


# Volumes


def a_full(percent: float, **changes) -> truenas.Dataset:
    size = 100 * GIB
    return a_dataset(quota_bytes=size, referenced_bytes=round(size * percent / 100), **changes)


def nfs(dataset: truenas.Dataset, *others, volume=None, standing=()):
    return world(a_pool(), dataset, a_share(), volume or a_volume(), *others, told=standing)


def test_a_volume_near_its_quota_is_found_by_its_claim():
    found = judge(VOLUME_FULL, VOLUME, nfs(a_full(86)))
    assert found.summary == "The volume of claim default/data is 86.0 % full"
    assert found.severity is Severity.WARNING
    assert judge(VOLUME_FULL, VOLUME, nfs(a_full(95))).severity is Severity.CRITICAL


def test_a_volume_that_wavers_is_told_once():
    worlds = [lambda standing, p=p: nfs(a_full(p), standing=standing) for p in (85, 84, 83.1, 82.9, 84)]
    assert course(VOLUME_FULL, VOLUME, worlds) == [*[Severity.WARNING] * 3, None, None]


QUIET = {
    "it has room": nfs(a_full(84.9)),
    "quotas are disabled": nfs(a_dataset(referenced_bytes=100 * GIB)),
    "the NAS does not tell what it refers to": nfs(a_dataset(quota_bytes=GIB)),
    "it is released": nfs(a_full(99), volume=a_volume(phase="Released")),
    "it is being deleted": nfs(a_full(99), volume=a_volume(deleted_at=NOW)),
    "the volume is exempted": nfs(a_full(99), volume=a_volume(annotations={"truetally.io/ignore": "true"})),
    "its claim is exempted": nfs(a_full(99), a_claim(annotations={"truetally.io/ignore": "true"})),
    "its dataset is exempted": nfs(a_full(99, user_properties=properties(ignore="wanted"))),
    "it is on a foreign server": nfs(a_full(99), volume=a_volume(csi=a_csi_source(server="10.9.9.9"))),
    "only its name agrees": world(a_pool(), a_full(99), an_nvme_volume()),
}


@pytest.mark.parametrize("why", QUIET)
def test_a_volume_is_not_called_full_when(why):
    assert isinstance(judge(VOLUME_FULL, VOLUME, QUIET[why]), Clear)


def block(zvol: truenas.Dataset, volume=None):
    asset = volume or an_nvme_volume()
    return world(a_pool(), zvol, a_namespace(), a_subsystem(NVME_NAME), asset)


def test_a_zvol_that_is_written_to_is_a_note_only_because_it_does_not_tell_what_is_free_in_it():
    nearly = a_zvol(volsize_bytes=100 * GIB, referenced_bytes=94 * GIB)
    assert isinstance(judge(VOLUME_FULL, VOLUME, block(nearly)), Clear)
    found = judge(VOLUME_FULL, VOLUME, block(a_zvol(volsize_bytes=100 * GIB, referenced_bytes=100 * GIB)))
    assert found.severity is Severity.INFO
    assert "only the filesystem on it knows" in found.summary


def test_while_its_chain_cannot_be_read_a_volume_is_not_judged():
    blind = world(a_full(99), a_share(), a_volume(), incomplete=[(NAS, Kind.DATASET)])
    assert judge(VOLUME_FULL, VOLUME, blind) is None
    assert judge(DIFFERS, VOLUME, blind) is None


# Sizes


def test_a_dataset_smaller_than_its_volume_is_found():
    found = judge(
        DIFFERS, VOLUME, nfs(a_dataset(quota_bytes=5 * GIB), volume=a_volume(capacity_bytes=10 * GIB))
    )
    assert isinstance(found, Evidence)
    assert found.severity is None
    assert (found.facts["quota_bytes"], found.facts["capacity_bytes"]) == (5 * GIB, 10 * GIB)
    assert found.facts["claim"] == "default/data"


def test_a_dataset_larger_than_its_volume_is_a_note():
    found = judge(
        DIFFERS, VOLUME, nfs(a_dataset(quota_bytes=50 * GIB), volume=a_volume(capacity_bytes=10 * GIB))
    )
    assert found.severity is Severity.INFO


def test_a_zvol_smaller_than_its_volume_is_found():
    found = judge(DIFFERS, VOLUME, block(a_zvol(volsize_bytes=GIB - 1, volblocksize_bytes=16384)))
    assert isinstance(found, Evidence)
    assert found.severity is None


SAME = {
    "they are the same": nfs(a_dataset(quota_bytes=GIB)),
    "quotas are disabled": nfs(a_dataset(), volume=a_volume(capacity_bytes=10 * GIB)),
    "the volume promises nothing": nfs(a_dataset(quota_bytes=5 * GIB), volume=a_volume(capacity_bytes=0)),
    "the least quota is 1 GiB": nfs(a_dataset(quota_bytes=GIB), volume=a_volume(capacity_bytes=GIB // 2)),
    "the volsize is rounded up to its block": block(
        a_zvol(volsize_bytes=GIB + 16383, volblocksize_bytes=16384), an_nvme_volume(capacity_bytes=GIB)
    ),
    "the volsize is rounded up to a block that is not told": block(a_zvol(volsize_bytes=GIB + 131071)),
    "it is being expanded": nfs(
        a_dataset(quota_bytes=20 * GIB),
        a_claim(requested_bytes=20 * GIB),
        volume=a_volume(capacity_bytes=10 * GIB),
    ),
    "a person wrote the volume": nfs(
        a_dataset(quota_bytes=5 * GIB), volume=a_volume(capacity_bytes=10 * GIB, annotations={})
    ),
    "it is exempted": nfs(
        a_dataset(quota_bytes=5 * GIB, user_properties=properties(ignore="so wanted")),
        volume=a_volume(capacity_bytes=10 * GIB),
    ),
    "it is released": nfs(
        a_dataset(quota_bytes=5 * GIB), volume=a_volume(capacity_bytes=10 * GIB, phase="Released")
    ),
}


@pytest.mark.parametrize("why", SAME)
def test_sizes_do_not_differ_when(why):
    assert isinstance(judge(DIFFERS, VOLUME, SAME[why]), Clear)


def test_a_whole_block_more_is_a_difference():
    assert isinstance(
        judge(DIFFERS, VOLUME, block(a_zvol(volsize_bytes=GIB + 16384, volblocksize_bytes=16384))), Evidence
    )


def test_a_claim_that_wants_yet_another_size_explains_nothing():
    asked = nfs(
        a_dataset(quota_bytes=20 * GIB),
        a_claim(requested_bytes=30 * GIB),
        volume=a_volume(capacity_bytes=10 * GIB),
    )
    assert isinstance(judge(DIFFERS, VOLUME, asked), Evidence)


# Settings


@pytest.mark.parametrize(
    "mistaken",
    [
        {"pool_full_warning": 91},
        {"volume_full_warning": 96},
        {"key_expiry_critical": "20d"},
        {"pool_full_critical": 101},
        {"pool_overcommit_factor": 0.5},
    ],
)
def test_thresholds_that_contradict_each_other_are_refused(mistaken):
    with pytest.raises(ValueError, match=next(iter(mistaken)).rpartition("_")[0]):
        RuleSettings.model_validate(mistaken)


def test_thresholds_may_be_equal():
    assert RuleSettings(pool_full_warning=90, key_expiry_critical=timedelta(days=14)).pool_full_critical == 90
