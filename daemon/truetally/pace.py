"""Long work on the event loop, in slices."""

from __future__ import annotations

import asyncio
import time

# How long the loop may be kept before others get their turn.
_SLICE_SECONDS = 0.02


class LoopLag:
    """How long the loop keeps others waiting: the worst of the last minutes since it was begun."""

    _WINDOW = 300.0
    _EVERY = 0.02

    def __init__(self) -> None:
        self._now = self._before = 0.0

    @property
    def worst_seconds(self) -> float:
        """The worst lag of the last five to ten minutes."""
        return max(self._now, self._before)

    def forget(self) -> None:
        """Begins anew, as when the first lists are in."""
        self._now = self._before = 0.0

    async def run(self) -> None:
        """Measures until it is cancelled."""
        window_began = time.perf_counter()
        while True:
            due = time.perf_counter() + self._EVERY
            await asyncio.sleep(self._EVERY)
            now = time.perf_counter()
            self._now = max(self._now, now - due)
            if now - window_began > self._WINDOW:
                self._before, self._now, window_began = self._now, 0.0, now


class Pace:
    """Gives the loop back after each slice of work."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + _SLICE_SECONDS

    async def breathe(self) -> None:
        """Lets others run if this slice is used up."""
        if time.perf_counter() > self._until:
            await asyncio.sleep(0)
            self._until = time.perf_counter() + _SLICE_SECONDS
