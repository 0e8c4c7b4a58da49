"""When a network counts as small enough to be known whole, and for how long."""

from __future__ import annotations

import pytest
from p2pe.config import KAD_FEW_SECONDS, KAD_STORE_COUNT
from p2pe.core.kademlia.few import Few
from p2pe.core.kademlia.keyspace import Node, location_of
from p2pe.core.kademlia.lookup import Lookup
from p2pe.core.kademlia.timeouts import Timeouts
from p2pe.model import PeerId


def node(number: int) -> Node:
    peer_id = PeerId(b"\x00\x08" + number.to_bytes(8, "big"))
    return Node(peer_id, location_of(peer_id), (), ())


NODES = tuple(node(n) for n in range(KAD_STORE_COUNT))
TARGET = location_of(b"a key")


def lookup(*seeds: Node) -> Lookup:
    return Lookup(TARGET, seeds, now=0.0, timeouts=Timeouts(), paths=3)


def test_everybody_was_named_asked_and_has_answered() -> None:
    one = lookup(*NODES[:2])
    assert {n.peer_id for n in one.requests(0.0)} == {n.peer_id for n in NODES[:2]}
    assert one.everybody() is None
    one.answered(NODES[0].peer_id, NODES[1:3], 0.1)
    one.answered(NODES[1].peer_id, NODES[:3], 0.1)
    assert one.everybody() is None  # the third was named
    assert [n.peer_id for n in one.requests(0.1)] == [NODES[2].peer_id]
    assert one.everybody() is None
    one.answered(NODES[2].peer_id, NODES[:2], 0.2)
    assert one.requests(0.2) == () and one.finished
    assert {n.peer_id for n in one.everybody() or ()} == {n.peer_id for n in NODES[:3]}


def test_one_that_failed_makes_it_unknown() -> None:
    one = lookup(*NODES[:2])
    one.requests(0.0)
    one.answered(NODES[0].peer_id, NODES[1:2], 0.1)
    one.failed(NODES[1].peer_id, 0.1)
    one.requests(0.1)
    assert one.finished and one.everybody() is None


def test_they_are_known_for_a_moment_nearest_first() -> None:
    few = Few()
    assert few.nearest(TARGET, 0.0) == ()
    few.learn(NODES[:3], 5.0)
    nearest = few.nearest(TARGET, 5.0 + KAD_FEW_SECONDS - 0.1)
    assert list(nearest) == sorted(NODES[:3], key=lambda n: n.location ^ TARGET)
    assert few.nearest(TARGET, 5.0 + KAD_FEW_SECONDS) == ()


@pytest.mark.parametrize("count", [0, 1, KAD_STORE_COUNT])
def test_neither_one_nor_many_are_few(count: int) -> None:
    few = Few()
    few.learn(NODES[:count], 0.0)
    assert few.nearest(TARGET, 0.0) == ()


def test_one_that_does_not_answer_ends_it() -> None:
    few = Few()
    few.learn(NODES[:3], 5.0)
    few.doubt()
    assert few.nearest(TARGET, 5.0) == ()
