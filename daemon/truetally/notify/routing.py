"""Routing: who is to be told of a transition, and for what reason or why not.

A receiver hears of one occurrence of a finding once: neither a restart, nor a
reload, nor a source that was away for a while makes it fire again. It hears that a
finding is resolved only if it was told that it fires.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import StrEnum

import msgspec

from truetally.model.deliveries import Delivery, Event
from truetally.model.findings import Finding, State, Transition
from truetally.settings import NotifySettings

Told = Callable[[str, str], datetime | None]
"""Fingerprint and receiver: which occurrence it is (or will be) told of as firing; None if of none."""


class Reason(StrEnum):
    """Why a receiver is told, or not."""

    ROUTE_MATCHES = "a route takes this severity"
    WAS_TOLD_IT_FIRES = "it was told that this fires"
    ALREADY_TOLD = "it was told of this occurrence already"
    ACKNOWLEDGED = "somebody has acknowledged it"
    HELD = "it cannot be checked now"
    ONLY_SUSPECTED = "it is only suspected"
    NO_ROUTE = "no route takes this severity to it"
    NEVER_TOLD_IT_FIRES = "it was never told that this fires"
    RESOLVED_NOT_WANTED = "it wants no resolved notices"


class Decision(msgspec.Struct, frozen=True):
    """Whether one receiver is told of one transition: `delivery` is None if not."""

    receiver: str
    reason: Reason
    delivery: Delivery | None = None


def decisions(transition: Transition, settings: NotifySettings, told: Told) -> list[Decision]:
    """What is decided for each configured receiver, in the order of the configuration."""
    match transition.finding.state:
        case State.OPEN:
            return _of_open(transition, settings, told)
        case State.RESOLVED:
            return _of_resolved(transition, settings, told)
        case State.HELD:
            return [Decision(receiver.name, Reason.HELD) for receiver in settings.receivers]
        case State.PENDING:
            return [Decision(receiver.name, Reason.ONLY_SUSPECTED) for receiver in settings.receivers]


def deliveries(transition: Transition, settings: NotifySettings, told: Told) -> list[Delivery]:
    """Only the messages to be sent."""
    return [
        decision.delivery
        for decision in decisions(transition, settings, told)
        if decision.delivery is not None
    ]


def _of_open(transition: Transition, settings: NotifySettings, told: Told) -> list[Decision]:
    finding = transition.finding
    occurrence = finding.opened_at or transition.at
    routed = _routed(finding, settings)
    decided = []
    for receiver in settings.receivers:
        if receiver.name not in routed:
            decided.append(Decision(receiver.name, Reason.NO_ROUTE))
        elif told(finding.fingerprint, receiver.name) == occurrence:
            decided.append(Decision(receiver.name, Reason.ALREADY_TOLD))
        elif finding.acknowledged is not None:
            decided.append(Decision(receiver.name, Reason.ACKNOWLEDGED))
        else:
            decided.append(_tell(receiver.name, transition, occurrence, Event.FIRING, Reason.ROUTE_MATCHES))
    return decided


def _of_resolved(transition: Transition, settings: NotifySettings, told: Told) -> list[Decision]:
    decided = []
    for receiver in settings.receivers:
        occurrence = told(transition.finding.fingerprint, receiver.name)
        if occurrence is None:
            decided.append(Decision(receiver.name, Reason.NEVER_TOLD_IT_FIRES))
        elif not receiver.resolved:
            decided.append(Decision(receiver.name, Reason.RESOLVED_NOT_WANTED))
        else:
            decided.append(
                _tell(receiver.name, transition, occurrence, Event.RESOLVED, Reason.WAS_TOLD_IT_FIRES)
            )
    return decided


def _routed(finding: Finding, settings: NotifySettings) -> frozenset[str]:
    """All matching routes are taken; a receiver that stands in several is told once."""
    return frozenset(
        receiver
        for route in settings.routes
        if finding.severity in route.severities
        for receiver in route.receivers
    )


def _tell(
    receiver: str, transition: Transition, occurrence: datetime, event: Event, reason: Reason
) -> Decision:
    delivery = Delivery(
        fingerprint=transition.finding.fingerprint,
        occurrence=occurrence,
        receiver=receiver,
        event=event,
        finding=transition.finding,
        at=transition.at,
        reason=reason.value,
    )
    return Decision(receiver, reason, delivery)


class Router:
    """Routes transitions in their order and remembers who is being told what.

    The memory covers what is decided but not yet committed; after a restart it is what the history says.

    Attributes:
        settings: may be replaced at any time (a reload).
    """

    def __init__(self, settings: NotifySettings, told: Mapping[tuple[str, str], datetime]) -> None:
        self.settings = settings
        self._told = dict(told)

    def route(self, transitions: Iterable[Transition]) -> list[Delivery]:
        """The messages that these transitions cause."""
        routed = []
        for transition in transitions:
            caused = deliveries(transition, self.settings, self._occurrence)
            self._remember(transition, caused)
            routed.extend(caused)
        return routed

    def _occurrence(self, fingerprint: str, receiver: str) -> datetime | None:
        return self._told.get((fingerprint, receiver))

    def _remember(self, transition: Transition, caused: Iterable[Delivery]) -> None:
        fingerprint = transition.finding.fingerprint
        if transition.finding.state is State.RESOLVED:
            for receiver in self.settings.receivers:
                self._told.pop((fingerprint, receiver.name), None)
            return
        for delivery in caused:
            self._told[fingerprint, delivery.receiver] = delivery.occurrence
