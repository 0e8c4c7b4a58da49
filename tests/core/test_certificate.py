"""Device certificates: what is signed is what is read, and nothing else passes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey
from p2pe.config import MAX_HANDSHAKE_BYTES, MAX_REVOKED_DEVICES
from p2pe.core.certificate import make_certificate, verify_certificate
from p2pe.errors import HandshakeError
from p2pe.model import Millis
from p2pe.proto import session_pb2 as pb

SEED, DEVICE = b"s" * 32, b"d" * 32
IDENTITY = bytes(SigningKey(SEED).verify_key)


def forged(*, seed: bytes = SEED, context: bytes = b"p2pe/1 device", **body: Any) -> bytes:
    """A certificate with any body, truly signed by `seed`."""
    good: dict[str, Any] = {"identity_key": IDENTITY, "device_key": DEVICE, "list_version": 1, "issued_at": 5}
    raw = pb.CertificateBody(**(good | body)).SerializeToString()
    signature = SigningKey(seed).sign(context + raw).signature
    return pb.DeviceCertificate(body=raw, signature=signature).SerializeToString()


@given(
    st.integers(0, 2**63 - 1),
    st.integers(0, 10**12),
    st.lists(st.binary(min_size=32, max_size=32).filter(lambda key: key != DEVICE), max_size=MAX_REVOKED_DEVICES),
)
def test_round_trip(list_version: int, issued_at: int, revoked: list[bytes]) -> None:
    raw = make_certificate(SEED, DEVICE, list_version, Millis(issued_at), revoked)
    certificate = verify_certificate(raw)
    assert certificate.identity_key == IDENTITY
    assert certificate.device_key == DEVICE
    assert (certificate.list_version, certificate.issued_at) == (list_version, issued_at)
    assert certificate.revoked == tuple(revoked)
    assert len(raw) < MAX_HANDSHAKE_BYTES - 1200  # room for the rest of a handshake message


def test_every_altered_byte_is_noticed() -> None:
    raw = make_certificate(SEED, DEVICE, 1, Millis(5), [b"r" * 32])
    for at in range(len(raw)):
        with pytest.raises(HandshakeError):
            verify_certificate(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])


BAD = {
    "signed by another": forged(seed=b"o" * 32),
    "signed for another purpose": forged(context=b"p2pe/1 record"),
    "identity short": forged(identity_key=IDENTITY[:31]),
    "device short": forged(device_key=DEVICE[:31]),
    "device long": forged(device_key=DEVICE + b"d"),
    "revokes itself": forged(revoked=[DEVICE]),
    "revoked key short": forged(revoked=[b"r" * 31]),
    "too many revoked": forged(revoked=[bytes([n]) * 32 for n in range(MAX_REVOKED_DEVICES + 1)]),
    "version above SQLite's": forged(list_version=2**63),
    "issued before 1970": forged(issued_at=-1),
    "issued after 9999": forged(issued_at=253_402_300_800_000),
    "signature short": pb.DeviceCertificate(body=b"", signature=bytes(63)).SerializeToString(),
    "identity of small order": forged(identity_key=b"\x01" + bytes(31)),
    "empty": b"",
    "not protobuf": b"\xff\xff\xff",
    "body not protobuf": pb.DeviceCertificate(body=b"\xff", signature=bytes(64)).SerializeToString(),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_certificate(name: str) -> None:
    with pytest.raises(HandshakeError):
        verify_certificate(BAD[name])


def test_a_key_of_small_order_cannot_sign_for_everybody() -> None:
    """With the neutral element as key, R = neutral and S = 0 would satisfy the equation for any message."""
    body = pb.CertificateBody(identity_key=b"\x01" + bytes(31), device_key=DEVICE, list_version=1, issued_at=5)
    signature = b"\x01" + bytes(31) + bytes(32)
    raw = pb.DeviceCertificate(body=body.SerializeToString(), signature=signature).SerializeToString()
    with pytest.raises(HandshakeError):
        verify_certificate(raw)


@pytest.mark.parametrize(
    "arguments",
    [
        (b"d" * 31, 1, 5, []),
        (DEVICE, -1, 5, []),
        (DEVICE, 2**63, 5, []),
        (DEVICE, 1, -1, []),
        (DEVICE, 1, 5, [DEVICE]),
        (DEVICE, 1, 5, [b"r" * 31]),
        (DEVICE, 1, 5, [bytes([n]) * 32 for n in range(MAX_REVOKED_DEVICES + 1)]),
    ],
)
def test_certificates_that_cannot_be_made(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"device|out of range"):
        make_certificate(SEED, *arguments)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes(noise: bytes) -> None:
    with pytest.raises(HandshakeError):
        verify_certificate(noise)
