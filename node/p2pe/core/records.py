"""What the DHT may hold: signed, sealed, small, short-lived address records. Pure.

Layout (protos/p2pe/v1/records.proto):

    SignedRecord { body, signature }      at most MAX_RECORD_BYTES in all
    signature = Ed25519 by public_key over "p2pe/1 record" || body
    body      = RecordBody { public_key 32, slot 0..3, sequence, expires_at, payload 512 }
    payload   = nonce 12 || ChaCha20-Poly1305(key, nonce, Addresses padded to 484, aad "p2pe/1 addresses")

Rules that a storer and a reader enforce alike (`check_record`): size, canonical encoding (nothing can be hidden in
unknown fields), payload size, slot, DHT key = function of (public_key, slot), signature, made no later than now
(give or take CLOCK_SKEW), not expired, and never valid for longer than MAX_RECORD_TTL after it was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from google.protobuf.message import DecodeError, Message

from p2pe.config import (
    CLOCK_SKEW,
    LOCATOR_SLOTS,
    MAX_ADDRESSES,
    MAX_RECORD_BYTES,
    MAX_RECORD_TTL,
    RECORD_PAYLOAD_BYTES,
    SIGNATURES_REMEMBERED,
)
from p2pe.errors import RemoteError
from p2pe.model import Address, Millis, PeerId, PeerInfo
from p2pe.proto import records_pb2

KEY_PREFIX = b"/p2pe/"
NONCE_BYTES = 12
_SIGNATURE_CONTEXT = b"p2pe/1 record"
_SEAL_CONTEXT = b"p2pe/1 addresses"
_TAG_BYTES = 16
_PLAIN_BYTES = RECORD_PAYLOAD_BYTES - NONCE_BYTES - _TAG_BYTES
_PADDING_HEADER = 3  # tag of field 15 and a two-byte length
_MAX_ADDRESS_BYTES = 256  # a circuit address with a DNS name takes about 150


@dataclass(frozen=True, slots=True)
class Record:
    """A record that passed `check_record`. `raw` is what is stored and served, byte for byte."""

    public_key: bytes
    slot: int
    sequence: int
    expires_at: Millis
    payload: bytes
    raw: bytes


def record_key(public_key: bytes, slot: int) -> bytes:
    """The DHT key under which the holder of `public_key` may store its record number `slot`."""
    return KEY_PREFIX + public_key + bytes([slot])


def public_key_of(seed: bytes) -> bytes:
    """The Ed25519 public key (32 bytes) of a 32-byte lookup seed."""
    return _signer(seed).public_key().public_bytes_raw()


@lru_cache(maxsize=1)
def _signer(seed: bytes) -> Ed25519PrivateKey:
    """Cached: whoever makes a record asks for its key, too, and each is a multiplication on the curve."""
    return Ed25519PrivateKey.from_private_bytes(seed)


def make_record(seed: bytes, slot: int, sequence: int, expires_at: Millis, sealed_payload: bytes) -> bytes:
    """A serialized SignedRecord, signed by the Ed25519 key of the 32-byte `seed`. `sequence` is the time of making
    in Unix milliseconds; a storer keeps the highest."""
    if len(sealed_payload) != RECORD_PAYLOAD_BYTES:
        raise ValueError(f"a record's payload is {RECORD_PAYLOAD_BYTES} bytes, not {len(sealed_payload)}")
    signer = _signer(seed)
    body = records_pb2.RecordBody(
        public_key=signer.public_key().public_bytes_raw(),
        slot=slot,
        sequence=sequence,
        expires_at=expires_at,
        payload=sealed_payload,
    ).SerializeToString(deterministic=True)
    signature = signer.sign(_SIGNATURE_CONTEXT + body)
    return records_pb2.SignedRecord(body=body, signature=signature).SerializeToString(deterministic=True)


def check_record(key: bytes, raw: bytes, now: Millis) -> Record:
    """Reads `raw`, found or offered under the DHT `key`, and holds it to every rule at the head of this file.
    Raises RemoteError, naming the rule that was broken."""
    if len(raw) > MAX_RECORD_BYTES:
        raise RemoteError(f"record of {len(raw)} bytes; the limit is {MAX_RECORD_BYTES}")
    signed, body = _parse(raw)
    if len(body.public_key) != 32 or len(signed.signature) != 64:
        raise RemoteError("record with a key or signature of the wrong length")
    if len(body.payload) != RECORD_PAYLOAD_BYTES:
        raise RemoteError(f"record with a payload of {len(body.payload)} bytes instead of {RECORD_PAYLOAD_BYTES}")
    if body.slot >= LOCATOR_SLOTS:
        raise RemoteError(f"record with slot {body.slot}; the highest is {LOCATOR_SLOTS - 1}")
    if key != record_key(body.public_key, body.slot):
        raise RemoteError("record under a key that isn't its own")
    _check_times(body, now)
    if not _is_signed(body.public_key, signed.signature, signed.body):
        raise RemoteError("record with a wrong signature")
    return Record(body.public_key, body.slot, body.sequence, Millis(body.expires_at), body.payload, raw)


@lru_cache(maxsize=SIGNATURES_REMEMBERED)
def _is_signed(public_key: bytes, signature: bytes, body: bytes) -> bool:
    """Cached: a lookup finds the same record at many storers, and each check costs 0.15 ms."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _SIGNATURE_CONTEXT + body)
    except (InvalidSignature, ValueError):
        return False
    return True


def _parse(raw: bytes) -> tuple[records_pb2.SignedRecord, records_pb2.RecordBody]:
    signed = records_pb2.SignedRecord()
    body = records_pb2.RecordBody()
    try:
        signed.ParseFromString(raw)
        body.ParseFromString(signed.body)
    except DecodeError as error:
        raise RemoteError("record that can't be parsed") from error
    if _canonical(signed) != raw or _canonical(body) != signed.body:
        raise RemoteError("record with unknown fields or an unusual encoding")
    return signed, body


def _canonical(message: Message) -> bytes:
    message.DiscardUnknownFields()
    return message.SerializeToString(deterministic=True)


def _check_times(body: records_pb2.RecordBody, now: Millis) -> None:
    if body.sequence > now + CLOCK_SKEW * 1000:
        raise RemoteError("record made in the future")
    if body.expires_at <= now:
        raise RemoteError("record that has expired")
    if not 0 < body.expires_at - body.sequence <= MAX_RECORD_TTL * 1000:
        raise RemoteError(f"record valid for longer than {MAX_RECORD_TTL} s")


def seal_addresses(info: PeerInfo, aead_key: bytes, nonce: bytes) -> bytes:
    """Seals a peer id and its addresses into exactly RECORD_PAYLOAD_BYTES. `nonce` is 12 fresh random bytes.

    Addresses are taken in the order given, best first; those beyond MAX_ADDRESSES, and those that no longer fit
    (about ten plain ones or four circuits fit), are left out.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"the nonce is {NONCE_BYTES} bytes, not {len(nonce)}")
    message = records_pb2.Addresses(peer_id=bytes(info.peer_id))
    room = _PLAIN_BYTES - _PADDING_HEADER
    for address in info.addresses:
        if len(message.addresses) == MAX_ADDRESSES:
            break
        encoded = address.encode()
        if len(encoded) > _MAX_ADDRESS_BYTES or message.ByteSize() + len(encoded) + 3 > room:
            continue
        message.addresses.append(encoded)
    plain = message.SerializeToString(deterministic=True)
    return nonce + ChaCha20Poly1305(aead_key).encrypt(nonce, _pad(plain), _SEAL_CONTEXT)


def _pad(plain: bytes) -> bytes:
    """Appends field 15 (`padding`) so that the whole is _PLAIN_BYTES. Its length is always written in two bytes:
    protobuf readers take that form too, and with the shortest form one total (130 bytes left) can't be reached."""
    count = _PLAIN_BYTES - len(plain) - _PADDING_HEADER
    return plain + bytes([15 << 3 | 2, count & 0x7F | 0x80, count >> 7]) + bytes(count)


def open_addresses(payload: bytes, aead_key: bytes) -> PeerInfo:
    """What `seal_addresses` sealed. Raises RemoteError when it wasn't sealed under this key or breaks a limit."""
    if len(payload) != RECORD_PAYLOAD_BYTES:
        raise RemoteError("record payload of the wrong size")
    message = records_pb2.Addresses()
    try:
        plain = ChaCha20Poly1305(aead_key).decrypt(payload[:NONCE_BYTES], payload[NONCE_BYTES:], _SEAL_CONTEXT)
        message.ParseFromString(plain)
        addresses = tuple(Address(raw.decode()) for raw in message.addresses)
    except InvalidTag as error:
        raise RemoteError("record payload sealed under another key") from error
    except (DecodeError, UnicodeDecodeError) as error:
        raise RemoteError("record payload that can't be parsed") from error
    if len(addresses) > MAX_ADDRESSES or any(not _plausible(address) for address in addresses):
        raise RemoteError("record payload with too many or implausible addresses")
    peer_id = message.peer_id
    if not 4 <= len(peer_id) <= 64 or peer_id[0] not in (0x00, 0x12) or peer_id[1] != len(peer_id) - 2:
        raise RemoteError("record payload without a peer id")
    return PeerInfo(PeerId(peer_id), addresses)


def _plausible(address: Address) -> bool:
    return (
        address.startswith("/") and len(address) <= _MAX_ADDRESS_BYTES and address.isascii() and address.isprintable()
    )
