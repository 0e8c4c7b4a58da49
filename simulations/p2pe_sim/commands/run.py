"""`p2pe-sim run` and `replay`: one world, or a few written out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from p2pe.errors import UsageError

from p2pe_sim.commands.options import (
    JobsOption,
    JsonOption,
    LimitOption,
    OutOption,
    ScenarioArgument,
    SeedOption,
    TierOption,
)
from p2pe_sim.differ import difference, lines_of
from p2pe_sim.outputs import told, write_run
from p2pe_sim.plan import Plan
from p2pe_sim.planning import plan_of
from p2pe_sim.result import Result, Verdict
from p2pe_sim.scenario import load_scenario
from p2pe_sim.store import Case, cases_in
from p2pe_sim.sweep import compared, exit_code_of
from p2pe_sim.workers import SEED_LIMIT, Job, fork_server

TwiceOption = Annotated[
    bool, typer.Option("--check-determinism", help="Run it twice; both must give the same digest (exit 3).")
]


def run(
    scenario: ScenarioArgument,
    seed: SeedOption = 1,
    tier: TierOption = None,
    out: OutOption = None,
    check_determinism: TwiceOption = False,
    seed_limit: LimitOption = SEED_LIMIT,
    as_json: JsonOption = False,
) -> None:
    """Run one world of a scenario.

    Example:  p2pe-sim run home-users --seed 7 --out build/seven   then open build/seven/report.html
    """
    plan = plan_of(load_scenario(scenario), seed)
    if tier is not None:
        plan = at_tier(plan, tier)
    command = f"p2pe-sim run {scenario} --seed {seed}{'' if tier is None else f' --tier {tier}'}"
    result = _made(plan, twice=check_determinism, limit=seed_limit)
    _show(Case(plan, "", result), command, out, as_json)
    raise typer.Exit(result.exit_code)


def at_tier(plan: Plan, tier: int) -> Plan:
    """The same world on another tier. Raises UsageError where that says nothing."""
    if 0 in (tier, plan.tier) and tier != plan.tier:
        raise UsageError(f"a scenario of tier {plan.tier} can't run at tier {tier}: tier 0 knows the directory alone")
    return replace(plan, tier=tier)


def replay(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Cases or plans (.json); folders of them, of `run` or of `sweep`."),
    ],
    out: OutOption = None,
    jobs: JobsOption = 1,
    seed_limit: LimitOption = SEED_LIMIT,
    as_json: JsonOption = False,
) -> None:
    """Run plans that were written out.

    Failures, shrunk failures, the regression corpus.

    Example:  p2pe-sim replay results/failures/home-users-17.json --out build/why
    """
    paths = [path for each in files for path in cases_in(each)]
    cases = [Case.read(path) for path in paths]
    if out is not None and len(cases) > 1:
        raise UsageError(f"--out takes the outcome of one file, and there are {len(cases)}")
    if not cases:
        raise UsageError(f"nothing to replay in {', '.join(map(str, files))}")
    results: list[Result | None] = [None] * len(cases)
    with fork_server(jobs or 1, seed_limit) as server:
        todo = (Job(("", 0, number), case.plan, events=out is not None) for number, case in enumerate(cases))
        for job, result in server.run(todo):
            results[job.key[2]] = result
    done = [result for result in results if result is not None]
    for path, case, result in zip(paths, cases, done, strict=True):
        _show(replace(case, result=result), f"p2pe-sim replay {path}", out, as_json)
        if case.result is not None and case.result.digest == result.digest and not as_json:
            print("  exactly as it was: equal digests")
    raise typer.Exit(exit_code_of(done))


def _made(plan: Plan, *, twice: bool, limit: float) -> Result:
    with fork_server(1, limit) as server:
        jobs = [Job(("", 0, turn), plan, events=True) for turn in range(2 if twice else 1)]
        results = [result for _, result in server.run(jobs)]
    if not twice:
        return results[0]
    result = compared(*results)
    if result.verdict is Verdict.NONDETERMINISTIC:
        where = "\n".join(lines_of(difference(*results)))
        result = replace(result, problem=f"{result.problem}\n{where}")
    return result


def _show(case: Case, command: str, out: Path | None, as_json: bool) -> None:
    result = case.result
    assert result is not None
    if out is not None:
        write_run(out, case, command)
    if as_json:
        print(json.dumps(replace(result, events=(), series={}).as_dict()))
        return
    print("\n".join(told(result, command)))
    if out is not None:
        print(f"  report: {out / 'report.html'}")


COMMANDS = {"run": run, "replay": replay}
