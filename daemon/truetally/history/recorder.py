"""The recorder: the queue between the reconciler and a disk that may be full.

Batches are committed in the order in which they came. While the history cannot be
used they wait here, and the trouble stands in the status; nobody is told of a
transition before it is committed. The queue is bounded: when it is full, `put()`
waits, and so does the reconciler. Dropping a transition would be worse.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from truetally.errors import HistoryUnavailable
from truetally.history.history import History
from truetally.model.deliveries import Delivery
from truetally.model.findings import Transition

log = structlog.get_logger(__name__)

_FIRST_RETRY = timedelta(seconds=1)
_LAST_RETRY = timedelta(seconds=30)
# One commit costs one sync of the disk, so a backlog is committed in large steps.
_COMMIT_UP_TO = 2_000


class Recorder:
    """Commits transitions and their deliveries, and retries until it has.

    Attributes:
        trouble: why nothing can be committed now, for the status; None while all is well.
    """

    def __init__(
        self,
        history: History,
        committed: Callable[[Sequence[Transition]], None],
        *,
        capacity: int = 20_000,
        retry_within: timedelta = _LAST_RETRY,
    ) -> None:
        self._history = history
        self._committed = committed
        self._capacity = capacity
        self._retry_within = retry_within
        self._batches: deque[tuple[tuple[Transition, ...], tuple[Delivery, ...]]] = deque()
        self._waiting = 0
        self._changed = asyncio.Condition()
        self.trouble: str | None = None

    @property
    def waiting(self) -> int:
        """How many transitions are not committed yet."""
        return self._waiting

    async def put(self, transitions: Sequence[Transition], deliveries: Sequence[Delivery] = ()) -> None:
        """Hand over a batch; waits while the queue is full."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting < self._capacity)
            self._batches.append((tuple(transitions), tuple(deliveries)))
            self._waiting += len(transitions)
            self._changed.notify_all()

    async def run(self) -> None:
        """Commit what comes, for ever."""
        retry_in = _FIRST_RETRY
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._batches))
            if await self._commit():
                retry_in = _FIRST_RETRY
                continue
            await asyncio.sleep(min(retry_in, self._retry_within).total_seconds())
            retry_in = min(2 * retry_in, _LAST_RETRY)

    async def flush(self, within: timedelta) -> bool:
        """Wait until all is committed, at most so long; whether it is. `run()` must be running."""
        try:
            async with asyncio.timeout(within.total_seconds()), self._changed:
                await self._changed.wait_for(lambda: not self._batches)
        except TimeoutError:
            log.warning("transitions not recorded", count=self._waiting, trouble=self.trouble)
            return False
        return True

    async def _commit(self) -> bool:
        count, transitions, deliveries = self._next_commit()
        try:
            await self._history.record(transitions, deliveries)
        except HistoryUnavailable as error:
            if self.trouble is None:
                log.warning("history not written", error=str(error), waiting=self._waiting)
            self.trouble = str(error)
            return False
        if self.trouble is not None:
            log.info("history written again", waiting=self._waiting)
            self.trouble = None
        async with self._changed:
            for _ in range(count):
                self._batches.popleft()
            self._waiting -= len(transitions)
            self._changed.notify_all()
        self._committed(transitions)
        return True

    def _next_commit(self) -> tuple[int, list[Transition], list[Delivery]]:
        count = 0
        transitions: list[Transition] = []
        deliveries: list[Delivery] = []
        for batch in self._batches:
            if count and len(transitions) + len(batch[0]) > _COMMIT_UP_TO:
                break
            count += 1
            transitions.extend(batch[0])
            deliveries.extend(batch[1])
        return count, transitions, deliveries
