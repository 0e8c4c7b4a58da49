"""A scenario, and one of its worlds, in words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from p2pe_sim.plan import INSTANT, Plan
from p2pe_sim.report.svg import clock, duration
from p2pe_sim.scenario import Check, FaultRule, Links, Nodes, Range, Scenario


def spread(bounds: Range, unit: str = "") -> str:
    """`5` or `5 to 9`, with a unit; `s`: as durations."""
    if unit == "s":
        low, high = duration(bounds.low), duration(bounds.high)
    elif unit == "B":
        low, high = _bytes(bounds.low), _bytes(bounds.high)
    else:
        low, high = f"{bounds.low:g}{unit}", f"{bounds.high:g}{unit}"
    return low if bounds.low == bounds.high else f"{low} to {high}"


def _bytes(count: float) -> str:
    for size, unit in ((1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def explained(scenario: Scenario) -> list[str]:
    """What a person who wrote the file wants to see confirmed."""
    lines = [f"{scenario.name}: {scenario.about}"]
    if scenario.directory is not None:
        asked = scenario.directory
        lines += [
            f"  tier 0: the directory alone, {asked.nodes:,} servers, {asked.hours:g} h of virtual time",
            f"  {asked.churn_per_hour:.0%} of the servers are replaced an hour",
            f"  {asked.records:,} records, {asked.lookups:,} lookups",
        ]
        return [*lines, *_check(scenario.check)]
    lines.append(f"  {clock(scenario.duration)} of virtual time, the last {clock(scenario.settle)} of it quiet")
    lines += [f"  {_group(group)}" for group in scenario.nodes]
    lines.append(f"  links: {_links(scenario.links)}")
    pairing = (
        "before the world begins"
        if scenario.friends.pairing == "before"
        else f"by spoken code, at {spread(scenario.friends.at, 's')}"
    )
    lines.append(f"  each person has at least {scenario.friends.each} contacts, paired {pairing}")
    for churn in scenario.churn:
        how = ", ".join(f"{share:g} {name}" for name, share in churn.how.items())
        lines.append(
            f"  {' and '.join(churn.who)} come and go: up for {spread(churn.session, 's')}, "
            f"away for {spread(churn.away, 's')}; ends by weight: {how}"
        )
    work = scenario.workload
    if work is not None:
        offline = f", {work.offline_share:.0%} while the other is away" if work.offline_share else ""
        lines.append(f"  each person sends {work.per_minute:g} messages a minute of {spread(work.size, 'B')}{offline}")
    lines += [f"  {_fault(rule)}" for rule in scenario.faults]
    return [*lines, *_check(scenario.check)]


def _links(links: Links) -> str:
    return (
        f"{spread(links.latency, 's')} one way, {spread(links.bandwidth, 'B')}/s, {spread(links.loss)} lost, "
        f"clocks wrong by {spread(links.clock_skew, ' s')}"
    )


def _group(group: Nodes) -> str:
    total = sum(group.nat.values())
    nats = ", ".join(f"{share / total:.0%} {nat.value}" for nat, share in group.nat.items() if share)
    parts = [f"{group.count} {group.role.value}{'' if group.count == 1 else 's'} called {group.name}, NAT {nats}"]
    if group.behaviour.value != "honest":
        parts.append(f"hostile: {group.behaviour.value}")
    if group.relay.value != "fallback":
        parts.append(f"relay policy {group.relay.value}")
    if group.starts.high:
        parts.append(f"started at {spread(group.starts, 's')}")
    if group.links is not None:
        parts.append(f"links of their own: {_links(group.links)}")
    return ", ".join(parts)


def _fault(rule: FaultRule) -> str:
    whom = " and ".join(rule.who)
    if rule.count is not None:
        whom = f"{rule.count} of {whom}"
    elif rule.share is not None:
        whom = f"{rule.share:.0%} of {whom}"
    lasts = "" if rule.kind in INSTANT else f" for {spread(rule.lasts, 's')}"
    often = f", {rule.repeat} times" if rule.repeat > 1 else ""
    chance = f", in {rule.chance:.0%} of the worlds" if rule.chance < 1 else ""
    params = "".join(f", {name} {spread(bounds)}" for name, bounds in rule.params.items())
    return f"{rule.kind.value} of {whom} at {spread(rule.at, 's')}{lasts}{params}{often}{chance}"


def _check(check: Check) -> list[str]:
    lines = [f"  must hold: {', '.join(check.safety) if check.safety else 'every safety invariant'}"]
    lines += [f"  must happen: {name} within {duration(within)}" for name, within in check.liveness.items()]
    lines += [f"  at least: {name} {bound:g}" for name, bound in check.at_least.items()]
    lines += [f"  at most: {name} {bound:g}" for name, bound in check.at_most.items()]
    if check.floors:
        floors = ", ".join(f"{name} {bound:g}" for name, bound in check.floors.items())
        lines.append(f"  counts as tested from: {floors}")
    return lines


def plan_lines(plan: Plan) -> list[str]:
    """Everything that one world has in it, in the order of time."""
    begins = datetime.fromtimestamp(plan.begins_at, UTC)
    lines = [f"the world of seed {plan.seed}, which begins at {begins:%H:%M:%S} UTC:"]
    for node in plan.nodes:
        lines.append(
            f"  {node.name}: {node.role.value}, NAT {node.nat.value}, {duration(node.latency)} one way, "
            f"{_bytes(node.bandwidth)}/s, {node.loss:.1%} lost, clock {node.clock_skew:+.1f} s"
        )
    contacts = ", ".join(f"{each.one}-{each.other}" for each in plan.friendships)
    return [*lines, f"  contacts: {contacts}", *(said for _, said in sorted(_moments(plan)))]


def _moments(plan: Plan) -> Iterator[tuple[float, str]]:
    for fault in plan.faults:
        ends = "" if fault.kind in INSTANT else f" until {fault.until:.1f}"
        params = "".join(f", {name} {value:g}" for name, value in fault.params.items())
        yield fault.at, f"  {fault.at:>8.1f}  {fault.kind.value} of {', '.join(fault.targets)}{ends}{params}"
    for message in plan.messages:
        yield (
            message.at,
            f"  {message.at:>8.1f}  {message.sender} writes {message.id} to {message.recipient}, {message.size} bytes",
        )
    for each in plan.friendships:
        if each.at is not None:
            yield each.at, f"  {each.at:>8.1f}  {each.one} and {each.other} pair"
