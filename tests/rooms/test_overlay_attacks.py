"""Strangers who hold connections, say nothing, or say rubbish; and the honest peer beside them. Real sockets.

Loopback has a whole /8: each attacker dials from a /24 of its own.
"""

from __future__ import annotations

import os
import resource
import socket
from contextlib import AsyncExitStack, suppress

import pytest
import trio
from overlay_kit import ECHO, host, info, say, until
from p2pe.core.addresses import host_port
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.limits import HostLimits
from p2pe.overlay.multistream import line
from p2pe.overlay.net import RealNet

STRICT = HostLimits(limit_loopback=True)


async def raw_connection(target: OverlayHost, source: str) -> trio.SocketStream:
    where = host_port(target.listen_addresses()[0])
    assert where is not None
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    await sock.bind((source, 0))
    await sock.connect(where)
    return trio.SocketStream(sock)


async def is_closed(stream: trio.SocketStream) -> bool:
    try:
        with trio.fail_after(5):
            return await stream.receive_some() == b""
    except trio.BrokenResourceError:
        return True


async def honest_exchange(stack: AsyncExitStack, target: OverlayHost) -> None:
    honest = await host(stack)
    with trio.fail_after(10):
        connection = await honest.connect(info(target))
        assert await say(await connection.open_stream(ECHO), b"honest") == b"honest"


async def test_a_thousand_idle_connections_of_one_subnet_lock_nobody_out() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"needs 4,096 descriptors; this system allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    async with AsyncExitStack() as stack:
        target = await host(stack, limits=STRICT)
        idle = [await raw_connection(target, "127.6.6.6") for _ in range(1000)]
        await until(lambda: target.metrics.refused_subnet == 1000 - STRICT.max_connections_per_subnet)
        await honest_exchange(stack, target)
        for stream in idle:
            await trio.aclose_forcefully(stream)
        await until(lambda: target._acceptor.gate.total == 1)


async def test_idle_connections_of_many_subnets_push_each_other_out() -> None:
    limits = HostLimits(limit_loopback=True, max_pending_upgrades=20)
    async with AsyncExitStack() as stack:
        target = await host(stack, limits=limits)
        idle = []
        for subnet in (1, 2, 3, 4):
            idle += [await raw_connection(target, f"127.7.{subnet}.1") for _ in range(10)]
        await until(lambda: target.metrics.refused_pending >= 20)
        await honest_exchange(stack, target)
        for stream in idle:
            await trio.aclose_forcefully(stream)


async def test_slow_handshakes_end_at_the_deadline() -> None:
    limits = HostLimits(upgrade_timeout=0.3)
    async with AsyncExitStack() as stack:
        target = await host(stack, limits=limits)
        silent = await raw_connection(target, "127.0.0.1")
        halfway = await raw_connection(target, "127.0.0.1")
        await halfway.send_all(line("/multistream/1.0.0") + line("/noise") + b"\x00")
        dripping = await raw_connection(target, "127.0.0.1")
        await dripping.send_all(b"\x13")
        assert await is_closed(silent)
        await until(lambda: target.metrics.upgrades_timed_out == 3)
        await honest_exchange(stack, target)
        for stream in (silent, halfway, dripping):
            await trio.aclose_forcefully(stream)


@pytest.mark.parametrize(
    "rubbish",
    [
        b"GET / HTTP/1.1\r\nHost: node.example\r\n" + b"x-padding: 1\r\n" * 9,
        b"\xff" * 4096,
        b"\x00" * 4096,
        line("/multistream/1.0.0") + b"\xff\xff\xff\xff\x0f",
        line("/multistream/1.0.0") + line("/noise") + b"\xff\xff" + os.urandom(5000),
        line("/multistream/1.0.0") + line("/noise") + b"\x00\x20" + bytes(32),
        line("/multistream/1.0.0") + line("/noise") + b"\x00\x05hello",
        line("/multistream/1.0.0") + line("/plaintext/2.0.0") * 40,
    ],
    ids=["http", "ones", "zeros", "long-line", "long-noise", "low-order-key", "short-noise", "many-proposals"],
)
async def test_rubbish_closes_the_connection_and_nothing_else(rubbish: bytes) -> None:
    async with AsyncExitStack() as stack:
        target = await host(stack)
        attacker = await raw_connection(target, "127.0.0.1")
        await attacker.send_all(rubbish)
        if rubbish.endswith(bytes(32)):
            await attacker.send_eof()
        with trio.fail_after(5):
            try:
                while await attacker.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass
        await until(lambda: target.metrics.upgrades_failed == 1)
        await honest_exchange(stack, target)
        await trio.aclose_forcefully(attacker)


async def test_streams_that_never_choose_a_protocol_are_reset() -> None:
    limits = HostLimits(negotiation_timeout=0.2)
    async with AsyncExitStack() as stack:
        target = await host(stack, limits=limits)
        attacker = await host(stack)
        connection = await attacker.connect(info(target))
        muxed = [await connection._muxer.open_stream() for _ in range(50)]
        for stream in muxed:
            with suppress(trio.BrokenResourceError):  # reset already: this machine is busy
                await stream.send_all(line("/multistream/1.0.0"))
        await until(lambda: target.metrics.negotiations_failed == 50)
        assert await say(await connection.open_stream(ECHO), b"after") == b"after"


async def test_no_task_is_left_by_reconnecting() -> None:
    def tasks() -> int:
        return trio.lowlevel.current_statistics().tasks_living

    async with AsyncExitStack() as stack:
        a, b = await host(stack), await host(stack)
        before = tasks()
        for _ in range(20):
            connection = await a.connect(info(b))
            stream = await connection.open_stream(ECHO)
            await stream.send_all(b"x")
            await connection.aclose()
        await until(lambda: b.connections() == () and tasks() == before)
        assert a._connections._by_peer == {} and b._acceptor.gate.total == 0


async def test_dialling_from_the_listen_port() -> None:
    async with AsyncExitStack() as stack:
        a, b = await host(stack), await host(stack)
        connection = await a.dial_address(b.peer_id, b.listen_addresses()[0], local=a.bound_addresses()[0])
        assert connection.local_address == a.listen_addresses()[0]
        (there,) = b.connections(a.peer_id)
        assert there.remote_address == a.listen_addresses()[0]
        assert isinstance(a.world.net, RealNet)


async def test_idle_connections_of_more_subnets_than_there_are_places_lock_nobody_out() -> None:
    limits = HostLimits(limit_loopback=True, max_pending_upgrades=20)
    async with AsyncExitStack() as stack:
        target = await host(stack, limits=limits)
        idle = [await raw_connection(target, f"127.8.{subnet}.1") for subnet in range(40)]
        await until(lambda: target.metrics.refused_pending >= 20)
        await honest_exchange(stack, target)
        for stream in idle:
            await trio.aclose_forcefully(stream)
