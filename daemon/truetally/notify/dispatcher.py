"""The dispatcher: takes what is to be told out of the outbox and tells it.

Each receiver is served by a task of its own, one message at a time and in order, so
one that hangs or refuses delays nobody else. What fails is tried again, more and
more seldom, and is given up after a day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Protocol

import msgspec
import structlog

from truetally.clock import Clock
from truetally.errors import HistoryUnavailable
from truetally.model.deliveries import Delivery, DeliveryState, Event
from truetally.notify.receivers import Outcome, Receiver
from truetally.notify.templates import batches, message

log = structlog.get_logger(__name__)

_HISTORY_RETRY = timedelta(seconds=1)
_FEWEST_ATTEMPTS = 10


class Outbox(Protocol):
    """Where deliveries wait; the history keeps it, and may raise `HistoryUnavailable`."""

    async def backlog(self) -> dict[str, int]:
        """How many messages wait for each receiver."""
        ...

    async def pending_deliveries(self, receiver: str) -> list[Delivery]:
        """What waits for one receiver, in the order in which it was decided."""
        ...

    async def firing_of(self, delivery: Delivery) -> DeliveryState | None:
        """What has become of the firing message that a resolved notice would follow."""
        ...

    async def delivered(self, ids: Sequence[str], at: datetime, outcome: str = "") -> None:
        """The receiver has accepted them."""
        ...

    async def failed(self, ids: Sequence[str], error: str, next_at: datetime) -> None:
        """An attempt failed; the next one is due at `next_at`."""
        ...

    async def dead(self, ids: Sequence[str], at: datetime, outcome: str) -> None:
        """They failed too often and are given up."""
        ...

    async def dropped(self, ids: Sequence[str], at: datetime, outcome: str) -> None:
        """There is nothing left to tell."""
        ...


class Pace(msgspec.Struct, frozen=True):
    """How long the dispatcher waits for what.

    Attributes:
        gather_for: what comes within this time of each other can become one summary.
        retry_after: after a first failure; doubles with each further one.
        retry_within: the longest pause between two attempts.
        give_up_after: so old a message is no news any more.
    """

    gather_for: timedelta = timedelta(seconds=1)
    retry_after: timedelta = timedelta(seconds=5)
    retry_within: timedelta = timedelta(minutes=5)
    give_up_after: timedelta = timedelta(hours=24)


class ReceiverState(StrEnum):
    """How a receiver fares."""

    UNUSED = "unused"
    OK = "ok"
    FAILING = "failing"
    HANGING = "hanging"


class ReceiverStatus(msgspec.Struct, frozen=True):
    """A receiver as `truetally status` shows it. `waiting` counts its messages not yet accepted."""

    name: str
    state: ReceiverState
    waiting: int = 0
    accepted: int = 0
    last_accepted_at: datetime | None = None
    failing_since: datetime | None = None
    last_error: str = ""


def pause_before(attempt: int, pace: Pace) -> timedelta:
    """How long to wait before the attempt that follows so many failed ones."""
    doubled = pace.retry_after * (1 << min(attempt - 1, 16))
    return min(doubled, pace.retry_within)


def is_due(delivery: Delivery, now: datetime, pace: Pace) -> bool:
    """Whether it is time; a time further off than any pause means that the clock was set back."""
    if delivery.next_at is None:
        return True
    return delivery.next_at <= now or delivery.next_at - now > pace.retry_within


def is_hopeless(delivery: Delivery, now: datetime, pace: Pace) -> bool:
    """Whether the failure that just happened was the last; a clock set forward alone is no reason."""
    return delivery.attempts + 1 >= _FEWEST_ATTEMPTS and now - delivery.at > pace.give_up_after


class Dispatcher:
    """Empties the outbox.

    Attributes:
        receivers: by name; may be replaced at any time (a reload).
        trouble: why the outbox cannot be read or written now; None while all is well.
    """

    def __init__(
        self, outbox: Outbox, receivers: Mapping[str, Receiver], clock: Clock, pace: Pace | None = None
    ) -> None:
        self.receivers = receivers
        self.trouble: str | None = None
        self._outbox = outbox
        self._clock = clock
        self._pace = pace or Pace()
        self._woken = asyncio.Event()
        self._ended = asyncio.Event()
        self._draining = False
        self._drained: set[str] = set()
        self._serving: dict[str, asyncio.Task[None]] = {}
        self._sending_since: dict[str, float] = {}
        self._backlog: dict[str, int] = {}
        self._fared: dict[str, ReceiverStatus] = {}

    def wake(self) -> None:
        """Something new was committed to the outbox."""
        self._woken.set()

    async def run(self) -> None:
        """Serve the receivers until `drain()`."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._start_serving(group)
                    if self._draining and not self._serving:
                        return
                    await self._wait()
        finally:
            self._ended.set()

    async def drain(self, within: timedelta) -> None:
        """Send what is due, once, and end; whatever is not accepted by then waits for the next start."""
        self._draining = True
        self.wake()
        try:
            async with asyncio.timeout(within.total_seconds()):
                await self._ended.wait()
        except TimeoutError:
            log.warning("receivers not waited for", receivers=sorted(self._serving))
            for task in list(self._serving.values()):
                task.cancel()

    def status(self) -> list[ReceiverStatus]:
        """How each configured receiver fares."""
        return [self._status(name) for name in self.receivers]

    def _status(self, name: str) -> ReceiverStatus:
        fared = self._fared.get(name, ReceiverStatus(name, ReceiverState.UNUSED))
        since = self._sending_since.get(name)
        hangs = since is not None and self._clock.ticks() - since > _patience(self.receivers[name])
        return msgspec.structs.replace(
            fared,
            waiting=self._backlog.get(name, 0),
            state=ReceiverState.HANGING if hangs else fared.state,
        )

    async def _wait(self) -> None:
        """Until something was committed or finished, or a retry may be due."""
        poll = max(min(self._pace.retry_after / 2, timedelta(seconds=2)), timedelta(milliseconds=10))
        try:
            async with asyncio.timeout(poll.total_seconds()):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()
        if not self._draining:
            await asyncio.sleep(self._pace.gather_for.total_seconds())

    async def _start_serving(self, group: asyncio.TaskGroup) -> None:
        try:
            self._backlog = await self._outbox.backlog()
        except HistoryUnavailable as error:
            self._note_trouble(error)
            return
        self.trouble = None
        for name in self._backlog.keys() - self._serving.keys() - self._drained:
            if self._draining:
                self._drained.add(name)
            task = group.create_task(self._serve(name), name=f"receiver {name}")
            self._serving[name] = task
            task.add_done_callback(partial(self._served, name))

    def _served(self, name: str, _: asyncio.Task[None]) -> None:
        del self._serving[name]
        self._sending_since.pop(name, None)
        if self._draining:
            self.wake()

    async def _serve(self, name: str) -> None:
        try:
            receiver = self.receivers.get(name)
            if receiver is None:
                await self._drop(
                    await self._outbox.pending_deliveries(name), "the receiver is no longer configured"
                )
                return
            while due := await self._due(name):
                for batch in batches(due):
                    await self._tell(name, receiver, batch)
        except HistoryUnavailable as error:
            self._note_trouble(error)

    async def _due(self, name: str) -> list[Delivery]:
        pending = await self._outbox.pending_deliveries(name)
        now = self._clock.now()
        due = [delivery for delivery in pending if is_due(delivery, now, self._pace)]
        return [delivery for delivery in due if await self._follows_what_was_told(delivery)]

    async def _follows_what_was_told(self, delivery: Delivery) -> bool:
        """A resolved notice waits for its firing message, and goes with it when that was never accepted."""
        if delivery.event is Event.FIRING:
            return True
        firing = await self._outbox.firing_of(delivery)
        if firing in (DeliveryState.DELIVERED, DeliveryState.PENDING):
            return firing is DeliveryState.DELIVERED
        await self._drop([delivery], "the receiver was never told that it fires")
        return False

    async def _drop(self, deliveries: Sequence[Delivery], reason: str) -> None:
        await self._outbox.dropped([delivery.id for delivery in deliveries], self._clock.now(), reason)

    async def _tell(self, name: str, receiver: Receiver, batch: Sequence[Delivery]) -> None:
        self._sending_since[name] = self._clock.ticks()
        outcome = await receiver.send(message(batch))
        self._sending_since.pop(name, None)
        await self._insist(lambda: self._note_outcome(name, batch, outcome))

    async def _insist(self, write: Callable[[], Awaitable[None]]) -> None:
        """What has been sent must be noted before anything else is sent: otherwise it is sent again."""
        while True:
            try:
                return await write()
            except HistoryUnavailable as error:
                self._note_trouble(error)
                await asyncio.sleep(_HISTORY_RETRY.total_seconds())

    async def _note_outcome(self, name: str, batch: Sequence[Delivery], outcome: Outcome) -> None:
        now = self._clock.now()
        ids = [delivery.id for delivery in batch]
        if outcome.accepted:
            await self._outbox.delivered(ids, now)
            self._note_accepted(name, len(batch), now)
            return
        self._note_refused(name, outcome.detail, now)
        hopeless = [delivery.id for delivery in batch if is_hopeless(delivery, now, self._pace)]
        if hopeless:
            await self._outbox.dead(hopeless, now, outcome.detail)
            log.error("messages given up", receiver=name, count=len(hopeless), reason=outcome.detail)
        attempt = max(delivery.attempts for delivery in batch) + 1
        remaining = [each for each in ids if each not in hopeless]
        await self._outbox.failed(remaining, outcome.detail, now + pause_before(attempt, self._pace))

    def _note_accepted(self, name: str, count: int, now: datetime) -> None:
        before = self._fared.get(name)
        if before is not None and before.state is ReceiverState.FAILING:
            log.info("receiver accepts again", receiver=name)
        accepted = count + (before.accepted if before else 0)
        self._fared[name] = ReceiverStatus(name, ReceiverState.OK, accepted=accepted, last_accepted_at=now)
        log.info("findings told", receiver=name, count=count)

    def _note_refused(self, name: str, detail: str, now: datetime) -> None:
        before = self._fared.get(name, ReceiverStatus(name, ReceiverState.UNUSED))
        if before.state is not ReceiverState.FAILING:
            log.warning("receiver does not accept", receiver=name, reason=detail)
        self._fared[name] = msgspec.structs.replace(
            before,
            state=ReceiverState.FAILING,
            failing_since=before.failing_since or now,
            last_error=detail,
        )

    def _note_trouble(self, error: HistoryUnavailable) -> None:
        if self.trouble is None:
            log.warning("outbox not available", error=str(error))
        self.trouble = str(error)


def _patience(receiver: Receiver) -> float:
    """A little more than the receiver's own time, which counts from its last sign of life."""
    return receiver.timeout.total_seconds() * 1.5
