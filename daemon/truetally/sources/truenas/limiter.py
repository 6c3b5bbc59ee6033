"""When to log in again.

TrueNAS locks a client out for ten minutes after more than twenty attempts in a minute
(middleware 25.04+ `utils/rate_limit/cache.py`), and every attempt counts, also a successful one.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

_APART = 10.0
_FIRST_PAUSE, _LAST_PAUSE = 5.0, 300.0
_REFUSED_PAUSE = 300.0
_MANY, _WINDOW = 5, 60.0


class LastLogin(StrEnum):
    """How the last attempt went."""

    NONE = "none"
    SUCCEEDED = "succeeded"
    UNREACHED = "unreached"
    REFUSED = "refused"


def next_login_at(attempts: Sequence[float], failures: int, last: LastLogin, chance: float) -> float:
    """The tick from which the next attempt may be made.

    Args:
        attempts: the ticks of the past attempts, oldest first.
        failures: how many attempts in a row have failed.
        chance: random between 0 and 1; spreads the pauses of many clients.
    """
    if not attempts:
        return float("-inf")
    newest = attempts[-1]
    pause = _APART
    if last is LastLogin.REFUSED:
        pause = _REFUSED_PAUSE
    elif last is LastLogin.UNREACHED:
        longest = min(_FIRST_PAUSE * 2 ** min(failures, 16), _LAST_PAUSE)
        pause = max(_FIRST_PAUSE, longest * (0.5 + chance / 2))
    earliest = newest + pause
    if len(attempts) >= _MANY:
        earliest = max(earliest, attempts[-_MANY] + _WINDOW)
    return earliest
