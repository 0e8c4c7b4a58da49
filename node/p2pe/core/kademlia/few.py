"""All servers of a small network, for as long as nothing casts doubt on it.

Where there are fewer servers than a record has storers, every lookup asks all of them, and gives the same ones. When
each of them was asked, has answered, and named fewer peers than a reply holds, then those are all that any of them
knows: the lookups that come with it in a burst, one for each record of a start, would learn nothing more.
"""

from __future__ import annotations

from p2pe.config import KAD_FEW_SECONDS, KAD_STORE_COUNT
from p2pe.core.kademlia.keyspace import Node

_NEVER = float("-inf")


class Few:
    """`now` is seconds of a steady clock."""

    __slots__ = ("_nodes", "found_at")

    def __init__(self) -> None:
        self._nodes: tuple[Node, ...] = ()
        self.found_at = _NEVER

    def learn(self, everybody: tuple[Node, ...], now: float) -> None:
        """Of a lookup that has seen everybody. One server alone isn't believed: others join it in these moments."""
        if 1 < len(everybody) < KAD_STORE_COUNT:
            self._nodes, self.found_at = everybody, now

    def doubt(self) -> None:
        """One didn't answer."""
        self.found_at = _NEVER

    def nearest(self, target: int, now: float) -> tuple[Node, ...]:
        """All of them, nearest to a location first; empty when they aren't known to be few."""
        if now >= self.found_at + KAD_FEW_SECONDS:
            return ()
        return tuple(sorted(self._nodes, key=lambda node: node.location ^ target))
