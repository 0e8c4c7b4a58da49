"""The libp2p identity of a host: an Ed25519 key, its peer id, its signatures.

Peer ids: libp2p peer-id specification (Ed25519 keys stand in the id themselves, as an identity multihash).
"""

from __future__ import annotations

from typing import Any, Final

from p2pe.model import PeerId
from p2pe.overlay.libp2p_import import ID, Ed25519PrivateKey
from p2pe.overlay.noise_identity import NoiseIdentity
from p2pe.ports import Entropy

SEED_BYTES: Final = 32


class HostKey:
    """An Ed25519 key pair. A node makes a fresh one each start; a bootstrap node keeps its own."""

    __slots__ = ("libp2p_private", "noise", "peer_id", "public_bytes")

    def __init__(self, seed: bytes) -> None:
        """`seed`: 32 bytes, the RFC 8032 private key. Raises ValueError for any other length."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a host key is {SEED_BYTES} bytes, not {len(seed)}")
        self.libp2p_private: Any = Ed25519PrivateKey.from_bytes(seed)
        public = self.libp2p_private.get_public_key()
        self.public_bytes: bytes = public.serialize()  # the PublicKey protobuf of the peer-id specification
        self.peer_id = PeerId(ID.from_pubkey(public).to_bytes())
        self.noise = NoiseIdentity(self.libp2p_private, seed)

    @classmethod
    def generate(cls, entropy: Entropy) -> HostKey:
        return cls(entropy(SEED_BYTES))

    @classmethod
    def from_bytes(cls, raw: bytes) -> HostKey:
        """What `to_bytes` gave. Raises ValueError for anything else."""
        return cls(raw)

    def to_bytes(self) -> bytes:
        """The 32-byte seed: a secret."""
        return bytes(self.libp2p_private.to_bytes())

    def __repr__(self) -> str:
        return f"HostKey({self.peer_id})"
