"""The libp2p Noise handshake and the encrypted channel after it.

Source: libp2p noise specification (`Noise_XX_25519_ChaChaPoly_SHA256`, no prologue), with the stream muxer agreed on
inside the handshake (libp2p connections/inlined-muxer-negotiation), which spares a round trip.

    wire:     every message is a 2-byte big-endian length, then that many bytes
    -> e
    <- e, ee, s, es, payload        payload = NoiseHandshakePayload{identity key, signature, extensions}
    -> s, se, payload               signature over "noise-libp2p-static-key:" and the sender's static key

The state machine is the library noiseprotocol's, the payload and the identity keys are py-libp2p's: noise_identity.py.
Its transport isn't used: it reads without a time-out, copies each byte several times, and importing it costs 50 MiB
(docs/decisions/0001).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from noise.connection import NoiseConnection
from noise.exceptions import NoiseHandshakeError, NoiseInvalidMessage, NoiseMaxNonceError, NoiseValueError

from p2pe import config
from p2pe.errors import HandshakeError, RemoteError
from p2pe.model import PeerId
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.noise_identity import proved
from p2pe.ports import ByteStream, Entropy

NOISE_PROTOCOL: Final = "/noise"
_SUITE: Final = b"Noise_XX_25519_ChaChaPoly_SHA256"
_KEY_BYTES: Final = 32
_MAX_HANDSHAKE: Final = 4 * config.KIB  # an RSA-4096 identity and its signature take 1.2 KiB
_MAX_PLAINTEXT: Final = config.NOISE_MAX_BYTES - config.NOISE_TAG_BYTES
_WRITE_CHUNK: Final = 4 * _MAX_PLAINTEXT  # encrypted in one go: bounds the copy made of a large write
_READ_BYTES: Final = 128 * config.KIB
# What the libraries raise over bytes of a stranger's choosing.
_DAMAGED: Final = (
    InvalidTag,
    NoiseHandshakeError,
    NoiseInvalidMessage,
    NoiseMaxNonceError,
    NoiseValueError,
    ValueError,
    TypeError,
)


class WrongPeer(HandshakeError):
    """Somebody else than the peer dialled answers at this address."""

    code = "wrong_peer"


class NoiseHandshake:
    """One side of the handshake, bytes in and bytes out. Use once; any error is final."""

    def __init__(self, key: HostKey, entropy: Entropy, *, is_dialer: bool, muxers: tuple[str, ...]) -> None:
        self._key = key
        self.is_dialer = is_dialer
        self._muxers = muxers
        self._noise: Any = NoiseConnection.from_name(_SUITE)
        self._noise.noise_protocol.keypairs["s"] = key.noise.pair
        if is_dialer:
            self._noise.set_as_initiator()
        else:
            self._noise.set_as_responder()
        self._noise.start_handshake()
        protocol = self._noise.noise_protocol
        self._state: Any = protocol.handshake_state  # kept: the library drops it, and `rs` with it, when it is done
        self._state.e = protocol.dh_fn.klass.from_private_bytes(entropy(_KEY_BYTES))  # fresh, from our own source
        self.muxer: str | None = None  # None: the other side doesn't agree on it here; negotiate as of old

    @property
    def own_peer(self) -> PeerId:
        return self._key.peer_id

    def first(self) -> bytes:
        """The dialer's first message."""
        return bytes(self._noise.write_message())

    def receive_first(self, message: bytes) -> None:
        self._read(message)

    def write_identity(self) -> bytes:
        """The second message (listener) or third (dialer): our static key, identity and signature."""
        try:
            return bytes(self._noise.write_message(self._key.noise.payload(self._muxers)))
        except _DAMAGED as error:  # the peer's ephemeral key is a point of low order
            raise HandshakeError(f"the peer's Noise key can't be used: {type(error).__name__}") from None

    def receive_identity(self, message: bytes) -> PeerId:
        """Reads the other side's identity; its peer id is proved from here on. Raises HandshakeError."""
        peer_id, muxers = proved(self._read(message), bytes(self._state.rs.public_bytes))
        self._agree_on_muxer(muxers)
        return peer_id

    def _agree_on_muxer(self, theirs: tuple[str, ...]) -> None:
        if not theirs:
            return
        dialer, listener = (self._muxers, theirs) if self.is_dialer else (theirs, self._muxers)
        self.muxer = next((m for m in dialer if m in listener), None)
        if self.muxer is None:
            raise HandshakeError(f"the peer offers no stream muxer that we speak: {', '.join(theirs[:8])}")

    def _read(self, message: bytes) -> bytes:
        try:
            return bytes(self._noise.read_message(message))
        except _DAMAGED as error:
            raise HandshakeError(f"a Noise handshake message is damaged: {type(error).__name__}") from None

    def keys(self) -> tuple[bytes, bytes]:
        """(sending, receiving) transport keys; only when all three messages have passed."""
        protocol = self._noise.noise_protocol
        return bytes(protocol.cipher_state_encrypt.k), bytes(protocol.cipher_state_decrypt.k)


class MessageReader:
    """Cuts length-prefixed Noise messages out of a byte stream; `buffer` may start with bytes read too early."""

    __slots__ = ("_stream", "buffer")

    def __init__(self, stream: ByteStream, buffer: bytearray) -> None:
        self._stream = stream
        self.buffer = buffer

    async def next_message(self, limit: int) -> bytes:
        """Raises HandshakeError when it is longer than `limit` or the stream ends first, and stream errors."""
        while len(self.buffer) < 2 or len(self.buffer) < 2 + int.from_bytes(self.buffer[:2], "big"):
            if len(self.buffer) >= 2 and int.from_bytes(self.buffer[:2], "big") > limit:
                raise HandshakeError("a Noise handshake message is too long")
            piece = await self._stream.receive_some()
            if not piece:
                raise HandshakeError("the other side closed the connection during the Noise handshake")
            self.buffer += piece
        length = int.from_bytes(self.buffer[:2], "big")
        message = bytes(self.buffer[2 : 2 + length])
        del self.buffer[: 2 + length]
        return message


def prefixed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


async def dial_noise(
    handshake: NoiseHandshake,
    stream: ByteStream,
    buffer: bytearray,
    expected: PeerId,
    swap: Callable[[], NoiseHandshake],
) -> tuple[NoiseHandshake, SecureStream]:
    """Runs the dialer's side after its first message went out. Raises HandshakeError and stream errors.

    Somebody else than `expected` never gets to see our own identity: raises WrongPeer.

    When both sides dialled at once from their listen ports, TCP joins the two (RFC 9293, simultaneous open) and each
    sends a first message. It shows by its length; then the side with the lower peer id takes the listener's role, in
    a handshake that `swap` makes. Returns the handshake that was finished.
    """
    reader = MessageReader(stream, buffer)
    message = await reader.next_message(_MAX_HANDSHAKE)
    if len(message) == _KEY_BYTES:
        if handshake.own_peer < expected:
            handshake = swap()
            handshake.receive_first(message)
            await stream.send_all(prefixed(handshake.write_identity()))
        message = await reader.next_message(_MAX_HANDSHAKE)
    peer_id = handshake.receive_identity(message)
    if peer_id != expected:
        raise WrongPeer(f"{peer_id} answers at {stream.remote}, not {expected}")
    if handshake.is_dialer:
        await stream.send_all(prefixed(handshake.write_identity()))
    return handshake, SecureStream(stream, *handshake.keys(), reader.buffer)


async def answer_noise(
    handshake: NoiseHandshake, stream: ByteStream, buffer: bytearray, own: PeerId, held: bytes = b""
) -> tuple[SecureStream, PeerId, float]:
    """Runs the listener's side; gives the round trip as well, in seconds. `held` is sent along with the first answer.
    Raises HandshakeError (also when we dialled ourselves) and stream errors."""
    reader = MessageReader(stream, buffer)
    handshake.receive_first(await reader.next_message(_MAX_HANDSHAKE))
    await stream.send_all(held + prefixed(handshake.write_identity()))
    sent_at = trio.current_time()
    peer_id = handshake.receive_identity(await reader.next_message(_MAX_HANDSHAKE))
    round_trip = trio.current_time() - sent_at
    if peer_id == own:
        raise HandshakeError("we connected to ourselves")
    return SecureStream(stream, *handshake.keys(), reader.buffer), peer_id, round_trip


class SecureStream:
    """The encrypted channel: a byte stream over Noise messages. One task sends at a time, one receives.

    What `send_now` couldn't send, the next `send_all` sends first, of nothing too.

    `receive_some` raises RemoteError for a message that doesn't decrypt; nothing after it can be trusted.
    """

    __slots__ = ("_buffer", "_decrypt", "_encrypt", "_received", "_sent", "_stream", "_unread", "_unsent", "is_closed")

    def __init__(self, stream: ByteStream, send_key: bytes, receive_key: bytes, buffer: bytearray) -> None:
        self._stream = stream
        self._encrypt = ChaCha20Poly1305(send_key).encrypt
        self._decrypt = ChaCha20Poly1305(receive_key).decrypt
        self._sent = 0  # Noise nonces: 64 bits, never used up within a connection's life
        self._received = 0
        self._buffer = buffer
        self._unread = b""
        self._unsent = b""  # encrypted already
        self.is_closed = False

    def unread(self, data: bytes | bytearray) -> None:
        """Puts back plaintext that was read too far; the next `receive_some` returns it."""
        self._unread = bytes(data) + self._unread

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._unsent:
            unsent, self._unsent = self._unsent, b""
            await self._stream.send_all(unsent)
        view = memoryview(data)
        for start in range(0, len(view), _WRITE_CHUNK):
            await self._stream.send_all(self._seal(view[start : start + _WRITE_CHUNK]))

    def send_now(self, data: bytes) -> bool:
        """False when some of it is left: then nothing but `send_all` may follow."""
        sealed = self._seal(memoryview(data))
        sent = self._stream.send_now(sealed)
        self._unsent = sealed[sent:]
        return not self._unsent

    def _seal(self, view: memoryview) -> bytes:
        parts = []
        for start in range(0, len(view), _MAX_PLAINTEXT):
            sealed = self._encrypt(_nonce(self._sent), view[start : start + _MAX_PLAINTEXT], None)
            self._sent += 1
            parts.append(len(sealed).to_bytes(2, "big"))
            parts.append(sealed)
        return b"".join(parts)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """All plaintext that has arrived, at least one byte; b"" at the end. `max_bytes` isn't honoured: the reader
        above takes what there is (at most the read size of the stream below)."""
        if self._unread:
            ready, self._unread = self._unread, b""
            return ready
        while True:
            opened = self._open()
            if opened:
                return opened
            piece = await self._stream.receive_some(_READ_BYTES)
            if not piece:
                if self._buffer:
                    raise trio.BrokenResourceError("the connection ended within a Noise message")
                return b""
            self._buffer += piece

    def _open(self) -> bytes:
        buffer, parts, position = self._buffer, [], 0
        end = len(buffer)
        with memoryview(buffer) as view:
            while end - position >= 2:
                stop = position + 2 + (buffer[position] << 8 | buffer[position + 1])
                if stop > end:
                    break
                try:
                    parts.append(self._decrypt(_nonce(self._received), view[position + 2 : stop], None))
                except InvalidTag:
                    raise RemoteError("a Noise message doesn't decrypt; the connection is dropped") from None
                self._received += 1
                position = stop
        if position:
            del buffer[:position]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self.is_closed = True
        await self._stream.aclose()


def _nonce(counter: int) -> bytes:
    return b"\0\0\0\0" + counter.to_bytes(8, "little")
