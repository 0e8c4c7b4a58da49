"""Who waits for what, inside this process. The database is the truth; a signal only says: look again.

Nothing is queued here, so a slow listener costs nothing and misses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from p2pe.config import MAX_WAITERS
from p2pe.errors import LocalError
from p2pe.model import MessageId


class Pulse:
    """A count that only grows. `beyond` waits until it has grown past what the caller saw before looking."""

    __slots__ = ("_lot", "count")

    def __init__(self) -> None:
        self.count = 0
        self._lot: Final = trio.lowlevel.ParkingLot()

    def fire(self) -> None:
        self.count += 1
        self._lot.unpark_all()

    async def beyond(self, seen: int) -> int:
        """Returns the count once it is above `seen`; a checkpoint only when it has to wait."""
        while self.count <= seen:
            await self._lot.park()
        return self.count


class Signals:
    """One value for the whole room: `arrived` fires after incoming rows were committed, `changed` after states of
    outgoing ones were, `inbox_changed` after incoming ones were marked or erased, `anything` with those two, `inbox`
    with `arrived` and `inbox_changed`; `erased` when a text was erased and the log still has it."""

    def __init__(self) -> None:
        self.arrived = Pulse()
        self.changed = Pulse()
        self.inbox_changed = Pulse()
        self.inbox = Pulse()
        self.anything = Pulse()
        self.erased = Pulse()
        self._watched: dict[MessageId, tuple[Pulse, int]] = {}  # and how many watch it

    def inbox_grew(self) -> None:
        """After the commit that added incoming rows."""
        self.arrived.fire()
        self.inbox.fire()

    def inbox_touched(self) -> None:
        """After the commit that marked or erased incoming rows."""
        self.inbox_changed.fire()
        self.inbox.fire()
        self.anything.fire()

    def states_changed(self, ids: Iterable[MessageId]) -> None:
        """After the commit that changed them."""
        self.changed.fire()
        self.anything.fire()
        if not self._watched:
            return
        for each in ids:
            watched = self._watched.get(each)
            if watched is not None:
                watched[0].fire()

    @contextmanager
    def watch(self, identifier: MessageId) -> Iterator[Pulse]:
        """A pulse for one outgoing message. Raises LocalError when MAX_WAITERS messages are watched already."""
        pulse, users = self._watched.get(identifier, (None, 0))
        if pulse is None:
            if len(self._watched) >= MAX_WAITERS:
                raise LocalError(f"{MAX_WAITERS} callers are waiting for messages already; ask again later")
            pulse = Pulse()
        self._watched[identifier] = (pulse, users + 1)
        try:
            yield pulse
        finally:
            pulse, users = self._watched.pop(identifier)
            if users > 1:
                self._watched[identifier] = (pulse, users - 1)
