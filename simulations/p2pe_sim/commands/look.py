"""`p2pe-sim list`, `explain`, `report`, `diff`: looking, without running anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from p2pe.errors import UsageError

from p2pe_sim.commands.options import JsonOption, ScenarioArgument
from p2pe_sim.differ import difference, lines_of, read_result
from p2pe_sim.explain import explained, plan_lines
from p2pe_sim.outputs import write_sweep
from p2pe_sim.planning import plan_of
from p2pe_sim.result import SimExit
from p2pe_sim.scenario import load_scenario, shipped
from p2pe_sim.store import Case, Store
from p2pe_sim.sweep import verdict_of


def list_scenarios(as_json: JsonOption = False) -> None:
    """The scenarios that come with p2pe-sim."""
    found = [load_scenario(name) for name in shipped()]
    if as_json:
        print(json.dumps([{"name": each.name, "tier": each.tier, "about": each.about} for each in found]))
        return
    width = max(len(each.name) for each in found)
    for each in found:
        print(f"{each.name:<{width}}  {each.about}")


def explain(
    scenario: ScenarioArgument,
    seed: Annotated[int | None, typer.Option("--seed", help="Also what happens in this world, in order.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a scenario file, and say in words what it asks for.

    Mistakes are listed as FILE:LINE: KEY: what is wrong. With --seed, the plan of one world; --json prints it whole.
    """
    loaded = load_scenario(scenario)
    if as_json:
        print(plan_of(loaded, 1 if seed is None else seed).to_json(indent=1))
        return
    print("\n".join(explained(loaded)))
    if seed is not None:
        print("\n".join(["", *plan_lines(plan_of(loaded, seed))]))


def report(
    source: Annotated[Path, typer.Argument(metavar="FOLDER|CASE", help="A results folder, or a case with its result.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The page; else report.html beside it.")] = None,
) -> None:
    """Write the HTML report again.

    From a folder of `sweep` or `run`, or from a case.
    """
    from p2pe_sim.report.page import run_page, sweep_page

    if source.is_dir() and (source / "results.jsonl").exists():
        store = Store(source)
        results = store.ordered()
        if not results:
            raise UsageError(f"{source} has no results yet")
        if out is None:
            write_sweep(store, verdict_of(results))
        else:
            cases = [Case.read(path) for path in sorted(store.failures.glob("*.json"))]
            out.write_text(sweep_page(results, verdict_of(results), cases))
        print(out or source / "report.html")
        return
    path = source / "case.json" if source.is_dir() else source
    case = Case.read(path)
    if case.result is None:
        raise UsageError(f"{path} has no result yet: p2pe-sim replay {path} --out FOLDER")
    target = out or (source / "report.html" if source.is_dir() else source.with_suffix(".html"))
    target.write_text(run_page(case, f"p2pe-sim replay {path}"))
    print(target)


def diff(
    one: Annotated[Path, typer.Argument(metavar="ONE", help="A run's folder, its result.json, or a case.")],
    other: Annotated[Path, typer.Argument(metavar="OTHER")],
) -> None:
    """Show the first event in which two runs part, and the counts.

    Exit 0: no difference, 3: there is one.
    """
    found = difference(read_result(one), read_result(other))
    print("\n".join(lines_of(found)))
    raise typer.Exit(SimExit.PASSED if found.same else SimExit.NONDETERMINISTIC)


COMMANDS = {"list": list_scenarios, "explain": explain, "report": report, "diff": diff}
