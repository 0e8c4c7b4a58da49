"""One direction of an established session: ChaCha20-Poly1305 with a new key after every message.

Noise specification: section 5.1 (CipherState), 11.3 (REKEY) and 12.3 (the ChaChaPoly nonce). Written over
`cryptography`'s AEAD rather than the library's CipherState, so that one failure ends the session for good and
the key needn't be kept beside the cipher; a test holds both equal, byte for byte.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from p2pe.config import MAX_FRAME_BYTES, NOISE_MAX_BYTES, NOISE_TAG_BYTES
from p2pe.errors import RemoteError

_REKEY_NONCE: Final = b"\x00\x00\x00\x00" + b"\xff" * 8  # 2^64 - 1, which no message uses
_ZEROS: Final = bytes(32)


class SessionCipher:
    """Encrypts or decrypts the messages of one direction, in order. REKEY follows each.

    A key is used for one message and then replaced by a one-way function of itself: whoever takes it from
    memory can't read what went before.
    """

    def __init__(self, key: bytes) -> None:
        self._aead: ChaCha20Poly1305 | None = ChaCha20Poly1305(key)
        self._count = 0  # messages so far; REKEY leaves the nonce alone

    @property
    def count(self) -> int:
        """Messages encrypted or decrypted so far."""
        return self._count

    def encrypt(self, plaintext: bytes) -> bytes:
        """Ciphertext and tag: 16 bytes more. Raises ValueError above 65,519 bytes of plaintext."""
        if len(plaintext) > MAX_FRAME_BYTES:
            raise ValueError(f"a Noise message holds {MAX_FRAME_BYTES} bytes, not {len(plaintext)}")
        aead = self._live()
        ciphertext = aead.encrypt(self._nonce(), plaintext, None)
        self._advance(aead)
        return ciphertext

    def decrypt(self, ciphertext: bytes) -> bytes:
        """The plaintext. Raises RemoteError when the message isn't the next one of this session, unaltered.

        After that the cipher is dead: every further call raises RemoteError too.
        """
        aead = self._live()
        if not NOISE_TAG_BYTES <= len(ciphertext) <= NOISE_MAX_BYTES:
            self._aead = None
            raise RemoteError(f"an encrypted message of {len(ciphertext)} bytes can't be one")
        try:
            plaintext = aead.decrypt(self._nonce(), ciphertext, None)
        except InvalidTag:
            self._aead = None
            raise RemoteError("a message doesn't decrypt: altered, replayed, out of order, or cut") from None
        self._advance(aead)
        return plaintext

    def _live(self) -> ChaCha20Poly1305:
        if self._aead is None:
            raise RemoteError("the session ended when a message didn't decrypt")
        return self._aead

    def _nonce(self) -> bytes:
        return b"\x00\x00\x00\x00" + self._count.to_bytes(8, "little")

    def _advance(self, aead: ChaCha20Poly1305) -> None:
        self._aead = ChaCha20Poly1305(aead.encrypt(_REKEY_NONCE, _ZEROS, None)[:32])
        self._count += 1
