"""What comes over a link: messages, receipts, retractions, order conflicts.

`Receiver.serve` is the LinkHandler that app hands to connectivity. It reads frames ahead of their commit, up to a
bound; whatever is there is committed together, and only then answered. An answer that is lost needs no memory
here: a sender without a receipt offers the message again on its next link, and gets it then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import apsw
import structlog
import trio

from p2pe.config import MAX_RECEIVED_FRAMES, STREAM_ID_BYTES
from p2pe.core import codec
from p2pe.core.delivery import receipt_frames
from p2pe.core.derive import is_receipt, is_retraction, receipt_mac
from p2pe.errors import LinkClosed, RemoteError, StorageError
from p2pe.messaging.courier import Couriers
from p2pe.messaging.signals import Signals
from p2pe.model import (
    Batch,
    Frame,
    MessageId,
    Millis,
    OrderConflict,
    Receipt,
    Receipts,
    ReceiptStatus,
    Retractions,
    StreamId,
    WireMessage,
)
from p2pe.ports import Link, World
from p2pe.storage import incoming, outgoing
from p2pe.storage.database import Database

_log: Final = structlog.get_logger()
FrameHandler = Callable[[Link, Frame], Awaitable[None]]
_Answers = list[tuple[MessageId, bytes, ReceiptStatus]]  # receipts to make: id, SHA-256 of the body, status


@dataclass(slots=True)
class _Results:
    """What one commit brought about."""

    answers: _Answers = field(default_factory=list)
    new: int = 0
    conflict: OrderConflict | None = None
    settled: list[MessageId] = field(default_factory=list)
    erased: bool = False
    restarted: bool = False


def _bury(tx: apsw.Connection, link: Link, ids: Sequence[MessageId], now: Millis, results: _Results) -> None:
    """Erases messages of the contact's, with what replaced their texts; all of them are answered as retracted."""
    gone = incoming.retract(tx, link.contact_id, ids, now)
    results.answers += [(each, incoming.EMPTY_HASH, ReceiptStatus.RETRACTED) for each in gone]
    results.erased = True


@dataclass(slots=True)
class _Arrivals:
    """Consecutive messages of one sending order."""

    stream_id: StreamId
    messages: list[WireMessage]
    edits: list[tuple[MessageId, MessageId]]  # (target, edit)

    def commit(self, tx: apsw.Connection, link: Link, now: Millis, results: _Results) -> None:
        if results.conflict is not None:
            return  # nothing behind a conflict is taken, or order would be lost
        accepted = incoming.accept(tx, link.contact_id, self.stream_id, self.messages, now)
        if self.edits:
            outgoing.add_edits(tx, link.contact_id, False, self.edits)
            buried = incoming.edits_of_tombstones(tx, link.contact_id, self.edits)
            if buried:
                _bury(tx, link, buried, now, results)
                accepted = accepted._replace(receipts=[each for each in accepted.receipts if each[0] not in buried])
        results.answers += accepted.receipts
        results.new += accepted.new
        results.conflict = accepted.conflict


@dataclass(slots=True)
class _Receipted:
    """Receipts. Those for rows in the window are checked already; the others need the hashes in the database."""

    delivered: list[MessageId]
    rows: tuple[int, int] | None  # when `delivered` are exactly the waiting rows from .. to
    retracted: list[MessageId]
    unchecked: list[Receipt]

    def commit(self, tx: apsw.Connection, link: Link, now: Millis, results: _Results) -> None:
        contact_id = link.contact_id
        by_status: dict[ReceiptStatus, list[MessageId]] = {}
        if self.rows is not None:
            outgoing.deliver_range(tx, contact_id, *self.rows, now)
            results.settled += self.delivered
        elif self.delivered:
            by_status[ReceiptStatus.DELIVERED] = list(self.delivered)
        if self.retracted:
            by_status[ReceiptStatus.RETRACTED] = self.retracted
        if self.unchecked:
            hashes = outgoing.body_hashes(tx, contact_id, [each.id for each in self.unchecked])
            for each in self.unchecked:
                body_hash = hashes.get(each.id)
                if body_hash is not None:  # else: unknown here (a restored database), or its text is erased
                    _check(link, each, body_hash)
                    by_status.setdefault(each.status, []).append(each.id)
        for status, ids in by_status.items():
            outgoing.settle(tx, contact_id, status, ids, now)
            results.settled += ids


@dataclass(slots=True)
class _TakenBack:
    ids: list[MessageId]

    def commit(self, tx: apsw.Connection, link: Link, now: Millis, results: _Results) -> None:
        _bury(tx, link, self.ids, now, results)


@dataclass(slots=True)
class _Conflicting:
    """The contact has seen more of our sending order than our database remembers."""

    stream_id: StreamId
    fresh: StreamId

    def commit(self, tx: apsw.Connection, link: Link, now: Millis, results: _Results) -> None:
        outgoing.restart_stream(tx, link.contact_id, self.stream_id, self.fresh)
        results.restarted = True


_Step = _Arrivals | _Receipted | _TakenBack | _Conflicting


def _check(link: Link, receipt: Receipt, body_hash: bytes) -> None:
    if not is_receipt(link.receipt_key, receipt.id, body_hash, receipt.status, receipt.mac):
        raise RemoteError("a receipt's MAC is wrong")


class Receiver:
    """`serve` runs once for each link, for as long as it lives. `handlers`: who takes frames of other types."""

    def __init__(
        self,
        database: Database,
        world: World,
        signals: Signals,
        couriers: Couriers,
        handlers: Mapping[type[Frame], FrameHandler] | None = None,
    ) -> None:
        self._database = database
        self._world = world
        self._signals = signals
        self._couriers = couriers
        self._handlers: Mapping[type[Frame], FrameHandler] = {} if handlers is None else handlers  # filled later by app

    async def serve(self, link: Link) -> None:
        """Reads `link` to its end. Returns when it ended, when the other side broke the protocol (the link is
        closed then) and when our disk failed (likewise: what isn't committed isn't receipted)."""
        ahead, frames = trio.open_memory_channel[Frame](MAX_RECEIVED_FRAMES)
        self._couriers.attach(link)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_read, link, ahead)
                await self._work(link, frames)
                nursery.cancel_scope.cancel()
        except* LinkClosed:
            pass
        except* RemoteError as group:
            _log.warning("a contact's node broke the protocol; link closed", problem=_first(group))
        except* StorageError as group:
            _log.error("what arrived can't be stored; link closed", problem=_first(group))
        finally:
            self._couriers.detach(link)
        await link.aclose()

    async def _work(self, link: Link, frames: trio.MemoryReceiveChannel[Frame]) -> None:
        """Commits and answers what was read, in order. Ends with the link."""
        refusing = False  # after an order conflict: whatever else was on its way would come out of order
        async for first in frames:
            batch = [first]
            while len(batch) < MAX_RECEIVED_FRAMES:
                try:
                    batch.append(frames.receive_nowait())
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            others = [each for each in batch if not isinstance(each, _OURS)]
            steps = self._steps(link, batch, refusing)
            if steps:
                results = await self._commit(link, steps)
                refusing = refusing or results.conflict is not None
                await self._follow_up(link, results)
            for each in others:
                handler = self._handlers.get(type(each))
                if handler is None:
                    raise RemoteError(f"a {type(each).__name__} frame, which has no place in a session")
                await handler(link, each)

    def _steps(self, link: Link, frames: Sequence[Frame], refusing: bool) -> list[_Step]:
        """What the commit will do, checked as far as it can be without the database."""
        steps: list[_Step] = []
        for frame in frames:
            match frame:
                case Batch(stream_id, messages):
                    if not refusing:
                        _add_arrivals(steps, stream_id, messages)
                case Receipts(receipts):
                    steps.append(self._receipted(link, receipts))
                case Retractions(retractions):
                    for each in retractions:
                        if not is_retraction(link.receipt_key, each.id, each.mac):
                            raise RemoteError("a retraction's MAC is wrong")
                    steps.append(_TakenBack(list(dict.fromkeys(each.id for each in retractions))))
                case OrderConflict(stream_id):
                    self._couriers.give_up(link)
                    steps.append(_Conflicting(stream_id, StreamId(self._world.entropy(STREAM_ID_BYTES))))
        return steps

    def _receipted(self, link: Link, receipts: Sequence[Receipt]) -> _Receipted:
        window = self._couriers.window(link.contact_id)
        delivered, retracted, unchecked = [], [], []
        for each in receipts:
            if each.status is ReceiptStatus.RETRACTED:
                _check(link, each, incoming.EMPTY_HASH)
                retracted.append(each.id)
                continue
            body_hash = window.body_hash(each.id)
            if body_hash is None or each.status is not ReceiptStatus.DELIVERED:
                unchecked.append(each)
                continue
            _check(link, each, body_hash)
            delivered.append(each.id)
        return _Receipted(delivered, window.first_rows(delivered) if delivered else None, retracted, unchecked)

    async def _commit(self, link: Link, steps: list[_Step]) -> _Results:
        now = self._world.clock.now()

        def work(tx: apsw.Connection) -> _Results:
            results = _Results()
            try:
                for step in steps:
                    step.commit(tx, link, now, results)
            except apsw.ConstraintError:
                raise LinkClosed("the contact was removed") from None
            return results

        return await self._database.write(work)

    async def _follow_up(self, link: Link, results: _Results) -> None:
        """After the commit: tells those who wait here, then answers."""
        if results.settled:
            self._couriers.receipted(link, results.settled)
            self._signals.states_changed(results.settled)
        if results.new:
            self._signals.inbox_grew()
        if results.erased:
            self._signals.erased.fire()
            self._signals.inbox_touched()
        key = link.receipt_key
        receipts = [Receipt(i, status, receipt_mac(key, i, h, status)) for i, h, status in results.answers]
        frames: list[Frame] = [*receipt_frames(receipts)]
        if results.conflict is not None:
            frames.append(results.conflict)
        if frames:
            await link.send(tuple(frames))
        if results.restarted:
            raise LinkClosed("our sending order begins anew on another link")


_OURS: Final = (Batch, Receipts, Retractions, OrderConflict)


async def _read(link: Link, ahead: trio.MemorySendChannel[Frame]) -> None:
    """Reads ahead of the commits. The end of the link ends the channel, so that what came before is still committed."""
    async with ahead:
        while True:
            try:
                frame = await link.receive()
            except LinkClosed:
                return
            await ahead.send(frame)


def _add_arrivals(steps: list[_Step], stream_id: StreamId, messages: Sequence[WireMessage]) -> None:
    """Joins a batch to the one before it when it goes on there: one commit's work is one statement."""
    edits = []
    for each in messages:
        edited = codec.decode_content(each.body).edits  # also: nothing is receipted that couldn't be shown
        if edited is not None:
            edits.append((edited, each.id))
    last = steps[-1] if steps else None
    if (
        isinstance(last, _Arrivals)
        and last.stream_id == stream_id
        and last.messages[-1].sequence < messages[0].sequence
    ):
        last.messages += messages
        last.edits += edits
    else:
        steps.append(_Arrivals(stream_id, list(messages), edits))


def _first(group: BaseExceptionGroup[BaseException]) -> str:
    """The first single error's text."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
