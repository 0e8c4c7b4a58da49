"""Our requests to DHT servers: one stream a server, reused while it is warm; everything has a time-out."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import trio

from p2pe import config
from p2pe.core.kademlia.timeouts import Timeouts
from p2pe.core.varint import DelimitedReader, delimit
from p2pe.errors import RemoteError, Unreachable
from p2pe.model import PeerId, PeerInfo
from p2pe.overlay.connection import STREAM_ERRORS, HostConnection
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.kad_codec import KadMessage, decode, encode
from p2pe.overlay.streams import NegotiatedStream


@dataclass(slots=True)
class Traffic:
    """Plain counters. Bytes are those of kad-dht messages, without Noise, muxer and TCP."""

    requests: int = 0
    failures: int = 0
    bytes_out: int = 0
    bytes_in: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, and the connection it came by."""

    message: KadMessage
    connection: HostConnection


class Place:
    """A place of a limiter, or a lock: taken at once when free. They themselves would have the task wait its turn."""

    __slots__ = ("_limiter",)

    def __init__(self, limiter: trio.CapacityLimiter | trio.Lock) -> None:
        self._limiter = limiter

    async def __aenter__(self) -> None:
        try:
            self._limiter.acquire_nowait()
        except trio.WouldBlock:
            await self._limiter.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._limiter.release()


@dataclass(slots=True)
class _Lane:
    """What goes to one server."""

    places: trio.CapacityLimiter
    idle: list[NegotiatedStream]
    users: int = 0
    used_at: float = 0.0


class KadClient:
    """Sends requests through `host`. Safe to call from many tasks; KAD_MAX_RPC run at once, KAD_RPC_PER_PEER of them
    to one server."""

    def __init__(self, host: OverlayHost, timeouts: Timeouts) -> None:
        self._host = host
        self._timeouts = timeouts
        self._lanes: OrderedDict[PeerId, _Lane] = OrderedDict()  # least recently used first
        self._places = trio.CapacityLimiter(config.KAD_MAX_RPC)
        self.traffic = Traffic()
        self.idle_seconds = config.KAD_STREAM_IDLE  # a server's are longer
        self.lingers = False  # whether dials go on when a lookup ended without them: a server will need them again

    async def request(self, peer: PeerInfo, message: KadMessage) -> Answer:
        """Asks a peer, connecting if need be. Raises Unreachable (also when `timeouts.limit` is over) or RemoteError.
        Waiting for one's turn isn't counted in the time-out. Connecting goes on after it: the next request finds the
        connection, or waits for the rest."""
        self.traffic.requests += 1
        limit = self._timeouts.limit
        lane = self._lanes.setdefault(peer.peer_id, _Lane(trio.CapacityLimiter(config.KAD_RPC_PER_PEER), []))
        self._lanes.move_to_end(peer.peer_id)
        lane.users += 1
        try:
            async with Place(lane.places), Place(self._places):
                with trio.move_on_after(limit) as patience:
                    return await self._request(peer, message, lane, patience)
                raise Unreachable(f"{peer.peer_id} didn't answer within {limit:.3g} s")
        except (Unreachable, RemoteError):
            self.traffic.failures += 1
            raise
        finally:
            lane.users -= 1
            lane.used_at = trio.current_time()

    async def request_over(self, connection: HostConnection, message: KadMessage) -> Answer:
        """Asks over this very connection. Raises Unreachable or RemoteError."""
        try:
            with trio.fail_after(connection.patience(config.KAD_QUERY_TIMEOUT, 1)):
                return await self._request_over(connection, message, None)
        except trio.TooSlowError:
            raise Unreachable(f"{connection.remote_peer} didn't answer in time") from None

    def sweep(self) -> float:
        """Closes streams that nobody used for `idle_seconds`, and all beyond KAD_MAX_IDLE_STREAMS servers; and the
        connections that we dialled for them, if nothing else runs there: kept idle, one costs
        more in pings than it did to make. Returns the seconds until the next stream is due, 0 when there is none."""
        horizon = trio.current_time() - self.idle_seconds
        excess = len(self._lanes) - config.KAD_MAX_IDLE_STREAMS
        for peer_id, lane in list(self._lanes.items()):
            if lane.users or (lane.used_at > horizon and excess <= 0):
                continue
            excess -= 1
            del self._lanes[peer_id]
            for stream in lane.idle:
                stream.reset()
                if stream.connection.is_dialer:
                    stream.connection.close_if_unused()
        unused = [lane.used_at for lane in self._lanes.values() if not lane.users]
        return max(0.05, min(unused) - horizon) if unused else 0.0

    def drop_streams(self) -> None:
        """Closes all idle streams now."""
        for lane in self._lanes.values():
            while lane.idle:
                lane.idle.pop().reset()

    async def _request(self, peer: PeerInfo, message: KadMessage, lane: _Lane, patience: trio.CancelScope) -> Answer:
        while lane.idle:
            kept = lane.idle.pop()
            if not kept.connection.is_alive:
                kept.reset()
                continue
            try:
                return await self._exchange(kept, message, lane)
            except STREAM_ERRORS:
                break  # the server closed it meanwhile: a new one, once
        known = set(self._host.connections(peer.peer_id))
        for tries_left in range(config.KAD_REQUEST_TRIES - 1, -1, -1):
            connection = await self._host.connect(peer, linger=lambda: self.lingers or patience.cancel_called)
            is_fresh = connection.is_dialer and connection not in known
            try:
                return await self._request_over(connection, message, lane)
            except Unreachable:
                if is_fresh or not tries_left:
                    raise
                # The other side was just ending that connection, as idle ones end.
        raise AssertionError("the last try returns or raises")

    async def _request_over(self, connection: HostConnection, message: KadMessage, lane: _Lane | None) -> Answer:
        """Over a stream of its own, kept in `lane` if all goes well. The request goes with the proposal of the
        protocol: a round trip less. Raises Unreachable or RemoteError."""
        request = delimit(encode(message))
        stream = await connection.open_stream(config.KAD_PROTOCOL, request)
        try:
            return await self._reply(stream, message, len(request), lane)
        except STREAM_ERRORS:
            raise Unreachable(f"{connection.remote_peer} refused a request") from None

    async def _exchange(self, stream: NegotiatedStream, message: KadMessage, lane: _Lane | None) -> Answer:
        """One request and its reply. The stream is kept in `lane` if all went well, else reset."""
        request = delimit(encode(message))
        is_sent = False
        try:
            await stream.send_all(request)
            is_sent = True
        finally:
            if not is_sent:
                stream.reset()
        return await self._reply(stream, message, len(request), lane)

    async def _reply(self, stream: NegotiatedStream, message: KadMessage, sent: int, lane: _Lane | None) -> Answer:
        self.traffic.bytes_out += sent
        keep = False
        try:
            reply = decode(await self._receive(stream))
            if reply.kind is not message.kind:
                raise RemoteError("a reply to another request")
            keep = lane is not None
        finally:
            if not keep:
                stream.reset()
        if lane is not None:
            lane.idle.append(stream)
            self.sweep()
        return Answer(reply, stream.connection)

    async def _receive(self, stream: NegotiatedStream) -> bytes:
        reader = DelimitedReader(config.KAD_MAX_MESSAGE)
        while (message := reader.next_message()) is None:
            piece = await stream.receive_some(config.KAD_MAX_MESSAGE)
            if not piece:
                raise trio.BrokenResourceError("the stream ended within a reply")
            self.traffic.bytes_in += len(piece)
            reader.receive(piece)
        if not reader.is_empty:
            raise RemoteError("more than one reply to a request")
        return message
