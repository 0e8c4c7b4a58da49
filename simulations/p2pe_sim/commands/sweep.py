"""`p2pe-sim sweep` and `merge`: many seeds, on this machine or many."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from p2pe.errors import UsageError

from p2pe_sim.commands.options import JobsOption, JsonOption, LimitOption, scenarios_of
from p2pe_sim.outputs import replay_of, summary_of, write_sweep
from p2pe_sim.progress import figures, watching
from p2pe_sim.result import EXIT_OF, Result, Verdict
from p2pe_sim.scenario import seconds_of
from p2pe_sim.store import Store
from p2pe_sim.store import merge as merge_folders
from p2pe_sim.sweep import REPEAT_EVERY, Engine, Wanted, exit_code_of, open_sweep, verdict_of
from p2pe_sim.sweep import sweep as sweep_seeds
from p2pe_sim.workers import SEED_LIMIT, fork_server

DEFAULT_OUT = Path("build/sweep")
_RANDOM = "random"
_MOST = 2**40  # random first seeds lie below: few enough digits to type


def sweep(
    scenarios: Annotated[
        list[str], typer.Argument(metavar="SCENARIO...", help="Shipped scenarios, .toml files, or `all` (of tier 1).")
    ],
    seeds: Annotated[int | None, typer.Option("--seeds", "-n", help="How many worlds of each scenario.", min=1)] = None,
    first: Annotated[str, typer.Option("--first", help="The first seed, or `random` for worlds nobody saw yet.")] = "1",
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Start no run after this time, e.g. 2h. Without --seeds: fill this time."),
    ] = None,
    jobs: JobsOption = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Results folder; one with results goes on.")] = Path(
        "build/sweep"
    ),
    shard: Annotated[str, typer.Option("--shard", help="I/N: this machine's share, e.g. 2/4; then `merge`.")] = "1/1",
    dask: Annotated[bool, typer.Option("--dask", help="Spread over a Dask cluster made on this machine.")] = False,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", help="Spread over the Dask cluster at ADDRESS, e.g. tcp://10.0.0.5:8786."),
    ] = None,
    repeat_every: Annotated[
        int, typer.Option("--check-determinism", help="Make every Nth run twice (exit 3); 0: none.", min=0)
    ] = REPEAT_EVERY,
    stop_after: Annotated[int | None, typer.Option("--stop-after", help="Stop after so many failures.", min=1)] = None,
    seed_limit: LimitOption = SEED_LIMIT,
    as_json: JsonOption = False,
) -> None:
    """Run many seeds of one or several scenarios.

    The results folder gets result.json, junit.xml and report.html.

    What is in the results folder already isn't run again: a sweep that was stopped goes on with the same command.
    Without --seeds it goes on until --budget is spent; with both, exit 5 says that not all seeds were reached.

    Example:  p2pe-sim sweep home-users mobile-flapping --seeds 200 --jobs 4
    """
    if seeds is None and budget is None:
        raise UsageError("how many? give --seeds N, or --budget TIME")
    if first != _RANDOM and not first.isdecimal():
        raise UsageError(f"--first {first!r} is neither a number nor `random`")
    wanted = Wanted(
        scenarios_of(scenarios),
        seeds,
        random.SystemRandom().randrange(_MOST) if first == _RANDOM else int(first),
        _shard(shard),
        _budget(budget),
        repeat_every,
        stop_after,
    )
    store = Store(out)
    before = store.asked()
    if before is not None and first != _RANDOM and before.first != wanted.first:
        raise UsageError(f"{out} has results from seed {before.first} on, not {first}: take another folder")
    wanted = open_sweep(store, wanted)
    ours = {(scenario.name, seed) for scenario, seed, _ in wanted.runs()} if seeds is not None else None

    def results_of_ours() -> list[Result]:
        return [result for result in store.ordered() if ours is None or (result.scenario, result.seed) in ours]

    engine_of = partial(_engine, jobs or os.cpu_count() or 1, dask, scheduler, seed_limit)
    try:
        with _sigterm_like_ctrl_c(), engine_of() as engine, watching(quiet=as_json) as watch:
            tally = sweep_seeds(engine, store, wanted, watch)
    except KeyboardInterrupt:
        results = results_of_ours()
        write_sweep(store, verdict_of(results, wanted))
        print(f"p2pe-sim: stopped with {len(results)} runs in {out}; the same command goes on", file=sys.stderr)
        raise
    results = results_of_ours()
    verdict = verdict_of(results, wanted)
    write_sweep(store, verdict)
    if as_json:
        print(json.dumps(summary_of(results, verdict)))
    else:
        _tell(store, verdict, f"{tally.finished} runs from seed {wanted.first}, {figures(tally)}")
    raise typer.Exit(exit_code_of(results, wanted))


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """CI systems that run out of time or patience send SIGTERM: what is there by then is worth a report too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Results folders of one sweep's shards.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for what they say together.")],
    as_json: JsonOption = False,
) -> None:
    """Unite the results of a sweep's shards. A seed that two of them have must have one digest (exit 3).

    Example:  p2pe-sim merge shard-1 shard-2 --out all
    """
    results = merge_folders(folders, out)
    verdict = verdict_of(results)
    store = Store(out)
    write_sweep(store, verdict)
    if as_json:
        print(json.dumps(summary_of(results, verdict)))
    else:
        _tell(store, verdict, f"{len(results)} runs of {len(folders)} folders")
    raise typer.Exit(EXIT_OF[verdict])


def _tell(store: Store, verdict: Verdict, what: str) -> None:
    print(f"{verdict.value}: {what}")
    bad = [result for result in store.ordered() if result.verdict is not Verdict.PASSED]
    for result in bad[:10]:
        print(f"  {result.verdict.value}: {replay_of(store, result)}")
    if len(bad) > 10:
        print(f"  and {len(bad) - 10} more in {store.folder / 'result.json'}")
    print(f"  report: {store.folder / 'report.html'}")


def _engine(jobs: int, dask: bool, scheduler: str | None, limit: float) -> AbstractContextManager[Engine]:
    if dask or scheduler is not None:
        from p2pe_sim.cluster import dask_engine

        return dask_engine(scheduler, jobs, limit)
    return fork_server(jobs, limit)


def _shard(text: str) -> tuple[int, int]:
    share, slash, of = text.partition("/")
    if not (slash and share.isdecimal() and of.isdecimal() and 1 <= int(share) <= int(of)):
        raise UsageError(f"--shard {text!r} isn't I/N with I from 1 to N")
    return int(share), int(of)


def _budget(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(seconds_of(text))  # type: ignore[arg-type]
    except ValueError:
        try:
            seconds = float(text)
        except ValueError as error:
            raise UsageError(f"--budget {text!r} isn't a time: write 90s, 10m or 2h") from error
    if not 0 <= seconds < math.inf:
        raise UsageError(f"--budget {text!r} isn't a time that one could spend")
    return seconds


COMMANDS = {"sweep": sweep, "merge": merge}
