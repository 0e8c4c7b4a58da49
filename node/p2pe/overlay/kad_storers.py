"""Where records lie: the servers closest to a record's location, found once and remembered, asked side by side."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
import trio

from p2pe import config
from p2pe.core.kademlia.few import Few
from p2pe.core.kademlia.keyspace import Node, location_key, location_of
from p2pe.core.records import Record, check_record
from p2pe.errors import LocalError, RemoteError, Unreachable
from p2pe.model import PeerId
from p2pe.overlay.kad_codec import KadMessage, Kind
from p2pe.overlay.kad_rpc import Place
from p2pe.ports import Clock

if TYPE_CHECKING:
    from p2pe.overlay.dht import Dht

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class StorersOf:
    """The storers of one location, and the lock that lets one lookup serve all who want them. Times are trio's."""

    lock: trio.Lock = field(default_factory=trio.Lock)
    nodes: tuple[Node, ...] = ()
    found_at: float = float("-inf")  # by a lookup
    stored_at: float = float("-inf")  # with all of `nodes`
    are_few: bool = False  # all servers there were: no lookup was made
    was_full: bool = False  # there were KAD_STORE_COUNT of them: the network isn't tiny


class Storers:
    """Of one Dht, which it asks by."""

    def __init__(self, dht: Dht, clock: Clock) -> None:
        self._dht = dht
        self._clock = clock
        self.few = Few()
        self._refused = 0  # publications in a row that servers answered and none took
        self._known: OrderedDict[bytes, StorersOf] = OrderedDict()  # by location key; at most KAD_STORER_CACHE

    def of(self, key: bytes) -> StorersOf:
        """What is remembered of a record key's storers. All slots of a public key share one entry. Raises LocalError
        for what isn't a record key."""
        try:
            location = location_key(key)
        except RemoteError as error:
            raise LocalError(str(error)) from None
        entry = self._known.setdefault(location, StorersOf())
        self._known.move_to_end(location)
        if len(self._known) > config.KAD_STORER_CACHE:
            self._known.popitem(last=False)
        return entry

    def remembered(self) -> Iterator[Node]:
        """Servers of all locations, some of them several times."""
        for entry in self._known.values():
            yield from entry.nodes

    async def find(self, entry: StorersOf, key: bytes, max_age: float, paths: int) -> bool:
        """Looks the storers up unless they were found within `max_age` seconds; whether it did, or somebody else
        while we waited. Raises Unreachable."""
        asked_at = trio.current_time()
        async with Place(entry.lock):
            if entry.found_at >= asked_at:
                return True
            if entry.found_at + max_age > asked_at and self._is_well_known(entry):
                return False
            if max_age and (few := self.few.nearest(location_of(location_key(key)), asked_at)):
                entry.nodes, entry.found_at = few, self.few.found_at
                entry.are_few, entry.was_full = True, False
                return True
            lookup = await self._dht.run_lookup(location_key(key), paths=paths)
            entry.nodes, entry.found_at, entry.are_few = lookup.storers(), trio.current_time(), False
            entry.was_full = len(entry.nodes) >= config.KAD_STORE_COUNT
            return True

    def is_doubtful(self, entry: StorersOf) -> bool:
        """Whether they are the few servers that there were, of whom one has failed to answer meanwhile."""
        return entry.are_few and self.few.found_at < entry.found_at

    def _is_well_known(self, entry: StorersOf) -> bool:
        """A network that was tiny when they were looked up may have grown since."""
        return len(entry.nodes) >= min(config.KAD_STORERS_LEAST, len(self._dht.table))

    @property
    def were_refusing(self) -> bool:
        """Whether of the servers asked last some answered and none took the record."""
        return self._refused > 0

    @property
    def are_refusing(self) -> bool:
        """Whether no server that answers takes our records, which are sound by our own clock: so by theirs they were
        made in the future or have expired."""
        return self._refused >= config.KAD_REFUSALS_TELL

    async def put(self, storers: Sequence[Node], key: bytes, record: bytes) -> set[PeerId]:
        """Who took it."""
        took: set[PeerId] = set()
        answered = 0

        async def put(node: Node) -> None:
            try:
                answer = await self._dht.ask(node, KadMessage(Kind.PUT_VALUE, key, record))
            except (Unreachable, RemoteError):
                return
            nonlocal answered
            answered += 1
            if answer.message.value == record:
                took.add(node.peer_id)

        async with trio.open_nursery() as nursery:
            for node in storers[1:]:
                nursery.start_soon(put, node)
            for node in storers[:1]:
                await put(node)
        if took:
            self._refused = 0
        elif answered:
            self._refused += 1
            if self._refused == config.KAD_REFUSALS_TELL:
                log.warning("directory servers refuse this node's records: is this machine's clock right?")
        return took

    async def get(self, storers: Sequence[Node], key: bytes) -> list[Record]:
        """Valid records of the storers and our own store, newest first. Ends early once KAD_QUORUM of them agree on the
        newest."""
        found: dict[bytes, Record] = {}
        votes: dict[bytes, int] = {}

        def consider(raw: bytes | None) -> None:
            if raw is None:
                return
            try:
                record = found.get(raw) or check_record(key, raw, self._clock.now())
            except RemoteError:
                return
            found[raw] = record
            votes[raw] = votes.get(raw, 0) + 1
            newest = max(found.values(), key=lambda r: (r.sequence, r.raw))
            if votes[newest.raw] >= config.KAD_QUORUM:
                nursery.cancel_scope.cancel()

        async def get(node: Node) -> None:
            try:
                answer = await self._dht.ask(node, KadMessage(Kind.GET_VALUE, key))
            except (Unreachable, RemoteError):
                return
            consider(answer.message.value)

        async with trio.open_nursery() as nursery:
            consider(self._dht.store.get(key, self._clock.now()))
            for node in storers[1:]:
                nursery.start_soon(get, node)
            for node in storers[:1]:
                await get(node)
        return sorted(found.values(), key=lambda record: (record.sequence, record.raw), reverse=True)
