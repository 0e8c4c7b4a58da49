"""The fork server seen from outside: plans in, results out as they end, several at once, on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from p2pe_sim.plan import Plan
from p2pe_sim.result import Result, Verdict

SEED_LIMIT: Final = 600.0  # real seconds for one run: three hundred nodes take minutes, an endless loop for ever
TRIES: Final = 3  # how often a job is given to a new server when the old one died with it


@dataclass(frozen=True, slots=True)
class Job:
    """One plan to run. `key` is the caller's, and comes back with the result."""

    key: tuple[str, int, int]  # scenario, seed, and which repetition
    plan: Plan
    events: bool = False


def environment() -> dict[str, str]:
    """What a process that runs worlds must have: the order of sets is part of what happens."""
    return {**os.environ, "PYTHONHASHSEED": "0"}


class ForkServer:
    """One server process. Not for several threads at once."""

    def __init__(self, jobs: int, limit: float = SEED_LIMIT) -> None:
        self.jobs = jobs
        self._limit = limit
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """Results in the order in which they end. `jobs` is drawn from only as fast as it is worked off."""
        source = iter(jobs)
        under_way: dict[int, Job] = {}
        tries: dict[int, int] = {}
        number = 0
        exhausted = False
        while True:
            while not exhausted and len(under_way) < 2 * self.jobs:
                job = next(source, None)
                if job is None:
                    exhausted = True
                    break
                number += 1
                under_way[number] = job
                tries[number] = 0
                self._send(number, job)
            if not under_way:
                return
            answer = self._receive()
            if answer is None:  # the server died: with memory short, the kernel may have taken it
                self.close()
                for lost, job in list(under_way.items()):
                    tries[lost] += 1
                    if tries[lost] >= TRIES:
                        del under_way[lost]
                        problem = f"the fork server died {TRIES} times with this run under way"
                        yield job, Result(job.plan.scenario, job.plan.seed, Verdict.ERROR, problem=problem)
                    else:
                        self._send(lost, job)
                continue
            job = under_way.pop(answer["id"])
            yield job, Result.of(answer["result"])

    def start(self) -> subprocess.Popen[bytes]:
        """The process; begun if it isn't there. `run` does it by itself."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "p2pe_sim.forkserver", str(self.jobs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment(),
            )
        return self._process

    def _send(self, number: int, job: Job) -> None:
        process = self.start()
        assert process.stdin is not None
        line = {"id": number, "plan": job.plan.as_dict(), "events": job.events, "limit": self._limit}
        try:
            process.stdin.write(json.dumps(line).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; reading will say so

    def _receive(self) -> dict[str, Any] | None:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.close()
            except BrokenPipeError:
                pass
            process.stdout.close()
            process.wait()


@contextmanager
def fork_server(jobs: int, limit: float = SEED_LIMIT) -> Iterator[ForkServer]:
    """Ends the server, and whatever it runs, on the way out."""
    server = ForkServer(jobs, limit)
    try:
        yield server
    finally:
        server.close()


def run_one(plan: Plan, *, events: bool = False, limit: float = SEED_LIMIT) -> Result:
    """One plan in a fresh process."""
    with fork_server(1, limit) as server:
        return next(result for _, result in server.run([Job((plan.scenario, plan.seed, 0), plan, events)]))
