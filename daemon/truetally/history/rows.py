"""Values as rows, and rows as values: what is read back equals what was written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from truetally.history.database import Parameters, Row, Value
from truetally.model.deliveries import Delivery, DeliveryRecord, DeliveryState, Event
from truetally.model.findings import Finding, State, Transition
from truetally.model.observations import SourceState, SourceStatus

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_decoder = msgspec.json.Decoder(Finding)


def microseconds(at: datetime) -> int:
    """Whole microseconds since 1970, exact where a float of seconds would not be."""
    return (at - _EPOCH) // _MICROSECOND


def instant(value: Value) -> datetime:
    """The time that `microseconds()` made a number of."""
    return _EPOCH + int(value or 0) * _MICROSECOND


def document(finding: Finding) -> str:
    """A finding as JSON. Half of a surrogate pair, which no UTF-8 can hold, becomes a question mark."""
    try:
        return msgspec.json.encode(finding).decode()
    except UnicodeEncodeError:
        builtins = msgspec.to_builtins(finding)
        return msgspec.json.encode(_without_surrogates(builtins)).decode()


def finding(value: Value) -> Finding:
    """The finding of a document."""
    return _decoder.decode(str(value))


def finding_row(transition: Transition) -> Parameters:
    """The finding as it stands after a transition."""
    return {
        "fingerprint": transition.finding.fingerprint,
        "document": document(transition.finding),
        "changed_at": microseconds(transition.at),
    }


def transition_row(transition: Transition) -> Parameters:
    """A transition."""
    return {
        "fingerprint": transition.finding.fingerprint,
        "at": microseconds(transition.at),
        "before": transition.before.value if transition.before else "",
        "state": transition.finding.state.value,
        "acknowledged": int(transition.finding.acknowledged is not None),
        "reason": _text(transition.reason),
        "document": document(transition.finding),
    }


def transition(row: Row) -> Transition:
    """A row of `transitions_of_finding` or `recent_transitions`."""
    at, before, reason, text = row
    return Transition(
        finding=finding(text),
        before=State(str(before)) if before else None,
        at=instant(at),
        reason=str(reason),
    )


def delivery_row(delivery: Delivery) -> Parameters:
    """A delivery to be queued."""
    return {
        "id": delivery.id,
        "fingerprint": delivery.fingerprint,
        "occurrence": microseconds(delivery.occurrence),
        "receiver": delivery.receiver,
        "event": delivery.event.value,
        "reason": delivery.reason,
        "document": document(delivery.finding),
        "at": microseconds(delivery.at),
    }


def delivery(row: Row) -> Delivery:
    """A row of `pending_deliveries`."""
    fingerprint, occurrence, receiver, event, text, at, reason, attempts, next_at, error = row
    return Delivery(
        fingerprint=str(fingerprint),
        occurrence=instant(occurrence),
        receiver=str(receiver),
        event=Event(str(event)),
        finding=finding(text),
        at=instant(at),
        reason=str(reason),
        attempts=int(attempts or 0),
        next_at=None if next_at is None else instant(next_at),
        error=str(error),
    )


def delivery_record(row: Row) -> DeliveryRecord:
    """A row of `recent_deliveries`."""
    state, settled_at, outcome = row[10:]
    return DeliveryRecord(
        delivery=delivery(row[:10]),
        state=DeliveryState(str(state)),
        settled_at=None if settled_at is None else instant(settled_at),
        outcome=str(outcome),
    )


def source_state_row(status: SourceStatus, at: datetime) -> Parameters:
    """A source's state from now on."""
    return {
        "source": status.name,
        "kind": status.kind,
        "at": microseconds(at),
        "state": status.state.value,
        "detail": _text(status.detail),
        "version": status.version,
    }


def source_change(row: Row) -> tuple[datetime, SourceStatus]:
    """A row of `source_states`."""
    source, kind, at, state, detail, version = row
    status = SourceStatus(
        name=str(source),
        kind=str(kind),
        state=SourceState(str(state)),
        detail=str(detail),
        version=str(version),
    )
    return instant(at), status


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {_text(key): _without_surrogates(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(inner) for inner in value]
    return value
