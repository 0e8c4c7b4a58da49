"""Votes about our own address."""

from __future__ import annotations

from p2pe import config
from p2pe.core.observed import NatKind, Observations
from p2pe.model import Address


def tcp(ip: str, port: int = 4001) -> Address:
    return Address(f"/ip4/{ip}/tcp/{port}")


SEEN = tcp("203.0.113.7", 5000)
OWN = (tcp("192.168.1.5"),)


def test_neighbours_have_one_vote_together() -> None:
    votes = Observations(votes_needed=2)
    for host in range(1, 50):
        assert votes.record(SEEN, tcp(f"8.8.8.{host}"), now=0)
    assert votes.confirmed(now=1) == () and votes.candidates(now=1) == (SEEN,)
    votes.record(SEEN, tcp("8.8.9.1"), now=0)
    assert votes.confirmed(now=1) == (SEEN,)


def test_what_says_nothing_is_not_recorded() -> None:
    votes = Observations()
    assert not votes.record(tcp("10.0.0.1"), tcp("8.8.8.8"), 0)  # private
    assert not votes.record(SEEN, tcp("10.0.0.1"), 0)  # from our own network
    assert not votes.record(Address("/ip4/203.0.113.7/udp/1"), tcp("8.8.8.8"), 0)
    assert not votes.record(Address("/dns4/us.example/tcp/1"), tcp("8.8.8.8"), 0)
    assert votes.candidates(0) == ()


def test_votes_expire_and_are_replaced() -> None:
    votes = Observations(votes_needed=1)
    votes.record(SEEN, tcp("8.8.8.8"), now=0)
    moved = tcp("203.0.113.7", 5001)
    votes.record(moved, tcp("8.8.8.8"), now=10)
    assert votes.candidates(11) == (moved,)
    assert votes.has_asked(tcp("8.8.8.1"), 11) and not votes.has_asked(tcp("8.8.7.1"), 11)
    assert not votes.has_asked(tcp("8.8.8.1"), 10 + config.OBSERVED_SECONDS * 0.6)
    assert votes.candidates(10 + config.OBSERVED_SECONDS) == ()
    votes.record(moved, tcp("8.8.8.8"), now=20)
    votes.forget()
    assert votes.candidates(21) == ()


def test_memory_is_bounded_under_a_flood_of_claims() -> None:
    votes = Observations()
    for number in range(10_000):
        votes.record(tcp("203.0.113.7", 1 + number % 60_000), tcp(f"20.{number >> 8}.{number & 255}.1"), 0)
    assert len(votes._votes) <= 4 * config.OBSERVED_ADDRESSES
    assert len(votes.candidates(1)) <= config.OBSERVED_ADDRESSES


def test_nat_kinds() -> None:
    votes = Observations()
    assert votes.nat_kind(OWN, 0) is NatKind.UNKNOWN
    votes.record(SEEN, tcp("8.8.8.8"), 0)
    assert votes.nat_kind(OWN, 0) is NatKind.UNKNOWN
    votes.record(tcp("203.0.113.7", 5001), tcp("9.9.9.9"), 0)
    assert votes.nat_kind(OWN, 0) is NatKind.DEPENDENT
    votes.record(SEEN, tcp("9.9.9.9"), 0)
    assert votes.nat_kind(OWN, 0) is NatKind.INDEPENDENT
    assert votes.nat_kind((SEEN,), 0) is NatKind.NONE
