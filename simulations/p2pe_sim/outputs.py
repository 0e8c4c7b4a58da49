"""What a run or a sweep leaves in its folder, and the lines it prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from p2pe_sim.junit import junit, replay_command, what_failed
from p2pe_sim.report.svg import duration
from p2pe_sim.result import Result, Verdict
from p2pe_sim.store import Case, Store


def write_run(folder: Path, case: Case, replay: str) -> None:
    """result.json (with everything), events.jsonl, case.json, junit.xml, report.html."""
    from p2pe_sim.report.page import run_page

    result = case.result
    assert result is not None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(result.to_json(indent=1) + "\n")
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in result.events))
    (folder / "case.json").write_text(case.to_json())
    (folder / "junit.xml").write_text(junit([result], lambda _: replay))
    (folder / "report.html").write_text(run_page(case, replay))


def summary_of(results: Sequence[Result], verdict: Verdict) -> dict[str, object]:
    """What `result.json` of a sweep says. Nothing in it depends on the machine or on how the runs were spread."""
    scenarios: dict[str, dict[str, object]] = {}
    for name in sorted({result.scenario for result in results}):
        of_it = [result for result in results if result.scenario == name]
        counts: dict[str, float] = {}
        for result in of_it:
            for what, number in result.counts.items():
                counts[what] = counts.get(what, 0.0) + number
        scenarios[name] = {
            "runs": len(of_it),
            "verdicts": {each.value: number for each in Verdict if (number := sum(r.verdict is each for r in of_it))},
            "virtual_seconds": round(sum(result.virtual_seconds for result in of_it), 3),
            "counts": {what: round(number, 6) for what, number in sorted(counts.items())},
        }
    return {
        "version": 1,
        "verdict": verdict.value,
        "scenarios": scenarios,
        "failures": [
            {
                "scenario": result.scenario,
                "seed": result.seed,
                "verdict": result.verdict.value,
                "what": what_failed(result),
                "replay": replay_command(result),
            }
            for result in results
            if result.verdict is not Verdict.PASSED
        ],
        "digests": {f"{result.scenario}/{result.seed}": result.digest for result in results},
    }


def write_sweep(store: Store, verdict: Verdict) -> None:
    """The summary of a results folder, from what is in it."""
    from p2pe_sim.report.page import sweep_page

    results = store.ordered()
    (store.folder / "result.json").write_text(json.dumps(summary_of(results, verdict), indent=1) + "\n")
    (store.folder / "junit.xml").write_text(junit(results, lambda result: replay_of(store, result)))
    cases = [Case.read(path) for path in sorted(store.failures.glob("*.json"))] if store.failures.is_dir() else []
    (store.folder / "report.html").write_text(sweep_page(results, verdict, cases))


def replay_of(store: Store, result: Result) -> str:
    """The scenario and seed if they are shipped ones, which anybody can type; else the case file."""
    from p2pe_sim.scenario import shipped

    path = store.case_path(result.scenario, result.seed)
    if result.scenario in shipped() or not path.exists():
        return replay_command(result)
    return f"p2pe-sim replay {path}"


def told(result: Result, replay: str) -> list[str]:
    """A run on a few lines."""
    ratio = f" (x{result.virtual_seconds / result.real_seconds:.0f})" if result.real_seconds else ""
    lines = [
        f"{result.scenario} seed {result.seed}: {result.verdict.value}, "
        f"{duration(result.virtual_seconds)} of virtual time in {duration(result.real_seconds)}{ratio}"
    ]
    counted = ", ".join(f"{name} {value:g}" for name, value in sorted(result.counts.items()))
    if counted:
        lines.append(f"  {counted}")
    if result.verdict is not Verdict.PASSED:
        lines += [f"  {line}" for line in what_failed(result).splitlines()]
        lines.append(f"  replay: {replay}")
    return lines
