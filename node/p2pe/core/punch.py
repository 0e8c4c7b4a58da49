"""Hole punching's conversation over a relayed connection: what is said when, and what is dialled. Pure.

Source: libp2p DCUtR specification. The circuit's receiver initiates. One round:

    initiator → CONNECT{its addresses}
    responder → CONNECT{its addresses}      the initiator takes the time in between as the round trip
    initiator → SYNC                        and dials half a round trip later
    responder                               dials when SYNC arrives

so that both dial at once. Of a TCP connection that comes of it, opened from both ends, the responder is the client in
every protocol on top, the initiator the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto

from p2pe import config
from p2pe.core.addresses import host_port
from p2pe.errors import RemoteError
from p2pe.model import Address, PeerId


class Said(Enum):
    CONNECT = auto()
    SYNC = auto()


@dataclass(frozen=True, slots=True)
class PunchMessage:
    said: Said
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to dial, `wait` seconds from now. `round_trip` over the relay; None where it wasn't measured."""

    addresses: tuple[Address, ...]
    wait: float
    is_client: bool
    round_trip: float | None


class Initiator:
    """One round at the circuit's receiver: `begin` once, then `receive` once. Times in seconds of any one clock."""

    def __init__(self, useful: Callable[[Address], bool]) -> None:
        self._useful = useful
        self._began: float | None = None

    def begin(self, own: Iterable[Address], now: float) -> PunchMessage:
        """The CONNECT to send."""
        self._began = now
        return PunchMessage(Said.CONNECT, tuple(own))

    def receive(self, message: PunchMessage, now: float) -> Plan:
        """The answer to CONNECT: send SYNC, then follow the plan. Raises RemoteError for anything else."""
        if self._began is None or message.said is not Said.CONNECT:
            raise RemoteError("the other side didn't answer CONNECT with CONNECT")
        round_trip = max(0.0, now - self._began)
        self._began = None
        wait = min(round_trip / 2, config.ROUND_TRIP_MAX)
        return Plan(worth_dialling(message.addresses, self._useful), wait, False, round_trip)


class Responder:
    """One round at the circuit's dialler: `receive` twice, first CONNECT, then SYNC."""

    def __init__(self, useful: Callable[[Address], bool]) -> None:
        self._useful = useful
        self._theirs: tuple[Address, ...] | None = None

    def receive(self, message: PunchMessage, own: Iterable[Address] = ()) -> PunchMessage | Plan:
        """The CONNECT to answer with, or the plan once SYNC is here. Raises RemoteError for what is out of turn."""
        if self._theirs is None:
            if message.said is not Said.CONNECT:
                raise RemoteError("hole punching began without CONNECT")
            self._theirs = worth_dialling(message.addresses, self._useful)
            return PunchMessage(Said.CONNECT, tuple(own))
        if message.said is not Said.SYNC:
            raise RemoteError("the other side didn't follow CONNECT with SYNC")
        return Plan(self._theirs, 0.0, True, None)


def worth_dialling(named: Iterable[Address], useful: Callable[[Address], bool]) -> tuple[Address, ...]:
    """Of the addresses that a peer named: TCP over IP, useful, no more than PUNCH_ADDRESSES."""
    usable = dict.fromkeys(a for a in named if host_port(a) is not None and useful(a))
    return tuple(usable)[: config.PUNCH_ADDRESSES]


def worth_naming(
    observed: Iterable[Address], listening: Iterable[Address], useful: Callable[[Address], bool]
) -> tuple[Address, ...]:
    """Of our addresses what to send: those that servers saw, and those of our own that could be dialled from outside
    but for a firewall. One of each IP version comes first, so that the cut leaves both."""
    usable = tuple(dict.fromkeys(a for a in [*observed, *listening] if host_port(a) is not None and useful(a)))
    firsts = [next((a for a in usable if a.startswith(version)), None) for version in ("/ip6/", "/ip4/")]
    return tuple(dict.fromkeys(a for a in [*firsts, *usable] if a is not None))[: config.PUNCH_ADDRESSES]


def gives_way(own: PeerId, theirs: PeerId) -> bool:
    """Whether, of two who both initiate (each dialled the other through a relay), we are the one to answer instead."""
    return bytes(own) < bytes(theirs)


def round_seconds(round_trip: float | None) -> float:
    """How long a round may take once dialling has begun: a simultaneous open succeeds within two round trips or not at
    all. `round_trip` over the relay, which is the longer way."""
    return max(config.PUNCH_ROUND_SECONDS, 2 * min(round_trip or 0.0, config.ROUND_TRIP_MAX))


def silence_of(round_trip: float | None, rounds_before: int) -> float:
    """How long the server of a punched connection waits for the client's first bytes before it takes the client's part:
    the other end may have accepted an ordinary connection, and waits as well. Doubled each round: the other end may
    only be slow."""
    return max(config.PUNCH_SILENCE_SECONDS * 2.0**rounds_before, 2 * (round_trip or 0.0))
