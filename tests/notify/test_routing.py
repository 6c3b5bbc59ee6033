"""Who is told of a transition, and why or why not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from truetally.model.deliveries import Event
from truetally.model.findings import Acknowledgement, Finding, Severity, State, Transition
from truetally.model.refs import Kind, Ref
from truetally.notify.routing import Reason, Router, decisions
from truetally.settings import NotifySettings, ReceiverSettings, RouteSettings, SecretReference

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
ALL = tuple(Severity)


def a_receiver(name: str, **changes: object) -> ReceiverSettings:
    return ReceiverSettings(name=name, url=SecretReference(env="URL"), **changes)


def settings(*receivers: ReceiverSettings, routes: tuple[RouteSettings, ...] | None = None) -> NotifySettings:
    receivers = receivers or (a_receiver("ops"),)
    everything = (RouteSettings(severities=ALL, receivers=tuple(each.name for each in receivers)),)
    return NotifySettings(receivers=receivers, routes=everything if routes is None else routes)


def a_transition(
    state: State = State.OPEN, before: State | None = State.PENDING, at: datetime = NOW, **changes: object
) -> Transition:
    finding = Finding(
        "f1",
        "rule",
        Ref("nas1", Kind.DATASET, "tank/a"),
        Severity.WARNING,
        state,
        "summary",
        "fix",
        {},
        NOW,
        NOW,
    )
    return Transition(msgspec.structs.replace(finding, **changes), before, at)


def a_router(*receivers: ReceiverSettings, told: dict[tuple[str, str], datetime] | None = None) -> Router:
    return Router(settings(*receivers), told or {})


def told_by(router: Router, *transitions: Transition) -> list[tuple[str, Event]]:
    return [(delivery.receiver, delivery.event) for delivery in router.route(transitions)]


# Opening


def test_an_opened_finding_is_told_to_every_receiver_whose_route_takes_it():
    router = a_router(a_receiver("ops"), a_receiver("chat"))
    assert told_by(router, a_transition()) == [("ops", Event.FIRING), ("chat", Event.FIRING)]


def test_a_receiver_in_two_matching_routes_is_told_once():
    both = (RouteSettings(receivers=("ops",)), RouteSettings(severities=ALL, receivers=("ops",)))
    router = Router(settings(routes=both), {})
    assert told_by(router, a_transition()) == [("ops", Event.FIRING)]


@pytest.mark.parametrize(
    ("severity", "told"), [(Severity.INFO, []), (Severity.CRITICAL, [("ops", Event.FIRING)])]
)
def test_a_route_takes_only_its_severities(severity: Severity, told: list[tuple[str, Event]]):
    router = Router(settings(routes=(RouteSettings(receivers=("ops",)),)), {})
    assert told_by(router, a_transition(severity=severity)) == told


@pytest.mark.parametrize("state", [State.PENDING, State.HELD])
def test_what_is_suspected_or_cannot_be_checked_is_told_to_nobody(state: State):
    assert told_by(a_router(), a_transition(state)) == []


def test_every_decision_has_its_reason():
    of = decisions(a_transition(), settings(a_receiver("ops"), routes=()), lambda *_: None)
    assert [(each.reason, each.delivery) for each in of] == [(Reason.NO_ROUTE, None)]


# Once


def test_a_finding_that_was_held_and_is_open_again_is_not_told_again():
    router = a_router()
    told_by(router, a_transition(), a_transition(State.HELD, State.OPEN))
    assert told_by(router, a_transition(before=State.HELD, at=NOW + timedelta(hours=1))) == []


def test_after_a_restart_what_was_told_before_is_not_told_again():
    router = a_router(told={("f1", "ops"): NOW})
    assert told_by(router, a_transition(before=State.HELD)) == []


def test_after_a_restart_what_became_true_meanwhile_is_told():
    router = a_router(told={("another", "ops"): NOW})
    assert told_by(router, a_transition()) == [("ops", Event.FIRING)]


def test_a_finding_that_comes_back_is_another_occurrence():
    router = a_router()
    told_by(router, a_transition(), a_transition(State.RESOLVED, State.OPEN))
    again = NOW + timedelta(days=1)
    assert told_by(router, a_transition(at=again, opened_at=again)) == [("ops", Event.FIRING)]


def test_an_acknowledgement_is_told_to_nobody():
    router = a_router(told={("f1", "ops"): NOW})
    acknowledged = a_transition(before=State.OPEN, acknowledged=Acknowledgement("ada", NOW))
    assert told_by(router, acknowledged) == []


def test_who_has_not_been_told_of_an_acknowledged_finding_is_left_in_peace():
    acknowledged = a_transition(before=State.HELD, acknowledged=Acknowledgement("ada", NOW))
    assert decisions(acknowledged, settings(), lambda *_: None)[0].reason is Reason.ACKNOWLEDGED


# Resolved


def test_resolved_is_told_to_who_was_told_it_fires():
    router = a_router(a_receiver("ops"), a_receiver("chat"), told={("f1", "chat"): NOW})
    assert told_by(router, a_transition(State.RESOLVED, State.OPEN)) == [("chat", Event.RESOLVED)]


def test_resolved_belongs_to_the_occurrence_that_was_told():
    [delivery] = a_router(told={("f1", "ops"): NOW}).route(
        [a_transition(State.RESOLVED, State.OPEN, at=NOW + timedelta(hours=1), opened_at=None)]
    )
    assert delivery.occurrence == NOW


def test_a_receiver_that_wants_no_resolved_notices_gets_none():
    router = a_router(a_receiver("ops", resolved=False))
    assert told_by(router, a_transition(), a_transition(State.RESOLVED, State.OPEN)) == [
        ("ops", Event.FIRING)
    ]


def test_resolved_is_told_though_the_route_was_taken_away():
    router = a_router()
    told_by(router, a_transition())
    router.settings = settings(routes=())
    assert told_by(router, a_transition(State.RESOLVED, State.OPEN)) == [("ops", Event.RESOLVED)]


def test_resolved_is_told_once():
    router = a_router(told={("f1", "ops"): NOW})
    resolved = a_transition(State.RESOLVED, State.OPEN)
    assert told_by(router, resolved, resolved) == [("ops", Event.RESOLVED)]
