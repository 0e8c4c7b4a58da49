"""Rotates the pair secrets of contacts (core/rotation.py) over the links there are, and has sessions made under the new
ones: every 30 days, and as soon as either side has a newer device list (one was stolen, or a backup was restored).

The old secret's bytes leave the database file at once: freed cells are zeroed, and the log is written back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakSet

import structlog
import trio

from p2pe.config import ROTATE_LOOK
from p2pe.connectivity.links import LinkRegistry
from p2pe.connectivity.session import Session
from p2pe.core import rotation
from p2pe.core.derive import KEY_BYTES, pair_keys
from p2pe.core.rotation import Pair
from p2pe.errors import LinkClosed, NotFound, RemoteError
from p2pe.model import ContactId, Frame, Rotation, RotationStep
from p2pe.ports import Link, World
from p2pe.rendezvous.pulse import Pulse
from p2pe.rendezvous.roster import Known, Roster
from p2pe.storage import contacts
from p2pe.storage.database import Database
from p2pe.storage.migrations import Tx

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

_log = structlog.get_logger(__name__)
_Answer = Rotation | None


class Rotator:
    """`run` it once; `handle` takes the Rotation frames of all links."""

    def __init__(self, world: World, database: Database, roster: Roster, links: LinkRegistry) -> None:
        self._world = world
        self._database = database
        self._roster = roster
        self._links = links
        self._wake = Pulse()
        self._proposed: WeakSet[Session] = WeakSet()  # over which a proposal went out: one each

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Proposes what is due whenever a link comes up, and now and then. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, self._links.changed)
            nursery.start_soon(self._watch, self._roster.changed)
            task_status.started()
            while True:
                seen = self._wake.count
                for known in self._roster.active():
                    if known.we_are_lower:
                        await self._propose_if_due(known)
                with trio.move_on_after(ROTATE_LOOK):
                    await self._wake.beyond(seen)

    async def _watch(self, pulse: Pulse) -> None:
        while True:
            await pulse.beyond(pulse.count)
            self._wake.fire()

    async def _propose_if_due(self, known: Known) -> None:
        link = self._links.current(known.contact_id)
        if link is None or link in self._proposed or not _is_under(link, known.pair):
            return
        if not rotation.is_due(known.pair, known.rotated_at, self._world.clock.now()):
            return
        self._proposed.add(link)
        fresh = self._world.entropy(KEY_BYTES)

        def step(pair: Pair) -> tuple[Pair, _Answer] | None:
            return None if pair.is_taken else rotation.propose(pair, fresh)

        try:
            await self._change(link, step)
        except LinkClosed:
            return

    async def handle(self, link: Link, frame: Frame) -> None:
        """See messaging/receiver.FrameHandler. Raises RemoteError for a step that isn't the other side's to take."""
        assert isinstance(frame, Rotation)
        known = self._roster.get(link.contact_id)
        if known is None:
            return
        if known.we_are_lower != (frame.step is RotationStep.ACCEPT):
            raise RemoteError(f"a rotation step {frame.step.name} from the side that doesn't take it")
        fresh = self._world.entropy(KEY_BYTES)

        def step(pair: Pair) -> tuple[Pair, _Answer] | None:
            match frame.step:
                case RotationStep.PROPOSE:
                    return rotation.accept(pair, frame, fresh)
                case RotationStep.ACCEPT:
                    return rotation.commit(pair, frame)
                case RotationStep.COMMIT:
                    dropped = rotation.committed(pair, frame)
                    return None if dropped is None else (dropped, None)

        await self._change(link, step)
        if frame.step is RotationStep.ACCEPT:
            self._links.renew_soon(link.contact_id)

    async def _change(self, link: Link, step: Callable[[Pair], tuple[Pair, _Answer] | None]) -> None:
        """Stores what `step` makes of the pair's state, and only then sends what tells of it. Does nothing over a
        session that was made under another secret than the one in use. Raises LinkClosed, StorageError."""
        now = self._world.clock.now()

        def work(tx: Tx) -> tuple[_Answer, bool]:
            pair = contacts.pair(tx, link.contact_id)
            if not _is_under(link, pair) or (taken := step(pair)) is None:
                return None, False
            stored, answer = taken
            contacts.store_pair(tx, link.contact_id, stored, now if stored.epoch != pair.epoch else None)
            return answer, stored.secret != pair.secret

        try:
            answer, dropped = await self._database.write(work)
        except NotFound:
            raise LinkClosed("the contact was removed") from None
        if dropped:
            await self._database.truncate_log()
            _log.info("a pair secret was rotated")
        await self._roster.reload(ContactId(link.contact_id))
        if answer is not None:
            await link.send((answer,))


def _is_under(link: Link, pair: Pair) -> bool:
    """Whether the session was made under the secret in use."""
    return pair_keys(pair.secret).receipt == link.receipt_key
