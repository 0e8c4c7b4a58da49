"""Contact tickets: what a giver hands to a contact at pairing, and can read again after losing everything else.

Layout, 256 bytes always: version (1) ‖ nonce (24) ‖ XChaCha20-Poly1305 over a 215-byte plaintext, with
"p2pe/1 ticket" ‖ version as associated data. Plaintext: length (2, big-endian) ‖ TicketBody ‖ zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from p2pe.config import TICKET_BYTES
from p2pe.errors import RemoteError
from p2pe.model import IdentityKey, Millis
from p2pe.proto import invites_pb2 as pb

NONCE_BYTES: Final = 24
MAX_PETNAME_BYTES: Final = 160  # UTF-8; a longer one is cut, as it is only a hint of who that was
_VERSION: Final = b"\x01"
_CONTEXT: Final = b"p2pe/1 ticket" + _VERSION
_TAG_BYTES: Final = 16
_PLAIN_BYTES: Final = TICKET_BYTES - len(_VERSION) - NONCE_BYTES - _TAG_BYTES


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a ticket says to the one who made it."""

    peer_identity_key: IdentityKey
    petname: str
    met_at: Millis  # whole seconds


def seal_ticket(k_ticket: bytes, peer: IdentityKey, petname: str, met_at: Millis, nonce: bytes) -> bytes:
    """A ticket about `peer` that only the holder of `k_ticket` can read. `nonce`: 24 fresh random bytes."""
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a ticket's nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
    name = petname.encode()[:MAX_PETNAME_BYTES].decode(errors="ignore")  # never half a character
    body = pb.TicketBody(peer_identity_key=peer, petname=name, met_at=met_at // 1000)
    raw = body.SerializeToString(deterministic=True)
    plain = (len(raw).to_bytes(2, "big") + raw).ljust(_PLAIN_BYTES, b"\x00")
    return _VERSION + nonce + crypto_aead_xchacha20poly1305_ietf_encrypt(plain, _CONTEXT, nonce, k_ticket)


def open_ticket(k_ticket: bytes, raw: bytes) -> Ticket:
    """Reads a ticket of our own making. Raises RemoteError when it is none, or was altered."""
    if len(raw) != TICKET_BYTES or raw[:1] != _VERSION:
        raise RemoteError(f"a contact ticket of {len(raw)} bytes isn't one of ours")
    nonce, sealed = raw[1 : 1 + NONCE_BYTES], raw[1 + NONCE_BYTES :]
    try:
        plain = crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, _CONTEXT, nonce, k_ticket)
    except CryptoError:
        raise RemoteError("a contact ticket isn't one of ours, or was altered") from None
    try:
        body = pb.TicketBody.FromString(plain[2 : 2 + int.from_bytes(plain[:2], "big")])
    except DecodeError:
        raise RemoteError("a contact ticket of ours is of an unknown form") from None
    return Ticket(IdentityKey(body.peer_identity_key), body.petname, Millis(body.met_at * 1000))
