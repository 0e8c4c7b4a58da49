"""Streams with a protocol agreed on, and the guard around their handlers."""

from __future__ import annotations

import typing

import structlog
import trio

from p2pe.errors import RemoteError
from p2pe.model import PeerId
from p2pe.ports import StreamHandler

if typing.TYPE_CHECKING:
    from p2pe.overlay.connection import HostConnection
    from p2pe.overlay.limits import HostMetrics

log = structlog.get_logger(__name__)


class MuxedStream(typing.Protocol):
    """A stream of the muxer, before any protocol is agreed on. Errors as in ports.Stream."""

    async def send(self, data: bytes | bytearray | memoryview) -> None: ...
    def send_now(self, data: bytes) -> bool: ...
    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...
    async def send_eof(self) -> None: ...
    async def aclose(self) -> None: ...
    def reset(self) -> None: ...


class NegotiatedStream:
    """A ports.Stream: a muxed stream, what was read beyond its negotiation, and where it belongs."""

    __slots__ = ("_connection", "_is_open", "_muxed", "_unread", "protocol")

    def __init__(
        self, connection: HostConnection, muxed: MuxedStream, protocol: str, unread: bytes | bytearray
    ) -> None:
        self._connection = connection
        self._muxed = muxed
        self._unread = bytes(unread)
        self._is_open = True
        self.protocol = protocol
        connection.stream_opened()

    @property
    def remote_peer(self) -> PeerId:
        return self._connection.remote_peer

    @property
    def connection(self) -> HostConnection:
        return self._connection

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._muxed.send(data)

    def send_now(self, data: bytes) -> int:
        return len(data) if self._muxed.send_now(data) else 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._unread and self._is_open:
            await trio.lowlevel.checkpoint()
            size = len(self._unread) if max_bytes is None else max_bytes
            piece, self._unread = self._unread[:size], self._unread[size:]
            return piece
        return await self._muxed.receive_some(max_bytes)

    async def send_eof(self) -> None:
        await self._muxed.send_eof()

    async def aclose(self) -> None:
        self._over()
        try:
            await self._muxed.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    def reset(self) -> None:
        self._over()
        self._muxed.reset()

    def _over(self) -> None:
        self._unread = b""
        if self._is_open:
            self._is_open = False
            self._connection.stream_closed()


async def run_guarded(handler: StreamHandler, stream: NegotiatedStream, metrics: HostMetrics) -> None:
    """Runs a handler to its end: closes the stream after it, or resets it and counts when the handler raised.

    No exception of a handler leaves here, except cancellation and what isn't an Exception at all: in py-libp2p one
    ends the whole program (libp2p-facts, 17).
    """
    try:
        await handler(stream)
    except Exception as error:  # noqa: BLE001 - the guard
        _failed(error, stream, metrics)
    except BaseExceptionGroup as group:
        ours, others = group.split(Exception)
        if ours is not None:
            _failed(ours, stream, metrics)
        if others is not None:
            stream.reset()
            raise others from None
    except BaseException:
        stream.reset()
        raise
    else:
        await stream.aclose()


def _failed(error: Exception, stream: NegotiatedStream, metrics: HostMetrics) -> None:
    stream.reset()
    if _is_ordinary(error):
        log.debug("stream ended", protocol=stream.protocol, kind=type(error).__name__)
        return
    metrics.handler_errors += 1
    # The exception's text may quote what a peer or a person wrote: its kind and place have to do.
    log.warning("stream handler failed", protocol=stream.protocol, kind=type(error).__name__, where=_place(error))


def _is_ordinary(error: BaseException) -> bool:
    """Whether it only says that the stream or the connection went away, or that the peer broke a protocol: a stranger
    who sends rubbish shouldn't fill the log."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_ordinary(inner) for inner in error.exceptions)
    return isinstance(error, (trio.BrokenResourceError, trio.ClosedResourceError, RemoteError))


def _place(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown"
    code = trace.tb_frame.f_code
    return f"{code.co_qualname}:{trace.tb_lineno}"
