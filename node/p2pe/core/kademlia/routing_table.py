"""The routing table: 256 k-buckets by shared prefix (Kademlia section 2.2), each with a replacement cache.

Rules:
- only verified servers come in: the caller adds a peer after it answered a query at a listen address;
- who is in stays in while it answers: long-lived peers live longest, and a flood of new ids displaces nobody;
- a newcomer to a full bucket waits in the replacement cache, and takes the place of a peer that failed;
- who comes from the cache isn't fresher for it: it is due for a check by when it last answered;
- a failed peer is handed to nobody; it leaves at once when somebody waits, else after KAD_MAX_FAILURES in a row;
- diversity limits hold for each bucket and for the whole table (diversity.py).
Bounded: 256 x 2 x k peers at the most, in practice (log2(network) + 2) x 2 x k.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from operator import attrgetter

from p2pe.config import KAD_K, KAD_MAX_FAILURES
from p2pe.core.kademlia.diversity import GroupCounter, bucket_counter, table_counter
from p2pe.core.kademlia.keyspace import LOCATION_BITS, Node
from p2pe.model import PeerId


class Added(Enum):
    """What became of a peer that was offered."""

    NEW = "new"
    KNOWN = "known"
    WAITING = "waiting"  # in the replacement cache
    REFUSED = "refused"  # oneself, or too many of its network


@dataclass(slots=True)
class Entry:
    node: Node
    seen_at: float  # seconds: its last answer
    failures: int = 0


_SEEN_AT = attrgetter("seen_at")


class Bucket:
    """At most k entries and k waiting, each least recently heard of first."""

    __slots__ = ("entries", "groups", "healthy", "looked_at", "touched_at", "waiting")

    def __init__(self) -> None:
        self.entries: dict[PeerId, Entry] = {}
        self.waiting: dict[PeerId, Entry] = {}
        self.groups: GroupCounter = bucket_counter()
        self.touched_at = float("-inf")  # the last answer from, or lookup into, this bucket
        self.looked_at = float("-inf")  # the last lookup into it
        self.healthy: list[Node] = []  # those without failures

    def seen(self, entry: Entry, now: float) -> None:
        """The peer of one of `entries` has just answered."""
        entry.seen_at = now
        peer_id = entry.node.peer_id
        del self.entries[peer_id]
        self.entries[peer_id] = entry  # now the last

    def nodes(self) -> list[Node]:
        """The healthy ones."""
        return list(self.healthy)


class RoutingTable:
    """`now` is seconds of any steady clock, the same for all calls."""

    __slots__ = ("_buckets", "_deepest", "_groups", "_k", "_location", "_size", "local")

    def __init__(self, local: Node, k: int = KAD_K) -> None:
        self.local = local
        self._location = local.location
        self._k = k
        self._buckets: list[Bucket | None] = [None] * LOCATION_BITS
        self._deepest = -1  # no bucket beyond this one was ever used
        self._groups = table_counter()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, peer_id: PeerId) -> bool:
        return any(peer_id in bucket.entries for _, bucket in self.buckets())

    def bucket_index(self, location: int) -> int:
        """Which bucket a location belongs to: the number of leading bits shared with ours, 0..255."""
        apart = location ^ self._location
        return LOCATION_BITS - apart.bit_length() if apart else LOCATION_BITS - 1

    def buckets(self) -> Iterator[tuple[int, Bucket]]:
        """The buckets ever used, from the farthest (0) inwards."""
        for index in range(self._deepest + 1):
            bucket = self._buckets[index]
            if bucket is not None:
                yield index, bucket

    @property
    def has_healthy(self) -> bool:
        """Whether there is anybody to ask."""
        return any(bucket.healthy for _, bucket in self.buckets())

    def nodes(self) -> list[Node]:
        """All healthy peers."""
        return [node for _, bucket in self.buckets() for node in bucket.healthy]

    def has_room_for(self, node: Node) -> bool:
        """Whether adding this peer would be worth verifying it: not in yet, and its bucket and networks have room."""
        if node.peer_id == self.local.peer_id:
            return False
        bucket = self._buckets[self.bucket_index(node.location)]
        if bucket is None:
            return self._groups.admits(node.groups)
        if node.peer_id in bucket.entries or len(bucket.entries) >= self._k:
            return False
        return bucket.groups.admits(node.groups) and self._groups.admits(node.groups)

    def add(self, node: Node, now: float) -> Added:
        """`node` has just answered a query of ours as a server."""
        if node.peer_id == self.local.peer_id:
            return Added.REFUSED
        bucket = self._bucket_for(node.location)
        bucket.touched_at = now
        known = bucket.entries.get(node.peer_id)
        if known is not None:
            if known.failures or known.node is not node:
                if not known.failures:
                    bucket.healthy.remove(known.node)
                known.failures = 0
                if known.node.groups == node.groups:
                    known.node = node  # its addresses may have changed, not its network: that was counted
                bucket.healthy.append(known.node)
            bucket.seen(known, now)
            return Added.KNOWN
        if not (bucket.groups.admits(node.groups) and self._groups.admits(node.groups)):
            return Added.REFUSED
        if len(bucket.entries) < self._k:
            self._insert(bucket, Entry(node, now))
            return Added.NEW
        bucket.waiting.pop(node.peer_id, None)
        bucket.waiting[node.peer_id] = Entry(node, now)
        if len(bucket.waiting) > self._k:
            del bucket.waiting[next(iter(bucket.waiting))]
        return Added.WAITING

    def heard_from(self, node_location: int, peer_id: PeerId, now: float) -> None:
        """A peer answered over a connection that it had opened: it lives, which puts off its next check. One that
        failed has yet to be reached at its address."""
        bucket = self._buckets[self.bucket_index(node_location)]
        if bucket is not None and peer_id in bucket.entries and not bucket.entries[peer_id].failures:
            bucket.seen(bucket.entries[peer_id], now)

    def failed(self, node_location: int, peer_id: PeerId) -> None:
        """A peer didn't answer: it is replaced, or given one more chance when nobody waits for its place."""
        bucket = self._buckets[self.bucket_index(node_location)]
        if bucket is None:
            return
        bucket.waiting.pop(peer_id, None)
        entry = bucket.entries.get(peer_id)
        if entry is None:
            return
        if not entry.failures:
            bucket.healthy.remove(entry.node)
        entry.failures += 1
        if bucket.waiting or entry.failures >= KAD_MAX_FAILURES:
            self.remove(entry.node)
            self._promote(bucket)

    def remove(self, node: Node) -> None:
        """Takes a peer out: it turned out to be a client, or is gone. Nothing happens when it isn't in."""
        bucket = self._buckets[self.bucket_index(node.location)]
        if bucket is None:
            return
        bucket.waiting.pop(node.peer_id, None)
        entry = bucket.entries.pop(node.peer_id, None)
        if entry is not None:
            if not entry.failures:
                bucket.healthy.remove(entry.node)
            bucket.groups.remove(entry.node.groups)
            self._groups.remove(entry.node.groups)
            self._size -= 1

    def closest(self, target: int, count: int = KAD_K, *, exclude: PeerId | None = None) -> list[Node]:
        """The `count` healthy peers nearest to `target`, nearest first."""

        def distance(node: Node) -> int:
            return node.location ^ target

        found: list[Node] = []
        for bucket in self._from(target):
            near = bucket.healthy
            if not near:
                continue
            if len(near) > 1:
                near = sorted(near, key=distance)
            if exclude in bucket.entries:
                near = [node for node in near if node.peer_id != exclude]
            found += near
            if len(found) >= count:
                break
        return found[:count]

    def _from(self, target: int) -> Iterator[Bucket]:
        """The buckets ever used, from the nearest to `target` outwards: whoever is in one is nearer than all in the
        next. Where `target` differs from us in a bit, that bit's bucket is nearer to it than all deeper ones
        together; where it doesn't, farther."""
        deepest, buckets = self._deepest, self._buckets
        differs = (target ^ self._location) >> (LOCATION_BITS - 1 - deepest)  # one bit a bucket
        for index in range(deepest + 1 - differs.bit_length(), deepest + 1):
            if differs >> (deepest - index) & 1 and (bucket := buckets[index]) is not None:
                yield bucket
        for index in range(deepest, -1, -1):
            if not differs >> (deepest - index) & 1 and (bucket := buckets[index]) is not None:
                yield bucket

    def due_for_check(self, now: float, unseen_for: float, most: int | None = None) -> list[Node]:
        """Peers that failed once, then those not heard of for `unseen_for` seconds, each least recently heard of
        first, `most` in all: ask them, then add() or failed()."""
        buckets = [bucket for _, bucket in self.buckets()]
        struck = [bucket.entries.values() for bucket in buckets if len(bucket.healthy) < len(bucket.entries)]
        failed = [entry for entries in struck for entry in entries if entry.failures]
        due = [entry.node for entry in sorted(failed, key=_SEEN_AT)[:most]]
        for entry in heapq.merge(*(bucket.entries.values() for bucket in buckets), key=_SEEN_AT):
            if len(due) == most or now - entry.seen_at < unseen_for:
                break  # those after it were heard of since
            if not entry.failures:
                due.append(entry.node)
        return due

    def due_for_refresh(self, now: float, untouched_for: float) -> list[int]:
        """Buckets from which nothing came for `untouched_for` seconds. Empty ones in between count as well; the
        deepest used one doesn't: looking oneself up refreshes it and all beyond."""
        due = []
        for index in range(self._deepest):
            bucket = self._buckets[index]
            if bucket is None or now - bucket.touched_at >= untouched_for:
                due.append(index)
        return due

    def thin_buckets(self, least: int, now: float = float("inf"), unlooked_for: float = 0.0) -> list[int]:
        """Buckets with fewer than `least` healthy peers where the network should have more: twice as many are known
        beyond, and a bucket's part of the key space is as large as all parts beyond together. With fewer beyond, its
        peers are neighbours. A joining server has to fill them: looking itself up, it meets its neighbours only. Those
        looked into within `unlooked_for` seconds are left out: there was nobody else."""
        thin = []
        beyond = 0
        for index in range(self._deepest, -1, -1):
            bucket = self._buckets[index]
            here = 0 if bucket is None else len(bucket.healthy)
            looked_at = float("-inf") if bucket is None else bucket.looked_at
            if here < least and beyond >= 2 * least and now - looked_at >= unlooked_for:
                thin.append(index)
            beyond += here
        return thin[::-1]

    def touch(self, target: int, now: float) -> None:
        """A lookup towards `target` ended: its bucket has been looked into. Those beyond the deepest one used don't
        count: they would all have to be walked through."""
        if self.bucket_index(target) <= self._deepest:
            bucket = self._bucket_for(target)
            bucket.touched_at = bucket.looked_at = now

    def _bucket_for(self, location: int) -> Bucket:
        index = self.bucket_index(location)
        bucket = self._buckets[index]
        if bucket is None:
            bucket = self._buckets[index] = Bucket()
            self._deepest = max(self._deepest, index)
        return bucket

    def _insert(self, bucket: Bucket, entry: Entry) -> None:
        node = entry.node
        bucket.waiting.pop(node.peer_id, None)
        bucket.entries[node.peer_id] = entry
        if not entry.failures:
            bucket.healthy.append(node)
        bucket.groups.add(node.groups)
        self._groups.add(node.groups)
        self._size += 1

    def _promote(self, bucket: Bucket) -> None:
        """The newest of those waiting who keeps the limits takes the free place."""
        for entry in reversed(list(bucket.waiting.values())):
            groups = entry.node.groups
            if bucket.groups.admits(groups) and self._groups.admits(groups):
                self._insert(bucket, entry)
                bucket.entries = dict(sorted(bucket.entries.items(), key=lambda item: item[1].seen_at))
                return
