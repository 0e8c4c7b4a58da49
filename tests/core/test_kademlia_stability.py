"""How often to publish, from how many storers are still there."""

from __future__ import annotations

import math
import random

import pytest
from p2pe.config import RECORD_REFRESH, RECORD_REFRESH_MAX
from p2pe.core.kademlia.stability import Stability


def after_a_day(leaving_per_hour: float, records: int = 16) -> Stability:
    """A publisher that refreshes `records` records at 8 storers each as often as it thinks right."""
    chance = random.Random(1)
    stability, hours = Stability(), 0.0
    while hours < 24:
        pause = stability.refresh_seconds
        hours += pause / 3600
        stays = math.exp(-leaving_per_hour * pause / 3600)
        for _ in range(records):
            stayed = sum(chance.random() < stays for _ in range(8))
            stability.observed(stayed, 8 - stayed, pause)
    return stability


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.1, 0.3, 1.0])
def test_the_rate_of_leaving_is_found_and_decides(rate: float) -> None:
    stability = after_a_day(rate)
    assert rate / 1.5 <= stability.leaving_per_hour <= rate * 1.5
    wanted = min(RECORD_REFRESH_MAX, max(RECORD_REFRESH, 0.5 / rate * 3600))
    assert wanted / 1.5 <= stability.refresh_seconds <= wanted * 1.5


def test_it_begins_with_caution_and_changes_its_mind_both_ways() -> None:
    stability = Stability()
    assert RECORD_REFRESH <= stability.refresh_seconds < 2 * RECORD_REFRESH
    for _ in range(20):
        stability.observed(80, 0, 6 * 3600.0)
    assert stability.refresh_seconds == RECORD_REFRESH_MAX
    for _ in range(60):
        stability.observed(40, 40, 3600.0)
    assert stability.refresh_seconds == RECORD_REFRESH


def test_few_servers_mean_hourly() -> None:
    stability = Stability()
    for _ in range(20):
        stability.observed(80, 0, 6 * 3600.0)
    stability.is_small = True
    assert stability.refresh_seconds == RECORD_REFRESH


def test_nonsense_times_do_no_harm() -> None:
    stability = Stability()
    stability.observed(0, 0, 0.0)
    stability.observed(3, 5, -10.0)
    stability.observed(8, 0, 0.0)
    assert RECORD_REFRESH <= stability.refresh_seconds <= RECORD_REFRESH_MAX
