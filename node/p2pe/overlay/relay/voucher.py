"""Reservation vouchers: a relay's signed word that it serves a peer until a time.

Source: circuit-v2, "Reservation Vouchers"; libp2p RFC 0002 (signed envelopes). Bytes:

    voucher   = protobuf {1: relay peer id, 2: peer id, 3: expiration in Unix seconds}, fields in this order
    signed    = len(domain) domain len(type) type len(voucher) voucher     (lengths are unsigned varints)
    envelope  = protobuf {1: public key message, 2: type, 3: voucher, 5: signature over `signed`}
    domain    = "libp2p-relay-rsvp", type = 03 02
"""

from __future__ import annotations

from typing import Any, Final

from p2pe.core.varint import decode_varint, delimit
from p2pe.errors import RemoteError
from p2pe.model import PeerId
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.libp2p_import import ID, UNREADABLE, deserialize_public_key
from p2pe.proto.circuit_pb2 import Voucher

DOMAIN: Final = b"libp2p-relay-rsvp"
PAYLOAD_TYPE: Final = b"\x03\x02"
MAX_BYTES: Final = 1024
_LENGTH_DELIMITED: Final = 2


def make_voucher(key: HostKey, peer: PeerId, expires_at: int) -> bytes:
    """`expires_at`: Unix seconds. Returns the envelope."""
    payload = Voucher(relay=bytes(key.peer_id), peer=bytes(peer), expiration=expires_at).SerializeToString(
        deterministic=True
    )
    signature: bytes = key.libp2p_private.sign(_signed(payload))
    fields = ((1, key.public_bytes), (2, PAYLOAD_TYPE), (3, payload), (5, signature))
    return b"".join(bytes([number << 3 | _LENGTH_DELIMITED]) + delimit(value) for number, value in fields)


def check_voucher(raw: bytes, relay: PeerId, peer: PeerId) -> int:
    """Returns the expiration in Unix seconds. Raises RemoteError unless `relay` signed it for `peer`."""
    fields = _fields(raw)
    if fields.get(2) != PAYLOAD_TYPE:
        raise RemoteError("the voucher's envelope holds something else")
    payload = fields.get(3, b"")
    try:
        public: Any = deserialize_public_key(fields.get(1, b""))
        is_genuine = public.verify(_signed(payload), fields.get(5, b""))
        signer = ID.from_pubkey(public).to_bytes()
        voucher = Voucher.FromString(payload)
    except UNREADABLE as error:
        raise RemoteError(f"the voucher can't be read ({type(error).__name__})") from None
    if not is_genuine or signer != relay:
        raise RemoteError("the voucher isn't signed by the relay")
    if voucher.relay != relay or voucher.peer != peer:
        raise RemoteError("the voucher is about somebody else")
    return int(voucher.expiration)


def _signed(payload: bytes) -> bytes:
    return delimit(DOMAIN) + delimit(PAYLOAD_TYPE) + delimit(payload)


def _fields(raw: bytes) -> dict[int, bytes]:
    if len(raw) > MAX_BYTES:
        raise RemoteError("the voucher is too long")
    found: dict[int, bytes] = {}
    while raw:
        length = decode_varint(raw[1:])
        if length is None or raw[0] & 7 != _LENGTH_DELIMITED:
            raise RemoteError("the voucher's envelope is damaged")
        start = 1 + length[1]
        if len(raw) < start + length[0]:
            raise RemoteError("the voucher's envelope is cut short")
        found[raw[0] >> 3] = raw[start : start + length[0]]
        raw = raw[start + length[0] :]
    return found
