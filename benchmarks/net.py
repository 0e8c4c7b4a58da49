"""`make bench-net`: paths, muxer, and what attackers cost, beside floors of the same run.

Prints tables and writes build/bench-net.json. docs/benchmarks-net.md says what each figure means, and what was found.
What needs network namespaces (punching, a change of network, attacks) is left out, with the reason, without them.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trio
from p2pe.logs import set_up_logging
from p2pe_sim.natlab.lab import LabUnavailable
from p2pe_sim.natlab.nat import NatType
from p2pe_sim.natlab.pairs import PairedHomes, stage, try_pair
from p2pe_sim.processes import Processes, eventually, pair, processes
from p2pe_sim.siege import Trial, besiege
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import paths, yamux
from benchmarks.floors import floors
from benchmarks.run import Figure

OUT = Path("build/bench-net.json")
STARTS = 3
PUNCHES = 3
STEPS = 12


def both_online(story: Processes) -> float:
    """Seconds from both nodes answering to the receipt of a message that waited: median of STARTS."""
    story.bootstrap()
    alice, bob = story.person("alice").start(), story.person("bob").start()
    pair(alice, bob)
    took = []
    for number in range(STARTS):
        bob.stop()
        with alice.client() as client:
            waiting = client.send("bob", f"waiting {number}")["id"]
        alice.stop()
        for person in (alice, bob):
            person.launch()
        for person in (alice, bob):
            person.ready()
        began = time.perf_counter()
        alice.wait_delivered(waiting)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def in_the_lab(folder: Path) -> list[Figure]:
    """Punching between two routers, and a change of network in mid-conversation."""
    homes = PairedHomes(folder)
    outcomes = [try_pair(homes, NatType.PORT, NatType.PORT, seed=seed, watch=10.0) for seed in range(PUNCHES)]
    punched = [each.straight_after for each in outcomes if each.straight_after is not None]
    figures = [Figure("punched connections, of tries", 100 * len(punched) / PUNCHES, "%", 95, True)]
    if punched:
        figures.append(Figure("relayed to punched (two port-restricted routers)", statistics.median(punched), "s", 1.5))
    with stage(homes, NatType.PORT, NatType.PORT) as scene:
        scene.start()
        scene.say("before")
        scene.until_heard("before")
        scene.until_straight(10.0)
        took = []
        for number in range(STARTS):
            scene.lab.renumber(scene.places[1], 77 + number)
            began = time.perf_counter()
            with scene.bob.client() as client:
                sent = client.send("alice", f"moved {number}")["id"]
            scene.bob.wait_delivered(sent)
            took.append(time.perf_counter() - began)
            eventually("a path", scene.path)
        figures.append(Figure("change of network to the next delivery", statistics.median(took), "s", 2.0))
    return figures


def of_paths(found: dict[str, float]) -> list[Figure]:
    return [
        Figure("connect, direct (median of 30)", found["connect_direct_ms"], "ms"),
        Figure("connect, through a relay (median of 30)", found["connect_relayed_ms"], "ms"),
        Figure("bulk, direct", found["bulk_direct_mib_s"], "MiB/s"),
        Figure("bulk, through a relay", found["bulk_relayed_mib_s"], "MiB/s"),
        Figure("bulk, the same through a plain TCP proxy", found["bulk_proxied_mib_s"], "MiB/s"),
        Figure("relayed bulk, of direct", found["relayed_of_direct_percent"], "%", 50, True),
        Figure("relayed bulk, of a plain TCP proxy's", found["relayed_of_proxy_percent"], "%"),
        Figure("both ends' bulk a CPU second, direct", found["ends_direct_mib_cpu_s"], "MiB"),
        Figure("both ends' bulk a CPU second, through a relay", found["ends_relayed_mib_cpu_s"], "MiB"),
        Figure("a relay's bulk a CPU second", found["relay_mib_cpu_s"], "MiB"),
        Figure("a dead link noticed", found["dead_link_s"], "s", 10),
    ]


def of_yamux(found: dict[str, Any], floor: float) -> list[Figure]:
    bulk, small = found["bulk_mib"], found["small_messages"]
    return [
        Figure("yamux bulk a CPU second", bulk["ours_per_cpu_second"], "MiB"),
        Figure("... of py-libp2p's yamux", bulk["ratio"][0], "x", 2, True),
        Figure("yamux 256 B messages a CPU second", small["ours_per_cpu_second"], ""),
        Figure("... of py-libp2p's yamux", small["ratio"][0], "x"),
        Figure("floor: trio TCP + ChaCha20-Poly1305 in 64 KiB frames", floor, "MiB/s"),
    ]


def measure(step: Callable[[str], None]) -> tuple[list[Figure], list[Trial], list[str]]:
    """Figures, attacks, and what was left out and why."""
    skipped: list[str] = []
    step("floors")
    floor = floors()
    step("yamux")
    figures = of_yamux(trio.run(yamux.compare), floor["trio_tcp_chacha20_mib_per_s"])
    step("paths")
    figures += of_paths(paths.measure())
    step("both online")
    with processes() as story:
        figures.append(Figure("both online to first delivery", both_online(story), "s", 0.5))
    step("punching, another network")
    try:
        with tempfile.TemporaryDirectory() as folder:
            figures += in_the_lab(Path(folder))
    except LabUnavailable as reason:
        skipped.append(f"punching and change of network: {reason}")
    try:
        trials = besiege(step=step)
    except LabUnavailable as reason:
        trials = []
        skipped.append(f"attacks: {reason}")
    return figures, trials, skipped


def tables(figures: list[Figure], trials: list[Trial]) -> list[Table]:
    measured = Table()
    for column in ("measure", "figure", "goal", ""):
        measured.add_column(column, justify="left" if column == "measure" else "right")
    for each in figures:
        goal = "" if each.goal is None else f"{'≥' if each.more_is_better else '≤'} {each.goal:,g} {each.unit}"
        measured.add_row(each.name, f"{each.value:,.4g} {each.unit}", goal, each.verdict)
    attacked = Table()
    for column in ("attack", "got through", "honest start to delivery", "bootstrap MiB", "person MiB"):
        attacked.add_column(column, justify="left" if column == "attack" else "right")
    for trial in trials:
        memory = [f"{before:.0f} → {peak:.0f}" for before, peak, _ in trial.memory.values()]
        attacked.add_row(trial.attack, "; ".join(f"{n:,}" for n in trial.effect), f"{trial.seconds:.1f} s", *memory)
    return [measured, attacked]


def main() -> int:
    """Always exit status 0 once measured: a benchmark tells, it doesn't judge."""
    set_up_logging("warning", json_lines=False)
    console = Console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("measuring", total=STEPS)

        def step(what: str) -> None:
            progress.update(task, advance=1, description=what)
            if not console.is_terminal:
                print(f"measuring: {what}", flush=True)

        figures, trials, skipped = measure(step)
    for table in tables(figures, trials):
        if table.row_count:
            console.print(table)
    for each in skipped:
        console.print(f"left out: {each}")
    OUT.parent.mkdir(exist_ok=True)
    written = {
        "figures": [{**asdict(each), "verdict": each.verdict} for each in figures],
        "attacks": [asdict(trial) for trial in trials],
        "left_out": skipped,
    }
    OUT.write_text(json.dumps(written, indent=1) + "\n")
    print(f"written to {OUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
