"""Expiring messages: each side erases its copy by its own clock.

The recipient counts from when the message was marked read, the sender from DELIVERED. Only the length of time
travels, never a date, so that two clocks that disagree don't matter. A clock that is put forward here erases early
here, one that is put back erases late, both by at most that step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import apsw
import structlog
import trio

from p2pe.config import EXPIRY_CHECK_SECONDS, EXPIRY_PAUSE_SECONDS, MAX_EXPIRED_AT_ONCE, STORAGE_RETRY_SECONDS
from p2pe.errors import StorageError
from p2pe.messaging.signals import Signals
from p2pe.model import MessageId, Millis
from p2pe.ports import World
from p2pe.storage import incoming, outgoing
from p2pe.storage.database import Database

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

_log: Final = structlog.get_logger()


class Expiry:
    """Runs for as long as the node does."""

    def __init__(self, database: Database, world: World, signals: Signals) -> None:
        self._database = database
        self._world = world
        self._signals = signals

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            seen = self._signals.anything.count
            try:
                due = await self.erase_due()
            except StorageError as problem:
                _log.error("expired messages couldn't be erased; trying again", problem=str(problem))
                await trio.sleep(STORAGE_RETRY_SECONDS)
                continue
            wait = EXPIRY_CHECK_SECONDS  # the wall clock may be put forward meanwhile
            if due is not None:
                wait = min(max((due - self._world.clock.now()) / 1000, 0.0), wait)
            with trio.move_on_after(wait):
                await self._signals.anything.beyond(seen)
            await trio.sleep(EXPIRY_PAUSE_SECONDS)

    async def erase_due(self) -> Millis | None:
        """Erases what is due now. Returns when the next one is, None when none is in sight."""
        while True:
            now = self._world.clock.now()
            due = await self._database.read(_next)
            if due is None or due > now:
                return due

            def erase(tx: apsw.Connection, now: Millis = now) -> tuple[list[MessageId], int]:
                return outgoing.expire(tx, now, MAX_EXPIRED_AT_ONCE), incoming.expire(tx, now, MAX_EXPIRED_AT_ONCE)

            ours, theirs = await self._database.write(erase)
            if ours:
                self._signals.states_changed(ours)
            if theirs:
                self._signals.inbox_touched()


def _next(tx: apsw.Connection) -> Millis | None:
    both = [each for each in (outgoing.next_expiry(tx), incoming.next_expiry(tx)) if each is not None]
    return min(both, default=None)
