"""An adaptive time-out from the answers seen so far, after RFC 6298 section 2: mean plus four mean deviations.

Its bounds are those of a usual line, or what our own needs where that is slow.
"""

from __future__ import annotations

from p2pe.config import (
    KAD_LOOKUP_TIMEOUT,
    KAD_LOOKUP_TRIPS,
    KAD_MIN_TIMEOUT,
    KAD_QUERY_TIMEOUT,
    KAD_QUERY_TRIPS,
    ROUND_TRIP_MAX,
)
from p2pe.core.patience import Pace, patience

_GAIN_MEAN = 1 / 8
_GAIN_DEVIATION = 1 / 4


class Timeouts:
    """One a node, shared by its lookups. Seconds."""

    def __init__(self, pace: Pace | None = None) -> None:
        self._pace = pace or Pace()
        self._mean: float | None = None
        self._deviation = 0.0

    def observed(self, took: float) -> None:
        """An answer came after `took` seconds, connecting included."""
        if self._mean is None:
            self._mean, self._deviation = took, took / 2
            return
        self._deviation += _GAIN_DEVIATION * (abs(self._mean - took) - self._deviation)
        self._mean += _GAIN_MEAN * (took - self._mean)

    @property
    def patience(self) -> float:
        """How long an answer may take before somebody else is asked as well."""
        if self._mean is None:
            return self.limit
        wanted = max(KAD_MIN_TIMEOUT, self._mean + 4 * self._deviation)
        return wanted if wanted <= KAD_QUERY_TIMEOUT else min(self.limit, wanted)  # the limit is no shorter

    @property
    def limit(self) -> float:
        """How long an answer may take at all."""
        return patience(KAD_QUERY_TIMEOUT, self._pace.round_trip, KAD_QUERY_TRIPS)

    @property
    def whole(self) -> float:
        """How long a lookup may take."""
        return max(KAD_LOOKUP_TIMEOUT, KAD_LOOKUP_TRIPS * min(self._pace.round_trip, ROUND_TRIP_MAX))
