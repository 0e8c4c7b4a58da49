"""Pieces come in one after another, in the order in which they reach the line, and never two at once."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from p2pe_sim.world.downlink import Downlink


def test_one_after_another() -> None:
    line = Downlink()
    assert line.receive(1.0, 0.5, 0.0) == 1.5
    assert line.receive(1.0, 0.5, 0.0) == 2.0
    assert line.receive(3.0, 0.5, 0.0) == 3.5


def test_what_comes_from_afar_delays_nobody_near() -> None:
    line = Downlink()
    assert line.receive(2.5, 0.01, 0.0) == pytest.approx(2.51)
    assert line.receive(0.05, 0.01, 0.0) == pytest.approx(0.06)
    assert line.receive(2.495, 0.01, 0.0) == pytest.approx(2.52)  # too long for the gap


def test_pieces_never_overlap_and_the_line_is_never_idle_for_one_that_waits() -> None:
    random = Random(1)
    line, taken, now = Downlink(), [], 0.0
    for _ in range(2_000):
        now += random.random() * 0.02
        at, takes = now + random.choice((0.01, 0.05, 2.5)), random.random() * 0.02
        end = line.receive(at, takes, now)
        assert end >= at + takes - 1e-9
        taken.append((end - takes, end))
    taken.sort()
    assert all(later[0] >= earlier[1] - 1e-9 for earlier, later in pairwise(taken))
    assert len(line._busy) < 1_000
