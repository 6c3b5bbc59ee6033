"""Findings: what a rule says of a subject, and what has become of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import msgspec

from truetally.model.refs import Ref

Fact = str | int | float | bool | None | tuple[str, ...]


class Severity(StrEnum):
    """How much it matters, in Alertmanager's words."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class State(StrEnum):
    """Where a finding stands.

    PENDING: suspected, not told to anyone. OPEN: proven. HELD: was open, and cannot be checked now.
    RESOLVED: no longer so. Acknowledgement is no state of its own: an open finding may be acknowledged.
    """

    PENDING = "pending"
    OPEN = "open"
    HELD = "held"
    RESOLVED = "resolved"


class Acknowledgement(msgspec.Struct, frozen=True):
    """Somebody has seen it and says so."""

    by: str
    at: datetime
    reason: str = ""


class Finding(msgspec.Struct, frozen=True):
    """One rule's verdict on one subject, from suspicion to resolution.

    Attributes:
        fingerprint: rule and subject, hashed: the same condition has the same fingerprint for ever.
        facts: evidence that a person can check by hand; sizes in bytes, times as ISO 8601.
        since: when truetally first suspected it, or since when the objects themselves say it is so.
        note: why it is held, or how it was resolved.
        hidden_by: fingerprints of the findings that explain it, such as that of a NAS that is away. It is
            worked out when a finding is shown, and empty where it is stored.
    """

    fingerprint: str
    rule: str
    subject: Ref
    severity: Severity
    state: State
    summary: str
    fix: str
    facts: Mapping[str, Fact]
    since: datetime
    opened_at: datetime | None = None
    changed_at: datetime | None = None
    resolved_at: datetime | None = None
    acknowledged: Acknowledgement | None = None
    note: str = ""
    hidden_by: tuple[str, ...] = ()


class Transition(msgspec.Struct, frozen=True):
    """A finding has gone from one state to another (`before` is None when it is new), or was acknowledged."""

    finding: Finding
    before: State | None
    at: datetime
    reason: str = ""


def fingerprint(rule: str, subject: Ref) -> str:
    """The stable name of a rule's finding on a subject: 12 hexadecimal digits."""
    text = "\0".join((rule, subject.source, subject.kind.value, subject.name))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
