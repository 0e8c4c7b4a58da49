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

    __slots__ = ("_counts", "_full", "_least", "_per_asn", "_per_subnet")

    def __init__(self, per_subnet: int, per_asn: int) -> None:
        self._per_subnet = per_subnet
        self._per_asn = per_asn
        self._least = min(per_subnet, per_asn)
        self._counts: dict[bytes, int] = {}
        self._full: set[bytes] | None = None  # groups at their bound: asked far more often than it changes

    def admits(self, groups: Iterable[bytes]) -> bool:
        return self._full is None or self._full.isdisjoint(groups)

    def add(self, groups: Iterable[bytes]) -> None:
        counts = self._counts
        for group in groups:
            count = counts[group] = counts.get(group, 0) + 1
            if count >= self._least and count == self._bound(group):
                self._full = self._full or set()
                self._full.add(group)

    def remove(self, groups: Iterable[bytes]) -> None:
        counts = self._counts
        for group in groups:
            if self._full is not None and counts[group] == self._bound(group):
                self._full.discard(group)
            if counts[group] == 1:
                del counts[group]
            else:
                counts[group] -= 1

    def _bound(self, group: bytes) -> int:
        return self._per_asn if group.startswith(_ASN) else self._per_subnet


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
