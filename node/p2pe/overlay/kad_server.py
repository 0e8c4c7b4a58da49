"""The serving side: answers FIND_NODE, GET_VALUE, PUT_VALUE and PING, and nothing else.

A stream carries any number of requests, one after the other. Refusals: a malformed message or one too many resets the
stream; a record that isn't accepted is answered without echoing it, which every implementation reads as "not stored".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio

from p2pe import config
from p2pe.core.addresses import is_private, subnet_of
from p2pe.core.kademlia.keyspace import RECORD_KEY_BYTES, location_of
from p2pe.core.kademlia.rates import RateLimiter
from p2pe.core.kademlia.record_store import RecordStore
from p2pe.core.kademlia.routing_table import RoutingTable
from p2pe.core.varint import DelimitedReader, delimit
from p2pe.errors import RemoteError
from p2pe.model import Address, PeerId, PeerInfo
from p2pe.overlay.identify import shown_to
from p2pe.overlay.kad_codec import KadMessage, Kind, decode, encode
from p2pe.ports import Connection, Stream, World

log = structlog.get_logger(__name__)

_MAX_WAIT = 2.0  # seconds a request may be held back by its peer's rate before it is refused
_MAX_KEYS = 8_192  # peers whose rates are remembered: twice the connections of a bootstrap node


@dataclass(slots=True)
class Served:
    """Plain counters."""

    find_node: int = 0
    get_value: int = 0
    put_value: int = 0
    ping: int = 0
    stored: int = 0
    refused_records: int = 0
    refused_rate: int = 0
    malformed: int = 0


class KadServer:
    """`handle` is registered under KAD_PROTOCOL while the node serves. `on_request` hears who asked, for dial-backs."""

    def __init__(
        self, world: World, table: RoutingTable, store: RecordStore, on_request: Callable[[Connection], None]
    ) -> None:
        self._world = world
        self._table = table
        self._store = store
        self._on_request = on_request
        self._peer_rates = RateLimiter(config.KAD_REQUESTS_PER_SECOND, 2 * config.KAD_REQUESTS_PER_SECOND, _MAX_KEYS)
        # Peer ids are free, networks aren't: all peers of one share four peers' worth.
        self._net_rates = RateLimiter(4 * config.KAD_REQUESTS_PER_SECOND, 8 * config.KAD_REQUESTS_PER_SECOND, _MAX_KEYS)
        self._open: dict[PeerId, int] = {}
        self._waiting: dict[int, trio.CancelScope] = {}  # of streams between two requests; bounded as `_open` is
        self._next_stream = 0
        self._is_draining = False
        self.served = Served()
        self.own_addresses: Callable[[], tuple[Address, ...]] = tuple

    async def handle(self, stream: Stream) -> None:
        """Serves one stream to its end."""
        peer = stream.remote_peer
        if self._open.get(peer, 0) >= config.KAD_SERVER_STREAMS:
            self.served.refused_rate += 1
            stream.reset()
            return
        self._open[peer] = self._open.get(peer, 0) + 1
        try:
            await self._serve(stream)
        except RemoteError as error:
            self.served.malformed += 1
            log.debug("kad stream dropped", reason=str(error))
            stream.reset()
        finally:
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]

    def drain(self) -> None:
        """Ends streams that wait for their next request; one that is being answered ends after its answer."""
        self._is_draining = True
        for scope in self._waiting.values():
            scope.cancel()

    async def _next_request(self, stream: Stream, reader: DelimitedReader) -> bytes | None:
        """None at the end of the stream, and when nothing comes for KAD_SERVER_STREAM_SECONDS."""
        number, self._next_stream = self._next_stream, self._next_stream + 1
        with trio.move_on_after(config.KAD_SERVER_STREAM_SECONDS) as patience:
            self._waiting[number] = patience
            try:
                while (raw := reader.next_message()) is None:
                    piece = await stream.receive_some(config.KAD_MAX_MESSAGE)
                    if not piece:
                        return None
                    reader.receive(piece)
                return raw
            finally:
                del self._waiting[number]
        return None

    async def _serve(self, stream: Stream) -> None:
        reader = DelimitedReader(config.KAD_MAX_MESSAGE)
        while not self._is_draining:
            raw = await self._next_request(stream, reader)
            if raw is None:
                return
            request = decode(raw)
            if not await self._within_rate(stream.connection):
                self.served.refused_rate += 1
                stream.reset()
                return
            reply = delimit(encode(self.answer(request, stream.connection)))
            if not stream.send_now(reply):
                with trio.fail_after(config.KAD_SERVER_STREAM_SECONDS):
                    await stream.send_all(reply)
            self._on_request(stream.connection)

    async def _within_rate(self, connection: Connection) -> bool:
        """Holds the request back until its peer and network are within their rates; False when that takes too long."""
        now = trio.current_time()
        waits = [self._peer_rates.reserve(connection.remote_peer, now, _MAX_WAIT)]
        remote = connection.remote_address
        subnet = None if is_private(remote) else subnet_of(remote)
        if subnet is not None:
            waits.append(self._net_rates.reserve(subnet, now, _MAX_WAIT))
        longest = 0.0
        for wait in waits:
            if wait is None:
                return False
            longest = max(longest, wait)
        if longest > 0:
            await trio.sleep(longest)
        return True

    def answer(self, request: KadMessage, connection: Connection) -> KadMessage:
        """The reply to one request. Raises RemoteError for one that makes no sense."""
        match request.kind:
            case Kind.PING:
                self.served.ping += 1
                return KadMessage(Kind.PING)
            case Kind.FIND_NODE:
                self.served.find_node += 1
                return KadMessage(Kind.FIND_NODE, request.key, closer=self._closest(request.key, connection))
            case Kind.GET_VALUE:
                self.served.get_value += 1
                return self._get(request, connection)
            case Kind.PUT_VALUE:
                self.served.put_value += 1
                return self._put(request, connection)

    def _get(self, request: KadMessage, connection: Connection) -> KadMessage:
        value = None
        if len(request.key) == RECORD_KEY_BYTES:
            value = self._store.get(request.key, self._world.clock.now())
        closer = self._closest(request.key, connection) if value is None else ()
        return KadMessage(Kind.GET_VALUE, request.key, value, closer)

    def _put(self, request: KadMessage, connection: Connection) -> KadMessage:
        if request.value is None:
            raise RemoteError("a PUT_VALUE without record")
        remote = connection.remote_address
        network = None if is_private(remote) else subnet_of(remote)
        try:
            self._store.put(
                request.key,
                request.value,
                source=connection.remote_peer,
                network=network,
                now=self._world.clock.now(),
            )
        except RemoteError as error:
            self.served.refused_records += 1
            log.debug("record refused", reason=str(error))
            return KadMessage(Kind.PUT_VALUE, request.key)
        self.served.stored += 1
        return KadMessage(Kind.PUT_VALUE, request.key, request.value)

    def _closest(self, key: bytes, connection: Connection) -> tuple[PeerInfo, ...]:
        if not key:
            raise RemoteError("a request without key")
        remote = connection.remote_address
        near = []
        if key == bytes(self._table.local.peer_id):
            near.append(PeerInfo(self._table.local.peer_id, shown_to(remote, self.own_addresses())))
        for node in self._table.closest(location_of(key), config.KAD_K, exclude=connection.remote_peer):
            addresses = shown_to(remote, node.addresses)
            if addresses:
                near.append(PeerInfo(node.peer_id, addresses))
        return tuple(near[: config.KAD_K])
