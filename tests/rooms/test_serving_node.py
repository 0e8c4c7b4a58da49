"""A person's whole node on real sockets that becomes a directory server once dial-backs prove it, and stops."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from netns_kit import ip, run_in_namespace
from overlay_kit import until
from p2pe import config
from p2pe.app import run_node
from p2pe.app_home import Settings, settings_for
from p2pe.control.services import Services
from p2pe.core.addresses import with_peer
from p2pe.core.serving import ServingChoice
from p2pe.errors import UsageError
from p2pe.identity.home import Home
from p2pe.identity.keyring import create_identity
from p2pe.model import Address
from p2pe.overlay.dht import open_dht
from p2pe.overlay.host import open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.world import real_world
from p2pe_bootstrap.services import Services as BootstrapServices
from p2pe_bootstrap.services import open_services

OWN, ELSEWHERE = "5.3.0.1", "5.4.0.1"
HUBS = ("6.3.0.1", "7.3.0.1")


@asynccontextmanager
async def bootstrap(at: str, *others: str) -> AsyncIterator[tuple[BootstrapServices, str]]:
    world = real_world()
    async with (
        open_host(world, key=HostKey.generate(os.urandom), listen=(Address(f"/ip4/{at}/tcp/0"),)) as host,
        open_services(host, world, others) as services,
    ):
        yield services, with_peer(host.listen_addresses()[0], host.peer_id)


@asynccontextmanager
async def node(folder: Path, at: str, directory: ServingChoice, *servers: str) -> AsyncIterator[Services]:
    world = real_world()
    home = Home(folder)
    identity, _ = create_identity(home, None, os.urandom, world.clock.now())
    listen = (Address(f"/ip4/{at}/tcp/0"),)
    settings = Settings(home, listen=listen, bootstrap=servers, directory=directory, lan=False)
    async with trio.open_nursery() as nursery:
        yield await nursery.start(partial(run_node, settings, world, identity, control=False))
        nursery.cancel_scope.cancel()


def knows(hub: BootstrapServices, node: Services) -> bool:
    return node.overlay()["peer_id"] in {str(each.peer_id) for each in hub.dht.table.nodes()}


async def serving_life(folder: Path) -> None:
    ip(*(f"addr add {each}/32 dev lo" for each in (OWN, ELSEWHERE, *HUBS)))
    async with AsyncExitStack() as stack:
        first, one = await stack.enter_async_context(bootstrap(HUBS[0]))
        second, other = await stack.enter_async_context(bootstrap(HUBS[1], one))
        willing = await stack.enter_async_context(node(folder / "a", OWN, ServingChoice.AUTO, one, other))
        private = await stack.enter_async_context(node(folder / "b", ELSEWHERE, ServingChoice.CLIENT, one, other))
        assert willing.overlay()["directory_mode"] == "client"
        await until(lambda: willing.overlay()["directory_mode"] == "server")
        await until(lambda: knows(first, willing) and knows(second, willing))
        assert willing.directory.health()["mode"] == "server"

        # A stranger who knows nobody but this node finds the others through it.
        world = real_world()
        async with open_host(
            world, key=HostKey.generate(os.urandom), listen=(Address(f"/ip4/{HUBS[0]}/tcp/0"),)
        ) as host:
            serving_at = with_peer(
                Address(willing.overlay()["listen"][0]),
                next(n.peer_id for n in first.dht.table.nodes() if str(n.peer_id) == willing.overlay()["peer_id"]),
            )
            async with open_dht(host, world, mode="client", bootstrap=(serving_at,)) as dht:
                await until(lambda: len(dht.table) >= 3)
                found = await dht.find_closest(bytes(host.peer_id))
                assert {str(each.peer_id) for each in found} >= {willing.overlay()["peer_id"]}
        assert willing.directory.health()["served"]["find_node"] > 0

        await until(lambda: private.overlay()["reachability"]["reachable"] == "public")
        assert private.overlay()["directory_mode"] == "client" and not knows(first, private)

        ip(f"addr del {OWN}/32 dev lo")
        await until(lambda: willing.overlay()["directory_mode"] == "client")
        for hub in (first, second):
            for _ in range(2):
                hub.dht.client.drop_streams()
                await hub.dht.upkeep.check_peers(0.0)
        assert not knows(first, willing) and not knows(second, willing)


def test_a_node_serves_while_dial_backs_prove_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("p2pe.core.serving.SERVE_AFTER", 0.3)
    monkeypatch.setattr("p2pe.core.serving.SERVE_LINGER", 0.1)
    monkeypatch.setattr(config, "KAD_VERIFY_RETRY", 0.2)
    monkeypatch.setattr(config, "KAD_MAINTENANCE", 0.2)
    run_in_namespace(partial(serving_life, tmp_path))


def test_what_contradicts_itself_or_means_nothing_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(UsageError, match="relay = only hides it"):
        settings_for(home, listen=(), bootstrap=(), relay="only", directory="server", environment={})
    with pytest.raises(UsageError, match="choose auto, client or server"):
        settings_for(home, listen=(), bootstrap=(), relay=None, directory="always", environment={})
    (tmp_path / "config.toml").write_text('directory = "client"\n')
    chosen = settings_for(home, listen=(), bootstrap=(), relay=None, environment={})
    assert chosen.directory is ServingChoice.CLIENT
