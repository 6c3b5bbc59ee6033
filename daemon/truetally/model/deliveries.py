"""Deliveries: what somebody is to be told of a finding, kept until it has been told.

A delivery is written in the same commit as the transition that causes it (an
outbox), so a crash can neither lose a message nor send one about something that
was never recorded.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum

import msgspec

from truetally.model.findings import Finding

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Event(StrEnum):
    """What the message says of the finding, in Alertmanager's words."""

    FIRING = "firing"
    RESOLVED = "resolved"


class Delivery(msgspec.Struct, frozen=True):
    """One event of one occurrence of a finding, for one receiver.

    Attributes:
        occurrence: when the finding opened; the same condition coming back is another occurrence.
        finding: the finding as it was when this was decided, for the text of the message.
        at: when it was decided.
        reason: why this receiver is to be told.
        next_at: when it is to be tried (again); None means now.
        error: why the last attempt failed.
    """

    fingerprint: str
    occurrence: datetime
    receiver: str
    event: Event
    finding: Finding
    at: datetime
    reason: str = ""
    attempts: int = 0
    next_at: datetime | None = None
    error: str = ""

    @property
    def id(self) -> str:
        """The same message has the same id for ever, so that it cannot be queued twice."""
        microseconds = (self.occurrence - _EPOCH) // timedelta(microseconds=1)
        return f"{self.fingerprint}/{microseconds}/{self.event.value}/{self.receiver}"


class DeliveryState(StrEnum):
    """What has become of a delivery.

    DEAD: given up after too many failures. DROPPED: there was nothing to tell any more (the receiver never
    heard of the finding that is now resolved, or is no longer configured).
    """

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    DROPPED = "dropped"


class DeliveryRecord(msgspec.Struct, frozen=True):
    """A delivery and what has become of it."""

    delivery: Delivery
    state: DeliveryState
    settled_at: datetime | None = None
    outcome: str = ""
