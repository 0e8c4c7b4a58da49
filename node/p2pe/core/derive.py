"""Every key, tag, identifier and proof that is derived from another secret. Pure functions of bytes.

HKDF is RFC 5869 with SHA-256, HMAC is RFC 2104 with SHA-256. Each `info` is an ASCII label that starts with
"p2pe/1 " and is used for one purpose only. Integers are big-endian. docs/protocol.md has the table of labels.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from p2pe.config import MESSAGE_ID_BYTES
from p2pe.model import IdentityKey, MessageId, Millis, PeerId, ReceiptStatus

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 16  # of a message id, of a hello
TAG_BYTES: Final = 16
LAN_TAG_BYTES: Final = 8
LAN_KEY_BYTES: Final = 32  # an Ed25519 public key
MILLIS_PER_DAY: Final = 86_400_000
SAFETY_GROUPS: Final = 12  # groups of five digits: 60 digits, 199 bits


def hkdf(secret: bytes, info: bytes, *, salt: bytes = b"", length: int = KEY_BYTES) -> bytes:
    """HKDF-SHA256 (RFC 5869), extract and expand. `length` in bytes, at most 8160 (else ValueError)."""
    if not 0 < length <= 255 * 32:
        raise ValueError(f"HKDF-SHA256 gives 1 to 8160 bytes, not {length}")
    pseudo_random_key = hmac.digest(salt, secret, "sha256")
    block, out = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(pseudo_random_key, block + info + bytes([counter]), "sha256")
        out += block
    return out[:length]


def day_of(now: Millis) -> int:
    """Days since 1970-01-01, UTC. Lookup keys and tags change with it."""
    return now // MILLIS_PER_DAY


@dataclass(frozen=True, slots=True)
class PairKeys:
    """What is derived from one pair secret; 32 bytes each."""

    psk0: bytes  # first pre-shared key of the session handshake
    tag: bytes  # K_tag: lets a responder see which contact a hello comes from
    receipt: bytes  # K_receipt: receipts and retractions
    rendezvous: bytes  # lookup keys and the sealing of address records


def pair_keys(secret: bytes) -> PairKeys:
    """The working keys of a pair secret S (32 bytes)."""
    return PairKeys(
        psk0=hkdf(secret, b"p2pe/1 psk0"),
        tag=hkdf(secret, b"p2pe/1 tag"),
        receipt=hkdf(secret, b"p2pe/1 receipt"),
        rendezvous=hkdf(secret, b"p2pe/1 rv"),
    )


# --- pre-shared keys of the handshakes that have no pair secret yet ---


def code_psk0(pake_output: bytes) -> bytes:
    """psk0 of pairing by spoken code, from what SPAKE2 gave both sides."""
    return hkdf(pake_output, b"p2pe/1 code psk0")


def link_psk0(secret: bytes) -> bytes:
    """psk0 of pairing by link, from the link's 16-byte secret."""
    return hkdf(secret, b"p2pe/1 link psk0")


def recover_psk0(restored: IdentityKey) -> bytes:
    """psk0 towards a node restored from its phrase. Its identity key is known to its contacts alone."""
    return hkdf(restored, b"p2pe/1 recover psk0")


def recover_lookup_seed(restored: IdentityKey, day: int) -> bytes:
    """Ed25519 seed under which a node restored from its phrase publishes where it is."""
    return hkdf(restored, b"p2pe/1 recover rv" + day.to_bytes(4, "big"))


def recover_aead_key(restored: IdentityKey, day: int) -> bytes:
    """Key that seals the addresses in that record: storers can't read it, everybody who knows the identity can."""
    return hkdf(restored, b"p2pe/1 recover record" + day.to_bytes(4, "big"))


def identity_commitment(key: IdentityKey) -> bytes:
    """16 bytes in an invite link that pin the inviter's identity key."""
    return hashlib.sha256(b"p2pe/1 invite" + key).digest()[:16]


# --- the pair secret ---


def new_pair_secret(contribution_dialer: bytes, contribution_responder: bytes, handshake_hash: bytes) -> bytes:
    """The pair secret S that a pairing or recovery handshake ends in (32 bytes)."""
    return hkdf(contribution_dialer + contribution_responder, b"p2pe/1 pair secret", salt=handshake_hash)


def rotated_secret(secret: bytes, contribution_proposer: bytes, contribution_accepter: bytes, epoch: int) -> bytes:
    """The pair secret of `epoch`, from the one before it and 32 fresh bytes of each side."""
    info = b"p2pe/1 rotate" + epoch.to_bytes(8, "big")
    return hkdf(contribution_proposer + contribution_accepter, info, salt=secret)


def pair_confirm_mac(secret: bytes, *, by_dialer: bool, handshake_hash: bytes) -> bytes:
    """32 bytes that prove to the other side that S is known here. The role byte stops a reflection."""
    role = b"\x00" if by_dialer else b"\x01"
    return hmac.digest(secret, b"confirm" + role + handshake_hash, "sha256")


# --- message ids, receipts, retractions ---


def message_id(k_msgid: bytes, nonce: bytes, peer: IdentityKey) -> MessageId:
    """nonce ‖ HMAC(K_msgid, nonce ‖ peer IK)[:16]: a sender restored from its phrase recognises its own ids."""
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a message id starts from {NONCE_BYTES} random bytes, not {len(nonce)}")
    return MessageId(nonce + hmac.digest(k_msgid, nonce + peer, "sha256")[:16])


def is_own_message_id(k_msgid: bytes, identifier: bytes, peer: IdentityKey) -> bool:
    """Whether this root seed made the id for that contact. False for anything that isn't 32 bytes."""
    if len(identifier) != MESSAGE_ID_BYTES:
        return False
    return hmac.compare_digest(message_id(k_msgid, bytes(identifier[:NONCE_BYTES]), peer), identifier)


def body_hash(body: bytes) -> bytes:
    """SHA-256 of a serialized Content: what a receipt is bound to."""
    return hashlib.sha256(body).digest()


def receipt_mac(k_receipt: bytes, identifier: MessageId, digest: bytes, status: ReceiptStatus) -> bytes:
    """HMAC(K_receipt, id ‖ SHA-256(body) ‖ status byte), 32 bytes."""
    return hmac.digest(k_receipt, identifier + digest + bytes((status,)), "sha256")


def is_receipt(k_receipt: bytes, identifier: MessageId, digest: bytes, status: ReceiptStatus, mac: bytes) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(receipt_mac(k_receipt, identifier, digest, status), mac)


def retraction_mac(k_receipt: bytes, identifier: MessageId) -> bytes:
    """HMAC(K_receipt, "retract" ‖ id), 32 bytes."""
    return hmac.digest(k_receipt, b"retract" + identifier, "sha256")


def is_retraction(k_receipt: bytes, identifier: MessageId, mac: bytes) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(retraction_mac(k_receipt, identifier), mac)


# --- finding and recognising each other ---


def is_lower(ours: IdentityKey, theirs: IdentityKey) -> bool:
    """Whether ours is the pair's lower key (bytewise). Directions are named by it, so both sides agree."""
    return ours < theirs


def session_tag(
    k_tag: bytes, day: int, dialer_is_lower: bool, peer_dialer: PeerId, peer_responder: PeerId, nonce: bytes
) -> bytes:
    """HMAC(K_tag, day₄ ‖ direction₁ ‖ PeerID_D ‖ PeerID_R ‖ nonce₁₆)[:16].

    Direction is 0 when the dialer has the lower identity key, else 1. Peer ids are multihashes, which carry
    their own length, so the concatenation reads in one way only. A responder compares with `is_tag` for
    yesterday, today and tomorrow.
    """
    direction = b"\x00" if dialer_is_lower else b"\x01"
    text = day.to_bytes(4, "big") + direction + peer_dialer + peer_responder + nonce
    return hmac.digest(k_tag, text, "sha256")[:TAG_BYTES]


def is_tag(expected: bytes, tag: bytes) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(expected, tag)


def lookup_seed(k_rendezvous: bytes, direction: int, day: int) -> bytes:
    """Ed25519 seed of the record that one side of a pair publishes on `day`.

    `direction` 0: published by the side with the lower identity key; 1: by the other.
    """
    return hkdf(k_rendezvous, b"p2pe/1 lookup" + bytes((direction,)) + day.to_bytes(4, "big"))


def cover_rendezvous(secret: bytes, number: int) -> bytes:
    """K_rendezvous of a record that nobody reads: lasting, so that it comes back after a restart as real ones do."""
    return hkdf(secret, b"p2pe/1 cover" + number.to_bytes(4, "big"))


def record_aead_key(k_rendezvous: bytes, direction: int, day: int) -> bytes:
    """Key that seals the addresses in that record: storers can read the lookup key, never this one."""
    return hkdf(k_rendezvous, b"p2pe/1 record" + bytes((direction,)) + day.to_bytes(4, "big"))


def lan_key(k_rendezvous: bytes, direction: int, day: int) -> bytes:
    """What one side of a pair makes its entries in announcements on a local network from, on `day`. Direction as in
    `lookup_seed`."""
    return hkdf(k_rendezvous, b"p2pe/1 lan" + bytes((direction,)) + day.to_bytes(4, "big"))


def lan_entry(key: bytes, nonce: bytes) -> tuple[bytes, bytes]:
    """Tag, and pad over the transport key, of an entry in the announcement with that nonce. Each nonce gives others:
    who lacks the key can't link two announcements, nor tell an entry from random bytes."""
    made = hkdf(key, b"p2pe/1 lan entry", salt=nonce, length=LAN_TAG_BYTES + LAN_KEY_BYTES)
    return made[:LAN_TAG_BYTES], made[LAN_TAG_BYTES:]


def safety_number(one: IdentityKey, other: IdentityKey) -> str:
    """60 digits in 12 groups of five that two people compare. The order of the arguments doesn't matter.

    SHA-512("p2pe/1 safety number" ‖ lower IK ‖ higher IK); five bytes a group, modulo 100,000.
    """
    low, high = sorted((bytes(one), bytes(other)))
    digest = hashlib.sha512(b"p2pe/1 safety number" + low + high).digest()
    groups = (int.from_bytes(digest[at : at + 5], "big") % 100_000 for at in range(0, 5 * SAFETY_GROUPS, 5))
    return " ".join(f"{group:05d}" for group in groups)
