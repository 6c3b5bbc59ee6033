"""The ledger: what has become of each finding.

A suspicion is PENDING until it has stood long enough and, for a rule that accuses, has
been confirmed at both sources. Only then it is OPEN and told. While the rule cannot be
run the finding is HELD: neither resolved nor opened again. Pending entries live in
memory only; a restart begins their waiting anew, which errs on the side of silence.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from truetally.errors import NotFound
from truetally.findings.rule import Evidence, Rule
from truetally.graph.world import World
from truetally.model.findings import Acknowledgement, Finding, Severity, State, Transition, fingerprint
from truetally.model.refs import Ref


class _Entry(msgspec.Struct):
    finding: Finding
    mature_at: float
    confirming: bool = False
    retry_at: float = 0.0


class Ledger:
    """All findings that are not resolved, by fingerprint."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def restore(self, findings: Iterable[Finding]) -> None:
        """Takes up the findings that were open before a restart; their rules have yet to be run again."""
        for finding in findings:
            self._entries[finding.fingerprint] = _Entry(finding, 0.0)

    def findings(self) -> list[Finding]:
        """All unresolved findings."""
        return [entry.finding for entry in self._entries.values()]

    def subjects(self) -> list[tuple[str, Ref]]:
        """Rule and subject of every unresolved finding."""
        return [(e.finding.rule, e.finding.subject) for e in self._entries.values()]

    def finding(self, rule: str, subject: Ref) -> Finding | None:
        """The unresolved finding of a rule on a subject."""
        entry = self._entries.get(fingerprint(rule, subject))
        return entry.finding if entry is not None else None

    def told(self, rule: str, subject: Ref) -> Finding | None:
        """The finding of a rule on a subject that is open or held: proven once, and not resolved."""
        finding = self.finding(rule, subject)
        return finding if finding is not None and finding.state is not State.PENDING else None

    def pending(self, print_: str) -> Finding | None:
        """A suspicion that still stands, by fingerprint."""
        entry = self._entries.get(print_)
        return entry.finding if entry is not None and entry.finding.state is State.PENDING else None

    def found(self, rule: Rule, subject: Ref, evidence: Evidence, world: World) -> list[Transition]:
        """The rule finds something: begins or keeps a suspicion, or takes a held finding up again."""
        print_ = fingerprint(rule.id, subject)
        severity = _severity(rule, evidence, world)
        entry = self._entries.get(print_)
        if entry is None:
            self._entries[print_] = self._suspect(rule, subject, evidence, severity, world)
            return []
        before = entry.finding
        finding = msgspec.structs.replace(
            before, summary=evidence.summary, facts=evidence.facts, severity=severity, fix=rule.fix
        )
        if before.state is State.HELD:
            finding = msgspec.structs.replace(finding, state=State.OPEN, changed_at=world.now, note="")
            entry.finding = finding
            return [Transition(finding, State.HELD, world.now, "it can be checked again, and is still so")]
        entry.finding = finding
        if before.state is State.OPEN and severity is not before.severity:
            entry.finding = finding = msgspec.structs.replace(finding, changed_at=world.now)
            return [Transition(finding, State.OPEN, world.now, f"severity was {before.severity.value}")]
        return []

    def _suspect(
        self, rule: Rule, subject: Ref, evidence: Evidence, severity: Severity, world: World
    ) -> _Entry:
        since = evidence.since or world.now
        finding = Finding(
            fingerprint=fingerprint(rule.id, subject),
            rule=rule.id,
            subject=subject,
            severity=severity,
            state=State.PENDING,
            summary=evidence.summary,
            fix=rule.fix,
            facts=evidence.facts,
            since=since,
        )
        waited = max(0.0, (world.now - since).total_seconds()) if rule.reread is None else 0.0
        wait = max(0.0, rule.pending(world).total_seconds() - waited)
        return _Entry(finding, mature_at=world.ticks + wait)

    def clear(self, rule_id: str, subject: Ref, reason: str, now: datetime) -> list[Transition]:
        """The rule finds nothing: a suspicion is dropped, a told finding is resolved."""
        entry = self._entries.pop(fingerprint(rule_id, subject), None)
        if entry is None or entry.finding.state is State.PENDING:
            return []
        finding = msgspec.structs.replace(
            entry.finding, state=State.RESOLVED, resolved_at=now, changed_at=now, note=reason
        )
        return [Transition(finding, entry.finding.state, now, reason)]

    def hold(self, rule_id: str, subject: Ref, reason: str, now: datetime) -> list[Transition]:
        """The rule cannot be run: a suspicion is dropped, an open finding is held."""
        print_ = fingerprint(rule_id, subject)
        entry = self._entries.get(print_)
        if entry is None or entry.finding.state is State.HELD:
            return []
        if entry.finding.state is State.PENDING:
            del self._entries[print_]
            return []
        entry.finding = msgspec.structs.replace(
            entry.finding, state=State.HELD, changed_at=now, note=f"cannot be checked now: {reason}"
        )
        return [Transition(entry.finding, State.OPEN, now, reason)]

    def mature(self, ticks: float) -> list[Finding]:
        """The suspicions that have stood long enough and are not being confirmed already."""
        return [
            entry.finding
            for entry in self._entries.values()
            if entry.finding.state is State.PENDING
            and not entry.confirming
            and entry.mature_at <= ticks
            and entry.retry_at <= ticks
        ]

    def next_at(self) -> float | None:
        """The tick at which a suspicion will next be mature."""
        waiting = [
            max(entry.mature_at, entry.retry_at)
            for entry in self._entries.values()
            if entry.finding.state is State.PENDING and not entry.confirming
        ]
        return min(waiting, default=None)

    def confirming(self, print_: str) -> None:
        """Its sources are being read again."""
        if (entry := self._entries.get(print_)) is not None:
            entry.confirming = True

    def unconfirmed(self, print_: str, reason: str, retry_at: float) -> None:
        """The re-reading did not prove it; it stays a suspicion, and is tried again later."""
        if (entry := self._entries.get(print_)) is not None and entry.finding.state is State.PENDING:
            entry.confirming = False
            entry.retry_at = retry_at
            entry.finding = msgspec.structs.replace(entry.finding, note=f"not confirmed: {reason}")

    def open(self, print_: str, now: datetime) -> list[Transition]:
        """The suspicion is proven."""
        entry = self._entries.get(print_)
        if entry is None or entry.finding.state is not State.PENDING:
            return []
        entry.confirming = False
        entry.finding = msgspec.structs.replace(
            entry.finding, state=State.OPEN, opened_at=now, changed_at=now, note=""
        )
        return [Transition(entry.finding, State.PENDING, now, "confirmed")]

    def acknowledge(self, print_: str, by: str, reason: str, now: datetime) -> Transition:
        """Somebody has seen it.

        Raises:
            NotFound: no open or held finding has this fingerprint.
        """
        entry = self._entries.get(print_)
        if entry is None or entry.finding.state is State.PENDING:
            raise NotFound(f"no open finding {print_}; `truetally findings` lists them")
        entry.finding = msgspec.structs.replace(
            entry.finding, acknowledged=Acknowledgement(by, now, reason), changed_at=now
        )
        return Transition(entry.finding, entry.finding.state, now, f"acknowledged by {by}")


def _severity(rule: Rule, evidence: Evidence, world: World) -> Severity:
    return world.settings.rules.severities.get(rule.id) or evidence.severity or rule.severity
