"""When a failed message is tried again, and when it is given up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from truetally.model.deliveries import Delivery, Event
from truetally.model.findings import Finding, Severity, State
from truetally.model.refs import Kind, Ref
from truetally.notify.dispatcher import Pace, is_due, is_hopeless, pause_before

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
PACE = Pace()
FINDING = Finding(
    "f", "rule", Ref("nas1", Kind.DATASET, "tank/a"), Severity.INFO, State.OPEN, "s", "f", {}, NOW, NOW
)


def a_delivery(**changes: object) -> Delivery:
    return msgspec.structs.replace(Delivery("f", NOW, "ops", Event.FIRING, FINDING, NOW), **changes)


def test_pauses_double_from_five_seconds_to_five_minutes():
    pauses = [pause_before(attempt, PACE).total_seconds() for attempt in (1, 2, 3, 6, 7, 8, 1000)]
    assert pauses == [5, 10, 20, 160, 300, 300, 300]


def test_a_new_message_is_due_at_once():
    assert is_due(a_delivery(), NOW, PACE)


def test_a_failed_message_is_due_when_its_pause_is_over():
    failed = a_delivery(next_at=NOW + timedelta(seconds=5))
    assert not is_due(failed, NOW, PACE)
    assert is_due(failed, NOW + timedelta(seconds=5), PACE)


def test_a_clock_set_back_does_not_silence_a_receiver():
    assert is_due(a_delivery(next_at=NOW + timedelta(days=365)), NOW, PACE)


def test_a_message_is_given_up_after_a_day_of_failures():
    assert is_hopeless(a_delivery(attempts=300), NOW + timedelta(hours=25), PACE)
    assert not is_hopeless(a_delivery(attempts=300), NOW + timedelta(hours=23), PACE)


def test_a_clock_set_forward_does_not_make_a_message_hopeless():
    assert not is_hopeless(a_delivery(attempts=1), NOW + timedelta(days=365), PACE)
