"""Time-outs on slow lines: what a usual line gets is what it got, and nobody gets more than a bound."""

from __future__ import annotations

import pytest
from p2pe import config
from p2pe.core.kademlia.timeouts import Timeouts
from p2pe.core.patience import Pace, handshake_patience, patience


def test_a_usual_line_changes_nothing() -> None:
    assert patience(5.0, None, 1) == patience(5.0, 0.3, 2) == 5.0
    assert handshake_patience(0.5) == config.HANDSHAKE_TIMEOUT
    pace = Pace()
    pace.observed(0.24)
    timeouts = Timeouts(pace)
    assert (timeouts.limit, timeouts.whole) == (config.KAD_QUERY_TIMEOUT, config.KAD_LOOKUP_TIMEOUT)


@pytest.mark.parametrize("trips", [1, 2, 3])
def test_a_line_of_five_seconds_gets_its_round_trips_and_a_lost_segment(trips: int) -> None:
    assert patience(5.0, 5.0, trips) >= 5.0 * trips + 2 * 5.0


def test_who_feigns_a_slow_line_gains_a_bounded_time() -> None:
    assert patience(5.0, 3_600.0, 1) == 4 * config.ROUND_TRIP_MAX
    assert handshake_patience(3_600.0) == 6 * config.ROUND_TRIP_MAX


def test_the_pace_is_that_of_the_quickest_of_the_last_connections() -> None:
    pace = Pace(samples=3)
    assert pace.round_trip == 0.0
    for took in (5.0, 4.0, 6.0):
        pace.observed(took)
    assert pace.round_trip == 4.0
    pace.observed(0.1)
    pace.observed(5.0)
    assert pace.round_trip == 0.1  # one slow peer doesn't make a line slow
    for _ in range(3):
        pace.observed(5.0)
    assert pace.round_trip == 5.0
    pace.forget()
    assert pace.round_trip == 0.0


def test_requests_and_lookups_wait_for_a_slow_line() -> None:
    pace = Pace()
    timeouts = Timeouts(pace)
    assert timeouts.patience == config.KAD_QUERY_TIMEOUT
    pace.observed(5.0)
    assert timeouts.limit == 30.0
    assert timeouts.whole == 100.0
    timeouts.observed(15.0)
    assert 15.0 < timeouts.patience <= timeouts.limit
