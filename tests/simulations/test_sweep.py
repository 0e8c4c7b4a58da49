"""Sweeps: nothing twice, nothing left out, and a verdict that means what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from p2pe.errors import UsageError
from p2pe_sim.junit import junit
from p2pe_sim.outputs import summary_of, write_sweep
from p2pe_sim.plan import Plan
from p2pe_sim.result import Result, Verdict
from p2pe_sim.store import Case, Store, merge
from p2pe_sim.sweep import Wanted, open_sweep, sweep, verdict_of
from sim_kit import Answering, broken, directory, passed, people

WANTED = Wanted((people(), directory()), seeds=10, repeat_every=0)


def made(folder: Path, wanted: Wanted, answer: Answering) -> Store:
    store = Store(folder)
    sweep(answer, store, open_sweep(store, wanted))
    return store


def test_what_is_in_the_folder_is_not_run_again(tmp_path: Path) -> None:
    whole = made(tmp_path / "whole", WANTED, Answering(passed))
    first = Answering(passed)
    made(tmp_path / "parts", replace(WANTED, seeds=4), first)
    with (tmp_path / "parts" / "results.jsonl").open("a") as lines:
        lines.write('{"version": 1, "scenario": "peo')  # the machine died while this was being written
    second = Answering(passed)
    parts = made(tmp_path / "parts", WANTED, second)
    assert len(first.made) == 8
    assert len(second.made) == 12
    assert parts.ordered() == whole.ordered()
    assert verdict_of(parts.ordered(), WANTED) is Verdict.PASSED


def test_runs_that_the_simulator_failed_are_made_again(tmp_path: Path) -> None:
    def failing(plan: Plan) -> Result:
        return replace(passed(plan), verdict=Verdict.ERROR, problem="boom") if plan.seed == 2 else passed(plan)

    store = made(tmp_path, WANTED, Answering(failing))
    assert verdict_of(store.ordered()) is Verdict.ERROR
    again = Answering(passed)
    store = made(tmp_path, WANTED, again)
    assert again.made == [("people", 2), ("directory", 2)]
    assert verdict_of(Store(tmp_path).ordered(), WANTED) is Verdict.PASSED


def test_another_digest_the_second_time_is_not_deterministic(tmp_path: Path) -> None:
    digests = iter(range(1000))
    wanted = replace(WANTED, repeat_every=5)
    engine = Answering(lambda plan: passed(plan, str(next(digests))))
    store = made(tmp_path, wanted, engine)
    assert len(engine.made) == 24  # two seeds of each of two scenarios were made twice
    bad = [(result.scenario, result.seed) for result in store.ordered() if result.verdict is Verdict.NONDETERMINISTIC]
    assert bad == [("directory", 1), ("directory", 6), ("people", 1), ("people", 6)]
    assert verdict_of(store.ordered()).value == "nondeterministic"


def test_the_budget_ends_a_sweep(tmp_path: Path) -> None:
    wanted = replace(WANTED, budget=0.0)
    store = made(tmp_path, wanted, Answering(passed))
    assert verdict_of(store.ordered(), wanted) is Verdict.BUDGET
    open_ended = replace(wanted, seeds=None)
    assert verdict_of([passed(Plan("people", 1, 1.0, ()))], open_ended) is Verdict.PASSED
    assert verdict_of([], open_ended) is Verdict.BUDGET  # nothing at all was tested


def test_it_stops_after_enough_failures(tmp_path: Path) -> None:
    engine = Answering(broken)
    made(tmp_path, replace(WANTED, stop_after=3), engine)
    assert len(engine.made) - 3 == 3  # and three are run again for their events


def test_shards_together_say_what_one_machine_says(tmp_path: Path) -> None:
    def some_broken(plan: Plan) -> Result:
        return broken(plan) if plan.seed % 4 == 0 else passed(plan)

    whole = made(tmp_path / "whole", WANTED, Answering(some_broken))
    shards = []
    for share in (1, 2, 3):
        made(tmp_path / f"shard{share}", replace(WANTED, shard=(share, 3)), Answering(some_broken))
        shards.append(tmp_path / f"shard{share}")
    assert merge(shards, tmp_path / "all") == whole.ordered()
    assert {path.name for path in (tmp_path / "all" / "failures").iterdir()} == {
        path.name for path in whole.failures.iterdir()
    }
    write_sweep(whole, Verdict.BROKEN)
    write_sweep(Store(tmp_path / "all"), Verdict.BROKEN)
    one, other = ((tmp_path / name / "result.json").read_text() for name in ("whole", "all"))
    assert one == other


def test_folders_that_disagree_do_not_merge_quietly(tmp_path: Path) -> None:
    made(tmp_path / "one", WANTED, Answering(passed))
    made(tmp_path / "two", WANTED, Answering(lambda plan: passed(plan, "other" if plan.seed == 3 else "")))
    merged = merge([tmp_path / "one", tmp_path / "two"], tmp_path / "all")
    assert [result.seed for result in merged if result.verdict is Verdict.NONDETERMINISTIC] == [3, 3]
    with pytest.raises(UsageError, match="merge into a new folder"):
        merge([tmp_path / "one"], tmp_path / "all")
    with pytest.raises(UsageError, match=r"no results\.jsonl"):
        merge([tmp_path], tmp_path / "none")
    asked = json.loads((tmp_path / "two" / "sweep.json").read_text())
    (tmp_path / "two" / "sweep.json").write_text(json.dumps({**asked, "code": "other"}))
    with pytest.raises(UsageError, match="different code"):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "again")


def test_results_of_other_code_or_scenario_are_not_mixed_in(tmp_path: Path) -> None:
    made(tmp_path, WANTED, Answering(passed))
    changed = people().model_copy(update={"about": "Others."})
    with pytest.raises(UsageError, match="another version of 'people'"):
        open_sweep(Store(tmp_path), replace(WANTED, scenarios=(changed,)))
    asked = json.loads((tmp_path / "sweep.json").read_text())
    (tmp_path / "sweep.json").write_text(json.dumps({**asked, "code": "old"}))
    with pytest.raises(UsageError, match="other code"):
        open_sweep(Store(tmp_path), WANTED)


def test_failures_leave_a_case_and_a_command(tmp_path: Path) -> None:
    store = made(tmp_path, replace(WANTED, seeds=2), Answering(broken))
    case = Case.read(store.case_path("people", 2))
    assert case.plan.seed == 2
    assert case.result is not None
    assert case.result.broken[0].invariant == "once"
    write_sweep(store, Verdict.BROKEN)
    suites = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert [suite.get("failures") for suite in suites] == ["2", "2"]
    failure = suites.find("testsuite/testcase/failure")
    assert failure is not None and failure.text is not None
    assert f"p2pe-sim replay {store.case_path('directory', 1)}" in failure.text
    assert len(summary_of(store.ordered(), Verdict.BROKEN)["failures"]) == 4  # type: ignore[arg-type]


def test_junit_holds_what_xml_cannot() -> None:
    odd = replace(passed(Plan("people", 1, 1.0, ())), verdict=Verdict.ERROR, problem="a\x00b < c & \ud800")
    error = ElementTree.fromstring(junit([odd]).encode()).find("testsuite/testcase/error")
    assert error is not None
    assert error.get("message") == "a?b < c & ?"


def test_a_case_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text, said in (("{", "x.json"), ('{"plan": {"version": 1}}', "version"), ('{"version": 1, "plan": 5}', "plan")):
        path.write_text(text)
        with pytest.raises(UsageError, match=said):
            Case.read(path)
