"""Routing table: who gets in, who stays, who is handed out."""

from __future__ import annotations

import random

import pytest
from p2pe.config import KAD_BUCKET_PER_SUBNET, KAD_K, KAD_TABLE_PER_SUBNET
from p2pe.core.kademlia.diversity import GroupCounter, groups_of
from p2pe.core.kademlia.keyspace import LOCATION_BITS, Node, key_in_bucket, location_key, location_of, shared_prefix
from p2pe.core.kademlia.routing_table import Added, RoutingTable
from p2pe.model import Address, PeerId


def node(number: int, groups: tuple[bytes, ...] = ()) -> Node:
    peer_id = PeerId(b"\x00\x08" + number.to_bytes(8, "big"))
    return Node(peer_id, location_of(peer_id), (), groups)


LOCAL = node(10_000_000)


def in_bucket(bucket: int, count: int, groups: tuple[bytes, ...] = (), start: int = 0) -> list[Node]:
    found: list[Node] = []
    number = start
    while len(found) < count:
        candidate = node(number, groups)
        number += 1
        if shared_prefix(candidate.location, LOCAL.location) == bucket:
            found.append(candidate)
    return found


def test_closest_is_what_sorting_everybody_would_give() -> None:
    table = RoutingTable(LOCAL)
    for n in range(2000):
        table.add(node(n), 0.0)
    members = table.nodes()
    for target in [location_of(b"%d" % n) for n in range(50)] + [LOCAL.location, 0, members[3].location]:
        expected = sorted(members, key=lambda n: n.location ^ target)[:KAD_K]
        assert table.closest(target, KAD_K) == expected
        assert expected[0] not in table.closest(target, KAD_K, exclude=expected[0].peer_id)


@pytest.mark.parametrize("seed", range(40))
def test_closest_and_due_are_right_after_any_history(seed: int) -> None:
    rng = random.Random(seed)
    table = RoutingTable(LOCAL)
    crowd: list[Node] = []
    for number in range(rng.choice((0, 3, 30, 400))):
        now = number / 400
        depth = rng.choice((0, rng.randrange(250)))  # some far away, some in buckets of their own
        location = LOCAL.location ^ rng.getrandbits(LOCATION_BITS - depth)
        crowd.append(Node(PeerId(b"%d" % number), location, (), (rng.randbytes(3),)))
        table.add(crowd[-1], now)
        victim, returning = rng.choice(crowd), rng.choice(crowd)
        if rng.random() < 0.2:
            table.failed(victim.location, victim.peer_id)
        if rng.random() < 0.1:
            moved = Node(returning.peer_id, returning.location, (Address("/ip4/192.0.2.1"),), returning.groups)
            table.add(moved, now)
        if rng.random() < 0.3:
            heard = rng.choice(crowd)
            table.heard_from(heard.location, heard.peer_id, now)
        if rng.random() < 0.05:
            table.remove(rng.choice(crowd))
        table.due_for_check(now, 0.5)
    entries = [entry for _, bucket in table.buckets() for entry in bucket.entries.values()]
    healthy = [entry.node for entry in entries if not entry.failures]
    assert {id(each) for each in table.nodes()} == {id(each) for each in healthy}
    for target in (
        rng.getrandbits(LOCATION_BITS),
        LOCAL.location,
        LOCAL.location ^ 1,
        *(n.location for n in healthy[:9]),
    ):
        for out in (None, *(each.peer_id for each in rng.sample(crowd, min(5, len(crowd))))):
            count = rng.choice((1, KAD_K, 50))
            others = sorted((n for n in healthy if n.peer_id != out), key=lambda n: n.location ^ target)
            assert table.closest(target, count, exclude=out) == others[:count]
    for unseen in (0.0, 1.2, 1.7, 3.0):
        due = [entry for entry in entries if entry.failures or 2.0 - entry.seen_at >= unseen]
        due.sort(key=lambda entry: (not entry.failures, entry.seen_at))
        assert table.due_for_check(2.0, unseen) == [entry.node for entry in due]
        for most in (1, 7):
            assert table.due_for_check(2.0, unseen, most) == [entry.node for entry in due[:most]]


def test_a_flood_of_newcomers_displaces_nobody_who_answers() -> None:
    table = RoutingTable(LOCAL)
    old = in_bucket(0, KAD_K)
    for n in old:
        assert table.add(n, 0.0) is Added.NEW
    for n in in_bucket(0, 500, start=100_000):
        assert table.add(n, 1.0) is Added.WAITING
    assert {n.peer_id for n in table.nodes()} == {n.peer_id for n in old}
    (_, bucket), *_ = table.buckets()
    assert len(bucket.waiting) == KAD_K


def test_a_failed_peer_makes_room_for_the_newest_waiting() -> None:
    table = RoutingTable(LOCAL)
    old = in_bucket(0, KAD_K)
    late = in_bucket(0, 3, start=100_000)
    for n in old + late:
        table.add(n, 0.0)
    table.failed(old[0].location, old[0].peer_id)
    assert old[0].peer_id not in table
    assert late[-1].peer_id in table
    assert len(table) == KAD_K


def test_who_comes_from_the_waiting_is_checked_by_when_it_last_answered() -> None:
    table = RoutingTable(LOCAL)
    old = in_bucket(0, KAD_K)
    (late,) = in_bucket(0, 1, start=100_000)
    for n in old:
        table.add(n, 0.0)
    table.add(late, 1.0)
    for n in old[1:]:
        table.add(n, 1_000.0)
    table.failed(old[0].location, old[0].peer_id)
    assert late in table.nodes()
    assert table.due_for_check(1_001.0, 900.0) == [late]


def test_an_answer_over_a_peers_own_connection_puts_off_its_check_but_does_not_mend_a_failure() -> None:
    table = RoutingTable(LOCAL)
    a, b = in_bucket(0, 2)
    for n in (a, b):
        table.add(n, 0.0)
    table.failed(b.location, b.peer_id)
    for n in (a, b):
        table.heard_from(n.location, n.peer_id, 1_000.0)
    assert table.due_for_check(1_001.0, 900.0) == [b]


def test_a_peer_that_failed_once_is_handed_to_nobody_and_may_return() -> None:
    table = RoutingTable(LOCAL)
    a, b = in_bucket(0, 2)
    table.add(a, 0.0)
    table.add(b, 0.0)
    table.failed(a.location, a.peer_id)
    assert table.closest(a.location, 5) == [b]
    assert table.due_for_check(1.0, 100.0) == [a]
    table.add(a, 2.0)
    assert a in table.closest(a.location, 5)
    table.failed(a.location, a.peer_id)
    table.failed(a.location, a.peer_id)
    assert a.peer_id not in table


def test_one_network_gets_few_places_in_a_bucket_and_in_the_table() -> None:
    table = RoutingTable(LOCAL)
    for bucket in range(8):
        results = [table.add(n, 0.0) for n in in_bucket(bucket, 4, (b"net",))]
        assert results.count(Added.NEW) <= KAD_BUCKET_PER_SUBNET
    assert len(table) == KAD_TABLE_PER_SUBNET
    leaving = table.nodes()[0]
    table.remove(leaving)
    assert table.add(leaving, 1.0) is Added.NEW  # counts go down again


def test_groups_follow_public_addresses_only() -> None:
    assert groups_of(Address("/ip4/8.8.4.4/tcp/1")) == (bytes([8, 8, 4]),)
    assert groups_of(Address("/ip4/8.8.4.4/tcp/1"), lambda _: 15169) == (bytes([8, 8, 4]), b"asn:\x00\x00\x3b\x41")
    assert groups_of(Address("/ip4/127.0.0.1/tcp/1")) == ()
    assert groups_of(Address("/ip4/192.168.0.4/tcp/1")) == ()
    assert len(groups_of(Address("/ip6/2a00:1450::1/tcp/1"))[0]) == 7


def test_oneself_is_never_a_peer() -> None:
    table = RoutingTable(LOCAL)
    assert table.add(LOCAL, 0.0) is Added.REFUSED
    assert not table.has_room_for(LOCAL)
    assert len(table) == 0


def test_refresh_is_due_where_nothing_was_heard() -> None:
    table = RoutingTable(LOCAL)
    for n in in_bucket(0, 2) + in_bucket(3, 2):
        table.add(n, 0.0)
    assert table.due_for_refresh(10.0, 3600.0) == [1, 2]
    assert table.due_for_refresh(4000.0, 3600.0) == [0, 1, 2]
    table.touch(in_bucket(0, 1)[0].location, 4000.0)
    assert table.due_for_refresh(4000.0, 3600.0) == [1, 2]


def test_keys_for_a_bucket_land_in_it() -> None:
    source = random.Random(1)
    for bucket in range(10):
        key = key_in_bucket(LOCAL.location, bucket, source.randbytes)
        assert len(key) == 34
        assert shared_prefix(location_of(key), LOCAL.location) == bucket


def test_all_slots_of_a_key_share_one_location() -> None:
    keys = [b"/p2pe/" + bytes(range(32)) + bytes([slot]) for slot in range(4)]
    assert len({location_key(key) for key in keys}) == 1
    # frozen: other implementations must compute the same
    assert location_key(keys[0]).hex() == "1220183ba3eeeae8c667e9bca8701232cc077fa2eea76cbace97c7ceaf4017a19382"


def test_a_thin_bucket_is_looked_into_once_and_then_left_alone_for_a_while() -> None:
    table = RoutingTable(LOCAL)
    for each in [*in_bucket(1, 2), *in_bucket(4, 8, start=100)]:
        table.add(each, 0.0)
    assert table.thin_buckets(4, 10.0, 900.0) == [0, 1, 2, 3]
    table.touch(in_bucket(1, 1, start=500)[0].location, 10.0)
    assert table.thin_buckets(4, 20.0, 900.0) == [0, 2, 3]
    table.add(in_bucket(1, 1)[0], 30.0)  # an answer from there isn't a look into it
    assert table.thin_buckets(4, 909.0, 900.0) == [0, 2, 3]
    assert table.thin_buckets(4, 910.0, 900.0) == [0, 1, 2, 3]


def test_where_few_are_known_beyond_a_bucket_may_well_be_thin() -> None:
    table = RoutingTable(LOCAL)
    for each in [*in_bucket(3, 1), *in_bucket(5, 7, start=100)]:
        table.add(each, 0.0)
    assert table.thin_buckets(4) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(10))
def test_a_counter_admits_whom_counting_admits(seed: int) -> None:
    rng = random.Random(seed)
    bounds = {b"a": 2, b"b": 2, b"asn:x": 5, b"asn:y": 5}
    counter, members = GroupCounter(2, 5), list[tuple[bytes, ...]]()
    for _ in range(200):
        groups = rng.choice(((), (b"a",), (b"b", b"asn:x"), (b"a", b"asn:y"), (b"asn:x",)))
        assert counter.admits(groups) == all(sum(g in m for m in members) < bounds[g] for g in groups)
        if members and rng.random() < 0.5:
            counter.remove(members.pop(rng.randrange(len(members))))
        else:
            counter.add(groups)  # admitted or not: a lookup asks crowded networks when there is nobody else
            members.append(groups)
