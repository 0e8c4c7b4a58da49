"""Virtual time: trio's clock jumps from deadline to deadline, and each node's wall clock is derived from it.

What the network does at a time (a chunk arrives, a connection attempt reaches its target) is a call, not a task:
`call_at`. A task that sleeps for each costs several steps of the scheduler, and there are hundreds a virtual second.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Any, Final

import trio
import trio.testing
from p2pe.model import Millis

GRID: Final = 2.0**20  # ticks a second


class _NoInstruments(dict[str, Any]):
    """Instead of trio's own collection, which is asked for its members four times a step of each task, in Python."""


class Calls:
    """What is to be called when: in order of time, then of asking."""

    __slots__ = ("_order", "_queue")

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def add(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._order), act))

    @property
    def next_at(self) -> float:
        """Infinite when there is nothing to call."""
        return self._queue[0][0] if self._queue else math.inf

    def run(self, now: float) -> None:
        queue = self._queue
        while queue and queue[0][0] <= now:
            heapq.heappop(queue)[2]()


def call_at(when: float, act: Callable[[], None]) -> None:
    """Calls `act` at that time of the jumping clock that this code runs under, when no task can run. `act` may wake
    tasks, and is in none: what it raises ends the run."""
    clock: Any = trio.lowlevel.current_clock()
    clock.calls.add(when, act)


def jumping_clock() -> trio.testing.MockClock:
    """Jumps to the next deadline or call as soon as nothing can run, rounded up to a tick of 2^-20 s.

    Trio's own mock clock adds the distance to its time, and may so land a rounding error before the deadline: code
    that sleeps for what is left of a limit then sleeps for nothing, for ever. Times that are multiples of a power
    of two are exact, and so are their differences. (The class is final, hence the functions put into one instance.)
    """
    clock: Any = trio.testing.MockClock(autojump_threshold=0)
    calls = clock.calls = Calls()
    now = 0.0

    def current_time() -> float:
        return now

    def autojump() -> None:
        nonlocal now
        deadlines = trio._core._run.GLOBAL_RUN_CONTEXT.runner.deadlines  # type: ignore[attr-defined]
        due = min(deadlines.next_deadline(), calls.next_at)
        if due > now:
            if due == math.inf:
                raise RuntimeError("the simulated world stands still: every task waits for another one")
            now = math.ceil(due * GRID) / GRID
        calls.run(now)
        deadlines.expire(now)  # trio would do it in its next round, which has nothing else to do

    def start_clock() -> None:
        runner = trio._core._run.GLOBAL_RUN_CONTEXT.runner  # type: ignore[attr-defined]
        runner.clock_autojump_threshold = clock.autojump_threshold
        if len(runner.instruments) == 1:  # "_all", which is empty
            runner.instruments = _NoInstruments()

    clock.current_time = current_time
    clock.start_clock = start_clock
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
