"""The relay: reservations, and circuits between a peer who dials and one who reserved. Source: libp2p circuit-v2.

Blind: of a circuit's bytes it holds what one read returned and the two connections' bounded windows, keeps none and
logs neither contents nor peers. Each circuit lives in the handler of its own HOP stream: nothing that happens to one
can touch another, and when either connection ends so does the circuit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import Final

import structlog
import trio

from p2pe import config
from p2pe.core.addresses import is_loopback, subnet_of, with_peer
from p2pe.errors import RemoteError, Unreachable
from p2pe.model import Address, PathKind, PeerId
from p2pe.overlay.connection import STREAM_ERRORS, HostConnection
from p2pe.overlay.connections import Disconnected
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.identify import shown_to
from p2pe.overlay.relay.limits import Circuit, Ledger, RelayLimits
from p2pe.overlay.relay.voucher import make_voucher
from p2pe.overlay.relay.wire import (
    HOP_PROTOCOL,
    STOP_PROTOCOL,
    MessageStream,
    hop_status,
    plausible_peer,
)
from p2pe.overlay.wire_addresses import address_to_bytes
from p2pe.ports import Stream
from p2pe.proto.circuit_pb2 import HopMessage, Limit, Peer, Reservation, Status, StopMessage

log = structlog.get_logger(__name__)

TAG: Final = "relay-service"


@dataclass(slots=True)
class RelayMetrics:
    """Counters since the service opened; the last two are present counts."""

    reservations_granted: int = 0
    reservations_refused: int = 0
    circuits_opened: int = 0
    circuits_refused: int = 0
    circuits_failed: int = 0
    circuits_cut: int = 0  # by their limits, or by draining
    bytes_relayed: int = 0
    requests_refused: int = 0
    reservations: int = 0
    circuits: int = 0

    def as_dict(self) -> dict[str, int]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


class RelayService:
    """Made by `open_relay`."""

    def __init__(self, host: OverlayHost, limits: RelayLimits) -> None:
        self.metrics = RelayMetrics()
        self._host = host
        self._limits = limits
        self._ledger = Ledger(limits)
        self._is_draining = False
        self._scopes: dict[Circuit, trio.CancelScope] = {}
        self._changed = trio.Event()

    async def drain(self, seconds: float = config.RELAY_DRAIN_SECONDS) -> None:
        """Takes no new reservations or circuits, gives those that run `seconds` to end, then cuts them."""
        self._is_draining = True
        with trio.move_on_after(seconds):
            await self._until_idle()
        for scope in self._scopes.values():
            scope.cancel()
        await self._until_idle()

    async def _until_idle(self) -> None:
        while self._ledger.circuit_count:
            self._changed = trio.Event()
            await self._changed.wait()

    async def answer_hop(self, stream: Stream) -> None:
        """The HOP handler: one request; a granted CONNECT is served here until the circuit ends."""
        messages = MessageStream(stream)
        connection = stream.connection
        try:
            with trio.fail_after(config.RELAY_REQUEST_SECONDS):
                try:
                    request = await messages.receive(HopMessage)
                except RemoteError:
                    await messages.send(hop_status(Status.MALFORMED_MESSAGE))
                    return
                if not self._ledger.allow_request(connection.remote_peer, trio.current_time()):
                    self.metrics.requests_refused += 1
                    await messages.send(hop_status(Status.RESOURCE_LIMIT_EXCEEDED))
                    return
                if connection.path is PathKind.RELAYED:
                    await messages.send(hop_status(Status.PERMISSION_DENIED))  # no circuits over circuits
                    return
                if request.type == HopMessage.RESERVE:
                    await messages.send(self._reserve(connection.remote_peer, connection.remote_address))
                    return
        except trio.TooSlowError:
            stream.reset()
            return
        if request.type == HopMessage.CONNECT:
            await self._connect(messages, request)
        else:
            await messages.send(hop_status(Status.UNEXPECTED_MESSAGE))

    # --- reservations ---

    def _reserve(self, peer: PeerId, address: Address) -> HopMessage:
        """Grants or refuses. The peer is the connection's; what RESERVE says about itself isn't read."""
        now = trio.current_time()
        if self._is_draining or not self._ledger.reserve(peer, self._subnet(address), now):
            self.metrics.reservations_refused += 1
            return hop_status(Status.RESERVATION_REFUSED)
        self._host.protect(peer, TAG)
        self.metrics.reservations_granted += 1
        self._count()
        expires = self._host.world.clock.now() // 1000 + self._limits.reservation_seconds
        own = shown_to(address, self._host.listen_addresses())
        return HopMessage(
            type=HopMessage.STATUS,
            status=Status.OK,
            reservation=Reservation(
                expire=expires,
                addrs=[address_to_bytes(with_peer(a, self._host.peer_id)) for a in own],
                voucher=make_voucher(self._host.key, peer, expires),
            ),
            limit=self._limit(),
        )

    def _limit(self) -> Limit:
        return Limit(duration=self._limits.circuit_seconds, data=self._limits.circuit_bytes)

    def _subnet(self, address: str) -> bytes | None:
        if is_loopback(address) and not self._limits.limit_loopback:
            return None
        return subnet_of(address)

    def _count(self) -> None:
        self.metrics.reservations = self._ledger.reservation_count
        self.metrics.circuits = self._ledger.circuit_count

    async def watch(self) -> None:
        """Ends the reservations of peers that went away or let theirs run out."""
        async with self._host.events() as events:
            while True:
                with trio.move_on_after(self._limits.reservation_seconds / 4):
                    event = await events.receive()
                    if isinstance(event, Disconnected) and not self._host.connections(event.connection.remote_peer):
                        self._end(event.connection.remote_peer)
                        self._count()
                    continue
                self._ledger.forget_requests_but_of({c.remote_peer for c in self._host.connections()})
                for peer in self._ledger.expire(trio.current_time()):
                    self._host.unprotect(peer, TAG)
                self._count()

    def _end(self, peer: PeerId) -> None:
        self._ledger.forget_peer(peer)
        self._host.unprotect(peer, TAG)

    # --- circuits ---

    async def _connect(self, messages: MessageStream, request: HopMessage) -> None:
        stream = messages.stream
        source = stream.connection.remote_peer
        try:
            target = plausible_peer(request.peer.id)
        except RemoteError:
            await messages.send(hop_status(Status.MALFORMED_MESSAGE))
            return
        direct = [c for c in self._host.connections(target) if c.path is not PathKind.RELAYED]
        if target == source or not direct or not self._ledger.is_reserved(target, trio.current_time()):
            await self._refuse(messages, Status.NO_RESERVATION)
            return
        circuit = None
        if not self._is_draining:
            circuit = self._ledger.open_circuit(source, target, self._subnet(stream.connection.remote_address))
        if circuit is None:
            await self._refuse(messages, Status.RESOURCE_LIMIT_EXCEEDED)
            return
        scope = self._scopes[circuit] = trio.CancelScope()
        self._count()
        try:
            with scope:
                await self._serve(messages, source, direct[0])
            if scope.cancelled_caught:
                self.metrics.circuits_cut += 1
                stream.reset()
        finally:
            del self._scopes[circuit]
            self._ledger.close_circuit(circuit)
            self._count()
            self._changed.set()

    async def _refuse(self, messages: MessageStream, status: Status) -> None:
        self.metrics.circuits_refused += 1
        await messages.send(hop_status(status))

    async def _serve(self, messages: MessageStream, source: PeerId, target: HostConnection) -> None:
        far = await self._stop(source, target)
        if far is None:
            self.metrics.circuits_failed += 1
            await messages.send(hop_status(Status.CONNECTION_FAILED))
            return
        is_over = False
        try:
            await messages.send(HopMessage(type=HopMessage.STATUS, status=Status.OK, limit=self._limit()))
            self.metrics.circuits_opened += 1
            await self._bridge(messages, far)
            is_over = True
        finally:
            if not is_over:
                far.stream.reset()
        await far.stream.aclose()  # what was relayed still goes out; `near` is closed the same way by the host

    async def _stop(self, source: PeerId, target: HostConnection) -> MessageStream | None:
        """Asks the target to take the circuit; None when it doesn't."""
        far: MessageStream | None = None
        is_open = False
        try:
            with trio.move_on_after(min(config.RELAY_STOP_MAX, target.patience(config.RELAY_REQUEST_SECONDS, 2))):
                far = MessageStream(await target.open_stream(STOP_PROTOCOL))
                await far.send(StopMessage(type=StopMessage.CONNECT, peer=Peer(id=source), limit=self._limit()))
                answer = await far.receive(StopMessage)
                is_open = answer.type == StopMessage.STATUS and answer.status == Status.OK
        except (RemoteError, Unreachable, *STREAM_ERRORS):
            pass
        finally:
            if far is not None and not is_open:
                far.stream.reset()
        return far if is_open else None

    async def _bridge(self, near: MessageStream, far: MessageStream) -> None:
        """Carries bytes both ways until both ends have closed, one breaks, or a limit is reached."""
        with trio.move_on_after(self._limits.circuit_seconds) as clock:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, near, far.stream, nursery.cancel_scope)
                nursery.start_soon(self._carry, far, near.stream, nursery.cancel_scope)
        if clock.cancelled_caught:
            self.metrics.circuits_cut += 1
            near.stream.reset()
            far.stream.reset()

    async def _carry(self, source: MessageStream, target: Stream, circuit: trio.CancelScope) -> None:
        left = self._limits.circuit_bytes
        stream, piece = source.stream, source.rest()
        try:
            while True:
                left -= len(piece)
                if left < 0:
                    self.metrics.circuits_cut += 1
                    break
                if piece:
                    await target.send_all(piece)
                    self.metrics.bytes_relayed += len(piece)
                piece = bytes(await stream.receive_some(self._limits.buffer_bytes))
                if not piece:
                    await target.send_eof()
                    return
        except STREAM_ERRORS:
            pass
        stream.reset()
        target.reset()
        circuit.cancel()


@asynccontextmanager
async def open_relay(host: OverlayHost, limits: RelayLimits | None = None) -> AsyncIterator[RelayService]:
    """Serves as a relay within the block; call `drain` before leaving it to let circuits end by themselves."""
    service = RelayService(host, limits or RelayLimits())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.watch)
        host.handle(HOP_PROTOCOL, service.answer_hop)
        try:
            yield service
        finally:
            host.unhandle(HOP_PROTOCOL)
            with trio.CancelScope(shield=True):
                await service.drain(0)
            nursery.cancel_scope.cancel()
