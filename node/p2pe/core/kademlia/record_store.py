"""What a server keeps for strangers: valid, small, short-lived address records, and nothing else. Rules:

1. the key has the form of a record key, and `validate` accepts the record under it (size, signature, times, ...);
2. per key one record, the one with the highest sequence; a key has one public key and a slot 0..3, so a public key
   has at most LOCATOR_SLOTS records;
3. an expired record is never served, whether or not it has been swept;
4. whoever stored a record's present version is charged for it: KAD_STORE_PER_PEER records a peer, and
   KAD_STORE_PER_SUBNET a network (no network limit for local ones);
5. a full store makes room in the network that takes most of it, choosing there by a keyed hash that nobody outside
   knows. So a flood displaces itself first, and no record can be aimed at: not by choosing keys near the server,
   not by expiry, not by order of arrival.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from p2pe.config import KAD_STORE_MAX_RECORDS, KAD_STORE_PER_PEER, KAD_STORE_PER_SUBNET
from p2pe.core.kademlia.keyspace import check_record_key
from p2pe.errors import RemoteError
from p2pe.model import Millis, PeerId

_LOCAL = b""  # the network of loopback and private addresses


class Valid(Protocol):
    """What the store needs to know of a record that passed validation (core/records.py Record has it)."""

    @property
    def sequence(self) -> int: ...
    @property
    def expires_at(self) -> Millis: ...


Validator = Callable[[bytes, bytes, Millis], Valid]  # (key, raw, now); raises RemoteError


@dataclass(frozen=True, slots=True)
class Stored:
    raw: bytes
    sequence: int
    expires_at: Millis
    source: PeerId
    network: bytes
    rank: bytes  # keyed hash of the key


class RecordStore:
    """`salt` is 16 or more random bytes, new at each start. Times are Unix milliseconds."""

    def __init__(
        self,
        validate: Validator,
        salt: bytes,
        *,
        max_records: int = KAD_STORE_MAX_RECORDS,
        per_peer: int = KAD_STORE_PER_PEER,
        per_network: int = KAD_STORE_PER_SUBNET,
    ) -> None:
        self._validate = validate
        self._salt = salt
        self._max_records = max_records
        self._per_peer = per_peer
        self._per_network = per_network
        self._records: dict[bytes, Stored] = {}
        self._by_peer: dict[PeerId, int] = {}
        self._by_network: dict[bytes, set[bytes]] = {}
        self._by_size: dict[int, dict[bytes, None]] = {}  # network sizes -> networks: the largest found at once
        self._largest = 0
        self._expiry: list[tuple[Millis, bytes]] = []

    def __len__(self) -> int:
        return len(self._records)

    def put(self, key: bytes, raw: bytes, *, source: PeerId, network: bytes | None, now: Millis) -> None:
        """Stores `raw` for `source`. The same record again is fine and changes nothing. Raises RemoteError, naming
        the rule, when it is refused."""
        check_record_key(key)
        record = self._validate(key, raw, now)
        self.expire(now)
        present = self._records.get(key)
        if present is not None:
            if present.raw == raw:
                return
            if record.sequence <= present.sequence:
                raise RemoteError("a newer record is stored already")
        home = _LOCAL if network is None else network
        self._check_quotas(present, source, home)
        if present is not None:
            self._drop(key)
        elif len(self._records) >= self._max_records:
            self._drop(self._victim())
        rank = blake2b(key, key=self._salt, digest_size=16).digest()
        self._records[key] = Stored(raw, record.sequence, record.expires_at, source, home, rank)
        self._by_peer[source] = self._by_peer.get(source, 0) + 1
        members = self._by_network.setdefault(home, set())
        self._resize(home, len(members), len(members) + 1)
        members.add(key)
        heapq.heappush(self._expiry, (record.expires_at, key))
        if len(self._expiry) > 2 * len(self._records) + 64:  # updates leave old entries behind
            self._expiry = [(stored.expires_at, name) for name, stored in self._records.items()]
            heapq.heapify(self._expiry)

    def get(self, key: bytes, now: Millis) -> bytes | None:
        """The record under `key` unless it has expired."""
        stored = self._records.get(key)
        return None if stored is None or stored.expires_at <= now else stored.raw

    def expire(self, now: Millis) -> int:
        """Drops what has expired; returns how many."""
        before = len(self._records)
        while self._expiry and self._expiry[0][0] <= now:
            _, key = heapq.heappop(self._expiry)
            stored = self._records.get(key)
            if stored is not None and stored.expires_at <= now:
                self._drop(key)
        return before - len(self._records)

    def _check_quotas(self, present: Stored | None, source: PeerId, home: bytes) -> None:
        own = 1 if present is not None and present.source == source else 0
        if self._by_peer.get(source, 0) - own >= self._per_peer:
            raise RemoteError(f"this peer has {self._per_peer} records here already")
        near = 1 if present is not None and present.network == home else 0
        if home != _LOCAL and len(self._by_network.get(home, ())) - near >= self._per_network:
            raise RemoteError(f"this network has {self._per_network} records here already")

    def _victim(self) -> bytes:
        network = next(iter(self._by_size[self._largest]))
        return min(self._by_network[network], key=lambda key: self._records[key].rank)

    def _drop(self, key: bytes) -> None:
        stored = self._records.pop(key)
        left = self._by_peer[stored.source] - 1
        if left:
            self._by_peer[stored.source] = left
        else:
            del self._by_peer[stored.source]
        members = self._by_network[stored.network]
        members.discard(key)
        self._resize(stored.network, len(members) + 1, len(members))
        if not members:
            del self._by_network[stored.network]

    def _resize(self, network: bytes, old: int, new: int) -> None:
        if old:
            peers = self._by_size[old]
            del peers[network]
            if not peers:
                del self._by_size[old]
        if new:
            self._by_size.setdefault(new, {})[network] = None
        self._largest = max(self._largest, new)
        while self._largest and self._largest not in self._by_size:
            self._largest -= 1
