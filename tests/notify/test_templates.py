"""How messages read."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from truetally.model.deliveries import Delivery, Event
from truetally.model.findings import Finding, Severity, State
from truetally.model.refs import Kind, Ref
from truetally.notify.templates import Tone, batches, clean, message, size

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)


def a_delivery(number: int = 1, event: Event = Event.FIRING, **changes: object) -> Delivery:
    finding = Finding(
        fingerprint=f"{number:012x}",
        rule="dataset-without-volume",
        subject=Ref("nas1", Kind.DATASET, f"tank/pvc-{number}"),
        severity=Severity.WARNING,
        state=State.OPEN if event is Event.FIRING else State.RESOLVED,
        summary=f"No PersistentVolume uses dataset tank/pvc-{number}",
        fix="Look what the dataset holds.",
        facts={"used_bytes": number * 1024**3},
        since=NOW,
        opened_at=NOW,
    )
    finding = msgspec.structs.replace(finding, **changes)
    return Delivery(finding.fingerprint, NOW, "ops", event, finding, NOW)


def test_a_message_says_what_where_since_when_and_what_to_do():
    of = message([a_delivery()])
    assert of.title == "Warning: No PersistentVolume uses dataset tank/pvc-1"
    assert of.body == (
        "Dataset tank/pvc-1 on nas1\n"
        "Rule: dataset-without-volume (warning)\n"
        "Since: 2026-11-24 09:00 UTC\n"
        "\n"
        "used_bytes: 1073741824 (1.0 GiB)\n"
        "\n"
        "What to do: Look what the dataset holds.\n"
        "\n"
        "More: truetally findings show 000000000001"
    )
    assert of.tone is Tone.WARNING


def test_a_resolved_message_says_how_and_gives_no_advice():
    of = message([a_delivery(event=Event.RESOLVED, resolved_at=NOW, note="the dataset is gone")])
    assert of.title.startswith("Resolved: ")
    assert "the dataset is gone" in of.body
    assert "What to do" not in of.body
    assert of.tone is Tone.SUCCESS


def test_five_at_once_are_told_one_by_one():
    assert [len(each) for each in batches([a_delivery(number) for number in range(5)])] == [1] * 5


def test_six_at_once_become_one_summary():
    assert [len(each) for each in batches([a_delivery(number) for number in range(6)])] == [6]


def test_firing_and_resolved_are_never_in_one_message():
    mixed = [a_delivery(number, event) for number in range(6) for event in Event]
    assert [{each.event for each in batch} for batch in batches(mixed)] == [{Event.FIRING}, {Event.RESOLVED}]


def test_a_summary_counts_all_and_shows_the_ten_largest():
    of = message([a_delivery(number) for number in range(1, 43)])
    shown = [line for line in of.body.splitlines() if line.startswith("- ")]
    assert of.title == "42 findings"
    assert "42 warning (42 dataset-without-volume)" in of.body
    assert "Space used: 903.0 GiB" in of.body
    assert [line.rsplit(" ", 1)[1] for line in shown] == [f"{number:012x}" for number in range(42, 32, -1)]
    assert "… and 32 more" in of.body


def test_a_summary_shows_what_is_critical_first():
    critical = a_delivery(99, severity=Severity.CRITICAL, facts={})
    of = message([*(a_delivery(number) for number in range(20)), critical])
    assert next(line for line in of.body.splitlines() if line.startswith("- ")).endswith("00000063")
    assert of.tone is Tone.FAILURE


@pytest.mark.parametrize(
    ("untrusted", "harmless"),
    [
        ("tank/a@daily-1", "tank/a@daily-1"),
        ("a\nb\x00c\x1b[31m", "a b c [31m"),
        ("right\u202eto left", "right to left"),
        ("@everyone look", "@\u200beveryone look"),
        ("tank/a@here", "tank/a@\u200bhere"),
        ("@\u200beveryone", "@ everyone"),
        ("<!channel> <@U1> <#C1>", "‹!channel> ‹@U1> ‹#C1>"),
        ("<https://evil.example|bank>", "‹https://evil.example|bank>"),
        ("used < 10%", "used < 10%"),
    ],
)
def test_names_of_objects_cannot_shout_or_hide(untrusted: str, harmless: str):
    assert clean(untrusted) == harmless


def test_a_message_has_no_line_that_a_name_put_there():
    of = message([a_delivery(subject=Ref("nas1", Kind.DATASET, "x\nWhat to do: rm -rf /"))])
    assert "\nWhat to do: rm" not in of.body


def test_text_is_cut_where_it_is_too_long():
    assert len(message([a_delivery(summary="x" * 5000)]).title) == 120


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**50, "1.0 PiB"), (2**61, "2048.0 PiB")],
)
def test_sizes_are_in_binary_units(amount: int, text: str):
    assert size(amount) == text
