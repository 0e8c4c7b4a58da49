"""A plan: everything that happens in one simulated world, written out. What a scenario and a seed become.

A plan has no chance left in it but `seed`, which feeds the nodes' own entropy and the links' jitter, each from a
stream of its own. So a plan is what replays, what shrinks, and what the regression corpus keeps. JSON both ways.
Times are virtual seconds since the start of the world, sizes bytes, rates bytes a second.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeVar

from p2pe_sim.natlab.nat import NatType

PLAN_VERSION: Final = 1
BEGINS_AT: Final = 1_800_000_000  # 2027-01-15 08:00 UTC, in plans that don't say
T = TypeVar("T")


class PlanError(ValueError):
    """A plan that can't be read. `str()` names the key and the value."""


class Role(StrEnum):
    PERSON = "person"
    BOOTSTRAP = "bootstrap"


class Behaviour(StrEnum):
    """What a bootstrap node does with those who trust it. People are honest: two who collude need no network."""

    HONEST = "honest"
    RELAY_DROPS = "relay-drops"  # takes bytes of circuits and forwards none after a while
    RELAY_CORRUPTS = "relay-corrupts"  # flips bits in circuits
    RELAY_REPLAYS = "relay-replays"  # forwards some bytes twice
    DHT_SILENT = "dht-silent"  # takes records, answers nothing
    DHT_FORGETS = "dht-forgets"  # acknowledges records and keeps none
    DHT_LIES = "dht-lies"  # answers with altered records and invented peers


class FaultKind(StrEnum):
    """What goes wrong, from `at` to `until`. PARAMETERS names the parameters of each kind."""

    PARTITION = "partition"  # the targets can't reach anybody else, nor be reached; among themselves they can
    RESET = "reset"  # all connections of the targets are reset once, at `at`
    HALF_OPEN = "half_open"  # connections that exist at `at` swallow what is sent on them; neither side is told
    LOSS = "loss"  # `rate` of the segments from and to the targets is lost: a retransmission delay each
    LATENCY = "latency"  # `seconds` more, one way
    BANDWIDTH = "bandwidth"  # `bytes_per_second` at most
    STOP = "stop"  # ends as with SIGTERM, starts again at `until`
    CRASH = "crash"  # ends as with SIGKILL: what was written stays; starts again at `until`
    CRASH_NO_FLUSH = "crash_no_flush"  # the machine loses power: writes that weren't synced may be lost or torn
    REINSTALL = "reinstall"  # the home is lost at `at`; at `until` the person is back with a new identity, not paired
    CLOCK_JUMP = "clock_jump"  # the wall clock moves by `seconds`, and back at `until`
    ADDRESS_CHANGE = "address_change"  # the targets' network gives them another address; their connections die
    DISK_FULL = "disk_full"  # writes fail with ENOSPC


PARAMETERS: Final[Mapping[FaultKind, Mapping[str, float]]] = {
    FaultKind.LOSS: {"rate": 0.2},
    FaultKind.LATENCY: {"seconds": 1.0},
    FaultKind.BANDWIDTH: {"bytes_per_second": 4096.0},
    FaultKind.CLOCK_JUMP: {"seconds": 3600.0},
}
"""The parameters that a kind takes, with what they are when a scenario doesn't say. Kinds without: none."""
INSTANT: Final = frozenset({FaultKind.RESET, FaultKind.ADDRESS_CHANGE})
"""Kinds for which `until` means nothing."""


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    role: Role = Role.PERSON
    nat: NatType = NatType.NONE
    latency: float = 0.02  # seconds from the node to the middle of the network, one way
    bandwidth: float = 2_500_000.0  # bytes a second, each way; 0: without limit
    loss: float = 0.0  # share of segments lost on the node's link
    clock_skew: float = 0.0  # seconds by which its wall clock is ahead
    relay: str = "fallback"  # p2pe.core.paths.RelayPolicy
    behaviour: Behaviour = Behaviour.HONEST
    starts_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Friendship:
    """Two contacts. `at` None: paired before the world begins. Otherwise they pair by a spoken code at `at`."""

    one: str
    other: str
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """`sender` calls `send` at `at`; while its node is down, at its next start."""

    id: str  # unique in the plan; the text sent begins with it
    at: float
    sender: str
    recipient: str
    size: int = 100  # bytes of text


@dataclass(frozen=True, slots=True)
class Fault:
    id: str  # unique in the plan; `Result.effects` has it as key
    kind: FaultKind
    at: float
    until: float  # >= at; beyond the plan's duration: to the end
    targets: tuple[str, ...]
    params: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Liveness:
    """Something that must have become true. `within` counts from the later of `after` and the cause of it."""

    name: str  # "delivered": every message, once both nodes are up and no fault holds
    within: float  # seconds


@dataclass(frozen=True, slots=True)
class Checks:
    safety: tuple[str, ...] = ()  # names of invariants; empty: all there are
    liveness: tuple[Liveness, ...] = ()
    floors: Mapping[str, float] = field(default_factory=dict)  # Result.counts that must be reached, else vacuous
    effects: bool = True  # every fault must show an effect, else vacuous
    at_least: Mapping[str, float] = field(default_factory=dict)  # Result.counts below it: broken
    at_most: Mapping[str, float] = field(default_factory=dict)  # Result.counts above it: broken


@dataclass(frozen=True, slots=True)
class Plan:
    scenario: str
    seed: int
    duration: float
    nodes: tuple[Node, ...]
    friendships: tuple[Friendship, ...] = ()
    messages: tuple[Message, ...] = ()
    faults: tuple[Fault, ...] = ()
    checks: Checks = field(default_factory=Checks)
    tier: int = 1
    params: Mapping[str, float] = field(default_factory=dict)  # of tier 0: what p2pe_sim.dht takes
    begins_at: int = BEGINS_AT  # seconds since 1970: what right clocks show at the start of the world

    def as_dict(self) -> dict[str, Any]:
        return {"version": PLAN_VERSION, **asdict(self)}

    def to_json(self, *, indent: int | None = None) -> str:
        return json.dumps(self.as_dict(), indent=indent, sort_keys=True)

    @classmethod
    def of(cls, raw: object) -> Plan:
        """From what `as_dict` gave (or its JSON, parsed). Raises PlanError."""
        fields = dict(_mapping(raw, "the plan"))
        version = fields.pop("version", None)
        if version != PLAN_VERSION:
            raise PlanError(f"the plan has version {version!r}; this p2pe-sim reads version {PLAN_VERSION}")
        for key, make in _NESTED.items():
            if key in fields:
                fields[key] = tuple(make(each, f"{key}[{n}]") for n, each in enumerate(_items(fields[key], key)))
        if "checks" in fields:
            fields["checks"] = _checks(fields["checks"])
        plan = _build(cls, fields, "the plan")
        plan._validate()
        return plan

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """Raises PlanError."""
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise PlanError(f"the plan isn't JSON: {error}") from error
        return cls.of(raw)

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def people(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.role is Role.PERSON)

    def _validate(self) -> None:
        names = {node.name for node in self.nodes}
        if len(names) != len(self.nodes):
            raise PlanError("two nodes of the plan have the same name")
        for friendship in self.friendships:
            _known((friendship.one, friendship.other), names, "friendship")
        for message in self.messages:
            _known((message.sender, message.recipient), names, f"message {message.id}")
        for fault in self.faults:
            _known(fault.targets, names, f"fault {fault.id}")
            if fault.until < fault.at:
                raise PlanError(f"fault {fault.id} ends at {fault.until} before it begins at {fault.at}")


def _known(wanted: tuple[str, ...], names: set[str], where: str) -> None:
    for name in wanted:
        if name not in names:
            raise PlanError(f"{where} names {name!r}, which isn't a node of the plan")


def _mapping(raw: object, where: str) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise PlanError(f"{where} isn't an object but {type(raw).__name__}")
    return raw


def _items(raw: object, where: str) -> list[Any] | tuple[Any, ...]:
    if not isinstance(raw, list | tuple):
        raise PlanError(f"{where} isn't a list but {type(raw).__name__}")
    return raw


def _build(kind: Callable[..., T], fields: Mapping[str, Any], where: str) -> T:
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        raise PlanError(f"{where}: {error}") from error


def _node(raw: object, where: str) -> Node:
    fields = dict(_mapping(raw, where))
    for key, make in (("role", Role), ("nat", NatType), ("behaviour", Behaviour)):
        if key in fields:
            fields[key] = _build(make, {"value": fields[key]}, f"{where}.{key}")
    return _build(Node, fields, where)


def _fault(raw: object, where: str) -> Fault:
    fields = dict(_mapping(raw, where))
    if "kind" in fields:
        fields["kind"] = _build(FaultKind, {"value": fields["kind"]}, f"{where}.kind")
    if "targets" in fields:
        fields["targets"] = tuple(_items(fields["targets"], f"{where}.targets"))
    return _build(Fault, fields, where)


def _checks(raw: object) -> Checks:
    fields = dict(_mapping(raw, "checks"))
    if "safety" in fields:
        fields["safety"] = tuple(_items(fields["safety"], "checks.safety"))
    if "liveness" in fields:
        wanted = _items(fields["liveness"], "checks.liveness")
        fields["liveness"] = tuple(
            _build(Liveness, _mapping(each, f"checks.liveness[{n}]"), f"checks.liveness[{n}]")
            for n, each in enumerate(wanted)
        )
    return _build(Checks, fields, "checks")


_NESTED: Final[Mapping[str, Callable[[object, str], object]]] = {
    "nodes": _node,
    "friendships": lambda raw, where: _build(Friendship, _mapping(raw, where), where),
    "messages": lambda raw, where: _build(Message, _mapping(raw, where), where),
    "faults": _fault,
}
