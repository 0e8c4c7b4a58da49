"""Token buckets, one a peer or network, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class RateLimiter:
    """At most `rate` events a second per key, bursts of `burst`; `now` in seconds of any steady clock.

    Remembers at most `max_keys`, forgetting who was silent longest. Forgetting refills: with more keys than that,
    a limit per network (or on connections) must stand in front.
    """

    def __init__(self, rate: float, burst: float, max_keys: int) -> None:
        self._rate = rate
        self._burst = burst
        self._max_keys = max_keys
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def allow(self, key: Hashable, now: float, cost: float = 1.0) -> bool:
        level, at = self._levels.pop(key, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._rate)
        allowed = level >= cost
        self._levels[key] = (level - cost if allowed else level, now)
        if len(self._levels) > self._max_keys:
            self._levels.popitem(last=False)
        return allowed

    def reserve(self, key: Hashable, now: float, max_wait: float) -> float | None:
        """Seconds to wait before the next event of `key` is within the rate; the place is taken. None when that
        would be longer than `max_wait`: refuse."""
        level, at = self._levels.pop(key, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._rate)
        wait = max(0.0, (1.0 - level) / self._rate)
        taken = wait <= max_wait
        self._levels[key] = (level - 1.0 if taken else level, now)
        if len(self._levels) > self._max_keys:
            self._levels.popitem(last=False)
        return wait if taken else None
