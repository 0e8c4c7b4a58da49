"""Links: when nothing has disturbed two people for a while, they agree whether they are linked, and by one link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from p2pe_sim.invariants.findings import Findings
from p2pe_sim.invariants.liveness import Span, calm, span_of
from p2pe_sim.plan import Plan

if TYPE_CHECKING:
    from p2pe_sim.world.person import Person

CALM: Final = 40.0  # seconds after which what was half made is made, or found out to be dead
SETTLED: Final = 20.0  # age of a link that counts: younger ones may be about to take another's place


def check_links(
    plan: Plan, people: Mapping[str, Person], down: Mapping[str, Sequence[Span]], ended_at: float, findings: Findings
) -> None:
    """At the end of a run, while the nodes still run."""
    faults = [span_of(fault) for fault in plan.faults]
    for each in plan.friendships:
        disturbed = [*faults, *down.get(each.one, ()), *down.get(each.other, ())]
        stretches = calm(disturbed, 0.0, ended_at)
        if not stretches or stretches[-1][1] < ended_at or stretches[-1][1] - stretches[-1][0] < CALM:
            continue
        here = _settled(people[each.one], people[each.other])
        there = _settled(people[each.other], people[each.one])
        if here != there or here > 1:
            findings.add(
                "links-agree",
                f"after a calm while {each.one} has {here} links to {each.other}, which has {there} to {each.one}",
                each.one,
                each.other,
            )


def _settled(one: Person, other: Person) -> int:
    """How many links `one` has had to `other` for a while."""
    services = one.services
    if services is None:
        return 0
    key = other.identity.identity_key
    return sum(s.peer_identity == key and s.is_open and s.age >= SETTLED for s in services.links.all())
