"""Dials that several callers wait for: no address of a peer is raced twice at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from p2pe import config
from p2pe.errors import Unreachable
from p2pe.model import Address, PathAttempt, PeerId, PeerInfo
from p2pe.overlay.connection import HostConnection

Dial = Callable[[PeerInfo], Awaitable[tuple[HostConnection, tuple[PathAttempt, ...]]]]
"""A new connection by racing the peer's addresses, and what was tried. Raises Unreachable."""


class _PendingDial:
    """One race to a peer, and how many wait for it."""

    __slots__ = ("addresses", "attempts", "connection", "done", "failure", "lingers", "scope", "waiting")

    def __init__(self, addresses: tuple[Address, ...]) -> None:
        self.addresses = addresses
        self.done = trio.Event()
        self.scope = trio.CancelScope()
        self.connection: HostConnection | None = None
        self.failure = Unreachable("the dial was cancelled")
        self.attempts: tuple[PathAttempt, ...] = ()
        self.waiting = 0
        self.lingers = False  # goes on with nobody waiting


class SharedDials:
    """Of one host; runs them in its nursery."""

    def __init__(self, dial: Dial, nursery: trio.Nursery) -> None:
        self._dial = dial
        self._nursery = nursery
        self._pending: dict[PeerId, list[_PendingDial]] = {}
        self._lingering = 0  # dials that go on though nobody waits

    async def connect(self, peer: PeerInfo, linger: Callable[[], bool]) -> HostConnection:
        """A new connection, of this caller's dial or of one under way. Raises Unreachable with every attempt.

        `linger` is asked when this call is cancelled as the last one that waits: True lets the dial go on to its own
        time-out, and its connection stay for LINGERING_SECONDS.
        """
        racing = list(self._pending.get(peer.peer_id, ()))
        raced = {address for pending in racing for address in pending.addresses}
        fresh = tuple(address for address in dict.fromkeys(peer.addresses) if address not in raced)
        if fresh or not racing:  # addresses learnt while a race is on don't wait for its end
            racing.append(self._start(PeerInfo(peer.peer_id, fresh)))
        connection = await self._first_of(racing, peer.peer_id, linger)
        if connection is not None:
            return connection
        tried = tuple(attempt for pending in racing for attempt in pending.attempts)
        raise Unreachable(str(racing[-1].failure), tried)

    def _start(self, peer: PeerInfo) -> _PendingDial:
        pending = _PendingDial(peer.addresses)
        self._pending.setdefault(peer.peer_id, []).append(pending)
        self._nursery.start_soon(self._run, peer, pending)
        return pending

    async def _run(self, peer: PeerInfo, pending: _PendingDial) -> None:
        try:
            with pending.scope:
                pending.connection, pending.attempts = await self._dial(peer)
        except Unreachable as failure:
            pending.failure, pending.attempts = failure, failure.attempts
        finally:
            self._lingering -= pending.lingers
            self._forget(peer.peer_id, pending)
            pending.done.set()
        if pending.lingers and pending.connection is not None:
            await trio.sleep(config.LINGERING_SECONDS)
            pending.connection.close_if_unused()

    async def _first_of(
        self, racing: Sequence[_PendingDial], peer_id: PeerId, linger: Callable[[], bool]
    ) -> HostConnection | None:
        """The connection of the race that is won first; None when all are lost."""
        won: list[HostConnection] = []

        async def wait(pending: _PendingDial) -> None:
            connection = await self._wait_for(pending, peer_id, linger)
            if connection is not None:
                won.append(connection)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for pending in racing:
                nursery.start_soon(wait, pending)
        return won[0] if won else None

    async def _wait_for(
        self, pending: _PendingDial, peer_id: PeerId, linger: Callable[[], bool]
    ) -> HostConnection | None:
        """When the last one who waits is cancelled, so is the dial, unless it lingers."""
        pending.waiting += 1
        try:
            await pending.done.wait()
        finally:
            pending.waiting -= 1
            if pending.waiting or pending.done.is_set() or pending.lingers:
                pass
            elif linger() and self._lingering < config.MAX_LINGERING_DIALS:
                pending.lingers = True
                self._lingering += 1
            else:
                pending.scope.cancel()
                self._forget(peer_id, pending)
        return pending.connection

    def _forget(self, peer_id: PeerId, pending: _PendingDial) -> None:
        left = [each for each in self._pending.get(peer_id, ()) if each is not pending]
        if left:
            self._pending[peer_id] = left
        else:
            self._pending.pop(peer_id, None)
