"""Long work on the event loop, in slices."""

from __future__ import annotations

import asyncio
import time

# How long the loop may be kept before others get their turn.
_SLICE_SECONDS = 0.02


class Pace:
    """Gives the loop back after each slice of work."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + _SLICE_SECONDS

    async def breathe(self) -> None:
        """Lets others run if this slice is used up."""
        if time.perf_counter() > self._until:
            await asyncio.sleep(0)
            self._until = time.perf_counter() + _SLICE_SECONDS
