"""The Noise part of the handshake: the library `noiseprotocol`, held to one suite and to given entropy.

Noise specification, revision 34: pattern XX (section 7.5) with two pre-shared keys (section 9).
"""

from __future__ import annotations

from typing import Any, Final

from cryptography.exceptions import InvalidTag
from noise.backends.default.keypairs import KeyPair25519
from noise.connection import Keypair, NoiseConnection
from noise.exceptions import NoiseHandshakeError, NoiseValueError

from p2pe.config import MAX_HANDSHAKE_BYTES
from p2pe.core.cipher import SessionCipher
from p2pe.errors import HandshakeError

SUITE: Final = b"Noise_XXpsk0+psk3_25519_ChaChaPoly_SHA256"
PSK_BYTES: Final = 32


class NoiseSession:
    """The library's connection with both pre-shared keys and a given ephemeral key."""

    def __init__(
        self, *, initiator: bool, static: bytes, ephemeral: bytes, psk0: bytes, psk3: bytes, prologue: bytes
    ) -> None:
        if len(psk0) != PSK_BYTES or len(psk3) != PSK_BYTES:
            raise ValueError(f"pre-shared keys have {PSK_BYTES} bytes, not {len(psk0)} and {len(psk3)}")
        connection = NoiseConnection.from_name(SUITE)
        connection.set_psks(psks=[psk0, psk3])
        connection.set_prologue(prologue)
        connection.set_keypair_from_private_bytes(Keypair.STATIC, static)
        if initiator:
            connection.set_as_initiator()
        else:
            connection.set_as_responder()
        connection.start_handshake()
        self._connection = connection
        self._state: Any = connection.noise_protocol.handshake_state  # the library drops its own at completion
        # The ephemeral key is set here and not through set_keypair..., which warns that only tests do that.
        self._state.e = KeyPair25519.from_private_bytes(ephemeral)

    def write(self, payload: bytes) -> bytes:
        try:
            return bytes(self._connection.write_message(payload))
        except (ValueError, NoiseValueError) as problem:  # X25519 refuses low-order keys of the other side
            raise HandshakeError(f"the other side's key is refused: {problem}") from None

    def read(self, message: bytes, complaint: str) -> bytes:
        if len(message) > MAX_HANDSHAKE_BYTES:
            raise HandshakeError(f"a handshake message of {len(message)} bytes")
        try:
            return bytes(self._connection.read_message(message))
        except (InvalidTag, ValueError, NoiseValueError, NoiseHandshakeError):
            raise HandshakeError(complaint) from None

    @property
    def remote_static(self) -> bytes:
        return bytes(self._state.rs.public_bytes)

    @property
    def handshake_hash(self) -> bytes:
        return bytes(self._connection.get_handshake_hash())

    def ciphers(self) -> tuple[SessionCipher, SessionCipher]:
        """For sending and for receiving, once the third message is done."""
        protocol = self._connection.noise_protocol
        return SessionCipher(protocol.cipher_state_encrypt.k), SessionCipher(protocol.cipher_state_decrypt.k)
