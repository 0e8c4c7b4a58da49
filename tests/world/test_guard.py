"""Whatever reaches for the real world inside a simulation is named and ends the run; outside of one nothing changes."""

from __future__ import annotations

import os
import random
import time

import pytest
from p2pe_sim.result import Verdict
from p2pe_sim.world.guard import EscapeError, guarded
from world_kit import Worker, two
from world_mutants import ESCAPES


@pytest.mark.parametrize("escape", ESCAPES)
def test_an_escape_is_named_with_its_place(world: Worker, escape: str) -> None:
    result = world.run(two(messages=0, duration=5.0), mutant=f"escape: {escape}")
    assert result.verdict is Verdict.ERROR
    named = result.problem.splitlines()[0]
    assert ESCAPES[escape][0] in named
    assert "inside a simulation" in named
    assert "p2pe." in named or "world_mutants" in named


def test_the_real_world_is_back_afterwards() -> None:
    before = time.time, os.urandom, random.random
    with guarded() as escapes, pytest.raises(EscapeError):
        time.time()
    assert len(escapes) == 1
    assert (time.time, os.urandom, random.random) == before
    assert time.time() > 0
    assert len(os.urandom(4)) == 4
