"""An adaptive time-out from the answers seen so far, after RFC 6298 section 2: mean plus four mean deviations."""

from __future__ import annotations

from p2pe.config import KAD_MIN_TIMEOUT, KAD_QUERY_TIMEOUT

_GAIN_MEAN = 1 / 8
_GAIN_DEVIATION = 1 / 4


class Timeouts:
    """One a node, shared by its lookups. Seconds."""

    def __init__(self, least: float = KAD_MIN_TIMEOUT, most: float = KAD_QUERY_TIMEOUT) -> None:
        self._least = least
        self._most = most
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
            return self._most
        return min(self._most, max(self._least, self._mean + 4 * self._deviation))

    @property
    def limit(self) -> float:
        """How long an answer may take at all."""
        return self._most
