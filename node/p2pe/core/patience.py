"""How long to wait for an answer on a line whose round trip is known. Pure.

A time-out that suits a usual line cuts off a satellite's, Tor's or a swamped one's. So each is a least: where the round
trip is long, it is so many of them as the exchange takes, and three more, since one lost segment costs two (RFC 6298:
the retransmission timer is at least one, and doubles).
"""

from __future__ import annotations

from collections import deque

from p2pe.config import HANDSHAKE_TIMEOUT, PACE_SAMPLES, ROUND_TRIP_MAX

_SPARE_TRIPS = 3
_HANDSHAKE_TRIPS = 3  # negotiating its stream, Hello and its reply, two messages of Noise


def patience(least: float, round_trip: float | None, trips: int) -> float:
    """Seconds for an exchange of `trips` round trips: `least`, or what the line needs."""
    return max(least, (trips + _SPARE_TRIPS) * min(round_trip or 0.0, ROUND_TRIP_MAX))


def handshake_patience(round_trip: float | None) -> float:
    """Seconds for a session's handshake."""
    return patience(HANDSHAKE_TIMEOUT, round_trip, _HANDSHAKE_TRIPS)


class Pace:
    """The round trip that everything on our own line takes at the least: the shortest of the last connections made.

    One slow peer doesn't make a line slow, and one quick answer shows that it isn't.
    """

    def __init__(self, samples: int = PACE_SAMPLES) -> None:
        self._latest: deque[float] = deque(maxlen=samples)

    def observed(self, round_trip: float) -> None:
        self._latest.append(round_trip)

    @property
    def round_trip(self) -> float:
        """Seconds; 0 before the first connection."""
        return min(self._latest, default=0.0)

    def forget(self) -> None:
        """The network has changed."""
        self._latest.clear()
