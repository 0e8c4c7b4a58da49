"""The one handshake of p2pe, for sessions, pairing and recovery. Bytes in, bytes out; entropy is passed in.

    D -> R  Hello            DialerHandshake.hello               ResponderHandshake.receive_hello
    R -> D  HelloReply       .read_reply (.first_message)        .reply
    D -> R  e                .first_message                      .receive_first    psk0 is proven here
    R -> D  e, ee, s, es     .receive_second                     .receive_first
    D -> R  s, se, psk3      .receive_second -> .established     .receive_third -> Established

The Noise part is noise_session.py; psk3 is an ML-KEM-768 shared secret (FIPS 203). Each step may be taken once, in
order; after any failure the object is of no more use. Every fault of the other side's is a HandshakeError;
ValueError is our own caller's.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey

from p2pe.config import PROTOCOL_VERSION
from p2pe.core.certificate import Certificate, verify_certificate
from p2pe.core.cipher import SessionCipher
from p2pe.core.derive import identity_commitment, new_pair_secret, pair_confirm_mac
from p2pe.core.handshake_messages import (
    AuthPayload,
    Hello,
    HelloReply,
    decode_auth,
    decode_hello,
    decode_reply,
    encode_auth,
    encode_hello,
    encode_reply,
    make_prologue,
)
from p2pe.core.noise_session import NoiseSession
from p2pe.errors import HandshakeError
from p2pe.model import IdentityKey, PeerId, Purpose

SUPPORTED_VERSIONS: Final = (PROTOCOL_VERSION,)
_MLKEM_SEED: Final = slice(0, 64)
DIALER_ENTROPY_BYTES: Final = 64 + 32 + 32  # ML-KEM seed (d, z), X25519 ephemeral, contribution
RESPONDER_ENTROPY_BYTES: Final = 16 + 32 + 32  # nonce, X25519 ephemeral, contribution
_PAIRING: Final = (Purpose.PAIR_CODE, Purpose.PAIR_LINK)


@dataclass(frozen=True, slots=True)
class LocalParty:
    """Who we are in a handshake."""

    identity_key: IdentityKey
    device_private: bytes  # X25519, 32 bytes
    certificate: bytes  # our serialized DeviceCertificate
    peer_id: PeerId  # our libp2p id on this very connection


@dataclass(frozen=True, slots=True)
class Expected:
    """What must be true of the other side. Leave `identity_key` out where it can't be known yet (pairing)."""

    identity_key: IdentityKey | None = None
    commitment: bytes | None = None  # pairing by link: derive.identity_commitment of the inviter
    list_version: int = 0  # the highest seen of this contact
    version: int = PROTOCOL_VERSION  # the highest protocol version seen of this contact; no way back
    revoked: frozenset[bytes] = frozenset()  # device keys that the newest certificate seen of this contact revokes


@dataclass(frozen=True, slots=True)
class Established:
    """A completed handshake: both sides are who they should be."""

    send_cipher: SessionCipher
    recv_cipher: SessionCipher
    peer_certificate: Certificate
    is_dialer: bool
    purpose: Purpose
    version: int
    contribution_local: bytes
    contribution_remote: bytes
    handshake_hash: bytes  # 32 bytes, the same on both sides and unique to this session
    suggested_name: str = ""  # pairing: what the other side calls itself; as received, not fit for display yet
    ticket: bytes = b""  # recover: what the dialer presents

    @property
    def peer_identity_key(self) -> IdentityKey:
        return self.peer_certificate.identity_key

    def pair_secret(self) -> bytes:
        """The new pair secret S that pairing and recovery end in; the same on both sides."""
        ours, theirs = self.contribution_local, self.contribution_remote
        dialer, responder = (ours, theirs) if self.is_dialer else (theirs, ours)
        return new_pair_secret(dialer, responder, self.handshake_hash)

    def confirm_mac(self, secret: bytes) -> bytes:
        """The mac of our PairConfirm."""
        return pair_confirm_mac(secret, by_dialer=self.is_dialer, handshake_hash=self.handshake_hash)

    def is_peer_confirm(self, secret: bytes, mac: bytes) -> bool:
        """Whether `mac` is the other side's PairConfirm. Constant time."""
        expected = pair_confirm_mac(secret, by_dialer=not self.is_dialer, handshake_hash=self.handshake_hash)
        return hmac.compare_digest(expected, mac)


class _Party:
    """What dialer and responder have in common: order of steps, and the check of the other side's papers."""

    def __init__(self, local: LocalParty, remote_peer: PeerId, entropy: bytes, size: int) -> None:
        if len(entropy) != size:
            raise ValueError(f"this side of a handshake takes {size} bytes of entropy, not {len(entropy)}")
        self._local = local
        self._remote_peer = remote_peer
        self._step = 0
        self._noise: NoiseSession | None = None

    def _take(self, step: int) -> None:
        """Steps run once each, in order: a failed one leaves the object unusable."""
        if self._step != step:
            raise ValueError("handshake steps are taken once each, in order, and none after a failure")
        self._step = -1

    def _session(self) -> NoiseSession:
        if self._noise is None:
            raise ValueError("the handshake hasn't come to its Noise messages")
        return self._noise

    def _check_peer(self, payload: AuthPayload, expected: Expected, *, names_us: bool) -> Certificate:
        """Everything that must hold of the other side's AuthPayload; raises HandshakeError otherwise."""
        certificate = verify_certificate(payload.certificate)
        if not hmac.compare_digest(certificate.device_key, self._session().remote_static):
            raise HandshakeError("the certificate is for another device than the one that presents it")
        if expected.identity_key is not None and certificate.identity_key != expected.identity_key:
            raise HandshakeError("the other side's identity isn't the one expected")
        if expected.commitment is not None and not hmac.compare_digest(
            identity_commitment(certificate.identity_key), expected.commitment
        ):
            raise HandshakeError("the other side's identity isn't the one that the link names")
        if certificate.list_version < expected.list_version:
            raise HandshakeError(
                f"the device list has version {certificate.list_version}; {expected.list_version} was seen before"
            )
        if certificate.device_key in expected.revoked:
            raise HandshakeError("the other side's device has been revoked by its owner")
        if names_us and payload.peer_identity_key != self._local.identity_key:
            raise HandshakeError("the other side takes us for somebody else")
        if not names_us and payload.peer_identity_key is not None:
            raise HandshakeError("the other side names an identity where none is due")
        return certificate


class DialerHandshake(_Party):
    """The side that opened the stream.

    `tag`: session: derive.session_tag over `nonce`; pairing: the invite's 8 bytes; recover: empty. `nonce`: 16 fresh
    random bytes; `entropy`: DIALER_ENTROPY_BYTES fresh random bytes. `pake`: our SPAKE2 message, pairing
    by code only. `suggested_name` goes out when pairing, `ticket` when recovering.
    """

    def __init__(
        self,
        local: LocalParty,
        remote_peer: PeerId,
        purpose: Purpose,
        *,
        tag: bytes,
        nonce: bytes,
        entropy: bytes,
        expected: Expected,
        pake: bytes = b"",
        suggested_name: str = "",
        ticket: bytes = b"",
    ) -> None:
        super().__init__(local, remote_peer, entropy, DIALER_ENTROPY_BYTES)
        if purpose in (Purpose.SESSION, Purpose.RECOVER) and expected.identity_key is None:
            raise ValueError("sessions and recovery need the identity key that is expected")
        self._decapsulation_key = MLKEM768PrivateKey.from_seed_bytes(entropy[_MLKEM_SEED])
        self._ephemeral, self._contribution = entropy[64:96], entropy[96:128]
        self._expected = expected
        self._suggested_name = suggested_name if purpose in _PAIRING else ""
        self._ticket = ticket if purpose is Purpose.RECOVER else b""
        encapsulation_key = self._decapsulation_key.public_key().public_bytes_raw()
        self._hello = Hello(SUPPORTED_VERSIONS, purpose, tag, nonce, encapsulation_key, pake)
        self._hello_raw = encode_hello(self._hello)
        decode_hello(self._hello_raw)  # our own caller's mistakes show here, not at the other side
        self._reply: HelloReply | None = None
        self._reply_raw = b""
        self.established: Established | None = None

    def hello(self) -> bytes:
        """The first message to send."""
        self._take(0)
        self._step = 1
        return self._hello_raw

    def read_reply(self, raw: bytes) -> HelloReply:
        """Takes the HelloReply. Pairing by code: finish SPAKE2 with its `pake`, then call `first_message`."""
        self._take(1)
        reply = decode_reply(raw, self._hello)
        if reply.version < self._expected.version:
            raise HandshakeError(
                f"the other side speaks version {reply.version} now; {self._expected.version} was seen before"
            )
        self._reply, self._reply_raw = reply, raw
        self._step = 2
        return reply

    def first_message(self, psk0: bytes) -> bytes:
        """Noise message 1, which proves that we hold psk0."""
        self._take(2)
        if self._reply is None:
            raise ValueError("read_reply comes first")
        psk3 = self._decapsulation_key.decapsulate(self._reply.mlkem_ct)
        self._noise = NoiseSession(
            initiator=True,
            static=self._local.device_private,
            ephemeral=self._ephemeral,
            psk0=psk0,
            psk3=psk3,
            prologue=make_prologue(self._hello_raw, self._reply_raw, self._local.peer_id, self._remote_peer),
        )
        message = self._noise.write(b"")
        self._step = 3
        return message

    def receive_reply(self, raw: bytes, psk0: bytes) -> bytes:
        """`read_reply` and `first_message` in one, where psk0 is known beforehand."""
        self.read_reply(raw)
        return self.first_message(psk0)

    def receive_second(self, raw: bytes) -> bytes:
        """Takes Noise message 2, checks who the other side is, and gives message 3. `established` is set then.

        Nothing may be released to the other side before it has answered on the new session: it hasn't seen
        our certificate yet.
        """
        self._take(3)
        noise, purpose = self._session(), self._hello.purpose
        payload = decode_auth(noise.read(raw, "the other side doesn't hold the right key, or was tampered with"))
        certificate = self._check_peer(payload, self._expected, names_us=purpose is Purpose.SESSION)
        answer = AuthPayload(
            certificate=self._local.certificate,
            contribution=self._contribution,
            peer_identity_key=certificate.identity_key,
            suggested_name=self._suggested_name,
            ticket=self._ticket,
        )
        message = noise.write(encode_auth(answer))
        send, receive = noise.ciphers()
        self.established = Established(
            send_cipher=send,
            recv_cipher=receive,
            peer_certificate=certificate,
            is_dialer=True,
            purpose=purpose,
            version=self._reply.version if self._reply else PROTOCOL_VERSION,
            contribution_local=self._contribution,
            contribution_remote=payload.contribution,
            handshake_hash=noise.handshake_hash,
            suggested_name=payload.suggested_name if purpose in _PAIRING else "",
        )
        return message


class ResponderHandshake(_Party):
    """The side that was dialled. `entropy`: RESPONDER_ENTROPY_BYTES fresh random bytes.

    ML-KEM encapsulation draws its randomness inside the cryptographic library and can't be seeded there: a simulation
    puts a stand-in of its own in its place.
    """

    def __init__(self, local: LocalParty, remote_peer: PeerId, *, entropy: bytes) -> None:
        super().__init__(local, remote_peer, entropy, RESPONDER_ENTROPY_BYTES)
        self._nonce, self._ephemeral, self._contribution = entropy[:16], entropy[16:48], entropy[48:80]
        self._hello: Hello | None = None
        self._hello_raw = b""
        self._expected = Expected()
        self._suggested_name = ""
        self._version = 0

    def receive_hello(self, raw: bytes) -> Hello:
        """Reads the Hello. The caller finds the contact or invite by its tag, or closes the stream."""
        self._take(0)
        hello = decode_hello(raw)
        self._hello, self._hello_raw = hello, raw
        self._step = 1
        return hello

    def reply(
        self, psk0: bytes, *, expected: Expected | None = None, pake: bytes = b"", suggested_name: str = ""
    ) -> bytes:
        """The HelloReply. `expected` is needed for sessions; `pake` (our SPAKE2 message) when pairing by code."""
        self._take(1)
        hello = self._hello
        if hello is None:
            raise ValueError("receive_hello comes first")
        self._expected = expected if expected is not None else Expected()
        if hello.purpose is Purpose.SESSION and self._expected.identity_key is None:
            raise ValueError("a session needs the identity key that is expected")
        common = [version for version in SUPPORTED_VERSIONS if version in hello.versions]
        if not common or max(common) < self._expected.version:
            raise HandshakeError(f"no version in common: the other side speaks {list(hello.versions)}")
        self._version = max(common)
        self._suggested_name = suggested_name if hello.purpose in _PAIRING else ""
        try:
            psk3, ciphertext = MLKEM768PublicKey.from_public_bytes(hello.mlkem_ek).encapsulate()
        except ValueError:  # the modulus check of FIPS 203, section 7.2
            raise HandshakeError("the other side's ML-KEM key isn't a valid one") from None
        reply = encode_reply(HelloReply(self._version, self._nonce, ciphertext, pake))
        self._noise = NoiseSession(
            initiator=False,
            static=self._local.device_private,
            ephemeral=self._ephemeral,
            psk0=psk0,
            psk3=psk3,
            prologue=make_prologue(self._hello_raw, reply, self._remote_peer, self._local.peer_id),
        )
        self._step = 2
        return reply

    def receive_first(self, raw: bytes) -> bytes:
        """Takes Noise message 1, which only somebody with psk0 can make, and gives message 2."""
        self._take(2)
        noise = self._session()
        if noise.read(raw, "the other side doesn't hold the right key, or was tampered with"):
            raise HandshakeError("the first handshake message carries a payload where none is due")
        is_session = self._hello is not None and self._hello.purpose is Purpose.SESSION
        payload = AuthPayload(
            certificate=self._local.certificate,
            contribution=self._contribution,
            peer_identity_key=self._expected.identity_key if is_session else None,
            suggested_name=self._suggested_name,
        )
        message = noise.write(encode_auth(payload))
        self._step = 3
        return message

    def receive_third(self, raw: bytes) -> Established:
        """Takes Noise message 3 and checks who the other side is."""
        self._take(3)
        noise, hello = self._session(), self._hello
        if hello is None:
            raise ValueError("receive_hello comes first")
        payload = decode_auth(noise.read(raw, "the last handshake message doesn't decrypt: it was tampered with"))
        certificate = self._check_peer(payload, self._expected, names_us=True)
        send, receive = noise.ciphers()
        return Established(
            send_cipher=send,
            recv_cipher=receive,
            peer_certificate=certificate,
            is_dialer=False,
            purpose=hello.purpose,
            version=self._version,
            contribution_local=self._contribution,
            contribution_remote=payload.contribution,
            handshake_hash=noise.handshake_hash,
            suggested_name=payload.suggested_name if hello.purpose in _PAIRING else "",
            ticket=payload.ticket if hello.purpose is Purpose.RECOVER else b"",
        )
