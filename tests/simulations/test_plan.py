"""Plans and results: through JSON and back without loss; what can't be read says where."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from p2pe_sim.natlab.nat import NatType
from p2pe_sim.plan import Checks, Fault, FaultKind, Friendship, Liveness, Message, Node, Plan, PlanError, Role
from p2pe_sim.result import Broken, Result, Verdict

PLAN = Plan(
    scenario="tiny",
    seed=7,
    duration=60.0,
    nodes=(Node("b", Role.BOOTSTRAP), Node("ada", nat=NatType.SYMMETRIC, latency=0.05), Node("ben", clock_skew=-3.0)),
    friendships=(Friendship("ada", "ben"),),
    messages=(Message("m0", 1.0, "ada", "ben", 300),),
    faults=(Fault("f0", FaultKind.LOSS, 2.0, 9.0, ("ada",), {"rate": 0.3}),),
    checks=Checks(safety=("once",), liveness=(Liveness("delivered", 30.0),), floors={"delivered": 1}),
)


def test_a_plan_survives_json() -> None:
    assert Plan.from_json(PLAN.to_json()) == PLAN
    assert Plan.from_json(PLAN.to_json(indent=1)) == PLAN


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("version",), 99, "version 99"),
        (("nodes",), 3, "nodes isn't a list"),
        (("nodes", 1, "nat"), "foam", "nodes[1].nat: 'foam'"),
        (("nodes", 1, "colour"), "red", "nodes[1]"),
        (("messages", 0, "recipient"), "eve", "message m0 names 'eve'"),
        (("faults", 0, "kind"), "flood", "faults[0].kind: 'flood'"),
        (("faults", 0, "until"), 1.0, "before it begins"),
        (("checks", "liveness", 0), "soon", "checks.liveness[0]"),
    ],
)
def test_what_cannot_be_read_says_where(path: tuple[str | int, ...], value: object, said: str) -> None:
    raw = json.loads(PLAN.to_json())
    inner = raw
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(PlanError) as refused:
        Plan.of(raw)
    assert said in str(refused.value)


def test_a_result_survives_json() -> None:
    result = Result(
        "tiny",
        7,
        Verdict.BROKEN,
        digest="00ff",
        broken=(Broken("once", 3.5, "m0 twice", ("ben",), "m0"),),
        counts={"sent": 1},
        effects={"f0": 12.0},
        series={"connections": ((0.0, 1.0), (1.0, 2.0))},
        events=({"at": 1.0, "what": "queued", "node": "ada", "message": "m0"},),
    )
    assert Result.of(json.loads(result.to_json())) == result
    assert result.exit_code == 1
    assert replace(result, verdict=Verdict.VACUOUS).exit_code == 4
    with pytest.raises(ValueError, match="version 2"):
        Result.of({**result.as_dict(), "version": 2})
