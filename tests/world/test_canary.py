"""The private names of trio, and of rooms of ours, that the simulated world holds on to. One that is gone must be
missed here, not in a run that silently is no longer a function of its plan."""

from __future__ import annotations

import inspect
import random

import trio
import trio.testing
from p2pe.messaging.courier import Couriers
from p2pe.overlay.noise import SecureStream
from p2pe.storage.database import Database
from p2pe_sim.world.clock import GRID, call_at, jumping_clock


def test_trio_still_has_what_determinism_uses() -> None:
    scheduler = trio._core._run
    assert isinstance(scheduler._r, random.Random)
    assert scheduler._ALLOW_DETERMINISTIC_SCHEDULING in (True, False)
    source = inspect.getsource(scheduler.unrolled_run)
    assert "_ALLOW_DETERMINISTIC_SCHEDULING" in source
    assert "_r.shuffle" in source
    assert "runner.clock._autojump()" in source


def test_the_clock_jumps_exactly_and_only_when_nothing_can_run() -> None:
    async def main() -> None:
        for seconds in (0.1, 30.0, 1e-9, 0.3, 7.7):
            began = trio.current_time()
            await trio.sleep(seconds)
            took = trio.current_time() - began
            assert seconds <= took < seconds + 2 / GRID
            assert (trio.current_time() * GRID).is_integer()

    trio.run(main, clock=jumping_clock())


def test_code_that_sleeps_for_the_rest_of_a_limit_gets_on() -> None:
    """With trio's own mock clock this loops for ever at some starts: the rest is smaller than time can show."""

    async def main() -> None:
        for start in range(200):
            await trio.sleep(start * 0.0371)
            since = trio.current_time()
            rounds = 0
            while (idle := trio.current_time() - since) < 30.1:
                rounds += 1
                assert rounds < 5
                await trio.sleep(30.1 - idle)

    trio.run(main, clock=jumping_clock())


def test_calls_are_made_at_their_time_in_order_and_wake_tasks() -> None:
    made: list[tuple[str, float]] = []

    async def main() -> None:
        woken = trio.Event()
        for name, at in (("second", 2.5), ("first", 1.0), ("third", 2.5)):
            call_at(at, lambda name=name: made.append((name, trio.current_time())))  # type: ignore[misc]
        call_at(4.0, woken.set)
        with trio.move_on_after(3.0) as waiting:
            await woken.wait()
        assert waiting.cancelled_caught and trio.current_time() == 3.0
        await woken.wait()
        assert trio.current_time() == 4.0

    trio.run(main, clock=jumping_clock())
    assert made == [("first", 1.0), ("second", 2.5), ("third", 2.5)]


def test_trio_still_has_what_the_clock_uses() -> None:
    source = inspect.getsource(trio._core._run.unrolled_run)
    assert "runner.clock.start_clock()" in source
    assert "runner.deadlines.expire(now)" in source
    assert "runner.deadlines.next_deadline()" in source
    uses = inspect.getsource(trio._core._run)
    assert uses.count("in runner.instruments") + uses.count("in self.instruments") == uses.count("instruments.call(")


def test_our_own_rooms_still_have_what_the_observer_uses() -> None:
    assert {"_run_group"} <= set(vars(Database))
    assert "self._writer" in inspect.getsource(Database.__init__)
    assert {"attach", "detach"} <= set(vars(Couriers))
    assert {"_open", "_stream"} <= set(vars(SecureStream))
