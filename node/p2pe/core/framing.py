"""Frames on a stream: a two-byte big-endian length, then that many bytes. Lengths of 0 don't exist.

The form is that of libp2p's Noise transport; 65,535 is also the largest Noise message (Noise specification,
section 3).
"""

from __future__ import annotations

from typing import Final

from p2pe.config import NOISE_MAX_BYTES
from p2pe.errors import RemoteError

PREFIX_BYTES: Final = 2


def frame(payload: bytes) -> bytes:
    """Length prefix and payload. Raises ValueError when the payload is empty or longer than 65,535 bytes."""
    if not 0 < len(payload) <= NOISE_MAX_BYTES:
        raise ValueError(f"a frame holds 1 to {NOISE_MAX_BYTES} bytes, not {len(payload)}")
    return len(payload).to_bytes(PREFIX_BYTES, "big") + payload


class FrameReader:
    """Cuts received bytes into frames, wherever they were split on the way.

    Between two calls of `receive`, take frames until `next_frame` returns None: then no more than one incomplete
    frame is kept, and memory is bounded by `limit` and what was received at once. `limit` (bytes of a
    payload) may be raised when the handshake is over.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Takes bytes in the order in which they came."""
        self._buffer += data

    def next_frame(self) -> bytes | None:
        """The next whole payload, or None when more bytes are needed.

        Raises RemoteError as soon as a length of 0 or above `limit` is seen; the stream is of no more use then.
        """
        buffer = self._buffer
        if len(buffer) < PREFIX_BYTES:
            return None
        length = buffer[0] << 8 | buffer[1]
        if not 0 < length <= self.limit:
            raise RemoteError(f"the other side announced a frame of {length} bytes; 1 to {self.limit} are allowed here")
        end = PREFIX_BYTES + length
        if len(buffer) < end:
            return None
        with memoryview(buffer) as view:
            payload = bytes(view[PREFIX_BYTES:end])
        del buffer[:end]
        return payload

    @property
    def buffered(self) -> int:
        """Bytes kept; not 0 at the end of a stream means that it was cut within a frame."""
        return len(self._buffer)
