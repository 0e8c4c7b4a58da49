"""Makes a failing plan small: fewer faults, messages, nodes, and plainer ones, as long as the same invariant breaks.

Delta debugging (Zeller, Hildebrandt 2002), over one kind of part after the other, until nothing more can go. All
candidates of a round run at once; of those that still fail the first in order is taken, so the outcome doesn't
depend on how many run at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from p2pe_sim.natlab.nat import NatType
from p2pe_sim.plan import Behaviour, Checks, Plan, Role
from p2pe_sim.result import BOUNDS, Result, Verdict
from p2pe_sim.sweep import Engine
from p2pe_sim.workers import Job

T = TypeVar("T")
MAX_RUNS: Final = 2000
_TAIL: Final = 5.0  # seconds kept after the failure


def signature(result: Result) -> str | None:
    """What must stay the same while shrinking: the first broken invariant, or how the simulator failed."""
    if result.verdict is Verdict.BROKEN and result.broken:
        return result.broken[0].invariant
    if result.verdict is Verdict.ERROR:
        lines = result.problem.strip().splitlines()
        return lines[-1].split(":")[0] if lines else "error"
    return None


def unshrinkable(plan: Plan, result: Result) -> str | None:
    """Why there is nothing to shrink; None when there is."""
    wanted = signature(result)
    if wanted is None:
        return f"{plan.scenario} seed {plan.seed} is {result.verdict.value}"
    counts = result.counts
    if wanted == BOUNDS and not any(counts.get(name, 0.0) > bound for name, bound in plan.checks.at_most.items()):
        return f"{result.broken[0].detail}; any smaller world does less still"
    return None


@dataclass
class Shrinking:
    """One plan being shrunk. `plan` and `result` are the smallest so far."""

    engine: Engine
    plan: Plan
    result: Result
    watch: Callable[[Shrinking], None] = lambda state: None
    runs: int = 0
    _seen: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.wanted = signature(self.result)
        if reason := unshrinkable(self.plan, self.result):
            raise ValueError(f"nothing to shrink: {reason}")
        self.plan = _judged_by(self.plan, self.wanted)

    def shrink(self) -> None:
        """Until a whole turn changes nothing, or MAX_RUNS."""
        self._try([self.plan])  # with the floors off, and still failing: from here on `result` is of `plan`
        self._cut_time()
        while self.runs < MAX_RUNS:
            before = self.plan
            self._remove(lambda plan: plan.faults, lambda plan, kept: replace(plan, faults=kept))
            self._remove(lambda plan: plan.messages, lambda plan, kept: replace(plan, messages=kept))
            self._remove(lambda plan: plan.nodes, with_nodes)
            self._remove(lambda plan: plan.friendships, _with_friendships)
            self._cut_time()
            for candidate in _plainer(self.plan):
                self._try([candidate])
            if self.plan == before:
                return

    def _remove(self, parts_of: Callable[[Plan], tuple[T, ...]], make: Callable[[Plan, tuple[T, ...]], Plan]) -> None:
        """ddmin: first all, then halves, quarters ... single parts are left out."""
        pieces = 1
        while (parts := parts_of(self.plan)) and pieces <= len(parts) and self.runs < MAX_RUNS:
            chunks = list(_split(parts, pieces))
            kept = [tuple(part for part in parts if part not in chunk) for chunk in chunks]
            candidates = [make(self.plan, each) for each in kept]
            if self._try(candidates):
                pieces = max(1, pieces - 1)
            elif pieces == len(parts):
                return
            else:
                pieces = min(len(parts), pieces * 2)

    def _cut_time(self) -> None:
        """Ends the world soon after it breaks. Liveness can't be cut: its deadline is what makes it fail."""
        broken = self.result.broken
        if broken and broken[0].invariant not in {each.name for each in self.plan.checks.liveness}:
            ends = round(broken[0].at + _TAIL, 1)
            if ends < self.plan.duration:
                self._try([_until(self.plan, ends)])

    def _try(self, candidates: Sequence[Plan]) -> bool:
        """Takes the first of `candidates` that fails alike; False when none does."""
        sound = [each for each in candidates if _has_bootstrap(each) or not _has_bootstrap(self.plan)]
        fresh = [each for each in sound if each.to_json() not in self._seen]
        answers: dict[int, Result] = {}
        jobs = [Job((each.scenario, each.seed, number), each) for number, each in enumerate(fresh)]
        for job, result in self.engine.run(jobs):
            self.runs += 1
            answers[job.key[2]] = result
            self._seen[job.plan.to_json()] = signature(result) == self.wanted
            self.watch(self)
        for number, candidate in enumerate(fresh):
            if signature(answers[number]) == self.wanted:
                self.plan, self.result = candidate, answers[number]
                self.watch(self)
                return True
        return False


def _has_bootstrap(plan: Plan) -> bool:
    """An honest one. Without any, nobody finds anybody: every message stays undelivered, and that isn't the failure
    looked for."""
    return any(node.role is Role.BOOTSTRAP and node.behaviour is Behaviour.HONEST for node in plan.nodes)


def _judged_by(plan: Plan, wanted: str | None) -> Plan:
    """A small world does little and its faults may touch nothing: that isn't what we look for."""
    checks = plan.checks
    at_most = checks.at_most if wanted == BOUNDS else {}
    return replace(
        plan, checks=Checks(safety=checks.safety, liveness=checks.liveness, effects=False, at_least={}, at_most=at_most)
    )


def _split(parts: Sequence[T], pieces: int) -> Iterator[Sequence[T]]:
    for number in range(pieces):
        yield parts[len(parts) * number // pieces : len(parts) * (number + 1) // pieces]


def with_nodes(plan: Plan, kept: tuple[object, ...]) -> Plan:
    """The plan with these nodes alone: what names others goes too."""
    nodes = tuple(node for node in plan.nodes if node in kept)
    names = {node.name for node in nodes}
    targeted = (replace(fault, targets=tuple(name for name in fault.targets if name in names)) for fault in plan.faults)
    return replace(
        plan,
        nodes=nodes,
        friendships=tuple(each for each in plan.friendships if {each.one, each.other} <= names),
        messages=tuple(each for each in plan.messages if {each.sender, each.recipient} <= names),
        faults=tuple(fault for fault in targeted if fault.targets),
    )


def _with_friendships(plan: Plan, kept: tuple[object, ...]) -> Plan:
    friendships = tuple(each for each in plan.friendships if each in kept)
    pairs = {frozenset((each.one, each.other)) for each in friendships}
    messages = tuple(each for each in plan.messages if frozenset((each.sender, each.recipient)) in pairs)
    return replace(plan, friendships=friendships, messages=messages)


def _until(plan: Plan, ends: float) -> Plan:
    return replace(
        plan,
        duration=ends,
        messages=tuple(each for each in plan.messages if each.at < ends),
        faults=tuple(each for each in plan.faults if each.at < ends),
    )


def _plainer(plan: Plan) -> Iterator[Plan]:
    """One simplification each: plain links, right clocks, no NAT, one target a fault, short messages."""
    plain = [
        replace(node, latency=0.02, bandwidth=2_500_000.0, loss=0.0, clock_skew=0.0, starts_at=0.0)
        for node in plan.nodes
    ]
    yield replace(plan, nodes=tuple(plain))
    yield replace(plan, nodes=tuple(replace(node, nat=NatType.NONE) for node in plan.nodes))
    for number, node in enumerate(plan.nodes):
        if node.role is Role.PERSON and node.nat is not NatType.NONE:
            yield _with_item(plan, number, replace(node, nat=NatType.NONE))
    yield replace(plan, messages=tuple(replace(each, size=20) for each in plan.messages))
    for number, fault in enumerate(plan.faults):
        for name in fault.targets if len(fault.targets) > 1 else ():
            faults = list(plan.faults)
            faults[number] = replace(fault, targets=(name,))
            yield replace(plan, faults=tuple(faults))


def _with_item(plan: Plan, number: int, node: object) -> Plan:
    nodes = list(plan.nodes)
    nodes[number] = node  # type: ignore[call-overload]
    return replace(plan, nodes=tuple(nodes))


def size_of(plan: Plan) -> str:
    """e.g. `3 nodes, 1 fault, 2 messages, 42 s`."""
    parts = ((len(plan.nodes), "node"), (len(plan.faults), "fault"), (len(plan.messages), "message"))
    counted = ", ".join(f"{number} {word}{'' if number == 1 else 's'}" for number, word in parts)
    return f"{counted}, {plan.duration:g} s"
