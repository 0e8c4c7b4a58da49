"""Frozen answers of our own: what two versions of p2pe must agree on, byte for byte, within protocol version 1.

A change here means that older nodes no longer understand this one. tests/core/vectors/known_answers.json was computed
apart from the product's code (plain hashlib, hmac and protobuf's wire format by hand) and is not to be made anew.
"""

from __future__ import annotations

from typing import Any

import pytest
from crypto_support import own_vectors
from nacl.signing import SigningKey
from p2pe.core import derive
from p2pe.core.certificate import make_certificate, verify_certificate
from p2pe.core.codec import decode_content, decode_frame, encode_content, encode_frame, pad_frame
from p2pe.core.handshake_messages import make_prologue
from p2pe.core.tickets import open_ticket, seal_ticket
from p2pe.model import (
    Batch,
    Content,
    Frame,
    Goodbye,
    GoodbyeReason,
    IdentityKey,
    MessageId,
    Millis,
    OrderConflict,
    PairConfirm,
    PeerId,
    Ping,
    Pong,
    Receipt,
    Receipts,
    ReceiptStatus,
    Retraction,
    Retractions,
    Rotation,
    RotationStep,
    StreamId,
    WireMessage,
)

ANSWERS: dict[str, Any] = own_vectors("known_answers.json")
SECRET, HASH, NONCE = b"S" * 32, b"H" * 32, bytes(range(16))
LOW, HIGH = IdentityKey(b"\x11" * 32), IdentityKey(b"\xee" * 32)
DIALER, RESPONDER = PeerId(b"\x00\x24" + b"d" * 36), PeerId(b"\x00\x24" + b"r" * 36)
ID = MessageId(bytes(range(32)))
DAY = 20_454

DERIVED: dict[str, bytes] = {
    "psk0": derive.pair_keys(SECRET).psk0,
    "tag key": derive.pair_keys(SECRET).tag,
    "receipt key": derive.pair_keys(SECRET).receipt,
    "rendezvous key": derive.pair_keys(SECRET).rendezvous,
    "code psk0": derive.code_psk0(SECRET),
    "link psk0": derive.link_psk0(NONCE),
    "recover psk0": derive.recover_psk0(LOW),
    "recover lookup seed": derive.recover_lookup_seed(LOW, DAY),
    "identity commitment": derive.identity_commitment(LOW),
    "pair secret": derive.new_pair_secret(b"D" * 32, b"R" * 32, HASH),
    "rotated secret": derive.rotated_secret(SECRET, b"P" * 32, b"A" * 32, 2),
    "confirm by dialer": derive.pair_confirm_mac(SECRET, by_dialer=True, handshake_hash=HASH),
    "confirm by responder": derive.pair_confirm_mac(SECRET, by_dialer=False, handshake_hash=HASH),
    "message id": derive.message_id(b"k" * 32, NONCE, LOW),
    "receipt delivered": derive.receipt_mac(b"k" * 32, ID, derive.body_hash(b"body"), ReceiptStatus.DELIVERED),
    "receipt read": derive.receipt_mac(b"k" * 32, ID, derive.body_hash(b"body"), ReceiptStatus.READ),
    "receipt retracted": derive.receipt_mac(b"k" * 32, ID, derive.body_hash(b"body"), ReceiptStatus.RETRACTED),
    "retraction": derive.retraction_mac(b"k" * 32, ID),
    "tag, dialer lower": derive.session_tag(b"k" * 32, DAY, True, DIALER, RESPONDER, NONCE),
    "tag, dialer higher": derive.session_tag(b"k" * 32, DAY, False, DIALER, RESPONDER, NONCE),
    "lookup seed 0": derive.lookup_seed(b"k" * 32, 0, DAY),
    "lookup seed 1": derive.lookup_seed(b"k" * 32, 1, DAY),
    "record key 0": derive.record_aead_key(b"k" * 32, 0, DAY),
    "record key 1": derive.record_aead_key(b"k" * 32, 1, DAY),
    "prologue": make_prologue(b"hello", b"reply", DIALER, RESPONDER),
}

MESSAGE = WireMessage(ID, 300, Millis(1_767_225_600_000), b"\x0a\x02hi", 60_000)
FRAMES: dict[str, Frame] = {
    "batch": Batch(StreamId(NONCE), (MESSAGE,)),
    "receipts": Receipts((Receipt(ID, ReceiptStatus.DELIVERED, b"m" * 32),)),
    "order conflict": OrderConflict(StreamId(NONCE), 300),
    "retractions": Retractions((Retraction(ID, b"m" * 32),)),
    "pair confirm": PairConfirm(b"m" * 32, b"ticket"),
    "ping": Ping(b"12345678"),
    "pong": Pong(b"12345678"),
    "goodbye": Goodbye(GoodbyeReason.RENEW),
    "rotation": Rotation(RotationStep.PROPOSE, 2, b"c" * 32),
}
CONTENTS: dict[str, Content] = {
    "text": Content("grüß dich"),
    "reply": Content("yes", reply_to=ID),
    "edit": Content("yes!", edits=ID),
    "edit of a reply": Content("yes!", reply_to=MessageId(b"r" * 32), edits=ID),
}


@pytest.mark.parametrize("name", DERIVED)
def test_derived(name: str) -> None:
    assert DERIVED[name].hex() == ANSWERS["derived"][name]


def test_safety_number() -> None:
    assert derive.safety_number(HIGH, LOW) == ANSWERS["safety number"]


@pytest.mark.parametrize("name", FRAMES)
def test_frames(name: str) -> None:
    """The frozen part is what precedes the padding; 256 bytes in all."""
    start = bytes.fromhex(ANSWERS["frames"][name])
    raw = encode_frame(FRAMES[name])
    assert len(raw) == 256
    assert raw.startswith(start)
    assert raw[len(start) : len(start) + 1] == b"\x7a"
    assert decode_frame(raw) == FRAMES[name]


@pytest.mark.parametrize("name", CONTENTS)
def test_contents(name: str) -> None:
    raw = bytes.fromhex(ANSWERS["contents"][name])
    assert encode_content(CONTENTS[name]) == raw
    assert decode_content(raw) == CONTENTS[name]


@pytest.mark.parametrize(("length", "field"), ANSWERS["padding"])
def test_padding(length: int, field: str) -> None:
    """[unpadded length, first bytes of the padding field and the padded size]."""
    start, size = field.split(" to ")
    padded = pad_frame(b"\x01" * length)
    assert len(padded) == int(size)
    head = bytes.fromhex(start)
    assert padded[length : length + len(head)] == head
    assert not any(padded[length + len(head) :])


def test_certificate() -> None:
    raw = make_certificate(b"s" * 32, b"d" * 32, 3, Millis(1_767_225_600_000), [b"r" * 32])
    assert raw.hex() == ANSWERS["certificate"]
    certificate = verify_certificate(raw)
    assert certificate.identity_key == bytes(SigningKey(b"s" * 32).verify_key)
    assert (certificate.list_version, certificate.revoked) == (3, (b"r" * 32,))


def test_ticket() -> None:
    raw = seal_ticket(b"k" * 32, LOW, "bob", Millis(1_767_225_600_000), b"n" * 24)
    assert raw.hex() == ANSWERS["ticket"]
    assert open_ticket(b"k" * 32, raw).petname == "bob"
