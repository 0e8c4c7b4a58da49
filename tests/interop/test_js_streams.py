"""Noise, multistream-select, yamux, identify and ping with js-libp2p, each side dialling, on real sockets."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from js_kit import JsError, JsPeer, delayed, js_peer, unwrapped
from overlay_kit import host, read_all, say, until
from p2pe import config
from p2pe.core.addresses import with_peer
from p2pe.errors import Unreachable
from p2pe.model import PeerInfo
from p2pe.overlay.connection import HostConnection
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.limits import HostLimits
from p2pe.overlay.ping import ping
from p2pe.ports import Stream
from streams_kit import (
    ECHO,
    HOLD,
    RESET,
    SINK,
    SOURCE,
    Held,
    digest,
    digest_of,
    send_pattern,
    serve_streams,
    sink,
    source,
)

pytestmark = pytest.mark.interop
MIB = 1 << 20
BULK = 8 * MIB


@dataclass
class Pair:
    """One connection between the two, seen from both ends."""

    ours: OverlayHost
    theirs: JsPeer
    connection: HostConnection
    held: Held

    @property
    def us(self) -> str:
        return str(self.ours.peer_id)


@asynccontextmanager
async def pair(we_dial: bool, **options: object) -> AsyncIterator[Pair]:
    with unwrapped():
        async with AsyncExitStack() as stack:
            theirs = await stack.enter_async_context(js_peer(**options))
            ours = await host(stack)
            held = serve_streams(ours)
            if we_dial:
                connection = await ours.connect(theirs.info)
            else:
                await theirs.do("connect", to=with_peer(ours.listen_addresses()[0], ours.peer_id))
                await until(lambda: bool(ours.connections(theirs.peer_id)))
                connection = ours.connections(theirs.peer_id)[0]
            yield Pair(ours, theirs, connection, held)


both_ways = pytest.mark.parametrize("we_dial", [True, False], ids=["we dial", "js dials"])


@both_ways
async def test_identify_and_ping(we_dial: bool) -> None:
    async with pair(we_dial) as it:
        identity = await it.ours.identify(it.connection)
        assert identity.agent.startswith("js-libp2p/") and ECHO in identity.protocols
        assert set(identity.addresses) == set(it.theirs.info.addresses)
        assert await ping(it.connection, os.urandom) > 0

        known = await it.theirs.until("known", lambda k: ECHO in k["protocols"], to=it.us)
        assert known["agent"].startswith("p2pe/")
        assert {a.removesuffix(f"/p2p/{it.us}") for a in known["addresses"]} >= set(it.ours.listen_addresses())
        assert await it.theirs.do("ping", to=it.us) >= 0
        await until(lambda: it.connection.round_trip is not None)  # a yamux ping, answered
        assert it.connection.is_alive


@both_ways
async def test_eight_mebibytes_each_way_and_half_close(we_dial: bool) -> None:
    async with pair(we_dial) as it:
        assert await sink(it.connection, BULK) == digest(BULK)
        assert await source(it.connection, BULK) == digest(BULK)
        assert await it.theirs.do("sink", to=it.us, size=BULK) == digest(BULK)
        assert await it.theirs.do("source", to=it.us, size=BULK) == digest(BULK)


async def test_both_directions_of_a_connection_at_once() -> None:
    async with pair(True) as it:
        found: list[object] = []

        async def keep(what: object) -> None:
            found.append(await what)  # type: ignore[misc]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep, sink(it.connection, BULK))
            nursery.start_soon(keep, source(it.connection, BULK))
            nursery.start_soon(keep, it.theirs.do("sink", to=it.us, size=BULK))
            nursery.start_soon(keep, it.theirs.do("source", to=it.us, size=BULK))
        assert found == [digest(BULK)] * 4


async def test_windows_grow_both_ways() -> None:
    """Over a wire with a round trip of 20 ms; a window that didn't grow would take 0.66 s for 8 MiB."""
    async with pair(True) as it, delayed(it.theirs.info.addresses[0], 0.01) as far:
        connection = await it.ours.dial(PeerInfo(it.theirs.peer_id, (far,)))
        await until(lambda: connection.round_trip is not None and connection.round_trip > 0.02)
        streams: list[Stream] = []
        granted: list[int] = []

        async def watch() -> None:
            while True:
                granted.extend(stream._muxed.state.send_window for stream in streams)  # type: ignore[attr-defined]
                await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            stream = await connection.open_stream(SINK)
            streams.append(stream)
            await send_pattern(stream, BULK)
            await stream.send_eof()
            assert json.loads(await read_all(stream)) == digest(BULK)
            nursery.cancel_scope.cancel()
        await stream.aclose()
        assert max(granted) > config.YAMUX_INITIAL_WINDOW  # js let us have more

        stream = await connection.open_stream(SOURCE)
        await stream.send_all(str(BULK).encode())
        await stream.send_eof()
        assert await digest_of(stream) == digest(BULK)
        assert stream._muxed.state.window > config.YAMUX_INITIAL_WINDOW  # and so did we
        await stream.aclose()


@both_ways
async def test_two_hundred_streams_at_once(we_dial: bool) -> None:
    async with pair(we_dial) as it:
        answers: dict[int, bytes] = {}

        async def one(number: int, opened: trio.Event) -> None:
            stream = await it.connection.open_stream(ECHO)
            streams.append(stream)
            if len(streams) == 200:
                opened.set()
            await opened.wait()  # all are open before the first one says anything
            answers[number] = await say(stream, b"number %d" % number)

        streams: list[object] = []
        all_open = trio.Event()
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(one, number, all_open)
        assert answers == {number: b"number %d" % number for number in range(200)}
        assert await it.theirs.do("many", to=it.us, count=200) == 200
        await until(lambda: it.connection.stream_count == 0)


@both_ways
async def test_reset(we_dial: bool) -> None:
    async with pair(we_dial) as it:
        stream = await it.connection.open_stream(RESET)
        await stream.send_all(b"!")
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await stream.aclose()

        assert await it.theirs.do("provoke", to=it.us) == {"error": "StreamResetError", "status": "reset"}

        await it.theirs.do("reset", to=it.us, protocol=ECHO)
        torn = await it.connection.open_stream(SINK)
        await torn.send_all(b"torso")
        torn.reset()
        assert await say(await it.connection.open_stream(ECHO), b"the connection lives") == b"the connection lives"
        assert await it.theirs.do("echo", to=it.us, text="both ways") == "both ways"
        await until(lambda: it.connection.stream_count == 0)


async def test_a_reader_of_theirs_that_stops_holds_up_nobody_else() -> None:
    async with pair(True) as it:
        slow = await it.connection.open_stream(HOLD)
        async with trio.open_nursery() as nursery:

            async def fill() -> None:
                await send_pattern(slow, BULK)
                await slow.send_eof()

            nursery.start_soon(fill)
            assert await sink(it.connection, BULK) == digest(BULK)
            assert await source(it.connection, BULK) == digest(BULK)
            assert await it.theirs.do("echo", to=it.us, text="still here") == "still here"
            assert await it.theirs.do("held") == ["open"]
            assert await it.theirs.do("release") == digest(BULK)
        await slow.aclose()


async def test_a_reader_of_ours_that_stops_holds_up_nobody_else() -> None:
    async with pair(False) as it:
        await it.theirs.do("stuff", to=it.us, size=BULK)
        await until(lambda: bool(it.held.streams))
        state = it.held.streams[0]._muxed.state  # type: ignore[attr-defined]
        await until(lambda: state.credit == 0)  # js filled the window, and no more
        assert state.buffered <= state.window
        assert await it.theirs.do("sink", to=it.us, size=BULK) == digest(BULK)
        assert await source(it.connection, BULK) == digest(BULK)
        assert state.credit == 0 and not state.reset
        assert await it.theirs.do("held") == ["open"]
        it.held.is_released.set()
        await until(lambda: it.held.found == [digest(BULK)])


@both_ways
async def test_protocols_that_nobody_speaks_are_refused(we_dial: bool) -> None:
    async with pair(we_dial) as it:
        with pytest.raises(Unreachable, match="doesn't speak /test/unheard-of"):
            await it.connection.open_stream("/test/unheard-of/1.0.0")
        with pytest.raises(JsError, match="UnsupportedProtocolError"):
            await it.theirs.do("raw", to=it.us, protocol="/test/unheard-of/1.0.0", hex="")
        assert await say(await it.connection.open_stream(ECHO), b"next") == b"next"


@both_ways
async def test_go_away(we_dial: bool) -> None:
    """Closing says go-away: the other side sees an orderly end, not a broken connection."""
    async with pair(we_dial) as it:
        await it.theirs.do("disconnect", to=it.us)
        await it.connection.ended.wait()
        assert not it.ours.connections(it.theirs.peer_id)
    async with pair(we_dial) as it:
        assert await it.theirs.do("echo", to=it.us, text="here") == "here"
        it.connection.close_soon()
        await it.theirs.until("connections", lambda found: found == [])
        assert not any(event["event"] == "handler failed" for event in it.theirs.events)


async def test_keepalive_pings_both_ways() -> None:
    """js pings each 200 ms here; we ping whoever is silent. An idle connection outlives many rounds of both."""
    with unwrapped():
        async with AsyncExitStack() as stack:
            theirs = await stack.enter_async_context(js_peer(yamux={"enableKeepAlive": True, "keepAliveInterval": 200}))
            ours = await host(stack, limits=HostLimits(ping_interval=0.1, ping_timeout=10.0))
            serve_streams(ours)
            connection = await ours.connect(theirs.info)
            ours.protect(theirs.peer_id, "test")
            heard: set[float] = set()

            def several_pings() -> bool:
                heard.add(connection._muxer._last_heard)
                return len(heard) > 20

            await until(several_pings)
            assert connection.is_alive
            assert await theirs.do("echo", to=str(ours.peer_id), text="alive") == "alive"
