"""The limits that the real middleware enforces (`utils/limits.py`, `utils/rate_limit/cache.py`).

The anonymous message and the calls in flight are limited everywhere; the rest came later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

ANONYMOUS_BYTES = 8192
MESSAGE_BYTES = 65536
MESSAGE_LIMIT_SINCE = (24, 10)
RATE_LIMIT_SINCE = (25, 4)
# Of a session at the level that the lab is at (AAL1); that 24.10 and older have none is inferred.
SESSION_AGE = timedelta(days=30)
SESSION_AGE_SINCE = (25, 4)
RUNNING_CALLS = 10
CALLS_IN_FLIGHT = 20
_CALLS = 20
_WINDOW = timedelta(seconds=60)
_ENTRIES = 100


def idle_close(version: tuple[int, int]) -> timedelta:
    """How long the NAS may be silent before its front proxy closes a WebSocket (up to 25.10 inferred)."""
    return timedelta(seconds=3600 if version >= (26, 0) else 60)


@dataclass(slots=True)
class RateLimit:
    """Counts unauthenticated calls by method and address; a window starts with its first call."""

    windows: dict[tuple[str, str], tuple[datetime, int]] = field(default_factory=dict)

    def exceeded(self, method: str, address: str, now: datetime) -> bool:
        """Count a call, and say whether it is one too many."""
        self._forget_ended(now)
        key = (method, address)
        if key not in self.windows and len(self.windows) >= _ENTRIES:
            return True
        began, count = self.windows.get(key, (now, 0))
        self.windows[key] = (began, count + 1)
        return count + 1 > _CALLS

    def _forget_ended(self, now: datetime) -> None:
        ended = [key for key, (began, _) in self.windows.items() if now - began >= _WINDOW]
        for key in ended:
            del self.windows[key]
