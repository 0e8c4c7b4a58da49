"""Whole nodes on one machine that reach each other through a relay alone, with relay = only."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from overlay_kit import until
from p2pe import config
from p2pe.app import run_node
from p2pe.app_home import Settings
from p2pe.control.services import Services
from p2pe.core.addresses import with_peer
from p2pe.core.paths import RelayPolicy
from p2pe.identity.home import Home
from p2pe.identity.keyring import create_identity
from p2pe.model import Address
from p2pe.overlay.dht import open_dht
from p2pe.overlay.host import OverlayHost, open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.relay.limits import RelayLimits
from p2pe.overlay.relay.service import RelayService, open_relay
from p2pe.overlay.world import real_world

LOOPBACK = Address("/ip4/127.0.0.1/tcp/0")


@asynccontextmanager
async def bootstrap(**limits: int) -> AsyncIterator[tuple[OverlayHost, RelayService, str]]:
    """A server of the directory that relays, within these limits; and its full address."""
    world = real_world()
    async with (
        open_host(world, key=HostKey.generate(os.urandom), listen=(LOOPBACK,)) as host,
        open_relay(host, RelayLimits(**limits)) as relay,
        open_dht(host, world, mode="server"),
    ):
        yield host, relay, with_peer(host.listen_addresses()[0], host.peer_id)


@asynccontextmanager
async def node(folder: Path, policy: RelayPolicy, *servers: str) -> AsyncIterator[Services]:
    world = real_world()
    home = Home(folder)
    identity, _ = create_identity(home, None, os.urandom, world.clock.now())
    settings = Settings(home, listen=(LOOPBACK,), bootstrap=servers, relay=policy)
    async with trio.open_nursery() as nursery:
        yield await nursery.start(partial(run_node, settings, world, identity, control=False))
        nursery.cancel_scope.cancel()


async def paired(one: Services, other: Services) -> None:
    invite = await one.pairing.create_invite("link", "bob")
    assert invite.link is not None
    await other.pairing.accept(invite.link, "alice")
    await until(lambda: one.overlay()["reachability"]["relays"] != [])


async def said(node: Services, texts: list[str]) -> list[str]:
    return [(await node.outbox.send("bob", text)).id.hex() for text in texts]


async def heard(node: Services) -> list[str]:
    return [each.content.text for each in await node.inbox.list(limit=1000)]


@pytest.mark.slow
async def test_a_circuit_cut_by_its_limits_is_resumed_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """As at other implementations: 128 KiB a circuit. The conversation needs several."""
    texts = [f"{number} " + os.urandom(8 * config.KIB).hex() for number in range(20)]  # 16 KiB each
    async with AsyncExitStack() as stack:
        _, relay, address = await stack.enter_async_context(bootstrap(circuit_bytes=128 * config.KIB))
        alice = await stack.enter_async_context(node(tmp_path / "a", RelayPolicy.ONLY, address))
        bob = await stack.enter_async_context(node(tmp_path / "b", RelayPolicy.ONLY, address))
        await paired(alice, bob)
        await said(alice, texts)
        with trio.fail_after(90):
            while len(await heard(bob)) < len(texts):  # noqa: ASYNC110 - any condition
                await trio.sleep(0.05)
            while any((await alice.outbox.counts()).values()):  # noqa: ASYNC110 - until all are delivered
                await trio.sleep(0.05)
        assert await heard(bob) == texts
        assert relay.metrics.circuits_cut >= 3


async def test_relay_only_opens_no_port_and_shows_no_address_of_its_own(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        server, _, address = await stack.enter_async_context(bootstrap())
        alice = await stack.enter_async_context(node(tmp_path / "a", RelayPolicy.ONLY, address))
        await until(lambda: alice.overlay()["reachability"]["relays"] != [])
        shown = alice.overlay()["listen"]
        assert shown and all("/p2p-circuit" in each for each in shown)
        mine = [c for c in server.connections() if str(c.remote_peer) == alice.overlay()["peer_id"]]
        told = (await server.identify(mine[0])).addresses
        assert all("/p2p-circuit" in each for each in told)


async def test_relay_never_holds_no_reservation(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        _, relay, address = await stack.enter_async_context(bootstrap())
        alice = await stack.enter_async_context(node(tmp_path / "a", RelayPolicy.NEVER, address))
        await until(lambda: alice.overlay()["directory_peers"] == 1)
        assert alice.overlay()["reachability"]["relays"] == [] and relay.metrics.reservations == 0
        assert not any("/p2p-circuit" in each for each in alice.overlay()["listen"])


async def test_a_dead_relay_is_struck_off(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        doomed, _, one = await stack.enter_async_context(bootstrap())
        _, _, other = await stack.enter_async_context(bootstrap())
        alice = await stack.enter_async_context(node(tmp_path / "a", RelayPolicy.ONLY, one, other))
        await until(lambda: len(alice.overlay()["reachability"]["relays"]) == 2)
        await doomed.close_listeners()
        await doomed.close_connections()
        await until(lambda: len(alice.overlay()["reachability"]["relays"]) == 1)
        assert alice.overlay()["reachability"]["relays"][0]["address"] in other
