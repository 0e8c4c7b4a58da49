"""`make natlab`: every router type with every other, several times; a matrix, and build/natlab.json."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from dataclasses import asdict
from itertools import combinations_with_replacement
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from p2pe_sim.natlab.lab import LabUnavailable, require_lab
from p2pe_sim.natlab.nat import NATS, NatType, punchable
from p2pe_sim.natlab.pairs import STRAIGHT, Outcome, PairedHomes, try_pair

REPEATS = 3
WATCH_PUNCHABLE = 20.0  # seconds after the first connection
WATCH_OTHERS = 4.0
GOAL_DIRECT = 0.95
GOAL_MEDIAN = 1.5  # seconds after the relayed connection
OUT = Path("build/natlab.json")


def cell(outcomes: list[Outcome]) -> str:
    """e.g. `3/3 punched 0.8 s`, `3/3 relayed`, `LOST 1`."""
    lost = sum(not each.delivered for each in outcomes)
    if lost:
        return f"LOST {lost}"
    straight = [each for each in outcomes if each.path in STRAIGHT]
    if not straight:
        return f"{len(outcomes)}/{len(outcomes)} relayed"
    waits = [each.straight_after for each in straight if each.straight_after is not None]
    after = f" {statistics.median(waits):.1f} s" if waits else ""  # none: it never was on a relay
    return f"{len(straight)}/{len(outcomes)} {straight[0].path}{after}"


def main() -> int:
    """Exit status 0 when every pair delivered and the punchable ones went direct often enough."""
    console = Console()
    try:
        require_lab()
    except LabUnavailable as reason:
        console.print(f"no NAT laboratory here: {reason}")
        return 2
    pairs = list(combinations_with_replacement(NATS, 2))
    results: dict[tuple[NatType, NatType], list[Outcome]] = {pair: [] for pair in pairs}
    with tempfile.TemporaryDirectory() as folder:
        homes = PairedHomes(Path(folder))
        runs = [(pair, seed) for seed in range(1, REPEATS + 1) for pair in pairs]
        for (one, other), seed in track(runs, "pairs", console=console, disable=not console.is_terminal):
            watch = WATCH_PUNCHABLE if punchable(one, other) else WATCH_OTHERS
            outcome = try_pair(homes, one, other, seed=seed, watch=watch)
            results[one, other].append(outcome)
            if not console.is_terminal:
                print(f"{one} / {other}: {cell([outcome])}", flush=True)
    table = Table("", *[kind.value for kind in NATS])
    for one in NATS:
        table.add_row(one.value, *(cell(results.get((one, other)) or results[other, one]) for other in NATS))
    console.print(table)
    everything = [outcome for outcomes in results.values() for outcome in outcomes]
    possible = [each for each in everything if punchable(each.one, each.other)]
    direct = [each for each in possible if each.path in STRAIGHT]
    lost = sum(not each.delivered for each in everything)
    median = statistics.median([each.straight_after for each in direct if each.straight_after is not None] or [0.0])
    share = len(direct) / len(possible)
    console.print(f"{len(everything)} runs, {lost} without delivery; {share:.0%} of the possible ones direct,")
    console.print(f"median {median:.2f} s after the relayed connection")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps([asdict(each) for each in everything], indent=1) + "\n")
    return 0 if not lost and share >= GOAL_DIRECT and median <= GOAL_MEDIAN else 1


if __name__ == "__main__":
    sys.exit(main())
