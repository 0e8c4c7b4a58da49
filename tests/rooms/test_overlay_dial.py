"""The address race, on a scripted network under a virtual clock."""

from __future__ import annotations

import errno
import os
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio
import trio.testing
from overlay_kit import FixedClock, inline, say
from p2pe import config
from p2pe.errors import Unreachable
from p2pe.model import Address, PathKind, PeerId, PeerInfo
from p2pe.overlay.host import OverlayHost, open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.ports import ByteStream, Listener, NetworkChanges, Stream, World

ECHO = "/test/echo/1.0.0"


class MemoryStream:
    def __init__(self, stream: trio.StapledStream, local: Address, remote: Address) -> None:
        self._stream = stream
        self.local, self.remote = local, remote

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(bytes(data))

    def send_now(self, data: bytes) -> int:
        return 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class MemoryListener:
    def __init__(self, net: ScriptedNet, address: Address) -> None:
        self.address = address
        self._net = net
        self.send, self._receive = trio.open_memory_channel[ByteStream](100)

    async def accept(self) -> ByteStream:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise trio.ClosedResourceError from None

    async def aclose(self) -> None:
        self._net.listeners.pop(self.address, None)
        self.send.close()
        await trio.lowlevel.checkpoint()


@dataclass
class ScriptedNet:
    """Addresses answer as told: after a delay, with an error, or never."""

    listeners: dict[Address, MemoryListener] = field(default_factory=dict)
    delays: dict[Address, float] = field(default_factory=dict)
    errors: dict[Address, int] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dials: list[tuple[float, Address]] = field(default_factory=list)
    open_streams: int = 0

    async def listen(self, address: Address) -> Listener:
        listener = self.listeners[address] = MemoryListener(self, address)
        return listener

    async def dial(self, address: Address, *, local: Address | None = None) -> ByteStream:
        self.dials.append((trio.current_time(), address))
        await trio.sleep(self.delays.get(address, 0.01))
        if address in self.errors:
            raise OSError(self.errors[address], os.strerror(self.errors[address]))
        listener = self.listeners.get(address)
        if listener is None:
            raise OSError(errno.ECONNREFUSED, "refused")
        here, there = trio.testing.memory_stream_pair()
        source = Address("/ip4/10.9.9.9/tcp/40000")
        await listener.send.send(MemoryStream(there, address, source))
        return MemoryStream(here, source, address)

    async def interfaces(self) -> tuple[Address, ...]:
        return ()

    def changes(self) -> AbstractAsyncContextManager[NetworkChanges]:
        raise NotImplementedError

    async def resolve(self, name: str) -> tuple[str, ...]:
        if name not in self.names:
            raise OSError("no such name")
        return self.names[name]


def a(number: int) -> Address:
    return Address(f"/ip4/192.0.2.{number}/tcp/4001")


async def echo(stream: Stream) -> None:
    while piece := await stream.receive_some():
        await stream.send_all(piece)
    await stream.send_eof()


async def two_hosts(stack: AsyncExitStack, net: ScriptedNet, listen: list[Address]) -> tuple[OverlayHost, OverlayHost]:
    world = World(clock=FixedClock(), entropy=os.urandom, net=net, threads=inline)  # type: ignore[arg-type]
    dialer = await stack.enter_async_context(open_host(world, key=HostKey.generate(os.urandom)))
    listener = await stack.enter_async_context(open_host(world, key=HostKey.generate(os.urandom), listen=listen))
    listener.handle(ECHO, echo)
    return dialer, listener


async def test_a_dead_address_costs_one_stagger(autojump_clock: trio.testing.MockClock) -> None:
    net = ScriptedNet(delays={a(1): 3600})
    async with AsyncExitStack() as stack:
        dialer, listener = await two_hosts(stack, net, [a(2)])
        started = trio.current_time()
        connection = await dialer.connect(PeerInfo(listener.peer_id, (a(1), a(2))))
        assert trio.current_time() - started < 2 * config.DIAL_STAGGER
        assert connection.remote_address == a(2) and connection.path is PathKind.DIRECT
        assert await say(await connection.open_stream(ECHO), b"hi") == b"hi"


async def test_a_refused_address_costs_no_stagger(autojump_clock: trio.testing.MockClock) -> None:
    net = ScriptedNet(errors={a(1): errno.ECONNREFUSED})
    async with AsyncExitStack() as stack:
        dialer, listener = await two_hosts(stack, net, [a(2)])
        started = trio.current_time()
        await dialer.connect(PeerInfo(listener.peer_id, (a(1), a(2))))
        assert trio.current_time() - started < config.DIAL_STAGGER


async def test_every_address_is_told_of(autojump_clock: trio.testing.MockClock) -> None:
    net = ScriptedNet(errors={a(1): errno.ECONNREFUSED, a(2): errno.ENETUNREACH}, delays={a(3): 3600})
    named = Address("/dns4/nowhere.example/tcp/4001")
    circuit = Address(f"/ip4/192.0.2.5/tcp/1/p2p/{HostKey(b'r' * 32).peer_id}/p2p-circuit")
    async with AsyncExitStack() as stack:
        dialer, listener = await two_hosts(stack, net, [a(8)])
        with pytest.raises(Unreachable) as caught:
            await dialer.connect(PeerInfo(listener.peer_id, (circuit, a(1), a(2), a(3), named)))
        told = {attempt.target: (attempt.step, attempt.outcome) for attempt in caught.value.attempts}
        assert told[a(1)] == ("dial", "refused")
        assert told[a(2)] == ("dial", "no route to the network")
        assert told[a(3)] == ("dial", "timed out")
        assert "no such name" in told[named][1]
        assert told[circuit] == ("relay", "relayed connections are switched off")
        assert trio.current_time() == pytest.approx(config.DIAL_TIMEOUT)


async def test_names_are_resolved(autojump_clock: trio.testing.MockClock) -> None:
    net = ScriptedNet(names={"p.example": ("2001:db8::1", "192.0.2.7", "192.0.2.2")})
    async with AsyncExitStack() as stack:
        dialer, listener = await two_hosts(stack, net, [a(2)])
        connection = await dialer.connect(PeerInfo(listener.peer_id, (Address("/dns4/p.example/tcp/4001"),)))
        assert connection.remote_address == a(2)


async def test_simultaneous_calls_share_one_dial(autojump_clock: trio.testing.MockClock) -> None:
    net = ScriptedNet()
    got = []
    async with AsyncExitStack() as stack:
        dialer, listener = await two_hosts(stack, net, [a(2)])
        peer = PeerInfo(listener.peer_id, (a(2),))

        async def one() -> None:
            got.append(await dialer.connect(peer))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one)
        assert len(net.dials) == 1 and all(c is got[0] for c in got)


async def test_a_cancelled_caller_leaves_the_dial_to_the_others(autojump_clock: trio.testing.MockClock) -> None:
    net = ScriptedNet(delays={a(2): 1.0})
    async with AsyncExitStack() as stack:
        dialer, listener = await two_hosts(stack, net, [a(2)])
        peer = PeerInfo(listener.peer_id, (a(2),))
        with trio.move_on_after(0.5):
            await dialer.connect(peer)
        await trio.sleep(2)
        assert dialer.connections() == ()  # nobody waited: the dial was dropped

        async with trio.open_nursery() as nursery:
            with_patience: list[object] = []

            async def patient() -> None:
                with_patience.append(await dialer.connect(peer))

            async def hasty() -> None:
                with trio.move_on_after(0.5):
                    await dialer.connect(peer)

            nursery.start_soon(hasty)
            nursery.start_soon(patient)
        assert len(with_patience) == 1 and len(net.dials) == 2


async def test_a_dial_may_linger_for_who_asks_again(autojump_clock: trio.testing.MockClock) -> None:
    """As after a request's time-out on a slow line: the second request waits for the rest of the first one's dial."""
    net = ScriptedNet(delays={a(2): 4.0})
    async with AsyncExitStack() as stack:
        dialer, listener = await two_hosts(stack, net, [a(2)])
        peer = PeerInfo(listener.peer_id, (a(2),))
        began = trio.current_time()
        with trio.move_on_after(3.0) as first:
            await dialer.connect(peer, linger=lambda: True)
        assert first.cancelled_caught
        with trio.move_on_after(3.0):
            await dialer.connect(peer, linger=lambda: True)
        assert len(dialer.connections()) == 1 and len(net.dials) == 1
        assert trio.current_time() - began < 4.5
        await trio.sleep(config.LINGERING_SECONDS + 1)
        assert dialer.connections() == ()  # nobody used it


async def test_lingering_dials_are_few(autojump_clock: trio.testing.MockClock) -> None:
    net = ScriptedNet(delays={a(2): 5.0})
    async with AsyncExitStack() as stack:
        dialer, _ = await two_hosts(stack, net, [a(2)])
        strangers = [HostKey.generate(os.urandom).peer_id for _ in range(config.MAX_LINGERING_DIALS + 8)]
        with trio.move_on_after(1.0):
            async with trio.open_nursery() as nursery:
                for stranger in strangers:
                    nursery.start_soon(partial(dialer.connect, PeerInfo(stranger, (a(2),)), linger=lambda: True))
        assert len(net.dials) == len(strangers)
        await trio.sleep(config.DIAL_TIMEOUT)
        assert dialer.metrics.dials_failed == config.MAX_LINGERING_DIALS  # the others were dropped


async def test_a_caller_with_other_addresses_does_not_wait_for_a_race_that_is_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The address that worked last is dead; a lookup brings a relay's: it is dialled at once."""
    net = ScriptedNet(delays={a(1): 3600})
    async with AsyncExitStack() as stack:
        dialer, listener = await two_hosts(stack, net, [a(2)])
        began = trio.current_time()
        connected: list[float] = []

        async def attempt(*addresses: Address) -> None:
            await dialer.connect(PeerInfo(listener.peer_id, addresses))
            connected.append(trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, a(1))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(attempt, a(1), a(2))
        assert connected[0] < 1.0
        assert len(connected) == 2  # the first caller takes the connection that came meanwhile
        assert len(dialer.connections(listener.peer_id)) == 1


async def test_a_registered_dialer_takes_circuit_addresses(autojump_clock: trio.testing.MockClock) -> None:
    net = ScriptedNet()
    relay = HostKey(b"r" * 32).peer_id
    circuit = Address(f"/ip4/192.0.2.5/tcp/1/p2p/{relay}/p2p-circuit")
    asked: list[tuple[Address, PeerId]] = []
    async with AsyncExitStack() as stack:
        dialer, listener = await two_hosts(stack, net, [a(2)])

        async def dial_circuit(address: Address, peer_id: PeerId) -> ByteStream:
            asked.append((address, peer_id))
            here, there = trio.testing.memory_stream_pair()
            stack_nursery.start_soon(
                listener.upgrade_inbound, MemoryStream(there, circuit, circuit), circuit, PathKind.RELAYED
            )
            return MemoryStream(here, circuit, circuit)

        async with trio.open_nursery() as stack_nursery:
            dialer.set_circuit_dialer(dial_circuit)
            text = Address(f"{circuit}/p2p/{listener.peer_id}")
            connection = await dialer.connect(PeerInfo(listener.peer_id, (text,)))
            assert connection.path is PathKind.RELAYED
            assert asked == [(circuit, listener.peer_id)]
            assert await say(await connection.open_stream(ECHO), b"over") == b"over"
            identity = await dialer.identify(connection)
            assert identity.addresses == () and identity.observed is None
        direct = await dialer.dial(PeerInfo(listener.peer_id, (a(2),)))
        assert await dialer.connect(PeerInfo(listener.peer_id)) is direct
        assert dialer.connections(listener.peer_id) == (direct, connection)


async def test_connections_per_peer_are_limited_the_oldest_goes(autojump_clock: trio.testing.MockClock) -> None:
    net = ScriptedNet()
    async with AsyncExitStack() as stack:
        dialer, listener = await two_hosts(stack, net, [a(2)])
        made = [await dialer.dial(PeerInfo(listener.peer_id, (a(2),))) for _ in range(6)]
        with trio.fail_after(5):
            await made[0].ended.wait()
            await made[1].ended.wait()
        assert [c.is_alive for c in made] == [False, False, True, True, True, True]
        assert dialer.connections(listener.peer_id) == tuple(reversed(made[2:]))


async def test_a_connection_whose_other_end_has_said_goodbye_is_left_to_those_who_use_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    net = ScriptedNet()
    async with AsyncExitStack() as stack:
        dialer, listener = await two_hosts(stack, net, [a(2)])
        peer = PeerInfo(listener.peer_id, (a(2),))
        connection = await dialer.connect(peer)
        stream = await connection.open_stream(ECHO)
        goodbye = b"\0\3" + bytes(10)  # as other implementations may send it long before the end
        connection._muxer._dispatch(connection._muxer.machine.receive(goodbye))
        assert connection.is_alive and not connection.takes_streams
        assert await say(stream, b"still") == b"still"
        assert await dialer.connect(peer) is not connection


async def test_idle_connections_end_unless_protected_or_used(autojump_clock: trio.testing.MockClock) -> None:
    net = ScriptedNet()
    async with AsyncExitStack() as stack:
        dialer, listener = await two_hosts(stack, net, [a(2)])
        listener.protect(dialer.peer_id, "test")
        peer = PeerInfo(listener.peer_id, (a(2),))
        connection = await dialer.connect(peer)
        await trio.sleep(config.IDLE_CONNECTION_SECONDS - 1)
        assert connection.is_alive
        await trio.sleep(2)
        assert not connection.is_alive

        used = await dialer.connect(peer)
        stream = await used.open_stream(ECHO)
        await trio.sleep(3 * config.IDLE_CONNECTION_SECONDS)
        assert used.is_alive
        await stream.aclose()
        dialer.protect(listener.peer_id, "mine")
        await trio.sleep(3 * config.IDLE_CONNECTION_SECONDS)
        assert used.is_alive
        dialer.unprotect(listener.peer_id, "mine")
        await trio.sleep(config.IDLE_CONNECTION_SECONDS + 1)
        assert not used.is_alive


async def test_a_link_that_goes_silent_is_noticed(autojump_clock: trio.testing.MockClock) -> None:
    """Half-open death: bytes vanish, nothing is closed (libp2p-facts, 7)."""
    net = ScriptedNet()
    async with AsyncExitStack() as stack:
        dialer, listener = await two_hosts(stack, net, [a(2)])
        cut = trio.Event()
        here, there = trio.testing.memory_stream_pair()
        raw = Silenced(MemoryStream(there, a(2), a(9)), cut)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.upgrade_inbound, raw, a(9), PathKind.DIRECT)
            connection = await dialer.upgrade_outbound(
                MemoryStream(here, a(9), a(2)), listener.peer_id, a(2), PathKind.DIRECT
            )
        dialer.protect(listener.peer_id, "test")
        listener.protect(dialer.peer_id, "test")
        await trio.sleep(60)
        assert connection.is_alive and connection.round_trip is not None
        cut.set()
        silent_since = trio.current_time()
        await connection.ended.wait()
        assert trio.current_time() - silent_since <= 10


class Silenced(MemoryStream):
    """Swallows what is sent once `cut` is set."""

    def __init__(self, inner: MemoryStream, cut: trio.Event) -> None:
        super().__init__(inner._stream, inner.local, inner.remote)
        self._cut = cut

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._cut.is_set():
            await trio.lowlevel.checkpoint()
            return
        await super().send_all(data)
