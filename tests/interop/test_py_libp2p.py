"""py-libp2p's stock host, with its own yamux and relay, in a process of its own: bulk, half-close, circuits."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from js_kit import JsPeer, line_peer, unwrapped
from overlay_kit import info
from p2pe.core.addresses import with_peer
from p2pe.model import Address, PathKind, PeerInfo
from relay_kit import circuits, through_relay
from streams_kit import digest, real_client, real_host, real_relay, serve_streams, sink, source

SCRIPT = Path(__file__).with_name("py_peer.py")
BULK = 2 << 20


@asynccontextmanager
async def py_peer(**options: object) -> AsyncIterator[JsPeer]:
    folders = [str(SCRIPT.parent), str(SCRIPT.parents[1] / "rooms")]  # its kits
    start = f"import runpy, sys; sys.path[:0] = {folders}; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    async with line_peer([sys.executable, "-c", start, json.dumps(options)]) as peer:
        yield peer


async def test_bulk_and_half_close_both_ways() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            py = await stack.enter_async_context(py_peer())
            ours = await real_host(stack)
            serve_streams(ours)
            connection = await ours.connect(py.info)
            assert await sink(connection, BULK) == digest(BULK)
            assert await source(connection, BULK) == digest(BULK)

            other = await real_host(stack)
            serve_streams(other)
            address = with_peer(other.listen_addresses()[0], other.peer_id)
            assert await py.do("sink", to=address, size=BULK) == digest(BULK)
            assert await py.do("source", to=address, size=BULK) == digest(BULK)


async def test_our_relay_serves_py_libp2p_as_listener_and_as_dialer() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            r, service = await real_relay(stack)
            relay = with_peer(r.listen_addresses()[0], r.peer_id)
            py = await stack.enter_async_context(py_peer())
            ours, reserving = await real_client(stack)
            assert await py.do("reserve", relay=relay) is True
            there = Address(f"{relay}/p2p-circuit")
            connection = await ours.connect(PeerInfo(py.peer_id, (there,)))
            assert connection.path is PathKind.RELAYED
            assert await sink(connection, BULK) == digest(BULK)
            await connection.aclose()

            await reserving.reserve(info(r))
            here = with_peer(circuits(ours)[0], ours.peer_id)
            assert await py.do("sink", to=here, size=BULK) == digest(BULK)
            assert service.metrics.circuits_opened == 2


async def test_a_py_libp2p_relay_serves_us() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            py = await stack.enter_async_context(py_peer(relay=True))
            listener, reserving = await real_client(stack)
            await reserving.reserve(py.info)
            dialer, _ = await real_client(stack)
            connection = await dialer.connect(through_relay(listener))
            assert connection.path is PathKind.RELAYED
            assert await sink(connection, BULK) == digest(BULK)
            assert await source(connection, BULK) == digest(BULK)
