"""Looks up where a contact is now. Asked only when no address that we know answers: each lookup shows its storers
that somebody at our address looked for one opaque key."""

from __future__ import annotations

from p2pe.config import CLOCK_SKEW
from p2pe.core.derive import day_of, lookup_seed, record_aead_key
from p2pe.core.records import Record, check_record, open_addresses, public_key_of, record_key
from p2pe.errors import RemoteError, Unreachable
from p2pe.model import Millis, PeerInfo
from p2pe.ports import Directory, World
from p2pe.rendezvous.roster import Known


def days_to_search(now: Millis) -> tuple[int, ...]:
    """Today; and the neighbouring day when midnight (UTC) is nearer than clocks may differ."""
    near = (now, Millis(now - 1000 * CLOCK_SKEW), Millis(now + 1000 * CLOCK_SKEW))
    return tuple(dict.fromkeys(day_of(moment) for moment in near))


class Finder:
    """Finds contacts through their address records."""

    def __init__(self, world: World, directory: Directory) -> None:
        self._world = world
        self._directory = directory

    async def find(self, known: Known) -> PeerInfo:
        """Peer id and addresses from the contact's newest record. Raises Unreachable when there is none, which is
        what somebody offline looks like, or when no DHT server answers."""
        now = self._world.clock.now()
        newest: tuple[int, PeerInfo] | None = None
        for keys in reversed(known.keys):
            for day in days_to_search(now):
                found = await self._look(keys.rendezvous, known.their_direction, day, now)
                if found is not None and (newest is None or found[0] > newest[0]):
                    newest = found
            if newest is not None:  # of both days: past midnight the one that has just ended holds what was true before
                return newest[1]
        raise Unreachable("not online: no address of theirs is published")

    async def _look(self, k_rendezvous: bytes, direction: int, day: int, now: Millis) -> tuple[int, PeerInfo] | None:
        key = record_key(public_key_of(lookup_seed(k_rendezvous, direction, day)), 0)
        aead_key = record_aead_key(k_rendezvous, direction, day)
        return newest_of(await self._directory.lookup(key), key, aead_key, now)


def newest_of(raws: tuple[bytes, ...], key: bytes, aead_key: bytes, now: Millis) -> tuple[int, PeerInfo] | None:
    """The newest record among `raws` that is valid and opens, as (sequence, peer); None when there is none."""
    valid: list[Record] = []
    for raw in raws:
        try:
            valid.append(check_record(key, raw, now))
        except RemoteError:
            continue
    for record in sorted(valid, key=lambda each: -each.sequence):
        try:
            return record.sequence, open_addresses(record.payload, aead_key)
        except RemoteError:
            continue
    return None
