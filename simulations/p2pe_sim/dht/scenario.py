"""The experiments: churn, Sybils, an idle client's day, and what colluding servers see."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from p2pe.config import (
    KAD_CHECKS_AT_ONCE,
    KAD_DISJOINT_PATHS,
    KAD_K,
    KAD_SERVER_CHECK,
    PUBLISH_COVER,
)
from p2pe.core.kademlia.lookup import Lookup

from p2pe_sim.dht.client import Client
from p2pe_sim.dht.member import Bytes, Member
from p2pe_sim.dht.network import FIND_REQUEST_BYTES, PEER_BYTES, Network, record_of

JOIN_SECONDS = 900.0  # in which the network grows to its size
UPKEEP_SECONDS = 300.0  # between two looks at a table (five of the driver's, taken together)
SEEDS = 4  # bootstrap nodes
PUBLISH_WINDOW = 60.0  # in which all records are published, each hour

Progress = Callable[[str, float], None]  # what is under way, and how much of it is done (0..1)


def quiet(what: str, done: float) -> None:
    """Shows nothing."""


@dataclass(slots=True)
class World:
    """A grown network and its bootstrap nodes."""

    network: Network
    seeds: list[Member]


@dataclass(slots=True)
class Outcome:
    """What lookups for records came to."""

    asked: int = 0
    found: int = 0
    seconds: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)

    @property
    def share_found(self) -> float:
        return self.found / self.asked if self.asked else 0.0

    def as_dict(self) -> dict[str, Any]:
        ordered = sorted(self.seconds)

        def quantile(q: float) -> float:
            return round(ordered[min(len(ordered) - 1, int(q * len(ordered)))], 3) if ordered else 0.0

        return {
            "lookups": self.asked,
            "found": self.found,
            "share_found": round(self.share_found, 5),
            "median_rounds": median(self.rounds) if self.rounds else 0,
            "median_requests": median(self.requests) if self.requests else 0,
            "median_seconds": quantile(0.5),
            "p95_seconds": quantile(0.95),
            "p99_seconds": quantile(0.99),
            "longest_seconds": quantile(1.0),
        }


def grow(network: Network, nodes: int, progress: Progress = quiet) -> list[Member]:
    """Lets `nodes` servers join over JOIN_SECONDS of virtual time; returns the bootstrap nodes, which never leave."""
    seeds = [network.add() for _ in range(SEEDS)]
    for seed in seeds:
        network.join(seed, [s for s in seeds if s is not seed])

    def arrive() -> None:
        member = network.add()
        network.join(member, network.random.sample(seeds, 2))

    for number in range(nodes - SEEDS):
        network.heap.at(1.0 + JOIN_SECONDS * number / nodes, arrive)
    for step in range(1, 31):
        network.heap.run(JOIN_SECONDS * step / 30)
        progress("joining", step / 30)
    return seeds


def keep_up(network: Network, until: float) -> None:
    """Each server, now and then, asks the peers it hasn't heard of for longest: what upkeep in the driver does."""

    def look(member: Member) -> None:
        if not member.alive or network.heap.now > until:
            return
        if not member.is_sybil:
            check_some(network, member)
        network.heap.after(UPKEEP_SECONDS, lambda: look(member))

    for member in list(network.servers):
        network.heap.after(network.random.random() * UPKEEP_SECONDS, lambda m=member: look(m))  # type: ignore[misc]
    network.started_upkeep = look  # type: ignore[attr-defined]


def check_some(network: Network, member: Member) -> None:
    """Liveness only: the reply is charged, its contents aren't used, so it takes no event."""
    now = network.heap.now
    limit = int(KAD_CHECKS_AT_ONCE * UPKEEP_SECONDS / 60)
    for node in member.table.due_for_check(now, KAD_SERVER_CHECK, limit):
        network.charge(member, node.peer_id, FIND_REQUEST_BYTES + KAD_K * PEER_BYTES)
        if node.peer_id in network.members:
            member.table.add(node, now)
        else:
            member.table.failed(node.location, node.peer_id)


def churn(network: Network, seeds: list[Member], per_hour: float, until: float) -> Callable[[], int]:
    """Servers leave without a word and are replaced by new ones, `per_hour` of the network an hour."""
    replaced = [0]
    look = network.started_upkeep  # type: ignore[attr-defined]
    honest_seeds = {id(seed) for seed in seeds}

    def replace() -> None:
        rate = per_hour * len(network.servers) / 3600.0
        if network.heap.now > until or rate <= 0:
            return
        leaver = network.random.choice(network.servers)
        if id(leaver) not in honest_seeds and not leaver.is_sybil:
            network.remove(leaver)
            replaced[0] += 1
            member = network.add()
            network.join(member, network.random.sample(seeds, 2))
            network.heap.after(network.random.random() * UPKEEP_SECONDS, lambda: look(member))
        network.heap.after(network.random.expovariate(rate), replace)

    network.heap.after(0.1, replace)
    return lambda: replaced[0]


def publish(network: Network, publisher: Member, key: bytes, wire_key: bytes, target: int) -> None:
    """One publication: lookup, then PUT_VALUE at the storers."""

    def store(lookup: Lookup) -> None:
        network.put(publisher, lookup.storers(), key, lambda _: None)

    network.lookup(publisher, wire_key, target, store)


def seek(network: Network, reader: Member, key: bytes, wire_key: bytes, target: int, outcome: Outcome) -> None:
    """One lookup for a record: as the driver does it, hash along the path, key at the storers."""
    started = network.heap.now
    outcome.asked += 1

    def ask(lookup: Lookup) -> None:
        storers = lookup.storers()
        depths = [depth for node in storers[:3] if (depth := lookup.depth_of(node.peer_id)) is not None]
        outcome.rounds.append(max(depths, default=0))
        outcome.requests.append(lookup.request_count)

        def finish(found: bool) -> None:
            outcome.found += found
            outcome.seconds.append(network.heap.now - started)

        network.get(reader, storers, key, finish)

    network.lookup(reader, wire_key, target, ask)


def client_of(network: Network, seeds: list[Member]) -> Member:
    member = network.add(server=False)
    network.join(member, network.random.sample(seeds, 2))
    return member


def under_churn(
    *,
    nodes: int,
    hours: float,
    churn_per_hour: float,
    records: int,
    lookups: int,
    seed: int,
    progress: Progress = quiet,
) -> dict[str, Any]:
    """`churning_world`, its result alone."""
    return churning_world(
        nodes=nodes, hours=hours, churn_per_hour=churn_per_hour, records=records, lookups=lookups, seed=seed,
        progress=progress,
    )[1]  # fmt: skip


def churning_world(
    *,
    nodes: int,
    hours: float,
    churn_per_hour: float,
    records: int,
    lookups: int,
    seed: int,
    progress: Progress = quiet,
) -> tuple[World, dict[str, Any]]:
    """Records published at the start and again as often as the publishers see fit, looked up all through the time by
    others. Gives the world as well: an attack on it may follow."""
    began = time.process_time()
    network = Network(seed)
    seeds = grow(network, nodes, progress)
    joined = time.process_time()
    start = network.heap.now
    end = start + hours * 3600.0
    keep_up(network, end)
    replaced = churn(network, seeds, churn_per_hour, end)
    clients = [client_of(network, seeds) for _ in range(50)]
    publishers = [Client(network, member) for member in clients]
    known = [record_of(network.random) for _ in range(records)]
    for number, record in enumerate(known):
        publisher = publishers[number % len(publishers)]
        network.heap.at(
            start + 10.0 + PUBLISH_WINDOW * network.random.random(),
            lambda p=publisher, r=record: p.keep_published(r, end),  # type: ignore[misc]
        )
    outcome = Outcome()
    first = start + PUBLISH_WINDOW + 40.0
    for number in range(lookups):
        at = first + (end - first - 30.0) * number / lookups
        reader, (key, wire_key, target) = network.random.choice(clients), network.random.choice(known)
        network.heap.at(at, lambda r=reader, k=key, w=wire_key, t=target: seek(network, r, k, w, t, outcome))  # type: ignore[misc]
    for step in range(1, 61):
        network.heap.run(start + (end - start) * step / 60)
        progress("churning", step / 60)
    network.heap.run(end + 30.0)
    return World(network, seeds), {
        "nodes": nodes,
        "hours": hours,
        "churn_per_hour": churn_per_hour,
        "replaced": replaced(),
        **outcome.as_dict(),
        "median_refresh_seconds": round(median(p.stability.refresh_seconds for p in publishers)),
        "seconds": outcome.seconds,
        "rounds": outcome.rounds,
        **_health_of(network),
        "events": network.heap.events,
        "core_lookups": network.lookups,
        "cpu_seconds_joining": round(joined - began, 1),
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def _health_of(network: Network) -> dict[str, Any]:
    sample = network.servers[:500]
    dead = [sum(n.peer_id not in network.members for n in m.table.nodes()) / max(1, len(m.table)) for m in sample]
    hourly = sorted(m.traffic.total / (network.heap.now / 3600) for m in sample)
    return {
        "median_table": median(len(member.table) for member in sample),
        "dead_in_tables": round(sum(dead) / len(dead), 4),
        "median_server_bytes_per_hour": round(hourly[len(hourly) // 2]),
    }


@dataclass(frozen=True, slots=True)
class Placement:
    """How an attacker spreads his Sybils. `aimed`: he knows the victims' keys beforehand and grinds ids that lie
    nearer to them than any honest node, the same number for each; else at random. `networks`: in how many /24 they
    sit; None = each in its own."""

    name: str
    aimed: bool
    networks: int | None


PLACEMENTS = (
    Placement("at random, each in its own /24", False, None),
    Placement("aimed, all in 4 /24s", True, 4),
    Placement("aimed, each in its own /24", True, None),
)


def under_sybils(
    world: World, *, share: float, placement: Placement, victims: int, progress: Progress = quiet
) -> list[dict[str, Any]]:
    """Adds Sybils until they are `share` of all servers: they name only each other and keep records to themselves.
    Then every one of `victims` records is published and looked up twice: over disjoint paths, and over one path. The
    Sybils leave afterwards, and are forgotten."""
    network, seeds = world.network, world.seeds
    hostile = round(len(network.servers) * share / (1 - share))
    victims = max(1, min(victims, hostile // KAD_K))  # enough Sybils for each, if they are aimed
    known = [record_of(network.random) for _ in range(victims)]
    subnets = [network.random.randbytes(3) for _ in range(placement.networks or 0)]
    sybils = []
    for number in range(hostile):
        location = known[number % victims][2] ^ network.random.getrandbits(236) if placement.aimed else None
        subnet = subnets[number % len(subnets)] if subnets else None
        member = network.add(sybil=True, location=location, network=subnet)
        sybils.append(member)
        network.heap.after(300.0 * number / hostile, lambda m=member: network.join(m, seeds[:2]))  # type: ignore[misc]
    network.heap.run(network.heap.now + 330.0)
    clients = [client_of(network, seeds) for _ in range(20)]
    network.heap.run(network.heap.now + 30.0)
    found = []
    for paths in (KAD_DISJOINT_PATHS, 1):
        network.paths = paths
        outcome = Outcome()
        for key, wire_key, target in known:
            publish(network, network.random.choice(clients), key, wire_key, target)
            network.heap.run(network.heap.now + 0.25)
        network.heap.run(network.heap.now + 15.0)
        for done, (key, wire_key, target) in enumerate(known):
            for _ in range(2):
                seek(network, network.random.choice(clients), key, wire_key, target, outcome)
            network.heap.run(network.heap.now + 0.25)
            progress(f"Sybils {placement.name}", (done + 1 + victims * (paths == 1)) / (2 * victims))
        network.heap.run(network.heap.now + 15.0)
        found.append({
            "servers": len(network.servers), "sybils": hostile, "placement": placement.name, "paths": paths,
            **outcome.as_dict(),
        })  # fmt: skip
        for member in network.servers:
            member.store = None  # the same keys again, over other paths
    network.paths = KAD_DISJOINT_PATHS
    for member in sybils:
        network.remove(member)
    forget_the_dead(network)
    return found


def forget_the_dead(network: Network) -> None:
    """As if every server had asked its whole table round."""
    for member in network.servers:
        for node in member.table.nodes():
            if node.peer_id not in network.members:
                member.table.remove(node)


def idle_client(
    *, nodes: int, contacts: int, hours: float, seed: int, churn_per_hour: float, progress: Progress = quiet
) -> dict[str, Any]:
    """A client that does nothing but keep its records published: those for `contacts`, all of them away, and those
    for nobody. Each has a new key every day, published some time before the old one ends."""
    network = Network(seed)
    seeds = grow(network, nodes, progress)
    start = network.heap.now
    end = start + hours * 3600.0
    keep_up(network, end)
    churn(network, seeds, churn_per_hour, end)
    client = Client(network, client_of(network, seeds))
    network.heap.run(start + 30.0)
    client.member.traffic = Bytes()
    for _ in range(contacts + -contacts % PUBLISH_COVER):
        client.keep_published(network.new_record(), end)
    for step in range(1, 49):
        network.heap.run(start + (end - start) * step / 48)
        progress(f"an idle client, {churn_per_hour:.0%} replaced an hour", step / 48)
    days, traffic = hours / 24, client.member.traffic
    return {
        "nodes": nodes, "contacts": contacts, "hours": hours, "churn_per_hour": churn_per_hour,
        "megabytes_per_day": round(traffic.total / days / 1e6, 1),
        "connections_per_day": round(traffic.connects / days),
        "requests_per_day": round(traffic.requests / days),
        "lookups_per_day": round(client.lookups / days),
        "publications_per_day": round(client.publications / days),
        "refresh_hours": round(client.stability.refresh_seconds / 3600, 2),
    }  # fmt: skip
