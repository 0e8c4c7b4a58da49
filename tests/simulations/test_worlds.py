"""Scenarios on the real node: equal digests, shrinking down to a corpus case, a report with everything on it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from p2pe_sim.plan import Checks, Plan
from p2pe_sim.planning import plan_of
from p2pe_sim.report.page import run_page
from p2pe_sim.result import Verdict
from p2pe_sim.scenario import load_scenario
from p2pe_sim.store import Case
from p2pe_sim.workers import Job, fork_server


def short(name: str, seed: int, ends: float) -> Plan:
    """The beginning of a world: what matters here shows in it."""
    plan = plan_of(load_scenario(name), seed)
    return replace(
        plan,
        duration=ends,
        messages=tuple(each for each in plan.messages if each.at < ends),
        faults=tuple(each for each in plan.faults if each.at < ends),
        checks=Checks(effects=False),
    )


@pytest.mark.parametrize(("name", "ends"), [("invite-storm", 45.0), ("home-users", 60.0)])
def test_one_plan_is_one_run(name: str, ends: float) -> None:
    """Pairing included, where ML-KEM, SPAKE2 and the contacts' keys are fresh: all of that has to be seeded."""
    plan = short(name, 1, ends)
    with fork_server(1) as server:
        one, other = (result for _, result in server.run([Job(("", 0, turn), plan) for turn in range(2)]))
    with fork_server(2) as server:  # another process, whose objects lie elsewhere in memory
        third = next(result for _, result in server.run([Job(("", 0, 0), plan, events=True)]))
    assert one.verdict is Verdict.PASSED, one.problem
    assert one.digest == other.digest == third.digest
    assert third.events
    page = run_page(Case(plan, "", third))
    for card in ("The world", "Messages by state", "Paths between contacts", "Connections", "Delivery", "took longest"):
        assert card in page, card
