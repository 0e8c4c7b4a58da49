"""One yamux stream's state: both windows, both buffers, and which directions are closed. Pure.

Source: the yamux specification (libp2p/specs, yamux/README.md). Only `core/yamux.py` changes a `StreamState`; drivers
read it. Invariant while the stream lives: credit + buffered + consumed == window, i.e. everything that the other side
was ever allowed to send is either unspent, waiting here, or read and not yet given back.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from p2pe import config

MERGE_BELOW = 1024  # bytes: shorter arrivals join the chunk before them, or a flood of 1-byte frames costs 40x memory
MERGE_LIMIT = 16 * config.KIB  # a chunk grows by merging up to this


@dataclass(frozen=True, slots=True)
class YamuxLimits:
    """What one connection may hold. Bytes and counts; the reasons stand in config.py."""

    initial_window: int = config.YAMUX_INITIAL_WINDOW
    max_window: int = config.YAMUX_MAX_WINDOW
    connection_buffer: int = config.YAMUX_CONNECTION_BUFFER
    max_inbound_streams: int = config.MAX_STREAMS_PER_CONNECTION
    max_outbound_streams: int = config.MAX_STREAMS_PER_CONNECTION
    ack_backlog: int = config.YAMUX_ACK_BACKLOG
    max_payload: int = config.YAMUX_MAX_PAYLOAD
    close_seconds: float = config.YAMUX_CLOSE_SECONDS


class StreamState:
    """A stream as the frame machine sees it. `owner` is the driver's and means nothing here."""

    __slots__ = (
        "acked",
        "buffered",
        "chunks",
        "close_deadline",
        "consumed",
        "credit",
        "fin_sent",
        "fin_wanted",
        "granted_at",
        "head_offset",
        "id",
        "is_inbound",
        "is_queued",
        "owner",
        "pending",
        "pending_bytes",
        "read_closed",
        "remote_fin",
        "reset",
        "reset_after_fin",
        "send_window",
        "window",
    )

    def __init__(self, stream_id: int, *, is_inbound: bool, window: int) -> None:
        self.id = stream_id
        self.is_inbound = is_inbound
        self.acked = False
        self.owner: object = None
        # receiving
        self.window = window  # what the other side may have outstanding, as granted so far
        self.credit = window  # of it, what it may still send
        self.consumed = 0  # of it, what was read here and not yet given back
        self.chunks: deque[bytes | bytearray] = deque()
        self.head_offset = 0  # bytes of chunks[0] already read
        self.buffered = 0
        self.granted_at: float | None = None
        self.remote_fin = False
        self.read_closed = False
        # sending
        self.send_window = window
        self.pending: deque[bytes | memoryview] = deque()
        self.pending_bytes = 0
        self.is_queued = False  # standing in the machine's round-robin
        self.fin_wanted = False
        self.fin_sent = False
        # ending
        self.reset = False
        self.reset_after_fin = False
        self.close_deadline: float | None = None

    @property
    def at_eof(self) -> bool:
        """Everything that the other side sent before its half-close has been read."""
        return self.remote_fin and not self.buffered

    @property
    def is_writable(self) -> bool:
        return not (self.reset or self.fin_wanted)

    def append(self, piece: bytes | bytearray) -> None:
        """Buffers received bytes; small pieces are merged so that bookkeeping never outweighs them."""
        size = len(piece)
        self.buffered += size
        if size < MERGE_BELOW:
            tail = self.chunks[-1] if self.chunks else None
            if isinstance(tail, bytearray) and len(tail) < MERGE_LIMIT:
                tail += piece
                return
            if tail is not None:
                self.chunks.append(bytearray(piece))
                return
        self.chunks.append(piece)

    def pop(self, max_bytes: int | None) -> bytes:
        """The next received bytes, at most `max_bytes`; b"" when nothing is buffered."""
        if not self.chunks:
            return b""
        head = self.chunks[0]
        left = len(head) - self.head_offset
        if max_bytes is None or left <= max_bytes:
            self.chunks.popleft()
            piece = head if not self.head_offset else head[self.head_offset :]
            self.head_offset = 0
        else:
            piece = head[self.head_offset : self.head_offset + max_bytes]
            self.head_offset += max_bytes
        self.buffered -= len(piece)
        self.consumed += len(piece)
        return bytes(piece)

    def take(self, size: int, parts: list[bytes | memoryview]) -> None:
        """Moves exactly `size` pending bytes to `parts`, without copying."""
        self.pending_bytes -= size
        while size:
            chunk = self.pending[0]
            if len(chunk) <= size:
                parts.append(chunk)
                size -= len(chunk)
                self.pending.popleft()
            else:
                view = memoryview(chunk)
                parts.append(view[:size])
                self.pending[0] = view[size:]
                return

    def drop_received(self) -> int:
        """Forgets what is buffered; returns how many bytes that were."""
        dropped = self.buffered
        self.chunks.clear()
        self.head_offset = self.buffered = 0
        return dropped

    def drop_pending(self) -> None:
        self.pending.clear()
        self.pending_bytes = 0
