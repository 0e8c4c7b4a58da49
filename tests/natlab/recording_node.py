"""`p2pe` that also writes down every plaintext it ever decrypts, whatever layer it is of, to the file named in
P2PE_RECORD: records found in the directory, everything on its connections to relays and, inside circuits, to contacts
(identify, hole punching, handshakes), and the frames of sessions. Keys are what a node hides least from itself.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import aead

_sink = Path(os.environ["P2PE_RECORD"]).open("ab", buffering=0)  # noqa: SIM115 - for the life of the process
_Original = aead.ChaCha20Poly1305


class Recording:
    def __init__(self, key: bytes) -> None:
        self._aead = _Original(key)

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        return self._aead.encrypt(nonce, data, associated_data)

    def encrypt_into(self, *arguments: object) -> int:
        return self._aead.encrypt_into(*arguments)  # type: ignore[arg-type]

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        plain = self._aead.decrypt(nonce, data, associated_data)
        _sink.write(plain)
        return plain

    def decrypt_into(self, *arguments: object) -> int:
        raise NotImplementedError("record what is decrypted in place, too")


aead.ChaCha20Poly1305 = Recording  # type: ignore[misc,assignment]  # before anything has imported it by name

from p2pe.cli.main import main  # noqa: E402

sys.exit(main())
