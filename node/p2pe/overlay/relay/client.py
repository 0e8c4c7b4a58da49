"""The relay's clients: holding reservations, taking circuits that come in, dialling `/p2p-circuit` addresses.

Source: libp2p circuit-v2. A relay isn't trusted: whoever comes through it proves itself in the Noise handshake that
runs inside the circuit, and must be who the relay said.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from p2pe import config
from p2pe.core.addresses import is_circuit, relay_of, with_peer
from p2pe.core.patience import patience
from p2pe.core.relay_standing import RelayStanding
from p2pe.errors import RemoteError, Unreachable
from p2pe.model import Address, PathKind, PeerId, PeerInfo
from p2pe.overlay.connection import STREAM_ERRORS, HostConnection, NotSpoken
from p2pe.overlay.connections import Connected, Disconnected, HostEvent, NetworkChanged
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.relay.placement import connect_relay, is_well_placed
from p2pe.overlay.relay.voucher import check_voucher
from p2pe.overlay.relay.wire import (
    HOP_PROTOCOL,
    STOP_PROTOCOL,
    CircuitStream,
    MessageStream,
    plausible_peer,
    stop_status,
)
from p2pe.overlay.wire_addresses import addresses_from_bytes
from p2pe.ports import ByteStream, Stream
from p2pe.proto.circuit_pb2 import HopMessage, Peer, Status, StopMessage

log = structlog.get_logger(__name__)

TAG: Final = "relay"
Candidates = Callable[[], Sequence[PeerInfo]]
_REFRESH_AT: Final = 0.75  # of a reservation's life
_IDLE_SECONDS: Final = 5.0  # until the candidates are asked for again when none is left
_LOOK_SECONDS: Final = 0.2  # at the least between two looks that nothing in particular asked for
_WORDS: Final = {
    Status.RESERVATION_REFUSED: "the relay has no place left",
    Status.RESOURCE_LIMIT_EXCEEDED: "the relay is at its limit",
    Status.PERMISSION_DENIED: "the relay doesn't serve us",
    Status.CONNECTION_FAILED: "the peer didn't answer the relay",
    Status.NO_RESERVATION: "the peer isn't connected to this relay (not online, or moved to another)",
    Status.MALFORMED_MESSAGE: "the relay didn't understand us",
    Status.UNEXPECTED_MESSAGE: "the relay didn't understand us",
}


@dataclass(frozen=True, slots=True)
class Held:
    """A reservation: where it lets us be reached, when it ends (trio time), the connection it hangs on."""

    relay: PeerId
    addresses: tuple[Address, ...]  # circuit addresses, without our own /p2p
    expires: float
    refresh: float
    connection: HostConnection
    has_voucher: bool
    misplaced: int = 0  # times in a row that it was had, but not from our listen port: nobody could punch


class RelayClient:
    """Made by `open_relay_client`. Implements ports.Relays."""

    def __init__(self, host: OverlayHost, nursery: trio.Nursery) -> None:
        self._host = host
        self._nursery = nursery
        self._held: dict[PeerId, Held] = {}
        self._asking: dict[PeerId, None] = {}  # relays that `keep` is asking; bounded by `count`
        self._incoming = 0
        self._standing = RelayStanding()
        self._is_wanted = True
        self._news = trio.Event()  # something for `keep`
        self.settled = trio.Event()  # those asked first have answered or had time for it, or none is wanted

    @property
    def held(self) -> tuple[Held, ...]:
        """Reservations in force."""
        return tuple(h for h in self._held.values() if h.connection.is_alive and h.expires > trio.current_time())

    # --- how relays fare ---

    def broke(self, circuit: Address) -> None:
        """See ports.Relays."""
        via = relay_of(circuit)
        if via is not None:
            self._nursery.start_soon(self._count_failure, via[1])

    async def _count_failure(self, relay: PeerId) -> None:
        """Unless the relay is gone, or our own line: then it isn't the relay's doing."""
        direct = [c for c in self._host.connections(relay) if c.path is not PathKind.RELAYED and c.is_alive]
        if direct and await direct[0].is_answering(config.NETWORK_PROBE_SECONDS):
            self._standing.failed(relay, trio.current_time())
            self._news.set()

    def failures(self, circuit: Address) -> int:
        """See ports.Relays."""
        via = relay_of(circuit)
        return 0 if via is None else self._standing.failures(via[1], trio.current_time())

    def _is_doubted(self, relay: PeerId) -> bool:
        return self._standing.is_doubted(relay, trio.current_time())

    # --- reservations ---

    async def reserve(self, relay: PeerInfo) -> Held:
        """Makes or renews one reservation and announces its addresses. Raises Unreachable."""
        connection = await connect_relay(self._host, relay)
        answer = await self._ask(connection, HopMessage(type=HopMessage.RESERVE))
        expire, now = answer.reservation.expire, trio.current_time()
        seconds = float(expire - self._host.world.clock.now() // 1000)  # by two clocks, one of which may be hours off
        seconds = min(max(seconds, config.RELAY_RESERVATION_LEAST), config.RELAY_RESERVATION_MOST)
        named = addresses_from_bytes(list(answer.reservation.addrs), config.MAX_ADDRESSES)
        suffix = f"/p2p/{relay.peer_id}"
        bases = dict.fromkeys(
            [connection.remote_address, *relay.addresses] if connection.is_dialer else relay.addresses
        )
        bases.update(dict.fromkeys(Address(a.removesuffix(suffix)) for a in named))
        usable = [a for a in bases if not is_circuit(a) and "/p2p/" not in a]
        if not usable:
            raise Unreachable("the relay has no address")
        has_voucher = False
        if answer.reservation.voucher:
            try:
                check_voucher(answer.reservation.voucher, relay.peer_id, self._host.peer_id)
                has_voucher = True
            except RemoteError as error:
                log.debug("a relay's voucher is no good", reason=str(error))  # advisory (circuit-v2)
        before = self._held.get(relay.peer_id)
        misplaced = 0 if is_well_placed(self._host, connection) else 1 + (before.misplaced if before else 0)
        refresh = min(seconds, config.RELAY_RESERVATION_SECONDS) * _REFRESH_AT
        if misplaced:
            refresh = min(refresh, config.RELAY_PORT_RETRY * 2.0 ** min(misplaced - 1, 16))
        held = Held(
            relay=relay.peer_id,
            addresses=tuple(Address(with_peer(a, relay.peer_id) + "/p2p-circuit") for a in usable)[:2],
            expires=now + seconds,
            refresh=now + refresh,
            connection=connection,
            has_voucher=has_voucher,
            misplaced=misplaced,
        )
        self._held[relay.peer_id] = held
        if before is None:
            self._host.protect(relay.peer_id, TAG)
        elif before.connection is not connection:
            connection.protect(TAG)
            before.connection.unprotect(TAG)  # it goes as soon as it carries no circuit
            before.connection.close_if_unused()
        self._announce()
        return held

    def release(self, relay: PeerId) -> None:
        """Gives a reservation up; the connection then goes when it is idle."""
        if self._held.pop(relay, None) is not None:
            self._host.unprotect(relay, TAG)
            self._announce()

    def _announce(self) -> None:
        self._host.announce(TAG, [a for held in self._held.values() for a in held.addresses])

    def want(self, is_wanted: bool) -> None:
        """Whether `keep` is to hold reservations: a node that strangers can dial needs none."""
        if is_wanted is not self._is_wanted:
            self._is_wanted = is_wanted
            self._news.set()

    async def keep(self, candidates: Candidates, count: int = config.RELAY_CLIENT_COUNT) -> None:
        """Holds `count` reservations for as long as it runs: refreshes each in time, replaces those whose relay died,
        refuses or is doubted, asks a relay that failed again only after a growing while. Withdraws all when cancelled.
        """
        backoff = _Backoff(self._host.world.entropy)
        try:
            async with self._host.events() as events, trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, events, backoff)
                while True:
                    self._news = trio.Event()
                    for held in tuple(self._held.values()):
                        is_over = not held.connection.is_alive or held.expires <= trio.current_time()
                        if is_over or not self._is_wanted:
                            self.release(held.relay)
                    for relay in sorted(self._held, key=self._is_doubted)[count:]:
                        self.release(relay)
                    wake = self._top_up(candidates() if self._is_wanted else (), count, backoff, nursery)
                    if not (self._asking or self._is_wanted):
                        self.settled.set()
                    elif self._held and not self.settled.is_set():
                        nursery.start_soon(self._settle)
                    with trio.move_on_at(wake):
                        await self._news.wait()
        finally:
            for relay in tuple(self._held):
                self.release(relay)

    async def _settle(self) -> None:
        await trio.sleep(config.RELAY_SECOND_WAIT)
        self.settled.set()

    async def _watch(self, events: trio.MemoryReceiveChannel[HostEvent], backoff: _Backoff) -> None:
        """Has `keep` look again when a relay of ours is gone, and when any peer that may be one has come."""
        async for event in events:
            if isinstance(event, Connected) and event.connection.is_dialer:
                backoff.succeeded(event.connection.remote_peer)  # it is there: no need to wait
                if event.connection.remote_peer not in self._held:
                    self._news.set()
            elif isinstance(event, NetworkChanged):
                backoff.forget()  # whoever couldn't be reached may be now
                self._news.set()
            elif isinstance(event, Disconnected) and event.connection.remote_peer in self._held:
                self._news.set()

    def _top_up(self, candidates: Sequence[PeerInfo], count: int, backoff: _Backoff, nursery: trio.Nursery) -> float:
        """Starts to renew what is due and to reserve what is missing; returns when to look again (trio time)."""
        by_id = {relay.peer_id: relay for relay in candidates}
        idle = [p for p in {**self._held, **by_id} if p not in self._asking]
        ready = [p for p in idle if backoff.is_ready(p)]
        due = [p for p in ready if p in self._held and self._held[p].refresh <= trio.current_time()]
        fresh = sorted((p for p in ready if p not in self._held), key=self._is_doubted)
        missing = count - len({**self._held, **self._asking})
        # One more for each that is doubted: `keep` lets go of that once the other is there.
        missing += min(sum(map(self._is_doubted, self._held)), sum(not self._is_doubted(p) for p in fresh))
        for peer in [*due, *fresh[: max(0, missing)]]:
            relay = by_id.get(peer) or PeerInfo(peer, _relay_addresses(self._held[peer]))
            self._asking[peer] = None
            nursery.start_soon(self._try_to_reserve, relay, backoff)
        now = trio.current_time()
        times = [max(h.refresh, backoff.ready_at(h.relay)) for h in self._held.values() if h.relay not in self._asking]
        times += [h.expires for h in self._held.values()]
        if missing > 0:
            times += [backoff.ready_at(p) for p in idle if p not in self._held and p not in self._asking]
        return max(now + _LOOK_SECONDS, min(times, default=now + _IDLE_SECONDS))

    async def _try_to_reserve(self, relay: PeerInfo, backoff: _Backoff) -> None:
        try:
            await self.reserve(relay)
            backoff.succeeded(relay.peer_id)
        except Unreachable as error:
            backoff.failed(relay.peer_id, config.RELAY_NOT_ONE_SECONDS if isinstance(error, NotSpoken) else 0.0)
            log.info("no reservation", reason=str(error))
        finally:
            del self._asking[relay.peer_id]
            if not self._asking:
                self.settled.set()
            self._news.set()

    # --- dialling and being dialled ---

    async def dial_circuit(self, address: Address, peer_id: PeerId) -> ByteStream:
        """A raw circuit to the peer through the relay that `address` names: a CircuitDialer. Raises Unreachable."""
        via = relay_of(address)
        if via is None:
            raise Unreachable("not a relay address")
        connection = await connect_relay(self._host, PeerInfo(via[1], (via[0],)))
        request = HopMessage(type=HopMessage.CONNECT, peer=Peer(id=bytes(peer_id)))
        messages = await self._open(connection)
        is_open = False
        try:
            await self._exchange(messages, request)
            is_open = True
            return CircuitStream(messages.stream, messages.rest(), address)
        finally:
            if not is_open:
                messages.stream.reset()

    async def _ask(self, connection: HostConnection, request: HopMessage) -> HopMessage:
        messages = await self._open(connection)
        try:
            return await self._exchange(messages, request)
        finally:
            await messages.stream.aclose()

    async def _open(self, connection: HostConnection) -> MessageStream:
        try:
            return MessageStream(await connection.open_stream(HOP_PROTOCOL))
        except NotSpoken as error:
            raise NotSpoken(f"not a relay: {error}") from None
        except Unreachable as error:
            raise Unreachable(f"not a relay, or it is gone: {error}") from None

    async def _exchange(self, messages: MessageStream, request: HopMessage) -> HopMessage:
        """Raises Unreachable unless the answer is STATUS OK."""
        try:
            # The relay itself waits RELAY_REQUEST_SECONDS for the peer.
            with trio.fail_after(2 * config.RELAY_REQUEST_SECONDS):
                await messages.send(request)
                answer = await messages.receive(HopMessage)
        except trio.TooSlowError:
            raise Unreachable("the relay didn't answer") from None
        except (RemoteError, *STREAM_ERRORS) as error:
            raise Unreachable(f"the relay broke off: {error}") from None
        if answer.type != HopMessage.STATUS or answer.status != Status.OK:
            raise Unreachable(_WORDS.get(answer.status, f"the relay refused (status {answer.status})"))
        return answer

    async def answer_stop(self, stream: Stream) -> None:
        """The STOP handler: takes a circuit from a relay of ours, and serves the connection inside to its end."""
        relay = stream.connection.remote_peer
        messages = MessageStream(stream)
        with trio.move_on_after(config.RELAY_REQUEST_SECONDS) as deadline:
            try:
                request = await messages.receive(StopMessage)
                if request.type != StopMessage.CONNECT:
                    await messages.send(stop_status(Status.UNEXPECTED_MESSAGE))
                    return
                source = plausible_peer(request.peer.id)
            except RemoteError:
                await messages.send(stop_status(Status.MALFORMED_MESSAGE))
                return
            if relay not in self._held:
                await messages.send(stop_status(Status.PERMISSION_DENIED))
                return
            if self._incoming >= config.RELAY_CLIENT_CIRCUITS:
                await messages.send(stop_status(Status.RESOURCE_LIMIT_EXCEEDED))
                return
            await messages.send(stop_status(Status.OK))
        if deadline.cancelled_caught:
            stream.reset()
            return
        address = Address(with_peer(stream.connection.remote_address, relay) + "/p2p-circuit")
        raw = CircuitStream(stream, messages.rest(), address)
        self._incoming += 1
        try:
            # The dialler has yet to hear from the relay, and both of us are perhaps far from it.
            seconds = patience(self._host.limits.upgrade_timeout, stream.connection.round_trip, 3)
            connection = await self._host.upgrade_inbound(raw, address, PathKind.RELAYED, seconds)
        except Unreachable as error:
            log.debug("a circuit came to nothing", reason=str(error))
            return
        finally:
            self._incoming -= 1
        if connection.remote_peer != source:
            log.info("a relay named another peer than the one that came: circuit dropped")
            connection.close_soon()
        await connection.ended.wait()


class _Backoff:
    """When a relay that failed may be asked again: doubling, with jitter, so that nodes don't return together."""

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._failures: dict[PeerId, tuple[int, float]] = {}  # bounded by the candidates

    def is_ready(self, peer: PeerId) -> bool:
        return self.ready_at(peer) <= trio.current_time()

    def ready_at(self, peer: PeerId) -> float:
        return self._failures.get(peer, (0, -1.0))[1]

    def succeeded(self, peer: PeerId) -> None:
        self._failures.pop(peer, None)

    def forget(self) -> None:
        self._failures.clear()

    def failed(self, peer: PeerId, least: float = 0.0) -> None:
        """`least`: seconds that it isn't asked again anyway."""
        count = self._failures.get(peer, (0, 0.0))[0] + 1
        wait = max(least, min(config.RELAY_RETRY_MAX, config.RELAY_RETRY_FIRST * 2.0 ** (count - 1)))
        jitter = 1.0 + config.RETRY_JITTER * (self._entropy(1)[0] / 127.5 - 1.0)
        self._failures[peer] = (min(count, 16), trio.current_time() + wait * jitter)


def _relay_addresses(held: Held) -> tuple[Address, ...]:
    found = (relay_of(address) for address in held.addresses)
    return tuple(via[0] for via in found if via is not None)


@asynccontextmanager
async def open_relay_client(host: OverlayHost) -> AsyncIterator[RelayClient]:
    """Within the block circuit addresses can be dialled, and circuits come in from relays where `RelayClient.reserve`
    or `keep` holds a reservation."""
    async with trio.open_nursery() as nursery:
        client = RelayClient(host, nursery)
        host.handle(STOP_PROTOCOL, client.answer_stop)
        host.set_circuit_dialer(client.dial_circuit)
        try:
            yield client
        finally:
            host.set_circuit_dialer(None)
            host.unhandle(STOP_PROTOCOL)
            nursery.cancel_scope.cancel()
