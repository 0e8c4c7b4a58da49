"""Couriers: one task a contact, which carries what waits for it over one link at a time.

A courier takes rows from the database in order, marks them OFFERED in one commit, and only then writes them. On
another link it begins again at the lowest row without a receipt. Links come from `Links.get`, or by themselves
when the contact reaches us; messaging/receiver.py, which reads every link, attaches them here while they live.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import apsw
import structlog
import trio

from p2pe.config import (
    LINK_ATTACH_SECONDS,
    LINK_OVERTAKEN_SECONDS,
    MAX_OFFER_MESSAGES,
    RETRY_FIRST,
    RETRY_MAX,
    STORAGE_RETRY_SECONDS,
    TURN_MAX,
)
from p2pe.core import codec
from p2pe.core.backoff import ENTROPY_BYTES, Backoff
from p2pe.core.delivery import NOTHING_KNOWN, RECEIPTS_PER_FRAME, Situation, Window, receipt_frames, retraction_frames
from p2pe.core.derive import receipt_mac, retraction_mac
from p2pe.errors import LinkClosed, NoDirectory, RemoteError, StorageError, Unreachable
from p2pe.messaging.signals import Pulse, Signals
from p2pe.model import ContactId, Frame, MessageId, Millis, PathKind, Receipt, ReceiptStatus, Retraction
from p2pe.ports import Link, Links, World
from p2pe.storage import incoming, outgoing
from p2pe.storage.database import Database

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

_log: Final = structlog.get_logger()
_ENOUGH_ROOM: Final = MAX_OFFER_MESSAGES // 2  # in the window: smaller offers would cost a commit each


@dataclass(eq=False, slots=True)
class Lane:
    """What the courier of one contact shares with the readers of its links."""

    contact_id: ContactId
    links: list[Link] = field(default_factory=list)  # served now, oldest first; the newest is used
    used_up: list[Link] = field(default_factory=list)  # of those: closed under us, or after an order conflict
    window: Window = field(default_factory=Window)
    work: Pulse = field(default_factory=Pulse)  # something was queued, taken back, receipted; a link came or went
    attached: Pulse = field(default_factory=Pulse)  # a link came
    others: bool = True  # retractions or receipts of reading may be owed
    taken_back: set[MessageId] = field(default_factory=set)  # retractions written to the link in use
    sending: trio.CancelScope | None = None  # around a write
    backoff: Backoff = field(default_factory=lambda: Backoff(may_be_away=True))
    pausing: trio.CancelScope | None = None  # around the wait before the next try
    paused_at: float = 0.0  # trio time
    situation: Situation = NOTHING_KNOWN
    running: bool = False

    def link(self) -> Link | None:
        """The newest usable link: the one whose other end was alive last."""
        for each in reversed(self.links):
            if each not in self.used_up:
                return each
        return None


class Couriers:
    """All couriers. `run` once; everything else may be called at any time, before it as well."""

    def __init__(self, database: Database, world: World, signals: Signals) -> None:
        self._database = database
        self._world = world
        self._signals = signals
        self._lanes: dict[ContactId, Lane] = {}  # at most one a contact; dropped when idle
        self._to_start: dict[ContactId, None] = {}  # a set in order
        self._start = Pulse()

    # --- told by others in this room ---

    def wake(self, contact_id: ContactId, *, others: bool = False) -> None:
        """Something was committed for the contact; with `others`, a retraction or a receipt of reading."""
        lane = self._lane(contact_id)
        lane.others = lane.others or others
        lane.work.fire()
        self._hurry(lane)
        if not lane.running:
            self._to_start[contact_id] = None
            self._start.fire()

    def look_again(self) -> None:
        """We are reached elsewhere, or reach others again: nobody is left alone for longer than RETRY_MAX."""
        for lane in self._lanes.values():
            self._hurry(lane)

    def _hurry(self, lane: Lane) -> None:
        """Somebody has written, or something has changed: a pause that had grown ends RETRY_MAX after its beginning."""
        lane.backoff.relax()
        until = lane.paused_at + RETRY_MAX
        if lane.pausing is not None and lane.pausing.deadline > until:
            lane.pausing.deadline = until
            left = max(0.0, until - trio.current_time())
            at = Millis(self._world.clock.now() + round(1000 * left))
            lane.situation = Situation(failure=lane.situation.failure, next_try_at=at)

    def attach(self, link: Link) -> None:
        """`link` is being read from now on."""
        lane = self._lane(link.contact_id)
        lane.links.append(link)
        lane.situation = Situation(connected=True)
        lane.attached.fire()
        if lane.sending is not None:  # a write that hangs on a dead link must not keep the courier from this one
            lane.sending.deadline = min(lane.sending.deadline, trio.current_time() + LINK_OVERTAKEN_SECONDS)
        self.wake(link.contact_id, others=True)

    def detach(self, link: Link) -> None:
        """`link` has ended."""
        lane = self._lane(link.contact_id)
        lane.links = [each for each in lane.links if each is not link]
        lane.used_up = [each for each in lane.used_up if each is not link]
        lane.situation = Situation(connected=bool(lane.links))
        lane.work.fire()
        self._drop_if_idle(lane)

    def give_up(self, link: Link) -> None:
        """Nothing more is offered over `link`."""
        lane = self._lane(link.contact_id)
        if link in lane.links and link not in lane.used_up:
            lane.used_up.append(link)
        lane.work.fire()

    def receipted(self, link: Link, ids: list[MessageId]) -> None:
        """Receipts for `ids` came over `link` and are committed."""
        lane = self._lane(link.contact_id)
        full = lane.window.room < _ENOUGH_ROOM
        lane.window.forget(ids)
        lane.backoff.reset()
        if full:
            lane.work.fire()

    def window(self, contact_id: ContactId) -> Window:
        return self._lane(contact_id).window

    def situation(self, contact_id: ContactId) -> Situation:
        """For the reasons people are shown."""
        lane = self._lanes.get(contact_id)
        return lane.situation if lane else NOTHING_KNOWN

    def contact_changed(self, contact_id: ContactId) -> None:
        """It was blocked, unblocked or removed: its courier looks again."""
        self.wake(contact_id)

    # --- the tasks ---

    async def run(self, links: Links, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves all contacts for whom something waits, now and later. Raises StorageError when it can't begin."""
        for contact_id in await self._database.read(outgoing.waiting_contacts):
            self._to_start[contact_id] = None
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                seen = self._start.count
                starting, self._to_start = self._to_start, {}
                for contact_id in starting:
                    lane = self._lane(contact_id)
                    if not lane.running:
                        lane.running = True
                        nursery.start_soon(self._courier, links, lane)
                await self._start.beyond(seen)

    async def _courier(self, links: Links, lane: Lane) -> None:
        """Until nothing waits and no link lives, or the contact is gone."""
        try:
            while True:
                seen = lane.work.count
                try:
                    go_on = await self._round(links, lane, seen)
                except StorageError as problem:
                    _log.error("a courier's commit failed; trying again", problem=str(problem))
                    await trio.sleep(STORAGE_RETRY_SECONDS)
                    continue
                if not go_on and lane.work.count == seen:
                    return
        finally:
            lane.running = False
            self._drop_if_idle(lane)

    async def _round(self, links: Links, lane: Lane, seen: int) -> bool:
        """One link's life, or one try to get a link. False when there is nothing to do."""

        def look(tx: apsw.Connection) -> tuple[bool, bool, bool]:
            return *outgoing.is_served(tx, lane.contact_id), outgoing.anything_waits(tx, lane.contact_id)

        exists, blocked, waits = await self._database.read(look)
        if not exists:
            return False
        if blocked:
            return False
        link = lane.link()
        if not waits:
            if link is None:
                return False
            await lane.work.beyond(seen)
            return True
        if link is None:
            link = await self._get_link(links, lane)
        if link is not None:
            await self._deliver(lane, link)
            if lane.link() is None:  # it ended; without a receipt in between, the next try waits longer
                await self._pause(lane, Situation(failure="the connection ended"), only_after_failures=True)
        return True

    async def _get_link(self, links: Links, lane: Lane) -> Link | None:
        """A link in service: one made now, or one that came meanwhile. After a failure waits, and gives None."""
        seen = lane.attached.count
        lane.situation = Situation(trying=True, failure=lane.situation.failure)
        failure = ""

        async def dial() -> None:
            nonlocal failure
            try:
                link = await links.get(lane.contact_id)
            except (Unreachable, LinkClosed, RemoteError) as problem:
                failure = str(problem)
                if isinstance(problem, NoDirectory):  # it says nothing about them
                    lane.backoff.relax()
            else:
                if link not in lane.used_up:
                    with trio.move_on_after(LINK_ATTACH_SECONDS):
                        await lane.attached.beyond(seen)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            if lane.link() is None:
                await lane.attached.beyond(seen)
            nursery.cancel_scope.cancel()
        link = lane.link()
        if link is None:
            await self._pause(lane, Situation(failure=failure or "the connection ended at once"))
        return link

    async def _pause(self, lane: Lane, situation: Situation, *, only_after_failures: bool = False) -> None:
        """Waits as the back-off says, or until a link comes."""
        if only_after_failures and lane.backoff.failures == 0:
            lane.backoff.failures = 1
            return
        seen = lane.attached.count
        wait = lane.backoff.next(self._world.entropy(ENTROPY_BYTES))
        if lane.links:
            return
        at = Millis(self._world.clock.now() + round(wait * 1000))
        lane.situation = Situation(failure=situation.failure, next_try_at=at)
        lane.paused_at = trio.current_time()
        try:
            with trio.move_on_after(wait) as lane.pausing:
                await lane.attached.beyond(seen)
        finally:
            lane.pausing = None

    async def _deliver(self, lane: Lane, link: Link) -> None:
        """Offers what waits over `link`, in order, until the link ends or a newer one came."""
        lane.window.start(cautious=link.path is PathKind.RELAYED)
        lane.taken_back.clear()
        lane.others = True
        if lane.window.is_cautious and lane.backoff.failures:
            await self._take_turns(lane)
        while lane.link() is link:
            seen = lane.work.count
            if lane.others:
                lane.others = False
                await self._send_others(lane, link)
            frames = await self._next_offer(lane)
            if frames:
                await self._send(lane, link, frames)
            else:
                await lane.work.beyond(seen)

    async def _take_turns(self, lane: Lane) -> None:
        """The last circuit was cut before a receipt: if the contact writes to us as well, both directions together may
        be too much for it, every time. One of the two goes first; chance says who."""
        seen = lane.attached.count
        share = int.from_bytes(self._world.entropy(ENTROPY_BYTES), "big") / 2.0 ** (8 * ENTROPY_BYTES)
        with trio.move_on_after(share * min(RETRY_FIRST * 2.0 ** min(lane.backoff.failures, 32), TURN_MAX)):
            await lane.attached.beyond(seen)

    async def _send(self, lane: Lane, link: Link, frames: tuple[Frame, ...]) -> bool:
        """False when `link` ended before all was written; nothing more is offered over it then."""
        try:
            with trio.CancelScope() as lane.sending:
                await link.send(frames)
                return True
            await link.aclose()  # cut off in the middle of a frame
        except LinkClosed:
            pass
        finally:
            lane.sending = None
        self.give_up(link)
        return False

    async def _next_offer(self, lane: Lane) -> tuple[Frame, ...]:
        """The next rows, committed as OFFERED. Empty when nothing waits or the window is full."""
        frames: list[Frame] = []
        window = lane.window
        if window.room < _ENOUGH_ROOM:
            return ()
        after, room, most, now = window.cursor, window.room, window.max_bytes, self._world.clock.now()
        offer = await self._database.write(lambda tx: outgoing.offer(tx, lane.contact_id, after, room, most, now))
        if offer is None:
            return ()
        window.offer(offer.ids, offer.rows, offer.hashes)
        self._signals.states_changed(offer.ids)
        for stream_id, messages in offer.runs:
            frames += codec.batches(stream_id, messages)
        return tuple(frames)

    async def _send_others(self, lane: Lane, link: Link) -> None:
        """Retractions that were not confirmed, and receipts of reading that were not written yet."""
        key = link.receipt_key

        def owed(tx: apsw.Connection) -> tuple[list[MessageId], list[tuple[MessageId, bytes, ReceiptStatus]]]:
            return (
                outgoing.retractions_owed(tx, lane.contact_id),
                incoming.receipts_owed(tx, lane.contact_id, RECEIPTS_PER_FRAME),
            )

        taken_back, read = await self._database.read(owed)
        fresh = [each for each in taken_back if each not in lane.taken_back]
        lane.taken_back.update(fresh)
        frames: tuple[Frame, ...] = (
            *retraction_frames([Retraction(each, retraction_mac(key, each)) for each in fresh]),
            *receipt_frames([Receipt(i, status, receipt_mac(key, i, h, status)) for i, h, status in read]),
        )
        if frames and await self._send(lane, link, frames) and read:
            ids = [each for each, _, _ in read]
            await self._database.write(lambda tx: incoming.receipts_written(tx, lane.contact_id, ids))
            lane.others = lane.others or len(read) == RECEIPTS_PER_FRAME

    # --- lanes ---

    def _lane(self, contact_id: ContactId) -> Lane:
        lane = self._lanes.get(contact_id)
        if lane is None:
            lane = self._lanes[contact_id] = Lane(contact_id)
        return lane

    def _drop_if_idle(self, lane: Lane) -> None:
        if not lane.running and not lane.links and lane.contact_id not in self._to_start:
            self._lanes.pop(lane.contact_id, None)
