"""Publishes and finds the records of invites: by a spoken code's locator, or by a link's secret.

A locator has LOCATOR_SLOTS slots, each a DHT key of its own, because two people may hit upon the same one, and because
anybody may write there: who looks tries what is in the slots, newest first, and the password tells.
"""

from __future__ import annotations

import trio

from p2pe.config import LOCATOR_SLOTS, LOCATOR_TRIES, MAX_RECORD_TTL
from p2pe.core.invite import invite_aead_key
from p2pe.core.records import NONCE_BYTES, make_record, public_key_of, record_key, seal_addresses
from p2pe.errors import Unreachable
from p2pe.model import Millis, PeerId, PeerInfo
from p2pe.ports import Directory, World
from p2pe.rendezvous.finder import newest_of


class InviteRecords:
    """Both sides of an invite's record."""

    def __init__(self, world: World, directory: Directory) -> None:
        self._world = world
        self._directory = directory

    async def free_slot(self, seed: bytes, own: PeerId) -> int | None:
        """A slot that nobody uses, or that we use already; None when all that an invitee would try are taken.
        Raises Unreachable when no DHT server answers."""
        found = await self._read(seed)
        for slot, (_, peer) in found.items():
            if peer.peer_id == own:
                return slot
        if len(found) >= LOCATOR_TRIES:
            return None
        return next(slot for slot in range(LOCATOR_SLOTS) if slot not in found)

    async def publish(self, seed: bytes, slot: int, own: PeerInfo, expires: Millis) -> int:
        """Returns how many servers took it. Raises Unreachable when none could be asked, or `expires` is over."""
        now = self._world.clock.now()
        if expires <= now:
            raise Unreachable("the invite has expired")
        # A clock that has been set back leaves more time than a record may have.
        expires = Millis(min(expires, now + 1000 * MAX_RECORD_TTL))
        payload = seal_addresses(own, invite_aead_key(seed), self._world.entropy(NONCE_BYTES))
        raw = make_record(seed, slot, now, expires, payload)
        return await self._directory.publish(record_key(public_key_of(seed), slot), raw)

    async def find(self, seed: bytes) -> tuple[PeerInfo, ...]:
        """Who publishes under this seed, newest first, each peer once, at most LOCATOR_TRIES. Raises Unreachable when
        no DHT server answers."""
        found = sorted((await self._read(seed)).values(), key=lambda each: -each[0])
        peers: dict[PeerId, PeerInfo] = {}
        for _, peer in found:
            peers.setdefault(peer.peer_id, peer)
        return tuple(peers.values())[:LOCATOR_TRIES]

    async def _read(self, seed: bytes) -> dict[int, tuple[int, PeerInfo]]:
        """What is in each slot that isn't empty: (sequence, peer)."""
        public_key, aead_key = public_key_of(seed), invite_aead_key(seed)
        found: dict[int, tuple[int, PeerInfo]] = {}
        failures: list[Unreachable] = []

        async def look(slot: int) -> None:
            key = record_key(public_key, slot)
            try:
                raws = await self._directory.lookup(key)
            except Unreachable as failure:
                failures.append(failure)
                return
            newest = newest_of(raws, key, aead_key, self._world.clock.now())
            if newest is not None:
                found[slot] = newest

        async with trio.open_nursery() as nursery:
            for slot in range(LOCATOR_SLOTS):
                nursery.start_soon(look, slot)
        if len(failures) == LOCATOR_SLOTS:
            raise failures[0]
        return dict(sorted(found.items()))
