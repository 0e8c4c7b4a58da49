"""Yamux on trio: drives `core/yamux.py` over one secured byte stream.

Three tasks a connection, none a stream: a reader, a writer that joins whatever all streams have ready into one write,
and a keepalive. A stream's `send_all` returns once its bytes are queued within a small bound (as with a socket's
buffer), so many small messages share a write; larger writes wait until the writer has taken them. While the writer
rests, small writes and answers to pings go out in the task that makes them, as far as the stream below takes them at
once; what is left is the writer's. Nobody else waits there: cancelling a `send_all` never cuts a frame in two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

import trio

from p2pe import config
from p2pe.core.patience import patience
from p2pe.core.yamux import Events, GoAway, YamuxError, YamuxMachine
from p2pe.core.yamux_stream import StreamState, YamuxLimits
from p2pe.errors import RemoteError
from p2pe.overlay.yamux_stream import MuxedStream

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

RTT_MAX_AGE = 30.0  # seconds: measure again though traffic shows that the peer lives
LISTENER_PATIENCE = 1.25
MAX_PINGS = 16  # answers awaited at once; more callers share the last one
PING_MASK = 0xFFFFFFFF


class Carrier(Protocol):
    """What runs below: a secured byte stream. One task sends, one receives. May raise RemoteError.

    One that has `send_now`, as SecureStream's, is asked to send without waiting."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...
    async def aclose(self) -> None: ...


class YamuxConnection:
    """A multiplexed connection; lives while `run` runs.

    `closed` is set when it has ended, `close_reason` then says why, for people. `round_trip` is the last measured
    one, in seconds.
    """

    def __init__(
        self,
        stream: Carrier,
        is_dialer: bool,
        *,
        limits: YamuxLimits | None = None,
        ping_interval: float = config.CONNECTION_PING_INTERVAL,
        ping_timeout: float = config.CONNECTION_PING_TIMEOUT,
        round_trip: float | None = None,
    ) -> None:
        """`round_trip`: seconds, if it was measured just now; else the first thing to be done is a ping."""
        self.machine = YamuxMachine(is_dialer=is_dialer, limits=limits)
        self.closed = trio.Event()
        self.close_reason: str | None = None
        self.round_trip = round_trip
        self._stream = stream
        # The listener waits a little longer, or two idle ends would ping in step for ever.
        self._ping_interval = ping_interval * (1.0 if is_dialer else LISTENER_PATIENCE)
        self._ping_timeout = ping_timeout
        self._measured_at = float("-inf") if round_trip is None else trio.current_time()
        self._last_heard = 0.0
        self._incoming: deque[MuxedStream] = deque()  # bounded by the machine's cap on inbound streams
        self._accepting = trio.Event()
        self._slots = trio.Event()
        self._work = trio.Event()
        self._drained = trio.Event()
        self._heard = 0  # pieces received: tells what came after a ping from what came before, in one instant too
        self._pings: dict[int, tuple[float, trio.Event]] = {}
        self._next_ping = 0
        self._is_running = False
        self._send_now: Callable[[bytes], bool] | None = getattr(stream, "send_now", None)
        self._is_resting = False  # the writer: it has nothing to do, and others may send
        self._has_unsent = False  # of what was to be sent at once, something is left below
        self._writer_scope = trio.CancelScope()

    # --- streams ---

    async def open_stream(self) -> MuxedStream:
        """Opens a stream; waits while the caps on streams or on unacknowledged ones are reached.

        Raises BrokenResourceError when the connection ended or is about to, ClosedResourceError after `aclose`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()  # nobody opens streams without sending or waiting
        while not self.machine.can_open or self.closed.is_set():
            self._check_open()
            await self._slots.wait()
        stream = MuxedStream(self, self.machine.open())
        self._work.set()
        return stream

    async def accept_stream(self) -> MuxedStream:
        """The next stream opened by the peer. Raises like `open_stream` once the connection has ended."""
        await trio.lowlevel.checkpoint_if_cancelled()  # as many as may wait are taken in one go
        while True:
            while self._incoming:
                stream = self._incoming.popleft()
                if not stream.is_reset:
                    self.machine.accept(stream.state)
                    self._work.set()
                    return stream
            if self.closed.is_set():
                raise self._ended()
            if self._accepting.is_set():
                self._accepting = trio.Event()
            await self._accepting.wait()

    def _check_open(self) -> None:
        if self.closed.is_set() or self.machine.is_closing:
            raise self._ended()
        if self._slots.is_set():
            self._slots = trio.Event()

    def _ended(self) -> trio.ClosedResourceError | trio.BrokenResourceError:
        if self.machine.local_go_away and self.close_reason in (None, "closed here"):
            return trio.ClosedResourceError("this connection was closed here")
        return trio.BrokenResourceError(self.close_reason or "the peer is about to end this connection")

    def why(self, state: StreamState) -> str:
        """Why a stream is broken, for people."""
        return self.close_reason or f"stream {state.id} was reset"

    # What streams ask for. Each leaves the machine consistent and wakes the writer.

    def queue_write(self, state: StreamState, data: bytes | memoryview) -> None:
        self.machine.write(state, data)
        self._work.set()

    def write_now(self, state: StreamState, data: bytes) -> bool:
        """Queues and sends, unless the writer is busy: then it does neither, and returns False."""
        if not self._is_resting:
            return False
        self.machine.write(state, data)
        self._send_what_is_ready()
        return True

    def queue_finish(self, state: StreamState) -> None:
        self.machine.finish(state)
        self._changed()

    def queue_close(self, state: StreamState) -> None:
        self.machine.close(state, trio.current_time())
        self._changed()

    def queue_reset(self, state: StreamState) -> None:
        self.machine.reset(state)
        self._changed()

    def read(self, state: StreamState, max_bytes: int | None) -> bytes:
        piece = self.machine.read(state, max_bytes, trio.current_time(), self.round_trip)
        self._changed()
        return piece

    def _changed(self) -> None:
        if self.machine.has_output:
            if self._is_resting:
                self._send_what_is_ready()
            else:
                self._work.set()
        if self.machine.can_open:
            self._slots.set()

    # --- life ---

    def begin(self) -> None:
        """From here on it counts as running, and `run` is sure to follow."""
        if not self._is_running:
            self._is_running = True
            self._last_heard = trio.current_time()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves the connection until it ends; use as `await nursery.start(connection.run)`, or `begin` it first.

        Returns, raising nothing, however the peer or the network ended it; then the stream below is closed, all
        streams are broken and `close_reason` is set. Cancelling it does the same without saying goodbye.
        """
        self.begin()
        try:
            async with trio.open_nursery() as nursery:
                for job in (self._read, self._keep_alive):
                    nursery.start_soon(self._job, job, nursery.cancel_scope)
                task_status.started()
                await self._job(self._write, nursery.cancel_scope)
        finally:
            self._finish(self.close_reason or "cancelled")
            with trio.CancelScope(shield=True) as scope:
                scope.cancel()  # forcefully: flushing is what `_write` did before it ended
                await self._stream.aclose()

    async def _job(self, job: Callable[[], Awaitable[str]], scope: trio.CancelScope) -> None:
        """Runs one of the tasks; the first to end ends the connection, and tells why."""
        try:
            reason = await job()
        except YamuxError as error:
            self.close_reason = self.close_reason or str(error)
            self._say_goodbye()  # the writer sends the go-away that names the error, and ends
            return
        except RemoteError as error:
            reason = str(error)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            reason = str(error) or "the connection broke"
        if self.close_reason is None:
            self.close_reason = reason
        scope.cancel()

    def _finish(self, reason: str) -> None:
        self.close_reason = reason
        self._is_resting = False
        self.closed.set()
        for state in self.machine.abandon():
            if isinstance(state.owner, MuxedStream):
                state.owner.wake()
        for event in (self._accepting, self._slots, self._drained, *(event for _, event in self._pings.values())):
            event.set()

    def close_soon(self) -> None:
        """Says go-away, flushes for a moment what was sent, and ends the connection; `run` does. Idempotent."""
        if self._is_running and not self.closed.is_set():
            self.close_reason = self.close_reason or "closed here"
            if not self.machine.local_go_away:
                self.machine.go_away(GoAway.NORMAL)
            self._say_goodbye()

    async def aclose(self) -> None:
        """`close_soon`, and waits until it has ended."""
        if not self._is_running:
            self._finish("closed here")
            await self._stream.aclose()
        self.close_soon()
        await self.closed.wait()

    def _say_goodbye(self) -> None:
        self._writer_scope.deadline = trio.current_time() + config.YAMUX_GOODBYE_SECONDS
        self._work.set()
        self._slots.set()

    async def _read(self) -> str:
        machine = self.machine
        while True:
            data = await self._stream.receive_some()
            if not data:
                return "the peer closed the connection"
            self._last_heard = trio.current_time()
            self._heard += 1
            self._dispatch(machine.receive(data))
            while machine.control_backlog > config.YAMUX_CONTROL_BACKLOG:
                self._drained = trio.Event()
                self._work.set()
                await self._drained.wait()

    def _dispatch(self, events: Events) -> None:
        for state in events.incoming:
            if state.reset:
                continue
            if len(self._incoming) >= self.machine.limits.max_inbound_streams:  # opened and reset before we looked
                self._incoming = deque(stream for stream in self._incoming if not stream.is_reset)
            self._incoming.append(MuxedStream(self, state))
            self._accepting.set()
        for state in events.touched:
            if isinstance(state.owner, MuxedStream):
                state.owner.wake()
        for value in events.pongs:
            sent = self._pings.pop(value, None)
            if sent is not None:
                self._measured_at = self._last_heard
                self.round_trip = self._last_heard - sent[0]
                sent[1].set()
        if events.go_away:
            self._slots.set()
        if self.machine.has_output and (events.touched or events.incoming):
            self._work.set()  # what there is to answer goes along with what the streams' tasks are about to send
        else:
            self._changed()

    async def _write(self) -> str:
        machine, send_all = self.machine, self._stream.send_all
        with self._writer_scope:
            while True:
                data = self._take_output()
                if data or self._has_unsent:
                    self._has_unsent = False
                    await send_all(data)
                if not machine.control_backlog:
                    self._drained.set()
                if not data:
                    if machine.local_go_away:
                        break
                    self._work = trio.Event()
                    self._is_resting = self._send_now is not None
                    await self._work.wait()
                    self._is_resting = False
        return "closed here"

    def _take_output(self) -> bytes:
        parts, progressed = self.machine.take_output(config.YAMUX_BATCH_BYTES)
        for state in progressed:
            if isinstance(state.owner, MuxedStream):
                state.owner.written()
        if progressed and self.machine.can_open:
            self._slots.set()
        return b"".join(parts)

    def _send_what_is_ready(self) -> None:
        """In whichever task has made it so. Never raises: the writer meets what is wrong, and ends the connection."""
        assert self._send_now is not None
        data = self._take_output()
        if data and not self._send_now(data):
            self._has_unsent = True
            self._is_resting = False
        if self._has_unsent or self.machine.has_output:
            self._work.set()

    # --- keeping alive ---

    async def ping(self) -> float:
        """Round trip in seconds. Raises BrokenResourceError or ClosedResourceError when the connection ends."""
        if self.closed.is_set():
            await trio.lowlevel.checkpoint()
            raise self._ended()
        if len(self._pings) >= MAX_PINGS:
            started, answered = next(reversed(self._pings.values()))
        else:
            value, self._next_ping = self._next_ping, (self._next_ping + 1) & PING_MASK
            started, answered = trio.current_time(), trio.Event()
            self._pings[value] = (started, answered)
            self.machine.ping(value)
            self._work.set()
        await answered.wait()
        if self.closed.is_set() or self.round_trip is None:
            raise self._ended()
        return self.round_trip

    async def _keep_alive(self) -> str:
        """Pings a peer that has been silent for an interval (its own pings will do), so that one of two idle ends
        pings and not both; anything that arrives counts as life, as an answer may wait behind bulk data. A dead link
        is noticed at most interval + patience after the last sign of life."""
        asked_at, asked_after = 0.0, -1
        while True:
            now = trio.current_time()
            self.machine.expire(now)
            self._changed()
            if self._heard == asked_after:
                due = asked_at + self._patience()
                if now >= due:
                    return f"no sign of life for {self._patience():.3g} s after a ping"
            else:
                due = self._last_heard + self._ping_interval
                if self._last_heard == self._measured_at and self.round_trip is not None:
                    due -= self.round_trip  # nothing but an answer: pings keep their interval, one wake-up each
                if now >= due or now - self._measured_at >= RTT_MAX_AGE:
                    asked_at, asked_after = now, self._heard
                    self._send_ping()
                    due = now + min(self._ping_interval, self._ping_timeout)
            await trio.sleep_until(due)

    def _send_ping(self) -> None:
        value, self._next_ping = self._next_ping, (self._next_ping + 1) & PING_MASK
        if len(self._pings) < MAX_PINGS:
            self._pings[value] = (trio.current_time(), trio.Event())
        self.machine.ping(value)
        self._changed()

    def _patience(self) -> float:
        return patience(self._ping_timeout, self.round_trip, 1)
