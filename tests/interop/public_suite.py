"""AutoNAT v2 and hole punching with js-libp2p, between public addresses. Run by test_js_public.py in its namespace."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
from js_kit import js_peer, unwrapped
from overlay_kit import until
from p2pe.core.addresses import with_peer
from p2pe.errors import Unreachable
from p2pe.model import Address, PathKind, PeerId, PeerInfo
from p2pe.overlay.autonat import DIAL_REQUEST, AutonatClient, AutonatServer
from p2pe.overlay.connection import HostConnection
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.punch import Puncher, open_puncher
from p2pe.overlay.relay.client import open_relay_client
from p2pe.overlay.relay.limits import RelayLimits
from p2pe.overlay.relay.service import open_relay
from streams_kit import digest, real_host, serve_streams, sink


def at(network: int) -> Address:
    return Address(f"/ip4/5.{network}.0.1/tcp/0")


async def host_at(stack: AsyncExitStack, network: int) -> OverlayHost:
    made = await real_host(stack, listen=at(network))
    serve_streams(made)
    return made


# --- AutoNAT v2 ---


async def test_our_server_confirms_a_js_clients_address() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            host = await host_at(stack, 1)
            server = AutonatServer(host)
            js = await stack.enter_async_context(js_peer(listen=[at(2)], autonat=True))
            (before,) = await js.do("confirmed")
            assert not before["verified"]
            await js.do("connect", to=with_peer(host.listen_addresses()[0], host.peer_id))
            (after,) = await js.until("confirmed", lambda found: all(each["verified"] for each in found))
            assert after["address"].startswith(js.addresses[0].rsplit("/p2p/", 1)[0])
            assert server.dialled == 1 and server.rejected == 0


async def test_a_js_server_tells_our_client_what_can_be_reached() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            js = await stack.enter_async_context(js_peer(listen=[at(1)], autonat=True))
            host = await host_at(stack, 2)
            client = AutonatClient(host)
            connection = await host.connect(js.info)
            assert DIAL_REQUEST in (await host.identify(connection)).protocols
            (own,) = host.listen_addresses()
            answer = await client.check(connection, [own])
            assert answer.address == own and answer.is_reachable
            closed = Address("/ip4/5.2.0.1/tcp/1")
            answer = await client.check(connection, [closed])
            assert answer.address == closed and not answer.is_reachable


async def test_a_js_server_wants_data_before_it_dials_another_address() -> None:
    """It sees us as 5.2.0.1 and is asked to dial 5.3.0.1: 30,000 to 100,000 bytes first."""
    with unwrapped():
        async with AsyncExitStack() as stack:
            js = await stack.enter_async_context(js_peer(listen=[at(1)], autonat=True))
            host = await host_at(stack, 2)
            other = await host.listen(at(3))
            client = AutonatClient(host)
            connection = await host.dial_address(js.peer_id, js.info.addresses[0], local=host.bound_addresses()[0])
            answer = await client.check(connection, [other])
            assert answer.address == other and answer.is_reachable


async def test_our_server_wants_data_of_a_js_client() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            host = await host_at(stack, 1)
            server = AutonatServer(host)
            js = await stack.enter_async_context(js_peer(listen=[at(2)], autonat=True))
            await js.do("connect", to=with_peer(host.listen_addresses()[0], host.peer_id))
            # all of js's dials leave from the address dialled (loopback), so that its listen address is another IP
            await until(lambda: server.dialled == 1)
            (connection, *_) = host.connections(js.peer_id)
            assert connection.remote_address.startswith("/ip4/5.1.0.1/")
            await js.until("confirmed", lambda found: all(each["verified"] for each in found))


async def test_a_js_server_refuses_what_it_cant_dial() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            js = await stack.enter_async_context(js_peer(listen=[at(1)], autonat=True))
            host = await host_at(stack, 2)
            connection = await host.connect(PeerInfo(js.peer_id, js.info.addresses))
            with pytest.raises(Unreachable, match="dial-back server"):
                await AutonatClient(host).check(connection, [Address("/ip4/5.2.0.1/udp/1/quic-v1")])


# --- hole punching (DCUtR): nobody is behind a router here; what is proved is the conversation and the dials ---


async def behind_relay(stack: AsyncExitStack, network: int, via: OverlayHost) -> tuple[OverlayHost, Puncher]:
    """A host of ours with a reservation, as if it could be reached no other way."""
    made = await host_at(stack, network)
    reserving = await stack.enter_async_context(open_relay_client(made))
    await reserving.reserve(PeerInfo(via.peer_id, via.listen_addresses()))
    return made, await stack.enter_async_context(open_puncher(made))


async def relay_at(stack: AsyncExitStack, network: int) -> OverlayHost:
    made = await host_at(stack, network)
    await stack.enter_async_context(open_relay(made, RelayLimits()))
    return made


def direct(host: OverlayHost, peer: PeerId) -> list[HostConnection]:
    return [c for c in host.connections(peer) if c.path is not PathKind.RELAYED]


async def test_we_initiate_a_hole_punch_with_js() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            relay = await relay_at(stack, 1)
            ours, puncher = await behind_relay(stack, 2, relay)
            js = await stack.enter_async_context(js_peer(listen=[at(3)], announce=True, dcutr=True))
            (circuit,) = [a for a in ours.listen_addresses() if "/p2p-circuit" in a]
            assert await js.do("echo", to=with_peer(circuit, ours.peer_id), text="over the relay") == "over the relay"
            (relayed,) = ours.connections(js.peer_id)
            assert relayed.path is PathKind.RELAYED and not relayed.is_dialer
            attempts = await puncher.punch(relayed)
            assert [attempt.outcome for attempt in attempts] == ["ok"], attempts
            assert attempts[0].target.startswith(js.info.addresses[0])  # what js named
            (connection, *_) = direct(ours, js.peer_id)
            assert await sink(connection, 1 << 20) == digest(1 << 20)
            await js.until("connections", lambda found: any(not c["limited"] for c in found if c["peer"] == us(ours)))
            await relayed.ended.wait()  # js closes it, as the specification has it


async def test_js_initiates_a_hole_punch_with_us() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            relay = await relay_at(stack, 1)
            via = with_peer(relay.listen_addresses()[0], relay.peer_id)
            js = await stack.enter_async_context(js_peer(listen=[at(3)], announce=True, via=[via], dcutr=True))
            ours, _ = await behind_relay(stack, 2, relay)
            circuit = Address(f"{via}/p2p-circuit")
            relayed = await ours.dial(PeerInfo(js.peer_id, (circuit,)))
            assert relayed.path is PathKind.RELAYED
            await until(lambda: bool(direct(ours, js.peer_id)))
            (connection, *_) = direct(ours, js.peer_id)
            assert await sink(connection, 1 << 20) == digest(1 << 20)
            assert await js.do("echo", to=us(ours), text="direct") == "direct"


def us(host: OverlayHost) -> str:
    return str(host.peer_id)
