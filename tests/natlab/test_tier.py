"""Tier 2: a plan is played by real processes behind real routers, and judged by what their inboxes show."""

from __future__ import annotations

from dataclasses import replace

import pytest
from p2pe_sim.execute import execute
from p2pe_sim.natlab.lab import LabUnavailable, require_lab
from p2pe_sim.natlab.nat import NatType
from p2pe_sim.natlab.tier import run
from p2pe_sim.plan import Behaviour, Fault, FaultKind, Friendship, Message, Node, Plan, Role
from p2pe_sim.result import Verdict

pytestmark = [pytest.mark.natlab, pytest.mark.slow]

PLAN = Plan(
    scenario="small",
    seed=1,
    duration=120.0,
    nodes=(Node("boot", Role.BOOTSTRAP), Node("ada", nat=NatType.PORT), Node("ben", nat=NatType.SYMMETRIC)),
    friendships=(Friendship("ada", "ben"),),
    messages=(
        Message("m1", 0.2, "ada", "ben", 300),
        Message("m2", 1.5, "ada", "ben"),  # while ben's node is down
        Message("m3", 2.0, "ben", "ada"),  # by ben's node, once it is back
        Message("m4", 5.5, "ada", "ben"),  # across the partition
    ),
    faults=(
        Fault("f1", FaultKind.CRASH, 1.0, 3.0, ("ben",)),
        Fault("f2", FaultKind.PARTITION, 5.0, 7.0, ("ada",)),
        Fault("f3", FaultKind.CLOCK_JUMP, 1.0, 3.0, ("ada",), {"seconds": 60.0}),
    ),
)


def test_where_there_is_no_laboratory_nothing_was_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> None:
        raise LabUnavailable("needs root")

    monkeypatch.setattr("p2pe_sim.natlab.tier.require_lab", unavailable)
    skipped = run(replace(PLAN, tier=2))
    assert skipped.verdict is Verdict.VACUOUS
    assert "needs root" in skipped.problem


def test_a_plan_is_played_and_judged() -> None:
    try:
        require_lab()
    except LabUnavailable as reason:
        pytest.skip(f"no NAT laboratory here: {reason}")
    result = execute(replace(PLAN, tier=2), keep_events=True)
    assert result.verdict is Verdict.PASSED, (result.broken, result.problem)
    assert result.counts["delivered"] == result.counts["sent"] == 4
    assert result.counts["left_out"] == 1
    assert result.effects == {"f1": 1.0, "f2": 1.0}
    assert result.virtual_seconds < 110.0, "it waited until the end, though all had arrived"
    delivered = {
        str(event["message"]): float(str(event["at"])) for event in result.events if event["what"] == "delivered"
    }
    assert delivered["m4"] >= 7.0, "the partition let it through"
    assert delivered["m2"] >= 3.0


def test_a_message_that_is_missing_breaks_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge can say no: a world in which one inbox is read with a message left out, and one twice."""
    try:
        require_lab()
    except LabUnavailable as reason:
        pytest.skip(f"no NAT laboratory here: {reason}")
    from p2pe_sim.processes import Person

    honest = Person.inbox

    def lying(person: Person, contact: str) -> list[object]:
        items = honest(person, contact)
        return [*items[1:], items[-1]] if person.name == "ben" else list(items)

    monkeypatch.setattr(Person, "inbox", lying)
    result = run(replace(PLAN, tier=2, messages=PLAN.messages[:2], faults=()))
    assert {each.invariant for each in result.broken} == {"delivered", "once"}


def test_hostile_nodes_cannot_be_played() -> None:
    try:
        require_lab()
    except LabUnavailable as reason:
        pytest.skip(f"no NAT laboratory here: {reason}")
    nodes = (replace(PLAN.nodes[0], behaviour=Behaviour.RELAY_DROPS), *PLAN.nodes[1:])
    result = execute(replace(PLAN, tier=2, nodes=nodes))
    assert result.verdict is Verdict.ERROR
    assert "boot can't be played" in result.problem
