"""Ids and distances (libp2p kad-dht specification, "Distance"): XOR of SHA-256 hashes, as 256-bit integers.

Where a record lives, exactly:

    record key    = "/p2pe/" || public key (32) || slot (1)           39 bytes, only ever sent to the closest servers
    record hash   = SHA-256("/p2pe/" || public key)                   without the slot: all slots share one location
    location key  = 0x12 0x20 || record hash                          34 bytes, a sha2-256 multihash: sent in FIND_NODE
    location      = SHA-256(location key)                             what distances are measured from

A location key has the form of a peer id, so other implementations parse it and answer. Peers along the path learn
neither the public key nor which record is meant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from p2pe.config import LOCATOR_SLOTS
from p2pe.errors import RemoteError
from p2pe.model import Address, PeerId, PeerInfo

LOCATION_BITS = 256
KEY_PREFIX = b"/p2pe/"
RECORD_KEY_BYTES = len(KEY_PREFIX) + 32 + 1
MULTIHASH_SHA256 = b"\x12\x20"
MAX_WIRE_KEY_BYTES = 128  # a peer id takes at most 42 today; a record key 39
_COUNTER_BYTES = 4
_MAX_TARGETED_PREFIX = 14  # bits; each costs twice the hashing, and buckets beyond are filled by looking up oneself


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A peer with its place in the key space, computed once. Compared by identity; collections key by `peer_id`."""

    peer_id: PeerId
    location: int
    addresses: tuple[Address, ...] = ()
    groups: tuple[bytes, ...] = ()  # the networks it belongs to (diversity.py)

    @property
    def info(self) -> PeerInfo:
        return PeerInfo(self.peer_id, self.addresses)

    def groups_apart(self, other: Node) -> bool:
        """Whether the two share no network."""
        return set(self.groups).isdisjoint(other.groups)


def location_of(wire_key: bytes) -> int:
    """The location of a peer id or of a key as it stands in a message."""
    return int.from_bytes(sha256(wire_key).digest(), "big")


def location_key(record_key: bytes) -> bytes:
    """The key by which the storers of a record are looked up. Raises RemoteError for anything but a record key."""
    check_record_key(record_key)
    return MULTIHASH_SHA256 + sha256(record_key[:-1]).digest()


def check_record_key(key: bytes) -> None:
    """Raises RemoteError unless `key` has the form of a record key. Cheap: done before any public-key work."""
    if len(key) != RECORD_KEY_BYTES or not key.startswith(KEY_PREFIX) or key[-1] >= LOCATOR_SLOTS:
        raise RemoteError("not the key of an address record")


def shared_prefix(a: int, b: int) -> int:
    """How many leading bits two locations share, 0..256: the number of the bucket one is in for the other."""
    return LOCATION_BITS - (a ^ b).bit_length()


def key_in_bucket(local: int, bucket: int, entropy: Callable[[int], bytes]) -> bytes:
    """A random location key that falls into bucket number `bucket` of the node at `local`.

    Found by trying: 2 ** (bucket + 1) hashes on average. For buckets beyond _MAX_TARGETED_PREFIX one of that bucket.
    """
    bits = min(bucket, _MAX_TARGETED_PREFIX) + 1
    wanted = (local >> (LOCATION_BITS - bits)) ^ 1  # the first bits of what is looked for: the last of them differs
    first, last = wanted << (LOCATION_BITS - bits), (wanted + 1 << (LOCATION_BITS - bits)) - 1
    low, high = first.to_bytes(32, "big"), last.to_bytes(32, "big")  # bytes compare as the numbers do, and are at hand
    head = MULTIHASH_SHA256 + entropy(32 - _COUNTER_BYTES)
    number = 0
    while True:
        number += 1
        key = head + number.to_bytes(_COUNTER_BYTES, "big")
        if low <= sha256(key).digest() <= high:
            return key
