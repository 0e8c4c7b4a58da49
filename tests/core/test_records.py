"""Every rule for what the DHT may hold, each with a record that breaks just that one."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from p2pe.config import CLOCK_SKEW, LOCATOR_SLOTS, MAX_ADDRESSES, MAX_RECORD_BYTES, MAX_RECORD_TTL, RECORD_PAYLOAD_BYTES
from p2pe.core.records import (
    check_record,
    make_record,
    open_addresses,
    public_key_of,
    record_key,
    seal_addresses,
)
from p2pe.errors import RemoteError
from p2pe.model import Address, Millis, PeerId, PeerInfo
from p2pe.proto import records_pb2

SEED = bytes(range(32))
PUBLIC = public_key_of(SEED)
NOW = Millis(1_800_000_000_000)
HOUR = 3_600_000
AEAD = b"k" * 32
NONCE = b"n" * 12
PEER = PeerInfo(
    PeerId(b"\x00\x24\x08\x01\x12\x20" + b"p" * 32),
    (Address("/ip4/192.0.2.1/tcp/4001"), Address("/ip6/2001:db8::1/tcp/4001")),
)
PAYLOAD = seal_addresses(PEER, AEAD, NONCE)


def valid() -> bytes:
    return make_record(SEED, 1, NOW, Millis(NOW + HOUR), PAYLOAD)


def signed(body: bytes, seed: bytes = SEED) -> bytes:
    signature = Ed25519PrivateKey.from_private_bytes(seed).sign(b"p2pe/1 record" + body)
    return records_pb2.SignedRecord(body=body, signature=signature).SerializeToString()


def body_with(**changes: object) -> bytes:
    fields: dict[str, object] = {
        "public_key": PUBLIC,
        "slot": 1,
        "sequence": NOW,
        "expires_at": NOW + HOUR,
        "payload": PAYLOAD,
    }
    return records_pb2.RecordBody(**(fields | changes)).SerializeToString()  # type: ignore[arg-type]


def test_a_valid_record_is_taken_and_kept_byte_for_byte() -> None:
    raw = valid()
    record = check_record(record_key(PUBLIC, 1), raw, NOW)
    assert record.raw == raw and record.slot == 1 and record.sequence == NOW and record.expires_at == NOW + HOUR
    assert open_addresses(record.payload, AEAD) == PEER
    assert len(raw) <= MAX_RECORD_BYTES


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        (signed(body_with(payload=b"x" * 511)), "payload of 511"),
        (signed(body_with(payload=b"a message" + bytes(600))), "payload of 609"),
        (signed(body_with(slot=LOCATOR_SLOTS)), "slot 4"),
        (signed(body_with(public_key=b"short")), "wrong length"),
        (signed(body_with(expires_at=NOW)), "expired"),
        (signed(body_with(expires_at=NOW + MAX_RECORD_TTL * 1000 + 1)), "longer than"),
        (signed(body_with(expires_at=2**63 - 1)), "longer than"),
        (signed(body_with(expires_at=-5)), "expired"),
        (
            signed(body_with(sequence=NOW + CLOCK_SKEW * 1000 + 1, expires_at=NOW + 2 * HOUR)),
            "future",
        ),
        (signed(body_with(sequence=2**64 - 1)), "future"),
        (signed(body_with(), seed=b"other" + bytes(27)), "signature"),
        (signed(body_with() + b"\xfa\x7f\x05hello"), "unknown fields"),
        (signed(body_with()) + b"\xfa\x7f\x05hello", "unknown fields"),
        (signed(body_with() + b"\xfa\x7f\x80\x04" + bytes(512)), "bytes; the limit"),
        (b"", "wrong length"),
        (b"\xff" * 100, "parsed"),
    ],
)
def test_each_rule_refuses_what_breaks_it(raw: bytes, rule: str) -> None:
    with pytest.raises(RemoteError, match=rule):
        check_record(record_key(PUBLIC, 1), raw, NOW)


def test_a_record_belongs_under_its_own_key_alone() -> None:
    for key in (record_key(PUBLIC, 0), record_key(b"o" * 32, 1), b"/pk/" + PUBLIC, b""):
        with pytest.raises(RemoteError, match="isn't its own"):
            check_record(key, valid(), NOW)


def test_a_record_dies_at_its_expiry() -> None:
    check_record(record_key(PUBLIC, 1), valid(), Millis(NOW + HOUR - 1))
    with pytest.raises(RemoteError, match="expired"):
        check_record(record_key(PUBLIC, 1), valid(), Millis(NOW + HOUR))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_any_changed_byte_is_noticed(position: int, change: int) -> None:
    raw = bytearray(valid())
    raw[position % len(raw)] ^= change
    with pytest.raises(RemoteError):
        check_record(record_key(PUBLIC, 1), bytes(raw), NOW)


addresses = st.lists(
    st.text("abcdefghijklmnopqrstuvwxyz0123456789./", max_size=240).map(lambda t: Address("/" + t)), max_size=12
)


@settings(max_examples=300, deadline=None)
@given(addresses)
def test_sealing_always_fills_the_payload_and_keeps_what_fits_in_order(given_: list[Address]) -> None:
    sealed = seal_addresses(dataclasses.replace(PEER, addresses=tuple(given_)), AEAD, NONCE)
    assert len(sealed) == RECORD_PAYLOAD_BYTES
    opened = open_addresses(sealed, AEAD)
    assert opened.peer_id == PEER.peer_id
    remaining = iter(given_)
    assert all(any(address == other for other in remaining) for address in opened.addresses)
    assert len(opened.addresses) <= MAX_ADDRESSES
    if sum(len(address) + 3 for address in given_) < 400 and len(given_) <= MAX_ADDRESSES:
        assert opened.addresses == tuple(given_)


def test_every_amount_of_padding_can_be_reached() -> None:
    for length in range(1, 241):
        sealed = seal_addresses(dataclasses.replace(PEER, addresses=(Address("/" + "a" * length),) * 1), AEAD, NONCE)
        assert len(sealed) == RECORD_PAYLOAD_BYTES


def test_three_circuit_addresses_fit_beside_two_direct_ones() -> None:
    circuit = Address(f"/ip4/203.0.113.250/tcp/40001/p2p/{PEER.peer_id}/p2p-circuit")
    given_ = (*PEER.addresses, circuit, circuit, circuit)
    assert (
        open_addresses(seal_addresses(dataclasses.replace(PEER, addresses=given_), AEAD, NONCE), AEAD).addresses
        == given_
    )


def test_only_the_right_key_opens_and_nothing_altered_does() -> None:
    with pytest.raises(RemoteError, match="another key"):
        open_addresses(PAYLOAD, b"other" + bytes(27))
    with pytest.raises(RemoteError, match="another key"):
        open_addresses(PAYLOAD[:-1] + bytes([PAYLOAD[-1] ^ 1]), AEAD)
    with pytest.raises(RemoteError, match="size"):
        open_addresses(PAYLOAD[:-1], AEAD)
