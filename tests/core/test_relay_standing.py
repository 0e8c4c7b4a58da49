"""Relays are judged by what became of contacts' links, for a while; memory is bounded."""

from __future__ import annotations

from p2pe.config import RELAY_FAILURE_SECONDS, RELAY_FAILURES_DOUBTED, RELAY_STANDINGS
from p2pe.core.relay_standing import RelayStanding
from p2pe.model import PeerId


def relay(number: int) -> PeerId:
    return PeerId(number.to_bytes(38, "big"))


def test_doubt_comes_after_several_failures_and_goes_with_time() -> None:
    standing = RelayStanding()
    for count in range(RELAY_FAILURES_DOUBTED):
        assert not standing.is_doubted(relay(1), 100.0 + count)
        standing.failed(relay(1), 100.0 + count)
        assert standing.failures(relay(1), 100.0 + count) == count + 1
    assert standing.is_doubted(relay(1), 103.0)
    assert standing.failures(relay(2), 103.0) == 0
    assert standing.failures(relay(1), 100.0 + RELAY_FAILURE_SECONDS) == RELAY_FAILURES_DOUBTED - 1
    assert not standing.is_doubted(relay(1), 100.0 + RELAY_FAILURE_SECONDS)
    assert standing.failures(relay(1), 103.0 + RELAY_FAILURE_SECONDS) == 0


def test_what_is_remembered_has_a_bound() -> None:
    standing = RelayStanding()
    for _ in range(10 * RELAY_FAILURES_DOUBTED):
        standing.failed(relay(0), 1.0)
    for number in range(1, RELAY_STANDINGS):
        standing.failed(relay(number), 2.0)
    assert standing.failures(relay(0), 3.0) == RELAY_FAILURES_DOUBTED
    standing.failed(relay(RELAY_STANDINGS), 2.0)
    assert standing.failures(relay(0), 3.0) == 0
    assert len(standing._failures) == RELAY_STANDINGS
    assert all(len(times) <= RELAY_FAILURES_DOUBTED for times in standing._failures.values())
