"""Hole punching: a direct connection beside a relayed one, opened from both ends at once. Source: libp2p DCUtR.

Dials leave from the listen port: the router's mapping for it is the one that servers saw and the other side dials. The
other end's SYN meets either our own dial (a simultaneous open) or, when it comes first or from a port that nobody could
foretell, our listener. Both count; whichever connection is there first ends the round.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from p2pe import config
from p2pe.core.addresses import ip_of, is_public, path_of
from p2pe.core.kademlia.rates import RateLimiter
from p2pe.core.observed import NatKind
from p2pe.core.patience import patience
from p2pe.core.punch import (
    Initiator,
    Plan,
    PunchMessage,
    Responder,
    Said,
    gives_way,
    round_seconds,
    silence_of,
    worth_naming,
)
from p2pe.errors import RemoteError, Unreachable
from p2pe.model import Address, PathAttempt, PathKind, PeerId
from p2pe.overlay.closing import close_now
from p2pe.overlay.connection import STREAM_ERRORS, HostConnection
from p2pe.overlay.connections import Connected, HostEvent
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.net import reset_on_close
from p2pe.overlay.relay.placement import local_for
from p2pe.overlay.relay.wire import MessageStream
from p2pe.overlay.wire_addresses import address_to_bytes, addresses_from_bytes
from p2pe.ports import ByteStream, Connection, Stream
from p2pe.proto.circuit_pb2 import HolePunch

log = structlog.get_logger(__name__)

DCUTR_PROTOCOL: Final = "/libp2p/dcutr"
_TYPES: Final = {Said.CONNECT: HolePunch.CONNECT, Said.SYNC: HolePunch.SYNC}
_OCCUPIED: Final = (errno.EADDRNOTAVAIL, errno.EADDRINUSE)  # that pair of ports is connected: by our listener
_MAX_NAMED: Final = 16  # addresses of a message that are looked at


@dataclass(slots=True)
class _Turn:
    """One peer being punched with. `scope` ends our own initiative when the other's comes first."""

    initiates: bool
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class Puncher:
    """Made by `open_puncher`."""

    def __init__(self, host: OverlayHost, nursery: trio.Nursery, useful: Callable[[Address], bool] = is_public) -> None:
        self._host = host
        self._nursery = nursery
        self._useful = useful
        per_minute = config.PUNCH_ANSWERS_PER_MINUTE
        self._answers = RateLimiter(per_minute / 60, per_minute, config.PUNCH_PEERS_COUNTED)
        self._turns: dict[PeerId, _Turn] = {}  # bounded by the relayed connections
        self.allows: Callable[[PeerId], bool] = lambda _: True  # may this peer, who came by a relay, learn our address?
        self.on_answered: Callable[[PeerId, PathAttempt], None] = lambda _, __: None

    # --- the circuit's receiver ---

    async def punch(self, connection: Connection) -> tuple[PathAttempt, ...]:
        """Tries to get a direct connection to the other end of a relayed one, up to PUNCH_ROUNDS times. It shows up in
        the host's connections. Returns what was tried: nothing where it is the other end's part to begin."""
        if (
            not isinstance(connection, HostConnection)
            or connection.is_dialer
            or connection.path is not PathKind.RELAYED
        ):
            return ()
        peer = connection.remote_peer
        if peer in self._turns or self._direct(peer) is not None:
            return ()
        turn = self._turns[peer] = _Turn(initiates=True)
        attempts: list[PathAttempt] = []
        try:
            with turn.scope:
                await self._settle()
                for number in range(config.PUNCH_ROUNDS):
                    attempts.append(await self._round(connection, number))
                    if attempts[-1].outcome == "ok" or not connection.is_alive:
                        break
        finally:
            if self._turns.get(peer) is turn:
                del self._turns[peer]
        return tuple(attempts)

    async def _round(self, connection: HostConnection, number: int) -> PathAttempt:
        started = trio.current_time()
        plan: Plan | None = None
        stream: Stream | None = None
        try:
            with trio.fail_after(connection.patience(config.NEGOTIATION_TIMEOUT, 2)):
                stream = await connection.open_stream(DCUTR_PROTOCOL)
                plan = await self._agree(MessageStream(stream))
            outcome = await self._dial(connection, plan, number)
        except trio.TooSlowError:
            outcome = "the other side didn't answer over the relay"
        except (RemoteError, Unreachable) as error:
            outcome = str(error)
        except STREAM_ERRORS:
            outcome = "the relayed connection broke"
        finally:
            if stream is not None:
                stream.reset()  # both sides have said everything
        return self._attempt(plan, outcome, started)

    async def _agree(self, messages: MessageStream) -> Plan:
        machine = Initiator(self._useful)
        await messages.send(_to_wire(machine.begin(self._own(), trio.current_time())))
        plan = machine.receive(_from_wire(await messages.receive(HolePunch)), trio.current_time())
        await messages.send(_to_wire(PunchMessage(Said.SYNC)))
        return plan

    # --- the circuit's dialler ---

    async def answer(self, stream: Stream) -> None:
        """The handler. Who isn't allowed to learn our addresses gets none: the stream is reset."""
        connection, peer = stream.connection, stream.remote_peer
        is_ours = isinstance(connection, HostConnection) and connection.is_dialer
        earlier = self._turns.get(peer)
        may_go_on = earlier is None or (earlier.initiates and gives_way(self._host.peer_id, peer))
        if connection.path is not PathKind.RELAYED or not (is_ours or self.allows(peer)) or not may_go_on:
            stream.reset()
            return
        if not self._answers.allow(peer, trio.current_time()):  # each has us dial addresses of the peer's choice
            stream.reset()
            return
        if earlier is not None:
            earlier.scope.cancel()
        turn = self._turns[peer] = _Turn(initiates=False)
        started = trio.current_time()
        try:
            with trio.fail_after(patience(config.NEGOTIATION_TIMEOUT, connection.round_trip, 2)):
                plan = await self._follow(MessageStream(stream))
            outcome = await self._dial(connection, plan, 0)
            self.on_answered(peer, self._attempt(plan, outcome, started))
        except (RemoteError, trio.TooSlowError) as error:
            log.debug("hole punching ended early", reason=str(error))
            stream.reset()
        finally:
            if self._turns.get(peer) is turn:
                del self._turns[peer]

    async def _follow(self, messages: MessageStream) -> Plan:
        machine = Responder(self._useful)
        await self._settle()
        while True:
            answer = machine.receive(_from_wire(await messages.receive(HolePunch)), self._own())
            if isinstance(answer, Plan):
                return answer
            await messages.send(_to_wire(answer))

    # --- both ---

    def _own(self) -> tuple[Address, ...]:
        observed = self._host.observations.candidates(trio.current_time())
        return worth_naming(observed, self._host.listen_addresses(), self._useful)

    async def _settle(self) -> None:
        """A node that has only just started is about to be told what it looks like from outside."""
        with trio.move_on_after(config.PUNCH_SETTLE_SECONDS):
            while not self._own():  # noqa: ASYNC110 - observations have no event of their own
                await trio.sleep(config.PUNCH_SETTLE_SECONDS / 10)

    def _direct(self, peer: PeerId) -> HostConnection | None:
        return next((c for c in self._host.connections(peer) if c.path is not PathKind.RELAYED), None)

    def _attempt(self, plan: Plan | None, outcome: str, started: float) -> PathAttempt:
        target = ", ".join(plan.addresses) if plan is not None else ""
        took = trio.current_time() - started
        if outcome != "ok" and plan is not None:
            outcome += self._excuse(plan)
        return PathAttempt(self._host.world.clock.now(), "punch", target, outcome, took)

    def _excuse(self, plan: Plan) -> str:
        """A router that gives each destination another port can't be foretold: ours, or theirs, which several servers
        saw under several ports."""
        observations = self._host.observations
        if observations.nat_kind(self._host.listen_addresses(), trio.current_time()) is NatKind.DEPENDENT:
            return "; NAT types: our router gives each destination another port"
        seen = [ip_of(address) for address in plan.addresses]
        return "; NAT types: their router gives each destination another port" if len(set(seen)) < len(seen) else ""

    async def _dial(self, relayed: Connection, plan: Plan, number: int) -> str:
        """Dials as planned until there is a direct connection, dialled or accepted, or the round is over. "ok", or what
        happened instead."""
        peer = relayed.remote_peer
        if not plan.addresses:
            return "they know no address of theirs that could be dialled"
        seconds = plan.wait + round_seconds(plan.round_trip or relayed.round_trip)
        outcomes: dict[Address, str] = dict.fromkeys(plan.addresses, "timed out")
        async with self._host.events() as events:
            with self._host.punching(plan.addresses), trio.move_on_after(seconds):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._until_direct, peer, events, nursery.cancel_scope)
                    await trio.sleep(plan.wait)
                    for address in plan.addresses:
                        silence = 0.0 if plan.is_client else silence_of(plan.round_trip, number)
                        nursery.start_soon(self._dial_one, peer, address, silence, outcomes)
        if self._direct(peer) is not None:
            return "ok"
        return "; ".join(dict.fromkeys(outcomes.values()))

    async def _until_direct(
        self, peer: PeerId, events: trio.MemoryReceiveChannel[HostEvent], scope: trio.CancelScope
    ) -> None:
        while self._direct(peer) is None:
            event = await events.receive()
            while not isinstance(event, Connected):
                event = await events.receive()
        scope.cancel()

    async def _dial_one(self, peer: PeerId, address: Address, silence: float, outcomes: dict[Address, str]) -> None:
        """Again and again while it is refused: a router that answers strangers lets us in once both SYNs cross."""
        local = local_for(address, self._host.bound_addresses())
        if local is None:
            outcomes[address] = "this node doesn't listen on that IP version"
            return
        while True:
            try:
                raw = await self._host.world.net.dial(address, local=local)
            except OSError as error:
                if error.errno in _OCCUPIED:
                    outcomes[address] = "came in at the listener, and wasn't them"
                    return
                outcomes[address] = "refused" if error.errno == errno.ECONNREFUSED else os.strerror(error.errno or 0)
                await trio.sleep(config.PUNCH_AGAIN_SECONDS)
                continue
            outcomes[address] = "open, but the secure handshake failed"
            # Not in the round's own nursery: a handshake under way goes on though another path was faster.
            self._nursery.start_soon(self._upgrade, peer, raw, silence)
            return

    async def _upgrade(self, peer: PeerId, raw: ByteStream, silence: float) -> None:
        """As the client, or after `silence` seconds as the server that hears nothing. A failure leaves nothing behind:
        the usual way to close would keep this pair of ports from being dialled again for a minute (TIME-WAIT)."""
        path = PathKind.PUNCHED if path_of(raw.remote) is PathKind.DIRECT else path_of(raw.remote)
        is_over = False
        reset_on_close(raw, True)
        try:
            first = await _first_bytes(raw, silence) if silence else b""
            is_over = True
            if first:
                connection = await self._host.upgrade_inbound(_Unread(raw, first), raw.remote, path)
                if connection.remote_peer != peer:
                    connection.close_soon()
            else:
                await self._host.upgrade_outbound(raw, peer, raw.remote, path)
            reset_on_close(raw, False)
        except (Unreachable, *STREAM_ERRORS) as error:
            log.debug("a punched connection came to nothing", reason=str(error))
        finally:
            if not is_over:
                await close_now(raw)


async def _first_bytes(raw: ByteStream, seconds: float) -> bytes:
    """What the client says first; empty when it is silent for so long. Raises trio.BrokenResourceError."""
    with trio.move_on_after(seconds):
        first = bytes(await raw.receive_some())
        if not first:
            raise trio.BrokenResourceError("closed at once")
        return first
    return b""


class _Unread:
    """A ByteStream whose first bytes were read already."""

    def __init__(self, raw: ByteStream, first: bytes) -> None:
        self.local, self.remote = raw.local, raw.remote
        self._raw = raw
        self._first = first

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._first:
            await trio.lowlevel.checkpoint()
            size = max_bytes or len(self._first)
            piece, self._first = self._first[:size], self._first[size:]
            return piece
        return await self._raw.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._raw.send_all(data)

    def send_now(self, data: bytes) -> int:
        return self._raw.send_now(data)

    async def send_eof(self) -> None:
        await self._raw.send_eof()

    async def wait_send_all_might_not_block(self) -> None:
        await self._raw.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._raw.aclose()


def _to_wire(message: PunchMessage) -> HolePunch:
    return HolePunch(type=_TYPES[message.said], obs_addrs=[address_to_bytes(a) for a in message.addresses])


def _from_wire(message: HolePunch) -> PunchMessage:
    """Raises RemoteError for a message of another type."""
    for said, number in _TYPES.items():
        if message.type == number:
            return PunchMessage(said, addresses_from_bytes(list(message.obs_addrs), _MAX_NAMED))
    raise RemoteError("a hole-punching message is neither CONNECT nor SYNC")


@asynccontextmanager
async def open_puncher(host: OverlayHost, useful: Callable[[Address], bool] = is_public) -> AsyncIterator[Puncher]:
    """Answers within the block; `Puncher.punch` initiates. `useful`: which addresses are worth naming and dialling."""
    async with trio.open_nursery() as nursery:
        puncher = Puncher(host, nursery, useful)
        host.handle(DCUTR_PROTOCOL, puncher.answer)
        try:
            yield puncher
        finally:
            host.unhandle(DCUTR_PROTOCOL)
            nursery.cancel_scope.cancel()
