"""Gets links off their relays: for each one over a relay, hole punching at once and, in vain, again now and then.

Messages flow meanwhile. When a direct connection comes up, links.use_better_path moves the session to it.
"""

from __future__ import annotations

from itertools import chain, repeat

import trio

from p2pe.config import PUNCH_REPEATS
from p2pe.connectivity.links import LinkRegistry
from p2pe.connectivity.session import Session
from p2pe.model import PathAttempt, PathKind, PeerId
from p2pe.overlay.punch import Puncher


class Upgrader:
    """Watches the registry's links from its making on, with tasks in `nursery`."""

    def __init__(self, links: LinkRegistry, puncher: Puncher, nursery: trio.Nursery) -> None:
        self._links = links
        self._puncher = puncher
        self._nursery = nursery
        puncher.allows = self._is_contact
        puncher.on_answered = self._note
        links.on_adopted = self._look_at

    def _is_contact(self, peer: PeerId) -> bool:
        """A stranger who comes through a relay isn't told where we are: only who has proved to be a contact."""
        return any(session.peer_id == peer for session in self._links.all())

    def _note(self, peer: PeerId, attempt: PathAttempt) -> None:
        for contact_id in {session.contact_id for session in self._links.all() if session.peer_id == peer}:
            self._links.note(contact_id, attempt)

    def _look_at(self, session: Session) -> None:
        if session.path is PathKind.RELAYED:
            self._nursery.start_soon(self._upgrade, session)

    async def _upgrade(self, session: Session) -> None:
        """The other end does it where it is the circuit's receiver: then `punch` has nothing to do."""
        for wait in chain((0.0, *PUNCH_REPEATS), repeat(PUNCH_REPEATS[-1])):
            with trio.move_on_after(wait):
                await session.ended.wait()
            if not session.is_open or session.retiring:
                return
            for attempt in await self._puncher.punch(session.connection):
                self._links.note(session.contact_id, attempt)
