"""Verdicts of dial-back servers."""

from __future__ import annotations

from p2pe import config
from p2pe.core.reachability import Reachable, Verdicts
from p2pe.model import Address

HERE = Address("/ip4/203.0.113.7/tcp/4001")
THERE = Address("/ip4/203.0.113.7/tcp/4002")


def test_one_proof_is_enough_and_one_denial_is_not() -> None:
    verdicts = Verdicts(agreement=2)
    assert verdicts.verdict(HERE) is Reachable.UNKNOWN
    verdicts.record(HERE, b"a", False, 0)
    verdicts.record(HERE, b"a", False, 1)
    assert verdicts.verdict(HERE) is Reachable.UNKNOWN
    verdicts.record(HERE, b"b", False, 2)
    assert verdicts.verdict(HERE) is Reachable.PRIVATE
    verdicts.record(HERE, b"c", True, 3)
    assert verdicts.verdict(HERE) is Reachable.PUBLIC and verdicts.reachable() == (HERE,)


def test_a_proof_is_undone_by_several_alone() -> None:
    verdicts = Verdicts(agreement=2)
    verdicts.record(HERE, b"a", True, 0)
    verdicts.record(HERE, b"b", False, 1)
    assert verdicts.verdict(HERE) is Reachable.PUBLIC
    verdicts.record(HERE, b"c", False, 2)
    assert verdicts.verdict(HERE) is Reachable.PRIVATE


def test_the_node_as_a_whole() -> None:
    verdicts = Verdicts(agreement=1)
    assert verdicts.overall([]) is Reachable.UNKNOWN
    verdicts.record(HERE, b"a", False, 0)
    assert verdicts.overall([HERE]) is Reachable.PRIVATE
    assert verdicts.overall([HERE, THERE]) is Reachable.UNKNOWN
    verdicts.record(THERE, b"a", True, 0)
    assert verdicts.overall([HERE, THERE]) is Reachable.PUBLIC
    verdicts.forget()
    assert verdicts.overall([HERE, THERE]) is Reachable.UNKNOWN


def test_what_to_check_next() -> None:
    verdicts = Verdicts(agreement=1)
    verdicts.record(HERE, b"a", True, 0)
    assert verdicts.to_check([HERE, THERE], 10, interval=100) == (THERE,)
    assert verdicts.to_check([HERE, THERE], 100, interval=100) == (THERE, HERE)


def test_memory_is_bounded() -> None:
    verdicts = Verdicts()
    for port in range(5_000):
        verdicts.record(Address(f"/ip4/203.0.113.7/tcp/{port}"), b"a", True, 0)
    assert len(verdicts.reachable()) <= 2 * config.OBSERVED_ADDRESSES
