"""One node of the virtual overlay: its own core, and what the simulation knows of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from p2pe.core.kademlia.keyspace import Node
from p2pe.core.kademlia.record_store import RecordStore
from p2pe.core.kademlia.routing_table import RoutingTable
from p2pe.core.kademlia.timeouts import Timeouts
from p2pe.errors import RemoteError
from p2pe.model import Millis, PeerId


@dataclass(frozen=True, slots=True)
class FakeRecord:
    """Stands for a signed record: b"<sequence> <expires_at>"."""

    sequence: int
    expires_at: Millis


def accept(key: bytes, raw: bytes, now: Millis) -> FakeRecord:
    sequence, expires = raw.split()
    if int(expires) <= now:
        raise RemoteError("record that has expired")
    return FakeRecord(int(sequence), Millis(int(expires)))


@dataclass(slots=True)
class Bytes:
    """Traffic of one node, both directions."""

    requests: int = 0
    connects: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as its server sees it. `what`: find, put or get."""

    what: str
    key: bytes
    asker: PeerId
    at: float
    record: bytes = b""


@dataclass(slots=True, eq=False)
class Member:
    """A node: its own core, and what the simulation knows of it."""

    node: Node
    is_server: bool
    is_sybil: bool
    x: float  # place in a unit square: distance is latency
    y: float
    table: RoutingTable
    timeouts: Timeouts = field(default_factory=Timeouts)
    alive: bool = True
    store: RecordStore | None = None
    traffic: Bytes = field(default_factory=Bytes)
    warm: dict[PeerId, float] = field(default_factory=dict)  # open connections: until when
    seen: list[Seen] | None = None  # what a curious server notes
