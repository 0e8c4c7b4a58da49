"""The trio driver of yamux: fairness, limits, dead links, endings, and py-libp2p's own Yamux at the other end."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from p2pe import config
from p2pe.core.yamux import ACK, DATA, GO_AWAY, HEADER, PING, SYN, WINDOW_UPDATE
from p2pe.overlay.yamux import LISTENER_PATIENCE, YamuxConnection
from p2pe.overlay.yamux_stream import MuxedStream

KIB, MIB = config.KIB, config.MIB
CARRIERS = {"prompt": False}


@pytest.fixture(autouse=True, params=["waits", "prompt"])
def carriers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test on both kinds of what runs below."""
    monkeypatch.setitem(CARRIERS, "prompt", request.param == "prompt")


class Prompt:
    """A carrier that takes at once everything, half of it or nothing, in turn."""

    def __init__(self, stream: trio.StapledStream, other: trio.StapledStream, shares: tuple[float, ...]) -> None:
        self._stream, self._other, self._shares = stream, other, shares
        self._left = b""
        self.receive_some = stream.receive_some
        self.aclose = stream.aclose
        self.took: list[int] = []  # at once, each time

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        left, self._left = self._left, b""
        await self._stream.send_all(left + bytes(data))

    def send_now(self, data: bytes) -> bool:
        assert not self._left, "only send_all may follow when something is left"
        size = int(len(data) * self._shares[len(self.took) % len(self._shares)])
        self.took.append(size)
        try:
            if size:
                self._other.receive_stream.put_data(data[:size])
        except trio.ClosedResourceError:
            size = 0
        self._left = data[size:]
        return not self._left


def carrier(stream: trio.StapledStream, other: trio.StapledStream, shares: tuple[float, ...] = (1, 0.5, 0)) -> Any:
    return Prompt(stream, other, shares) if CARRIERS["prompt"] else stream


@asynccontextmanager
async def connected(**options: float) -> AsyncIterator[tuple[YamuxConnection, YamuxConnection]]:
    left, right = trio.testing.memory_stream_pair()
    dialer = YamuxConnection(carrier(left, right), True, **options)  # type: ignore[arg-type]
    listener = YamuxConnection(carrier(right, left), False, **options)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(dialer.run)
        await nursery.start(listener.run)
        yield dialer, listener
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def raw_peer(*, is_dialer: bool = False) -> AsyncIterator[tuple[YamuxConnection, trio.StapledStream]]:
    """A connection of ours, and the bare other end of its wire."""
    ours, theirs = trio.testing.memory_stream_pair()
    connection = YamuxConnection(carrier(ours, theirs, (1, 0)), is_dialer)
    async with trio.open_nursery() as nursery:
        await nursery.start(connection.run)
        yield connection, theirs
        nursery.cancel_scope.cancel()


async def read_all(stream: MuxedStream) -> bytes:
    got = bytearray()
    while piece := await stream.receive_some():
        got += piece
    return bytes(got)


async def drain(wire: trio.StapledStream) -> None:
    while await wire.receive_some():
        pass


async def test_bulk_in_both_directions_at_once() -> None:
    payload = bytes(range(256)) * (12 * KIB)  # 3 MiB

    async def send(stream: MuxedStream) -> None:
        await stream.send_all(payload)
        await stream.send_eof()

    async with connected() as (dialer, listener), trio.open_nursery() as nursery:
        mine = await dialer.open_stream()
        theirs = await listener.accept_stream()
        nursery.start_soon(send, mine)
        nursery.start_soon(send, theirs)
        got: list[bytes] = []
        for stream in (mine, theirs):
            got.append(b"")

            async def receive(stream: MuxedStream = stream, place: int = len(got) - 1) -> None:
                got[place] = await read_all(stream)

            nursery.start_soon(receive)
        while any(not piece for piece in got):
            await trio.lowlevel.checkpoint()
        assert got == [payload, payload]
        await trio.testing.wait_all_tasks_blocked()
        assert dialer.machine.streams == listener.machine.streams == {}


async def test_a_reader_that_never_reads_neither_stops_nor_resets_others() -> None:
    async with connected() as (dialer, listener), trio.open_nursery() as nursery:
        stuck = await dialer.open_stream()
        unread = await listener.accept_stream()
        nursery.start_soon(stuck.send_all, bytes(4 * MIB))
        await trio.testing.wait_all_tasks_blocked()
        other = await dialer.open_stream()
        theirs = await listener.accept_stream()
        for _ in range(50):
            await other.send_all(b"request")
            assert await theirs.receive_some() == b"request"
            await theirs.send_all(b"answer")
            assert await other.receive_some() == b"answer"
        got = 0
        while got < 4 * MIB:
            got += len(await unread.receive_some())


async def test_small_writes_keep_their_order_however_they_go_out() -> None:
    async with connected() as (dialer, listener):
        stream = await dialer.open_stream()
        theirs = await listener.accept_stream()
        pieces = [bytes([n % 251]) * (1 + n * 37 % 3000) for n in range(400)]
        got: list[bytes] = []

        async def receive() -> None:
            got.append(await read_all(theirs))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            for number, piece in enumerate(pieces):
                await (stream.send(piece) if number % 5 else stream.send_all(piece))
            await stream.send_eof()
        assert got == [b"".join(pieces)]


async def test_a_small_write_is_on_its_way_when_send_returns_and_many_let_others_run() -> None:
    left, right = trio.testing.memory_stream_pair()
    below = Prompt(left, right, (1,))
    connection = YamuxConnection(below, True)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        await nursery.start(connection.run)
        stream = await connection.open_stream()
        await trio.testing.wait_all_tasks_blocked()
        before = len(below.took)
        await stream.send(b"hello")
        assert below.took[before:] == [HEADER.size + 5]
        nursery.start_soon(other)
        for _ in range(200):
            await stream.send(b"hello")
        assert 10 <= turns < 100
        nursery.cancel_scope.cancel()


async def test_what_send_now_refuses_it_has_not_queued() -> None:
    async with raw_peer(is_dialer=True) as (connection, wire):
        stream = await connection.open_stream()
        assert not stream.send_now(bytes(config.YAMUX_SEND_BUFFER + 1))
        await stream.send_eof()
        assert not stream.send_now(b"late")
        with pytest.raises(trio.ClosedResourceError):
            await stream.send(b"late")
        stream.reset()
        assert not stream.send_now(b"later")
        await connection.aclose()
        while piece := await wire.receive_some():
            assert b"late" not in piece


async def test_a_mutable_buffer_may_be_changed_once_send_all_has_returned() -> None:
    async with connected() as (dialer, listener):
        stream = await dialer.open_stream()
        theirs = await listener.accept_stream()
        buffer = bytearray(b"a" * 100 * KIB)
        await stream.send_all(buffer)
        buffer[:] = b"b" * len(buffer)
        await stream.send_eof()
        assert await read_all(theirs) == b"a" * 100 * KIB


async def test_a_cancelled_send_ends_in_reset_never_in_a_clean_torso() -> None:
    async with connected() as (dialer, listener):
        stream = await dialer.open_stream()
        theirs = await listener.accept_stream()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, bytes(MIB))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"more")
        await stream.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await read_all(theirs)


async def test_reset_reaches_the_other_side() -> None:
    async with connected() as (dialer, listener):
        stream = await dialer.open_stream()
        theirs = await listener.accept_stream()
        stream.reset()
        with pytest.raises(trio.BrokenResourceError):
            await theirs.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")


async def test_opening_waits_for_room_and_goes_on() -> None:
    async with connected() as (dialer, listener), trio.open_nursery() as nursery:
        opened: list[MuxedStream] = []

        async def open_many() -> None:
            for _ in range(config.MAX_STREAMS_PER_CONNECTION + 1):
                opened.append(await dialer.open_stream())

        nursery.start_soon(open_many)
        await trio.testing.wait_all_tasks_blocked()
        assert len(opened) == config.MAX_STREAMS_PER_CONNECTION
        theirs = [await listener.accept_stream() for _ in opened]
        await trio.testing.wait_all_tasks_blocked()
        assert len(opened) == config.MAX_STREAMS_PER_CONNECTION
        await theirs[0].aclose()
        await opened[0].aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert len(opened) == config.MAX_STREAMS_PER_CONNECTION + 1


async def test_closing_says_go_away_and_flushes() -> None:
    async with connected() as (dialer, listener):
        stream = await dialer.open_stream()
        theirs = await listener.accept_stream()
        await stream.send_all(b"goodbye")
        await stream.send_eof()
        await dialer.aclose()
        assert dialer.closed.is_set() and dialer.close_reason == "closed here"
        await listener.closed.wait()
        assert listener.close_reason == "the peer closed the connection"
        assert await read_all(theirs) == b"goodbye"
        with pytest.raises(trio.BrokenResourceError):
            await listener.open_stream()
        with pytest.raises(trio.BrokenResourceError):
            await listener.accept_stream()
        with pytest.raises(trio.ClosedResourceError):
            await dialer.open_stream()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()


async def test_closing_a_connection_to_a_peer_that_does_not_read(autojump_clock: trio.testing.MockClock) -> None:
    ours, _theirs = trio.testing.lockstep_stream_pair()
    connection = YamuxConnection(ours, True)
    async with trio.open_nursery() as nursery:
        await nursery.start(connection.run)
        before = trio.current_time()
        await connection.aclose()
        assert trio.current_time() - before <= config.YAMUX_GOODBYE_SECONDS


async def test_a_dead_link_is_noticed_within_ten_seconds(autojump_clock: trio.testing.MockClock) -> None:
    ours, _theirs = trio.testing.memory_stream_pair()  # takes everything, answers nothing
    connection = YamuxConnection(ours, True)
    async with trio.open_nursery() as nursery:
        await nursery.start(connection.run)
        stream = await connection.open_stream()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert trio.current_time() <= 10.0
        assert connection.close_reason is not None and "no sign of life" in connection.close_reason


async def test_a_link_that_dies_later_is_noticed_within_ten_seconds(autojump_clock: trio.testing.MockClock) -> None:
    left, right = trio.testing.memory_stream_pair()
    dialer, listener = YamuxConnection(left, True), YamuxConnection(right, False)
    async with trio.open_nursery() as nursery:
        await nursery.start(dialer.run)
        await nursery.start(listener.run)
        await trio.sleep(20.0)
        assert dialer.round_trip is not None and not dialer.closed.is_set()
        swallowed = trio.testing.MemorySendStream()
        left.send_stream.send_all_hook = None
        right.send_stream = swallowed
        listener._stream = right
        died = trio.current_time()
        # From here on nothing of the listener's reaches the dialer.
        left.receive_stream = trio.testing.MemoryReceiveStream()
        nursery.cancel_scope.deadline = died + 60
        await dialer.closed.wait()
        assert trio.current_time() - died <= 10.0
        nursery.cancel_scope.cancel()


async def test_ping_measures_and_idle_ends_share_the_work(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as (dialer, listener):
        assert await dialer.ping() == 0.0
        await trio.sleep(60.0)
        assert listener.round_trip == 0.0
        assert dialer._next_ping + listener._next_ping <= 30  # one of both every 3 s, not both


async def test_pings_keep_their_interval_though_answers_take_a_while(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_peer() as (_, wire), trio.open_nursery() as nursery:
        asked = []
        with trio.move_on_after(31.0):
            while frame := await wire.receive_some(HEADER.size):
                _, kind, flags, _, value = HEADER.unpack(frame)
                if kind == PING and flags & SYN:
                    asked.append(trio.current_time())
                    await trio.sleep(1.0)
                    await wire.send_all(HEADER.pack(0, PING, ACK, 0, value))
        pauses = [round(after - before, 6) for before, after in pairwise(asked)]
        assert len(pauses) > 7
        assert set(pauses) == {config.CONNECTION_PING_INTERVAL * LISTENER_PATIENCE}
        nursery.cancel_scope.cancel()


async def test_syn_flood_of_5000_streams_is_bounded_and_others_live() -> None:
    async with raw_peer() as (connection, wire), trio.open_nursery() as nursery:
        nursery.start_soon(drain, wire)
        for n in range(5_000):
            await wire.send_all(HEADER.pack(0, WINDOW_UPDATE, SYN, 1 + 2 * n, 0))
        await trio.testing.wait_all_tasks_blocked()
        assert len(connection.machine.streams) == config.MAX_STREAMS_PER_CONNECTION
        assert len(connection._incoming) == config.MAX_STREAMS_PER_CONNECTION
        first = await connection.accept_stream()
        await wire.send_all(HEADER.pack(0, DATA, 0, 1, 2) + b"hi")
        assert await first.receive_some() == b"hi"
        nursery.cancel_scope.cancel()


async def test_streams_opened_and_reset_in_a_flood_leave_nothing() -> None:
    async with raw_peer() as (connection, wire), trio.open_nursery() as nursery:
        nursery.start_soon(drain, wire)
        for n in range(5_000):
            await wire.send_all(HEADER.pack(0, WINDOW_UPDATE, SYN, 1 + 2 * n, 0))
            await wire.send_all(HEADER.pack(0, WINDOW_UPDATE, 8, 1 + 2 * n, 0))
        await trio.testing.wait_all_tasks_blocked()
        assert not connection.machine.streams
        assert len(connection._incoming) <= config.MAX_STREAMS_PER_CONNECTION
        nursery.cancel_scope.cancel()


async def test_200_mib_into_a_window_drops_the_peer_with_bounded_memory() -> None:
    async with raw_peer() as (connection, wire):
        gc.collect()
        tracemalloc.start()
        await wire.send_all(HEADER.pack(0, WINDOW_UPDATE, SYN, 1, 0))
        piece = HEADER.pack(0, DATA, 0, 1, 64 * KIB - 12) + bytes(64 * KIB - 12)
        sent = 0
        while sent < 200 * MIB and not connection.closed.is_set():
            try:
                await wire.send_all(piece)
            except trio.BrokenResourceError:
                break
            sent += len(piece)
            await trio.testing.wait_all_tasks_blocked()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert connection.close_reason is not None and "window" in connection.close_reason
        assert sent < MIB
        assert peak < 2 * MIB
        answer = bytearray()
        while got := await wire.receive_some():
            answer += got
        assert HEADER.unpack(answer[-HEADER.size :]) == (0, GO_AWAY, 0, 0, 1)


async def test_a_flood_of_pings_whose_answers_are_not_read_is_stopped_in_the_peers_own_socket() -> None:
    listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener[0].socket.getsockname()[1]
    wire = await trio.open_tcp_stream("127.0.0.1", port)
    connection = YamuxConnection(await listener[0].accept(), False)
    pings = HEADER.pack(0, PING, SYN, 0, 1) * 10_000
    async with trio.open_nursery() as nursery:
        await nursery.start(connection.run)
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await wire.send_all(pings)
                sent += len(pings)

        nursery.start_soon(flood)
        last = -1
        while last != sent:
            last = sent
            await trio.testing.wait_all_tasks_blocked(0.2)
        assert connection.machine.control_backlog < config.YAMUX_CONTROL_BACKLOG + 256 * KIB
        nursery.cancel_scope.cancel()


async def test_cancelled_connection_leaves_no_task_and_breaks_its_streams() -> None:
    left, right = trio.testing.memory_stream_pair()
    connection = YamuxConnection(left, True)
    async with trio.open_nursery() as nursery:
        await nursery.start(connection.run)
        stream = await connection.open_stream()
        nursery.cancel_scope.cancel()
    assert connection.closed.is_set() and connection.close_reason == "cancelled"
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    while await right.receive_some():
        pass


# --- py-libp2p's own Yamux at the other end ---


class Secured:
    """A trio stream in the shape py-libp2p's Yamux wants."""

    def __init__(self, stream: trio.abc.Stream, is_initiator: bool) -> None:
        self.stream, self.is_initiator = stream, is_initiator

    async def read(self, n: int | None = None) -> bytes:
        return bytes(await self.stream.receive_some(n))

    async def write(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def close(self) -> None:
        await self.stream.aclose()

    def get_remote_address(self) -> None:
        return None


@asynccontextmanager
async def beside_py_libp2p(*, we_dial: bool) -> AsyncIterator[tuple[YamuxConnection, Any]]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    left = await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])
    right = await listeners[0].accept()
    ours = YamuxConnection(left, we_dial)
    theirs: Any = Yamux(Secured(right, not we_dial), ID(b"peer"), is_initiator=not we_dial)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(ours.run)
        nursery.start_soon(theirs.start)
        await theirs.event_started.wait()
        yield ours, theirs
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("we_dial", [True, False])
async def test_py_libp2p_answers_our_streams(we_dial: bool) -> None:
    payload = bytes(range(256)) * (4 * KIB)  # 1 MiB: four initial windows
    async with beside_py_libp2p(we_dial=we_dial) as (ours, theirs), trio.open_nursery() as nursery:

        async def echo() -> None:
            stream = await theirs.accept_stream()
            got = bytearray()
            while len(got) < len(payload):
                got += await stream.read(64 * KIB)
            await stream.write(bytes(got))
            await stream.close()

        nursery.start_soon(echo)
        stream = await ours.open_stream()
        await stream.send_all(payload)
        await stream.send_eof()
        assert await read_all(stream) == payload
        assert await ours.ping() > 0


@pytest.mark.parametrize("we_dial", [True, False])
async def test_py_libp2p_opens_streams_to_us(we_dial: bool) -> None:
    payload = bytes(range(256)) * (4 * KIB)
    async with beside_py_libp2p(we_dial=we_dial) as (ours, theirs), trio.open_nursery() as nursery:

        async def ask() -> None:
            stream = await theirs.open_stream()
            await stream.write(payload)
            await stream.close()

        nursery.start_soon(ask)
        stream = await ours.accept_stream()
        assert await read_all(stream) == payload
        await stream.aclose()


async def test_py_libp2p_sees_our_reset() -> None:
    async with beside_py_libp2p(we_dial=True) as (ours, theirs):
        stream = await ours.open_stream()
        await stream.send_all(b"x")
        remote = await theirs.accept_stream()
        assert await remote.read(1) == b"x"
        stream.reset()
        with pytest.raises(Exception, match=r"(?i)reset|closed"):
            await remote.read(1)
