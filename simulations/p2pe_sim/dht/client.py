"""A client that keeps records published, as overlay/dht.py and rendezvous/publisher.py do it: storers are remembered
and used again while enough of them answer, seed the other lookups, and tell by staying how soon to refresh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from p2pe.config import KAD_K, KAD_STORERS_LEAST, PUBLISH_SPREAD
from p2pe.core.kademlia.keyspace import Node
from p2pe.core.kademlia.lookup import Lookup
from p2pe.core.kademlia.stability import Stability
from p2pe.model import PeerId

from p2pe_sim.dht.member import Member
from p2pe_sim.dht.network import Network

Located = tuple[bytes, bytes, int]  # record key, location key, location


@dataclass(slots=True)
class _Kept:
    storers: tuple[Node, ...]
    stored_at: float


class Client:
    """Drives one member."""

    def __init__(self, network: Network, member: Member) -> None:
        self.network = network
        self.member = member
        self.stability = Stability()
        self.lookups = 0
        self.publications = 0
        self._kept: dict[bytes, _Kept] = {}
        self._silent: set[PeerId] = set()

    def keep_published(self, record: Located, until: float, day: float = 86_400.0) -> None:
        """Publishes now and then again until `until`; from a random hour on under another key, then again a day later,
        as if midnight (UTC) were there."""
        heap, random = self.network.heap, self.network.random
        current = record

        def again(record: Located) -> None:
            if heap.now > until or not self.member.alive or record is not current:
                return
            self.publish(record)
            pause = self.stability.refresh_seconds * (1 + PUBLISH_SPREAD * (2 * random.random() - 1))
            heap.after(pause, lambda: again(record))

        def new_day() -> None:
            nonlocal current
            if heap.now > until:
                return
            current = self.network.new_record()
            again(current)
            heap.after(day, new_day)

        again(record)
        if until - heap.now >= day:
            heap.after(day * random.random(), new_day)

    def publish(self, record: Located, done: Callable[[], None] = lambda: None) -> None:
        """Once: at the storers remembered, or at those that a lookup finds."""
        self.publications += 1
        kept = self._kept.get(record[0])
        if kept is None:
            self._look_up_and_put(record, frozenset(), done)
            return
        asked, after = kept.storers, self.network.heap.now - kept.stored_at

        def counted(took: frozenset[PeerId]) -> None:
            self._silent.update(n.peer_id for n in asked if n.peer_id not in took)
            stayed = tuple(n for n in asked if n.peer_id in took)
            self.stability.observed(len(stayed), len(asked) - len(stayed), after)
            if len(stayed) < KAD_STORERS_LEAST:
                self._look_up_and_put(record, took, done)
            else:
                self._kept[record[0]] = _Kept(stayed, self.network.heap.now)
                done()

        self.network.put(self.member, asked, record[0], counted)

    def _look_up_and_put(self, record: Located, has_it: frozenset[PeerId], done: Callable[[], None]) -> None:
        self.lookups += 1

        def store(lookup: Lookup) -> None:
            self._silent.update(n.peer_id for n in lookup.unresponsive())
            storers = lookup.storers()
            self._kept[record[0]] = _Kept(storers, self.network.heap.now)
            rest = [n for n in storers if n.peer_id not in has_it]
            self.network.put(self.member, rest, record[0], lambda _: done())

        paths = 1 if has_it else None  # those left of a lookup over disjoint paths know their neighbours
        self.network.lookup(self.member, record[1], record[2], store, seeds=self._seeds(record[2]), paths=paths)

    def _seeds(self, target: int) -> list[Node]:
        near = {n.location ^ target: n for n in self.member.table.closest(target, KAD_K)}
        for kept in self._kept.values():
            near.update((n.location ^ target, n) for n in kept.storers if n.peer_id not in self._silent)
        return [near[distance] for distance in sorted(near)[:KAD_K]]
