"""The fork server: real runs of tier 0 in processes of their own; one that dies or hangs takes nothing else along."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

from p2pe_sim.execute import execute
from p2pe_sim.plan import Checks, Plan
from p2pe_sim.planning import plan_of
from p2pe_sim.result import Verdict
from p2pe_sim.workers import Job, fork_server
from sim_kit import directory


def jobs(count: int) -> list[Job]:
    return [Job(("directory", seed, 0), plan_of(directory(), seed)) for seed in range(1, count + 1)]


def endless() -> Plan:
    return replace(plan_of(directory(), 1), params={**plan_of(directory(), 1).params, "nodes": 20_000.0})


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def a_child_of(pid: int) -> int:
    while not (found := children_of(pid)):
        time.sleep(0.01)
    return found[0]


def test_equal_digests_whatever_runs_beside() -> None:
    digests = []
    for at_once in (1, 3):
        with fork_server(at_once) as server:
            digests.append({job.key: result.digest for job, result in server.run(jobs(4))})
    assert digests[0] == digests[1]
    assert len(set(digests[0].values())) == 4
    here = execute(plan_of(directory(), 2))
    assert here.verdict is Verdict.PASSED
    assert here.digest == digests[0]["directory", 2, 0]


def test_a_run_that_never_ends_is_ended() -> None:
    with fork_server(2, limit=1.0) as server:
        ((_, result),) = server.run([Job(("", 99, 0), endless())])
        assert server.pid is not None
        assert children_of(server.pid) == []
    assert result.verdict is Verdict.ERROR
    assert "still running after 1 real seconds" in result.problem


def test_a_run_whose_process_dies_is_an_error_and_the_next_one_runs() -> None:
    with fork_server(1) as server:
        running = server.run([Job(("", 99, 0), endless()), *jobs(1)])
        server.start()
        assert server.pid is not None
        answers = {}
        pid = server.pid
        killer = threading.Thread(target=lambda: os.kill(a_child_of(pid), signal.SIGKILL))
        killer.start()
        for job, result in running:
            answers[job.key[1]] = result
        killer.join()
    assert answers[99].verdict is Verdict.ERROR
    assert "-9" in answers[99].problem
    assert answers[1].verdict is Verdict.PASSED


def test_runs_of_a_server_that_died_are_made_again() -> None:
    with fork_server(2) as server:
        expected = {job.key: result.digest for job, result in server.run(jobs(6))}
    with fork_server(2) as server:
        answers = {}
        for job, result in server.run(jobs(6)):
            answers[job.key] = result.digest
            if len(answers) == 2:
                assert server.pid is not None
                os.kill(server.pid, signal.SIGKILL)
    assert answers == expected


def test_bounds_and_floors_judge_a_run() -> None:
    plan = plan_of(directory(), 1)
    assert execute(replace(plan, checks=Checks(floors={"lookups": 31}))).verdict is Verdict.VACUOUS
    missed = execute(replace(plan, checks=Checks(at_least={"share_found": 1.5}, floors={"lookups": 31})))
    assert missed.verdict is Verdict.BROKEN
    assert "at least 1.5" in missed.broken[0].detail
    assert execute(replace(plan, checks=Checks(at_most={"lookups": 5}))).verdict is Verdict.BROKEN


def test_what_the_simulator_does_wrong_is_an_error_with_its_traceback() -> None:
    result = execute(replace(plan_of(directory(), 1), params={}))
    assert result.verdict is Verdict.ERROR
    assert "KeyError: 'nodes'" in result.problem
