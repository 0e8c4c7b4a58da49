"""One secured, multiplexed connection: its streams, its ping watcher, its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
import trio

from p2pe.core.patience import patience
from p2pe.core.yamux_stream import YamuxLimits
from p2pe.errors import RemoteError, Unreachable
from p2pe.model import Address, PathKind, PeerId
from p2pe.overlay import multistream
from p2pe.overlay.identify import Identity
from p2pe.overlay.limits import HostLimits, HostMetrics
from p2pe.overlay.streams import MuxedStream, NegotiatedStream, run_guarded
from p2pe.overlay.upgrade import Upgraded
from p2pe.overlay.yamux import YamuxConnection
from p2pe.ports import StreamHandler

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

log = structlog.get_logger(__name__)

RANK: Final = {PathKind.LAN: 0, PathKind.DIRECT: 1, PathKind.PUNCHED: 1, PathKind.RELAYED: 2}  # lower is better
STREAM_ERRORS: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


class NotSpoken(Unreachable):
    """The peer is there, and has said that it doesn't speak the protocol."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all connections of a host share."""

    handlers: Mapping[str, StreamHandler]
    limits: HostLimits
    metrics: HostMetrics


class HostConnection:
    """A ports.Connection. Lives while `run` runs."""

    def __init__(
        self, number: int, upgraded: Upgraded, path: PathKind, local: Address, remote: Address, shared: Shared
    ) -> None:
        """`number` grows with creation: the tie-break between connections that are otherwise equal."""
        self.number = number
        self.is_dialer = upgraded.is_dialer
        self.local_address = local
        self._remote_peer = upgraded.remote_peer
        self._remote_address = remote
        self._path = path
        self._shared = shared
        limit = shared.limits.max_streams_per_connection
        self._muxer = YamuxConnection(
            upgraded.stream,
            is_dialer=upgraded.is_dialer,
            limits=YamuxLimits(max_inbound_streams=limit, max_outbound_streams=limit),
            ping_interval=shared.limits.ping_interval,
            ping_timeout=shared.limits.ping_timeout,
            round_trip=upgraded.round_trip,
        )
        self.identity: Identity | None = None  # filled by Host.identify
        self.identifying = trio.Lock()  # js-libp2p serves one identify stream a connection and resets a second
        self._streams = 0
        self._opening = 0
        self._idle_since = trio.current_time()
        self._protections: dict[str, None] = {}
        self._is_ending = False
        self.ended = trio.Event()  # set when everything of this connection is gone

    @property
    def remote_peer(self) -> PeerId:
        return self._remote_peer

    @property
    def remote_address(self) -> Address:
        return self._remote_address

    @property
    def path(self) -> PathKind:
        return self._path

    @property
    def round_trip(self) -> float | None:
        return self._muxer.round_trip

    def patience(self, least: float, trips: int) -> float:
        """Seconds to wait for what takes so many round trips: core/patience.py."""
        return patience(least, self.round_trip, trips)

    @property
    def is_alive(self) -> bool:
        return not (self._is_ending or self._muxer.closed.is_set())

    @property
    def takes_streams(self) -> bool:
        """Whether new streams can be opened. Not after either end has announced its end (yamux go-away), though those
        that are open may go on."""
        return self.is_alive and not self._muxer.machine.is_closing

    @property
    def stream_count(self) -> int:
        """Streams with a protocol, both directions, not yet closed here."""
        return self._streams

    def __repr__(self) -> str:
        return f"<connection {self.number} to {self._remote_peer} {self._path} {self._remote_address}>"

    async def is_answering(self, seconds: float) -> bool:
        """Whether the peer answers a ping within so long."""
        with trio.move_on_after(seconds):
            try:
                await self._muxer.ping()
                return True
            except STREAM_ERRORS:
                return False
        return False

    # --- streams ---

    async def open_stream(self, protocol: str, first: bytes = b"") -> NegotiatedStream:
        """See ports.Connection. The time-out is HostLimits.negotiation_timeout, or what a slow line needs. `first` goes
        with the proposal: who doesn't speak the protocol throws it away."""
        if not self.is_alive:
            raise Unreachable(f"the connection to {self._remote_peer} has ended")
        muxed: MuxedStream | None = None
        self._opening += 1
        try:
            with trio.fail_after(self.patience(self._shared.limits.negotiation_timeout, 1)):
                muxed = await self._muxer.open_stream()
                reader = multistream.LineReader(muxed.receive_some)
                await multistream.propose(reader, muxed.send, [protocol], trailing=first)
                self._shared.metrics.streams_opened += 1
                stream = NegotiatedStream(self, muxed, protocol, reader.rest)
                muxed = None
                return stream
        except multistream.NotSupported:
            raise NotSpoken(f"{self._remote_peer} doesn't speak {protocol}") from None
        except trio.TooSlowError:
            raise Unreachable(f"{self._remote_peer} didn't answer when asked for {protocol}") from None
        except RemoteError as error:
            raise Unreachable(f"{self._remote_peer}: {error}") from error
        except STREAM_ERRORS:
            if self.is_alive:
                raise Unreachable(f"{self._remote_peer} refused a stream of {protocol}") from None
            raise Unreachable(f"the connection to {self._remote_peer} ended while opening {protocol}") from None
        finally:
            self._opening -= 1
            if muxed is not None:
                muxed.reset()

    def stream_opened(self) -> None:
        self._streams += 1

    def stream_closed(self) -> None:
        self._streams -= 1
        if not self._streams:
            self._idle_since = trio.current_time()

    # --- life ---

    def protect(self, tag: str) -> None:
        """Keeps the connection open though it be idle, until `unprotect(tag)`."""
        self._protections[tag] = None

    def unprotect(self, tag: str) -> None:
        self._protections.pop(tag, None)
        self._idle_since = trio.current_time()

    def close_soon(self) -> None:
        """Ends the connection without waiting for it; what was sent is still flushed, for a moment."""
        self._is_ending = True
        self._muxer.close_soon()

    def close_if_unused(self) -> None:
        """Ends the connection if nobody uses or protects it: for who dialled to ask one thing."""
        if not (self._streams or self._opening or self._protections):
            self.close_soon()

    async def aclose(self) -> None:
        """Ends the connection and waits until its tasks are gone."""
        self.close_soon()
        await self.ended.wait()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves the connection until it ends, for whatever reason; raises nothing but cancellation."""
        try:
            async with trio.open_nursery() as nursery:
                self._muxer.begin()
                nursery.start_soon(self._muxer.run)
                nursery.start_soon(self._close_when_idle)
                if self._is_ending:  # before it began
                    self._muxer.close_soon()
                task_status.started()
                await self._accept_streams(nursery)
                await self._muxer.closed.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._is_ending = True
            self.ended.set()
            self._shared.metrics.connections_closed += 1
            log.debug("connection ended", number=self.number, path=str(self._path), reason=self._muxer.close_reason)

    async def _accept_streams(self, nursery: trio.Nursery) -> None:
        while True:
            try:
                muxed = await self._muxer.accept_stream()
            except STREAM_ERRORS:
                return
            nursery.start_soon(self._serve, muxed)

    async def _serve(self, muxed: MuxedStream) -> None:
        """One stream of the peer's, from negotiation to the end of its handler."""
        shared = self._shared
        reader = multistream.LineReader(muxed.receive_some)
        try:
            with trio.fail_after(self.patience(shared.limits.negotiation_timeout, 1)):
                protocol = await multistream.answer(reader, muxed.send, shared.handlers)
            handler = shared.handlers[protocol]
        except (RemoteError, trio.TooSlowError, KeyError, *STREAM_ERRORS):
            shared.metrics.negotiations_failed += 1
            muxed.reset()
            return
        except trio.Cancelled:
            muxed.reset()
            raise
        shared.metrics.streams_accepted += 1
        await run_guarded(handler, NegotiatedStream(self, muxed, protocol, reader.rest), shared.metrics)

    async def _close_when_idle(self) -> None:
        limit = self._shared.limits.idle_seconds
        while True:
            idle = self._idle_seconds()
            if idle >= limit:
                self.close_soon()
                return
            await trio.sleep(limit - idle)

    def _idle_seconds(self) -> float:
        if self._streams or self._protections:
            return 0.0
        return trio.current_time() - self._idle_since
