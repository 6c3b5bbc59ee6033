"""Is the NAS never asked to log us in so often that it locks us out?"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from truetally.sources.truenas.limiter import LastLogin, LoginPace, next_login_at

PACE = LoginPace()


def test_the_first_attempt_may_be_made_at_once():
    assert next_login_at([], 0, LastLogin.NONE, 0.5, PACE) < 0


def test_a_refused_key_waits_five_minutes():
    assert next_login_at([100.0], 1, LastLogin.REFUSED, 0.5, PACE) == 400.0


def test_a_connection_that_broke_after_a_login_waits_ten_seconds():
    assert next_login_at([100.0], 0, LastLogin.SUCCEEDED, 0.5, PACE) == 110.0


def test_a_nas_that_is_away_is_asked_more_and_more_seldom():
    waits = [next_login_at([0.0], n, LastLogin.UNREACHED, 1.0, PACE) for n in range(1, 9)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (10.0, 300.0)


@given(st.lists(st.sampled_from(list(LastLogin)), min_size=30, max_size=60), st.floats(0, 1))
def test_whatever_happens_no_minute_sees_more_than_a_few_attempts(outcomes, chance):
    attempts: list[float] = []
    failures, now = 0, 0.0
    for outcome in outcomes:
        now = max(now, next_login_at(attempts, failures, outcome, chance, PACE))
        attempts.append(now)
        failures = 0 if outcome is LastLogin.SUCCEEDED else failures + 1
    for at in attempts:
        assert sum(at <= other < at + 60 for other in attempts) <= 5
