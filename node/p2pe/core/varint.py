"""Unsigned varints (multiformats/unsigned-varint) and the length-delimited messages that libp2p builds on them."""

from __future__ import annotations

from typing import Final

from p2pe.errors import RemoteError

_MAX_BYTES: Final = 9  # the specification's limit: 63 bits


def encode_varint(value: int) -> bytes:
    """Raises ValueError for a negative number or one beyond 63 bits."""
    if not 0 <= value < 1 << 63:
        raise ValueError(f"not an unsigned varint: {value}")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes | bytearray) -> tuple[int, int] | None:
    """(value, bytes used) at the start of `data`; None when more bytes are needed. Raises RemoteError."""
    value = 0
    for index, byte in enumerate(data[:_MAX_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, index + 1
    if len(data) >= _MAX_BYTES:
        raise RemoteError("a varint of more than 63 bits")
    return None


def delimit(message: bytes) -> bytes:
    """The message behind its length."""
    return encode_varint(len(message)) + message


class DelimitedReader:
    """Cuts length-delimited messages out of bytes, however they arrive. Holds at most `limit` bytes and a header."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def receive(self, data: bytes | bytearray) -> None:
        self._buffer += data

    @property
    def is_empty(self) -> bool:
        """Whether no part of a further message is held."""
        return not self._buffer

    def next_message(self) -> bytes | None:
        """The next whole message, or None. Raises RemoteError for one longer than the limit, before it arrives."""
        head = decode_varint(self._buffer)
        if head is None:
            return None
        length, used = head
        if length > self._limit:
            raise RemoteError(f"a message of {length} bytes; the limit is {self._limit}")
        if len(self._buffer) < used + length:
            return None
        message = bytes(self._buffer[used : used + length])
        del self._buffer[: used + length]
        return message

    def take_rest(self) -> bytes:
        """Hands over what lies beyond the last message: it belongs to what follows the messages."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest
