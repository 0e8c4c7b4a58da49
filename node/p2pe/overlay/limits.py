"""What a host accepts at most, the gate that enforces it before any cryptography, and the counters that tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields

from p2pe import config
from p2pe.core.addresses import is_loopback, subnet_of
from p2pe.model import Address


@dataclass(frozen=True, slots=True)
class HostLimits:
    """Limits of one host. A bootstrap node raises the first."""

    max_connections: int = config.MAX_CONNECTIONS
    max_connections_per_subnet: int = config.MAX_CONNECTIONS_PER_SUBNET
    max_connections_per_peer: int = config.MAX_CONNECTIONS_PER_PEER
    max_pending_upgrades: int = config.MAX_PENDING_UPGRADES
    max_streams_per_connection: int = config.MAX_STREAMS_PER_CONNECTION
    upgrade_timeout: float = config.UPGRADE_TIMEOUT  # seconds for Noise and the muxer together
    negotiation_timeout: float = config.NEGOTIATION_TIMEOUT  # seconds for a stream's protocol
    dial_timeout: float = config.DIAL_TIMEOUT  # seconds for all addresses of a peer
    dial_stagger: float = config.DIAL_STAGGER  # seconds between two addresses
    idle_seconds: float = config.IDLE_CONNECTION_SECONDS  # without streams or protection
    ping_interval: float = config.CONNECTION_PING_INTERVAL
    ping_timeout: float = config.CONNECTION_PING_TIMEOUT
    limit_loopback: bool = False  # whether the per-subnet limit binds processes of this very machine


@dataclass(slots=True)
class HostMetrics:
    """Plain counters since the host opened."""

    connections_accepted: int = 0  # inbound, past the gate
    connections_dialled: int = 0  # outbound, upgraded
    connections_closed: int = 0
    refused_total: int = 0
    refused_subnet: int = 0
    refused_pending: int = 0
    refused_peer: int = 0
    upgrades_failed: int = 0
    upgrades_timed_out: int = 0
    dials_failed: int = 0  # peers, not addresses
    streams_accepted: int = 0
    streams_opened: int = 0
    negotiations_failed: int = 0
    handler_errors: int = 0
    events_dropped: int = 0

    def as_dict(self) -> dict[str, int]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(slots=True, eq=False)
class Admission:
    """A place held by one inbound connection, from accept to its end."""

    subnet: bytes | None
    evict: Callable[[], None]  # cuts the upgrade under way
    pending: bool = True


@dataclass(slots=True)
class Gate:
    """Counts inbound connections in all, per subnet, and those not yet upgraded.

    When all upgrade places are taken, the subnet that holds most of them loses its oldest: strangers who connect and
    say nothing push each other out, not the honest peer, who is through in a round trip.
    """

    limits: HostLimits
    metrics: HostMetrics
    total: int = 0
    _per_subnet: dict[bytes, int] = field(default_factory=dict)  # bounded by `total`
    _pending: dict[Admission, None] = field(default_factory=dict)  # in order of arrival

    def admit(self, remote: Address, evict: Callable[[], None]) -> Admission | None:
        """A place for a connection from `remote`, or None: close it at once."""
        exempt = is_loopback(remote) and not self.limits.limit_loopback
        subnet = None if exempt else subnet_of(remote)
        if self.total >= self.limits.max_connections:
            self.metrics.refused_total += 1
            return None
        if subnet is not None and self._per_subnet.get(subnet, 0) >= self.limits.max_connections_per_subnet:
            self.metrics.refused_subnet += 1
            return None
        if len(self._pending) >= self.limits.max_pending_upgrades:
            self._make_room()
        admission = Admission(subnet, evict)
        self.total += 1
        if subnet is not None:
            self._per_subnet[subnet] = self._per_subnet.get(subnet, 0) + 1
        self._pending[admission] = None
        self.metrics.connections_accepted += 1
        return admission

    def upgraded(self, admission: Admission) -> None:
        """The connection has proved a peer id; it no longer counts as pending."""
        admission.pending = False
        self._pending.pop(admission, None)

    def release(self, admission: Admission) -> None:
        self._pending.pop(admission, None)
        self.total -= 1
        if admission.subnet is not None:
            left = self._per_subnet[admission.subnet] - 1
            if left:
                self._per_subnet[admission.subnet] = left
            else:
                del self._per_subnet[admission.subnet]

    def _make_room(self) -> None:
        """The oldest of the greediest subnet goes. Never the newcomer: strangers of more subnets than there are places
        would otherwise lock everybody out by saying nothing."""
        waiting = Counter(admission.subnet for admission in self._pending)
        greedy = max(waiting, key=lambda subnet: waiting[subnet])
        victim = next(a for a in self._pending if a.subnet == greedy)
        del self._pending[victim]
        self.metrics.refused_pending += 1
        victim.evict()
