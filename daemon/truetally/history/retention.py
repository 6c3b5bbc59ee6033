"""Retention: what is old goes, in steps small enough that nobody waits for them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog

from truetally.clock import Clock
from truetally.errors import HistoryUnavailable
from truetally.history.history import History

log = structlog.get_logger(__name__)

KEEP = timedelta(days=90)
_STEP = 500
_PAUSE = timedelta(milliseconds=50)


async def purge(history: History, clock: Clock, keep: timedelta = KEEP) -> int:
    """Delete everything older than `keep`, step by step; answers how many rows went."""
    purged = 0
    while step := await history.purge(clock.now() - keep, _STEP):
        purged += step
        await asyncio.sleep(_PAUSE.total_seconds())
    return purged


async def keep_purging(
    history: History, clock: Clock, *, keep: timedelta = KEEP, every: timedelta = timedelta(hours=1)
) -> None:
    """Purge now and then, for ever; a history that cannot be written now is left for the next time."""
    while True:
        try:
            purged = await purge(history, clock, keep)
        except HistoryUnavailable as error:
            log.warning("history not purged", error=str(error))
        else:
            if purged:
                log.info("history purged", rows=purged)
        await asyncio.sleep(every.total_seconds())
