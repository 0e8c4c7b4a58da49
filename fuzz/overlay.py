"""Throws altered messages at everything in the overlay that a stranger can send. Same rules as decoders.py.

    python fuzz/overlay.py --count 200000 --seed 7

The real code runs: what reads from a stream gets one that holds the whole input and never waits, so no event loop is
needed and thousands of inputs a second pass.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import trio
from decoders import Target, run
from p2pe import config
from p2pe.core import addresses, mdns, natpmp, upnp
from p2pe.core.kademlia.keyspace import Node, location_key, location_of
from p2pe.core.kademlia.record_store import RecordStore
from p2pe.core.kademlia.routing_table import RoutingTable
from p2pe.core.punch import Responder, worth_dialling
from p2pe.core.records import check_record, make_record, open_addresses, public_key_of, record_key, seal_addresses
from p2pe.core.varint import delimit
from p2pe.core.yamux import ACK, DATA, FIN, GO_AWAY, HEADER, PING, RST, SYN, WINDOW_UPDATE, YamuxMachine
from p2pe.core.yamux_stream import YamuxLimits
from p2pe.errors import Unreachable
from p2pe.model import Address, Millis, PathKind, PeerInfo
from p2pe.overlay import identify, kad_codec, multistream, punch
from p2pe.overlay.autonat import AutonatClient, AutonatServer, Messages
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.kad_codec import KadMessage, Kind
from p2pe.overlay.kad_server import KadServer
from p2pe.overlay.libp2p_import import (
    NoiseExtensions,
    NoiseHandshakePayload,
    X25519PublicKey,
    make_handshake_payload_sig,
)
from p2pe.overlay.noise import NoiseHandshake, SecureStream, answer_noise, dial_noise, prefixed
from p2pe.overlay.relay.voucher import check_voucher, make_voucher
from p2pe.overlay.relay.wire import MessageStream, plausible_peer
from p2pe.overlay.wire_addresses import address_from_bytes, address_to_bytes, addresses_from_bytes
from p2pe.proto import autonat_pb2, circuit_pb2, identify_pb2

ENTROPY = random.Random(0).randbytes
KEY, OTHER = HostKey.generate(ENTROPY), HostKey.generate(ENTROPY)
HERE = Address("/ip4/5.1.0.1/tcp/4001")
MANY = [
    HERE,
    Address("/ip6/2a05:1::1/tcp/4001"),
    Address("/dns4/example.org/tcp/443"),
    Address(f"/ip4/5.2.0.1/tcp/4001/p2p/{OTHER.peer_id}/p2p-circuit"),
    Address("/ip4/127.0.0.1/tcp/1"),
]
BINARY = [address_to_bytes(address) for address in MANY]
NOW = Millis(int(time.time() * 1000))
SEED = bytes(range(32))
RECORD_KEY = record_key(public_key_of(SEED), 0)
SEALED = seal_addresses(PeerInfo(OTHER.peer_id, tuple(MANY[:4])), b"k" * 32, b"n" * 12)
RECORD = make_record(SEED, 0, NOW, Millis(NOW + 3_600_000), SEALED)


class Canned:
    """A stream that holds the whole input, ends behind it, and keeps what is written."""

    local = remote = HERE

    def __init__(self, data: bytes, piece: int = 65_536) -> None:
        self._data, self._piece = data, piece
        self.sent = bytearray()
        self.remote_peer = OTHER.peer_id
        self.connection: Any = SimpleNamespace(remote_peer=OTHER.peer_id, remote_address=HERE, path=PathKind.DIRECT)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = min(self._piece, max_bytes or self._piece)
        piece, self._data = self._data[:size], self._data[size:]
        return piece

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def send_now(self, data: bytes) -> int:
        self.sent += data
        return len(data)

    async def aclose(self) -> None: ...

    def reset(self) -> None: ...


def finish(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine that never really waits."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    work.close()
    raise AssertionError("it waited for something else than its stream")


# --- addresses ---


def read_address(raw: bytes) -> None:
    """Every question that is asked of an address, of whatever came out of its bytes."""
    address = address_from_bytes(raw)
    if address is None:
        return
    for ask in (
        addresses.host_port, addresses.dns_port, addresses.ip_of, addresses.is_circuit, addresses.is_wildcard,
        addresses.is_loopback, addresses.is_private, addresses.is_public, addresses.subnet_of, addresses.path_of,
        addresses.relay_of, kad_codec.encode_address,
    ):  # fmt: skip
        ask(address)
    identify.shown_to(HERE, [address])
    identify.shown_to(address, [HERE])


# --- identify, kad-dht ---


def read_identity(raw: bytes) -> None:
    found = identify.read(raw)
    identify.shown_to(HERE, found.addresses)


def kad_server() -> Callable[[bytes], None]:
    table = RoutingTable(Node(KEY.peer_id, location_of(KEY.peer_id)))
    for _ in range(40):
        peer = HostKey.generate(ENTROPY).peer_id
        where = Address(f"/ip4/5.{ENTROPY(1)[0]}.{ENTROPY(1)[0]}.1/tcp/4001")
        table.add(Node(peer, location_of(peer), (where,), (where.encode(),)), 0.0)
    store = RecordStore(check_record, b"s" * 32, max_records=64)
    world: Any = SimpleNamespace(clock=SimpleNamespace(now=lambda: NOW))
    server = KadServer(world, table, store, lambda connection: None)
    server.own_addresses = lambda: (HERE,)
    connection: Any = SimpleNamespace(remote_peer=OTHER.peer_id, remote_address=HERE)

    def answer(raw: bytes) -> None:
        request = kad_codec.decode(raw)
        kad_codec.nodes_told_by(HERE, request.closer)
        kad_codec.encode(server.answer(request, connection))

    return answer


def kad_corpus() -> list[bytes]:
    peers = tuple(PeerInfo(HostKey.generate(ENTROPY).peer_id, tuple(MANY[:3])) for _ in range(3))
    return [
        kad_codec.encode(message)
        for message in (
            KadMessage(Kind.PING),
            KadMessage(Kind.FIND_NODE, location_key(RECORD_KEY)),
            KadMessage(Kind.FIND_NODE, KEY.peer_id),
            KadMessage(Kind.FIND_NODE, KEY.peer_id, closer=peers),
            KadMessage(Kind.GET_VALUE, RECORD_KEY),
            KadMessage(Kind.GET_VALUE, RECORD_KEY, RECORD),
            KadMessage(Kind.PUT_VALUE, RECORD_KEY, RECORD),
        )
    ]


def read_record(raw: bytes) -> None:
    record = check_record(RECORD_KEY, raw, NOW)
    open_addresses(record.payload, b"k" * 32)


# --- multistream, Noise, yamux ---


def answer_multistream(raw: bytes) -> None:
    stream = Canned(raw)
    finish(multistream.answer(multistream.LineReader(stream.receive_some), stream.send_all, ("/noise", "/echo")))


def propose_multistream(raw: bytes) -> None:
    stream = Canned(raw, piece=7)
    finish(multistream.propose(multistream.LineReader(stream.receive_some), stream.send_all, ["/a", "/echo"]))


def handshake(*, is_dialer: bool, muxers: tuple[str, ...] = ("/yamux/1.0.0",)) -> NoiseHandshake:
    return NoiseHandshake(KEY, ENTROPY, is_dialer=is_dialer, muxers=muxers)


def answer_handshake(raw: bytes) -> None:
    finish(answer_noise(handshake(is_dialer=False), Canned(raw), bytearray(), KEY.peer_id))  # type: ignore[arg-type]


def dial_handshake(raw: bytes) -> None:
    dialer = handshake(is_dialer=True)
    dialer.first()
    swap = lambda: handshake(is_dialer=False)  # noqa: E731
    finish(dial_noise(dialer, Canned(raw), bytearray(), OTHER.peer_id, swap))  # type: ignore[arg-type]


def read_noise_payload() -> Target:
    """The payload as a peer that knows the keys can choose it: past the encryption."""
    listener, dialer = (
        handshake(is_dialer=False),
        NoiseHandshake(OTHER, ENTROPY, is_dialer=True, muxers=("/yamux/1.0.0",)),
    )
    listener.receive_first(dialer.first())
    dialer.receive_identity(listener.write_identity())
    listener._state.rs = dialer._state.s
    listener._read = lambda message: message  # type: ignore[method-assign]

    def read(raw: bytes) -> None:
        listener.receive_identity(raw)

    return read


def noise_payloads() -> list[bytes]:
    """Valid in form; the signature is over another key, which is found out last."""
    static = X25519PublicKey.from_bytes(bytes(range(32)))
    signature = make_handshake_payload_sig(OTHER.libp2p_private, static)
    extensions = NoiseExtensions(stream_muxers=["/yamux/1.0.0", "/mplex/6.7.0"])
    return [NoiseHandshakePayload(OTHER.libp2p_private.get_public_key(), signature, extensions).serialize()]


def read_secure(raw: bytes) -> None:
    stream = SecureStream(Canned(raw), b"s" * 32, b"r" * 32, bytearray())  # type: ignore[arg-type]
    try:
        while finish(stream.receive_some()):
            pass
    except Exception as error:
        if type(error).__name__ != "BrokenResourceError":  # the end within a message
            raise


def secure_corpus() -> list[bytes]:
    stream = SecureStream(Canned(b""), b"r" * 32, b"s" * 32, bytearray())  # type: ignore[arg-type]
    return [stream._seal(memoryview(b"hello")) + stream._seal(memoryview(bytes(1000))), prefixed(b""), prefixed(b"x")]


LIMITS = YamuxLimits(initial_window=4096, max_window=8192, connection_buffer=16_384, max_inbound_streams=8)


def drive_yamux(raw: bytes) -> None:
    """The first byte says who dialled and how the input is cut; between the cuts the streams are used."""
    role, raw = (raw[0] if raw else 0), raw[1:]
    machine = YamuxMachine(is_dialer=bool(role & 1), limits=LIMITS)
    own = machine.open()
    machine.write(own, b"question")
    cut = 1 + (role >> 1) * 3
    for start in range(0, len(raw), cut):
        events = machine.receive(raw[start : start + cut])
        for stream in events.incoming:
            machine.accept(stream)
            if stream.is_writable:
                machine.write(stream, b"answer")
        for stream in events.touched[:4]:
            machine.read(stream, 100, 1.0, 0.1)
            if stream.at_eof:
                machine.close(stream, 1.0)
        machine.take_output(1000)
        assert 0 <= machine.buffered <= LIMITS.connection_buffer + 4096
        assert machine.buffered == sum(stream.buffered for stream in machine.streams.values())
        assert len(machine.streams) <= LIMITS.max_inbound_streams + 1
    machine.expire(1e9)
    machine.abandon()
    assert machine.buffered >= 0


def yamux_corpus() -> list[bytes]:
    def frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"") -> bytes:
        return HEADER.pack(0, kind, flags, stream, length) + body

    talk = [
        frame(WINDOW_UPDATE, SYN, 1, 0) + frame(DATA, 0, 1, 5, b"hello") + frame(WINDOW_UPDATE, FIN, 1, 0),
        frame(WINDOW_UPDATE, SYN, 2, 0) + frame(DATA, FIN, 2, 5, b"hello") + frame(WINDOW_UPDATE, RST, 2, 0),
        frame(WINDOW_UPDATE, ACK, 1, 0) + frame(WINDOW_UPDATE, 0, 1, 2**31) + frame(WINDOW_UPDATE, 0, 1, 2**31),
        frame(PING, SYN, 0, 7) + frame(PING, ACK, 0, 0) + frame(GO_AWAY, 0, 0, 0) + frame(DATA, SYN, 3, 1, b"x"),
        b"".join(frame(DATA, SYN, n, 4096, bytes(4096)) for n in (1, 3, 5, 7)),
    ]
    return [bytes([role]) + each for each in talk for role in (0, 1, 6, 7, 255)]


# --- relay, AutoNAT ---


def read_hop(raw: bytes) -> None:
    message = finish(MessageStream(Canned(raw)).receive(circuit_pb2.HopMessage))  # type: ignore[arg-type]
    plausible_peer(message.peer.id)
    addresses_from_bytes(list(message.reservation.addrs), 8)
    check_voucher(message.reservation.voucher, KEY.peer_id, OTHER.peer_id)


def read_stop(raw: bytes) -> None:
    message = finish(MessageStream(Canned(raw, piece=3)).receive(circuit_pb2.StopMessage))  # type: ignore[arg-type]
    plausible_peer(message.peer.id)


def read_punch(raw: bytes) -> None:
    message = finish(MessageStream(Canned(raw)).receive(circuit_pb2.HolePunch))  # type: ignore[arg-type]
    said = punch._from_wire(message)
    worth_dialling(said.addresses, addresses.is_public)
    Responder(addresses.is_public).receive(said, (HERE,))


def read_voucher(raw: bytes) -> None:
    check_voucher(raw, KEY.peer_id, OTHER.peer_id)


def relay_corpus() -> list[bytes]:
    voucher = make_voucher(KEY, OTHER.peer_id, 2_000_000_000)
    peer = circuit_pb2.Peer(id=OTHER.peer_id, addrs=BINARY)
    reservation = circuit_pb2.Reservation(expire=2_000_000_000, addrs=BINARY, voucher=voucher)
    hop = circuit_pb2.HopMessage
    return [
        delimit(message.SerializeToString())
        for message in (
            hop(type=hop.RESERVE),
            hop(type=hop.CONNECT, peer=peer),
            hop(
                type=hop.STATUS, status=circuit_pb2.Status.OK, reservation=reservation, peer=peer,
                limit=circuit_pb2.Limit(duration=60, data=1 << 17),
            ),
        )
    ]  # fmt: skip


def punch_corpus() -> list[bytes]:
    kind = circuit_pb2.HolePunch
    messages = (kind(type=kind.CONNECT, obs_addrs=BINARY), kind(type=kind.SYNC))
    return [delimit(message.SerializeToString()) for message in messages]


def autonat_server() -> Target:
    host: Any = SimpleNamespace(handle=lambda *_: None, listen_addresses=lambda: (HERE, MANY[1]))
    server, client = AutonatServer(host), AutonatClient(host)

    def answer(raw: bytes) -> None:
        message = finish(Messages(Canned(raw)).next())  # type: ignore[arg-type]
        server._choose(message.dial_request)
        try:
            client._judge(message.dial_response, [HERE], SimpleNamespace(arrived=SimpleNamespace(is_set=lambda: True)))  # type: ignore[arg-type]
        except Unreachable:
            pass

    return answer


def autonat_corpus() -> list[bytes]:
    pb = autonat_pb2
    return [
        delimit(message.SerializeToString())
        for message in (
            pb.Message(dial_request=pb.DialRequest(addrs=BINARY, nonce=2**63)),
            pb.Message(dial_response=pb.DialResponse(status=pb.DialResponse.OK, addr_idx=0, dial_status=pb.OK)),
            pb.Message(dial_data_request=pb.DialDataRequest(addr_idx=1, num_bytes=40_000)),
            pb.Message(dial_data_response=pb.DialDataResponse(data=bytes(4096))),
        )
    ]


# --- the local network: announcements, and the router's answers ---

ROUTER = ("192.0.2.1", 5000, "/rootDesc.xml")
DESCRIPTION = b"""<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><URLBase>http://192.0.2.1:5000</URLBase>
<device><serviceList><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>
<controlURL>%s</controlURL></service></serviceList></device></root>"""
RESULT = b"""HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n<?xml version="1.0"?><s:Envelope
xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><u:R xmlns:u="urn:x"><NewExternalIPAddress>5.1.0.1
</NewExternalIPAddress></u:R></s:Body></s:Envelope>"""
FAULT = RESULT.replace(b"200 OK", b"500 No").replace(b"NewExternalIPAddress", b"errorCode").replace(b"5.1.0.1", b"718")
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n<a/>\n\r\n3;x=y\r\n   \r\n0\r\n\r\n"


def read_announcement(raw: bytes) -> None:
    mdns.is_query(raw)
    found = mdns.decode(raw)
    if found is not None:
        mdns.encode(found)


def announcement() -> bytes:
    entries = tuple(ENTROPY(mdns.ENTRY_BYTES) for _ in range(config.LAN_ENTRIES))
    return mdns.encode(mdns.Announcement(ENTROPY(mdns.NONCE_BYTES), 4001, entries))


def read_router(raw: bytes) -> None:
    """The first byte says which question it answers."""
    kind, raw = (raw[0] % 3 if raw else 0), raw[1:]
    if kind == 0:
        natpmp.read_address(raw)
    elif kind == 1:
        natpmp.read_mapping(raw, 4001)
    else:
        natpmp.read_pcp(raw, b"n" * 12, 4001)


def router_corpus() -> list[bytes]:
    pcp = bytes.fromhex("0281000000000e10000000ff") + bytes(12) + b"n" * 12 + bytes.fromhex("060000000fa10fa1")
    return [
        b"\0" + bytes.fromhex("00800000000000ff05010001"),
        b"\1" + bytes.fromhex("00820000000000ff0fa10fa100000e10"),
        b"\2" + pcp + bytes(10) + b"\xff\xff\x05\x01\0\1",
    ]


def read_search(raw: bytes) -> None:
    upnp.location_of(raw, ROUTER[0])


def read_description(raw: bytes) -> None:
    control = upnp.control_of(raw, ROUTER)
    upnp.order(control, "AddPortMapping", upnp.add_mapping(1, "192.0.2.2", 1, 1))


def read_result(raw: bytes) -> None:
    upnp.result_of(raw, "NewExternalIPAddress")


def descriptions() -> list[bytes]:
    return [DESCRIPTION % url for url in (b"/ctl/IPConn", b"http://192.0.2.1:5000/c?d", b"http://[2001:db8::1]:80/x")]


def targets() -> list[tuple[str, Target, list[bytes]]]:
    """Each reader with valid messages to start from."""
    connection: Any = SimpleNamespace(remote_address=HERE, path=PathKind.DIRECT)
    identity = identify.describe(KEY, "p2pe/1", ["/a", "/b"] * 20, MANY, connection)
    lines = multistream.line("/multistream/1.0.0")
    circuit = relay_corpus()
    first = prefixed(NoiseHandshake(OTHER, ENTROPY, is_dialer=True, muxers=()).first())
    listener = handshake(is_dialer=False)
    listener.receive_first(first[2:])
    second = prefixed(listener.write_identity())
    return [
        ("address", read_address, BINARY),
        ("identify", read_identity, [identity, identify_pb2.Identify(agent_version="x").SerializeToString()]),
        ("kad", kad_server(), kad_corpus()),
        ("record", read_record, [RECORD]),
        ("multistream answer", answer_multistream, [lines + multistream.line("/x") + multistream.line("/echo")]),
        ("multistream propose", propose_multistream, [lines + multistream.line("na") + multistream.line("/echo")]),
        ("noise answer", answer_handshake, [first + second]),
        ("noise dial", dial_handshake, [second, first + second]),
        ("noise payload", read_noise_payload(), noise_payloads()),
        ("noise messages", read_secure, secure_corpus()),
        ("yamux", drive_yamux, yamux_corpus()),
        ("hop", read_hop, circuit),
        ("stop", read_stop, circuit),
        ("punch", read_punch, punch_corpus()),
        ("announcement", read_announcement, [announcement(), mdns.query()]),
        ("router", read_router, router_corpus()),
        ("search", read_search, [b"HTTP/1.1 200 OK\r\nST: x\r\nLOCATION: http://192.0.2.1:5000/rootDesc.xml\r\n\r\n"]),
        ("description", read_description, descriptions()),
        ("result", read_result, [RESULT, FAULT, CHUNKED]),
        ("voucher", read_voucher, [make_voucher(KEY, OTHER.peer_id, 2_000_000_000)]),
        ("autonat", autonat_server(), autonat_corpus()),
    ]


async def main() -> int:
    """Within trio, since handshakes read its clock; nothing here gives way to another task."""
    return run(targets(), "Fuzz what the overlay reads from strangers.")


if __name__ == "__main__":
    sys.exit(trio.run(main))
