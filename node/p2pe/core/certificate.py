"""Device certificates: an identity key's word that a device key speaks for it, and which ones no longer do.

Ed25519 through libsodium (PyNaCl), which refuses non-canonical and small-order keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey

from p2pe.config import MAX_REVOKED_DEVICES
from p2pe.errors import HandshakeError
from p2pe.model import IdentityKey, Millis
from p2pe.proto import session_pb2 as pb

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
MAX_LIST_VERSION: Final = 2**63 - 1
MAX_MILLIS: Final = 253_402_300_800_000  # the year 10000
_CONTEXT: Final = b"p2pe/1 device"


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a verified device certificate says."""

    identity_key: IdentityKey
    device_key: bytes  # X25519, 32 bytes: the Noise static key
    list_version: int  # grows with every revocation
    issued_at: Millis
    revoked: tuple[bytes, ...] = ()


def make_certificate(
    signing_seed: bytes, device_public: bytes, list_version: int, issued_at: Millis, revoked: Sequence[bytes] = ()
) -> bytes:
    """A serialized DeviceCertificate, signed with the identity's Ed25519 seed (32 bytes).

    Raises ValueError for keys that aren't 32 bytes, too many revoked ones, or a device that is itself revoked.
    """
    if len(device_public) != KEY_BYTES or any(len(key) != KEY_BYTES for key in revoked):
        raise ValueError(f"device keys have {KEY_BYTES} bytes")
    if len(revoked) > MAX_REVOKED_DEVICES or device_public in revoked:
        raise ValueError(f"a certificate names at most {MAX_REVOKED_DEVICES} revoked devices, and not its own")
    if not 0 <= list_version <= MAX_LIST_VERSION or not 0 <= issued_at < MAX_MILLIS:
        raise ValueError(f"list version {list_version} or time {issued_at} is out of range")
    signer = SigningKey(signing_seed)
    body = pb.CertificateBody(
        identity_key=bytes(signer.verify_key),
        device_key=device_public,
        list_version=list_version,
        issued_at=issued_at,
        revoked=list(revoked),
    ).SerializeToString(deterministic=True)
    signature = signer.sign(_CONTEXT + body).signature
    return pb.DeviceCertificate(body=body, signature=signature).SerializeToString(deterministic=True)


def verify_certificate(raw: bytes) -> Certificate:
    """Reads and verifies a serialized DeviceCertificate.

    Whether the identity is the expected one, and the list version recent enough, is the caller's to check.
    Raises HandshakeError for anything that isn't a valid certificate.
    """
    try:
        outer = pb.DeviceCertificate.FromString(raw)
        body = pb.CertificateBody.FromString(outer.body)
    except DecodeError:
        raise HandshakeError("a device certificate isn't valid protobuf") from None
    if len(body.identity_key) != KEY_BYTES or len(body.device_key) != KEY_BYTES:
        raise HandshakeError("a device certificate's keys are of the wrong size")
    if len(outer.signature) != SIGNATURE_BYTES:
        raise HandshakeError("a device certificate's signature is of the wrong size")
    try:
        VerifyKey(body.identity_key).verify(_CONTEXT + outer.body, outer.signature)
    except CryptoError:
        raise HandshakeError("a device certificate's signature is false") from None
    revoked = tuple(body.revoked)
    if len(revoked) > MAX_REVOKED_DEVICES or any(len(key) != KEY_BYTES for key in revoked):
        raise HandshakeError("a device certificate's list of revoked devices is malformed")
    if body.device_key in revoked:
        raise HandshakeError("a device certificate revokes the device that it is for")
    if body.list_version > MAX_LIST_VERSION or not 0 <= body.issued_at < MAX_MILLIS:
        raise HandshakeError("a device certificate's version or time is out of range")
    return Certificate(
        IdentityKey(body.identity_key), body.device_key, body.list_version, Millis(body.issued_at), revoked
    )
