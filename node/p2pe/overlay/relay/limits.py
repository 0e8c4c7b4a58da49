"""Who may use a relay, and how much: a ledger of reservations and circuits. Pure; `now` in seconds from the caller.

Everything is counted for the peer that the connection authenticated, never for one named in a message
(libp2p-facts 19), and for its /24 or /56, since peer ids cost nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field

from p2pe import config
from p2pe.model import PeerId

MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """Limits of a relay; the reasons stand in config.py."""

    reservation_seconds: int = config.RELAY_RESERVATION_SECONDS
    max_reservations: int = config.RELAY_MAX_RESERVATIONS
    max_reservations_per_subnet: int = config.RELAY_MAX_RESERVATIONS_PER_SUBNET
    max_circuits: int = config.RELAY_MAX_CIRCUITS
    max_circuits_per_peer: int = config.RELAY_MAX_CIRCUITS_PER_PEER
    max_circuits_per_subnet: int = config.RELAY_MAX_CIRCUITS_PER_SUBNET
    circuit_seconds: int = config.RELAY_CIRCUIT_SECONDS
    circuit_bytes: int = config.RELAY_CIRCUIT_BYTES  # each direction
    buffer_bytes: int = config.RELAY_BUFFER_BYTES
    requests_per_minute: int = config.RELAY_REQUESTS_PER_MINUTE
    limit_loopback: bool = False  # whether subnet limits bind processes of this very machine


@dataclass(slots=True)
class _Reservation:
    subnet: bytes | None
    expires: float


@dataclass(frozen=True, slots=True, eq=False)
class Circuit:
    """One circuit's entry; its identity is its key."""

    source: PeerId
    target: PeerId
    subnet: bytes | None


@dataclass(slots=True)
class Ledger:
    """Counts. Bounded by the limits themselves: nothing is entered that they refuse."""

    limits: RelayLimits
    _reservations: dict[PeerId, _Reservation] = field(default_factory=dict)
    _circuits: dict[Circuit, None] = field(default_factory=dict)
    _requests: dict[PeerId, deque[float]] = field(default_factory=dict)

    @property
    def reservation_count(self) -> int:
        return len(self._reservations)

    @property
    def circuit_count(self) -> int:
        return len(self._circuits)

    def allow_request(self, peer: PeerId, now: float) -> bool:
        """Counts a request of a connected peer; False when it asks too often."""
        recent = self._requests.setdefault(peer, deque())
        while recent and recent[0] <= now - MINUTE:
            recent.popleft()
        if len(recent) >= self.limits.requests_per_minute:
            return False
        recent.append(now)
        return True

    def reserve(self, peer: PeerId, subnet: bytes | None, now: float) -> bool:
        """Enters or renews a reservation; False when there is no room."""
        self.expire(now)
        others = sum(r.subnet == subnet for p, r in self._reservations.items() if p != peer)
        if subnet is not None and others >= self.limits.max_reservations_per_subnet:
            return False
        if peer not in self._reservations and len(self._reservations) >= self.limits.max_reservations:
            return False
        self._reservations[peer] = _Reservation(subnet, now + self.limits.reservation_seconds)
        return True

    def is_reserved(self, peer: PeerId, now: float) -> bool:
        held = self._reservations.get(peer)
        return held is not None and held.expires > now

    def expire(self, now: float) -> tuple[PeerId, ...]:
        """Strikes out what has run out; returns whose."""
        gone = tuple(peer for peer, held in self._reservations.items() if held.expires <= now)
        for peer in gone:
            del self._reservations[peer]
        return gone

    def forget_peer(self, peer: PeerId) -> None:
        """The peer is no longer connected: its reservation ends (circuit-v2), its requests are forgotten."""
        self._reservations.pop(peer, None)
        self._requests.pop(peer, None)

    def forget_requests_but_of(self, connected: Container[PeerId]) -> None:
        """Drops the counts of peers that left unnoticed."""
        for peer in [p for p in self._requests if p not in connected]:
            del self._requests[peer]

    def open_circuit(self, source: PeerId, target: PeerId, subnet: bytes | None) -> Circuit | None:
        """A place for a circuit, or None. Give it back with `close_circuit`."""
        mine = sum(source in (c.source, c.target) for c in self._circuits)
        theirs = sum(target in (c.source, c.target) for c in self._circuits)
        near = sum(c.subnet == subnet for c in self._circuits) if subnet is not None else 0
        if (
            len(self._circuits) >= self.limits.max_circuits
            or max(mine, theirs) >= self.limits.max_circuits_per_peer
            or near >= self.limits.max_circuits_per_subnet
        ):
            return None
        circuit = Circuit(source, target, subnet)
        self._circuits[circuit] = None
        return circuit

    def close_circuit(self, circuit: Circuit) -> None:
        del self._circuits[circuit]
