"""What the tests of the cryptographic core share: parties, handshakes, vectors of others."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from nacl.signing import SigningKey
from p2pe.core.certificate import make_certificate
from p2pe.core.handshake import (
    DIALER_ENTROPY_BYTES,
    RESPONDER_ENTROPY_BYTES,
    DialerHandshake,
    Established,
    Expected,
    LocalParty,
    ResponderHandshake,
)
from p2pe.model import IdentityKey, Millis, PeerId, Purpose

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "vectors"))

from obtain import NoVectors, obtain  # noqa: E402

PSK0 = bytes(range(32))


def own_vectors(name: str) -> Any:
    """Known answers of our own, frozen in tests/core/vectors."""
    return json.loads((HERE / "vectors" / name).read_text())


def published_vectors(name: str) -> Any:
    """A file of somebody else's published vectors, or a skip that says why it can't be had.

    They aren't part of this repository: tests/vectors/obtain.py unpacks them from two packages of the Rust registry.
    P2PE_TEST_VECTORS may name a folder that has them already.
    """
    given = os.environ.get("P2PE_TEST_VECTORS")
    try:
        folder = Path(given) if given else obtain()
    except NoVectors as reason:
        pytest.skip(str(reason))
    return json.loads((folder / name).read_text())


def device_public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def party(number: int, *, list_version: int = 1, revoked: tuple[bytes, ...] = ()) -> LocalParty:
    """A person with one device. The same number gives the same keys."""
    seed, private = bytes([number]) * 32, bytes([number + 100]) * 32
    certificate = make_certificate(seed, device_public(private), list_version, Millis(1_700_000_000_000), revoked)
    identity = IdentityKey(bytes(SigningKey(seed).verify_key))
    return LocalParty(identity, private, certificate, PeerId(b"\x00\x24" + bytes([number]) * 36))


ALICE, BOB, MALLORY = party(1), party(2), party(3)
TAG_SIZES = {Purpose.SESSION: 16, Purpose.PAIR_CODE: 8, Purpose.PAIR_LINK: 8, Purpose.RECOVER: 0}


def make_dialer(local: LocalParty = ALICE, remote: LocalParty = BOB, **options: Any) -> DialerHandshake:
    purpose = options.pop("purpose", Purpose.SESSION)
    settings: dict[str, Any] = {
        "tag": bytes(TAG_SIZES[purpose]),
        "nonce": b"n" * 16,
        "entropy": bytes(range(1, DIALER_ENTROPY_BYTES + 1)),
        "expected": Expected(remote.identity_key),
        "pake": b"A" * 33 if purpose is Purpose.PAIR_CODE else b"",
    }
    return DialerHandshake(local, remote.peer_id, purpose, **(settings | options))


def make_responder(local: LocalParty = BOB, remote: LocalParty = ALICE) -> ResponderHandshake:
    return ResponderHandshake(local, remote.peer_id, entropy=bytes(range(100, 100 + RESPONDER_ENTROPY_BYTES)))


def shake(
    dialer: DialerHandshake,
    responder: ResponderHandshake,
    *,
    dialer_psk: bytes = PSK0,
    responder_psk: bytes = PSK0,
    expected: Expected | None = None,
    **reply: Any,
) -> tuple[Established, Established]:
    """Runs a handshake to its end and gives what both sides have."""
    responder.receive_hello(dialer.hello())
    answer = responder.reply(responder_psk, expected=expected or Expected(ALICE.identity_key), **reply)
    third = dialer.receive_second(responder.receive_first(dialer.receive_reply(answer, dialer_psk)))
    assert dialer.established is not None
    return dialer.established, responder.receive_third(third)
