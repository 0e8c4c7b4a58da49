"""`p2pe-sim dht`: the overlay's directory at full size, under churn and under Sybils, with goals that it is held to."""

from __future__ import annotations

import gc
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from p2pe.errors import UsageError
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from p2pe_sim.dht.plot import write_plot
from p2pe_sim.dht.scenario import PLACEMENTS, churning_world, under_sybils
from p2pe_sim.result import SimExit

LEAST_FOUND: Final = 0.999  # of the lookups under churn
MOST_ROUNDS: Final = 4  # median
_LEAST_NODES: Final = 50  # fewer have no deep buckets, and each would store everything

Shown = Callable[[str, float], None]


@contextmanager
def _without_collector() -> Iterator[None]:
    """Millions of objects live to the end and hardly any are in cycles: looking for those took a tenth of the time.
    Neither are they looked through when the process ends, which follows."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def dht(
    nodes: Annotated[int, typer.Option(help="Honest servers.", min=_LEAST_NODES)] = 1_000,
    hours: Annotated[float, typer.Option(help="Virtual hours of churn.", min=0.1)] = 1.0,
    churn: Annotated[float, typer.Option(help="Share of the servers replaced in an hour.", min=0.0)] = 0.3,
    records: Annotated[int, typer.Option(help="Records kept published.", min=1)] = 1_000,
    lookups: Annotated[int, typer.Option(help="Lookups of them during that time.", min=1)] = 2_000,
    sybils: Annotated[float, typer.Option(help="Share of hostile servers afterwards; 0: none.", min=0, max=0.9)] = 0.2,
    victims: Annotated[int, typer.Option(help="Records under attack.", min=1)] = 60,
    seed: Annotated[int, typer.Option(help="Same seed, same run.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder for dht.json and dht.html.")] = Path("build"),
    as_json: Annotated[bool, typer.Option("--json", help="Print dht.json's content instead of tables.")] = False,
) -> None:
    """Try the directory with thousands of servers.

    The node's own Kademlia core under churn, then under an attack by Sybils.

    Fails (exit code 1) when less than 99.9 % of the records are found under churn, or half of the lookups take more
    than 4 rounds. Example:  p2pe-sim dht --nodes 10000 --hours 1
    """
    if not math.isfinite(hours + churn + sybils):
        raise UsageError("--hours, --churn and --sybils take numbers that end")
    began = time.process_time()
    with _without_collector(), progress_shown() as show:
        world, churned = churning_world(
            nodes=nodes, hours=hours, churn_per_hour=churn, records=records, lookups=lookups, seed=seed, progress=show
        )
        attacked: list[dict[str, Any]] = []
        for placement in PLACEMENTS if sybils else ():
            attacked += under_sybils(world, share=sybils, placement=placement, victims=victims, progress=show)
    verdict, problem = judge(churned)
    result = {
        "seed": seed,
        "verdict": verdict.name.lower(),
        "problem": problem,
        "cpu_seconds": round(time.process_time() - began, 1),
        "churn": churned,
        "sybils": attacked,
    }
    written = write_results(result, output)
    if as_json:
        print(json.dumps(result))
    else:
        print_tables(result, Console(highlight=False))
        print(f"\nWritten: {', '.join(map(str, written))}")
    if problem:
        print(f"p2pe-sim: {problem}", file=sys.stderr)
    raise typer.Exit(verdict)


def judge(churned: dict[str, Any]) -> tuple[SimExit, str]:
    """The exit code, and in words what is wrong."""
    if not churned["lookups"] or (churned["churn_per_hour"] and not churned["replaced"]):
        return SimExit.VACUOUS, "nothing was looked up, or nobody left: nothing was tested"
    if churned["share_found"] < LEAST_FOUND:
        return SimExit.BROKEN, f"{churned['share_found']:.2%} of the records found; the goal is {LEAST_FOUND:.1%}"
    if churned["median_rounds"] > MOST_ROUNDS:
        return (
            SimExit.BROKEN,
            f"half of the lookups took {churned['median_rounds']:g} rounds or more; goal {MOST_ROUNDS}",
        )
    return SimExit.PASSED, ""


def write_results(result: dict[str, Any], folder: Path) -> list[Path]:
    """`dht.json`, and `dht.html` where plotly is installed. Raises UsageError when the folder can't be used."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dht.json").write_text(json.dumps(result, indent=1) + "\n")
        written = [folder / "dht.json"]
        if write_plot(result, folder / "dht.html"):
            written.append(folder / "dht.html")
    except OSError as error:
        raise UsageError(
            f"can't write results to {folder}: {error.strerror or error}; choose another --output"
        ) from None
    return written


def print_tables(result: dict[str, Any], console: Console) -> None:
    churned = result["churn"]
    table = Table(
        title=f"{churned['nodes']:,} servers, {churned['hours']:g} h, {churned['churn_per_hour']:.0%} replaced an hour"
    )
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("goal", justify="right")
    for row in (
        ("records found", f"{churned['found']:,} of {churned['lookups']:,} ({churned['share_found']:.2%})", "≥ 99.9 %"),
        ("median rounds", f"{churned['median_rounds']:g}", "≤ 4"),
        ("median requests a lookup", f"{churned['median_requests']:g}", ""),
        ("seconds: median, p95, longest", "{median_seconds}, {p95_seconds}, {longest_seconds}".format(**churned), ""),
        ("servers replaced", f"{churned['replaced']:,}", ""),
        ("dead in tables", f"{churned['dead_in_tables']:.1%}", ""),
        ("server's traffic an hour", f"{churned['median_server_bytes_per_hour'] / 1e6:.1f} MB", ""),
        ("CPU", f"{result['cpu_seconds']} s for all, {churned['cpu_seconds']} s for this", ""),
    ):  # fmt: skip
        table.add_row(*row)
    console.print(table)
    if not result["sybils"]:
        return
    hostile = result["sybils"][0]
    table = Table(title=f"{hostile['sybils']:,} Sybils among {hostile['servers']:,} servers: records found")
    for name in ("placed", "over disjoint paths", "over one path"):
        table.add_column(name, justify="left" if name == "placed" else "right")
    by_placement: dict[str, list[str]] = {}
    for row_of in result["sybils"]:
        by_placement.setdefault(row_of["placement"], []).append(f"{row_of['share_found']:.1%}")
    for placement, shares in by_placement.items():
        table.add_row(placement, *shares)
    console.print(table)


@contextmanager
def progress_shown() -> Iterator[Shown]:
    """A bar on a terminal; elsewhere one line for each part of the work. On standard error, either way."""
    if sys.stderr.isatty():
        with Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
            console=Console(stderr=True),
        ) as bars:  # fmt: skip
            tasks: dict[str, Any] = {}

            def show_bar(what: str, done: float) -> None:
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=1.0)
                bars.update(tasks[what], completed=done)

            yield show_bar
        return
    told: set[str] = set()

    def show_line(what: str, done: float) -> None:
        if done >= 1.0 and what not in told:
            told.add(what)
            print(f"{what}: done", file=sys.stderr, flush=True)

    yield show_line


COMMANDS: Final = {"dht": dht}
