"""Virtual time: events in order, each a call."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Heap:
    """Events in order of time, then of scheduling."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, when: float, action: Callable[[], None]) -> None:
        """What is due already comes now: time doesn't go back."""
        heapq.heappush(self._queue, (max(when, self.now), next(self._order), action))

    def after(self, delay: float, action: Callable[[], None]) -> None:
        self.at(self.now + delay, action)

    def run(self, until: float) -> None:
        """All events up to and including `until`."""
        queue, pop, events = self._queue, heapq.heappop, 0
        while queue and queue[0][0] <= until:
            self.now, _, action = pop(queue)
            events += 1
            action()
        self.events += events
        self.now = until
