"""A machine's line inwards: one piece after another, in the order in which they arrive."""

from __future__ import annotations


class Downlink:
    """When what is under way will have come in. Senders are near and far: what is sent now may arrive long before
    something sent earlier, and goes into the gap before it."""

    __slots__ = ("_busy",)

    def __init__(self) -> None:
        self._busy: list[list[float]] = []  # from, until; in order, apart from each other

    def receive(self, at: float, takes: float, now: float) -> float:
        """When a piece that reaches the line `at` has come in. All in seconds; bounded by the pieces under way."""
        busy = self._busy
        while busy and busy[0][1] <= now:
            del busy[0]
        place = len(busy)
        while place and busy[place - 1][1] > at:
            place -= 1
        while place < len(busy) and at + takes > busy[place][0]:
            at = max(at, busy[place][1])
            place += 1
        end = at + takes
        joins_next = place < len(busy) and busy[place][0] <= end
        if place and busy[place - 1][1] >= at:
            busy[place - 1][1] = end
            if joins_next:
                busy[place - 1][1] = busy[place][1]
                del busy[place]
        elif joins_next:
            busy[place][0] = at
        else:
            busy.insert(place, [at, end])
        return end
