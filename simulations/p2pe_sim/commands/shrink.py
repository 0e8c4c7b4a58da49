"""`p2pe-sim shrink`: the smallest plan that still fails alike."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from p2pe.errors import UsageError

from p2pe_sim.commands.options import JobsOption, LimitOption, case_of
from p2pe_sim.outputs import told
from p2pe_sim.result import SimExit
from p2pe_sim.shrink import Shrinking, signature, size_of, unshrinkable
from p2pe_sim.store import Case
from p2pe_sim.workers import SEED_LIMIT, Job, fork_server


def shrink(
    target: Annotated[str, typer.Argument(metavar="FILE|SCENARIO", help="A case or plan (.json), or a scenario.")],
    seed: Annotated[int | None, typer.Option("--seed", help="With a scenario: which world.", min=0)] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the small case goes.")] = Path("build/shrunk.json"),
    jobs: JobsOption = 0,
    seed_limit: LimitOption = SEED_LIMIT,
) -> None:
    """Find the smallest plan that still fails alike.

    Faults, messages and nodes are left out, and the rest made plainer, as long as the same invariant breaks.

    The outcome is a case: `p2pe-sim replay` runs it, and in simulations/corpus/ it is run by every test.

    Example:  p2pe-sim shrink home-users --seed 17 --out simulations/corpus/lost-receipt.json
    """
    case = case_of(target, seed)
    with fork_server(jobs or os.cpu_count() or 1, seed_limit) as server:
        result = next(result for _, result in server.run([Job(("", 0, 0), case.plan)]))
        if reason := unshrinkable(case.plan, result):
            raise UsageError(f"nothing to shrink: {reason}")
        print(f"{signature(result)}, with {size_of(case.plan)}", file=sys.stderr)
        shown = [size_of(case.plan)]

        def watch(state: Shrinking) -> None:
            if (size := size_of(state.plan)) != shown[-1]:
                shown.append(size)
                print(f"  {size} ({state.runs} runs)", file=sys.stderr, flush=True)

        state = Shrinking(server, case.plan, result, watch)
        state.shrink()
        final = next(result for _, result in server.run([Job(("", 0, 0), state.plan, events=True)]))
    small = Case(state.plan, case.note, final)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(small.to_json())
    print(f"{size_of(state.plan)}, after {state.runs} runs: {out}")
    print("\n".join(told(final, f"p2pe-sim replay {out}")))
    if signature(final) != signature(result):
        raise typer.Exit(SimExit.NONDETERMINISTIC)


COMMANDS = {"shrink": shrink}
