"""Links that broke without a goodbye are made anew: a few tries, soon, and from the beginning on another network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from p2pe.config import RECONNECT_WAITS
from p2pe.errors import Unreachable
from p2pe.model import ContactId, Millis
from p2pe.ports import World
from p2pe.rendezvous.pulse import Pulse


class Reconnector:
    """Of one registry of links. When its tries are used up, couriers try as soon as something waits, and the contact
    greets us when it is back."""

    def __init__(
        self, world: World, moved: Pulse, attempt: Callable[[ContactId], Awaitable[None]], nursery: trio.Nursery
    ) -> None:
        """`attempt` makes the link, or returns when none is wanted; raises Unreachable. `moved` fires on another
        network."""
        self._world = world
        self._moved = moved
        self._attempt = attempt
        self._nursery = nursery
        self._trying: dict[ContactId, Millis] = {}  # and when the next try is
        self._lost: dict[ContactId, None] = {}  # who couldn't be reached again; bounded by the contacts
        self._is_stopping = False

    def next_try(self, contact_id: ContactId) -> Millis | None:
        return self._trying.get(contact_id)

    @property
    def lost(self) -> tuple[ContactId, ...]:
        """Whom nobody tries to reach any more, until there is a reason."""
        return tuple(self._lost)

    def found(self, contact_id: ContactId) -> None:
        """A link has come."""
        self._lost.pop(contact_id, None)

    def moved(self) -> None:
        """We are on another network: links that were lost may be possible again."""
        for contact_id in self.lost:
            del self._lost[contact_id]
            self.soon(contact_id)

    def stop(self) -> None:
        """No tries begin after this."""
        self._is_stopping = True

    def soon(self, contact_id: ContactId, waits: tuple[float, ...] = RECONNECT_WAITS) -> None:
        """Tries after each of `waits`, in seconds, unless that is going on already."""
        if contact_id in self._trying or self._is_stopping:
            return
        self._trying[contact_id] = self._world.clock.now()
        self._nursery.start_soon(self._keep_trying, contact_id, list(waits))

    async def _keep_trying(self, contact_id: ContactId, waits: list[float]) -> None:
        try:
            while waits:
                seen = self._moved.count
                jittered = waits.pop(0) * (0.75 + self._world.entropy(1)[0] / 512)
                self._trying[contact_id] = Millis(self._world.clock.now() + round(1000 * jittered))
                with trio.move_on_after(jittered) as pause:
                    await self._moved.beyond(seen)
                if not pause.cancelled_caught:
                    waits = list(RECONNECT_WAITS)
                    continue
                try:
                    await self._attempt(contact_id)
                    return
                except Unreachable:
                    if self._moved.count != seen:
                        waits = list(RECONNECT_WAITS)
            self._lost[contact_id] = None
        finally:
            del self._trying[contact_id]
