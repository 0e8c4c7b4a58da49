"""How circuits through each relay have ended of late: whom to avoid while there is another. Pure.

A relay that drops, alters or repeats what it carries does no harm to messages, but every link through it breaks. It
looks like an honest one until then, so it is judged by what became of contacts' links. Strangers' circuits don't count:
they could talk us out of an honest relay. A contact whose own line dies counts against its relay; that costs an honest
one its place in the order for a while, and no more than that.
"""

from __future__ import annotations

from p2pe import config
from p2pe.model import PeerId


class RelayStanding:
    """Times are seconds of any one clock."""

    def __init__(self) -> None:
        self._failures: dict[PeerId, list[float]] = {}  # when; the relay that failed last comes last

    def failed(self, relay: PeerId, now: float) -> None:
        """A contact's link through it broke while the relay itself was there."""
        times = [*self._failures.pop(relay, ()), now][-config.RELAY_FAILURES_DOUBTED :]
        self._failures[relay] = times
        while len(self._failures) > config.RELAY_STANDINGS:
            del self._failures[next(iter(self._failures))]

    def failures(self, relay: PeerId, now: float) -> int:
        """In the last RELAY_FAILURE_SECONDS; at most RELAY_FAILURES_DOUBTED are counted."""
        return sum(at > now - config.RELAY_FAILURE_SECONDS for at in self._failures.get(relay, ()))

    def is_doubted(self, relay: PeerId, now: float) -> bool:
        """Whether another relay is to take its place."""
        return self.failures(relay, now) >= config.RELAY_FAILURES_DOUBTED
