"""/p2pe/kad/1.0.0 with js-libp2p's kad-dht, each side serving the other: find node, put, get, and what is refused."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
from dht_kit import signed
from js_kit import js_peer, unwrapped
from kad_kit import bad_records, directory, get_at, put_at
from overlay_kit import until
from p2pe import config
from p2pe.core.addresses import with_peer
from p2pe.core.kademlia.keyspace import location_key
from p2pe.model import PeerInfo
from p2pe.overlay.world import real_world

pytestmark = pytest.mark.interop


# --- js serves, we ask ---


async def test_js_serves_our_client() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(js_peer(kad="server"))
            second = await stack.enter_async_context(js_peer(kad="server"))
            await second.do("connect", to=server.address)
            for one in (server, second):
                await one.until("kadTable", lambda size: size == 1)
            _, dht = await stack.enter_async_context(directory(stack, "client", server.address))
            await dht.wait_joined()

            # FIND_NODE by location hash: the js peer reads it as a peer id and tells of the other server
            key, record = signed(1)
            near = await dht.find_closest(location_key(key))
            assert {peer.peer_id for peer in near} == {server.peer_id, second.peer_id}
            assert set(next(p for p in near if p.peer_id == second.peer_id).addresses) & set(second.info.addresses)
            # and by peer id
            assert server.peer_id in {p.peer_id for p in await dht.find_closest(bytes(second.peer_id))}

            assert await dht.publish(key, record) == 2
            assert await get_at(dht, server.info, key) == record  # byte for byte
            assert await get_at(dht, second.info, key) == record
            assert await dht.lookup(key) == (record,)
            assert await dht.lookup(signed(2)[0]) == ()
            assert await server.do("kadTable") == 1  # a client never enters their table

            async with directory(stack, "client", second.address) as (_, reader):
                assert await reader.lookup(key) == (record,)


async def test_js_keeps_every_slot_of_a_locator() -> None:
    """js holds one value a key; the slot is part of ours, so that four records of one locator are four keys at one
    place: FIND_NODE asks for the same location hash."""
    with unwrapped():
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(js_peer(kad="server"))
            _, dht = await stack.enter_async_context(directory(stack, "client", server.address))
            await dht.wait_joined()
            records = [signed(7, slot=slot) for slot in range(config.LOCATOR_SLOTS)]
            assert len({location_key(key) for key, _ in records}) == 1
            for key, record in records:
                assert await dht.publish(key, record) == 1
            for key, record in records:
                assert await dht.lookup(key) == (record,)


async def test_js_refuses_bad_records_and_serves_new_ones() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(js_peer(kad="server"))
            _, dht = await stack.enter_async_context(directory(stack, "client", server.address))
            await dht.wait_joined()
            for what, (key, record) in bad_records().items():
                assert not await put_at(dht, server.info, key, record), what
                if len(record) <= config.MAX_RECORD_BYTES:
                    assert await get_at(dht, server.info, key) is None, what

            now = int(time.time() * 1000)
            key, old = signed(9, now=now - 1_000)
            _, new = signed(9, now=now)
            assert await put_at(dht, server.info, key, old)
            assert await put_at(dht, server.info, key, new)
            assert await dht.lookup(key) == (new,)


async def test_an_older_record_displaces_a_newer_one_at_js() -> None:
    """js-libp2p 3.3.11 checks what is put, but doesn't compare it with what it holds: a replay of an older, still
    valid record wins there. Our servers refuse it; readers of several servers take the newest."""
    with unwrapped():
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(js_peer(kad="server"))
            our_host, _ = await stack.enter_async_context(directory(stack, "server"))
            await server.do("connect", to=with_peer(our_host.listen_addresses()[0], our_host.peer_id))
            await server.until("kadTable", lambda size: size == 1)
            _, dht = await stack.enter_async_context(directory(stack, "client", server.address))
            await dht.wait_joined()
            now = int(time.time() * 1000)
            key, old = signed(9, now=now - 1_000)
            _, new = signed(9, now=now)
            info = PeerInfo(our_host.peer_id, our_host.listen_addresses())
            for place in (server.info, info):
                assert await put_at(dht, place, key, new)
            assert not await put_at(dht, info, key, old)
            assert await put_at(dht, server.info, key, old)
            assert await get_at(dht, server.info, key) == old
            assert (await dht.lookup(key))[0] == new


# --- we serve, js asks ---


def values(events: list[dict[str, Any]]) -> set[str]:
    return {event["value"] for event in events if event["name"] == "VALUE"}


def final(events: list[dict[str, Any]]) -> set[str]:
    return {event["peer"] for event in events if event["name"] == "FINAL_PEER"}


async def test_we_serve_a_js_client() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            first_host, first = await stack.enter_async_context(directory(stack, "server"))
            address = with_peer(first_host.listen_addresses()[0], first_host.peer_id)
            second_host, second = await stack.enter_async_context(directory(stack, "server", address))
            await until(lambda: len(first.table) == 1 and len(second.table) == 1)
            js = await stack.enter_async_context(js_peer(kad="client"))
            await js.do("connect", to=address)
            await js.until("kadTable", lambda size: size >= 1)
            both = {str(first_host.peer_id), str(second_host.peer_id)}

            key, record = signed(11)
            # js gives up a peer that it couldn't dial within its own short time-out: on a busy machine it asks again
            await js.until("kadClosest", lambda events: final(events) == both, key=location_key(key).hex())
            wanted = str(second_host.peer_id)
            await js.until("kadFindPeer", lambda events: wanted in final(events), peer=wanted)

            events = await js.do("kadPut", key=key.hex(), value=record.hex())
            assert not [event for event in events if event["name"] == "QUERY_ERROR"]
            now = real_world().clock.now()
            assert first.store.get(key, now) == second.store.get(key, now) == record
            assert values(await js.do("kadGet", key=key.hex())) == {record.hex()}

            # what we stored for others, js takes as it is; what nobody stored isn't found
            other, value = signed(12)
            assert await second.publish(other, value) >= 1
            assert values(await js.do("kadGet", key=other.hex())) == {value.hex()}
            assert values(await js.do("kadGet", key=signed(13)[0].hex())) == set()
            assert first.server.served.malformed == second.server.served.malformed == 0
            assert len(first.table) == 1  # a js client never enters our table


async def test_we_refuse_bad_records_of_js() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            host, dht = await stack.enter_async_context(directory(stack, "server"))
            js = await stack.enter_async_context(js_peer(kad="client"))
            address = with_peer(host.listen_addresses()[0], host.peer_id)
            await js.do("connect", to=address)
            await js.until("kadTable", lambda size: size == 1)
            for what, (key, record) in bad_records().items():
                events = await js.do("kadPut", key=key.hex(), value=record.hex())
                assert "QUERY_ERROR" in {event["name"] for event in events}, what  # js learns that it wasn't stored
                assert dht.store.get(key, real_world().clock.now()) is None, what
            assert dht.server.served.refused_records + dht.server.served.malformed == len(bad_records())
            assert len(dht.store) == 0


async def test_a_js_server_enters_our_table_and_is_told_to_others() -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            host, dht = await stack.enter_async_context(directory(stack, "server"))
            address = with_peer(host.listen_addresses()[0], host.peer_id)
            js = await stack.enter_async_context(js_peer(kad="server"))
            await js.do("connect", to=address)
            await js.until("kadTable", lambda size: size == 1)
            await js.do("kadClosest", key=location_key(signed(1)[0]).hex())  # it asks us, so we look whether it serves
            await until(lambda: len(dht.table) == 1)
            _, reader = await stack.enter_async_context(directory(stack, "client", address))
            await reader.wait_joined()
            assert js.peer_id in {p.peer_id for p in await reader.find_closest(bytes(js.peer_id))}
            key, record = signed(21)
            assert await reader.publish(key, record) == 2
            assert await get_at(reader, js.info, key) == record
