"""When to log in again.

TrueNAS locks a client out for ten minutes after more than twenty attempts in a minute
(middleware 25.04+ `utils/rate_limit/cache.py`), and every attempt counts, also a successful one.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec


class LoginPace(msgspec.Struct, frozen=True):
    """Seconds between logins.

    Attributes:
        apart: at least so long after any attempt.
        first_pause: after a first failure to reach the NAS; it doubles up to `last_pause`.
        refused_pause: after a refused key, which trying again does not make right.
        most: so many attempts at most in any `window`; TrueNAS bears twenty in a minute.
    """

    apart: float = 10.0
    first_pause: float = 5.0
    last_pause: float = 300.0
    refused_pause: float = 300.0
    most: int = 5
    window: float = 60.0


class LastLogin(StrEnum):
    """How the last attempt went."""

    NONE = "none"
    SUCCEEDED = "succeeded"
    UNREACHED = "unreached"
    REFUSED = "refused"


def next_login_at(
    attempts: Sequence[float], failures: int, last: LastLogin, chance: float, pace: LoginPace
) -> float:
    """The tick from which the next attempt may be made.

    Args:
        attempts: the ticks of the past attempts, oldest first.
        failures: how many attempts in a row have failed.
        chance: random between 0 and 1; spreads the pauses of many clients.
    """
    if not attempts:
        return float("-inf")
    newest = attempts[-1]
    pause = pace.apart
    if last is LastLogin.REFUSED:
        pause = pace.refused_pause
    elif last is LastLogin.UNREACHED:
        longest = min(pace.first_pause * 2 ** min(failures, 16), pace.last_pause)
        pause = max(pace.first_pause, longest * (0.5 + chance / 2))
    earliest = newest + pause
    if len(attempts) >= pace.most:
        earliest = max(earliest, attempts[-pace.most] + pace.window)
    return earliest
