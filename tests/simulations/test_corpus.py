"""Worlds in which something once went wrong: each of them passes, for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from p2pe_sim.junit import what_failed
from p2pe_sim.result import Result, Verdict
from p2pe_sim.store import Case
from p2pe_sim.sweep import compared
from p2pe_sim.workers import Job, fork_server

CORPUS = Path(__file__).parents[2] / "simulations" / "corpus"
CASES = sorted(CORPUS.glob("*.json"))


@pytest.fixture(scope="module")
def results() -> dict[int, Result]:
    """All at once and each twice: one server, two at a time."""
    jobs = [Job(("", turn, number), Case.read(path).plan) for number, path in enumerate(CASES) for turn in range(2)]
    first: dict[int, Result] = {}
    both: dict[int, Result] = {}
    with fork_server(2) as server:
        for job, result in server.run(jobs):
            number = job.key[2]
            if number in first:
                both[number] = compared(first[number], result)
            else:
                first[number] = result
    return both


@pytest.mark.parametrize("number", range(len(CASES)), ids=[path.stem for path in CASES])
def test_it_stays_mended(number: int, results: dict[int, Result]) -> None:
    result = results[number]
    assert result.verdict is Verdict.PASSED, what_failed(result)
    assert Case.read(CASES[number]).note, "say in the case's `note` what was wrong and what mended it"
