"""Which of our addresses strangers can dial: verdicts of dial-back servers, weighed. Pure.

A dial-back that arrived with our nonce proves reachability by itself. That it didn't arrive proves nothing alone
(the server may lie, or its own network be broken): several subnets must say so (libp2p AutoNAT v2 asks for more than
three; our operators are fewer).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from p2pe import config
from p2pe.model import Address

_MAX_ADDRESSES: Final = 2 * config.OBSERVED_ADDRESSES


class Reachable(StrEnum):
    UNKNOWN = "unknown"
    PUBLIC = "public"  # at least one address can be dialled from outside
    PRIVATE = "private"  # every address that was tried is closed


class Verdicts:
    """What servers answered, by address and the server's subnet. Times are seconds of any one clock."""

    def __init__(self, agreement: int = config.REACHABILITY_AGREEMENT) -> None:
        self._agreement = agreement
        self._by_address: dict[Address, dict[bytes, bool]] = {}
        self._checked_at: dict[Address, float] = {}

    def record(self, address: Address, server_subnet: bytes, is_reachable: bool, now: float) -> None:
        votes = self._by_address.pop(address, {})
        if is_reachable:
            votes.clear()  # proof: earlier failures don't hold any more
        elif True in votes.values() and len([v for v in votes.values() if not v]) + 1 >= self._agreement:
            votes = {subnet: v for subnet, v in votes.items() if not v}  # it was open once, and several now say no
        votes.pop(server_subnet, None)
        votes[server_subnet] = is_reachable
        self._by_address[address] = votes
        if is_reachable or True not in votes.values():  # else: it was open once, and another is to be asked at once
            self._checked_at[address] = now
        while len(self._by_address) > _MAX_ADDRESSES:
            oldest = next(iter(self._by_address))
            del self._by_address[oldest]
            self._checked_at.pop(oldest, None)

    def verdict(self, address: Address) -> Reachable:
        votes = self._by_address.get(address, {})
        if any(votes.values()):
            return Reachable.PUBLIC
        return Reachable.PRIVATE if len(votes) >= self._agreement else Reachable.UNKNOWN

    def reachable(self) -> tuple[Address, ...]:
        """Proved ones, in the order in which they were first proved."""
        return tuple(sorted(a for a in self._by_address if self.verdict(a) is Reachable.PUBLIC))

    def overall(self, candidates: Sequence[Address]) -> Reachable:
        """Of this node, given the addresses it might be dialled under now."""
        verdicts = [self.verdict(address) for address in candidates]
        if Reachable.PUBLIC in verdicts:
            return Reachable.PUBLIC
        return Reachable.PRIVATE if verdicts and Reachable.UNKNOWN not in verdicts else Reachable.UNKNOWN

    def to_check(self, candidates: Sequence[Address], now: float, interval: float) -> tuple[Address, ...]:
        """Those worth asking about: unsettled ones first, then those not asked for `interval` seconds."""
        unsettled = [a for a in candidates if self.verdict(a) is Reachable.UNKNOWN]
        stale = [
            a for a in candidates if self.verdict(a) is not Reachable.UNKNOWN and now - self._checked_at[a] >= interval
        ]
        return tuple([*unsettled, *stale][: config.AUTONAT_MAX_ADDRESSES])

    def forget(self) -> None:
        """The network has changed."""
        self._by_address.clear()
        self._checked_at.clear()
