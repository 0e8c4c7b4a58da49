"""A sweep on a Dask cluster says what a sweep without one says, even when a worker dies in the middle of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from p2pe.errors import UsageError
from p2pe_sim.cluster import DaskEngine, dask_engine
from p2pe_sim.outputs import summary_of
from p2pe_sim.result import Result
from p2pe_sim.store import Store
from p2pe_sim.sweep import Wanted, open_sweep, sweep, verdict_of
from p2pe_sim.workers import Job, fork_server
from sim_kit import directory

distributed = pytest.importorskip("distributed", reason="needs the extra p2pe[sim]")
WANTED = Wanted((directory(),), seeds=12, repeat_every=6)


class Murderous:
    """Kills the process of one worker after the third result."""

    def __init__(self, engine: DaskEngine) -> None:
        self._engine = engine
        self.killed: int | None = None

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        for number, (job, result) in enumerate(self._engine.run(jobs)):
            if number == 3:
                self.killed = next(iter(self._engine.client.run(os.getpid).values()))
                os.kill(self.killed, signal.SIGKILL)
            yield job, result


def test_a_lost_worker_changes_nothing(tmp_path: Path) -> None:
    here = Store(tmp_path / "here")
    with fork_server(2) as server:
        sweep(server, here, open_sweep(here, WANTED))
    there = Store(tmp_path / "there")
    with dask_engine(None, 2) as engine:
        murderous = Murderous(engine)
        tally = sweep(murderous, there, open_sweep(there, WANTED))
    assert murderous.killed is not None
    assert tally.repeated == 2
    one, other = (summary_of(store.ordered(), verdict_of(store.ordered(), WANTED)) for store in (here, there))
    assert json.dumps(one) == json.dumps(other)
    assert one["verdict"] == "passed"


def test_a_scheduler_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pe_sim.cluster.CONNECT_SECONDS", 1)
    with pytest.raises(UsageError, match="no Dask scheduler answers at tcp://127"), dask_engine("tcp://127.0.0.1:1", 1):
        pass
