"""All live connections of a host: the best one to a peer, the limit per peer, protection, and who wants to know."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from p2pe import config
from p2pe.model import PathKind, PeerId
from p2pe.overlay.connection import RANK, HostConnection
from p2pe.overlay.limits import HostLimits, HostMetrics


@dataclass(frozen=True, slots=True)
class Connected:
    connection: HostConnection


@dataclass(frozen=True, slots=True)
class Disconnected:
    connection: HostConnection


@dataclass(frozen=True, slots=True)
class AddressesChanged:
    """`Host.listen_addresses()` answers otherwise than before."""


@dataclass(frozen=True, slots=True)
class NetworkChanged:
    """This machine is on another network than before: what was learnt about the old one no longer holds."""


HostEvent = Connected | Disconnected | AddressesChanged | NetworkChanged


class Connections:
    """Registry of live connections, in order of creation."""

    def __init__(self, limits: HostLimits, metrics: HostMetrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._by_peer: dict[PeerId, list[HostConnection]] = {}
        self._protected: dict[PeerId, dict[str, None]] = {}  # bounded by our own rooms, not by strangers
        self._subscribers: dict[int, trio.MemorySendChannel[HostEvent]] = {}
        self._next_subscriber = 0
        self._is_last_gone: trio.Event | None = None

    def add(self, connection: HostConnection) -> bool:
        """Takes it in; False when it is the one too many for its peer. An older, worse one may be closed instead."""
        peers = self._by_peer.setdefault(connection.remote_peer, [])
        if len(peers) >= self._limits.max_connections_per_peer:
            victim = max([*peers, connection], key=lambda c: (RANK[c.path], -c.number))
            if victim is connection:
                self._metrics.refused_peer += 1
                return False
            peers.remove(victim)
            victim.close_soon()
            self.publish(Disconnected(victim))
        peers.append(connection)
        for tag in self._protected.get(connection.remote_peer, ()):
            connection.protect(tag)
        self.publish(Connected(connection))
        return True

    def remove(self, connection: HostConnection) -> None:
        """Forgets it; once is enough, twice does no harm."""
        peers = self._by_peer.get(connection.remote_peer)
        if peers is None or connection not in peers:
            return
        peers.remove(connection)
        if not peers:
            del self._by_peer[connection.remote_peer]
        self.publish(Disconnected(connection))

    def best(self, peer_id: PeerId, accept: Callable[[PathKind], bool] = lambda _: True) -> HostConnection | None:
        """Of those that take new streams the one with the best path; the youngest among equals, since an older one
        may be half dead."""
        live = [c for c in self._by_peer.get(peer_id, ()) if c.takes_streams and accept(c.path)]
        return min(live, key=lambda c: (RANK[c.path], -c.number), default=None)

    def all(self, peer_id: PeerId | None = None) -> tuple[HostConnection, ...]:
        """Live ones to `peer_id`, best first; or all of them in order of creation."""
        if peer_id is None:
            found = [c for peers in self._by_peer.values() for c in peers if c.is_alive]
            return tuple(sorted(found, key=lambda c: c.number))
        live = [c for c in self._by_peer.get(peer_id, ()) if c.is_alive]
        return tuple(sorted(live, key=lambda c: (RANK[c.path], -c.number)))

    def protect(self, peer_id: PeerId, tag: str) -> None:
        """Connections to the peer, present and to come, aren't closed for being idle while any tag is on it."""
        self._protected.setdefault(peer_id, {})[tag] = None
        for connection in self._by_peer.get(peer_id, ()):
            connection.protect(tag)

    def unprotect(self, peer_id: PeerId, tag: str) -> None:
        tags = self._protected.get(peer_id, {})
        tags.pop(tag, None)
        if not tags:
            self._protected.pop(peer_id, None)
        for connection in self._by_peer.get(peer_id, ()):
            connection.unprotect(tag)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[trio.MemoryReceiveChannel[HostEvent]]:
        """Events from now on. One who reads too slowly misses some (counted): ask `all()` when in doubt."""
        send, receive = trio.open_memory_channel[HostEvent](config.EVENT_BUFFER)
        number = self._next_subscriber
        self._next_subscriber += 1
        self._subscribers[number] = send
        try:
            async with receive:
                yield receive
        finally:
            del self._subscribers[number]
            send.close()

    def publish(self, event: HostEvent) -> None:
        for channel in self._subscribers.values():
            try:
                channel.send_nowait(event)
            except trio.WouldBlock:
                self._metrics.events_dropped += 1
            except trio.BrokenResourceError:
                pass  # its reader is leaving
