"""Attackers beside honest people: these still meet, and memory stays within bounds. Figures: docs/benchmarks-net.md."""

from __future__ import annotations

import pytest
from p2pe_sim.attacks import ATTACKS
from p2pe_sim.natlab.lab import LabUnavailable
from p2pe_sim.siege import besiege

pytestmark = [pytest.mark.journey, pytest.mark.slow]

MOST_GROWTH = 48.0  # MiB at the peak above the start: of 200 MiB that were pushed, of 5,000 streams, of 1,000 peers


def test_honest_people_meet_beside_every_attack_and_memory_is_bounded() -> None:
    try:
        trials = besiege()
    except LabUnavailable as reason:
        pytest.skip(str(reason))
    assert [trial.attack for trial in trials] == list(ATTACKS)
    for trial in trials:
        assert min(trial.effect) > 0, f"an attack without effect proves nothing: {trial}"
        assert trial.growth() < MOST_GROWTH, trial
        assert not trial.complaints, trial
