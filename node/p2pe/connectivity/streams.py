"""Length-prefixed frames on a stream of the session protocol, with the stream's errors as ours."""

from __future__ import annotations

import trio

from p2pe.config import MAX_HANDSHAKE_BYTES, NOISE_MAX_BYTES
from p2pe.core.framing import FrameReader, frame
from p2pe.errors import LinkClosed
from p2pe.ports import Stream

RECEIVE_BYTES = 256 * 1024  # asked for at once: several of the largest frames


class FrameStream:
    """One reader and one writer at a time. Until `established`, frames are limited to MAX_HANDSHAKE_BYTES."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._reader = FrameReader(MAX_HANDSHAKE_BYTES)

    def established(self) -> None:
        """The handshake is over: frames may be as large as a Noise message."""
        self._reader.limit = NOISE_MAX_BYTES

    async def read(self) -> bytes:
        """The next frame. Raises LinkClosed at the end of the stream, RemoteError for an impossible length."""
        payload = self._reader.next_frame()
        if payload is not None:
            await trio.lowlevel.checkpoint()
            return payload
        while payload is None:
            try:
                data = await self.stream.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise LinkClosed("the connection broke") from None
            if not data:
                raise LinkClosed("the other side closed the stream")
            self._reader.receive(data)
            payload = self._reader.next_frame()
        return payload

    async def write(self, *payloads: bytes) -> None:
        """Writes frames, joined. Raises LinkClosed. When cancelled midway the stream is reset: what follows half a
        frame couldn't be read."""
        done = False
        try:
            await self.stream.send_all(b"".join(frame(payload) for payload in payloads))
            done = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise LinkClosed("the connection broke") from None
        finally:
            if not done:
                self.stream.reset()
