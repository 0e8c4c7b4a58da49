"""Connections over each path, in one run: how long they take to make, and what they carry.

Both ends run in this process, the relay and the plain proxy each in one of its own, all on loopback.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import trio
from p2pe.core.addresses import split_peer
from p2pe.model import Address, PathKind, PeerId, PeerInfo
from p2pe.overlay.connection import HostConnection
from p2pe.overlay.host import OverlayHost, open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.relay.client import open_relay_client
from p2pe.overlay.world import real_world
from p2pe.ports import Stream
from p2pe_sim.processes import processes

SINK = "/bench/sink/1.0.0"
BULK = 96 * 2**20
PIECE = 2**20
ROUNDS = 5
DIALS = 30


async def _sink(stream: Stream) -> None:
    while await stream.receive_some(2**20):
        pass
    await stream.send_all(b"x")


@asynccontextmanager
async def _host() -> AsyncIterator[OverlayHost]:
    address = Address("/ip4/127.0.0.1/tcp/0")
    async with open_host(real_world(), key=HostKey.generate(os.urandom), listen=(address,)) as host:
        host.handle(SINK, _sink)
        yield host


@contextmanager
def _proxy(address: Address) -> Iterator[Address]:
    pieces = address.split("/")
    argv = [sys.executable, "-m", "benchmarks.proxy", pieces[2], pieces[4]]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Address(f"/ip4/127.0.0.1/tcp/{process.stdout.readline().strip()}")
        finally:
            process.kill()


async def _bulk(connection: HostConnection) -> float:
    """MiB/s into one stream, until the other side has read all of it."""
    stream = await connection.open_stream(SINK)
    piece = bytes(PIECE)
    began = time.perf_counter()
    for _ in range(BULK // PIECE):
        await stream.send_all(piece)
    await stream.send_eof()
    await stream.receive_some()
    took = time.perf_counter() - began
    await stream.aclose()
    return BULK / 2**20 / took


async def _dials(host: OverlayHost, peer: PeerInfo) -> float:
    """Milliseconds for a new connection, ready for streams: median."""
    took = []
    for _ in range(DIALS):
        began = time.perf_counter()
        connection = await host.dial(peer)
        took.append((time.perf_counter() - began) * 1000)
        await connection.aclose()
    return statistics.median(took)


async def _dead_link(host: OverlayHost, peer_id: PeerId, address: Address) -> float:
    """Seconds until a connection over a wire that swallows everything is known to be dead."""
    frozen = trio.Event()

    async def carry(source: trio.SocketStream, target: trio.SocketStream) -> None:
        while piece := await source.receive_some(65_536):
            if frozen.is_set():
                await trio.sleep_forever()
            await target.send_all(piece)

    async def wire(near: trio.SocketStream) -> None:
        pieces = address.split("/")
        far = await trio.open_tcp_stream(pieces[2], int(pieces[4]))
        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(carry, near, far)
            nursery.start_soon(carry, far, near)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, wire, listeners)
        port = listeners[0].socket.getsockname()[1]
        connection = await host.dial_address(peer_id, Address(f"/ip4/127.0.0.1/tcp/{port}"))
        connection.protect("bench")
        frozen.set()
        began = time.perf_counter()
        await connection.ended.wait()
        took = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    return took


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _measure(relay: PeerInfo, relay_pid: int) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        here, there = await stack.enter_async_context(_host()), await stack.enter_async_context(_host())
        await stack.enter_async_context(open_relay_client(here))
        held = await (await stack.enter_async_context(open_relay_client(there))).reserve(relay)
        direct = PeerInfo(there.peer_id, there.own_addresses())
        relayed = PeerInfo(there.peer_id, held.addresses)
        proxied = PeerInfo(there.peer_id, (stack.enter_context(_proxy(direct.addresses[0])),))
        await here.connect(relay)
        figures = {
            "connect_direct_ms": await _dials(here, direct),
            "connect_relayed_ms": await _dials(here, relayed),
        }
        peers = {"direct": direct, "relayed": relayed, "proxied": proxied}
        rates: dict[str, list[float]] = {name: [] for name in peers}
        cpu: dict[str, float] = dict.fromkeys(peers, 0.0)
        relay_cpu = 0.0
        for _ in range(ROUNDS):
            for name, peer in peers.items():
                connection = await here.dial(peer)  # a new one: a circuit is cut after 256 MiB
                assert (connection.path is PathKind.RELAYED) == (name == "relayed")
                before = cpu_seconds(os.getpid()), cpu_seconds(relay_pid)
                rates[name].append(await _bulk(connection))
                cpu[name] += cpu_seconds(os.getpid()) - before[0]
                relay_cpu += cpu_seconds(relay_pid) - before[1]
                await connection.aclose()
        carried = ROUNDS * BULK / 2**20
        figures["ends_direct_mib_cpu_s"] = carried / cpu["direct"]
        figures["ends_relayed_mib_cpu_s"] = carried / cpu["relayed"]
        figures["relay_mib_cpu_s"] = carried / max(relay_cpu, 0.01)
        for name, found in rates.items():
            figures[f"bulk_{name}_mib_s"] = statistics.median(found)
        pairs = list(zip(*rates.values(), strict=True))  # of one round each
        figures["relayed_of_direct_percent"] = statistics.median(100 * r / d for d, r, _ in pairs)
        figures["relayed_of_proxy_percent"] = statistics.median(100 * r / p for _, r, p in pairs)
        figures["dead_link_s"] = await _dead_link(here, there.peer_id, direct.addresses[0])
        return figures


def measure() -> dict[str, float]:
    """All figures by name; rates are medians, ratios are of interleaved rounds."""
    with processes() as story:
        relay = story.bootstrap()
        address, peer_id = split_peer(story.bootstraps[0])
        return trio.run(_measure, PeerInfo(peer_id, (address,)), relay.process.pid)
