"""Hosts on real loopback sockets: connecting, streams, dispatch, endings."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack

import pytest
import trio
from overlay_kit import ECHO, LOOPBACK, host, info, read_all, say, until, world
from p2pe.errors import Unreachable
from p2pe.model import PathKind, PeerInfo
from p2pe.overlay.connections import Connected, Disconnected
from p2pe.overlay.host import open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.ping import ping
from p2pe.ports import Stream


async def test_echo_both_ways_and_connection_reuse() -> None:
    async with AsyncExitStack() as stack:
        a, b = await host(stack), await host(stack)
        there = await a.connect(info(b))
        assert there.remote_peer == b.peer_id and there.path is PathKind.LAN and there.is_alive
        assert await say(await there.open_stream(ECHO), b"x" * 300_000) == b"x" * 300_000
        assert await a.connect(info(b)) is there
        (back,) = b.connections(a.peer_id)
        assert await say(await back.open_stream(ECHO), b"hello") == b"hello"
        assert await ping(there, os.urandom) > 0
        await until(lambda: there.round_trip is not None)


async def test_identify_tells_who_and_how_seen() -> None:
    async with AsyncExitStack() as stack:
        a, b = await host(stack), await host(stack)
        connection = await a.connect(info(b))
        identity = await a.identify(connection)
        assert identity.agent.startswith("p2pe/") and ECHO in identity.protocols
        assert identity.addresses == b.listen_addresses()
        assert identity.observed == connection.local_address


async def test_unknown_protocol_is_unreachable_and_costs_nothing_else() -> None:
    async with AsyncExitStack() as stack:
        a, b = await host(stack), await host(stack)
        connection = await a.connect(info(b))
        with pytest.raises(Unreachable, match="doesn't speak /nothing"):
            await connection.open_stream("/nothing")
        assert await say(await connection.open_stream(ECHO), b"still") == b"still"


async def test_wrong_peer_is_unreachable_with_the_attempt() -> None:
    async with AsyncExitStack() as stack:
        a, b = await host(stack), await host(stack)
        stranger = HostKey.generate(os.urandom).peer_id
        with pytest.raises(Unreachable) as caught:
            await a.connect(PeerInfo(stranger, b.listen_addresses()))
        (attempt,) = caught.value.attempts
        assert attempt.step == "dial" and "another peer id" in attempt.outcome
        assert a.connections() == ()
        await until(lambda: b.connections() == ())


async def test_closing_frees_the_port_and_ends_the_other_side() -> None:
    async with AsyncExitStack() as stack:
        a = await host(stack)
        async with open_host(world(), key=HostKey.generate(os.urandom), listen=[LOOPBACK]) as b:
            connection = await a.connect(info(b))
            port = b.listen_addresses()[0]
        await until(lambda: not connection.is_alive and a.connections() == ())
        async with open_host(world(), key=HostKey.generate(os.urandom), listen=[port]) as again:
            assert again.listen_addresses() == (port,)


async def test_a_port_in_use_is_refused() -> None:
    async with AsyncExitStack() as stack:
        a = await host(stack)
        with pytest.raises(ExceptionGroup) as caught:
            async with open_host(world(), key=HostKey.generate(os.urandom), listen=a.listen_addresses()):
                pass
        assert caught.group_contains(OSError, match="another program")


async def test_a_failing_handler_resets_its_stream_alone() -> None:
    async def broken(stream: Stream) -> None:
        await stream.receive_some()
        raise ZeroDivisionError

    async def broken_group(stream: Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broken, stream)

    async with AsyncExitStack() as stack:
        a, b = await host(stack), await host(stack)
        b.handle("/broken", broken)
        b.handle("/broken-group", broken_group)
        connection = await a.connect(info(b))
        for protocol in ("/broken", "/broken-group"):
            stream = await connection.open_stream(protocol)
            await stream.send_all(b"go")
            with pytest.raises(trio.BrokenResourceError):
                await read_all(stream)
        assert b.metrics.handler_errors == 2
        assert await say(await connection.open_stream(ECHO), b"fine") == b"fine"


async def test_events_tell_of_connections() -> None:
    async with AsyncExitStack() as stack:
        a, b = await host(stack), await host(stack)
        async with b.events() as events:
            connection = await a.connect(info(b))
            with trio.fail_after(5):
                first = await events.receive()
                assert isinstance(first, Connected) and first.connection.remote_peer == a.peer_id
                await connection.aclose()
                last = await events.receive()
                assert isinstance(last, Disconnected) and last.connection is first.connection


async def test_a_host_ends_cleanly_with_streams_open() -> None:
    async with AsyncExitStack() as stack:
        a, b = await host(stack), await host(stack)
        connection = await a.connect(info(b))
        await connection.open_stream(ECHO)
    assert not connection.is_alive


async def test_many_who_ask_who_is_there_share_one_stream() -> None:
    """js-libp2p serves one identify stream a connection and resets a second."""
    async with AsyncExitStack() as stack:
        a, b = await host(stack), await host(stack)
        connection = await a.connect(info(b))
        found: list[object] = []

        async def ask() -> None:
            found.append(await a.identify(connection))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        assert len(found) == 5 and len(set(map(id, found))) == 1
        assert a.metrics.streams_opened == b.metrics.streams_accepted == 1
