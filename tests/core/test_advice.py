"""What `p2pe why` advises: one situation a row."""

from __future__ import annotations

from dataclasses import replace

import pytest
from p2pe.core.advice import Own, advise
from p2pe.core.observed import NatKind
from p2pe.core.paths import RelayPolicy
from p2pe.core.reachability import Reachable
from p2pe.model import ContactId, ContactReachability, Millis, PathAttempt, PathKind

USUAL = Own(RelayPolicy.FALLBACK, Reachable.PRIVATE, NatKind.INDEPENDENT, relays=2, directory_peers=3)


def tried(step: str, outcome: str) -> PathAttempt:
    return PathAttempt(Millis(1), step, "", outcome, 0.1)


def reach(path: PathKind | None, *attempts: PathAttempt) -> ContactReachability:
    return ContactReachability(ContactId(1), path is not None, path, attempts=attempts)


@pytest.mark.parametrize("path", [PathKind.LAN, PathKind.DIRECT, PathKind.PUNCHED])
def test_nothing_to_better_on_a_direct_path(path: PathKind) -> None:
    assert advise(reach(path, tried("dial", "timed out")), USUAL) == ()


@pytest.mark.parametrize(
    ("own", "attempts", "part"),
    [
        (USUAL, (), "tried yet"),
        (USUAL, (tried("punch", "timed out"),), "Hole punching failed"),
        (replace(USUAL, nat=NatKind.DEPENDENT), (tried("punch", "timed out"),), "symmetric NAT"),
        (replace(USUAL, policy=RelayPolicy.ONLY), (), "relay = only"),
    ],
)
def test_on_a_relay(own: Own, attempts: tuple[PathAttempt, ...], part: str) -> None:
    (sentence,) = advise(reach(PathKind.RELAYED, *attempts), own)
    assert part in sentence


@pytest.mark.parametrize(
    ("own", "attempts", "part"),
    [
        (replace(USUAL, directory_peers=0), (tried("lookup", "no server"),), "No directory server"),
        (USUAL, (tried("lookup", "not online: no address of theirs is published"),), "look offline"),
        (replace(USUAL, records_refused=True), (tried("lookup", "not online: none"),), "clock right?"),
        (USUAL, (tried("lookup", "ok"), tried("handshake", "the handshake failed: x")), "can't prove"),
        (
            replace(USUAL, policy=RelayPolicy.NEVER),
            (tried("lookup", "ok"), tried("dial", "timed out")),
            "relay = never",
        ),
        (replace(USUAL, policy=RelayPolicy.ONLY), (tried("lookup", "ok"),), "hold no relay"),
        (USUAL, (tried("lookup", "ok"), tried("relay", "timed out")), "online lately"),
        (USUAL, (tried("handshake", "ok: they came"), tried("relay", "timed out")), "online lately"),
        (replace(USUAL, relays=0), (tried("lookup", "ok"), tried("dial", "timed out")), "No relay holds"),
    ],
)
def test_unreached(own: Own, attempts: tuple[PathAttempt, ...], part: str) -> None:
    assert any(part in sentence for sentence in advise(reach(None, *attempts), own))


def test_blocked() -> None:
    assert advise(reach(None), USUAL, blocked=True) == ("`p2pe unblock` lets messages through again.",)
