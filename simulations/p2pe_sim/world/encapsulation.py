"""A stand-in for ML-KEM's encapsulation, inside a run only: the library draws its randomness in C, past every seed.

It would matter: the handshake's hash goes into the pair secret, that into the lookup keys, and those decide which
servers a record is stored at and in which order. The key pair stays the real one, so do all sizes. The shared secret
is a hash of what both sides see, hence known to anybody: good for nothing but the same run twice. The real thing is
tested against its vectors, and runs in every other test and on tier 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from p2pe.core import handshake

CIPHERTEXT_BYTES: Final = 1088  # FIPS 203, table 3


def _shared(key: bytes, ciphertext: bytes) -> bytes:
    return hashlib.sha256(b"p2pe-sim shared" + key + ciphertext).digest()


class _PublicKey:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    @classmethod
    def from_public_bytes(cls, raw: bytes) -> _PublicKey:
        MLKEM768PublicKey.from_public_bytes(raw)  # raises ValueError for what is no key
        return cls(raw)

    def encapsulate(self) -> tuple[bytes, bytes]:
        """The key is fresh for each handshake, and seeded; so the ciphertext may be a function of it."""
        ciphertext = hashlib.shake_256(b"p2pe-sim ciphertext" + self._raw).digest(CIPHERTEXT_BYTES)
        return _shared(self._raw, ciphertext), ciphertext

    def public_bytes_raw(self) -> bytes:
        return self._raw


class _PrivateKey:
    def __init__(self, seed: bytes) -> None:
        self._public = MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()

    @classmethod
    def from_seed_bytes(cls, seed: bytes) -> _PrivateKey:
        return cls(seed)

    def public_key(self) -> _PublicKey:
        return _PublicKey(self._public)

    def decapsulate(self, ciphertext: bytes) -> bytes:
        if len(ciphertext) != CIPHERTEXT_BYTES:
            raise ValueError(f"a ciphertext of {len(ciphertext)} bytes")
        return _shared(self._public, ciphertext)


@contextmanager
def seeded_encapsulation() -> Iterator[None]:
    """The handshake uses the stand-in inside the block."""
    module: Any = handshake
    before = module.MLKEM768PrivateKey, module.MLKEM768PublicKey
    module.MLKEM768PrivateKey, module.MLKEM768PublicKey = _PrivateKey, _PublicKey
    try:
        yield
    finally:
        module.MLKEM768PrivateKey, module.MLKEM768PublicKey = before
