"""A virtual overlay: servers that come and go, hostile ones, and lookups that run on the node's own core."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import count
from operator import attrgetter

from p2pe.config import (
    KAD_BUCKET_ENOUGH,
    KAD_DISJOINT_PATHS,
    KAD_K,
    KAD_QUERY_TIMEOUT,
    KAD_STORE_COUNT,
    KAD_STREAM_IDLE,
    MAX_RECORD_TTL,
)
from p2pe.core.kademlia.keyspace import LOCATION_BITS, Node, key_in_bucket, location_key, location_of
from p2pe.core.kademlia.lookup import Lookup
from p2pe.core.kademlia.record_store import RecordStore, Validator
from p2pe.core.kademlia.routing_table import RoutingTable
from p2pe.errors import RemoteError
from p2pe.model import Millis, PeerId

from p2pe_sim.dht.heap import Heap
from p2pe_sim.dht.member import Member, Seen, accept

_LOCATION = attrgetter("location")
START = 1_800_000_000_000  # Unix milliseconds at virtual time 0
# Both directions, IP and TCP headers included, measured in a network namespace of its own (lo's counters less 14 B a
# packet): connect and end 1,370 B, PUT_VALUE with its echo 1,580 B.
FIND_REQUEST_BYTES = 290
PEER_BYTES = 58  # one entry of `closer_peers` with one IPv4 address
RECORD_BYTES = 790  # a PUT_VALUE, or the reply to GET_VALUE
GET_REQUEST_BYTES = 120
CONNECT_BYTES = 1_370  # TCP, Noise, muxer, protocol negotiation, and the end
CONNECTION_SECONDS = KAD_STREAM_IDLE
SYN_BYTES = 180  # to the dead: three attempts within KAD_QUERY_TIMEOUT


class Network:
    """All members, and the rules by which they reach each other."""

    def __init__(self, seed: int, paths: int = KAD_DISJOINT_PATHS, validate: Validator = accept) -> None:
        self.heap = Heap()
        self.random = random.Random(seed)
        self.paths = paths
        self.validate = validate
        self.members: dict[PeerId, Member] = {}
        self.servers: list[Member] = []  # alive ones, in no order
        self._places: dict[PeerId, int] = {}
        self.sybils: list[Node] = []
        self._fellows: dict[int, list[Node]] = {}  # target -> Sybils nearest to it
        self._ids = count()
        self.lookups = 0

    # --- membership ---

    def add(
        self, *, server: bool = True, sybil: bool = False, location: int | None = None, network: bytes | None = None
    ) -> Member:
        peer_id = PeerId(b"\x00\x24" + b"\x08\x01\x12\x20" + self.random.randbytes(32))
        groups = (network if network is not None else self.random.randbytes(3),)
        node = Node(peer_id, location_of(peer_id) if location is None else location, (), groups)
        member = Member(node, server, sybil, self.random.random(), self.random.random(), RoutingTable(node))
        self.members[peer_id] = member
        if server:
            self._places[peer_id] = len(self.servers)
            self.servers.append(member)
        if sybil:
            self.sybils.append(node)
            self._fellows.clear()
        return member

    def remove(self, member: Member) -> None:
        """It dies silently."""
        member.alive = False
        del self.members[member.node.peer_id]
        place = self._places.pop(member.node.peer_id)
        last = self.servers.pop()
        if last is not member:
            self.servers[place] = last
            self._places[last.node.peer_id] = place
        if member.is_sybil:
            self.sybils.remove(member.node)
            self._fellows.clear()

    def join(self, member: Member, seeds: Sequence[Member], done: Callable[[], None] = lambda: None) -> None:
        """Asks a seed, then looks itself up: what overlay/kad_upkeep.py does."""
        for seed in seeds:
            if seed.alive:
                member.table.add(seed.node, self.heap.now)

        def fill(bucket: int) -> None:
            """The next thin one from `bucket` on."""
            thin = [each for each in member.table.thin_buckets(KAD_BUCKET_ENOUGH) if each >= bucket]
            if not thin or not member.is_server or member.is_sybil:
                done()
                return
            key = self._key_in(member.node.location, thin[0])
            self.lookup(member, key, location_of(key), lambda _: fill(thin[0] + 1), count=2, paths=1)

        self.lookup(member, bytes(member.node.peer_id), member.node.location, lambda _: fill(0))

    def _key_in(self, local: int, bucket: int) -> bytes:
        return key_in_bucket(local, bucket, self.random.randbytes)

    def latency(self, a: Member, b: Member) -> float:
        """Seconds there and back: 10 to 170 ms, as between places on one globe."""
        return 0.010 + 0.113 * math.hypot(a.x - b.x, a.y - b.y)

    # --- requests ---

    def charge(self, asker: Member, peer_id: PeerId, size: int) -> float:
        """Counts bytes; returns how many round trips the request takes: a cold one needs two more."""
        now, cost, warm = self.heap.now, asker.traffic, asker.warm
        cost.requests += 1
        cost.total += size
        is_warm = peer_id in warm and warm[peer_id] >= now
        warm[peer_id] = now + CONNECTION_SECONDS
        if is_warm:
            return 1.0
        cost.connects += 1
        cost.total += CONNECT_BYTES
        if len(warm) > 200:
            asker.warm = {peer: until for peer, until in warm.items() if until >= now}
        return 3.0

    def ask(
        self,
        asker: Member,
        node: Node,
        size: int,
        answer: Callable[[Member], None],
        fail: Callable[[], None],
    ) -> None:
        """Calls `answer` with the server when its reply arrives, or `fail` when none comes."""
        heap, peer_id = self.heap, node.peer_id
        target = self.members.get(peer_id)

        def lost() -> None:
            if asker.alive:
                asker.table.failed(node.location, peer_id)
                fail()

        if target is None:
            asker.traffic.requests += 1
            asker.traffic.total += SYN_BYTES
            heap.after(KAD_QUERY_TIMEOUT, lost)
            return

        def deliver() -> None:
            if not target.alive:
                heap.after(KAD_QUERY_TIMEOUT, lost)
            elif asker.alive:
                asker.table.add(node, heap.now)
                if asker.is_server and not target.is_sybil and target.table.has_room_for(asker.node):
                    target.table.add(asker.node, heap.now)  # after its dial-back
                    self.charge(target, asker.node.peer_id, FIND_REQUEST_BYTES + KAD_K * PEER_BYTES)
                answer(target)

        trips = self.charge(asker, peer_id, size)
        heap.after(self.latency(asker, target) * trips, deliver)

    def closest_of(self, server: Member, target: int, asker: Node) -> list[Node]:
        """A FIND_NODE reply. A Sybil names its fellows nearest to the target, and nobody else."""
        if server.is_sybil:
            return self._nearest_sybils(target)
        return server.table.closest(target, KAD_K, exclude=asker.peer_id)

    def _nearest_sybils(self, target: int) -> list[Node]:
        if not self._fellows:
            self.sybils.sort(key=_LOCATION)
        if target not in self._fellows:

            def around(bits: int) -> range:
                """Which of them share all but the last `bits` bits with the target."""
                first = target >> bits << bits
                low = bisect_left(self.sybils, first, key=_LOCATION)
                return range(low, bisect_left(self.sybils, first + (1 << bits), low, key=_LOCATION))

            # The nearest are in the smallest such part that has as many.
            bits = bisect_left(range(LOCATION_BITS), KAD_K, key=lambda bits: len(around(bits)))
            near = [self.sybils[place] for place in around(bits)]
            near.sort(key=lambda node: node.location ^ target)
            self._fellows[target] = near[:KAD_K]
        return self._fellows[target]

    def lookup(
        self,
        member: Member,
        wire_key: bytes,
        target: int,
        done: Callable[[Lookup], None],
        *,
        count: int = KAD_STORE_COUNT,
        paths: int | None = None,
        seeds: Sequence[Node] = (),
    ) -> None:
        """Runs the core's Lookup to its end, then calls `done`, unless the member dies before."""
        self.lookups += 1
        lookup = Lookup(
            target,
            seeds or member.table.closest(target, KAD_K),
            now=self.heap.now,
            timeouts=member.timeouts,
            local=member.node.peer_id,
            paths=self.paths if paths is None else paths,
            count=count,
        )
        _LookupRun(self, member, lookup, wire_key, done).step()

    # --- records ---

    def store_of(self, member: Member) -> RecordStore:
        if member.store is None:
            member.store = RecordStore(self.validate, self.random.randbytes(16))
        return member.store

    def wall(self) -> Millis:
        return Millis(START + int(self.heap.now * 1000))

    def new_record(self) -> tuple[bytes, bytes, int]:
        """(record key, location key, location) of a fresh random lookup key."""
        return record_of(self.random)

    def put(
        self,
        member: Member,
        storers: Sequence[Node],
        key: bytes,
        done: Callable[[frozenset[PeerId]], None],
        record: bytes | None = None,
    ) -> None:
        """PUT_VALUE at each storer; `done` gets who took it. `record` None: one for the full time that is allowed."""
        if record is None:
            record = b"%d %d" % (self.wall(), self.wall() + MAX_RECORD_TTL * 1000)
        took: set[PeerId] = set()
        tally = _Tally(len(storers), lambda _: done(frozenset(took)))

        def stored(server: Member) -> None:
            self.note(server, "put", key, member, record)
            try:
                self.store_of(server).put(
                    key, record, source=member.node.peer_id, network=member.node.groups[0], now=self.wall()
                )
            except RemoteError:
                tally.add(False)
            else:
                took.add(server.node.peer_id)
                tally.add(True)

        for node in storers:
            self.ask(member, node, 2 * RECORD_BYTES, stored, lambda: tally.add(False))

    def get(self, member: Member, storers: Sequence[Node], key: bytes, done: Callable[[bool], None]) -> None:
        """GET_VALUE at each storer; `done` gets whether an honest one had it, once one had or all have answered."""
        told = [False]

        def finished(found: int) -> None:
            if not told[0]:
                told[0] = True
                done(found > 0)

        tally = _Tally(len(storers), finished)

        def answered(server: Member) -> None:
            self.note(server, "get", key, member)
            has = not server.is_sybil and server.store is not None and server.store.get(key, self.wall()) is not None
            tally.add(has)
            if has:
                finished(1)

        for node in storers:
            size = GET_REQUEST_BYTES + RECORD_BYTES
            self.ask(member, node, size, answered, lambda: tally.add(False))

    def note(self, server: Member, what: str, key: bytes, asker: Member, record: bytes = b"") -> None:
        if server.seen is not None:
            server.seen.append(Seen(what, key, asker.node.peer_id, self.heap.now, record))


class _Tally:
    """Counts answers until all are in."""

    def __init__(self, awaited: int, done: Callable[[int], None]) -> None:
        self._left = awaited
        self._yes = 0
        self._done = done
        if not awaited:
            done(0)

    def add(self, yes: bool) -> None:
        self._left -= 1
        self._yes += yes
        if not self._left:
            self._done(self._yes)


class _LookupRun:
    """Feeds one Lookup from the heap."""

    def __init__(
        self, network: Network, member: Member, lookup: Lookup, wire_key: bytes, done: Callable[[Lookup], None]
    ) -> None:
        self._network = network
        self._member = member
        self._lookup = lookup
        self._wire_key = wire_key
        self._done = done
        self._is_done = False
        self._wake: float | None = None

    def step(self) -> None:
        if self._is_done or not self._member.alive:
            return
        heap = self._network.heap
        for node in self._lookup.requests(heap.now):
            self._send(node)
        if self._lookup.finished:
            self._is_done = True
            self._member.table.touch(self._lookup.target, heap.now)
            self._done(self._lookup)
            return
        wake = self._lookup.wake_at()
        if wake is not None and (self._wake is None or wake < self._wake or self._wake <= heap.now):
            self._wake = wake
            heap.at(wake, self.step)

    def _send(self, node: Node) -> None:
        network, lookup = self._network, self._lookup

        def answer(server: Member) -> None:
            if not self._is_done:
                network.note(server, "find", self._wire_key, self._member)
                closer = network.closest_of(server, lookup.target, self._member.node)
                lookup.answered(node.peer_id, closer, network.heap.now)
                self.step()

        def fail() -> None:
            if not self._is_done:
                lookup.failed(node.peer_id, network.heap.now)
                self.step()

        network.ask(self._member, node, FIND_REQUEST_BYTES + KAD_K * PEER_BYTES, answer, fail)


def record_of(generator: random.Random) -> tuple[bytes, bytes, int]:
    """(record key, location key, location) of a fresh random lookup key."""
    key = b"/p2pe/" + generator.randbytes(32) + b"\x00"
    wire_key = location_key(key)
    return key, wire_key, location_of(wire_key)
