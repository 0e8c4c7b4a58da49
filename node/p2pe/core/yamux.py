"""Yamux (/yamux/1.0.0) as a pure frame machine: bytes in, stream states and events out; writes in, frames out.

Source: the yamux specification (libp2p/specs, yamux/README.md), with its acknowledgement backlog.

    header  = version u8 = 0 | type u8 | flags u16 | stream id u32 | length u32      (big endian, 12 bytes)
    type    = 0 data (length bytes follow) | 1 window update (length = delta)
            | 2 ping (length = value)      | 3 go away (length = code)
    flags   = 1 SYN | 2 ACK | 4 FIN | 8 RST
    ids     = odd from the dialer, even from the listener; 0 is the connection (ping, go away)

Deliberate choices where the specification is silent:
- a peer that sends more than its window, opens an id of our parity or twice, sends data after its FIN, or frames of
  an unknown version or type, has broken the protocol: `YamuxError`, and the connection ends;
- streams beyond the cap are refused with RST; frames for streams that are gone are swallowed, as they may have met
  our RST on the way;
- what arrives for a stream that was closed here is discarded and answered by RST, after our own data and FIN;
- RST after FIN leaves what was received before readable, RST alone drops it;
- FIN goes out in a frame of its own: js-libp2p's muxer takes a data frame's FIN before its data and drops those
  (docs/decisions/0300).

The caller feeds bytes with `receive`, acts through the other methods, and drains frames with `take_output`. The events
only say which streams to look at: the state is in the `StreamState` objects, so nothing is lost when it runs ahead.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

from p2pe.core.yamux_stream import StreamState, YamuxLimits
from p2pe.errors import LocalError, RemoteError

HEADER = struct.Struct(">BBHII")
HEADER_BYTES = HEADER.size
DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
MAX_U32 = 2**32 - 1
GROWTH_ROUND_TRIPS = 4  # half a window used up within this many round trips: the window is what slows the stream


class GoAway(IntEnum):
    """Codes of a go-away frame."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


class YamuxError(RemoteError):
    """The peer broke the yamux specification. Send what `take_output` still holds (a go-away), then drop it."""

    code = "yamux"


@dataclass(slots=True)
class Events:
    """What changed while receiving, in order of arrival; a stream may stand in `touched` more than once."""

    incoming: list[StreamState] = field(default_factory=list)  # opened by the peer
    touched: list[StreamState] = field(default_factory=list)  # became readable, writable, finished or reset
    pongs: list[int] = field(default_factory=list)  # values of answered pings
    go_away: bool = False  # the peer sent go-away


class YamuxMachine:
    """One connection. Not reentrant; holds no clock: `now` (seconds, any epoch) comes from the caller."""

    def __init__(self, *, is_dialer: bool, limits: YamuxLimits | None = None) -> None:
        self.limits = limits or YamuxLimits()
        self.streams: dict[int, StreamState] = {}
        self.buffered = 0  # received and unread, all streams together
        self.remote_go_away: int | None = None
        self.local_go_away = False
        self._next_id = 1 if is_dialer else 2
        self._own_parity = self._next_id & 1
        self._inbound = 0
        self._outbound = 0
        self._unacked = 0  # of the outbound ones
        self._grown = 0  # bytes of window granted beyond the initial ones, all streams together
        self._control = bytearray()
        self._ready: deque[StreamState] = deque()
        # parsing
        self._head = bytearray()  # an incomplete header
        self._body_left = 0
        self._body_stream: StreamState | None = None
        self._body_fin = False

    # --- receiving -------------------------------------------------------------------------------------------

    def receive(self, data: bytes | bytearray) -> Events:
        """Takes the next bytes from the wire, however they are cut. Raises YamuxError."""
        events = Events()
        position, end = 0, len(data)
        while position < end:
            if self._body_left:
                size = min(self._body_left, end - position)
                self._body_left -= size
                stream = self._body_stream
                if stream is not None and not stream.reset:
                    self._deliver(stream, data[position : position + size], events)
                    if not self._body_left and self._body_fin:
                        self._remote_finished(stream, events)
                position += size
                continue
            if not self._head and end - position >= HEADER_BYTES:
                header = HEADER.unpack_from(data, position)
                position += HEADER_BYTES
            else:
                missing = HEADER_BYTES - len(self._head)
                self._head += data[position : position + missing]
                position += missing
                if len(self._head) < HEADER_BYTES:
                    break
                header = HEADER.unpack(self._head)
                self._head.clear()
            self._frame(header, events)
        return events

    def _frame(self, header: tuple[int, int, int, int, int], events: Events) -> None:
        version, kind, flags, stream_id, length = header
        if version != 0 or kind > GO_AWAY:
            raise self._broken(f"frame of version {version}, type {kind}")
        if kind >= PING:
            if stream_id:
                raise self._broken(f"ping or go-away on stream {stream_id}")
            if kind == GO_AWAY:
                self.remote_go_away = length
                events.go_away = True
            elif flags & SYN:
                self._control += HEADER.pack(0, PING, ACK, 0, length)
            elif flags & ACK:
                events.pongs.append(length)
            return
        stream = self._stream_of(flags, stream_id, events)
        if kind == DATA and length:
            self._body_left, self._body_stream, self._body_fin = length, stream, bool(flags & FIN)
            if stream is not None:
                if length > stream.credit:
                    raise self._broken(f"{length} bytes on stream {stream_id} with {stream.credit} left in its window")
                if stream.remote_fin:
                    raise self._broken(f"data on stream {stream_id} after its FIN")
                stream.credit -= length
        if stream is None:
            return
        if not (stream.acked or stream.is_inbound):
            stream.acked = True  # any answer acknowledges; some implementations leave the flag out
            self._unacked -= 1
            events.touched.append(stream)
        if kind == WINDOW_UPDATE and length:
            stream.send_window += length
            if stream.send_window > MAX_U32:
                raise self._broken(f"window of stream {stream_id} beyond 2^32")
            self._queue(stream)
            events.touched.append(stream)
        if flags & RST:
            self._drop(stream)
            events.touched.append(stream)
        elif flags & FIN and not self._body_left:
            self._remote_finished(stream, events)

    def _stream_of(self, flags: int, stream_id: int, events: Events) -> StreamState | None:
        """The stream that a frame is about, opened on SYN; None when the frame is to be swallowed."""
        stream = self.streams.get(stream_id)
        if not flags & SYN:
            if stream is None and (stream_id == 0 or self._is_ours_unopened(stream_id)):
                raise self._broken(f"frame for stream {stream_id}, which we never opened")
            return stream
        if stream is not None or stream_id == 0 or stream_id & 1 == self._own_parity:
            raise self._broken(f"SYN for stream {stream_id}, which isn't the peer's to open")
        if flags & RST:
            return None
        if self.local_go_away or self._inbound >= self.limits.max_inbound_streams:
            self._control += HEADER.pack(0, WINDOW_UPDATE, RST, stream_id, 0)
            return None
        stream = StreamState(stream_id, is_inbound=True, window=self.limits.initial_window)
        self.streams[stream_id] = stream
        self._inbound += 1
        events.incoming.append(stream)
        return stream

    def _is_ours_unopened(self, stream_id: int) -> bool:
        return stream_id & 1 == self._own_parity and stream_id >= self._next_id

    def _deliver(self, stream: StreamState, piece: bytes | bytearray, events: Events) -> None:
        if stream.read_closed:
            stream.consumed += len(piece)
            self._reset_once_flushed(stream)
            return
        if self.buffered + len(piece) > self.limits.connection_buffer:
            # Reachable only by dozens of unread streams at once. The fullest pays, so a small one never does.
            victim = max(self.streams.values(), key=lambda s: s.buffered)
            if victim.buffered < stream.buffered + len(piece):
                victim = stream
            self.reset(victim)
            events.touched.append(victim)
            if victim is stream:
                return
        stream.append(piece)
        self.buffered += len(piece)
        events.touched.append(stream)

    def _remote_finished(self, stream: StreamState, events: Events) -> None:
        stream.remote_fin = True
        events.touched.append(stream)
        self._forget_if_over(stream)

    def _broken(self, what: str) -> YamuxError:
        if not self.local_go_away:
            self.go_away(GoAway.PROTOCOL_ERROR)
        return YamuxError(f"the peer broke the yamux protocol: {what}")

    # --- acting ----------------------------------------------------------------------------------------------

    @property
    def can_open(self) -> bool:
        """Whether `open` may be called now: the caps leave room, nobody said go-away."""
        return (
            self._outbound < self.limits.max_outbound_streams
            and self._unacked < self.limits.ack_backlog
            and not self.is_closing
        )

    @property
    def is_closing(self) -> bool:
        return self.local_go_away or self.remote_go_away is not None or self._next_id > MAX_U32

    def open(self) -> StreamState:
        """A new stream of ours; its SYN is queued. Raises LocalError unless `can_open`."""
        if not self.can_open:
            raise LocalError("no more streams can be opened on this connection now")
        stream = StreamState(self._next_id, is_inbound=False, window=self.limits.initial_window)
        self._next_id += 2
        self.streams[stream.id] = stream
        self._outbound += 1
        self._unacked += 1
        self._control += HEADER.pack(0, WINDOW_UPDATE, SYN, stream.id, 0)
        return stream

    def accept(self, stream: StreamState) -> None:
        """Acknowledges a stream of the peer's: the application has taken it."""
        if not (stream.acked or stream.reset):
            stream.acked = True
            self._control += HEADER.pack(0, WINDOW_UPDATE, ACK, stream.id, 0)

    def write(self, stream: StreamState, data: bytes | memoryview) -> None:
        """Queues bytes; they must not change afterwards. Raises LocalError when this side is finished."""
        if not stream.is_writable:
            raise LocalError(f"stream {stream.id} is closed for writing")
        if len(data):
            stream.pending.append(data)
            stream.pending_bytes += len(data)
            self._queue(stream)

    def finish(self, stream: StreamState) -> None:
        """Half-close: FIN goes out behind everything written before. Idempotent."""
        if stream.is_writable:
            stream.fin_wanted = True
            self._queue(stream)

    def read(self, stream: StreamState, max_bytes: int | None, now: float, rtt: float | None) -> bytes:
        """Received bytes, at most `max_bytes`; b"" when there are none now (see `StreamState.at_eof`).

        Gives window back once half of it is used, and grows it when that took less than a few round trips (`rtt`,
        seconds; None = not known yet, no growth). All growth of a connection comes out of one budget, half of its
        buffer, of which one step takes at most half of what is left: many streams share it.
        """
        piece = stream.pop(max_bytes)
        self.buffered -= len(piece)
        if stream.consumed * 2 >= stream.window and not (stream.remote_fin or stream.reset or stream.read_closed):
            delta = stream.consumed
            is_fast = stream.granted_at is not None and rtt is not None
            if is_fast and now - (stream.granted_at or 0.0) < GROWTH_ROUND_TRIPS * (rtt or 0.0):
                growth = min(stream.window, self.limits.max_window - stream.window)
                if 0 < growth * 2 <= self.limits.connection_buffer // 2 - self._grown:
                    stream.window += growth
                    self._grown += growth
                    delta += growth
            stream.granted_at = now
            stream.consumed = 0
            stream.credit += delta
            self._control += HEADER.pack(0, WINDOW_UPDATE, 0, stream.id, delta)
        elif stream.at_eof:
            self._forget_if_over(stream)
        return piece

    def close(self, stream: StreamState, now: float) -> None:
        """Closes both directions: what was written still goes out, what comes in is discarded. Idempotent."""
        if stream.read_closed:
            return
        stream.read_closed = True
        lost = stream.drop_received()
        self.buffered -= lost
        stream.consumed += lost
        self.finish(stream)
        if lost and not (stream.remote_fin or stream.reset):
            # The writer over there may be waiting for window that we shall never give.
            self._reset_once_flushed(stream)
        stream.close_deadline = now + self.limits.close_seconds
        self._forget_if_over(stream)

    def reset(self, stream: StreamState) -> None:
        """Drops the stream at once; RST goes out ahead of queued data. Idempotent."""
        if stream.reset:
            return
        if stream.id in self.streams:
            self._control += HEADER.pack(0, WINDOW_UPDATE, RST, stream.id, 0)
        stream.remote_fin = False
        self._drop(stream)

    def expire(self, now: float) -> None:
        """Resets streams that were closed here long ago and which the other side doesn't close."""
        due = [s for s in self.streams.values() if s.close_deadline is not None and s.close_deadline <= now]
        for stream in due:
            self.reset(stream)

    def abandon(self) -> list[StreamState]:
        """The connection is gone: drops every stream and returns them. What a finished peer sent stays readable."""
        streams = list(self.streams.values())
        for stream in streams:
            self._drop(stream)
        return streams

    def ping(self, value: int) -> None:
        """Queues a ping; its answer comes as `Events.pongs`. `value` is 32 bits."""
        self._control += HEADER.pack(0, PING, SYN, 0, value)

    def go_away(self, code: GoAway) -> None:
        """Says that this connection ends; streams of the peer's are refused from now on."""
        self.local_go_away = True
        self._control += HEADER.pack(0, GO_AWAY, 0, 0, code)

    # --- sending ---------------------------------------------------------------------------------------------

    @property
    def has_output(self) -> bool:
        return bool(self._control or self._ready)

    @property
    def control_backlog(self) -> int:
        """Bytes of answers waiting. A reader stops reading while this is large: a flood of pings or SYNs by a peer
        that doesn't read its answers then blocks in the peer's own socket."""
        return len(self._control)

    def take_output(self, max_bytes: int) -> tuple[list[bytes | memoryview], list[StreamState]]:
        """The next frames for the wire, to be written in order, about `max_bytes` of them (at most one frame more),
        and the streams whose queue shrank or which ended. Control frames first, then one frame a stream in turn."""
        parts: list[bytes | memoryview] = []
        progressed: list[StreamState] = []
        size = len(self._control)
        if size:
            parts.append(bytes(self._control))
            self._control.clear()
        while self._ready and size < max_bytes:
            stream = self._ready.popleft()
            stream.is_queued = False
            if stream.reset or stream.fin_sent:
                continue
            count = min(stream.pending_bytes, stream.send_window, self.limits.max_payload)
            is_last = stream.fin_wanted and count == stream.pending_bytes
            if not (count or is_last):
                continue
            if count:
                parts.append(HEADER.pack(0, DATA, 0, stream.id, count))
                stream.take(count, parts)
            if is_last:
                parts.append(HEADER.pack(0, WINDOW_UPDATE, FIN, stream.id, 0))
            stream.send_window -= count
            size += count + HEADER_BYTES
            progressed.append(stream)
            stream.fin_sent = is_last
            if stream.reset_after_fin:
                self._reset_once_flushed(stream)
            if is_last:
                self._forget_if_over(stream)
            else:
                self._queue(stream)
        return parts, progressed

    # --- bookkeeping -----------------------------------------------------------------------------------------

    def _queue(self, stream: StreamState) -> None:
        sendable = (stream.pending_bytes and stream.send_window) or (stream.fin_wanted and not stream.pending_bytes)
        if sendable and not (stream.is_queued or stream.fin_sent or stream.reset):
            stream.is_queued = True
            self._ready.append(stream)

    def _reset_once_flushed(self, stream: StreamState) -> None:
        stream.reset_after_fin = True
        is_stuck = stream.pending_bytes and not stream.send_window  # both ends full and waiting for each other
        if (stream.fin_sent or is_stuck) and not stream.reset:
            self._control += HEADER.pack(0, WINDOW_UPDATE, RST, stream.id, 0)
            self._drop(stream)

    def _drop(self, stream: StreamState) -> None:
        stream.reset = True
        stream.drop_pending()
        if not stream.remote_fin or stream.read_closed:
            self.buffered -= stream.drop_received()
        if not stream.buffered:
            self._forget(stream)

    def _forget_if_over(self, stream: StreamState) -> None:
        if stream.remote_fin and not stream.buffered and (stream.fin_sent or stream.reset):
            self._forget(stream)

    def _forget(self, stream: StreamState) -> None:
        if self.streams.pop(stream.id, None) is None:
            return
        self._grown -= stream.window - self.limits.initial_window
        if stream.is_inbound:
            self._inbound -= 1
        else:
            self._outbound -= 1
            self._unacked -= not stream.acked
