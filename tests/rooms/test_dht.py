"""The DHT over real sockets: small networks, joining late, growing, dying."""

from __future__ import annotations

import os

import pytest
import trio
from dht_kit import HOUR, Node, SettableClock, make_world, signed, start
from overlay_kit import until
from p2pe.config import KAD_PROTOCOL
from p2pe.errors import LocalError, Unreachable, UsageError
from p2pe.model import PeerInfo
from p2pe.overlay.bootstrap_addresses import check_bootstrap, resolve_bootstrap
from p2pe.overlay.connection import HostConnection
from p2pe.overlay.dht import open_dht
from p2pe.overlay.host import open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.kad_codec import KadMessage, Kind
from p2pe.ports import Stream


async def test_a_network_of_one_server_works_at_once(nursery: trio.Nursery) -> None:
    server = await start(nursery)
    alice = await start(nursery, "client", (server.address,))
    bob = await start(nursery, "client", (server.address,))
    key, record = signed(1)
    assert await alice.dht.publish(key, record) == 1
    assert await bob.dht.lookup(key) == (record,)
    other, _ = signed(2)
    assert await bob.dht.lookup(other) == ()
    assert len(server.dht.table) == 0  # clients never enter tables
    assert len(server.dht.store) == 1


async def test_the_newest_record_wins_and_slots_are_apart(nursery: trio.Nursery) -> None:
    server = await start(nursery)
    alice = await start(nursery, "client", (server.address,))
    now = SettableClock().now()
    key, old = signed(1, now=now - 5000)
    _, new = signed(1, now=now)
    slot_key, slot_record = signed(1, slot=2)
    await alice.dht.publish(key, old)
    assert await alice.dht.publish(key, new) == 1
    assert await alice.dht.publish(key, old) == 0
    await alice.dht.publish(slot_key, slot_record)
    assert await alice.dht.lookup(key) == (new,)
    assert await alice.dht.lookup(slot_key) == (slot_record,)


async def test_a_node_that_starts_before_its_bootstrap_node_joins_when_that_appears(nursery: trio.Nursery) -> None:
    key = HostKey.generate(os.urandom)
    first = await start(nursery, key=key)
    address, listen = first.address, first.host.listen_addresses()[0]
    await first.kill()
    early = await start(nursery, "client", (address,))
    with pytest.raises(Unreachable):
        await early.dht.publish(*signed(1))
    again = await start(nursery, key=key, listen=listen)
    with trio.fail_after(20):
        await early.dht.wait_joined()
    assert await early.dht.publish(*signed(1)) == 1
    assert len(again.dht.store) == 1


async def test_a_restarted_bootstrap_node_is_found_again(nursery: trio.Nursery) -> None:
    key = HostKey.generate(os.urandom)
    first = await start(nursery, key=key)
    client = await start(nursery, "client", (first.address,))
    await client.dht.publish(*signed(1))
    listen = first.host.listen_addresses()[0]
    await first.kill()
    for _ in range(2):
        with pytest.raises(Unreachable):
            await client.dht.publish(*signed(2))
    await start(nursery, key=key, listen=listen)
    with trio.fail_after(20):
        await until_joined(client)
    assert await client.dht.publish(*signed(2)) == 1


async def test_a_burst_in_a_small_network_costs_one_lookup_and_a_dead_server_another(nursery: trio.Nursery) -> None:
    boot = await start(nursery)
    servers = [await start(nursery, "server", (boot.address,)) for _ in range(2)]
    await until(lambda: len(boot.dht.table) == 2)
    await until(lambda: all(len(server.dht.table) == 2 for server in servers))
    client = await start(nursery, "client", (boot.address,))
    await client.dht.wait_joined()
    assert await client.dht.publish(*signed(0)) == 3
    before = client.dht.stats().lookups
    for number in range(1, 17):
        assert await client.dht.publish(*signed(number)) == 3
        assert await client.dht.lookup(signed(number)[0]) != ()
    assert client.dht.stats().lookups == before
    await servers[0].kill()
    assert await client.dht.publish(*signed(17)) == 2  # a storer that is gone isn't missed at once
    assert await client.dht.publish(*signed(18)) == 2
    assert client.dht.stats().lookups == before + 1
    for server in (boot, servers[1]):
        await server.kill()
    with pytest.raises(Unreachable):
        await client.dht.publish(*signed(19))


async def until_joined(node: Node) -> None:
    await until(lambda: node.dht.table.has_healthy)


async def test_servers_learn_of_each_other_and_survive_their_bootstrap_node(nursery: trio.Nursery) -> None:
    boot = await start(nursery)
    servers = [await start(nursery, "server", (boot.address,)) for _ in range(6)]
    for server in servers:
        await server.dht.wait_joined()
    await until(lambda: len(boot.dht.table) == 6)  # each was dialled back
    for server in servers:
        await server.dht.find_closest(bytes(server.host.peer_id))
    await until(lambda: all(len(s.dht.table) >= 5 for s in servers))
    alice = await start(nursery, "client", (boot.address,))
    key, record = signed(3)
    assert await alice.dht.publish(key, record) >= 6
    await boot.kill()
    bob = await start(nursery, "client", (servers[2].address,))
    assert await bob.dht.lookup(key) == (record,)
    others = {s.host.peer_id for s in servers}
    assert {p.peer_id for p in await bob.dht.find_closest(bytes(bob.host.peer_id))} <= others


async def test_a_restart_rejoins_by_persisted_peers_alone(nursery: trio.Nursery) -> None:
    boot = await start(nursery)
    server = await start(nursery, "server", (boot.address,))
    client = await start(nursery, "client", (boot.address,))
    await server.dht.wait_joined()
    await until(lambda: len(boot.dht.table) == 1)
    await client.dht.publish(*signed(1))
    kept = client.dht.peers()
    assert PeerInfo(server.host.peer_id, server.host.listen_addresses()) in kept
    await boot.kill()
    world = make_world()
    async with (
        open_host(world, key=HostKey.generate(os.urandom)) as host,
        open_dht(host, world, mode="client", seeds=kept) as dht,
    ):
        assert await dht.lookup(signed(1)[0]) != ()


async def test_an_expired_record_is_no_longer_served(nursery: trio.Nursery) -> None:
    clock = SettableClock()
    server = await start(nursery, clock=clock)
    client = await start(nursery, "client", (server.address,), clock=clock)
    key, record = signed(1)
    await client.dht.publish(key, record)
    clock.ahead = HOUR + 1000
    assert await client.dht.lookup(key) == ()
    with pytest.raises(LocalError, match="expired"):
        await client.dht.publish(key, record)


async def test_a_first_server_stores_by_itself(nursery: trio.Nursery) -> None:
    server = await start(nursery)
    key, record = signed(1)
    assert await server.dht.publish(key, record) == 1
    assert await server.dht.lookup(key) == (record,)


async def test_a_node_that_stops_serving_is_asked_no_more(nursery: trio.Nursery) -> None:
    boot = await start(nursery)
    server = await start(nursery, "server", (boot.address,))
    await until(lambda: len(boot.dht.table) == 1)
    server.dht.set_mode("client")
    boot.dht.client.drop_streams()
    for _ in range(2):
        await boot.dht.upkeep.check_peers(0.0)
    assert len(boot.dht.table) == 0


async def test_many_publications_at_once_are_held_back_not_refused(nursery: trio.Nursery) -> None:
    server = await start(nursery)
    client = await start(nursery, "client", (server.address,))
    await client.dht.wait_joined()
    took: list[int] = []

    async def publish(number: int) -> None:
        took.append(await client.dht.publish(*signed(number)))

    async with trio.open_nursery() as inner:
        for number in range(60):
            inner.start_soon(publish, number)
    assert took == [1] * 60


async def test_bootstrap_addresses_are_checked_and_dnsaddr_is_followed() -> None:
    peer = str(HostKey.generate(os.urandom).peer_id)
    for bad in (
        "",
        "/ip4/1.2.3.4/tcp/1",
        "nonsense",
        "/dnsaddr/",
        f"/dnsaddr/x/tcp/1/p2p/{peer}",
        "/ip4/1.2.3.4/p2p/x",
    ):
        with pytest.raises(UsageError):
            check_bootstrap(bad)
    zone = {
        "_dnsaddr.boot.example": (
            f"dnsaddr=/ip4/192.0.2.1/tcp/4001/p2p/{peer}",
            "v=spf1",
            "dnsaddr=/dnsaddr/two.example",
        ),
        "_dnsaddr.two.example": (
            f"dnsaddr=/ip6/2001:db8::1/tcp/4001/p2p/{peer}",
            "dnsaddr=/ip4/1.1.1.1/tcp/1",
            "dnsaddr=/dnsaddr/boot.example",  # a loop
        ),
    }

    async def txt(name: str) -> tuple[str, ...]:
        return zone[name]

    (found,) = await resolve_bootstrap("/dnsaddr/boot.example", txt)
    assert found == PeerInfo(found.peer_id, found.addresses)
    assert set(found.addresses) == {"/ip4/192.0.2.1/tcp/4001", "/ip6/2001:db8::1/tcp/4001"}
    other = str(HostKey.generate(os.urandom).peer_id)
    assert await resolve_bootstrap(f"/dnsaddr/boot.example/p2p/{other}", txt) == ()


async def test_publishing_anew_costs_no_lookup_until_storers_are_missing(nursery: trio.Nursery) -> None:
    boot = await start(nursery)
    servers = [await start(nursery, "server", (boot.address,)) for _ in range(9)]
    for server in servers:
        await server.dht.wait_joined()
    await until(lambda: len(boot.dht.table) == 9)
    alice = await start(nursery, "client", (boot.address,))
    now = SettableClock().now()
    key, first = signed(5, now=now - 3000)
    assert await alice.dht.publish(key, first) == 8
    lookups = alice.dht.stats().lookups
    assert await alice.dht.publish(key, signed(5, now=now - 2000)[1]) == 8
    assert alice.dht.stats().lookups == lookups
    holders = [server for server in servers if len(server.dht.store)]
    for server in holders[:3]:
        await server.kill()
    newest = signed(5, now=now - 1000)[1]
    assert await alice.dht.publish(key, newest) >= 6  # seven are left, one or two of them new to it
    assert alice.dht.stats().lookups == lookups + 1
    assert alice.dht.stability.leaving_per_hour > 0.3  # three of eight, and within moments
    bob = await start(nursery, "client", (boot.address,))
    assert await bob.dht.lookup(key) == (newest,)


async def test_looking_for_somebody_away_again_and_again_costs_one_lookup(nursery: trio.Nursery) -> None:
    boot = await start(nursery)
    servers = [await start(nursery, "server", (boot.address,)) for _ in range(8)]
    for server in servers:
        await server.dht.wait_joined()
    await until(lambda: len(boot.dht.table) == 8)
    alice = await start(nursery, "client", (boot.address,))
    await alice.dht.wait_joined()
    key, record = signed(6)
    before = alice.dht.stats().lookups
    for _ in range(5):
        assert await alice.dht.lookup(key) == ()
    assert alice.dht.stats().lookups <= before + 2  # one, and that of joining
    bob = await start(nursery, "client", (boot.address,))
    await bob.dht.publish(key, record)
    assert await alice.dht.lookup(key) == (record,)


async def test_a_client_ends_its_connections_with_the_request_a_server_waits_to_be_dialled_back(
    nursery: trio.Nursery,
) -> None:
    boot = await start(nursery)
    client = await start(nursery, "client", (boot.address,))
    await client.dht.publish(*signed(1))
    await until(lambda: not client.host.connections())
    server = await start(nursery, "server", (boot.address,))
    await server.dht.wait_joined()
    server.dht.client.drop_streams()
    assert server.host.connections()


async def test_a_connection_in_use_or_protected_isn_t_ended_with_the_request(nursery: trio.Nursery) -> None:
    boot = await start(nursery)
    client = await start(nursery, "client", (boot.address,))
    await client.dht.wait_joined()
    await client.dht.upkeep.join()  # until it has looked around
    client.dht.client.drop_streams()
    (connection,) = client.host.connections()
    client.host.protect(boot.host.peer_id, "a contact")
    connection.close_if_unused()
    assert connection.is_alive
    client.host.unprotect(boot.host.peer_id, "a contact")
    stream = await connection.open_stream(KAD_PROTOCOL)
    connection.close_if_unused()
    assert connection.is_alive
    stream.reset()
    connection.close_if_unused()
    assert not connection.is_alive


async def test_servers_that_start_together_know_each_other_soon(nursery: trio.Nursery) -> None:
    """The first learns of all; each of the others, while joining, of those that the first knew by then."""
    boot = await start(nursery)
    servers: list[Node] = []

    async def join() -> None:
        servers.append(await start(nursery, "server", (boot.address,)))

    async with trio.open_nursery() as joining:
        for _ in range(8):
            joining.start_soon(join)
    with trio.fail_after(30):
        while min(len(server.dht.table) for server in servers) < 8:  # noqa: ASYNC110 - upkeep by and by
            await trio.sleep(0.05)


@pytest.mark.parametrize("connections", [1, 2])
async def test_a_connection_that_ends_just_as_a_request_comes_is_replaced(
    nursery: trio.Nursery, connections: int
) -> None:
    """As when both sides tidy up unused connections: the request isn't lost by it."""
    server = await start(nursery)
    client = await start(nursery, "client")
    peer = PeerInfo(server.host.peer_id, server.host.listen_addresses())
    ended = []

    async def end_the_first(stream: Stream) -> None:
        if len(ended) >= connections:
            await server.dht.server.handle(stream)
            return
        ended.append(stream.connection)
        assert isinstance(stream.connection, HostConnection)
        stream.connection.close_soon()

    server.host.handle(KAD_PROTOCOL, end_the_first)
    before = [await client.host.dial(peer) for _ in range(connections)]
    answer = await client.dht.client.request(peer, KadMessage(Kind.FIND_NODE, bytes(client.host.peer_id)))
    assert len(ended) == connections and answer.connection not in before


async def test_a_server_that_ends_every_connection_has_its_answer_soon(nursery: trio.Nursery) -> None:
    server = await start(nursery)
    client = await start(nursery, "client")
    asked = []

    async def end_it(stream: Stream) -> None:
        asked.append(stream)
        assert isinstance(stream.connection, HostConnection)
        stream.connection.close_soon()

    server.host.handle(KAD_PROTOCOL, end_it)
    peer = PeerInfo(server.host.peer_id, server.host.listen_addresses())
    with pytest.raises(Unreachable, match=r"refused a request|ended while"):
        await client.dht.client.request(peer, KadMessage(Kind.FIND_NODE, bytes(client.host.peer_id)))
    assert len(asked) == 1  # a fresh connection: asking again would be knocking at a closed door
