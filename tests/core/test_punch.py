"""Hole punching's conversation: order, timing, roles, and which addresses are named and dialled."""

from __future__ import annotations

import pytest
from p2pe import config
from p2pe.core.addresses import is_public
from p2pe.core.punch import (
    Initiator,
    Plan,
    PunchMessage,
    Responder,
    Said,
    gives_way,
    round_seconds,
    silence_of,
    worth_dialling,
    worth_naming,
)
from p2pe.errors import RemoteError
from p2pe.model import Address, PeerId

A = Address("/ip4/5.1.0.1/tcp/4001")
B = Address("/ip4/5.2.0.1/tcp/14001")
B6 = Address("/ip6/2a05:2::1/tcp/4001")
PRIVATE = Address("/ip4/192.168.1.2/tcp/4001")
CIRCUIT = Address("/ip4/5.9.0.1/tcp/4001/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA/p2p-circuit")


def test_a_round_from_connect_to_both_plans() -> None:
    initiator, responder = Initiator(is_public), Responder(is_public)
    answer = responder.receive(initiator.begin([A], 10.0), [B, B6])
    assert answer == PunchMessage(Said.CONNECT, (B, B6))
    plan = initiator.receive(answer, 10.3)
    assert plan.addresses == (B, B6) and plan.wait == pytest.approx(0.15) and not plan.is_client
    theirs = responder.receive(PunchMessage(Said.SYNC))
    assert theirs == Plan((A,), 0.0, True, None)


@pytest.mark.parametrize("message", [PunchMessage(Said.SYNC), PunchMessage(Said.SYNC, (A,))])
def test_an_initiator_takes_nothing_but_connect(message: PunchMessage) -> None:
    initiator = Initiator(is_public)
    initiator.begin([A], 0.0)
    with pytest.raises(RemoteError):
        initiator.receive(message, 1.0)


def test_an_answer_counts_once() -> None:
    initiator = Initiator(is_public)
    initiator.begin([A], 0.0)
    initiator.receive(PunchMessage(Said.CONNECT, (B,)), 0.1)
    with pytest.raises(RemoteError):
        initiator.receive(PunchMessage(Said.CONNECT, (B,)), 0.2)


def test_a_responder_takes_connect_and_then_sync() -> None:
    with pytest.raises(RemoteError):
        Responder(is_public).receive(PunchMessage(Said.SYNC))
    responder = Responder(is_public)
    responder.receive(PunchMessage(Said.CONNECT, (A,)))
    with pytest.raises(RemoteError):
        responder.receive(PunchMessage(Said.CONNECT, (A,)))


def test_a_slow_answer_does_not_delay_the_dial_beyond_a_round() -> None:
    initiator = Initiator(is_public)
    initiator.begin([], 0.0)
    assert initiator.receive(PunchMessage(Said.CONNECT, (B,)), 60.0).wait == config.ROUND_TRIP_MAX


def test_what_a_peer_names_is_dialled_only_where_it_makes_sense() -> None:
    victims = [Address(f"/ip4/5.3.0.{n}/tcp/80") for n in range(50)]
    named = [PRIVATE, CIRCUIT, Address("/dns4/example.org/tcp/80"), B, B, *victims]
    dialled = worth_dialling(named, is_public)
    assert dialled[0] == B and len(dialled) == config.PUNCH_ADDRESSES == len(set(dialled))


def test_what_we_name_has_both_ip_versions_and_nothing_private() -> None:
    observed = [Address(f"/ip4/5.3.0.1/tcp/{port}") for port in range(1, 9)]
    named = worth_naming(observed, [PRIVATE, CIRCUIT, B6], is_public)
    assert B6 in named and observed[0] in named and len(named) == config.PUNCH_ADDRESSES
    assert PRIVATE not in named and CIRCUIT not in named


def test_of_two_who_initiate_exactly_one_gives_way() -> None:
    one, other = PeerId(b"\x00\x01a"), PeerId(b"\x00\x01b")
    assert gives_way(one, other) is not gives_way(other, one)


def test_a_round_lasts_two_round_trips_at_the_least_and_is_bounded() -> None:
    assert round_seconds(None) == round_seconds(0.2) == config.PUNCH_ROUND_SECONDS
    assert round_seconds(5.0) == 10.0
    assert round_seconds(3_600.0) == 2 * config.ROUND_TRIP_MAX


def test_patience_outlasts_two_round_trips() -> None:
    assert silence_of(1.0, 0) == 2.0
    assert silence_of(None, 0) == config.PUNCH_SILENCE_SECONDS == silence_of(0.01, 0)
    assert silence_of(0.01, 2) == 4 * config.PUNCH_SILENCE_SECONDS
