"""One yamux stream as tasks use it. See overlay/yamux.py for the connection that drives it."""

from __future__ import annotations

import typing

import trio

from p2pe import config
from p2pe.core.yamux_stream import StreamState

if typing.TYPE_CHECKING:
    from p2pe.overlay.yamux import YamuxConnection

_CALL_COSTS: typing.Final = 4 * config.KIB  # a write's own work, in bytes: sixteen small ones are a full buffer


class MuxedStream(trio.abc.HalfCloseableStream):
    """One stream: a trio HalfCloseableStream with `reset`. Errors as in ports.Stream.

    One task may send and one receive at a time (BusyResourceError otherwise). A `send_all` that is cancelled half-way
    leaves the stream fit only for closing, which then resets it: the other side must not take a torso for the whole.
    """

    def __init__(self, connection: YamuxConnection, state: StreamState) -> None:
        self.connection = connection
        self.state = state
        state.owner = self
        self._is_closed = False
        self._is_torn = False
        self._is_sending = False
        self._unyielded = 0  # what `send` has cost since it last let others run, in bytes
        self._reader: trio.lowlevel.Task | None = None  # that waits for something to read
        self._is_receiving = False
        self._writable: trio.Event | None = None

    @property
    def id(self) -> int:
        """The yamux stream id; odd ones were opened by the connection's dialer."""
        return self.state.id

    @property
    def is_reset(self) -> bool:
        return self.state.reset

    def __repr__(self) -> str:
        return f"<yamux stream {self.state.id}>"

    # --- sending ---

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with _Sending(self):
            await trio.lowlevel.checkpoint_if_cancelled()
            self._check_sending()
            state = self.state
            if len(data) + state.pending_bytes <= config.YAMUX_SEND_BUFFER:
                self.connection.queue_write(state, bytes(data))
                await trio.lowlevel.cancel_shielded_checkpoint()
                return
            self.connection.queue_write(state, data if isinstance(data, bytes) else memoryview(data).cast("B"))
            # Bytes may stay queued up to the bound; a buffer that its owner may change must be taken whole.
            allowed = config.YAMUX_SEND_BUFFER if isinstance(data, bytes) else 0
            try:
                await self._wait_pending(allowed)
            except trio.Cancelled:
                self._is_torn = state.pending_bytes > 0
                state.drop_pending()
                raise
            self._check_sending()

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """As `send_all`, but lets other tasks run now and then instead of each time."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._unyielded += len(data) + _CALL_COSTS
        if self._unyielded > config.YAMUX_SEND_BUFFER:
            self._unyielded = 0
            await trio.lowlevel.cancel_shielded_checkpoint()
        if not self.send_now(bytes(data)):
            self._unyielded = 0
            await self.send_all(data)

    def send_now(self, data: bytes) -> bool:
        """Sends if that needs no waiting; else does nothing and returns False, as when `send_all` would raise."""
        state = self.state
        if self._is_sending or self._is_closed or self._is_torn or not state.is_writable:
            return False
        if len(data) + state.pending_bytes > config.YAMUX_SEND_BUFFER:
            return False
        return self.connection.write_now(state, data)

    async def wait_send_all_might_not_block(self) -> None:
        with _Sending(self):
            await trio.lowlevel.checkpoint()
            self._check_sending()
            await self._wait_pending(config.YAMUX_SEND_BUFFER - 1)
            self._check_sending()

    async def _wait_pending(self, allowed: int) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        state = self.state
        if state.pending_bytes <= allowed:
            await trio.lowlevel.cancel_shielded_checkpoint()
        while state.pending_bytes > allowed and not (self._is_closed or state.reset):
            self._writable = trio.Event()
            await self._writable.wait()

    def _check_sending(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("this stream was closed here")
        if self.state.reset or self._is_torn:
            raise trio.BrokenResourceError(self.connection.why(self.state))
        if self.state.fin_wanted:
            raise trio.ClosedResourceError("this stream's sending side was closed here")

    async def send_eof(self) -> None:
        with _Sending(self):
            await trio.lowlevel.checkpoint()
            if self._is_closed:
                raise trio.ClosedResourceError("this stream was closed here")
            if self._is_torn:
                self.reset()
            else:
                self.connection.queue_finish(self.state)

    # --- receiving ---

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None:
            if not isinstance(max_bytes, int):
                raise TypeError("max_bytes must be an integer or None")
            if max_bytes < 1:
                raise ValueError("max_bytes must be at least 1")
        if self._is_receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        await trio.lowlevel.checkpoint_if_cancelled()
        state = self.state
        must_yield = True
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError("this stream was closed here")
            if state.buffered or state.remote_fin:
                if must_yield:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    must_yield = False
                    continue
                return self.connection.read(state, max_bytes)
            if state.reset:
                raise trio.BrokenResourceError(self.connection.why(state))
            must_yield = False
            self._is_receiving = True
            try:
                self._reader = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort_reading)
            finally:
                self._is_receiving = False

    def _abort_reading(self, _: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    # --- ending ---

    async def aclose(self) -> None:
        """Closes both directions; what was sent still goes out. Doesn't wait for the other side, never raises."""
        self._close()
        await trio.lowlevel.checkpoint()

    def _close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            if self._is_torn:
                self.connection.queue_reset(self.state)
            self.connection.queue_close(self.state)
            self.wake()

    def reset(self) -> None:
        if not self._is_closed or self.state.id in self.connection.machine.streams:
            self._is_closed = True
            self.connection.queue_reset(self.state)
            self.connection.queue_close(self.state)
            self.wake()

    def wake(self) -> None:
        """Has waiting calls look at the state again."""
        reader, self._reader = self._reader, None
        if reader is not None:
            trio.lowlevel.reschedule(reader)
        self.written()

    def written(self) -> None:
        """Has waiting writers look at the state again."""
        if self._writable is not None:
            self._writable.set()


class _Sending:
    """One sender at a time. A class: a generator-based context manager costs as much as the write itself."""

    __slots__ = ("_stream",)

    def __init__(self, stream: MuxedStream) -> None:
        self._stream = stream

    def __enter__(self) -> None:
        if self._stream._is_sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._stream._is_sending = True

    def __exit__(self, *_: object) -> None:
        self._stream._is_sending = False
