"""The network changes under running nodes: noticed, connections that died with it ended, contacts found again.

In network namespaces, with real interfaces.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
import trio.testing
from netns_kit import ip, run_in_namespace
from overlay_kit import ECHO, host, info, say, until
from p2pe import config
from p2pe.connectivity import links, reconnecting
from p2pe.model import Address
from p2pe.overlay.connections import NetworkChanged
from p2pe.overlay.net import RealNet
from p2pe.overlay.netlink import gateways, open_changes
from p2pe.overlay.netwatch import watch_network
from people_kit import Node, People, acquaint, all_published

ANY = Address("/ip4/0.0.0.0/tcp/0")


async def noticed(poll: bool) -> None:
    ip("addr add 10.1.0.1/24 dev lan0")
    async with open_changes(RealNet().interfaces, poll=poll) as changes, trio.open_nursery() as nursery:
        seen = 0

        async def count() -> None:
            nonlocal seen
            while True:
                await changes.wait()
                seen += 1

        nursery.start_soon(count)
        await trio.testing.wait_all_tasks_blocked()
        ip("addr add 10.2.0.1/24 dev lan0")
        await until(lambda: seen == 1)
        ip("route add default via 10.1.0.254")
        await until(lambda: seen == 2)
        assert gateways() == ("10.1.0.254",)
        ip("link add br9 type bridge", "route add 10.9.0.0/24 dev lan0")  # a container comes: not our concern
        ip("route replace default via 10.2.0.254")  # another network with the same addresses
        await until(lambda: seen == 3)
        ip("addr del 10.2.0.1/24 dev lan0")
        await until(lambda: seen == 4)
        nursery.cancel_scope.cancel()


def test_netlink_tells_of_addresses_and_gateways() -> None:
    run_in_namespace(lambda: noticed(poll=False))


def test_without_netlink_we_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "NETWORK_POLL_SECONDS", 0.02)
    run_in_namespace(lambda: noticed(poll=True))


def test_connections_from_an_address_that_is_gone_end_at_once_and_others_live() -> None:
    async def story() -> None:
        ip("addr add 10.1.0.1/24 dev lan0", "addr add 10.2.0.1/24 dev lan0")
        async with AsyncExitStack() as stack:
            mover, one, other = await host(stack, ANY), await host(stack, ANY), await host(stack, ANY)
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(nursery.cancel_scope.cancel)
            events = await stack.enter_async_context(mover.events())
            await nursery.start(watch_network, mover)
            port = one.listen_addresses()[0].rsplit("/", 1)[1]
            dying = await mover.dial_address(one.peer_id, Address(f"/ip4/10.1.0.1/tcp/{port}"))
            port = other.listen_addresses()[0].rsplit("/", 1)[1]
            staying = await mover.dial_address(other.peer_id, Address(f"/ip4/10.2.0.1/tcp/{port}"))
            before = trio.current_time()
            ip("addr del 10.1.0.1/24 dev lan0")
            await until(lambda: not dying.is_alive)
            assert trio.current_time() - before < config.CONNECTION_PING_TIMEOUT  # no time-out was waited for
            async for event in events:
                if isinstance(event, NetworkChanged):
                    break
            assert not any("10.1.0.1" in address for address in mover.listen_addresses())
            assert await say(await staying.open_stream(ECHO), b"still here") == b"still here"

    run_in_namespace(story)


def test_a_dead_connection_whose_address_survives_is_found_out_by_asking() -> None:
    """As behind a new gateway: the interface keeps its address, but nothing comes through any more."""

    async def story() -> None:
        ip("addr add 10.1.0.1/24 dev lan0", "addr add 10.2.0.1/24 dev lan0", "addr add 10.3.0.1/24 dev lan0")
        async with AsyncExitStack() as stack:
            mover, peer = await host(stack, ANY), await host(stack, ANY)
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(nursery.cancel_scope.cancel)
            await nursery.start(watch_network, mover)
            connection = await mover.connect(info(peer))
            ip("route add blackhole 10.1.0.1/32 table 7", "rule add to 10.1.0.1 table 7 priority 0")
            ip("rule del priority 0 lookup local", "rule add priority 1 lookup local")
            ip("addr del 10.3.0.1/24 dev lan0")
            await until(lambda: not connection.is_alive)

    run_in_namespace(story)


def test_contacts_find_each_other_again_on_another_network(tmp_path: Path) -> None:
    async def story() -> None:
        ip("addr add 10.1.0.1/24 dev lan0")
        people = People(tmp_path)
        anna, ben = people.person("anna"), people.person("ben")
        anna.listen = ben.listen = (ANY,)
        async with anna.run() as a, ben.run() as b, trio.open_nursery() as nursery:
            await acquaint(a, "anna", b, "ben")
            for node in (a, b):
                await nursery.start(watch_network, node.host)
            await all_published(a, b)
            await a.connectivity.links.get(await a.contact_id("ben"))
            await until(lambda: _over(a, "10.1.0.1") and len(b.connectivity.links.all()) == 1)
            ip("addr add 10.2.0.1/24 dev lan0", "addr del 10.1.0.1/24 dev lan0")
            await until(lambda: not _over(a, "10.1.0.1") and _over(a, "10.2.0.1"))
            nursery.cancel_scope.cancel()

    run_in_namespace(story)


def test_who_was_offline_for_long_finds_the_contacts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long enough that nobody tries to reconnect any more."""
    for waits in ("RECONNECT_WAITS", "RECONNECT_WAITS_DIALLED"):
        monkeypatch.setattr(links, waits, (0.05, 0.1, 0.2, 2.0))
    monkeypatch.setattr(reconnecting, "RECONNECT_WAITS", (0.05, 0.1, 0.2, 2.0))

    async def story() -> None:
        ip("addr add 10.1.0.1/24 dev lan0")
        people = People(tmp_path)
        anna, ben = people.person("anna"), people.person("ben")
        anna.listen = ben.listen = (ANY,)
        async with anna.run() as a, ben.run() as b, trio.open_nursery() as nursery:
            await acquaint(a, "anna", b, "ben")
            for node in (a, b):
                await nursery.start(watch_network, node.host)
            await all_published(a, b)
            await a.connectivity.links.get(await a.contact_id("ben"))
            await until(lambda: _over(a, "10.1.0.1") and len(b.connectivity.links.all()) == 1)
            ip("addr del 10.1.0.1/24 dev lan0", "addr del 127.0.0.1/8 dev lo")
            await until(lambda: all(node.connectivity.links.reconnector.lost for node in (a, b)))
            ip("addr add 10.2.0.1/24 dev lan0")
            await until(lambda: _over(a, "10.2.0.1"))
            nursery.cancel_scope.cancel()

    run_in_namespace(story)


def test_a_dial_that_hangs_on_the_old_network_begins_anew_on_the_other(tmp_path: Path) -> None:
    async def story() -> None:
        ip("addr add 10.1.0.1/24 dev lan0")
        people = People(tmp_path)
        anna, ben = people.person("anna"), people.person("ben")
        anna.listen = ben.listen = (ANY,)
        async with anna.run(greet=False) as a, ben.run(greet=False) as b, trio.open_nursery() as nursery:
            await acquaint(a, "anna", b, "ben")
            await all_published(a, b)
            await nursery.start(watch_network, a.host)
            ip("rule add to 10.1.0.1 table 7 priority 1", "rule add priority 2 lookup local", "rule del priority 0")
            ip("route add 10.1.0.1/32 via 10.1.0.2 table 7", "neigh add 10.1.0.2 lladdr 02:00:00:00:00:02 dev lan0")
            nursery.start_soon(a.connectivity.links.get, await a.contact_id("ben"))  # what it sends is swallowed
            await until(lambda: bool(a.host._dials._pending))
            before = trio.current_time()
            ip("addr add 10.2.0.1/24 dev lan0")
            await b.host.refresh_interfaces()  # it publishes where it is now, but dials nobody
            await trio.testing.wait_all_tasks_blocked()
            await b.connectivity.publisher.caught_up()
            ip("addr del 10.1.0.1/24 dev lan0")
            await until(lambda: _over(a, "10.2.0.1"))
            assert trio.current_time() - before < config.DIAL_TIMEOUT
            nursery.cancel_scope.cancel()

    run_in_namespace(story)


def _over(node: Node, address: str) -> bool:
    return any(address in session.connection.remote_address for session in node.connectivity.links.all())
