"""Who can see what: every chunk on every wire, all that bootstrap nodes decrypt or store, every attempt to connect.

The texts of all messages of a run contain its marker, so that one search a chunk finds any of them.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from p2pe.config import PUBLISH_COVER, RECORD_PAYLOAD_BYTES
from p2pe.core.addresses import is_circuit
from p2pe.core.derive import cover_rendezvous, day_of, is_lower, lookup_seed, pair_keys, record_aead_key
from p2pe.core.records import open_addresses, public_key_of, record_key, seal_addresses
from p2pe.errors import RemoteError
from p2pe.model import IdentityKey, Millis
from p2pe.proto import records_pb2

from p2pe_sim.invariants.findings import Findings
from p2pe_sim.world.machine import Machine
from p2pe_sim.world.wire import Pipe

_SERVER_PROTOCOLS: Final = ("/ipfs/", "/libp2p/", "/p2pe/kad/")


class AddressBook:
    """Which DHT keys are people's address records, and who can open them: all pair secrets there ever were in the
    run, and the records for nobody that each identity publishes beside them."""

    def __init__(self) -> None:
        self._sources: dict[tuple[bytes, int], str] = {}  # (K_rendezvous, direction) -> who publishes
        self._keys: dict[int, dict[bytes, tuple[str, bytes]]] = {}  # day -> DHT key -> (who, sealing key)

    def learn_pair(self, owner: str, own: IdentityKey, peer: IdentityKey, secret: bytes) -> None:
        self._learn(owner, pair_keys(secret).rendezvous, 0 if is_lower(own, peer) else 1)

    def learn_cover(self, owner: str, secret: bytes) -> None:
        for number in range(PUBLISH_COVER):
            self._learn(owner, cover_rendezvous(secret, number), number % 2)

    def _learn(self, owner: str, rendezvous: bytes, direction: int) -> None:
        if (rendezvous, direction) not in self._sources:
            self._sources[rendezvous, direction] = owner
            for day, keys in self._keys.items():
                self._add(keys, owner, rendezvous, direction, day)

    def find(self, key: bytes, now: Millis) -> tuple[str, bytes] | None:
        """(who publishes under `key`, the key that opens it)"""
        for day in (day_of(now), day_of(now) + 1, day_of(now) - 1):
            keys = self._keys.get(day)
            if keys is None:
                keys = self._keys[day] = {}
                for (rendezvous, direction), owner in self._sources.items():
                    self._add(keys, owner, rendezvous, direction, day)
            if key in keys:
                return keys[key]
        return None

    @staticmethod
    def _add(keys: dict[bytes, tuple[str, bytes]], owner: str, rendezvous: bytes, direction: int, day: int) -> None:
        name = record_key(public_key_of(lookup_seed(rendezvous, direction, day)), 0)
        keys[name] = (owner, record_aead_key(rendezvous, direction, day))


class Secrecy:
    """One a run. `hidden`: the machines of people with relay = only; `people`: the machines of all people."""

    def __init__(
        self,
        findings: Findings,
        marker: bytes,
        people: dict[str, Machine],
        hidden: frozenset[str],
        *,
        knows_all_records: bool,
    ) -> None:
        self._findings = findings
        self._marker = marker
        self._people = people
        self._hidden = hidden
        self._knows_all_records = knows_all_records  # else: open invites have records too
        self.book = AddressBook()
        self._told: set[tuple[str, ...]] = set()
        self._genuine: set[tuple[int, bytes, bytes]] = set()  # (day, key, record) with which nothing was wrong
        self._patterns: dict[bytes, str] = {}
        self.bytes_scanned = 0
        self.opened_scanned = 0
        self.records_opened = 0
        self.addresses_moved()

    def addresses_moved(self) -> None:
        """Somebody has another address: both the old and the new one stay hidden."""
        for name in self._hidden:
            machine = self._people[name]
            for ip in (machine.ip, machine.public_ip):
                self._patterns[b"\x04" + ipaddress.ip_address(ip).packed] = name
                self._patterns[f"/ip4/{ip}/".encode()] = name

    # --- taps ---

    def on_wire(self, pipe: Pipe, data: bytes) -> None:
        """Every chunk, as it is put on the wire."""
        self.bytes_scanned += len(data)
        seen = pipe.tail + data
        pipe.tail = seen[-len(self._marker) + 1 :]
        if self._marker in seen:
            self._once(
                "no-plaintext", f"a message's text went from {pipe.source.name} to {pipe.target.name} in the clear",
                pipe.source.name, pipe.target.name,
            )  # fmt: skip

    def on_attempt(self, machine: Machine, target: Machine) -> None:
        """Somebody dials somebody."""
        for one, other in ((machine, target), (target, machine)):
            if one.name in self._hidden and other.name in self._people and one is not other:
                self._once(
                    "address-hidden", f"{machine.name} dialled {target.name} directly, and {one.name} uses relays only",
                    one.name, other.name,
                )  # fmt: skip

    def on_opened(self, machine: Machine, data: bytes) -> None:
        """What the libp2p layer on `machine` has decrypted, before anything reads it."""
        self.opened_scanned += len(data)
        if machine.name not in self._people:
            if self._marker in data:
                self._once("third-parties", f"{machine.name} could read the text of a message", machine.name)
            return
        for pattern, owner in self._patterns.items():
            if pattern in data and owner != machine.name:
                self._once("address-hidden", f"{machine.name} was shown an address of {owner}", owner, machine.name)

    def on_protocols(self, server: str, protocols: tuple[str, ...]) -> None:
        for each in protocols:
            if not each.startswith(_SERVER_PROTOCOLS):
                self._once("third-parties", f"{server} speaks {each}, which no bootstrap node needs", server)

    def on_stored(self, server: str, key: bytes, raw: bytes, now: Millis) -> None:
        """A DHT server has stored a record: it must be somebody's address record, sealed for a contact. The same
        bytes at another server are no other record."""
        same = (day_of(now), key, raw)
        if same in self._genuine:
            self.records_opened += 1
            return
        found = self.book.find(key, now)
        if found is None:
            if self._knows_all_records:
                self._once("third-parties", f"{server} keeps a record that is nobody's address record", server)
            return
        owner, aead_key = found
        record = records_pb2.SignedRecord.FromString(raw)
        payload = records_pb2.RecordBody.FromString(record.body).payload
        try:
            info = open_addresses(payload, aead_key)
        except RemoteError as problem:
            self._once("third-parties", f"{owner}'s record at {server} holds something else ({problem})", server, owner)
            return
        self.records_opened += 1
        is_tight = len(payload) == RECORD_PAYLOAD_BYTES and seal_addresses(info, aead_key, payload[:12]) == payload
        if not is_tight:
            self._once("third-parties", f"{owner}'s record at {server} hides something in its padding", server, owner)
        shows_too_much = owner in self._hidden and not all(is_circuit(each) for each in info.addresses)
        if shows_too_much:
            self._once("address-hidden", f"{owner} publishes an address of its own", owner)
        if is_tight and not shows_too_much:
            self._genuine.add(same)

    def _once(self, invariant: str, detail: str, *nodes: str) -> None:
        if (invariant, detail) not in self._told:
            self._told.add((invariant, detail))
            self._findings.add(invariant, detail, *nodes)


def scan_opened(stream: Any, data: bytes, secrecy: Secrecy) -> None:
    """For the tap on overlay.noise.SecureStream: finds out whose it is."""
    raw = stream._stream
    machine = getattr(raw, "machine", None)
    if machine is not None:
        secrecy.on_opened(machine, data)
