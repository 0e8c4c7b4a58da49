"""How many peers of one network may stand together: an attacker has many ids, but few networks.

A peer's groups are its /24 or /56 and, when a map is given, its autonomous system. Loopback and private addresses
have no groups: whoever sits in the same local network isn't kept out by them, and a network within one building
must work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from p2pe.config import (
    KAD_ANSWER_PER_SUBNET,
    KAD_BUCKET_PER_ASN,
    KAD_BUCKET_PER_SUBNET,
    KAD_TABLE_PER_ASN,
    KAD_TABLE_PER_SUBNET,
)
from p2pe.core.addresses import is_public, subnet_of
from p2pe.core.kademlia.keyspace import Node
from p2pe.model import Address

AsnMap = Callable[[Address], int | None]  # the autonomous system number that announces an address
_ASN = b"asn:"


def groups_of(address: Address, asn_of: AsnMap | None = None) -> tuple[bytes, ...]:
    """The groups that a peer reached at `address` counts for."""
    if not is_public(address):
        return ()
    subnet = subnet_of(address)
    asn = asn_of(address) if asn_of is not None else None
    found = [] if subnet is None else [subnet]
    if asn is not None:
        found.append(_ASN + asn.to_bytes(4, "big"))
    return tuple(found)


class GroupCounter:
    """Members of each group in one collection, bounded by that collection."""

    def __init__(self, per_subnet: int, per_asn: int) -> None:
        self._per_subnet = per_subnet
        self._per_asn = per_asn
        self._counts: dict[bytes, int] = {}

    def admits(self, groups: Iterable[bytes]) -> bool:
        counts = self._counts
        for group in groups:
            if group in counts and counts[group] >= (self._per_asn if group.startswith(_ASN) else self._per_subnet):
                return False
        return True

    def add(self, groups: Iterable[bytes]) -> None:
        for group in groups:
            self._counts[group] = self._counts.get(group, 0) + 1

    def remove(self, groups: Iterable[bytes]) -> None:
        for group in groups:
            if self._counts[group] == 1:
                del self._counts[group]
            else:
                self._counts[group] -= 1


def bucket_counter() -> GroupCounter:
    return GroupCounter(KAD_BUCKET_PER_SUBNET, KAD_BUCKET_PER_ASN)


def table_counter() -> GroupCounter:
    return GroupCounter(KAD_TABLE_PER_SUBNET, KAD_TABLE_PER_ASN)


def answer_counter() -> GroupCounter:
    return GroupCounter(KAD_ANSWER_PER_SUBNET, KAD_BUCKET_PER_ASN)


def diverse(nodes: Sequence[Node], count: int) -> tuple[Node, ...]:
    """The first `count` of `nodes` of which no more than KAD_ANSWER_PER_SUBNET share a subnet; filled up with the
    others, in order, when there aren't enough: denial by scarcity would be an attack, too."""
    counter = answer_counter()
    chosen: list[Node] = []
    passed_over: list[Node] = []
    for node in nodes:
        if len(chosen) == count:
            break
        if counter.admits(node.groups):
            counter.add(node.groups)
            chosen.append(node)
        else:
            passed_over.append(node)
    return tuple(chosen + passed_over[: count - len(chosen)])
