"""How a long command shows that it lives: a bar on a terminal, a line now and then elsewhere. Standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from p2pe_sim.junit import what_failed
from p2pe_sim.report.svg import duration
from p2pe_sim.result import Result, Verdict
from p2pe_sim.sweep import Tally, Watch

LINE_EVERY: Final = 10.0  # seconds between plain lines: enough for a CI log, not too much
_LISTED: Final = 20  # failures printed as they come


def figures(tally: Tally) -> str:
    """e.g. `3.1 seeds/s, 2 failures, x240, 4 min left`."""
    parts = [
        f"{tally.rate:.2f} seeds/s",
        f"{tally.failures} failure{'' if tally.failures == 1 else 's'}",
        f"x{tally.virtual_seconds / max(tally.elapsed, 1e-9):.0f}",
    ]
    if tally.left is not None:
        parts.append(f"{duration(tally.left)} left")
    return ", ".join(parts)


def _failure(result: Result) -> str:
    return f"{result.scenario} seed {result.seed}: {result.verdict.value}: {what_failed(result).splitlines()[-1][:160]}"


@contextmanager
def watching(*, quiet: bool = False) -> Iterator[Watch]:
    """Gives the function that `sweep` calls."""
    if quiet:
        yield lambda tally, result: None
    elif sys.stderr.isatty():
        with _bar() as watch:
            yield watch
    else:
        yield _lines()


def _lines() -> Watch:
    last = time.monotonic()

    def watch(tally: Tally, result: Result | None) -> None:
        nonlocal last
        if result is not None and result.verdict is not Verdict.PASSED and tally.failures <= _LISTED:
            print(_failure(result), file=sys.stderr, flush=True)
        if time.monotonic() - last >= LINE_EVERY or tally.finished == tally.total:
            last = time.monotonic()
            of = f" of {tally.total}" if tally.total is not None else ""
            print(f"{tally.finished}{of} runs, {figures(tally)}", file=sys.stderr, flush=True)

    return watch


@contextmanager
def _bar() -> Iterator[Watch]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=None)

        def watch(tally: Tally, result: Result | None) -> None:
            if result is not None and result.verdict is not Verdict.PASSED and tally.failures <= _LISTED:
                console.print(_failure(result), style="red", markup=False, highlight=False)
            progress.update(task, completed=tally.finished, total=tally.total, description=figures(tally))

        yield watch
