"""Derived keys, ids and proofs: against RFCs, against their definitions, and against each other."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st
from p2pe.core import derive
from p2pe.model import IdentityKey, MessageId, Millis, PeerId, ReceiptStatus

ONE, TWO = IdentityKey(b"\x01" * 32), IdentityKey(b"\x02" * 32)
DIALER, RESPONDER = PeerId(b"\x00\x24" + b"d" * 36), PeerId(b"\x00\x24" + b"r" * 36)
ID = MessageId(b"i" * 32)
keys = st.binary(min_size=32, max_size=32)


def test_hkdf_rfc5869_cases() -> None:
    """RFC 5869, appendix A.1 to A.3."""
    first = derive.hkdf(b"\x0b" * 22, bytes(range(0xF0, 0xFA)), salt=bytes(range(13)), length=42)
    assert first.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    second = derive.hkdf(bytes(range(80)), bytes(range(0xB0, 0x100)), salt=bytes(range(0x60, 0xB0)), length=82)
    assert second.hex() == (
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
    )
    third = derive.hkdf(b"\x0b" * 22, b"", length=42)
    assert third.hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"


@pytest.mark.parametrize("length", [0, 8161])
def test_hkdf_lengths(length: int) -> None:
    assert len(derive.hkdf(b"s", b"i", length=8160)) == 8160
    with pytest.raises(ValueError, match=str(length)):
        derive.hkdf(b"s", b"i", length=length)


def test_every_derivation_is_its_own() -> None:
    """From one secret, no two purposes, directions or days give the same bytes."""
    secret = b"S" * 32
    pair = derive.pair_keys(secret)
    made = [
        *(pair.psk0, pair.tag, pair.receipt, pair.rendezvous),
        derive.code_psk0(secret),
        derive.link_psk0(secret),
        derive.recover_psk0(IdentityKey(secret)),
        derive.new_pair_secret(secret, secret, secret),
        derive.rotated_secret(secret, secret, secret, 2),
        derive.rotated_secret(secret, secret, secret, 3),
        derive.pair_confirm_mac(secret, by_dialer=True, handshake_hash=secret),
        derive.pair_confirm_mac(secret, by_dialer=False, handshake_hash=secret),
        *(derive.lookup_seed(secret, direction, day) for direction in (0, 1) for day in (20_000, 20_001)),
        *(derive.record_aead_key(secret, direction, day) for direction in (0, 1) for day in (20_000, 20_001)),
        *(derive.recover_lookup_seed(IdentityKey(secret), day) for day in (20_000, 20_001)),
    ]
    assert all(len(each) == 32 for each in made)
    assert len(set(made)) == len(made)


def test_pair_secret_depends_on_order_and_handshake() -> None:
    made = {
        derive.new_pair_secret(a, b, h)
        for a, b, h in [(b"a" * 32, b"b" * 32, b"h"), (b"b" * 32, b"a" * 32, b"h"), (b"a" * 32, b"b" * 32, b"g")]
    }
    assert len(made) == 3


@given(keys, st.binary(min_size=16, max_size=16), keys)
def test_own_message_ids_are_recognised(k_msgid: bytes, nonce: bytes, peer: bytes) -> None:
    made = derive.message_id(k_msgid, nonce, IdentityKey(peer))
    assert made == nonce + hmac.digest(k_msgid, nonce + peer, "sha256")[:16]
    assert derive.is_own_message_id(k_msgid, made, IdentityKey(peer))
    assert not derive.is_own_message_id(k_msgid, made[:-1] + bytes([made[-1] ^ 1]), IdentityKey(peer))
    assert not derive.is_own_message_id(k_msgid, made, IdentityKey(bytes([peer[0] ^ 1]) + peer[1:]))
    assert not derive.is_own_message_id(bytes([k_msgid[0] ^ 1]) + k_msgid[1:], made, IdentityKey(peer))


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_ids_of_another_size_are_never_ours(size: int) -> None:
    assert not derive.is_own_message_id(b"k" * 32, bytes(size), ONE)


def test_message_id_needs_its_nonce() -> None:
    with pytest.raises(ValueError, match="16"):
        derive.message_id(b"k" * 32, bytes(15), ONE)


def test_receipts_are_bound_to_id_body_status_and_key() -> None:
    digest = derive.body_hash(b"body")
    mac = derive.receipt_mac(b"k" * 32, ID, digest, ReceiptStatus.DELIVERED)
    assert mac == hmac.digest(b"k" * 32, ID + hashlib.sha256(b"body").digest() + b"\x01", "sha256")
    assert derive.is_receipt(b"k" * 32, ID, digest, ReceiptStatus.DELIVERED, mac)
    assert not derive.is_receipt(b"k" * 32, ID, digest, ReceiptStatus.READ, mac)
    assert not derive.is_receipt(b"k" * 32, MessageId(b"j" * 32), digest, ReceiptStatus.DELIVERED, mac)
    assert not derive.is_receipt(b"k" * 32, ID, derive.body_hash(b"other"), ReceiptStatus.DELIVERED, mac)
    assert not derive.is_receipt(b"l" * 32, ID, digest, ReceiptStatus.DELIVERED, mac)
    assert not derive.is_receipt(b"k" * 32, ID, digest, ReceiptStatus.DELIVERED, mac[:-1])


def test_retractions_are_bound_to_id_and_key_and_are_no_receipts() -> None:
    mac = derive.retraction_mac(b"k" * 32, ID)
    assert mac == hmac.digest(b"k" * 32, b"retract" + ID, "sha256")
    assert derive.is_retraction(b"k" * 32, ID, mac)
    assert not derive.is_retraction(b"k" * 32, MessageId(b"j" * 32), mac)
    assert not derive.is_retraction(b"l" * 32, ID, mac)
    assert not any(derive.is_receipt(b"k" * 32, ID, derive.body_hash(b""), status, mac) for status in ReceiptStatus)


def test_tags_are_bound_to_everything() -> None:
    good = (b"k" * 32, 20_000, True, DIALER, RESPONDER, b"n" * 16)
    tag = derive.session_tag(*good)
    text = (20_000).to_bytes(4, "big") + b"\x00" + DIALER + RESPONDER + b"n" * 16
    assert tag == hmac.digest(b"k" * 32, text, "sha256")[:16]
    assert derive.is_tag(derive.session_tag(*good), tag)
    changes = (b"l" * 32, 20_001, False, RESPONDER, DIALER, b"m" * 16)
    for at, change in enumerate(changes):
        assert not derive.is_tag(derive.session_tag(*good[:at], change, *good[at + 1 :]), tag)  # type: ignore[arg-type]


def test_days_change_at_midnight_utc() -> None:
    assert derive.day_of(Millis(0)) == 0
    assert derive.day_of(Millis(86_399_999)) == 0
    assert derive.day_of(Millis(86_400_000)) == 1


@given(keys, keys)
def test_safety_numbers(one: bytes, other: bytes) -> None:
    number = derive.safety_number(IdentityKey(one), IdentityKey(other))
    assert number == derive.safety_number(IdentityKey(other), IdentityKey(one))
    groups = number.split(" ")
    assert len(groups) == 12
    assert all(len(group) == 5 and group.isdecimal() for group in groups)
    assert number != derive.safety_number(IdentityKey(one), IdentityKey(bytes([other[0] ^ 1]) + other[1:]))


def test_directions_agree() -> None:
    assert derive.is_lower(ONE, TWO)
    assert not derive.is_lower(TWO, ONE)


def test_commitment() -> None:
    assert derive.identity_commitment(ONE) == hashlib.sha256(b"p2pe/1 invite" + ONE).digest()[:16]
