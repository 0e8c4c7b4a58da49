"""go-libp2p with its own Noise, yamux, ping and relay, built once from the Go module proxy into build/interop.

Building takes minutes, so this isn't part of `make test`: it runs where P2PE_INTEROP_GO=1 is set
(`make interop-go`), and is skipped, with the reason, where there is no Go.
"""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack

import pytest
import trio
from dht_kit import signed
from go_kit import go_peer
from js_kit import JsError, unwrapped
from kad_kit import bad_records, directory, put_at
from overlay_kit import info, read_all
from p2pe.core.addresses import with_peer
from p2pe.core.kademlia.keyspace import location_key
from p2pe.model import Address, PathKind, PeerInfo
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.ping import ping
from p2pe.overlay.world import real_world
from relay_kit import circuits, through_relay
from streams_kit import (
    ECHO,
    RESET,
    digest,
    real_client,
    real_host,
    real_relay,
    send_pattern,
    serve_streams,
    sink,
    source,
)

pytestmark = pytest.mark.interop
BULK = 8 << 20
KIB = 1 << 10


def address_of(host: OverlayHost) -> str:
    return with_peer(host.listen_addresses()[0], host.peer_id)


async def test_streams_both_ways() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            go = await stack.enter_async_context(go_peer())
            ours = await real_host(stack)
            serve_streams(ours)
            connection = await ours.connect(go.info)
            assert await sink(connection, BULK) == digest(BULK)
            assert await source(connection, BULK) == digest(BULK)
            assert await ping(connection, os.urandom) > 0
            identity = await ours.identify(connection)
            assert identity.agent.startswith("p2pe-interop") and ECHO in identity.protocols
            stream = await connection.open_stream(RESET)
            await stream.send_all(b"!")
            with pytest.raises(trio.BrokenResourceError):
                await read_all(stream)
            await stream.aclose()

            other = await real_host(stack)
            serve_streams(other)
            assert await go.do("sink", to=address_of(other), size=BULK) == digest(BULK)
            assert await go.do("source", to=address_of(other), size=BULK) == digest(BULK)
            assert await go.do("ping", to=address_of(other)) > 0
            assert ECHO in await go.do("protocols", to=address_of(other))


async def test_our_relay_serves_go_as_listener_and_as_dialer() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            r, service = await real_relay(stack)
            go = await stack.enter_async_context(go_peer())
            made = await go.do("reserve", to=address_of(r))
            assert made["voucher"] and made["limit"] == 256 << 20  # go checked the voucher's signature and ours to give
            ours, reserving = await real_client(stack)
            connection = await ours.connect(PeerInfo(go.peer_id, (Address(f"{address_of(r)}/p2p-circuit"),)))
            assert connection.path is PathKind.RELAYED
            assert await sink(connection, BULK) == digest(BULK)
            await connection.aclose()

            await reserving.reserve(info(r))
            here = with_peer(circuits(ours)[0], ours.peer_id)
            assert await go.do("sink", to=here, size=BULK) == digest(BULK)
            assert service.metrics.circuits_opened >= 2


async def test_a_go_relay_serves_us() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            go = await stack.enter_async_context(go_peer(relay=True, free=True))
            listener, reserving = await real_client(stack)
            held = await reserving.reserve(go.info)
            assert held.has_voucher
            dialer, _ = await real_client(stack)
            connection = await dialer.connect(through_relay(listener))
            assert connection.path is PathKind.RELAYED
            assert await sink(connection, BULK) == digest(BULK)
            assert await source(connection, BULK) == digest(BULK)


async def test_a_go_relays_default_limit_cuts_our_circuit_cleanly() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            go = await stack.enter_async_context(go_peer(relay=True))
            listener, reserving = await real_client(stack)
            await reserving.reserve(go.info)
            dialer, _ = await real_client(stack)
            connection = await dialer.connect(through_relay(listener))
            stream = await connection.open_stream(ECHO)
            with pytest.raises(trio.BrokenResourceError):
                await send_pattern(stream, BULK)
            with trio.fail_after(10):
                await connection.ended.wait()
            again = await dialer.connect(through_relay(listener))
            assert await sink(again, 32 * KIB) == digest(32 * KIB)


async def test_a_relay_that_is_full_says_so_to_go() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            r, _ = await real_relay(stack, max_reservations=0)
            go = await stack.enter_async_context(go_peer())
            with pytest.raises(JsError, match=r"RESERVATION_REFUSED|refused"):
                await go.do("reserve", to=address_of(r))


async def test_go_serves_our_directory_client() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            go = await stack.enter_async_context(go_peer(kad="server"))
            second = await stack.enter_async_context(go_peer(kad="server"))
            await second.do("connect", to=go.address)
            for one in (go, second):
                await one.until("kadTable", lambda size: size == 1)
            _, dht = await stack.enter_async_context(directory(stack, "client", go.address))
            await dht.wait_joined()
            key, record = signed(1)
            near = {peer.peer_id for peer in await dht.find_closest(location_key(key))}
            assert near == {go.peer_id, second.peer_id}
            assert await dht.publish(key, record) == 2
            assert await dht.lookup(key) == (record,)
            for what, (bad_key, bad) in bad_records().items():
                assert not await put_at(dht, go.info, bad_key, bad), what
            now = int(time.time() * 1000)
            key, old = signed(9, now=now - 1_000)
            _, new = signed(9, now=now)
            assert await put_at(dht, go.info, key, new)
            assert not await put_at(dht, go.info, key, old)  # it compares, unlike js-libp2p
            assert await dht.lookup(key) == (new,)


async def test_we_serve_a_go_directory_client() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            host, dht = await stack.enter_async_context(directory(stack, "server"))
            go = await stack.enter_async_context(go_peer(kad="client"))
            await go.do("connect", to=address_of(host))
            await go.until("kadTable", lambda size: size == 1)
            key, record = signed(11)
            assert await go.do("kadClosest", key=location_key(key).hex()) == [str(host.peer_id)]
            await go.do("kadPut", key=key.hex(), value=record.hex())
            assert dht.store.get(key, real_world().clock.now()) == record
            assert await go.do("kadGet", key=key.hex()) == record.hex()
            with pytest.raises(JsError, match="not found"):
                await go.do("kadGet", key=signed(12)[0].hex())
            assert dht.server.served.malformed == 0
