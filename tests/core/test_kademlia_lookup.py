"""The iterative lookup against networks in memory, honest and hostile."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from p2pe.config import KAD_LOOKUP_MAX_REQUESTS, KAD_LOOKUP_TIMEOUT, KAD_PATH_CANDIDATES
from p2pe.core.kademlia.keyspace import Node, location_of
from p2pe.core.kademlia.lookup import Lookup
from p2pe.core.kademlia.routing_table import RoutingTable
from p2pe.core.kademlia.timeouts import Timeouts
from p2pe.model import PeerId

Reply = Callable[[Node], Sequence[Node] | None]


def node(number: int, groups: tuple[bytes, ...] = ()) -> Node:
    peer_id = PeerId(b"\x00\x08" + number.to_bytes(8, "big"))
    return Node(peer_id, location_of(peer_id), (), groups)


def network(size: int) -> tuple[list[Node], dict[PeerId, RoutingTable]]:
    nodes = [node(n) for n in range(size)]
    tables = {n.peer_id: RoutingTable(n) for n in nodes}
    for table in tables.values():
        for other in nodes:
            table.add(other, 0.0)
    return nodes, tables


def run(lookup: Lookup, reply: Reply) -> int:
    """Answers each request after 0.1 s; None means silence. Returns the number of requests."""
    now, count = 0.0, 0
    waiting: list[tuple[float, Node]] = []
    while True:
        for asked in lookup.requests(now):
            count += 1
            waiting.append((now + 0.1, asked))
        if lookup.finished:
            return count
        times = [at for at, _ in waiting] + [t for t in [lookup.wake_at()] if t is not None]
        now = max(now, min(times))
        due = [asked for at, asked in waiting if at <= now]
        waiting = [(at, asked) for at, asked in waiting if at > now]
        for asked in due:
            closer = reply(asked)
            if closer is not None:
                lookup.answered(asked.peer_id, closer, now)


def start(target: int, seeds: Sequence[Node], paths: int = 3) -> Lookup:
    return Lookup(target, seeds, now=0.0, timeouts=Timeouts(), paths=paths)


def test_finds_exactly_the_closest_of_300() -> None:
    nodes, tables = network(300)
    for number in range(20):
        target = location_of(b"key%d" % number)
        lookup = start(target, tables[nodes[number].peer_id].closest(target))

        def reply(asked: Node, target: int = target) -> Sequence[Node]:
            return tables[asked.peer_id].closest(target)

        count = run(lookup, reply)
        expected = [n for n in sorted(nodes, key=lambda n: n.location ^ target) if n is not nodes[number]][:8]
        assert [n.peer_id for n in lookup.closest(8)] == [n.peer_id for n in expected]
        assert count <= 30
        assert len({n.peer_id for n in expected} & {n.peer_id for n in lookup.storers(8)}) >= 6


def test_silent_peers_are_passed_over_and_named() -> None:
    nodes, tables = network(200)
    target = location_of(b"a key")
    dead = {n.peer_id for n in sorted(nodes, key=lambda n: n.location ^ target)[:12:2]}
    lookup = start(target, tables[nodes[0].peer_id].closest(target))
    run(lookup, lambda asked: None if asked.peer_id in dead else tables[asked.peer_id].closest(target))
    found = [n.peer_id for n in lookup.closest(8)]
    live = [n.peer_id for n in sorted(nodes, key=lambda n: n.location ^ target) if n.peer_id not in dead]
    assert found[:5] == live[:5]
    assert not dead & set(found)


def test_one_server_is_enough_of_a_network() -> None:
    only = node(1)
    lookup = start(location_of(b"x"), [only])
    assert run(lookup, lambda asked: ()) == 1
    assert lookup.closest(8) == (only,)


def test_without_seeds_it_ends_at_once() -> None:
    lookup = start(location_of(b"x"), [])
    assert lookup.requests(0.0) == ()
    assert lookup.finished
    assert lookup.closest(8) == ()


def test_endless_closer_peers_end_at_the_limit() -> None:
    """A hostile peer names ever nearer ids, and so do they: the lookup stays bounded."""
    target = location_of(b"x")
    crowd = sorted((node(n) for n in range(20_000)), key=lambda n: n.location ^ target, reverse=True)
    position = {n.peer_id: i for i, n in enumerate(crowd)}
    lookup = start(target, crowd[:3])
    count = run(lookup, lambda asked: crowd[position[asked.peer_id] + 1 : position[asked.peer_id] + 500])
    assert count <= KAD_LOOKUP_MAX_REQUESTS
    assert all(len(path.candidates) <= KAD_PATH_CANDIDATES for path in lookup._paths)


def test_silence_of_all_ends_by_the_deadline() -> None:
    lookup = start(location_of(b"x"), [node(n) for n in range(200)])
    now = 0.0
    while not lookup.finished:
        lookup.requests(now)
        wake = lookup.wake_at()
        if wake is None:
            break
        assert wake > now
        now = wake
    lookup.requests(now)
    assert lookup.finished
    assert now <= KAD_LOOKUP_TIMEOUT
    assert lookup.closest(8) == ()


def test_a_hostile_path_owns_no_more_than_its_share() -> None:
    """One of three seeds lies: it and its helpers sit nearest to the target and name only each other."""
    nodes, tables = network(300)
    target = location_of(b"victim")
    sybils = sorted((node(n) for n in range(100_000, 130_000)), key=lambda n: n.location ^ target)[:30]
    liars = {n.peer_id for n in sybils}
    honest = sorted(nodes, key=lambda n: n.location ^ target)
    seeds = [sybils[20], honest[100], honest[101]]
    reply: Reply = lambda asked: sybils if asked.peer_id in liars else tables[asked.peer_id].closest(target)  # noqa: E731

    def captured(paths: int) -> int:
        lookup = start(target, seeds, paths)
        run(lookup, reply)
        return sum(n.peer_id in liars for n in lookup.storers(8))

    assert captured(paths=1) == 8
    assert captured(paths=3) <= 4  # two of each honest path are always among them


def test_unasked_and_doubled_answers_change_nothing() -> None:
    seeds = [node(1), node(2)]
    lookup = start(location_of(b"x"), seeds)
    lookup.answered(node(9).peer_id, [node(10)], 0.0)
    first = lookup.requests(0.0)
    assert {n.peer_id for n in first} == {n.peer_id for n in seeds}
    lookup.answered(seeds[0].peer_id, [], 0.1)
    lookup.answered(seeds[0].peer_id, [node(11)], 0.2)
    lookup.failed(seeds[0].peer_id, 0.2)
    assert lookup.requests(0.2) == ()
    lookup.failed(seeds[1].peer_id, 0.3)
    assert lookup.finished
    assert lookup.closest(8) == (seeds[0],)


def test_a_slow_peer_gives_up_its_place_but_still_counts() -> None:
    timeouts = Timeouts()
    for _ in range(20):
        timeouts.observed(0.05)
    nodes = sorted((node(n) for n in range(40)), key=lambda n: n.location)
    lookup = Lookup(0, nodes, now=0.0, timeouts=timeouts, paths=1, alpha=3, count=4)
    first = lookup.requests(0.0)
    assert len(first) == 3
    assert lookup.requests(0.1) == ()
    assert len(lookup.requests(0.6)) == 3
    lookup.answered(first[0].peer_id, [], 0.7)
    assert first[0] in lookup.closest(4)


def test_a_lookup_whose_peers_are_all_slow_waits_for_them() -> None:
    """Of a busy machine's answers the first take longer than patience: that isn't nobody."""
    peers = [node(number) for number in range(3)]
    timeouts = Timeouts()
    for _ in range(100):
        timeouts.observed(0.01)
    lookup = Lookup(0, peers, now=0.0, timeouts=timeouts)
    assert len(lookup.requests(0.0)) == 3
    assert lookup.requests(1.0) == () and not lookup.finished  # all are slow
    lookup.answered(peers[1].peer_id, [], 1.5)
    assert lookup.requests(1.5) == () and lookup.finished
    assert lookup.closest() == (peers[1],)


def test_only_a_thorough_lookup_waits_for_a_near_peer_that_is_slow() -> None:
    nodes = sorted((node(n) for n in range(40)), key=lambda n: n.location)[:12]
    timeouts = Timeouts()
    for _ in range(100):
        timeouts.observed(0.01)
    for thorough in (False, True):
        lookup = Lookup(0, nodes, now=0.0, timeouts=timeouts, count=8, thorough=thorough)
        now = 0.0
        while (asked := lookup.requests(now)) or now < 1.0:
            for peer in asked:
                if peer is not nodes[2] and peer is not nodes[11]:
                    lookup.answered(peer.peer_id, [], now)
            now += 0.25
        assert lookup.finished is not thorough
        lookup.answered(nodes[2].peer_id, [], 2.0)
        assert lookup.requests(2.0) == () and lookup.finished  # the other slow one is farther than eight that answered
        assert (lookup.closest(8) == tuple(nodes[:8])) or not thorough


def test_an_answer_is_not_filled_by_one_network() -> None:
    target = 0
    one_net = sorted((node(n, (b"net",)) for n in range(200)), key=lambda n: n.location)[:20]
    others = sorted((node(n, (b"%d" % n,)) for n in range(1000, 1200)), key=lambda n: n.location)[:20]
    lookup = start(target, one_net + others)
    run(lookup, lambda asked: ())
    assert sum(n.groups == (b"net",) for n in lookup.storers(8)) == 1
    assert lookup.request_count <= 30  # nor do its many ids keep the lookup busy


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_order_of_events_ends_within_bounds(data: st.DataObject) -> None:
    crowd = [node(n) for n in range(60)]
    lookup = start(data.draw(st.integers(0, 2**256 - 1)), crowd[: data.draw(st.integers(0, 12))])
    now = 0.0
    outstanding: list[Node] = []
    for _ in range(400):
        outstanding.extend(lookup.requests(now))
        if lookup.finished:
            break
        act = data.draw(st.sampled_from(["answer", "fail", "wait"]))
        if act == "wait" or not outstanding:
            now = lookup.wake_at() or now + 1.0
            continue
        who = outstanding.pop(data.draw(st.integers(0, len(outstanding) - 1)))
        now += 0.01
        if act == "answer":
            lookup.answered(who.peer_id, data.draw(st.lists(st.sampled_from(crowd), max_size=25)), now)
        else:
            lookup.failed(who.peer_id, now)
    assert lookup.finished
    found = lookup.closest(8)
    assert len({n.peer_id for n in found}) == len(found) <= 8


@pytest.mark.parametrize("count", [1, 8, 20])
def test_closest_never_names_a_peer_twice(count: int) -> None:
    nodes, tables = network(100)
    target = location_of(b"y")
    lookup = start(target, tables[nodes[0].peer_id].closest(target))
    run(lookup, lambda asked: tables[asked.peer_id].closest(target))
    found = [n.peer_id for n in lookup.closest(count)]
    assert len(set(found)) == len(found)


def test_far_peers_that_were_asked_make_room_for_near_ones() -> None:
    """A path remembers KAD_PATH_CANDIDATES peers. Full of answers from afar, it must still take in nearer ones."""
    by_distance = sorted((node(n) for n in range(400)), key=lambda n: n.location)
    far = by_distance[300:360]
    steps = {n.peer_id: by_distance[240 - 20 * at : 260 - 20 * at] for at, n in enumerate(far[:10])}
    lookup = Lookup(0, far, now=0.0, timeouts=Timeouts(), paths=1, count=8)
    run(lookup, lambda asked: steps.get(asked.peer_id, by_distance[:20]))
    assert lookup.closest(8) == tuple(by_distance[:8])
