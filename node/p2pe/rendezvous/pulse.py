"""A count that only grows, for telling tasks to look again. Nothing is queued, so nothing can be missed or pile up."""

from __future__ import annotations

import trio


class Pulse:
    """`beyond(seen)` waits until `fire` was called after the caller read `count`."""

    __slots__ = ("_lot", "count")

    def __init__(self) -> None:
        self.count = 0
        self._lot = trio.lowlevel.ParkingLot()

    def fire(self) -> None:
        self.count += 1
        self._lot.unpark_all()

    async def beyond(self, seen: int) -> None:
        while self.count <= seen:
            await self._lot.park()
