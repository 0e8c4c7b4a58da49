"""Which path to a contact to try, in which order, and when a better one is worth a change. Pure.

Order: the address that worked last, the local network, direct (IPv6 before IPv4), then through a relay. Punching
isn't an address: it starts from a relayed connection. All addresses are raced with a stagger (overlay), so an
order here costs a later one a fraction of a second, not a time-out.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from p2pe.config import MAX_DIAL_ADDRESSES
from p2pe.core.addresses import is_circuit, is_link_local, is_loopback, is_private, is_public, is_wildcard
from p2pe.model import Address, PathKind


class RelayPolicy(StrEnum):
    """`--relay`. ONLY hides our addresses from contacts; NEVER hides our traffic from relays."""

    FALLBACK = "fallback"
    NEVER = "never"
    ONLY = "only"


_RANK = {PathKind.LAN: 0, PathKind.DIRECT: 1, PathKind.PUNCHED: 1, PathKind.RELAYED: 2}


def dial_order(
    cached: Iterable[Address],
    found: Iterable[Address],
    policy: RelayPolicy,
    own: Iterable[Address] = (),
) -> tuple[Address, ...]:
    """The addresses to race, best first, at most MAX_DIAL_ADDRESSES.

    `cached` worked before, `found` come from a record, `own` are ours: loopback addresses of somebody else are
    taken only when we listen on loopback ourselves, and private ones only when we have a private one, since
    elsewhere they lead to strangers.
    """
    own = tuple(own)
    has_loopback = any(is_loopback(address) for address in own)
    has_private = any(is_private(address) for address in own)
    unique = dict.fromkeys(cached)
    cached_set = frozenset(unique)
    unique.update(dict.fromkeys(found))
    usable = [a for a in unique if _allowed(a, policy, has_loopback, has_private)]
    ordered = sorted(usable, key=lambda address: _rank(address, address in cached_set))
    direct = [address for address in ordered if not is_circuit(address)]
    circuits = [address for address in ordered if is_circuit(address)]
    # Some room is kept for relays: a list of dead direct addresses mustn't crowd out the way that works.
    kept = min(len(circuits), 2)
    return tuple((direct[: MAX_DIAL_ADDRESSES - kept] + circuits)[:MAX_DIAL_ADDRESSES])


def _allowed(address: Address, policy: RelayPolicy, has_loopback: bool, has_private: bool) -> bool:
    if is_circuit(address):
        return policy is not RelayPolicy.NEVER
    if policy is RelayPolicy.ONLY or is_wildcard(address) or is_link_local(address):
        return False
    if is_loopback(address):
        return has_loopback
    return has_private or not is_private(address)


def _rank(address: Address, is_cached: bool) -> tuple[int, int, int]:
    """Sort key: relays last; then what worked; then the local network; then IPv6 before IPv4."""
    kind = 2 if is_circuit(address) else 0 if is_private(address) else 1
    return (1 if kind == 2 else 0, 0 if is_cached else 1, kind * 2 + (0 if address.startswith("/ip6/") else 1))


def publishable(listening: Iterable[Address], policy: RelayPolicy) -> tuple[Address, ...]:
    """Our own addresses as a contact's record shows them, best first: circuits alone under ONLY, none under NEVER.

    Loopback stays out as soon as there is any other: it means nothing on another machine.
    """
    addresses = [a for a in dict.fromkeys(listening) if not is_wildcard(a) and not is_link_local(a)]
    if policy is RelayPolicy.ONLY:
        return tuple(address for address in addresses if is_circuit(address))
    if policy is RelayPolicy.NEVER:
        addresses = [address for address in addresses if not is_circuit(address)]
    outside = [address for address in addresses if not is_loopback(address)]
    return tuple(sorted(outside or addresses, key=_publish_rank))


def _publish_rank(address: Address) -> int:
    """Public first, one relay next, private after: a sealed record has room for four circuits at the most."""
    return 0 if is_public(address) else 1 if is_circuit(address) else 2


def is_better(candidate: PathKind, current: PathKind) -> bool:
    """Whether it is worth moving a live session from `current` to `candidate`."""
    return _RANK[candidate] < _RANK[current]


def wants_direct(current: PathKind, policy: RelayPolicy) -> bool:
    """Whether, on this path, it is worth looking for a direct one (punching, dialling again)."""
    return current is PathKind.RELAYED and policy is not RelayPolicy.ONLY
