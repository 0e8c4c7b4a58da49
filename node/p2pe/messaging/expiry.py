"""Expiring messages: each side erases its copy by its own clock. And the log, which has erased texts still, is emptied.

The recipient counts from when the message was marked read, the sender from DELIVERED. Only the length of time
travels, never a date, so that two clocks that disagree don't matter. A clock that is put forward erases early, by
that step at most: nobody can tell it from a machine that slept. One that is put back doesn't erase late: wall-clock
time is held against the monotonic clock, and deadlines move with the step. While the node is off a step back is
seen against the time noted last, at most EXPIRY_NOTE_SECONDS before it stopped while anything counted down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import apsw
import structlog
import trio

from p2pe.config import (
    CLOCK_LOOK_SECONDS,
    CLOCK_STEP_SECONDS,
    EXPIRY_CHECK_SECONDS,
    EXPIRY_NOTE_SECONDS,
    EXPIRY_PAUSE_SECONDS,
    MAX_EXPIRED_AT_ONCE,
    STORAGE_RETRY_SECONDS,
)
from p2pe.errors import StorageError
from p2pe.messaging.signals import Signals
from p2pe.model import MessageId, Millis
from p2pe.ports import World
from p2pe.storage import incoming, meta, outgoing
from p2pe.storage.database import Database

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

_log: Final = structlog.get_logger()
_NOTED: Final = "expiry_clock"  # in meta: the wall clock, while something counts down


class Expiry:
    """Runs for as long as the node does."""

    def __init__(self, database: Database, world: World, signals: Signals) -> None:
        self._database = database
        self._world = world
        self._signals = signals
        self._seen: tuple[Millis, float] | None = None  # the wall clock, and trio's at that moment

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        emptied = -1  # a node that was killed may have left texts in its log
        while True:
            seen = self._signals.anything.count
            try:
                due = await self.erase_due()
                erased = self._signals.erased.count
                if erased != emptied:
                    await self._database.truncate_log()
                    emptied = erased
            except StorageError as problem:
                _log.error("expired messages couldn't be erased; trying again", problem=str(problem))
                await trio.sleep(STORAGE_RETRY_SECONDS)
                continue
            await self._rest(seen, due)
            await trio.sleep(EXPIRY_PAUSE_SECONDS)

    async def _rest(self, seen: int, due: Millis | None) -> None:
        """Until something changed, `due` has come, the clock was put back, or it is time to look anyway."""
        end = trio.current_time() + (EXPIRY_CHECK_SECONDS if due is None else EXPIRY_NOTE_SECONDS)
        while self._signals.anything.count == seen and trio.current_time() < end:
            left = EXPIRY_CHECK_SECONDS
            if due is not None:
                left = min((due - self._world.clock.now()) / 1000, CLOCK_LOOK_SECONDS)
                if left <= 0 or self._step(self._world.clock.now()):
                    return
            with trio.move_on_after(left):
                await self._signals.anything.beyond(seen)

    async def erase_due(self) -> Millis | None:
        """Erases what is due now. Returns when the next one is, None when none is in sight."""
        while True:
            due, noted = await self._database.read(_look)
            if due is None:
                self._seen = None
                if noted is not None:  # what begins to count down later has nothing to do with steps before it
                    await self._database.write(lambda tx: meta.delete(tx, _NOTED))
                return None
            now = await self._watch_clock(noted)
            due, _ = await self._database.read(_look)
            if due is None or due > now:
                return due

            def erase(tx: apsw.Connection, now: Millis = now) -> tuple[list[MessageId], int]:
                return outgoing.expire(tx, now, MAX_EXPIRED_AT_ONCE), incoming.expire(tx, now, MAX_EXPIRED_AT_ONCE)

            ours, theirs = await self._database.write(erase)
            self._signals.erased.fire()
            if ours:
                self._signals.states_changed(ours)
            if theirs:
                self._signals.inbox_touched()

    def _step(self, now: Millis) -> int:
        """By how many milliseconds the clock was put back since it was seen last; 0 when it wasn't."""
        if self._seen is None:
            return 0
        wall, at = self._seen
        step = wall + round(1000 * (trio.current_time() - at)) - now
        return step if step > 1000 * CLOCK_STEP_SECONDS else 0

    async def _watch_clock(self, noted: Millis | None) -> Millis:
        """The wall clock, after deadlines were moved by as much as it was put back. `noted`: what the database
        remembers of it, None when nothing counted down before."""
        if self._seen is None and noted is not None:
            self._seen = (noted, trio.current_time())  # it was so late when this node was seen last
        now = self._world.clock.now()
        step = self._step(now)
        if step or noted is None or not 0 <= now - noted < 1000 * EXPIRY_NOTE_SECONDS:

            def note(tx: apsw.Connection) -> None:
                if step:
                    incoming.put_deadlines_forward(tx, step)
                    outgoing.put_deadlines_forward(tx, step)
                meta.put_number(tx, _NOTED, now)

            await self._database.write(note)
            if step:
                _log.info("the clock was put back; expiring messages keep their time", seconds=round(step / 1000))
        self._seen = (now, trio.current_time())
        return now


def _look(tx: apsw.Connection) -> tuple[Millis | None, Millis | None]:
    """(when the next message is due, the wall clock noted last)."""
    both = [each for each in (outgoing.next_expiry(tx), incoming.next_expiry(tx)) if each is not None]
    noted = meta.get_number(tx, _NOTED)
    return min(both, default=None), None if noted is None else Millis(noted)
