"""Virtual time: trio's clock jumps from deadline to deadline, and each node's wall clock is derived from it."""

from __future__ import annotations

import math
from typing import Any, Final

import trio
import trio.testing
from p2pe.model import Millis

GRID: Final = 2.0**20  # ticks a second


def jumping_clock() -> trio.testing.MockClock:
    """Jumps to the next deadline as soon as nothing can run, rounded up to a tick of 2^-20 s.

    Trio's own mock clock adds the distance to its time, and may so land a rounding error before the deadline: code
    that sleeps for what is left of a limit then sleeps for nothing, for ever. Times that are multiples of a power
    of two are exact, and so are their differences. (The class is final, hence the functions put into one instance.)
    """
    clock: Any = trio.testing.MockClock(autojump_threshold=0)
    now = 0.0

    def current_time() -> float:
        return now

    def autojump() -> None:
        nonlocal now
        deadline = trio._core._run.GLOBAL_RUN_CONTEXT.runner.deadlines.next_deadline()  # type: ignore[attr-defined]
        if deadline > now:
            if deadline == math.inf:
                raise RuntimeError("the simulated world stands still: every task waits for another one")
            now = math.ceil(deadline * GRID) / GRID

    clock.current_time = current_time
    clock._autojump = autojump
    made: trio.testing.MockClock = clock
    return made


class VirtualClock:
    """ports.Clock of one node. `begins_at`: what a right one shows when the run begins, seconds since 1970. `skew`:
    seconds ahead; a fault may set it."""

    def __init__(self, begins_at: int, skew: float = 0.0) -> None:
        self.skew = skew
        self.epoch = Millis(1000 * begins_at)
        self.reads = 0

    def now(self) -> Millis:
        self.reads += 1
        return Millis(self.epoch + round(1000 * (trio.current_time() + self.skew)))
