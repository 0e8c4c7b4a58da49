"""Hello, HelloReply and AuthPayload: what a handshake says, and the limits on each part.

A responder reads a Hello from somebody unknown: everything is checked here before any public-key work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from p2pe.config import MAX_HANDSHAKE_BYTES, MAX_NAME_CHARS, MAX_TICKET_BYTES
from p2pe.errors import HandshakeError
from p2pe.model import IdentityKey, PeerId, Purpose
from p2pe.proto import session_pb2 as pb

NONCE_BYTES: Final = 16
SESSION_TAG_BYTES: Final = 16
INVITE_TAG_BYTES: Final = 8
MLKEM_EK_BYTES: Final = 1184  # FIPS 203, ML-KEM-768
MLKEM_CT_BYTES: Final = 1088
MAX_PAKE_BYTES: Final = 64  # SPAKE2 on Ed25519 sends 33
MAX_VERSIONS: Final = 8
MAX_VERSION: Final = 0xFFFF
CONTRIBUTION_BYTES: Final = 32
_TAG_SIZES: Final = {
    Purpose.SESSION: SESSION_TAG_BYTES,
    Purpose.PAIR_CODE: INVITE_TAG_BYTES,
    Purpose.PAIR_LINK: INVITE_TAG_BYTES,
    Purpose.RECOVER: 0,
}
_PURPOSES: Final = {int(each): each for each in Purpose}


@dataclass(frozen=True, slots=True)
class Hello:
    """The dialer's first message. Nothing in it is proven yet."""

    versions: tuple[int, ...]
    purpose: Purpose
    tag: bytes  # session: 16 bytes; pairing: the 8 bytes that name an invite; recover: empty
    nonce: bytes
    mlkem_ek: bytes
    pake: bytes = b""  # pairing by code only


@dataclass(frozen=True, slots=True)
class HelloReply:
    """The responder's answer. Nothing in it is proven yet."""

    version: int
    nonce: bytes
    mlkem_ct: bytes
    pake: bytes = b""


@dataclass(frozen=True, slots=True)
class AuthPayload:
    """The payload of Noise messages 2 and 3."""

    certificate: bytes  # a serialized DeviceCertificate, not yet verified
    contribution: bytes
    peer_identity_key: IdentityKey | None = None
    suggested_name: str = ""
    ticket: bytes = b""


def _require(condition: bool, complaint: str) -> None:
    if not condition:
        raise HandshakeError(complaint)


def _check_pake(purpose: Purpose, pake: bytes) -> None:
    if purpose is Purpose.PAIR_CODE:
        _require(0 < len(pake) <= MAX_PAKE_BYTES, f"a PAKE message of {len(pake)} bytes")
    else:
        _require(not pake, "a PAKE message where no code is in use")


def encode_hello(hello: Hello) -> bytes:
    return pb.Hello(
        versions=list(hello.versions),
        purpose=hello.purpose,  # type: ignore[arg-type]
        tag=hello.tag,
        pake=hello.pake,
        nonce=hello.nonce,
        mlkem_ek=hello.mlkem_ek,
    ).SerializeToString(deterministic=True)


def decode_hello(raw: bytes) -> Hello:
    """Raises HandshakeError for anything that isn't a well-formed Hello."""
    _require(len(raw) <= MAX_HANDSHAKE_BYTES, f"a hello of {len(raw)} bytes")
    try:
        hello = pb.Hello.FromString(raw)
    except DecodeError:
        raise HandshakeError("a hello isn't valid protobuf") from None
    purpose = _PURPOSES.get(hello.purpose)
    if purpose is None:
        raise HandshakeError(f"a hello for the unknown purpose {hello.purpose}")
    versions = tuple(hello.versions)
    _require(0 < len(versions) <= MAX_VERSIONS, f"a hello that names {len(versions)} versions")
    _require(all(0 < version <= MAX_VERSION for version in versions), "a hello with an impossible version")
    _require(len(hello.tag) == _TAG_SIZES[purpose], f"a hello's tag of {len(hello.tag)} bytes")
    _require(len(hello.nonce) == NONCE_BYTES, f"a hello's nonce of {len(hello.nonce)} bytes")
    _require(len(hello.mlkem_ek) == MLKEM_EK_BYTES, f"a hello's ML-KEM key of {len(hello.mlkem_ek)} bytes")
    _check_pake(purpose, hello.pake)
    return Hello(versions, purpose, hello.tag, hello.nonce, hello.mlkem_ek, hello.pake)


def encode_reply(reply: HelloReply) -> bytes:
    return pb.HelloReply(
        version=reply.version, nonce=reply.nonce, mlkem_ct=reply.mlkem_ct, pake=reply.pake
    ).SerializeToString(deterministic=True)


def decode_reply(raw: bytes, hello: Hello) -> HelloReply:
    """Raises HandshakeError for anything that isn't a well-formed answer to `hello`."""
    _require(len(raw) <= MAX_HANDSHAKE_BYTES, f"a hello reply of {len(raw)} bytes")
    try:
        reply = pb.HelloReply.FromString(raw)
    except DecodeError:
        raise HandshakeError("a hello reply isn't valid protobuf") from None
    _require(reply.version in hello.versions, f"the other side chose version {reply.version}, which wasn't offered")
    _require(len(reply.nonce) == NONCE_BYTES, f"a hello reply's nonce of {len(reply.nonce)} bytes")
    _require(len(reply.mlkem_ct) == MLKEM_CT_BYTES, f"a hello reply's ML-KEM ciphertext of {len(reply.mlkem_ct)} bytes")
    _check_pake(hello.purpose, reply.pake)
    return HelloReply(reply.version, reply.nonce, reply.mlkem_ct, reply.pake)


def encode_auth(payload: AuthPayload) -> bytes:
    return pb.AuthPayload(
        certificate=pb.DeviceCertificate.FromString(payload.certificate),
        peer_identity_key=payload.peer_identity_key or b"",
        contribution=payload.contribution,
        suggested_name=payload.suggested_name,
        ticket=payload.ticket,
    ).SerializeToString(deterministic=True)


def decode_auth(raw: bytes) -> AuthPayload:
    """Raises HandshakeError for anything that isn't a well-formed AuthPayload. The certificate isn't verified yet."""
    try:
        payload = pb.AuthPayload.FromString(raw)
    except DecodeError:
        raise HandshakeError("an authentication payload isn't valid protobuf") from None
    _require(payload.HasField("certificate"), "an authentication payload without a certificate")
    _require(len(payload.peer_identity_key) in (0, 32), "an expected identity key of the wrong size")
    _require(len(payload.contribution) == CONTRIBUTION_BYTES, "a contribution of the wrong size")
    _require(len(payload.suggested_name) <= MAX_NAME_CHARS, "a suggested name that is too long")
    _require(len(payload.ticket) <= MAX_TICKET_BYTES, f"a contact ticket of {len(payload.ticket)} bytes")
    return AuthPayload(
        certificate=payload.certificate.SerializeToString(deterministic=True),
        contribution=payload.contribution,
        peer_identity_key=IdentityKey(payload.peer_identity_key) or None,
        suggested_name=payload.suggested_name,
        ticket=payload.ticket,
    )


def make_prologue(hello: bytes, reply: bytes, dialer: PeerId, responder: PeerId) -> bytes:
    """The Noise prologue: each part preceded by its length in two bytes, big-endian.

    `hello` and `reply` are the raw bytes sent or received: what a decoder skips is bound too.
    """
    parts: Sequence[bytes] = (b"p2pe/1", hello, reply, bytes(dialer), bytes(responder))
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)
