"""The outbox: accepting messages, and showing, awaiting, taking back and editing them.

`send` returns after the commit. From then on the message is the courier's business, whatever dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import apsw
import structlog
import trio

from p2pe.config import (
    API_PAGE,
    MAX_EXPIRE_MILLIS,
    MAX_IDEMPOTENCY_KEY_BYTES,
    MAX_QUEUED_PER_CONTACT,
    STREAM_ID_BYTES,
)
from p2pe.core import codec
from p2pe.core.delivery import ENDED, ID_ENTROPY_BYTES, REACHED, explain, id_nonce, is_final
from p2pe.core.derive import body_hash, message_id
from p2pe.errors import Conflict, LocalError, NotFound, StorageError, TimedOut
from p2pe.messaging.courier import Couriers
from p2pe.messaging.names import contact_named, contacts_named, id_range
from p2pe.messaging.signals import Signals
from p2pe.model import ContactId, Content, MessageId, MessageState, Millis, OutgoingMessage, StreamId
from p2pe.ports import World
from p2pe.storage import incoming, outgoing, outgoing_pages
from p2pe.storage.database import Database
from p2pe.storage.outgoing import Draft, Recipient
from p2pe.storage.outgoing_pages import Stored

_log: Final = structlog.get_logger()
Rows = list[Stored]
Messages = list[OutgoingMessage]
_PREFIX_CANDIDATES: Final = 6  # shown when a prefix fits several


@dataclass(frozen=True, slots=True)
class SendRequest:
    """One message to send. `expire_after`: milliseconds, from delivery here and from reading there; 0 = never."""

    contact_name: str
    text: str
    idempotency_key: str | None = None
    reply_to: MessageId | None = None
    expire_after: int = 0


class _Prepared(NamedTuple):
    """A request, checked and encoded outside the transaction."""

    request: SendRequest
    content: Content
    body: bytes
    hash: bytes
    nonce: bytes


class _New(NamedTuple):
    id: MessageId
    to: Recipient


class Outbox:
    """`k_msgid` is the root seed's key for message ids (core/derive.message_id)."""

    def __init__(self, database: Database, world: World, signals: Signals, couriers: Couriers, k_msgid: bytes) -> None:
        self._database = database
        self._world = world
        self._signals = signals
        self._couriers = couriers
        self._k_msgid = k_msgid

    # --- in ---

    async def send(
        self,
        contact_name: str,
        text: str,
        *,
        idempotency_key: str | None = None,
        reply_to: MessageId | None = None,
        expire_after: int = 0,
    ) -> OutgoingMessage:
        """Queues one message durably. See `send_many`."""
        return (await self.send_many([SendRequest(contact_name, text, idempotency_key, reply_to, expire_after)]))[0]

    async def send_many(self, requests: Sequence[SendRequest]) -> list[OutgoingMessage]:
        """Queues all of `requests` in order, or none, in one durable commit, and returns them in that order.

        A request with an idempotency key that was used before returns the earlier message when contact, content
        and expiry are the same, and raises Conflict otherwise. Raises NotFound for an unknown contact or an unknown
        message to reply to, LocalError for text that is empty or too long, a blocked contact and a full queue,
        StorageError when the commit failed (nothing is queued then).
        """
        if not requests:
            return []
        return await self._queue([self._prepare(each, None) for each in requests])

    def _prepare(self, request: SendRequest, edits: MessageId | None) -> _Prepared:
        if not request.text or request.text.isspace():
            raise LocalError("the message is empty; give it some text")
        key = request.idempotency_key
        if key is not None and not 0 < len(key.encode(errors="replace")) <= MAX_IDEMPOTENCY_KEY_BYTES:
            raise LocalError(f"an idempotency key has 1 to {MAX_IDEMPOTENCY_KEY_BYTES} bytes, not {len(key.encode())}")
        if not 0 <= request.expire_after <= MAX_EXPIRE_MILLIS:
            raise LocalError(
                f"expiry after {request.expire_after} ms isn't possible; give a time from 0 (never) to "
                f"{MAX_EXPIRE_MILLIS // 86_400_000} days"
            )
        content = Content(request.text, request.reply_to, edits)
        body = codec.encode_content(content)
        nonce = id_nonce(self._world.clock.now(), self._world.entropy(ID_ENTROPY_BYTES))
        return _Prepared(request, content, body, body_hash(body), nonce)

    async def _queue(self, prepared: list[_Prepared]) -> list[OutgoingMessage]:
        now = self._world.clock.now()
        fresh = StreamId(self._world.entropy(STREAM_ID_BYTES))
        results = await self._database.write(lambda tx: self._insert(tx, prepared, fresh, now))
        reasons: dict[ContactId, str] = {}
        out: list[OutgoingMessage] = []
        for result, each in zip(results, prepared, strict=True):
            if isinstance(result, Stored):
                out.append(self._told(result, now))
                continue
            contact_id, name = result.to.contact_id, result.to.name
            if contact_id not in reasons:
                situation = self._couriers.situation(contact_id)
                reasons[contact_id] = explain(MessageState.QUEUED, "", name, 0, situation, now)
                self._couriers.wake(contact_id)
            out.append(
                OutgoingMessage(
                    result.id,
                    contact_id,
                    name,
                    MessageState.QUEUED,
                    reasons[contact_id],
                    now,
                    now,
                    each.content,
                    expire_after=each.request.expire_after,
                )
            )
        return out

    def _insert(
        self, tx: apsw.Connection, prepared: list[_Prepared], fresh: StreamId, now: Millis
    ) -> list[Stored | _New]:
        """Runs in the transaction. What each request became: a message of before, or a new one."""
        people = contacts_named(tx, [each.request.contact_name for each in prepared])
        sent = _Sent(tx, prepared, people)
        out: list[Stored | _New] = []
        drafts: dict[ContactId, list[Draft]] = {}
        for each in prepared:
            request, person = each.request, people[each.request.contact_name]
            earlier = sent.earlier(each, person)
            if earlier is not None:
                out.append(earlier)
                continue
            if person.blocked:
                raise LocalError(f"you have blocked {person.name}; unblock first, then send")
            if each.content.edits is not None:
                _refuse_ended(tx, each.content.edits)
            if request.reply_to is not None and not _exists(tx, person.contact_id, request.reply_to):
                raise NotFound(f"no message {request.reply_to.hex()} with {person.name} to reply to")
            identifier = message_id(self._k_msgid, each.nonce, person.identity_key)
            draft = Draft(identifier, each.body, each.hash, request.expire_after, request.idempotency_key or "")
            drafts.setdefault(person.contact_id, []).append(draft)
            if each.content.edits is not None:
                outgoing.add_edits(tx, person.contact_id, True, [(each.content.edits, identifier)])
            new = _New(identifier, person)
            sent.remember(each, new)
            out.append(new)
        stream_id = outgoing.current_stream(tx, fresh)
        for contact_id, each_draft in drafts.items():
            first = outgoing.next_sequence(tx, contact_id, stream_id)
            if not outgoing.has_room(tx, contact_id, stream_id, first, len(each_draft), MAX_QUEUED_PER_CONTACT):
                name = next(each.name for each in people.values() if each.contact_id == contact_id)
                raise LocalError(
                    f"{MAX_QUEUED_PER_CONTACT} messages wait for {name} already; wait until some were delivered, "
                    "or take some back"
                )
            outgoing.insert(tx, contact_id, stream_id, first, each_draft, now)
        return out

    # --- to look at ---

    async def show(self, identifier: MessageId | str) -> OutgoingMessage:
        """One message, by id or by a unique beginning of its hex form. Raises NotFound; LocalError when several fit."""
        return self._told(await self._database.read(lambda tx: _find(tx, identifier)))

    async def list(
        self,
        *,
        contact_name: str | None = None,
        states: Sequence[MessageState] = (),
        before: MessageId | None = None,
        limit: int = API_PAGE,
    ) -> Messages:
        """The newest `limit` (at most API_PAGE) messages, oldest of them first; older than `before` when given."""

        def look(tx: apsw.Connection) -> Rows:
            contact_id = None if contact_name is None else contact_named(tx, contact_name).contact_id
            row = None if before is None else _find(tx, before).row
            most = max(1, min(limit, API_PAGE))
            return outgoing_pages.page(tx, contact_id=contact_id, states=states, before=row, limit=most)

        now = self._world.clock.now()
        return [self._told(each, now) for each in reversed(await self._database.read(look))]

    async def counts(self) -> dict[MessageState, int]:
        """How many messages are QUEUED, OFFERED and HELD_IDENTITY."""
        return await self._database.read(outgoing_pages.counts)

    async def oldest_waiting(self) -> Millis | None:
        """When the first of those that wait was queued."""
        return await self._database.read(outgoing_pages.oldest_waiting)

    async def waiting(self, contact_id: ContactId) -> int:
        """How many messages wait for the contact."""
        return await self._database.read(lambda tx: outgoing_pages.waiting_count(tx, contact_id))

    async def wait(
        self, identifier: MessageId | str, state: MessageState = MessageState.DELIVERED, timeout: float | None = None
    ) -> OutgoingMessage:
        """Returns the message once it has reached `state`, or can't any more (see its state).

        Raises TimedOut after `timeout` seconds, NotFound, LocalError when MAX_WAITERS wait already.
        """
        message = await self.show(identifier)
        with self._signals.watch(message.id) as pulse:
            with trio.move_on_after(float("inf") if timeout is None else timeout):
                while True:
                    seen = pulse.count
                    message = await self.show(message.id)
                    if message.state in REACHED[state] or is_final(message.state):
                        return message
                    await pulse.beyond(seen)
        raise TimedOut(f"after {timeout:g} s the message is still {message.state}: {message.reason}")

    def _told(self, stored: Stored, now: Millis | None = None) -> OutgoingMessage:
        """With its reason as a sentence, made from what is known right now."""
        message = stored.message
        at = self._world.clock.now() if now is None else now
        situation = self._couriers.situation(message.contact_id)
        if stored.blocked:
            situation = replace(situation, blocked=True)
        reason = explain(message.state, message.reason, message.contact_name, message.attempts, situation, at)
        return replace(message, reason=reason)

    # --- second thoughts ---

    async def retract(self, identifier: MessageId | str) -> OutgoingMessage:
        """Takes a message back, and its edits. One that never left is erased and leaves nothing to send; otherwise
        the recipient's node is asked to erase it, until it confirms. One that has ended stays as it is."""
        now = self._world.clock.now()

        def take_back(tx: apsw.Connection) -> tuple[Stored, list[MessageId]]:
            found = _find(tx, identifier).message
            ids = [found.id, *outgoing.edits_of(tx, found.contact_id, True, found.id)]
            outgoing.retract(tx, ids, now)
            return _find(tx, found.id), ids

        stored, ids = await self._database.write(take_back)
        self._signals.states_changed(ids)
        self._couriers.wake(stored.message.contact_id, others=True)
        try:
            await self._database.truncate_log()  # it has the text still
        except StorageError as problem:
            self._signals.erased.fire()  # messaging/expiry.py tries again
            _log.warning("a text that was taken back may still be in the database's log", problem=str(problem))
        return self._told(stored, now)

    async def edit(
        self, identifier: MessageId | str, text: str, *, idempotency_key: str | None = None
    ) -> OutgoingMessage:
        """Queues a message that replaces the text of an earlier one; the earlier text stays in the history. It expires
        as the earlier one does.

        Raises LocalError for a message that was taken back or has expired.
        """
        target = await self.show(identifier)
        original = target.content.edits or target.id
        request = SendRequest(target.contact_name, text, idempotency_key, expire_after=target.expire_after)
        return (await self._queue([self._prepare(request, original)]))[0]

    async def history(self, identifier: MessageId | str) -> Messages:
        """A message and all that replaced its text, oldest first."""

        def look(tx: apsw.Connection) -> Rows:
            found = _find(tx, identifier)
            original = found.message.content.edits or found.message.id
            ids = [original, *outgoing.edits_of(tx, found.message.contact_id, True, original)]
            return sorted(outgoing_pages.by_ids(tx, ids).values(), key=lambda each: each.row)

        return [self._told(each) for each in await self._database.read(look)]


class _Sent:
    """Idempotency: what was sent before under the keys of these requests, now and in this very call."""

    def __init__(self, tx: apsw.Connection, prepared: list[_Prepared], people: dict[str, Recipient]) -> None:
        keys = [each.request.idempotency_key for each in prepared if each.request.idempotency_key is not None]
        self._stored = outgoing.by_idempotency_keys(tx, keys) if keys else {}
        ids = [each.id for each in self._stored.values()]
        self._messages = outgoing_pages.by_ids(tx, ids) if ids else {}
        self._now: dict[str, tuple[_Prepared, _New]] = {}

    def remember(self, prepared: _Prepared, new: _New) -> None:
        if prepared.request.idempotency_key is not None:
            self._now[prepared.request.idempotency_key] = (prepared, new)

    def earlier(self, prepared: _Prepared, person: Recipient) -> Stored | _New | None:
        """The message that this request has already made. Raises Conflict when that one was different."""
        key = prepared.request.idempotency_key
        if key is None:
            return None
        message: Stored | _New
        if key in self._now:
            first, message = self._now[key]
            same = first.body == prepared.body and first.request.expire_after == prepared.request.expire_after
            contact_id, identifier = message.to.contact_id, message.id
        elif key in self._stored:
            stored = self._stored[key]
            message, contact_id, identifier = self._messages[stored.id], stored.contact_id, stored.id
            # Once a text is erased nothing can be compared: the key still stands for that message.
            same = not stored.body_hash or (
                stored.body_hash == prepared.hash and stored.expire_after == prepared.request.expire_after
            )
        else:
            return None
        if not same or contact_id != person.contact_id:
            raise Conflict(
                f"the idempotency key {key!r} was used for another message ({identifier.hex()}); use a new key"
            )
        return message


def _refuse_ended(tx: apsw.Connection, original: MessageId) -> None:
    """In the transaction that queues an edit: the message may have been taken back a moment ago."""
    found = outgoing_pages.by_id(tx, original)
    if found is None or found.message.state in ENDED:
        what = "was taken back" if found is None or found.message.state is MessageState.RETRACTED else "has expired"
        raise LocalError(f"the message can't be edited, because it {what}. Send a new one")


def _exists(tx: apsw.Connection, contact_id: ContactId, identifier: MessageId) -> bool:
    """Whether the id is a message with the contact, in either direction."""
    sent = outgoing_pages.by_id(tx, identifier)
    if sent is not None:
        return sent.message.contact_id == contact_id
    found = incoming.by_ids(tx, [identifier])
    return any(each.contact_id == contact_id and each.ended_at is None for each in found)


def _find(tx: apsw.Connection, identifier: MessageId | str) -> Stored:
    if isinstance(identifier, bytes):
        found = outgoing_pages.by_id(tx, identifier)
        if found is None:
            raise NotFound(f"no message {identifier.hex()} was sent from here; `p2pe outbox` lists them")
        return found
    low, high = id_range(identifier)
    fits = outgoing_pages.by_prefix(tx, low, high, _PREFIX_CANDIDATES)
    if not fits:
        raise NotFound(f"no message sent from here has an id that begins with {identifier}; `p2pe outbox` lists them")
    if len(fits) > 1:
        ids = ", ".join(each.message.id.hex()[: len(identifier) + 8] for each in fits)
        raise LocalError(f"{identifier} is the beginning of several ids ({ids}, ...); give more of it")
    return fits[0]
