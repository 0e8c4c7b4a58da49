"""What others see of our address, put to the vote; and what that says about the NAT in between. Pure.

Peers tell through identify under which address they see us. A claim counts once per subnet of the peer, for a limited
time; several subnets must agree before an address is believed. Only connections whose local port is a listen port are
worth recording: others show a mapping that nobody can use (libp2p DCUtR, "hole punching").
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from p2pe import config
from p2pe.core.addresses import host_port, is_public, subnet_of
from p2pe.model import Address

_SOURCES: Final = 4 * config.OBSERVED_ADDRESSES  # votes kept; the oldest goes first


class NatKind(StrEnum):
    """Mapping behaviour (RFC 4787 section 4.1), as far as it was seen."""

    UNKNOWN = "unknown"  # fewer than two places have looked
    NONE = "none"  # we are seen under an address of our own
    INDEPENDENT = "endpoint-independent"  # everybody sees the same port: can be punched
    DEPENDENT = "endpoint-dependent"  # each sees another port ("symmetric"): relay only against most


class Observations:
    """Votes by subnet. Times are seconds of any one clock."""

    def __init__(self, votes_needed: int = config.OBSERVED_VOTES, life: float = config.OBSERVED_SECONDS) -> None:
        self._votes_needed = votes_needed
        self._life = life
        self._votes: dict[bytes, tuple[Address, float]] = {}  # reporter's subnet -> its latest claim, its expiry

    def record(self, observed: Address, reporter: Address, now: float) -> bool:
        """Takes one claim; False when it says nothing: not a public TCP address, or a reporter without subnet."""
        subnet = subnet_of(reporter)
        if subnet is None or host_port(observed) is None or not is_public(observed) or not is_public(reporter):
            return False
        key = observed[:4].encode() + subnet  # an IPv4 and an IPv6 view don't replace each other
        self._votes.pop(key, None)
        self._votes[key] = (observed, now + self._life)
        if len(self._votes) > _SOURCES:
            del self._votes[next(iter(self._votes))]
        return True

    def has_asked(self, reporter: Address, now: float) -> bool:
        """Whether nothing is to be learnt from the reporter: its subnet, or OBSERVED_ENOUGH others of its IP version,
        have votes that are less than half their life old."""
        subnet = subnet_of(reporter)
        if subnet is None:
            return False
        family = reporter[:4].encode()
        fresh = [key for key, (_, expiry) in self._votes.items() if expiry - now > self._life / 2]
        return family + subnet in fresh or sum(key[:4] == family for key in fresh) >= config.OBSERVED_ENOUGH

    def _counted(self, now: float) -> dict[Address, int]:
        counts: dict[Address, int] = {}
        for address, expiry in self._votes.values():
            if expiry > now:
                counts[address] = counts.get(address, 0) + 1
        return counts

    def confirmed(self, now: float) -> tuple[Address, ...]:
        """Addresses that enough subnets agree on, most votes first."""
        return tuple(a for a, votes in self._sorted(now) if votes >= self._votes_needed)

    def candidates(self, now: float) -> tuple[Address, ...]:
        """Every address with a vote, most votes first: worth asking an AutoNAT server about."""
        return tuple(address for address, _ in self._sorted(now))[: config.OBSERVED_ADDRESSES]

    def _sorted(self, now: float) -> list[tuple[Address, int]]:
        return sorted(self._counted(now).items(), key=lambda item: (-item[1], item[0]))

    def nat_kind(self, own: Iterable[Address], now: float) -> NatKind:
        """IPv4 mapping behaviour; `own` are our interface addresses with their ports."""
        seen = {a: votes for a, votes in self._counted(now).items() if a.startswith("/ip4/")}
        mine = frozenset(own)
        if any(address in mine for address in seen):
            return NatKind.NONE
        if sum(seen.values()) < 2:
            return NatKind.UNKNOWN
        return NatKind.INDEPENDENT if max(seen.values()) >= 2 else NatKind.DEPENDENT

    def port_kept(self, own: Iterable[Address], now: float) -> bool | None:
        """Whether those who look see a port that we listen on; None when nobody has looked at IPv4."""
        ports = {bound[1] for address in own if (bound := host_port(address))}
        seen = [host_port(a) for a in self._counted(now) if a.startswith("/ip4/")]
        return all(there is not None and there[1] in ports for there in seen) if seen else None

    def forget(self) -> None:
        """The network has changed: nothing of what was seen holds."""
        self._votes.clear()
