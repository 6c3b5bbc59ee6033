"""What becomes of a finding: suspected, proven, held, acknowledged, resolved; and nothing out of turn."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from truetally.errors import NotFound
from truetally.findings.catalogue import BY_ID
from truetally.findings.ledger import Ledger
from truetally.findings.rule import Evidence
from truetally.model.findings import Severity, State, fingerprint
from truetally.model.refs import Kind, Ref
from worlds import NAS, NOW, PATH, settings, world

SUBJECT = Ref(NAS, Kind.DATASET, PATH)
ACCUSING = BY_ID["dataset-without-volume"]
PLAIN = BY_ID["volume-released"]
PRINT = fingerprint(ACCUSING.id, SUBJECT)
HOUR = 3600.0


def suspected(rule=ACCUSING, since=None, ticks=100.0):
    ledger = Ledger()
    told = ledger.found(rule, SUBJECT, Evidence("it is so", since=since), world(ticks=ticks))
    return ledger, told


def opened():
    ledger, _ = suspected()
    ledger.open(PRINT, NOW)
    return ledger


def test_a_suspicion_is_told_to_nobody():
    ledger, told = suspected()
    assert told == []
    assert [f.state for f in ledger.findings()] == [State.PENDING]


def test_a_suspicion_is_mature_after_the_grace_in_ticks():
    ledger, _ = suspected()
    assert ledger.mature(99.0 + HOUR) == []
    assert [f.fingerprint for f in ledger.mature(100.0 + HOUR)] == [PRINT]


def test_an_accusation_waits_its_whole_grace_however_old_the_objects_say_it_is():
    ledger, _ = suspected(since=NOW - timedelta(days=9))
    assert ledger.mature(99.0 + HOUR) == []


def test_a_plain_condition_counts_from_when_the_object_says_it_began():
    ledger, _ = suspected(PLAIN, since=NOW - timedelta(minutes=20))
    assert ledger.mature(100.0 + 599) == []
    assert len(ledger.mature(100.0 + 600)) == 1


def test_a_suspicion_that_passes_leaves_no_trace():
    ledger, _ = suspected()
    assert ledger.clear(ACCUSING.id, SUBJECT, "a volume refers to it", NOW) == []
    assert ledger.findings() == []


def test_a_suspicion_that_cannot_be_checked_any_more_begins_anew():
    ledger, _ = suspected()
    assert ledger.hold(ACCUSING.id, SUBJECT, "nas1 is away", NOW) == []
    assert ledger.findings() == []


def test_a_proven_suspicion_is_open_from_now_on():
    ledger, _ = suspected()
    (told,) = ledger.open(PRINT, NOW)
    assert (told.before, told.finding.state, told.finding.opened_at) == (State.PENDING, State.OPEN, NOW)


def test_what_was_not_confirmed_is_tried_again_later_and_says_why():
    ledger, _ = suspected()
    ledger.confirming(PRINT)
    assert ledger.mature(9 * HOUR) == []
    ledger.unconfirmed(PRINT, "nas1 does not answer", retry_at=9 * HOUR)
    assert ledger.mature(8 * HOUR) == []
    assert ledger.mature(9 * HOUR)[0].note == "not confirmed: nas1 does not answer"


def test_an_open_finding_that_cannot_be_checked_is_held_once_and_comes_back_open():
    ledger = opened()
    (held,) = ledger.hold(ACCUSING.id, SUBJECT, "nas1 is away", NOW)
    assert ledger.hold(ACCUSING.id, SUBJECT, "nas1 is away", NOW) == []
    (back,) = ledger.found(ACCUSING, SUBJECT, Evidence("it is so"), world())
    assert (held.finding.state, back.before, back.finding.state) == (State.HELD, State.HELD, State.OPEN)
    assert back.finding.opened_at == NOW


@pytest.mark.parametrize("held_first", [False, True])
def test_a_told_finding_that_is_no_longer_so_is_resolved_with_the_reason(held_first):
    ledger = opened()
    if held_first:
        ledger.hold(ACCUSING.id, SUBJECT, "nas1 is away", NOW)
    (told,) = ledger.clear(ACCUSING.id, SUBJECT, "the dataset is gone", NOW)
    assert (told.finding.state, told.finding.note) == (State.RESOLVED, "the dataset is gone")
    assert ledger.findings() == []


def test_what_is_open_and_still_so_says_nothing_new():
    ledger = opened()
    assert ledger.found(ACCUSING, SUBJECT, Evidence("it is so", {"used_bytes": 7}), world()) == []
    assert ledger.findings()[0].facts == {"used_bytes": 7}


def test_a_graver_finding_is_told_again():
    ledger = opened()
    (told,) = ledger.found(ACCUSING, SUBJECT, Evidence("worse", severity=Severity.CRITICAL), world())
    assert (told.before, told.finding.severity) == (State.OPEN, Severity.CRITICAL)


def test_a_configured_severity_wins():
    config = settings(rules={"severities": {ACCUSING.id: "info"}})
    ledger = Ledger()
    ledger.found(ACCUSING, SUBJECT, Evidence("x"), world(config=config))
    assert ledger.findings()[0].severity is Severity.INFO


def test_a_restart_neither_forgets_nor_repeats():
    before = opened().findings()
    ledger = Ledger()
    ledger.restore(before)
    assert ledger.found(ACCUSING, SUBJECT, Evidence("it is so"), world()) == []
    assert ledger.findings()[0].opened_at == NOW
    (resolved,) = ledger.clear(ACCUSING.id, SUBJECT, "gone", NOW)
    assert resolved.before is State.OPEN


def test_acknowledging_keeps_it_open_and_says_who():
    ledger = opened()
    told = ledger.acknowledge(PRINT, "ada", "known", NOW)
    assert (told.before, told.finding.state, told.finding.acknowledged.by) == (State.OPEN, State.OPEN, "ada")


def test_a_suspicion_cannot_be_acknowledged():
    ledger, _ = suspected()
    with pytest.raises(NotFound, match="no open finding"):
        ledger.acknowledge(PRINT, "ada", "", NOW)


def test_fingerprints_differ_by_rule_source_kind_and_name():
    refs = [SUBJECT] + [
        msgspec.structs.replace(SUBJECT, **{k: v})
        for k, v in {"source": "x", "kind": Kind.SNAPSHOT, "name": "x"}.items()
    ]
    assert len({fingerprint(rule, ref) for rule in ("a", "b") for ref in refs}) == 8


def test_what_has_been_told_is_what_was_proven_and_is_not_over():
    ledger, _ = suspected()
    assert ledger.told(ACCUSING.id, SUBJECT) is None
    ledger.open(PRINT, NOW)
    assert ledger.told(ACCUSING.id, SUBJECT).state is State.OPEN
    ledger.hold(ACCUSING.id, SUBJECT, "the NAS is away", NOW)
    assert ledger.told(ACCUSING.id, SUBJECT).state is State.HELD
    assert ledger.told(PLAIN.id, SUBJECT) is None
    ledger.clear(ACCUSING.id, SUBJECT, "it is used", NOW)
    assert ledger.told(ACCUSING.id, SUBJECT) is None
