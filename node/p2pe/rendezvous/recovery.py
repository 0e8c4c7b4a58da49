"""The record by which contacts find a node that was restored: under its identity key, which they alone know.

Everybody who knows the identity key can read the record, and write one under the same DHT key: it leads to whoever
wrote it last, and the handshake tells whether that is the right one.
"""

from __future__ import annotations

from p2pe.config import RECORD_TTL
from p2pe.core.derive import recover_aead_key, recover_lookup_seed
from p2pe.core.records import NONCE_BYTES, make_record, public_key_of, record_key, seal_addresses
from p2pe.model import IdentityKey, Millis, PeerInfo
from p2pe.ports import Directory, World
from p2pe.rendezvous.finder import days_to_search, newest_of
from p2pe.rendezvous.publisher import days_to_publish


class RecoveryRecords:
    """Both sides of it."""

    def __init__(self, world: World, directory: Directory) -> None:
        self._world = world
        self._directory = directory

    async def publish(self, restored: IdentityKey, own: PeerInfo) -> int:
        """Returns how many servers took it on the last day it was published for. Raises Unreachable."""
        taken = 0
        for day in days_to_publish(self._world.clock.now()):
            now = self._world.clock.now()  # of each record: the clock may be set while one is stored
            seed = recover_lookup_seed(restored, day)
            payload = seal_addresses(own, recover_aead_key(restored, day), self._world.entropy(NONCE_BYTES))
            raw = make_record(seed, 0, now, Millis(now + 1000 * RECORD_TTL), payload)
            taken = await self._directory.publish(record_key(public_key_of(seed), 0), raw)
        return taken

    async def find(self, restored: IdentityKey) -> PeerInfo | None:
        """Where the holder of this identity says it is, if anything is there. Raises Unreachable."""
        now = self._world.clock.now()
        newest: tuple[int, PeerInfo] | None = None
        for day in days_to_search(now):
            key = record_key(public_key_of(recover_lookup_seed(restored, day)), 0)
            found = newest_of(await self._directory.lookup(key), key, recover_aead_key(restored, day), now)
            if found is not None and (newest is None or found[0] > newest[0]):
                newest = found
        return None if newest is None else newest[1]
