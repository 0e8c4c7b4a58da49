"""Tier 0 for scenarios: a plan with the [directory] parameters is a run of `under_churn`; its figures are counts."""

from __future__ import annotations

import hashlib
import json

from p2pe_sim.dht.scenario import under_churn
from p2pe_sim.plan import Plan
from p2pe_sim.result import Result, Verdict

_OF_THE_MACHINE = ("cpu_seconds", "cpu_seconds_joining")  # differ from run to run, so they aren't in the digest


def run(plan: Plan, *, keep_events: bool = False) -> Result:
    """Floors and bounds are the caller's to judge (`execute`). There are no events: half a million lookups."""
    figures = under_churn(
        nodes=int(plan.params["nodes"]),
        hours=plan.params["hours"],
        churn_per_hour=plan.params["churn_per_hour"],
        records=int(plan.params["records"]),
        lookups=int(plan.params["lookups"]),
        seed=plan.seed,
    )
    seconds = figures.pop("seconds")
    figures.pop("rounds")
    ours = {name: value for name, value in figures.items() if name not in _OF_THE_MACHINE}
    digest = hashlib.sha256(json.dumps([ours, seconds], sort_keys=True).encode()).hexdigest()
    return Result(
        plan.scenario,
        plan.seed,
        Verdict.PASSED,
        digest=digest,
        virtual_seconds=plan.duration,
        counts={name: float(value) for name, value in ours.items() if isinstance(value, int | float)},
        series={"delivery": tuple((float(n), float(took)) for n, took in enumerate(seconds))},
    )
