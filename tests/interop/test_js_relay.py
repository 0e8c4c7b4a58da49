"""Circuit relay v2 with js-libp2p in every role: relay, listener, dialer; limits, refusals, and what a cut leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from js_kit import JsError, JsPeer, js_peer, unwrapped
from overlay_kit import info, until
from p2pe.core.addresses import with_peer
from p2pe.errors import Unreachable
from p2pe.model import Address, PathKind, PeerInfo
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.relay.client import RelayClient
from relay_kit import circuits, through_relay
from streams_kit import ECHO, digest, real_client, real_relay, send_pattern, sink, source

pytestmark = pytest.mark.interop
KIB = 1 << 10
BULK = 4 << 20
FREE = {"data": 1 << 30, "duration": 600_000}


def address_of(host: OverlayHost) -> str:
    return with_peer(host.listen_addresses()[0], host.peer_id)


async def circuit_of(peer: JsPeer) -> str:
    """The address under which a js listener is reached through its relay, once it has its reservation."""
    found = await peer.until("addresses", lambda found: any("/p2p-circuit" in a for a in found))
    return next(a for a in found if "/p2p-circuit" in a)


async def listener(stack: AsyncExitStack, relay_info: PeerInfo) -> tuple[OverlayHost, RelayClient]:
    ours, reserving = await real_client(stack)
    await reserving.reserve(relay_info)
    return ours, reserving


@asynccontextmanager
async def js_relay(**limits: int) -> AsyncIterator[JsPeer]:
    async with js_peer(relay=limits) as made:
        yield made


async def test_our_relay_between_two_js_peers() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            r, service = await real_relay(stack)
            b = await stack.enter_async_context(js_peer(via=[address_of(r)], listen=[]))
            a = await stack.enter_async_context(js_peer(listen=[]))
            there = await circuit_of(b)
            assert str(r.peer_id) in there
            assert await a.do("sink", to=there, size=BULK) == digest(BULK)
            assert await a.do("source", to=there, size=BULK) == digest(BULK)
            assert await a.do("ping", to=str(b.peer_id)) >= 0
            (connection,) = [c for c in await a.do("connections") if c["peer"] == str(b.peer_id)]
            assert connection["limited"]  # js read our limits
            assert service.metrics.circuits == 1 and service.metrics.bytes_relayed > 2 * BULK
            await a.do("disconnect", to=str(b.peer_id))
            await until(lambda: service.metrics.circuits == 0)


async def test_our_relay_with_one_of_each() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            r, service = await real_relay(stack)
            b = await stack.enter_async_context(js_peer(via=[address_of(r)], listen=[]))
            ours, _ = await listener(stack, info(r))
            there = await circuit_of(b)
            bare = Address(there.removesuffix(f"/p2p/{b.peer_id}"))
            connection = await ours.connect(PeerInfo(b.peer_id, (bare,)))
            assert connection.path is PathKind.RELAYED
            assert await sink(connection, BULK) == digest(BULK)
            assert await source(connection, BULK) == digest(BULK)
            assert ECHO in (await ours.identify(connection)).protocols
            # identify over a circuit tells js our protocols (a circuit as observed address kept it from that)
            await b.until("known", lambda k: ECHO in k["protocols"], to=str(ours.peer_id))
            await connection.aclose()

            here = with_peer(circuits(ours)[0], ours.peer_id)
            assert await b.do("sink", to=here, size=BULK) == digest(BULK)
            assert await b.do("source", to=here, size=BULK) == digest(BULK)
            assert service.metrics.circuits == 1


async def test_a_js_relay_between_two_of_ours() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            r = await stack.enter_async_context(js_relay(**FREE))
            b, reserving = await listener(stack, r.info)
            (held,) = reserving.held
            assert held.has_voucher  # signed by js, checked by us
            assert 3_600 < held.expires - trio.current_time() < 3 * 3_600  # js grants two hours
            assert circuits(b) == tuple(f"{a}/p2p/{r.peer_id}/p2p-circuit" for a in r.info.addresses)
            a, _ = await real_client(stack)
            connection = await a.connect(through_relay(b))
            assert connection.path is PathKind.RELAYED and connection.remote_peer == b.peer_id
            assert await sink(connection, BULK) == digest(BULK)
            assert await source(connection, BULK) == digest(BULK)
            (back,) = b.connections(a.peer_id)
            assert back.path is PathKind.RELAYED
            await reserving.reserve(r.info)  # renewing
            assert len(reserving.held) == 1


async def test_a_js_relay_with_one_of_each() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            r = await stack.enter_async_context(js_relay(**FREE))
            js = await stack.enter_async_context(js_peer(via=[r.address], listen=[]))
            ours, _ = await listener(stack, r.info)
            there = await circuit_of(js)
            connection = await ours.connect(PeerInfo(js.peer_id, (Address(there.removesuffix(f"/p2p/{js.peer_id}")),)))
            assert await sink(connection, BULK) == digest(BULK)
            await connection.aclose()
            assert await js.do("source", to=with_peer(circuits(ours)[0], ours.peer_id), size=BULK) == digest(BULK)


async def test_our_relay_refuses_js_what_it_refuses_anybody() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            full, service = await real_relay(stack, max_reservations=0)
            with pytest.raises(JsError, match="RESERVATION_REFUSED"), unwrapped():
                async with js_peer(via=[address_of(full)], listen=[]):
                    pass
            assert service.metrics.reservations_refused >= 1 and service.metrics.reservations == 0

            js = await stack.enter_async_context(js_peer(listen=[]))
            nobody = f"{address_of(full)}/p2p-circuit/p2p/{js.peer_id}"
            other = await stack.enter_async_context(js_peer(listen=[]))
            with pytest.raises(JsError, match="NO_RESERVATION"):
                await other.do("connect", to=nobody)

            busy, service = await real_relay(stack, max_circuits_per_peer=1)
            ours, _ = await listener(stack, info(busy))
            there = with_peer(circuits(ours)[0], ours.peer_id)
            assert await js.do("echo", to=there, text="first") == "first"
            with pytest.raises(JsError, match="RESOURCE_LIMIT_EXCEEDED"):
                await other.do("connect", to=there)
            assert service.metrics.circuits == 1


async def test_a_js_relay_refuses_in_words_that_people_understand() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            r = await stack.enter_async_context(js_relay(maxReservations=1))
            await listener(stack, r.info)
            late, reserving = await real_client(stack)
            with pytest.raises(Unreachable, match="the relay has no place left"):
                await reserving.reserve(r.info)
            assert circuits(late) == ()
            absent = Address(f"{r.info.addresses[0]}/p2p/{r.peer_id}/p2p-circuit")
            stranger, _ = await real_client(stack)
            with pytest.raises(Unreachable) as caught:
                await late.connect(PeerInfo(stranger.peer_id, (absent,)))
            assert "isn't connected to this relay" in caught.value.attempts[0].outcome


async def test_our_limit_on_bytes_cuts_a_js_circuit_and_leaves_the_reservation() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            r, service = await real_relay(stack, circuit_bytes=128 * KIB)
            b = await stack.enter_async_context(js_peer(via=[address_of(r)], listen=[]))
            a = await stack.enter_async_context(js_peer(listen=[]))
            there = await circuit_of(b)
            assert await a.do("sink", to=there, size=64 * KIB) == digest(64 * KIB)
            with pytest.raises(JsError):
                await a.do("sink", to=there, size=256 * KIB)
            assert service.metrics.circuits_cut == 1
            await a.until("connections", lambda found: all(c["peer"] != str(b.peer_id) for c in found))
            assert await a.do("sink", to=there, size=64 * KIB) == digest(64 * KIB)  # a new circuit, at once
            assert service.metrics.reservations == 1


@pytest.mark.parametrize("limits", [{}, {"duration": 1_000}], ids=["128 KiB, its default", "a second"])
async def test_a_js_relays_limit_ends_our_circuit_cleanly(limits: dict[str, int]) -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            r = await stack.enter_async_context(js_relay(**limits))
            b, reserving = await listener(stack, r.info)
            a, _ = await real_client(stack)
            connection = await a.connect(through_relay(b))
            await until(lambda: bool(b.connections(a.peer_id)))
            (back,) = b.connections(a.peer_id)
            if not limits:
                stream = await connection.open_stream(ECHO)
                with pytest.raises(trio.BrokenResourceError):
                    await send_pattern(stream, BULK)
            with trio.fail_after(10):  # both ends learn of it, without waiting for pings
                await connection.ended.wait()
                await back.ended.wait()
            assert reserving.held  # the reservation outlives the circuit
            again = await a.connect(through_relay(b))
            assert again is not connection
            assert await sink(again, 32 * KIB) == digest(32 * KIB)


async def test_a_js_peers_reservation_ends_with_its_connection() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            r, service = await real_relay(stack)
            b = await stack.enter_async_context(js_peer(via=[address_of(r)], listen=[]))
            await circuit_of(b)
            assert service.metrics.reservations == 1
            await b.do("disconnect", to=str(r.peer_id))
            await until(lambda: service.metrics.reservations == 0)
