"""Contacts on the same local network: recognised by their announcements, and dialled there, without any directory.

What we announce tells a stranger that somebody runs this program here, and nothing else: each entry can be read by one
contact alone, another network or hour gives others, and there are always LAN_ENTRIES of them. Of more contacts than
that, those seen last come in every second announcement, the others take turns.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import structlog
import trio

from p2pe.config import LAN_DIAL_PATIENCE, LAN_ENTRIES
from p2pe.connectivity.links import LinkRegistry
from p2pe.core.derive import LAN_KEY_BYTES, day_of, lan_entry, lan_key
from p2pe.core.mdns import ENTRY_BYTES, NONCE_BYTES, Announcement
from p2pe.errors import Unreachable
from p2pe.model import Address, PathKind, PeerId, PeerInfo
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.mdns import LanBeacon
from p2pe.ports import World
from p2pe.rendezvous.roster import Known, Roster

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

_log = structlog.get_logger(__name__)

# A peer id that holds an Ed25519 key: identity multihash of the PublicKey protobuf (peer-id specification).
_PEER_ID_HEAD: Final = bytes.fromhex("002408011220")
_MAX_SEEN: Final = 256  # announcements remembered, so that each is looked through once


class Nearby:
    """`run` is its task."""

    def __init__(self, world: World, host: OverlayHost, roster: Roster, links: LinkRegistry) -> None:
        self._world = world
        self._host = host
        self._roster = roster
        self._links = links
        self._turn = 0
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._nursery: trio.Nursery | None = None
        self._dialling: dict[PeerId, None] = {}
        self.beacon = LanBeacon(host, self.compose, self.hear)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._watch_roster)
            await nursery.start(self.beacon.run)
            task_status.started()

    async def _watch_roster(self) -> None:
        """A contact just made may be in the same room."""
        while True:
            seen = self._roster.changed.count
            await self._roster.changed.beyond(seen)
            if any(not self._links.is_linked(known.contact_id) for known in self._roster.active()):
                self.beacon.announce_soon(ask=True)

    # --- telling ---

    def compose(self, port: int) -> Announcement | None:
        """The next announcement; None without contacts: then there is nobody to tell."""
        chosen = self._choose()
        if not chosen or not bytes(self._host.peer_id).startswith(_PEER_ID_HEAD):
            return None
        nonce = self._world.entropy(NONCE_BYTES)
        own = bytes(self._host.peer_id)[len(_PEER_ID_HEAD) :]
        day = day_of(self._world.clock.now())
        entries = []
        for known in chosen:
            tag, pad = lan_entry(lan_key(known.keys[-1].rendezvous, known.our_direction, day), nonce)
            entries.append(tag + _xor(own, pad))
        filler = self._world.entropy(ENTRY_BYTES * (LAN_ENTRIES - len(entries)))
        entries += [filler[at : at + ENTRY_BYTES] for at in range(0, len(filler), ENTRY_BYTES)]
        return Announcement(nonce, port, tuple(sorted(entries)))  # sorted: their order tells nothing

    def _choose(self) -> tuple[Known, ...]:
        contacts = sorted(self._roster.active(), key=lambda known: (-known.last_seen, known.contact_id))
        if len(contacts) <= LAN_ENTRIES:
            return tuple(contacts)
        self._turn += 1
        if self._turn % 2:
            return tuple(contacts[:LAN_ENTRIES])
        others = contacts[LAN_ENTRIES:]
        at = (self._turn // 2 - 1) * LAN_ENTRIES % len(others)
        return tuple((others[at:] + others[:at])[:LAN_ENTRIES])

    # --- hearing ---

    async def hear(self, address: Address, announcement: Announcement) -> None:
        """Looks for contacts in an announcement, and dials whom it finds."""
        await trio.lowlevel.checkpoint()
        if announcement.nonce in self._seen:
            return
        self._seen[announcement.nonce] = None
        if len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)
        found = self.recognise(announcement)
        if found is None or self._nursery is None:
            return
        known, peer_id = found
        if peer_id != self._host.peer_id and peer_id not in self._dialling:
            self._dialling[peer_id] = None
            self._nursery.start_soon(self._meet, known, PeerInfo(peer_id, (address,)))

    def recognise(self, announcement: Announcement) -> tuple[Known, PeerId] | None:
        """Whose it is, and under which peer id; None when nobody's that we know."""
        by_tag = {entry[:-LAN_KEY_BYTES]: entry[-LAN_KEY_BYTES:] for entry in announcement.entries}
        today = day_of(self._world.clock.now())
        for day in (today, today - 1, today + 1):
            for known in self._roster.active():
                for keys in known.keys:
                    tag, pad = lan_entry(lan_key(keys.rendezvous, known.their_direction, day), announcement.nonce)
                    sealed = by_tag.get(tag)
                    if sealed is not None:
                        return known, PeerId(_PEER_ID_HEAD + _xor(sealed, pad))
        return None

    async def _meet(self, known: Known, peer: PeerInfo) -> None:
        """A connection over the local network, and a link over that, unless there is one already."""
        try:
            if not known.we_are_lower:
                await trio.sleep(LAN_DIAL_PATIENCE)
            there = [each for each in self._host.connections(peer.peer_id) if each.path is PathKind.LAN]
            await self._links.meet(known.contact_id, there[0] if there else await self._host.dial(peer))
        except Unreachable as problem:
            _log.debug("a contact nearby couldn't be reached", problem=str(problem))
        finally:
            self._dialling.pop(peer.peer_id, None)


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
