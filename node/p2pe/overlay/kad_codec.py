"""kad-dht messages between Python and protobuf (libp2p kad-dht specification, "RPC messages").

Everything is bounded when read: KAD_MAX_MESSAGE bytes, KAD_K peers, KAD_MAX_PEER_ADDRESSES addresses each. Only
addresses that can be dialled directly are taken, and only of a kind that their teller is reached by itself: a peer on
the internet can't make us knock on doors in our own network.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from google.protobuf.message import DecodeError

from p2pe import config
from p2pe.core.addresses import dns_port, host_port
from p2pe.core.kademlia.diversity import AsnMap, groups_of
from p2pe.core.kademlia.keyspace import MAX_WIRE_KEY_BYTES, Node, location_of
from p2pe.errors import RemoteError
from p2pe.model import Address, PeerId, PeerInfo
from p2pe.overlay.identify import shown_to
from p2pe.overlay.wire_addresses import address_from_bytes, address_to_bytes
from p2pe.proto import kad_pb2

_IP4, _TCP, _IP6 = b"\x04", b"\x06", b"\x29"  # multiaddr protocol codes


class Kind(IntEnum):
    """The message types we speak; same numbers as in kad.proto."""

    PUT_VALUE = 0
    GET_VALUE = 1
    FIND_NODE = 4
    PING = 5


@dataclass(frozen=True, slots=True)
class KadMessage:
    """A request or a reply. `value` is the record's, `closer` the peers of a reply."""

    kind: Kind
    key: bytes = b""
    value: bytes | None = None
    closer: tuple[PeerInfo, ...] = ()


_KINDS: Final = {int(kind) for kind in Kind}


def encode(message: KadMessage) -> bytes:
    """The serialized message, without length prefix."""
    wire = kad_pb2.Message(type=int(message.kind), key=message.key)  # type: ignore[arg-type]
    if message.value is not None:
        wire.record.key = message.key
        wire.record.value = message.value
    for peer in message.closer:
        addrs = [encode_address(address) for address in peer.addresses[: config.KAD_MAX_PEER_ADDRESSES]]
        wire.closer_peers.add(id=bytes(peer.peer_id), addrs=addrs, connection=kad_pb2.Message.CAN_CONNECT)
    return wire.SerializeToString()


def decode(raw: bytes) -> KadMessage:
    """Raises RemoteError for what can't be parsed, isn't one of our kinds, or has an implausible key."""
    try:
        wire = kad_pb2.Message.FromString(raw)
    except DecodeError:
        raise RemoteError("a kad-dht message can't be decoded") from None
    if wire.type not in _KINDS:
        raise RemoteError(f"a kad-dht message of type {wire.type}, which isn't spoken here")
    if len(wire.key) > MAX_WIRE_KEY_BYTES:
        raise RemoteError(f"a kad-dht key of {len(wire.key)} bytes")
    value = None
    if wire.HasField("record") and wire.record.value:
        if wire.record.key != wire.key:
            raise RemoteError("a record under another key than its message's")
        value = wire.record.value
        if len(value) > config.MAX_RECORD_BYTES:
            raise RemoteError(f"a record of {len(value)} bytes")
    closer = []
    for peer in wire.closer_peers[: config.KAD_K]:
        peer_id = plausible_peer_id(peer.id)
        if peer_id is not None:
            closer.append(PeerInfo(peer_id, decode_addresses(peer.addrs)))
    return KadMessage(Kind(wire.type), wire.key, value, tuple(closer))


def plausible_peer_id(raw: bytes) -> PeerId | None:
    """A multihash of an accepted kind (identity, sha2-256) and of its own length; None for anything else."""
    if not 4 <= len(raw) <= MAX_WIRE_KEY_BYTES or raw[0] not in (0x00, 0x12) or raw[1] != len(raw) - 2:
        return None
    return PeerId(raw)


def encode_address(address: Address) -> bytes:
    """Binary multiaddr. Plain IP and TCP, nearly all there are, are written here: 20 times faster than by library."""
    parts = host_port(address)
    if parts is None or address.count("/") != 4:
        return address_to_bytes(address)
    ip = ipaddress.ip_address(parts[0])
    return (_IP4 if ip.version == 4 else _IP6) + ip.packed + _TCP + parts[1].to_bytes(2, "big")


def decode_address(raw: bytes) -> Address | None:
    if len(raw) == 8 and raw[:1] == _IP4 and raw[5:6] == _TCP:
        return Address(f"/ip4/{raw[1]}.{raw[2]}.{raw[3]}.{raw[4]}/tcp/{int.from_bytes(raw[6:], 'big')}")
    if len(raw) == 20 and raw[:1] == _IP6 and raw[17:18] == _TCP:
        return Address(f"/ip6/{ipaddress.IPv6Address(raw[1:17])}/tcp/{int.from_bytes(raw[18:], 'big')}")
    address = address_from_bytes(raw)
    return address if address is not None and (host_port(address) or dns_port(address)) else None


def decode_addresses(raws: Iterable[bytes]) -> tuple[Address, ...]:
    """The direct TCP addresses among the first few, in order, each once."""
    found: dict[Address, None] = {}
    for number, raw in enumerate(raws):
        if number >= 2 * config.KAD_MAX_PEER_ADDRESSES or len(found) == config.KAD_MAX_PEER_ADDRESSES:
            break
        address = decode_address(bytes(raw))
        if address is not None:
            found[address] = None
    return tuple(found)


def nodes_told_by(teller: Address, peers: Sequence[PeerInfo], asn_of: AsnMap | None = None) -> tuple[Node, ...]:
    """What a peer reached at `teller` said about others, as lookup candidates: without bait, without those that have
    no usable address."""
    nodes = []
    for peer in peers:
        addresses = shown_to(teller, peer.addresses)
        if addresses:
            nodes.append(Node(peer.peer_id, location_of(peer.peer_id), addresses, groups_of(addresses[0], asn_of)))
    return tuple(nodes)
