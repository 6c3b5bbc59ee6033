"""The texts of messages: what is wrong, where, since when, how one can tell, and what to do.

Plain text. Names of objects come from whoever may create a volume, so they are
cleaned: no control characters, and nothing that a chat would take for a mention.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from truetally.model.deliveries import Delivery, Event
from truetally.model.findings import Fact, Finding, Severity

SINGLY_UP_TO = 5
"""So many findings at once are told one by one; more become one summary."""

_LARGEST = 10
_TITLE_LENGTH = 120
_TEXT_LENGTH = 600
_RANK = {Severity.CRITICAL: 0, Severity.WARNING: 1, Severity.INFO: 2}
_ZERO_WIDTH_SPACE = "\u200b"

# Slack reads <!channel>, <@U1>, <#C1> and <https://…|text>; Slack, Discord, Mattermost and Matrix read the
# words. A snapshot's name has an @ too, so only these are touched.
_BRACKETED = re.compile(r"<(?=[!@#]|[a-z][a-z0-9+.-]*:)", re.IGNORECASE)
_EVERYBODY = re.compile(r"@(?=(?:everyone|here|channel|all|room)\b)", re.IGNORECASE)


class Tone(StrEnum):
    """How a receiver that has colours shows it, in Apprise's words."""

    INFO = "info"
    SUCCESS = "success"
    WARNING = "warning"
    FAILURE = "failure"


_TONES = {Severity.CRITICAL: Tone.FAILURE, Severity.WARNING: Tone.WARNING, Severity.INFO: Tone.INFO}


class Message(msgspec.Struct, frozen=True):
    """What a receiver gets."""

    title: str
    body: str
    tone: Tone


def batches(due: Sequence[Delivery]) -> list[list[Delivery]]:
    """Which deliveries go together in one message, firing ones before resolved ones."""
    together: list[list[Delivery]] = []
    for event in Event:
        of_event = [delivery for delivery in due if delivery.event is event]
        if len(of_event) > SINGLY_UP_TO:
            together.append(of_event)
        else:
            together.extend([delivery] for delivery in of_event)
    return together


def message(batch: Sequence[Delivery]) -> Message:
    """The message for a batch that `batches()` made."""
    return _single(batch[0]) if len(batch) == 1 else _summary(batch)


def clean(text: str, length: int = _TEXT_LENGTH) -> str:
    """One line of untrusted text: no control or direction characters, no mentions, not too long."""
    visible = "".join(" " if unicodedata.category(each)[0] in "CZ" else each for each in text)
    visible = " ".join(visible.split())
    visible = _EVERYBODY.sub("@" + _ZERO_WIDTH_SPACE, _BRACKETED.sub("‹", visible))
    return visible if len(visible) <= length else visible[: length - 1] + "…"


def size(amount: float) -> str:
    """Bytes as people read them, in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(amount) < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} PiB"


def _single(delivery: Delivery) -> Message:
    finding = delivery.finding
    subject = f"{finding.subject.kind.value} {clean(finding.subject.name)} on {clean(finding.subject.source)}"
    lines = [subject, *_when(finding)]
    if delivery.event is Event.FIRING:
        lines += ["", *_evidence(finding)]
        if finding.fix:
            lines += ["", f"What to do: {clean(finding.fix)}"]
    elif finding.note:
        lines += ["", clean(finding.note)]
    lines += ["", f"More: truetally findings show {finding.fingerprint}"]
    return Message(title=_title(delivery), body="\n".join(lines), tone=_tone([delivery]))


def _title(delivery: Delivery) -> str:
    resolved = delivery.event is Event.RESOLVED
    word = "Resolved" if resolved else delivery.finding.severity.value.capitalize()
    return clean(f"{word}: {delivery.finding.summary}", _TITLE_LENGTH)


def _when(finding: Finding) -> list[str]:
    lines = [f"Rule: {clean(finding.rule)} ({finding.severity.value})", f"Since: {_time(finding.since)}"]
    if finding.resolved_at is not None:
        lines.append(f"Resolved: {_time(finding.resolved_at)}")
    return lines


def _evidence(finding: Finding) -> list[str]:
    return [f"{clean(name)}: {_fact(name, value)}" for name, value in finding.facts.items()]


def _fact(name: str, value: Fact) -> str:
    if name.endswith("_bytes") and isinstance(value, int | float):
        return f"{value} ({size(value)})"
    if isinstance(value, tuple):
        return ", ".join(clean(each) for each in value) or "none"
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return clean(str(value))


def _summary(batch: Sequence[Delivery]) -> Message:
    event = batch[0].event
    findings = sorted((delivery.finding for delivery in batch), key=_gravest_and_largest_first)
    total = sum(_used(finding) for finding in findings)
    lines = [_counts(findings)]
    if total:
        lines.append(f"Space used: {size(total)}")
    lines += ["", *(_line(finding) for finding in findings[:_LARGEST])]
    if len(findings) > _LARGEST:
        lines.append(f"… and {len(findings) - _LARGEST} more")
    lines += ["", "All: truetally findings list"]
    title = f"{len(findings)} findings" if event is Event.FIRING else f"Resolved: {len(findings)} findings"
    return Message(title=title, body="\n".join(lines), tone=_tone(batch))


def _counts(findings: Sequence[Finding]) -> str:
    severities = Counter(finding.severity for finding in findings)
    rules = Counter(finding.rule for finding in findings)
    by_severity = ", ".join(f"{severities[each]} {each.value}" for each in _RANK if severities[each])
    by_rule = ", ".join(f"{count} {clean(rule)}" for rule, count in rules.most_common())
    return f"{by_severity} ({by_rule})"


def _line(finding: Finding) -> str:
    used = f", {size(_used(finding))}" if _used(finding) else ""
    return f"- {clean(finding.summary, 160)} ({finding.severity.value}{used}) {finding.fingerprint}"


def _gravest_and_largest_first(finding: Finding) -> tuple[int, float]:
    return _RANK[finding.severity], -_used(finding)


def _used(finding: Finding) -> float:
    used = finding.facts.get("used_bytes")
    return used if isinstance(used, int | float) else 0


def _tone(batch: Sequence[Delivery]) -> Tone:
    if batch[0].event is Event.RESOLVED:
        return Tone.SUCCESS
    gravest = min((delivery.finding.severity for delivery in batch), key=_RANK.__getitem__)
    return _TONES[gravest]


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
