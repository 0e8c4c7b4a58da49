"""Sweeps over several machines, by Dask distributed (the extra `p2pe[sim]`): its scheduler hands out the runs, gives
those of a lost worker to another, and takes workers that come later. Nothing of that is ours.

Each worker keeps a fork server, so a run has the same fresh process, and the same digest, as without Dask.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from p2pe.errors import UsageError

from p2pe_sim.plan import Plan
from p2pe_sim.result import Result, Verdict
from p2pe_sim.store import code_version
from p2pe_sim.workers import SEED_LIMIT, ForkServer, Job

if TYPE_CHECKING:
    from distributed import Client

MISSING: Final = "Dask isn't installed here: pip install 'p2pe[sim]'"
ALLOWED_DEATHS: Final = 5  # workers that may die with one run in hand before the run is given up
CONNECT_SECONDS: Final = 30
_of_thread = threading.local()


@cache
def _our_code() -> str:
    return code_version()


def run_here(plan: str, events: bool, limit: float, code: str) -> str:
    """The task: runs on a worker. Raises RuntimeError when the worker has other code than the sweep."""
    if code != _our_code():
        raise RuntimeError(f"this worker has p2pe-sim of {_our_code()}, the sweep is of {code}")
    server = getattr(_of_thread, "server", None)
    if server is None:
        server = _of_thread.server = ForkServer(1, limit)
    job = Job(("", 0, 0), Plan.from_json(plan), events)
    _, result = next(iter(server.run([job])))
    return str(result.to_json())


class DaskEngine:
    """An engine of `sweep` on a Dask client."""

    def __init__(self, client: Client, limit: float = SEED_LIMIT) -> None:
        self.client = client
        self._limit = limit

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        from distributed import as_completed

        source = iter(jobs)
        under_way: dict[str, Job] = {}
        completed = as_completed()
        exhausted = False
        while True:
            while not exhausted and len(under_way) < 2 * max(1, sum(self.client.nthreads().values())):
                job = next(source, None)
                if job is None:
                    exhausted = True
                    break
                future = self.client.submit(
                    run_here, job.plan.to_json(), job.events, self._limit, _our_code(), pure=False
                )
                under_way[future.key] = job
                completed.add(future)
            if not under_way:
                return
            future = next(completed)
            job = under_way.pop(future.key)
            yield job, self._result(job, future)

    def _result(self, job: Job, future: Any) -> Result:
        if future.status == "finished":
            return Result.of(json.loads(future.result()))
        problem = f"the cluster gave this run up: {future.exception()!r}"
        return Result(job.plan.scenario, job.plan.seed, Verdict.ERROR, problem=problem)


@contextmanager
def dask_engine(scheduler: str | None, jobs: int, limit: float = SEED_LIMIT) -> Iterator[DaskEngine]:
    """On the cluster at `scheduler`, or on one made here of `jobs` workers. Raises UsageError."""
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UsageError(MISSING) from error
    settings = {
        "distributed.scheduler.allowed-failures": ALLOWED_DEATHS,
        "distributed.worker.daemon": False,  # a worker starts a fork server, which a daemon may not
        "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
    }
    with dask.config.set(settings):
        if scheduler is not None:
            try:
                client = Client(scheduler, timeout=CONNECT_SECONDS)
            except (OSError, ValueError) as error:
                raise UsageError(f"no Dask scheduler answers at {scheduler}: {error}") from error
            with client:
                yield DaskEngine(client, limit)
            return
        with (
            LocalCluster(
                n_workers=jobs or os.cpu_count() or 1,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield DaskEngine(client, limit)
