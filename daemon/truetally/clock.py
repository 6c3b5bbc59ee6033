"""Time, as an argument.

`now` is the wall clock, for people and for ages of objects; `ticks` is monotonic
seconds, for the order of evidence and for waiting. A jump of the wall clock must
neither open nor resolve anything, so whatever waits counts ticks.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where the edge takes its time from."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""
        ...

    def ticks(self) -> float:
        """Monotonic seconds."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""
        return datetime.now(UTC)

    def ticks(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()
