"""One plan in, one result out, in this process, whatever the tier. What the simulator itself does wrong becomes ERROR.

Call it in a process of its own where the answer must not depend on what ran before: `workers` does.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Final

from p2pe_sim.plan import Plan
from p2pe_sim.result import BOUNDS, Broken, Result, Verdict

TIERS: Final = {0: "p2pe_sim.dht.tier", 1: "p2pe_sim.runner", 2: "p2pe_sim.natlab.tier"}
"""Tier -> module with `run(plan, *, keep_events) -> Result`. Imported when needed: libp2p takes a second."""


def execute(plan: Plan, *, keep_events: bool = False) -> Result:
    """Never raises for what goes wrong inside the world; KeyboardInterrupt and the like pass through."""
    began = time.perf_counter()
    try:
        result = judged(plan, _run(plan, keep_events))
    except Exception:  # noqa: BLE001  (whatever it is, this seed failed and the sweep goes on)
        result = Result(plan.scenario, plan.seed, Verdict.ERROR, problem=traceback.format_exc())
    return replace(result, real_seconds=round(time.perf_counter() - began, 3))


def prepare(tier: int) -> None:
    """Imports what a tier needs, and lets it make ready: done once, before forking."""
    ready: Callable[[], None] | None = getattr(import_module(TIERS[tier]), "prepare", None)
    if ready is not None:
        ready()


def _run(plan: Plan, keep_events: bool) -> Result:
    run: Callable[..., Result] = import_module(TIERS[plan.tier]).run
    return run(plan, keep_events=keep_events)


def judged(plan: Plan, result: Result) -> Result:
    """The runner's verdict, and the scenario's own bounds and floors on what was counted."""
    if result.verdict not in (Verdict.PASSED, Verdict.VACUOUS):
        return result
    checks, counts = plan.checks, result.counts
    missed = [
        f"{name} is {counts.get(name, 0.0):g}, and at least {bound:g} was asked for"
        for name, bound in checks.at_least.items()
        if counts.get(name, 0.0) < bound
    ] + [
        f"{name} is {counts.get(name, 0.0):g}, and at most {bound:g} was allowed"
        for name, bound in checks.at_most.items()
        if counts.get(name, 0.0) > bound
    ]
    if missed:
        broken = tuple(Broken(BOUNDS, plan.duration, detail) for detail in missed)
        return replace(result, verdict=Verdict.BROKEN, broken=(*result.broken, *broken))
    short = [
        f"{name}: {counts.get(name, 0.0):g} of {floor:g}"
        for name, floor in checks.floors.items()
        if counts.get(name, 0.0) < floor
    ]
    if short and result.verdict is Verdict.PASSED:
        return replace(result, verdict=Verdict.VACUOUS, problem=f"too little happened: {', '.join(short)}")
    return result
