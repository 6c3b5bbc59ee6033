"""How long does a reflector wait before it tries again?"""

from __future__ import annotations

from datetime import timedelta

import pytest

from truetally.sources.kubernetes.reflector import Pace, pause_before

PACE = Pace(first_retry=timedelta(seconds=0.8), last_retry=timedelta(seconds=30))


@pytest.mark.parametrize(
    ("attempt", "longest"), [(1, 0.8), (2, 1.6), (3, 3.2), (6, 25.6), (7, 30), (1_000_000, 30)]
)
def test_the_pause_doubles_up_to_its_limit(attempt, longest):
    assert pause_before(attempt, PACE, 1.0) == pytest.approx(longest)


@pytest.mark.parametrize("attempt", [1, 5, 50])
def test_chance_spreads_the_pause_over_its_upper_half(attempt):
    longest = pause_before(attempt, PACE, 1.0)
    assert pause_before(attempt, PACE, 0.0) == pytest.approx(longest / 2)
    assert longest / 2 < pause_before(attempt, PACE, 0.3) < longest
