"""Hostile peers over the wire: what they may not store, and what their answers may not do to us."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable

import pytest
import trio
from dht_kit import HOUR, exchange, make_world, signed, start
from hypothesis import given, settings
from hypothesis import strategies as st
from overlay_kit import LOOPBACK, info
from p2pe import config
from p2pe.config import (
    KAD_K,
    KAD_MAX_MESSAGE,
    KAD_MAX_PEER_ADDRESSES,
    KAD_PROTOCOL,
    KAD_QUERY_TIMEOUT,
    KAD_SERVER_STREAMS,
)
from p2pe.core.addresses import with_peer
from p2pe.core.kademlia.keyspace import Node as KadNode
from p2pe.core.kademlia.keyspace import location_key, location_of
from p2pe.core.kademlia.record_store import RecordStore
from p2pe.core.kademlia.routing_table import RoutingTable
from p2pe.core.records import check_record
from p2pe.core.varint import DelimitedReader, delimit, encode_varint
from p2pe.errors import RemoteError, Unreachable
from p2pe.model import Address, PeerId, PeerInfo
from p2pe.overlay.host import OverlayHost, open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.kad_codec import KadMessage, Kind, decode, decode_address, encode, encode_address, nodes_told_by
from p2pe.overlay.kad_server import KadServer
from p2pe.overlay.wire_addresses import address_to_bytes
from p2pe.ports import Stream
from p2pe.proto import kad_pb2

Message = kad_pb2.Message


def put(key: bytes, value: bytes) -> kad_pb2.Message:
    message = Message(type=Message.PUT_VALUE, key=key)
    message.record.key, message.record.value = key, value
    return message


def bad_records() -> dict[str, kad_pb2.Message]:
    now = int(time.time() * 1000)
    key, good = signed(1)
    other_key, _ = signed(2)
    flipped = good[:-1] + bytes([good[-1] ^ 1])
    return {
        "message text": put(key, b"meet me at nine, and bring the letters"),
        "text as payload of no record": put(b"/p2pe/" + b"x" * 33, b"\x0a\x05hello"),
        "oversize": put(key, good + bytes(1024)),
        "unknown field added": put(key, good + b"\x7a\x04mine"),
        "expired": put(*signed(1, now=now - 2 * HOUR, lives=HOUR)),
        "wrong signature": put(key, flipped),
        "under another key": put(other_key, good),
        "under another slot": put(key[:-1] + b"\x01", good),
        "slot too high": put(key[:-1] + b"\x04", good),
        "future sequence": put(*signed(1, now=now + HOUR)),
        "lives too long": put(*signed(1, lives=25 * HOUR)),
        "foreign namespace": put(b"/pk/" + key[6:], good),
        "empty key": put(b"", good),
        "no record": Message(type=Message.PUT_VALUE, key=key),
    }


@pytest.mark.parametrize("name", list(bad_records()))
async def test_a_server_stores_nothing_but_valid_address_records(nursery: trio.Nursery, name: str) -> None:
    server = await start(nursery)
    client = await start(nursery, "client")
    connection = await client.host.connect(info(server.host))
    bad = bad_records()[name]
    answer = await exchange(connection, bad)
    assert answer is None or not answer.record.value
    assert len(server.dht.store) == 0
    got = await exchange(connection, Message(type=Message.GET_VALUE, key=bad.key or b"x"))
    assert got is not None
    assert not got.record.value
    key, good = signed(1)
    answer = await exchange(connection, put(key, good))  # and goes on serving
    assert answer is not None
    assert answer.record.value == good


@pytest.mark.parametrize(
    "raw",
    [b"\xff" * 40, b"\x08\x63", Message(type=Message.ADD_PROVIDER, key=b"k").SerializeToString(),
     Message(type=Message.GET_PROVIDERS, key=b"k").SerializeToString(),
     Message(type=Message.FIND_NODE).SerializeToString(),
     Message(type=Message.FIND_NODE, key=bytes(4000)).SerializeToString()],
)  # fmt: skip
async def test_nonsense_resets_the_stream_alone(nursery: trio.Nursery, raw: bytes) -> None:
    server = await start(nursery)
    client = await start(nursery, "client")
    connection = await client.host.connect(info(server.host))
    assert await exchange(connection, raw) is None
    assert server.dht.server.served.malformed == 1
    assert await exchange(connection, Message(type=Message.PING)) is not None
    assert connection.is_alive


async def test_a_huge_request_is_refused_before_it_arrives(nursery: trio.Nursery) -> None:
    server = await start(nursery)
    client = await start(nursery, "client")
    connection = await client.host.connect(info(server.host))
    stream = await connection.open_stream(KAD_PROTOCOL)
    await stream.send_all(encode_varint(KAD_MAX_MESSAGE + 1) + bytes(100))
    with pytest.raises(trio.BrokenResourceError):
        while await stream.receive_some():
            pass


async def test_one_peer_gets_few_streams_and_a_bounded_rate(nursery: trio.Nursery) -> None:
    server = await start(nursery)
    client = await start(nursery, "client")
    connection = await client.host.connect(info(server.host))
    streams = [await connection.open_stream(KAD_PROTOCOL) for _ in range(KAD_SERVER_STREAMS)]
    for stream in streams:
        await stream.send_all(delimit(Message(type=Message.PING).SerializeToString()))
        await stream.receive_some()
    assert await exchange(connection, Message(type=Message.PING)) is None
    assert server.dht.server.served.refused_rate == 1
    for stream in streams:
        stream.reset()
    flood = delimit(Message(type=Message.PING).SerializeToString())
    stream = await connection.open_stream(KAD_PROTOCOL)
    before = server.dht.server.served.ping
    started = trio.current_time()
    await stream.send_all(flood * 200)
    while server.dht.server.served.ping < before + 130:
        await stream.receive_some()
    assert trio.current_time() - started > 0.2  # 100 at once, then 50 a second


# --- hostile servers ---


class Liar:
    """A server that answers FIND_NODE as a test says."""

    def __init__(self, host: OverlayHost) -> None:
        self.host = host
        self.reply: Callable[[kad_pb2.Message], bytes] = lambda m: Message(type=m.type, key=m.key).SerializeToString()
        self.before_reply: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        host.handle(KAD_PROTOCOL, self.serve)

    @property
    def address(self) -> str:
        return with_peer(self.host.listen_addresses()[0], self.host.peer_id)

    async def serve(self, stream: Stream) -> None:
        reader = DelimitedReader(KAD_MAX_MESSAGE)
        while True:
            while (raw := reader.next_message()) is None:
                piece = await stream.receive_some()
                if not piece:
                    return
                reader.receive(piece)
            await self.before_reply()
            await stream.send_all(delimit(self.reply(Message.FromString(raw))))


def told(message: kad_pb2.Message, peers: list[tuple[bytes, list[bytes]]]) -> bytes:
    answer = Message(type=message.type, key=message.key)
    for peer_id, addrs in peers:
        answer.closer_peers.add(id=peer_id, addrs=addrs)
    return answer.SerializeToString()


def random_peer() -> PeerId:
    return HostKey.generate(os.urandom).peer_id


async def test_endless_closer_peers_cost_a_bounded_number_of_dials(nursery: trio.Nursery) -> None:
    async with open_host(make_world(), key=HostKey.generate(os.urandom), listen=[LOOPBACK]) as host:
        liar = Liar(host)
        dead = encode_address(Address("/ip4/127.0.0.1/tcp/1"))
        liar.reply = lambda m: told(m, [(bytes(random_peer()), [dead]) for _ in range(300)])
        client = await start(nursery, "client", (liar.address,))
        with trio.fail_after(20):
            await client.dht.wait_joined()
            await client.dht.find_closest(location_key(signed(1)[0]))
        assert client.dht.client.traffic.requests < 5 * KAD_K
        assert [n.peer_id for n in client.dht.table.nodes()] == [host.peer_id]  # none of the invented ones


@pytest.mark.parametrize("kind", ["huge", "garbage", "other request", "two replies", "reset"])
async def test_bad_replies_count_as_failures(nursery: trio.Nursery, kind: str) -> None:
    async with open_host(make_world(), key=HostKey.generate(os.urandom), listen=[LOOPBACK]) as host:
        liar = Liar(host)
        good = Message(type=Message.FIND_NODE, key=b"k").SerializeToString()
        replies = {
            "huge": bytes(KAD_MAX_MESSAGE + 1),
            "garbage": b"\xff" * 30,
            "other request": Message(type=Message.PING).SerializeToString(),
            "two replies": good + delimit(good),
            "reset": b"",
        }
        if kind == "reset":

            async def explode() -> None:
                raise RemoteError("a hostile reset")

            liar.before_reply = explode
        else:
            liar.reply = lambda m: replies[kind]
        client = await start(nursery, "client")
        peer = PeerInfo(host.peer_id, host.listen_addresses())
        with pytest.raises((RemoteError, Unreachable)):
            answer = await client.dht.client.request(peer, KadMessage(Kind.FIND_NODE, b"k"))
            if kind == "two replies":  # they may arrive apart: then the second is found out by the next request
                await client.dht.client.request(peer, KadMessage(Kind.PING, answer.message.key))


async def test_a_silent_server_delays_a_lookup_by_no_more_than_its_limit(nursery: trio.Nursery) -> None:
    honest = await start(nursery)
    async with open_host(make_world(), key=HostKey.generate(os.urandom), listen=[LOOPBACK]) as host:
        liar = Liar(host)
        liar.before_reply = trio.sleep_forever
        client = await start(nursery, "client", (honest.address,))
        await client.dht.wait_joined()
        client.dht.table.add(nodes_told_by(LOOPBACK, [PeerInfo(host.peer_id, host.listen_addresses())])[0], 0.0)
        with trio.fail_after(15):
            key, record = signed(1)
            assert await client.dht.publish(key, record) == 1
            assert await client.dht.lookup(key) == (record,)


async def test_an_unreachable_server_is_not_made_known_to_others(nursery: trio.Nursery) -> None:
    """It speaks the protocol, but claims an address where nobody listens."""
    server = await start(nursery)
    async with open_host(make_world(), key=HostKey.generate(os.urandom)) as host:
        Liar(host)
        host.announce("lie", [Address("/ip4/127.0.0.1/tcp/1")])
        connection = await host.connect(info(server.host))
        assert await exchange(connection, Message(type=Message.FIND_NODE, key=b"x")) is not None
        while server.host.metrics.dials_failed == 0:  # noqa: ASYNC110 - the dial-back has been tried
            await trio.sleep(0.01)
        assert len(server.dht.table) == 0


async def test_peers_that_lie_about_who_is_near_are_found_out(nursery: trio.Nursery) -> None:
    """A liar names, as closer peers: ourselves, itself, the same peer twenty times, an honest server under an invented
    id, and ids that aren't any. None of it enters the table, and the honest server is found all the same."""
    honest = await start(nursery)
    async with open_host(make_world(), key=HostKey.generate(os.urandom), listen=[LOOPBACK]) as host:
        liar = Liar(host)
        client = await start(nursery, "client", (liar.address,))
        there = [encode_address(address) for address in honest.host.listen_addresses()]
        invented = bytes(random_peer())
        lies = [
            (bytes(client.host.peer_id), there),
            (bytes(host.peer_id), [encode_address(host.listen_addresses()[0])]),
            *[(invented, there)] * 8,
            (b"", there),
            (b"\x12\x20short", there),
            (bytes(random_peer()), [b"", b"\xff" * 9]),
            (bytes(honest.host.peer_id), there),
        ]
        liar.reply = lambda m: told(m, lies)
        with trio.fail_after(20):
            await client.dht.wait_joined()
            found = await client.dht.find_closest(location_key(signed(1)[0]))
        assert {p.peer_id for p in found} <= {host.peer_id, honest.host.peer_id}
        known = {node.peer_id for node in client.dht.table.nodes()}
        assert invented not in known and client.host.peer_id not in known
        assert honest.host.peer_id in known


async def test_a_hostile_seed_that_answers_first_and_names_nobody_isn_t_all_a_client_knows(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The honest ones are a little slower; one of them wasn't there when the client joined."""
    monkeypatch.setattr(config, "KAD_JOIN_GRACE", 10.0)  # a busy machine
    slow, late = await start(nursery), await start(nursery)

    async def slowly(stream: Stream) -> None:
        await trio.sleep(0.1)
        await slow.dht.server.handle(stream)

    slow.host.handle(KAD_PROTOCOL, slowly)
    late.host.unhandle(KAD_PROTOCOL)
    async with open_host(make_world(), key=HostKey.generate(os.urandom), listen=[LOOPBACK]) as host:
        liar = Liar(host)
        liar.reply = lambda m: told(m, [])
        client = await start(nursery, "client", (liar.address, slow.address, late.address))
        with trio.fail_after(20):
            while client.dht.upkeep.refreshed_ago() is None:  # noqa: ASYNC110 - it has joined
                await trio.sleep(0.01)
            assert {node.peer_id for node in client.dht.table.nodes()} == {host.peer_id, slow.host.peer_id}
            late.host.handle(KAD_PROTOCOL, late.dht.server.handle)
            await client.dht.upkeep.maintain()
        assert late.host.peer_id in {node.peer_id for node in client.dht.table.nodes()}


async def test_a_reply_that_drips_in_is_given_up_in_time(nursery: trio.Nursery) -> None:
    """A byte now and then keeps no request alive beyond its time-out."""
    async with open_host(make_world(), key=HostKey.generate(os.urandom), listen=[LOOPBACK]) as host:

        async def drip(stream: Stream) -> None:
            await stream.send_all(encode_varint(1_000))
            while True:
                await stream.send_all(b"\x08")
                await trio.sleep(0.2)

        host.handle(KAD_PROTOCOL, drip)
        client = await start(nursery, "client")
        peer = PeerInfo(host.peer_id, host.listen_addresses())
        with trio.fail_after(3 * KAD_QUERY_TIMEOUT), pytest.raises(Unreachable, match="within"):
            await client.dht.client.request(peer, KadMessage(Kind.FIND_NODE, b"k"))


@pytest.mark.parametrize("kind", ["expired", "wrong signature", "under another key", "unknown field added", "oversize"])
async def test_a_storer_that_serves_a_bad_record_isn_t_believed(nursery: trio.Nursery, kind: str) -> None:
    bad = bad_records()[kind]
    async with open_host(make_world(), key=HostKey.generate(os.urandom), listen=[LOOPBACK]) as host:
        liar = Liar(host)

        def reply(message: kad_pb2.Message) -> bytes:
            answer = Message(type=message.type, key=message.key)
            if message.type == Message.GET_VALUE:
                answer.record.key, answer.record.value = message.key, bad.record.value
            return answer.SerializeToString()

        liar.reply = reply
        client = await start(nursery, "client", (liar.address,))
        assert await client.dht.lookup(bad.key) == ()


# --- messages ---


def a_message() -> st.SearchStrategy[bytes]:
    """Well-formed kad-dht messages with whatever a stranger may put into them."""
    key, _ = signed(1)
    keys = st.sampled_from([b"", b"k", key, key[:-1] + b"\x03", location_key(key), b"/pk/x", bytes(129)])

    def build(kind: int, name: bytes, value: bytes, other: bytes, peers: list[tuple[bytes, list[bytes]]]) -> bytes:
        message = Message(type=kind, key=name, cluster_level_raw=-1)  # type: ignore[arg-type]
        if value:
            message.record.key, message.record.value = other, value
            message.record.time_received = "yesterday"
        for peer_id, addrs in peers:
            message.closer_peers.add(id=peer_id, addrs=addrs, connection=2)
            message.provider_peers.add(id=peer_id, addrs=addrs)
        return message.SerializeToString()

    peers = st.lists(st.tuples(st.binary(max_size=40), st.lists(st.binary(max_size=24), max_size=3)), max_size=4)
    values = st.one_of(st.binary(max_size=1_100), st.just(signed(1)[1]), st.just(signed(2)[1]))
    return st.builds(build, st.integers(0, 5), keys | st.binary(max_size=140), values, keys, peers)


class _FromNowhere:
    """A connection as `KadServer.answer` sees it."""

    remote_peer = PeerId(b"\x00\x04abcd")
    remote_address = Address("/ip4/8.8.8.8/tcp/4001")


@settings(max_examples=400, deadline=None)
@given(st.lists(a_message(), min_size=1, max_size=6))
def test_any_message_is_answered_within_limits_or_refused(raws: list[bytes]) -> None:
    local = KadNode(random_peer(), 0)
    table = RoutingTable(local)
    for number in range(1, 60):
        peer = PeerId(b"\x00\x04" + number.to_bytes(4, "big"))
        addresses = (Address(f"/ip4/9.{number}.9.9/tcp/4001"), Address("/ip4/192.168.1.1/tcp/1"))
        table.add(KadNode(peer, location_of(peer), addresses), 0.0)
    store = RecordStore(check_record, bytes(16))
    server = KadServer(make_world(), table, store, lambda _: None)
    for raw in raws:
        try:
            request = decode(raw)
            reply = server.answer(request, _FromNowhere())  # type: ignore[arg-type]
        except RemoteError:
            continue
        sent = encode(reply)
        assert len(sent) <= KAD_MAX_MESSAGE
        again = decode(sent)
        assert again.kind is request.kind and again.key == (b"" if request.kind is Kind.PING else request.key)
        assert len(again.closer) <= KAD_K
        assert not any("192.168" in address for peer in again.closer for address in peer.addresses)
        if again.value is not None:
            check_record(request.key, again.value, make_world().clock.now())
    assert len(store) <= 1  # only one of the values is a record under one of the keys


def test_addresses_encode_as_the_library_does() -> None:
    for text in ("/ip4/192.0.2.7/tcp/4001", "/ip6/2001:db8::5/tcp/65535", "/dns4/boot.example/tcp/443"):
        address = Address(text)
        assert encode_address(address) == address_to_bytes(address)
        assert decode_address(encode_address(address)) == address


def test_private_addresses_are_no_bait() -> None:
    peer = random_peer()
    bait = PeerInfo(peer, (Address("/ip4/192.168.1.1/tcp/80"), Address("/ip4/127.0.0.1/tcp/22")))
    assert nodes_told_by(Address("/ip4/8.8.8.8/tcp/4001"), [bait]) == ()
    (node,) = nodes_told_by(Address("/ip4/192.168.1.9/tcp/4001"), [bait])
    assert node.addresses == ("/ip4/192.168.1.1/tcp/80",)
    mixed = PeerInfo(peer, (*bait.addresses, Address("/ip4/9.9.9.9/tcp/1")))
    (node,) = nodes_told_by(Address("/ip4/8.8.8.8/tcp/4001"), [mixed])
    assert node.addresses == ("/ip4/9.9.9.9/tcp/1",)


def test_lists_in_replies_are_cut() -> None:
    message = Message(type=Message.FIND_NODE, key=b"k")
    for _ in range(100):
        message.closer_peers.add(
            id=bytes(random_peer()), addrs=[encode_address(Address(f"/ip4/9.9.9.9/tcp/{n}")) for n in range(1, 50)]
        )
    read = decode(message.SerializeToString())
    assert len(read.closer) == KAD_K
    assert all(len(p.addresses) <= KAD_MAX_PEER_ADDRESSES for p in read.closer)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(raw: bytes) -> None:
    try:
        decode(raw)
    except RemoteError:
        pass


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(Kind)), st.binary(max_size=64), st.binary(min_size=1, max_size=600), st.integers(0, 5))
def test_messages_survive_the_wire(kind: Kind, key: bytes, value: bytes, peers: int) -> None:
    closer = tuple(
        PeerInfo(PeerId(b"\x00\x04" + bytes([n] * 4)), (Address("/ip4/9.9.9.9/tcp/1"),)) for n in range(peers)
    )
    message = KadMessage(kind, key, value, closer)
    assert decode(encode(message)) == message
