"""Options and arguments that several subcommands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from p2pe.errors import UsageError

from p2pe_sim.planning import plan_of
from p2pe_sim.scenario import Scenario, load_scenario, shipped
from p2pe_sim.store import Case

ScenarioArgument = Annotated[
    str, typer.Argument(metavar="SCENARIO", help="A shipped scenario (p2pe-sim list) or a .toml file.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Which world of the scenario.", min=0)]
TierOption = Annotated[
    int | None,
    typer.Option("--tier", help="2: real processes behind real NATs, instead of what the scenario says.", min=0, max=2),
]
JobsOption = Annotated[int, typer.Option("--jobs", "-j", help="Runs at a time; 0: one a processor.", min=0)]
LimitOption = Annotated[
    float, typer.Option("--seed-limit", help="Real seconds after which one run is given up.", min=0)
]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder for result.json, events.jsonl, junit.xml and report.html.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def scenarios_of(names: list[str]) -> tuple[Scenario, ...]:
    """The named ones; `all`: every shipped scenario of tier 1. Raises UsageError."""
    found: dict[str, Scenario] = {}
    for name in names:
        loaded = [load_scenario(each) for each in shipped()] if name == "all" else [load_scenario(name)]
        for scenario in loaded:
            if name == "all" and scenario.tier != 1:
                continue
            if found.setdefault(scenario.name, scenario) != scenario:
                raise UsageError(f"two scenarios are called {scenario.name!r}; results go by name")
    return tuple(found.values())


def case_of(target: str, seed: int | None) -> Case:
    """A case or plan from a .json file, or the world of `seed` of a scenario. Raises UsageError."""
    if target.endswith(".json"):
        if seed is not None:
            raise UsageError(f"{target} is one plan: --seed is for scenarios")
        return Case.read(Path(target))
    return Case(plan_of(load_scenario(target), 1 if seed is None else seed))
