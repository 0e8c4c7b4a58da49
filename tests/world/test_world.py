"""The production node on a virtual network, clock and disk: that it works there, and that a run is its plan's alone."""

from __future__ import annotations

from p2pe_sim.result import Verdict
from world_kit import Worker, two, worker


def test_two_people_write_to_each_other(world: Worker) -> None:
    result = world.run(two(), keep_events=True)
    assert result.verdict is Verdict.PASSED, (result.problem, result.broken)
    assert result.counts["delivered"] == 8
    assert [e["message"] for e in result.events if e["what"] == "received"] == [f"m{n}" for n in range(8)]


def test_equal_plans_give_equal_digests_in_any_process(world: Worker) -> None:
    digests = {world.run(two(7)).digest for _ in range(2)}
    with worker() as another:
        another.run(two(8))
        digests.add(another.run(two(7)).digest)
    assert len(digests) == 1
    assert world.run(two(8)).digest not in digests
