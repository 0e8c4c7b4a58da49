"""A scenario and a seed become a plan. Pure: the same plan on every machine, whatever PYTHONHASHSEED.

Every node, friendship, sender and fault draws from a random stream of its own, named after it: a scenario that gains
a node or loses a fault keeps the rest of its worlds as they were.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, TypeVar

from p2pe_sim.natlab.nat import NatType
from p2pe_sim.plan import (
    BEGINS_AT,
    INSTANT,
    PARAMETERS,
    Checks,
    Fault,
    FaultKind,
    Friendship,
    Liveness,
    Message,
    Node,
    Plan,
    Role,
)
from p2pe_sim.scenario import Churn, FaultRule, Nodes, Range, Scenario

K = TypeVar("K")
_Drawn = tuple[FaultKind, float, float, tuple[str, ...], dict[str, float]]  # a fault before it has a number
DOWN: Final = frozenset({FaultKind.STOP, FaultKind.CRASH, FaultKind.CRASH_NO_FLUSH, FaultKind.REINSTALL})
"""Kinds in which the target's node isn't running from `at` to `until`."""
UP_AT_LEAST: Final = 5.0  # seconds a node runs between two of its falls, so that each of them is one

CUTTING: Final = frozenset({FaultKind.PARTITION, FaultKind.HALF_OPEN, FaultKind.ADDRESS_CHANGE, FaultKind.RESET})
"""Kinds after which a node has no connections for a while, so that another fault would find none to strike."""
DRAWS: Final = 20  # moments tried until one is found at which a fault strikes something
SETTLED: Final = 20.0  # seconds after which a node that started, or has paired, has connections that a fault can strike
DAY: Final = 86_400
MIDNIGHTS: Final = 0.2  # share of the worlds in which the day, and with it what is derived from it, changes on the way


def stream(scenario: str, seed: int, *names: object) -> Random:
    """The random stream of one thing in one world."""
    return Random("/".join(map(str, (scenario, seed, *names))))


def plan_of(scenario: Scenario, seed: int) -> Plan:
    """The world of `seed`."""
    if scenario.tier == 0:
        assert scenario.directory is not None
        return Plan(
            scenario.name,
            seed,
            scenario.directory.hours * 3600.0,
            nodes=(),
            checks=_checks(scenario),
            tier=0,
            params={name: float(value) for name, value in scenario.directory.model_dump().items()},
        )
    return _Planner(scenario, seed).plan()


def _between(random: Random, bounds: Range, digits: int = 3) -> float:
    return round(random.uniform(bounds.low, bounds.high), digits)


def _weighed(random: Random, shares: Mapping[K, float]) -> K:
    """Sorted by name first: a file's order of keys is no part of its meaning."""
    ordered = sorted(shares, key=str)
    return random.choices(ordered, [shares[each] for each in ordered])[0]


def _checks(scenario: Scenario) -> Checks:
    check = scenario.check
    return Checks(
        safety=check.safety,
        liveness=tuple(Liveness(name, within) for name, within in check.liveness.items()),
        floors=dict(check.floors),
        effects=check.effects,
        at_least=dict(check.at_least),
        at_most=dict(check.at_most),
    )


def _alone_until(nodes: Sequence[Node], friendships: Sequence[Friendship]) -> dict[str, float]:
    """When each has started and, if it is to pair by a code, has its first contact: before that it may have no
    connections at all."""
    paired: dict[str, float] = {}
    for each in friendships:
        for name in (each.one, each.other):
            paired[name] = min(paired.get(name, math.inf), each.at or 0.0)
    return {node.name: max(node.starts_at, paired.get(node.name, 0.0)) for node in nodes}


@dataclass
class _Planner:
    scenario: Scenario
    seed: int
    _down: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # by node; sorted, disjoint
    _cut: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # by node: without connections
    _alone: dict[str, float] = field(default_factory=dict)  # by node: until it has started, and a contact
    _contacts: dict[str, list[str]] = field(default_factory=dict)  # by person

    def plan(self) -> Plan:
        nodes = tuple(self._node(group, name) for group in self.scenario.nodes for name in group.names())
        friendships = self._friendships([node.name for node in nodes if node.role is Role.PERSON])
        self._alone = _alone_until(nodes, friendships)
        for each in friendships:
            self._contacts.setdefault(each.one, []).append(each.other)
            self._contacts.setdefault(each.other, []).append(each.one)
        faults = self._faults()
        return Plan(
            self.scenario.name,
            self.seed,
            self.scenario.duration,
            nodes,
            friendships,
            self._messages(friendships),
            faults,
            _checks(self.scenario),
            self.scenario.tier,
            begins_at=self._begins_at(),
        )

    def _stream(self, *names: object) -> Random:
        return stream(self.scenario.name, self.seed, *names)

    def _begins_at(self) -> int:
        """Any moment of a day."""
        random, midnight = self._stream("hour"), BEGINS_AT - BEGINS_AT % DAY + DAY
        if random.random() < MIDNIGHTS:
            return midnight - int(random.uniform(0.0, self.scenario.duration))
        return midnight + random.randrange(DAY)

    @property
    def _quiet(self) -> float:
        return self.scenario.duration - self.scenario.settle

    def _node(self, group: Nodes, name: str) -> Node:
        random, links = self._stream("node", name), group.links or self.scenario.links
        nat: NatType = _weighed(random, group.nat)
        return Node(
            name,
            group.role,
            nat,
            latency=_between(random, links.latency, 4),
            bandwidth=float(round(random.uniform(links.bandwidth.low, links.bandwidth.high))),
            loss=_between(random, links.loss, 4),
            clock_skew=_between(random, links.clock_skew),
            relay=group.relay.value,
            behaviour=group.behaviour,
            starts_at=_between(random, group.starts),
        )

    def _friendships(self, people: list[str]) -> tuple[Friendship, ...]:
        """Each person draws from those who come later, and those too short of friends then draw from all."""
        friends = self.scenario.friends
        wanted = min(friends.each, len(people) - 1)
        chosen: dict[tuple[str, str], None] = {}
        degree = dict.fromkeys(people, 0)
        place = {name: number for number, name in enumerate(people)}
        for name in people:
            random = self._stream("friends", name)
            others = [other for other in people if other != name]
            random.shuffle(others)
            others.sort(key=lambda other: degree[other])
            for other in others:
                if degree[name] >= wanted:
                    break
                pair = (name, other) if place[name] < place[other] else (other, name)
                if pair not in chosen:
                    chosen[pair] = None
                    degree[name] += 1
                    degree[other] += 1
        return tuple(
            Friendship(one, other, self._pairing_at(one, other))
            for one, other in sorted(chosen, key=lambda pair: (place[pair[0]], place[pair[1]]))
        )

    def _pairing_at(self, one: str, other: str) -> float | None:
        friends = self.scenario.friends
        if friends.pairing == "before":
            return None
        return _between(self._stream("pairing", one, other), friends.at)

    def _faults(self) -> tuple[Fault, ...]:
        """Falls first, then the network's faults: those strike nodes that are up, or they would do nothing."""
        falls = self._drawn(lambda kind: kind in DOWN)
        for number, churn in enumerate(self.scenario.churn):
            for name in self.scenario.members(churn.who):
                falls += self._sessions(churn, name, self._stream("churn", number, name))
        cuts = self._drawn(lambda kind: kind in CUTTING)
        drawn = falls + cuts + self._drawn(lambda kind: kind not in DOWN | CUTTING)
        drawn.sort(key=lambda each: (each[1], each[2], each[0].value, each[3]))
        return tuple(
            Fault(f"f{number}", kind, at, until, targets, params)
            for number, (kind, at, until, targets, params) in enumerate(drawn, 1)
        )

    def _drawn(self, wanted: Callable[[FaultKind], bool]) -> list[_Drawn]:
        drawn: list[_Drawn] = []
        seen: Counter[FaultKind] = Counter()
        for rule in self.scenario.faults:
            seen[rule.kind] += 1
            for turn in range(rule.repeat if wanted(rule.kind) else 0):
                random = self._stream("fault", rule.kind.value, seen[rule.kind], turn)
                if random.random() < rule.chance and (fault := self._fault(rule, random)):
                    drawn.append(fault)
        return drawn

    def _fault(self, rule: FaultRule, random: Random) -> _Drawn | None:
        drawn: list[tuple[int, int, float, float, list[str]]] = []
        for turn in range(DRAWS):
            at = _between(random, rule.at)
            until = at if rule.kind in INSTANT else round(at + _between(random, rule.lasts), 3)
            targets, shaky = self._targets(rule, random, at, until)
            drawn.append((shaky, turn, at, until, targets))
            if not shaky:
                break
        _, _, at, until, targets = min(drawn)
        bounds = {
            name: rule.params.get(name, Range(low=default, high=default))
            for name, default in PARAMETERS.get(rule.kind, {}).items()
        }
        params = {name: _between(random, bound) for name, bound in bounds.items()}
        if rule.kind in DOWN:
            targets = [name for name in targets if self._take_down(name, at, until)]
        elif rule.kind in CUTTING:
            for name in targets:
                self._cut.setdefault(name, []).append((at, until))
        return (rule.kind, at, until, tuple(targets), params) if targets else None

    def _targets(self, rule: FaultRule, random: Random, at: float, until: float) -> tuple[list[str], int]:
        """Whom the fault strikes, and how likely it finds nothing to strike, or leaves nothing for another one:
        `_shaky` of the worst."""
        everybody = list(self.scenario.members(rule.who))
        count = len(everybody)
        if rule.count is not None:
            count = min(rule.count, count)
        elif rule.share is not None:
            count = max(1, round(rule.share * count))
        chosen = random.sample(everybody, len(everybody))
        if rule.kind in DOWN:
            return sorted(chosen[:count], key=everybody.index), 0
        cuts_until = until if rule.kind in CUTTING else at
        chosen.sort(key=lambda name: self._shaky(name, at, cuts_until))
        targets = chosen[:count]
        return sorted(targets, key=everybody.index), max(self._shaky(name, at, cuts_until) for name in targets)

    def _shaky(self, name: str, at: float, cuts_until: float) -> int:
        """0: the node runs then, has had connections for a while, and will have some when it is cut off next; 1: its
        contacts are away; 2: it may have no connections; 3: it is down, or about to be."""
        for begin, end in self._down.get(name, ()):
            if begin - UP_AT_LEAST < at < end + UP_AT_LEAST:
                return 3
        spans = (*self._down.get(name, ()), (0.0, self._alone[name]))
        if any(begin - UP_AT_LEAST < at < end + SETTLED for begin, end in spans):
            return 2
        cuts = self._cut.get(name, ())
        if any(begin - SETTLED < cuts_until and at < end + SETTLED for begin, end in cuts):
            return 2
        return int(
            self._is_lonely(name, at) or any(self._needs(other, name, at, cuts_until) for other in self._friends(name))
        )

    def _friends(self, name: str) -> list[str]:
        return self._contacts.get(name, [])

    def _is_lonely(self, name: str, at: float, without: str = "") -> bool:
        """Whether all contacts but `without` are away: a person's node that needs no relay then has nobody."""
        friends = self._friends(name)
        return bool(friends) and all(other == without or self._is_away(other, at) for other in friends)

    def _is_away(self, name: str, at: float) -> bool:
        spans = (*self._down.get(name, ()), *self._cut.get(name, ()))
        return any(begin - 1.0 < at < end + SETTLED / 2 for begin, end in spans)

    def _needs(self, name: str, other: str, at: float, until: float) -> bool:
        """Whether `name` is to be cut off while `other` is, and then has nobody else to be cut off from."""
        begins = [begin for begin, _ in self._cut.get(name, ()) if at - 1.0 < begin < until + SETTLED / 2]
        return any(self._is_lonely(name, begin, without=other) for begin in begins)

    def _take_down(self, name: str, at: float, until: float) -> bool:
        """Notes that the node is down; False when it would be down already, or has hardly come back."""
        spans = self._down.setdefault(name, [])
        if any(at < end + UP_AT_LEAST and begin < until + UP_AT_LEAST for begin, end in spans):
            return False
        spans.append((at, until))
        spans.sort()
        return True

    def _sessions(self, churn: Churn, name: str, random: Random) -> list[_Drawn]:
        ends: list[_Drawn] = []
        now = _between(random, churn.session) * random.random() + UP_AT_LEAST
        while True:
            until = round(now + _between(random, churn.away), 3)
            kind = FaultKind(_weighed(random, churn.how))
            if until > self._quiet:
                return ends
            if self._take_down(name, now, until):
                ends.append((kind, round(now, 3), until, (name,), {}))
            now = round(until + max(UP_AT_LEAST, _between(random, churn.session)), 3)

    def _messages(self, friendships: tuple[Friendship, ...]) -> tuple[Message, ...]:
        work = self.scenario.workload
        if work is None:
            return ()
        contacts: dict[str, list[tuple[str, float]]] = {}
        for each in friendships:
            for one, other in ((each.one, each.other), (each.other, each.one)):
                contacts.setdefault(one, []).append((other, each.at or 0.0))
        ends = self._quiet if work.ends is None else min(work.ends, self._quiet)
        drawn: list[tuple[float, str, str, int]] = []
        for sender, others in contacts.items():
            random = self._stream("messages", sender)
            now = work.begins
            while (now := now + random.expovariate(work.per_minute / 60.0)) < ends:
                recipient, since = random.choice(others)
                size = round(random.uniform(work.size.low, work.size.high))
                at = max(now, since + 1.0)
                if random.random() < work.offline_share:
                    at = self._while_down(random, recipient, at, ends)
                drawn.append((round(at, 3), sender, recipient, size))
        drawn.sort()
        return tuple(
            Message(f"m{number}", at, sender, recipient, size)
            for number, (at, sender, recipient, size) in enumerate(drawn, 1)
        )

    def _while_down(self, random: Random, name: str, otherwise: float, ends: float) -> float:
        """A moment at which `name`'s node is down, if there is one."""
        spans = [(begin, min(end, ends)) for begin, end in self._down.get(name, ()) if begin < ends]
        if not spans:
            return otherwise
        begin, end = spans[random.randrange(len(spans))]
        return random.uniform(begin, end)
