"""AutoNAT v2 on real loopback sockets: open and closed ports, cheating servers, amplifiers."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack

import pytest
import trio
from overlay_kit import host, info, until
from p2pe import config
from p2pe.core.reachability import Reachable
from p2pe.errors import Unreachable
from p2pe.model import Address, PeerInfo
from p2pe.overlay.autonat import DIAL_BACK, DIAL_REQUEST, AutonatClient, AutonatServer, Messages
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.reachability import Reachability
from p2pe.overlay.wire_addresses import address_to_bytes
from p2pe.ports import Stream
from p2pe.proto import autonat_pb2 as pb

CLOSED = Address("/ip4/127.0.0.1/tcp/1")


async def serving(stack: AsyncExitStack, network: int = 0) -> tuple[OverlayHost, AutonatServer]:
    made = await host(stack, Address(f"/ip4/127.{network}.0.1/tcp/0"))
    return made, AutonatServer(made, willing=lambda address: True)


async def test_an_open_port_is_proved_and_a_closed_one_is_not() -> None:
    async with AsyncExitStack() as stack:
        server, _ = await serving(stack)
        node = await host(stack)
        client = AutonatClient(node)
        connection = await node.connect(info(server))
        answer = await client.check(connection, node.listen_addresses())
        assert answer.is_reachable and answer.address == node.listen_addresses()[0]
        assert not (await client.check(connection, [CLOSED])).is_reachable
        # The dial-back came from a stranger of its own, not over the connection that was there (libp2p-facts, 6).
        await until(lambda: {c.remote_peer for c in node.connections()} == {server.peer_id})


async def test_another_ip_costs_data_first() -> None:
    async with AsyncExitStack() as stack:
        server, counts = await serving(stack)
        node = await host(stack, Address("/ip4/0.0.0.0/tcp/0"))
        client = AutonatClient(node)
        connection = await node.dial_address(server.peer_id, server.listen_addresses()[0])
        port = node.bound_addresses()[0].rpartition("/")[2]
        answer = await client.check(connection, [Address(f"/ip4/127.9.9.9/tcp/{port}")])
        assert answer.is_reachable

        # Who doesn't pay isn't dialled for.
        stream = await connection.open_stream(DIAL_REQUEST)
        messages = Messages(stream)
        victim = address_to_bytes(f"/ip4/127.8.8.8/tcp/{port}")
        await messages.send(pb.Message(dial_request=pb.DialRequest(addrs=[victim], nonce=1)))
        demand = (await messages.next()).dial_data_request
        assert demand.num_bytes >= 30_000
        before = counts.dialled
        paid = 0
        while paid + 4096 < demand.num_bytes:
            await messages.send(pb.Message(dial_data_response=pb.DialDataResponse(data=bytes(4096))))
            paid += 4096
        await stream.send_eof()
        with pytest.raises((trio.BrokenResourceError, Exception)):
            await messages.next()
        assert counts.dialled == before


async def test_private_addresses_are_refused_by_default() -> None:
    async with AsyncExitStack() as stack:
        server = await host(stack)
        counts = AutonatServer(server)
        node = await host(stack)
        connection = await node.connect(info(server))
        with pytest.raises(Unreachable, match="refused"):
            await AutonatClient(node).check(connection, node.listen_addresses())
        assert counts.dialled == 0


async def test_a_server_cannot_claim_a_dial_back_that_never_came() -> None:
    async def lie(stream: Stream) -> None:
        messages = Messages(stream)
        await messages.next()
        await messages.send(
            pb.Message(dial_response=pb.DialResponse(status=pb.DialResponse.OK, addr_idx=0, dial_status=pb.OK))
        )

    async def lie_with_a_guessed_nonce(stream: Stream) -> None:
        back = await stream.connection.open_stream(DIAL_BACK)
        await Messages(back).send(pb.DialBack(nonce=12345))
        with pytest.raises(trio.BrokenResourceError):
            await Messages(back).raw()
        await lie(stream)

    async with AsyncExitStack() as stack:
        server = await host(stack)
        node = await host(stack)
        client = AutonatClient(node)
        connection = await node.connect(info(server))
        for handler in (lie, lie_with_a_guessed_nonce):
            server.handle(DIAL_REQUEST, handler)
            with pytest.raises(Unreachable, match="RemoteError"):
                await client.check(connection, node.listen_addresses())


async def test_a_server_cannot_demand_any_amount() -> None:
    async def greedy(stream: Stream) -> None:
        messages = Messages(stream)
        await messages.next()
        await messages.send(pb.Message(dial_data_request=pb.DialDataRequest(addr_idx=0, num_bytes=10**12)))
        await stream.receive_some()

    async with AsyncExitStack() as stack:
        server = await host(stack)
        server.handle(DIAL_REQUEST, greedy)
        node = await host(stack)
        connection = await node.connect(info(server))
        with pytest.raises(Unreachable):
            await AutonatClient(node).check(connection, node.listen_addresses())


async def test_askers_of_one_subnet_are_rate_limited() -> None:
    async with AsyncExitStack() as stack:
        server, counts = await serving(stack)
        node = await host(stack)
        client = AutonatClient(node)
        connection = await node.connect(info(server))
        for _ in range(config.AUTONAT_REQUESTS_PER_SUBNET):
            await client.check(connection, [CLOSED])
        with pytest.raises(Unreachable, match="refused"):
            await client.check(connection, [CLOSED])
        assert counts.rejected == 1


@pytest.mark.parametrize("rubbish", [b"\xff" * 20, b"\x05hello", b"\x00", os.urandom(64)])
async def test_rubbish_harms_nobody(rubbish: bytes) -> None:
    async with AsyncExitStack() as stack:
        server, _ = await serving(stack)
        node = await host(stack)
        client = AutonatClient(node)
        connection = await node.connect(info(server))
        for protocol, peer in ((DIAL_REQUEST, connection), (DIAL_BACK, server.connections(node.peer_id)[0])):
            stream = await peer.open_stream(protocol)
            await stream.send_all(rubbish)
            await stream.send_eof()
        assert (await client.check(connection, node.listen_addresses())).is_reachable


async def test_reachability_announces_what_is_proved(nursery: trio.Nursery) -> None:
    async with AsyncExitStack() as stack:
        servers = [(await serving(stack, network))[0] for network in (10, 20)]
        node = await host(stack)
        reachability = Reachability(node, checkable=lambda address: True)
        node.announce("portmap", [CLOSED])
        await nursery.start(reachability.run)
        assert reachability.status().reachable is Reachable.UNKNOWN
        for server in servers:
            await node.connect(PeerInfo(server.peer_id, server.listen_addresses()))
        await until(lambda: reachability.status().addresses == (node.bound_addresses()[0],))
        assert reachability.status().reachable is Reachable.PUBLIC
        nursery.cancel_scope.cancel()
