"""Shrinking: what doesn't matter goes, what matters stays, and the failure is the same one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from p2pe_sim.execute import judged
from p2pe_sim.natlab.nat import NatType
from p2pe_sim.plan import Behaviour, Checks, FaultKind, Node, Plan, Role
from p2pe_sim.planning import plan_of
from p2pe_sim.result import Result, Verdict
from p2pe_sim.shrink import Shrinking, size_of, with_nodes
from sim_kit import Answering, broken, passed, people

PLAN = plan_of(people(), 1)
CULPRIT = next(fault for fault in PLAN.faults if fault.kind is FaultKind.RESET)
WRITTEN = PLAN.messages[3]


def breaks(plan: Plan) -> Result:
    """Needs one fault on one node, one message, and a symmetric router; everything else is noise."""
    fault = any(f.kind is FaultKind.RESET and CULPRIT.targets[0] in f.targets for f in plan.faults)
    message = any(each.id == WRITTEN.id for each in plan.messages)
    routers = any(node.name == WRITTEN.sender for node in plan.nodes)
    if fault and message and routers and plan.duration >= 50.0:
        return broken(plan, at=50.0)
    return broken(plan, "order") if message and len(plan.nodes) == 2 else passed(plan)


def shrunk() -> Shrinking:
    state = Shrinking(Answering(breaks), PLAN, breaks(PLAN))
    state.shrink()
    return state


def test_only_what_matters_is_left() -> None:
    state = shrunk()
    assert len(state.plan.faults) == 1
    assert state.plan.faults[0].kind is FaultKind.RESET
    assert [message.id for message in state.plan.messages] == [WRITTEN.id]
    assert {node.name for node in state.plan.nodes} >= {WRITTEN.sender, WRITTEN.recipient, CULPRIT.targets[0]}
    assert any(node.role is Role.BOOTSTRAP for node in state.plan.nodes), "without one everything fails, for nothing"
    assert all(node.nat is NatType.NONE and node.loss == 0.0 for node in state.plan.nodes)
    assert state.plan.duration == 55.0
    assert state.result.broken[0].invariant == "once", "another failure isn't the one that was looked for"
    assert size_of(state.plan).startswith(f"{len(state.plan.nodes)} nodes, 1 fault, 1 message")
    assert Plan.from_json(state.plan.to_json()) == state.plan


def test_the_honest_one_of_many_bootstrap_nodes_stays() -> None:
    honest = next(node for node in PLAN.nodes if node.role is Role.BOOTSTRAP)
    liars = tuple(replace(honest, name=f"liar{number}", behaviour=Behaviour.DHT_LIES) for number in range(3))
    plan = replace(PLAN, nodes=(*PLAN.nodes, *liars))
    state = Shrinking(Answering(breaks), plan, breaks(plan))
    state.shrink()
    left = [node.behaviour for node in state.plan.nodes if node.role is Role.BOOTSTRAP]
    assert left == [Behaviour.HONEST]


def test_it_is_the_same_every_time() -> None:
    one, other = shrunk(), shrunk()
    assert one.plan == other.plan
    assert one.runs == other.runs < 200


def test_a_run_that_passed_has_nothing_to_shrink() -> None:
    with pytest.raises(ValueError, match="passed"):
        Shrinking(Answering(passed), PLAN, passed(PLAN))


def test_an_upper_bound_shrinks_and_a_lower_one_does_not() -> None:
    def counted(plan: Plan) -> Result:
        result = replace(passed(plan), counts={"sent": float(len(plan.messages))})
        return judged(plan, result)

    many = replace(PLAN, checks=Checks(at_most={"sent": 3}))
    state = Shrinking(Answering(counted), many, counted(many))
    state.shrink()
    assert len(state.plan.messages) == 4
    assert "at most 3" in state.result.broken[0].detail
    few = replace(PLAN, checks=Checks(at_least={"sent": 9999}))
    with pytest.raises(ValueError, match="any smaller world does less still"):
        Shrinking(Answering(counted), few, counted(few))


def test_errors_of_the_simulator_shrink_by_their_kind() -> None:
    def fails(plan: Plan) -> Result:
        problem = "Traceback\nKeyError: 'x'" if plan.faults else "Traceback\nValueError: y"
        return replace(passed(plan), verdict=Verdict.ERROR, problem=problem)

    state = Shrinking(Answering(fails), PLAN, fails(PLAN))
    state.shrink()
    assert len(state.plan.faults) == 1
    assert not state.plan.messages


def test_a_node_takes_along_what_names_it() -> None:
    nodes = (Node("boot", Role.BOOTSTRAP), *(node for node in PLAN.nodes if node.name == "home1"))
    plan = with_nodes(replace(PLAN, nodes=(*nodes, *PLAN.nodes[2:])), nodes)
    assert not plan.messages
    assert not plan.friendships
    assert all(fault.targets == ("home1",) for fault in plan.faults)
    assert Plan.from_json(plan.to_json()) == plan
