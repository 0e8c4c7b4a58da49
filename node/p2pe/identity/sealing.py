"""Boxes under a passphrase: Argon2id (RFC 9106) to a master key, then XChaCha20-Poly1305 boxes by name.

The parameters stand in clear beside the boxes and may differ from file to file; they are bounded when read. Each
box has a key of its own, HKDF(master, "p2pe/1 box " ‖ name), and its name and the file's format as associated data.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any

from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id
from nacl.secret import Aead

from p2pe import config
from p2pe.core.derive import hkdf
from p2pe.errors import StorageError, WrongPassphrase
from p2pe.ports import Entropy

NONCE_BYTES = 24
SALT_BYTES = 16


@dataclass(frozen=True, slots=True)
class KdfParameters:
    salt: bytes
    memory: int  # bytes
    passes: int

    def to_json(self) -> dict[str, Any]:
        return {"name": "argon2id", "salt": encode(self.salt), "memory": self.memory, "passes": self.passes}

    @classmethod
    def from_json(cls, value: Any) -> KdfParameters:
        """Raises ValueError for anything but our KDF with parameters within bounds."""
        if not isinstance(value, dict) or value.get("name") != "argon2id":
            raise ValueError("unknown key derivation")
        salt, memory, passes = decode(value.get("salt")), value.get("memory"), value.get("passes")
        if not isinstance(memory, int) or not argon2id.MEMLIMIT_MIN <= memory <= config.ARGON2_MEMORY_MAX:
            raise ValueError(f"key derivation memory {memory!r} is out of bounds")
        if not isinstance(passes, int) or not 1 <= passes <= config.ARGON2_PASSES_MAX:
            raise ValueError(f"key derivation passes {passes!r} are out of bounds")
        if len(salt) != SALT_BYTES:
            raise ValueError("a salt of the wrong size")
        return cls(salt, memory, passes)


def encode(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def decode(text: Any) -> bytes:
    """Raises ValueError when it isn't base64 text."""
    if not isinstance(text, str):
        raise ValueError("expected base64 text")
    return b64decode(text, validate=True)


def master_key(passphrase: str, parameters: KdfParameters) -> bytes:
    """32 bytes. Takes 0.1 to 0.3 s and 64 MiB with the default parameters: run it in a worker thread."""
    raw = passphrase.encode("utf-8")
    if len(raw) > config.MAX_PASSPHRASE_BYTES:
        raise WrongPassphrase(f"a passphrase has at most {config.MAX_PASSPHRASE_BYTES} bytes")
    try:
        return argon2id.kdf(32, raw, parameters.salt, opslimit=parameters.passes, memlimit=parameters.memory)
    except (MemoryError, RuntimeError) as error:
        raise StorageError(
            f"there isn't enough memory to check the passphrase ({parameters.memory // config.MIB} MiB needed)"
        ) from error


def seal(master: bytes, name: bytes, plaintext: bytes, entropy: Entropy) -> bytes:
    """nonce (24 bytes) ‖ ciphertext ‖ tag (16 bytes)"""
    return bytes(_box(master, name).encrypt(plaintext, name, entropy(NONCE_BYTES)))


def unseal(master: bytes, name: bytes, sealed: bytes) -> bytes | None:
    """None when the key is wrong or a byte was changed: which of the two can't be told."""
    if len(sealed) < NONCE_BYTES + 16:
        return None
    try:
        return _box(master, name).decrypt(sealed, name)
    except CryptoError:
        return None


def _box(master: bytes, name: bytes) -> Aead:
    return Aead(hkdf(master, b"p2pe/1 box " + name))
