"""When a person's node serves the directory: after long reachability, and not while that flaps."""

from __future__ import annotations

from p2pe.config import SERVE_AFTER, SERVE_AFTER_MAX, SERVE_LINGER, SERVE_STEADY
from p2pe.core.serving import Serving


def run(serving: Serving, *steps: tuple[float, bool]) -> list[bool]:
    """What `look` says at each (moment, reachable)."""
    return [serving.look(is_reachable, now) for now, is_reachable in steps]


def test_it_serves_after_long_reachability_without_a_break() -> None:
    serving = Serving()
    assert run(serving, (0, False), (10, True), (10 + SERVE_AFTER - 1, True)) == [False] * 3
    assert serving.wake_at() == 10 + SERVE_AFTER
    assert serving.look(True, 10 + SERVE_AFTER)
    broken = Serving()
    assert (
        run(broken, (0, True), (SERVE_AFTER - 1, False), (SERVE_AFTER, True), (2 * SERVE_AFTER - 1, True))[-1] is False
    )
    assert broken.look(True, 2 * SERVE_AFTER)


def test_a_moment_without_an_address_changes_nothing_and_longer_ends_it() -> None:
    serving = Serving()
    assert run(serving, (0, True), (SERVE_AFTER, True))[-1]
    lost = SERVE_AFTER + 100
    assert (
        run(serving, (lost, False), (lost + SERVE_LINGER - 1, False), (lost + SERVE_LINGER - 0.5, True)) == [True] * 3
    )
    assert serving.wake_at() == float("inf")
    assert run(serving, (lost + 200, False), (lost + 200 + SERVE_LINGER, False)) == [True, False]


def test_a_verdict_that_flaps_makes_ever_fewer_changes() -> None:
    """Ten minutes reachable beyond the wait, ten not, for a week."""
    serving, changes, was, now = Serving(), 0, False, 0.0
    for number in range(7 * 24 * 6):
        for _ in range(10):
            now += 60.0
            is_serving = serving.look((number // 4) % 2 == 0, now)  # 40 minutes on, 40 off
            changes += is_serving is not was
            was = is_serving
    assert changes == 2  # after the first time it would have to be reachable for longer than it ever is
    assert serving._wait == 2 * SERVE_AFTER


def test_waits_are_bounded_and_steady_service_is_rewarded() -> None:
    serving, now = Serving(), 0.0
    for _ in range(20):
        now += run(serving, (now, True), (now + SERVE_AFTER_MAX, True))[-1] * SERVE_AFTER_MAX
        run(serving, (now, False), (now + SERVE_LINGER, False))
        now += SERVE_LINGER + 1
    assert serving._wait == SERVE_AFTER_MAX
    assert run(serving, (now, True), (now + SERVE_AFTER_MAX, True))[-1]
    now += SERVE_AFTER_MAX + SERVE_STEADY
    assert run(serving, (now, False), (now + SERVE_LINGER, False))[-1] is False
    assert serving._wait == SERVE_AFTER
