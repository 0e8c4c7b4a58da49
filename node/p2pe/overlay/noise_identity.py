"""Who is behind a Noise key: our own proof, and what is made of another's.

The static key of a host is derived from its host key, so that it is signed once and not in each handshake; libp2p's
Noise specification leaves open how long one is used. It shows no more than the peer id, which goes with it in the same
encrypted message. What each connection's secrecy rests on are the ephemeral keys.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from noise.backends.default.keypairs import KeyPair25519

from p2pe import config
from p2pe.core.derive import hkdf
from p2pe.errors import HandshakeError
from p2pe.model import PeerId
from p2pe.overlay.libp2p_import import (
    ID,
    UNREADABLE,
    NoiseExtensions,
    NoiseHandshakePayload,
    X25519PublicKey,
    make_handshake_payload_sig,
    verify_handshake_payload_sig,
)

_LABEL: Final = b"p2pe/1 host noise"


class NoiseIdentity:
    """A host's static key, and the payload that shows whose it is."""

    __slots__ = ("_payloads", "_private", "_signature", "pair")

    def __init__(self, private: Any, seed: bytes) -> None:
        """`private`: the host key as libp2p has it; `seed`: its 32 bytes."""
        self._private = private
        self.pair: Any = KeyPair25519.from_private_bytes(hkdf(seed, _LABEL))
        self._signature = make_handshake_payload_sig(private, X25519PublicKey.from_bytes(self.pair.public_bytes))
        self._payloads: dict[tuple[str, ...], bytes] = {}  # a host offers one set of muxers

    def payload(self, muxers: tuple[str, ...]) -> bytes:
        known = self._payloads.get(muxers)
        if known is None:
            extensions = NoiseExtensions(stream_muxers=list(muxers))
            made = NoiseHandshakePayload(self._private.get_public_key(), self._signature, extensions)
            known = self._payloads[muxers] = bytes(made.serialize())
        return known


@lru_cache(maxsize=config.NOISE_PROOFS)
def proved(payload: bytes, static: bytes) -> tuple[PeerId, tuple[str, ...]]:
    """Whose static key that is, by its payload, and the muxers offered. Raises HandshakeError, which isn't kept."""
    try:
        read = NoiseHandshakePayload.deserialize(payload)
        is_genuine = verify_handshake_payload_sig(read, X25519PublicKey.from_bytes(static))
        peer_id = PeerId(ID.from_pubkey(read.id_pubkey).to_bytes())
        muxers = () if read.extensions is None else tuple(read.extensions.stream_muxers)
    except UNREADABLE as error:
        raise HandshakeError(f"the peer's Noise identity can't be read: {type(error).__name__}") from None
    if not is_genuine:
        raise HandshakeError("the signature over the peer's Noise key is wrong: somebody is in between")
    return peer_id, muxers
