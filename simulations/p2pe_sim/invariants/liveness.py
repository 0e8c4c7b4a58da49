"""Liveness: while nothing disturbs, what was promised comes about in time.

Time counts only while it is calm for both people: both nodes up, and no fault holding anywhere. A message that stayed
undelivered for longer than `within` of one calm stretch is a finding; a disturbance begins the count anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from p2pe_sim.invariants.findings import Findings
from p2pe_sim.invariants.messages import Sent
from p2pe_sim.plan import INSTANT, Fault, FaultKind, Plan

Span = tuple[float, float]


def calm(disturbed: Iterable[Span], begin: float, end: float) -> list[Span]:
    """What of begin..end lies outside all disturbed spans. A span of no length still cuts a stretch in two."""
    stretches = []
    at = begin
    for low, high in sorted(disturbed):
        if high < begin or low > end:
            continue
        if low > at:
            stretches.append((at, low))
        at = max(at, high)
    if end > at:
        stretches.append((at, end))
    return stretches


def span_of(fault: Fault) -> Span:
    return (fault.at, fault.at if fault.kind in INSTANT or fault.kind is FaultKind.HALF_OPEN else fault.until)


def check_liveness(
    plan: Plan, sent: dict[str, Sent], down: Mapping[str, Sequence[Span]], ended_at: float, findings: Findings
) -> None:
    """`down`: when each person's node wasn't up. Messages to and from a person who installed anew are left out: those
    to the old identity wait for ever."""
    renewed = {name for fault in plan.faults if fault.kind is FaultKind.REINSTALL for name in fault.targets}
    faults = [span_of(fault) for fault in plan.faults]
    for wanted in plan.checks.liveness:
        if wanted.name != "delivered":
            raise ValueError(f"there is no liveness {wanted.name!r}; there is 'delivered'")
        for message, each in sent.items():
            if each.accepted_at is None or each.is_forgotten or renewed & {each.sender, each.recipient}:
                continue
            until = ended_at if each.delivered_at is None else each.delivered_at
            disturbed = [*faults, *down.get(each.sender, ()), *down.get(each.recipient, ())]
            longest = max((b - a for a, b in calm(disturbed, each.accepted_at, until)), default=0.0)
            if longest > wanted.within:
                how = "is not delivered" if each.delivered_at is None else "was delivered late"
                findings.add(
                    "delivered",
                    f"{message} from {each.sender} to {each.recipient} {how}: {longest:.1f} s of calm have passed "
                    f"since it was sent at {each.accepted_at:.1f}, {wanted.within:g} are allowed",
                    each.sender,
                    each.recipient,
                    message=message,
                )
