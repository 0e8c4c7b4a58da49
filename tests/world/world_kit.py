"""Small plans, and a pinned process that plays them: each in a fork of its own, with everything imported once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from p2pe_sim.natlab.nat import NatType
from p2pe_sim.plan import Checks, Fault, FaultKind, Friendship, Liveness, Message, Node, Plan, Role
from p2pe_sim.result import Result

_WORKER = """
import json, os, sys
import world_mutants
from p2pe_sim.plan import Plan
from p2pe_sim.runner import prepare, run
prepare()
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
        with world_mutants.applied(asked["mutant"]):
            result = run(Plan.of(asked["plan"]), keep_events=asked["keep_events"])
        print(result.to_json(), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(flush=True)
"""


@dataclass
class Worker:
    """A process with pinned hashes that runs plans, one at a time."""

    to: IO[str]
    back: IO[str]

    def run(self, plan: Plan, *, mutant: str = "", keep_events: bool = False) -> Result:
        asked = {"plan": plan.as_dict(), "mutant": mutant, "keep_events": keep_events}
        self.to.write(json.dumps(asked) + "\n")
        self.to.flush()
        answer = self.back.readline()
        assert answer, "the worker died"
        return Result.of(json.loads(answer))


@contextmanager
def worker() -> Iterator[Worker]:
    here = os.path.dirname(__file__)
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": here}
    process = subprocess.Popen(
        [sys.executable, "-c", _WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdin and process.stdout
    try:
        yield Worker(process.stdin, process.stdout)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


def two(
    seed: int = 1, *, messages: int = 8, duration: float = 60.0, faults: Sequence[Fault] = (), relay: str = "fallback"
) -> Plan:
    """Two people and a bootstrap node; they write to each other in turn, every three seconds from 2.0 on."""
    names = ("ada", "ben")
    return Plan(
        "two",
        seed,
        duration,
        (
            Node("hub", Role.BOOTSTRAP),
            Node("ada", starts_at=1.0, relay=relay),
            Node("ben", starts_at=1.5),
        ),
        (Friendship("ada", "ben"),),
        tuple(Message(f"m{n}", 2.0 + 3 * n, names[n % 2], names[1 - n % 2]) for n in range(messages)),
        tuple(faults),
        Checks(liveness=(Liveness("delivered", 30.0),), floors={"delivered": messages}),
    )


def rough(seed: int = 1, *, relay: str = "fallback", nat: NatType = NatType.NONE, reaches: bool = True) -> Plan:
    """Two people who write a lot while connections are reset, nodes killed, machines lose power and a disk is full.

    The second one comes late, so that messages wait for it. `seed` moves every moment a little.
    """
    shift = seed * 0.377 % 1.0
    names = ("ada", "ben")
    faults = [Fault(f"r{n}", FaultKind.RESET, 8.0 + 2.9 * n + shift, 8.0 + 2.9 * n + shift, ("ada",)) for n in range(6)]
    faults += [
        Fault("k1", FaultKind.CRASH, 28.0 + shift, 30.0 + shift, ("ben",)),
        Fault("p1", FaultKind.CRASH_NO_FLUSH, 35.03 + shift, 37.0 + shift, ("ben",)),
        Fault("p2", FaultKind.CRASH_NO_FLUSH, 42.01 + shift, 44.0 + shift, ("ada",)),
        Fault("d1", FaultKind.DISK_FULL, 50.0, 55.0, ("ada",)),
    ]
    return Plan(
        "rough",
        seed,
        100.0,
        (
            Node("hub", Role.BOOTSTRAP),
            Node("rim", Role.BOOTSTRAP),
            Node("ada", starts_at=1.0, relay=relay, nat=nat),
            Node("ben", starts_at=6.0, nat=nat),
        ),
        (Friendship("ada", "ben"),),
        tuple(Message(f"m{n}", 2.0 + 0.9 * n, names[n % 3 == 2], names[n % 3 != 2]) for n in range(60)),
        tuple(faults),
        Checks(liveness=(Liveness("delivered", 40.0),), floors={"delivered": 50 if reaches else 0}),
    )
