"""A small world, and an engine that answers from a function instead of running one: for what is around a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from p2pe_sim.plan import Plan
from p2pe_sim.result import Broken, Result, Verdict
from p2pe_sim.scenario import Scenario, read_scenario
from p2pe_sim.workers import Job

PEOPLE = """
about = "Three people."
duration = 120
settle = 30
[[nodes]]
name = "boot"
role = "bootstrap"
[[nodes]]
name = "home"
count = 3
nat = { port = 2, sym = 1 }
[churn]
session = [20, 60]
away = [5, 10]
[workload]
per_minute = 6
[[faults]]
kind = "reset"
at = [10, 80]
repeat = 3
count = 1
[[faults]]
kind = "loss"
at = [10, 50]
lasts = [5, 20]
params = { rate = [0.1, 0.3] }
"""
DIRECTORY = """
about = "A small directory."
tier = 0
[directory]
nodes = 40
hours = 0.1
churn_per_hour = 0.5
records = 10
lookups = 30
[check]
floors = { lookups = 30 }
"""


def people(text: str = PEOPLE) -> Scenario:
    return read_scenario(text, "people", "people.toml")


def directory() -> Scenario:
    """The only scenario whose runs take a fraction of a second: the real thing, on tier 0."""
    return read_scenario(DIRECTORY, "directory", "directory.toml")


def passed(plan: Plan, digest: str = "") -> Result:
    counts = {"sent": float(len(plan.messages))}
    return Result(plan.scenario, plan.seed, Verdict.PASSED, digest or f"{plan.seed:08x}", counts=counts)


def broken(plan: Plan, invariant: str = "once", at: float = 50.0) -> Result:
    return Result(
        plan.scenario, plan.seed, Verdict.BROKEN, f"{plan.seed:08x}", (Broken(invariant, at, "twice", (), "m1"),)
    )


class Answering:
    """An engine. Remembers which runs it was asked for."""

    def __init__(self, answer: Callable[[Plan], Result]) -> None:
        self._answer = answer
        self.made: list[tuple[str, int]] = []

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        for job in jobs:
            self.made.append((job.plan.scenario, job.plan.seed))
            yield job, self._answer(job.plan)
