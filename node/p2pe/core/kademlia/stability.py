"""How long servers stay, as a publisher sees it: so that nobody publishes more often than the overlay's churn needs.

Whenever a record is stored again with servers that were remembered, some have left. Pooled over all records that gives
a rate of leaving, and from it the pause after which the next refresh is due: PUBLISH_LOSS expected departures a storer.
Measured (p2pe-sim dht): of the records refreshed like that 99.9 % and more are found, whatever the rate.
"""

from __future__ import annotations

from p2pe.config import PUBLISH_LOSS, RECORD_REFRESH, RECORD_REFRESH_MAX

_PRIOR_RATE = 0.3 / 3600.0  # departures a second and storer, until there is evidence: a third of all in an hour
_PRIOR_WEIGHT = 40 * 3600.0  # storer-seconds of evidence that this guess is worth
_MEMORY = 1_000 * 3600.0  # storer-seconds after which older evidence fades


class Stability:
    """One a node. Seconds."""

    def __init__(self) -> None:
        self._left = _PRIOR_RATE * _PRIOR_WEIGHT
        self._exposure = _PRIOR_WEIGHT
        self.is_small = False  # so few servers that each one's restart counts

    def observed(self, stayed: int, left: int, after: float) -> None:
        """Of `stayed + left` servers that were there `after` seconds ago, so many still are."""
        self._left += left
        self._exposure += (stayed + left / 2) * max(0.0, after)  # they left half-way, on average
        if self._exposure > _MEMORY:
            self._left *= _MEMORY / self._exposure
            self._exposure = _MEMORY

    @property
    def leaving_per_hour(self) -> float:
        """The share of servers that leave within a short time, times hours."""
        return 3600.0 * self._left / self._exposure

    @property
    def refresh_seconds(self) -> float:
        """The pause until a record needs to be stored again: RECORD_REFRESH to RECORD_REFRESH_MAX."""
        if self.is_small:
            return RECORD_REFRESH
        wanted = PUBLISH_LOSS * self._exposure / max(self._left, 1e-9)
        return min(RECORD_REFRESH_MAX, max(RECORD_REFRESH, wanted))
