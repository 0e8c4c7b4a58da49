"""From which of our ports a relay is dialled: the listen port, for the relay's view of it is what others can punch."""

from __future__ import annotations

import socket
import struct
from contextlib import AsyncExitStack

import pytest
import trio
from netns_kit import ip, run_in_namespace
from overlay_kit import host, info, until
from p2pe import config
from p2pe.core.addresses import host_port
from p2pe.model import Address
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.relay.client import RelayClient, open_relay_client
from p2pe.overlay.relay.limits import RelayLimits
from p2pe.overlay.relay.service import open_relay

OWN, RELAY = "5.3.0.1", "6.3.0.1"


async def relay_and_client(stack: AsyncExitStack) -> tuple[OverlayHost, OverlayHost, RelayClient]:
    """On public addresses: elsewhere ports don't matter."""
    ip(*(f"addr add {each}/32 dev lo" for each in (OWN, RELAY)))
    far = await host(stack, Address(f"/ip4/{RELAY}/tcp/0"))
    await stack.enter_async_context(open_relay(far, RelayLimits()))
    own = await host(stack, Address(f"/ip4/{OWN}/tcp/0"))
    return far, own, await stack.enter_async_context(open_relay_client(own))


def bound(of: OverlayHost) -> tuple[str, int]:
    where = host_port(of.bound_addresses()[0])
    assert where is not None
    return where


def test_a_relay_that_somebody_else_dials_at_the_same_time_is_dialled_once() -> None:
    """Two dials from one port to one address: the second would have to leave from another port, and if the first then
    fails, nobody can punch."""

    async def work() -> None:
        async with AsyncExitStack() as stack:
            far, own, client = await relay_and_client(stack)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.reserve, info(far))
                nursery.start_soon(own.connect, info(far))
            (connection,) = own.connections(far.peer_id)
            assert host_port(connection.local_address) == bound(own)
            assert client.held[0].connection is connection

    run_in_namespace(work)


def test_a_reservation_had_from_another_port_moves_to_the_listen_port_when_that_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        async with AsyncExitStack() as stack:
            far, own, client = await relay_and_client(stack)
            with socket.socket() as squatter:  # on the pair of ports; as does a connection that was closed a moment ago
                squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                squatter.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                squatter.bind(bound(own))
                squatter.connect(bound(far))
                nursery = await stack.enter_async_context(trio.open_nursery())
                nursery.start_soon(client.keep, lambda: (info(far),), 1)
                await until(lambda: bool(client.held))
                (first,) = own.connections(far.peer_id)
                assert host_port(first.local_address) != bound(own)
                tries = client.held[0].misplaced
                await until(lambda: client.held[0].misplaced > tries)  # in vain, for the port is still taken
            await until(lambda: host_port(client.held[0].connection.local_address) == bound(own))
            assert client.held[0].misplaced == 0
            assert client.held[0].refresh - trio.current_time() > config.RELAY_RESERVATION_SECONDS / 2
            await until(lambda: own.connections(far.peer_id) == (client.held[0].connection,))  # the other one is gone
            assert own.observations.candidates(trio.current_time()) == own.listen_addresses()[:1]
            nursery.cancel_scope.cancel()

    monkeypatch.setattr(config, "RELAY_PORT_RETRY", 0.2)
    run_in_namespace(work)
