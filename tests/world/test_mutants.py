"""Each invariant catches what it is there for: nodes broken on purpose, within twenty seeds of a rough world."""

from __future__ import annotations

import pytest
from p2pe_sim.invariants import SAFETY
from p2pe_sim.natlab.nat import NatType
from p2pe_sim.plan import Plan
from p2pe_sim.result import Verdict
from world_kit import Worker, rough
from world_mutants import MUTANTS

SEEDS = 20


def plan_for(mutant: str, seed: int) -> Plan:
    if MUTANTS[mutant].caught_by == "address-hidden":
        return rough(seed, relay="only")
    return rough(seed, nat=NatType.SYMMETRIC if mutant == "plaintext-relay" else NatType.NONE)


@pytest.mark.parametrize("mutant", [name for name, mutant in MUTANTS.items() if mutant.caught_by])
def test_a_mutant_is_caught(world: Worker, mutant: str) -> None:
    wanted = MUTANTS[mutant].caught_by
    seen: set[str] = set()
    for seed in range(1, SEEDS + 1):
        result = world.run(plan_for(mutant, seed), mutant=mutant)
        assert result.verdict is not Verdict.ERROR, result.problem
        seen |= {each.invariant for each in result.broken}
        if wanted in seen:
            return
    pytest.fail(f"{wanted} didn't catch {mutant} in {SEEDS} seeds; broken were {sorted(seen)}")


def test_every_invariant_has_a_mutant() -> None:
    assert {each.caught_by for each in MUTANTS.values()} >= set(SAFETY)


@pytest.mark.parametrize(
    ("relay", "nat"), [("fallback", NatType.NONE), ("only", NatType.NONE), ("fallback", NatType.SYMMETRIC)]
)
def test_the_real_node_breaks_nothing_there(world: Worker, relay: str, nat: NatType) -> None:
    result = world.run(rough(1, relay=relay, nat=nat))
    assert result.verdict is Verdict.PASSED, (result.problem, result.broken)
