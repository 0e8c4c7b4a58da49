"""What colluding servers learn: real pairs with the node's own keys and records, published and read for days, and
everything that some of the servers are sent, pooled."""

from __future__ import annotations

from dataclasses import dataclass, field

from p2pe.core.derive import day_of, lookup_seed, pair_keys, record_aead_key
from p2pe.core.kademlia.keyspace import location_key, location_of
from p2pe.core.records import NONCE_BYTES, check_record, make_record, public_key_of, record_key, seal_addresses
from p2pe.model import Address, Millis, PeerId, PeerInfo

from p2pe_sim.dht.member import Member, Seen
from p2pe_sim.dht.network import START, Network
from p2pe_sim.dht.scenario import Outcome, client_of, grow, seek

DAY_SECONDS = 86_400.0
_ADDRESS = Address("/ip4/192.0.2.1/tcp/4001")


@dataclass(frozen=True, slots=True)
class Fact:
    """The truth behind a record key, which the colluders don't have."""

    pair: int
    direction: int
    day: int
    writer: PeerId
    reader: PeerId


@dataclass(slots=True)
class View:
    """All that the colluders were sent, and what is true."""

    seen: list[Seen] = field(default_factory=list)
    facts: dict[bytes, Fact] = field(default_factory=dict)  # by record key
    secrets: list[bytes] = field(default_factory=list)  # pair secrets and K_rendezvous: nothing of them may be seen
    asked: int = 0
    found: int = 0

    @property
    def linked(self) -> set[tuple[bytes, PeerId, PeerId]]:
        """(key, writer, reader) wherever the colluders saw both: these two know each other, that day."""
        writers: dict[bytes, set[PeerId]] = {}
        readers: dict[bytes, set[PeerId]] = {}
        for each in self.seen:
            if each.what != "find":
                (writers if each.what == "put" else readers).setdefault(each.key, set()).add(each.asker)
        return {(k, w, r) for k in writers for w in writers[k] for r in readers.get(k, ())}

    def pairs_linked(self) -> set[int]:
        return {self.facts[key].pair for key, _, _ in self.linked}

    def share_of_keys_seen(self) -> float:
        return len({each.key for each in self.seen if each.key in self.facts}) / len(self.facts)


def view_of_colluders(*, nodes: int, colluding: int, pairs: int, days: int, restarts: bool, seed: int) -> View:
    """Each day each pair publishes in both directions and reads both records. `restarts`: every node starts anew each
    day, under another transport id; else it runs all the time under one."""
    network = Network(seed, validate=check_record)
    seeds = grow(network, nodes)
    network.heap.run(DAY_SECONDS - START / 1000 % DAY_SECONDS + 600.0)  # ten minutes into a day (UTC)
    spies = network.random.sample([m for m in network.servers if m not in seeds], colluding)
    for spy in spies:
        spy.seen = []
    view = View()
    secrets = [network.random.randbytes(32) for _ in range(pairs)]
    keys = [pair_keys(secret).rendezvous for secret in secrets]
    view.secrets = [*secrets, *keys]
    people: list[Member] = []
    for _ in range(days):
        began = network.heap.now
        if restarts or not people:
            for gone in people:
                gone.alive = False
            people = [client_of(network, seeds) for _ in range(2 * pairs)]
            network.heap.run(network.heap.now + 60.0)
        jobs = []
        for pair, k_rendezvous in enumerate(keys):
            for direction in (0, 1):
                writer, reader = people[2 * pair + direction], people[2 * pair + 1 - direction]
                key = _publish(network, view, pair, k_rendezvous, direction, writer, reader)
                jobs.append((reader, key))
        network.heap.run(network.heap.now + 120.0)
        outcome = Outcome()
        for reader, key in jobs:
            wire_key = location_key(key)
            seek(network, reader, key, wire_key, location_of(wire_key), outcome)
        network.heap.run(began + DAY_SECONDS)
        view.asked += outcome.asked
        view.found += outcome.found
    view.seen = [each for spy in spies for each in spy.seen or ()]
    return view


def _publish(
    network: Network, view: View, pair: int, k_rendezvous: bytes, direction: int, writer: Member, reader: Member
) -> bytes:
    """As rendezvous/publisher.py does it. Returns the record key."""
    now = network.wall()
    day = day_of(now)
    seed = lookup_seed(k_rendezvous, direction, day)
    own = PeerInfo(writer.node.peer_id, (_ADDRESS,) * (1 + pair % 3))
    payload = seal_addresses(own, record_aead_key(k_rendezvous, direction, day), network.random.randbytes(NONCE_BYTES))
    record = make_record(seed, 0, now, Millis(now + 3 * 3_600_000), payload)
    key = record_key(public_key_of(seed), 0)
    view.facts[key] = Fact(pair, direction, day, writer.node.peer_id, reader.node.peer_id)
    wire_key = location_key(key)
    network.lookup(
        writer, wire_key, location_of(wire_key),
        lambda lookup: network.put(writer, lookup.storers(), key, lambda _: None, record),
    )  # fmt: skip
    return key
