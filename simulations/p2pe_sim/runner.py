"""Runs one plan of tier 1 in this process, and says what came of it.

For equal digests the process must be a fresh one, or the fork of one that has imported everything and run nothing:
forkserver.py does that.
"""

from __future__ import annotations

import gc
import time
import traceback
from typing import Final

import trio

from p2pe_sim.plan import Behaviour, Plan
from p2pe_sim.result import Result, Verdict
from p2pe_sim.world import person
from p2pe_sim.world.clock import jumping_clock
from p2pe_sim.world.determinism import require_pinned_hashes, seeded
from p2pe_sim.world.encapsulation import seeded_encapsulation
from p2pe_sim.world.guard import guarded
from p2pe_sim.world.log import EventLog
from p2pe_sim.world.stage import Stage

_GC: Final = (100_000, 20, 50)  # a run makes little cyclic garbage: the default thresholds cost 7 % of its time
_MAX_PROBLEM: Final = 8_000  # characters of a traceback


def prepare() -> None:
    """What every run needs, made before the first fork. The thresholds stay: put back, they would have the first
    object made after a run go through all that the run has left."""
    person.prepare()
    gc.set_threshold(*_GC)


def run(plan: Plan, *, keep_events: bool = False, trace: list[str] | None = None) -> Result:
    """Raises NotPinned when this process was started without PYTHONHASHSEED=0; everything else is in the result.

    `trace` takes every line that the digest is made of.
    """
    require_pinned_hashes()
    prepare()
    began = time.perf_counter()
    log = EventLog(keep=keep_events)
    log.trace = trace
    problem = ""
    stage: Stage | None = None
    clock = jumping_clock()
    escapes: list[str] = []
    try:
        stage = Stage(plan, log)
        with seeded(stage.randomness), seeded_encapsulation(), stage.watch.tapped(), guarded() as escapes:
            trio.run(stage.run, clock=clock)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - whatever it is, the sweep goes on and the report shows it
        problem = traceback.format_exc()[-_MAX_PROBLEM:]
    if escapes:
        problem = f"{escapes[0]}\n{problem}".strip()
    real = time.perf_counter() - began
    if stage is None or problem:
        return Result(plan.scenario, plan.seed, Verdict.ERROR, problem=problem, real_seconds=real)
    return _result(stage, real)


def _result(stage: Stage, real: float) -> Result:
    plan, watch = stage.plan, stage.watch
    counts = _counts(stage)
    vacuous = _vacuous(stage, counts)
    broken = tuple(stage.findings.broken)
    verdict = Verdict.BROKEN if broken else Verdict.VACUOUS if vacuous else Verdict.PASSED
    delivery = tuple(
        (each.accepted_at, round(each.delivered_at - each.accepted_at, 6))
        for each in stage.ledger.sent.values()
        if each.accepted_at is not None and each.delivered_at is not None
    )
    return Result(
        scenario=plan.scenario,
        seed=plan.seed,
        verdict=verdict,
        digest=stage.log.digest(),
        broken=broken,
        problem="" if broken else vacuous,
        virtual_seconds=stage.ended_at,
        real_seconds=real,
        counts=counts,
        effects=dict(stage.faults.effects),
        series={**{name: tuple(points) for name, points in watch.series.items()}, "delivery": delivery},
        events=tuple(stage.log.events),
    )


def _counts(stage: Stage) -> dict[str, float]:
    sent = stage.ledger.sent.values()
    effects = stage.internet.effects
    return {
        **stage.watch.counts,
        "sent": sum(each.accepted_at is not None for each in sent),
        "received": sum(each.received_at is not None for each in sent),
        "delivered": sum(each.delivered_at is not None for each in sent),
        "connections": effects.connections,
        "punched": effects.punched,
        "attempts_dropped": effects.attempts_dropped,
        "attempts_filtered": effects.attempts_filtered,
        "attempts_refused": effects.attempts_refused,
        "bytes_stalled": effects.bytes_stalled,
        "bytes_vanished": effects.bytes_vanished,
        "resets": effects.resets,
        "retransmissions": effects.retransmissions,
        "bytes": stage.watch.secrecy.bytes_scanned,
        "records_opened": stage.watch.secrecy.records_opened,
        "writes_lost": sum(each.disk.effects.writes_lost for each in stage.people.values()),
        "writes_torn": sum(each.disk.effects.writes_torn for each in stage.people.values()),
        "syncs": sum(each.disk.effects.syncs for each in stage.people.values()),
    }


def _vacuous(stage: Stage, counts: dict[str, float]) -> str:
    """Why this run tested nothing; empty when it did. A fault that fell on nodes that were down is no reason."""
    plan, effects = stage.plan, stage.faults.effects
    for name, floor in plan.checks.floors.items():
        if counts.get(name, 0) < floor:
            return f"{name} is {counts.get(name, 0):g}; the scenario asks for {floor:g} at least"
    hostile = [node.name for node in plan.nodes if node.behaviour is not Behaviour.HONEST]
    if hostile and plan.checks.effects and not counts.get("misdeeds"):
        return f"none of {', '.join(hostile)} was used by anybody"
    if plan.checks.effects:
        for fault in plan.faults:
            if not effects.get(fault.id) and not stage.met_nobody(fault):
                return f"fault {fault.id} ({fault.kind} of {', '.join(fault.targets)}) had no effect"
    return ""
