"""Pauses between tries: a minute for a quarter of an hour, then ever longer, and short again at a sign of life."""

from __future__ import annotations

from p2pe.config import RETRY_AWAY_MAX, RETRY_JITTER, RETRY_MAX, RETRY_STEADY
from p2pe.core.backoff import Backoff

MIDDLE = bytes([128, 0, 0, 0])  # no jitter


def waits(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next(MIDDLE) for _ in range(count)]


def test_the_first_quarter_of_an_hour_is_as_for_anybody() -> None:
    usual, away = waits(Backoff(), 7 + RETRY_STEADY), waits(Backoff(may_be_away=True), 7 + RETRY_STEADY)
    assert usual == away
    assert usual[:8] == [0.5, 1, 2, 4, 8, 16, 32, RETRY_MAX]
    assert 900 <= sum(usual) <= 1_000


def test_then_the_pause_doubles_up_to_a_bound_for_who_may_be_away() -> None:
    backoff = Backoff(may_be_away=True)
    waits(backoff, 7 + RETRY_STEADY)
    assert waits(backoff, 6) == [120, 240, 480, RETRY_AWAY_MAX, RETRY_AWAY_MAX, RETRY_AWAY_MAX]
    assert backoff.next(bytes(4)) == RETRY_AWAY_MAX * (1 - RETRY_JITTER)
    plain = Backoff()
    assert max(waits(plain, 100)) == RETRY_MAX


def test_a_sign_of_life_makes_it_as_after_a_minute_and_never_shorter() -> None:
    backoff = Backoff(may_be_away=True)
    waits(backoff, 100)
    backoff.relax()
    assert waits(backoff, RETRY_STEADY) == [RETRY_MAX] * RETRY_STEADY
    assert backoff.next(MIDDLE) == 2 * RETRY_MAX
    early = Backoff(failures=2, may_be_away=True)
    early.relax()
    assert early.next(MIDDLE) == 2.0


def test_a_very_long_absence_doesnt_overflow() -> None:
    assert Backoff(failures=10**9, may_be_away=True).next(MIDDLE) == RETRY_AWAY_MAX
