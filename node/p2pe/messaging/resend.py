"""`p2pe resend`: messages that were held go on, to the same contact or to another one that it has become.

A message that goes to another contact gets an id of its own there, made from the old id's nonce: resent twice (after a
backup was restored, say), it is the same message to the recipient, who shows it once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import apsw

from p2pe.config import MAX_QUEUED_PER_CONTACT, STREAM_ID_BYTES
from p2pe.core import codec
from p2pe.core.derive import NONCE_BYTES, body_hash, message_id
from p2pe.errors import LocalError
from p2pe.messaging.courier import Couriers
from p2pe.messaging.names import contact_named
from p2pe.messaging.signals import Signals
from p2pe.model import Content, IdentityKey, MessageId, Millis, StreamId
from p2pe.ports import World
from p2pe.storage import held, outgoing
from p2pe.storage.database import Database
from p2pe.storage.held import Unsettled
from p2pe.storage.outgoing import Draft


@dataclass(frozen=True, slots=True)
class Resent:
    """`ids` are those under which the messages wait now."""

    ids: tuple[MessageId, ...]
    instead_of: tuple[MessageId, ...] = ()  # the ids that they had, when they go to another contact


class Resender:
    """`k_msgid` is the root seed's key for message ids (core/derive.message_id)."""

    def __init__(self, database: Database, world: World, signals: Signals, couriers: Couriers, k_msgid: bytes) -> None:
        self._database = database
        self._world = world
        self._signals = signals
        self._couriers = couriers
        self._k_msgid = k_msgid

    async def resend(self, old_name: str, new_name: str | None = None) -> Resent:
        """Queues what is held for a contact, for it or (with `new_name`) for another one, together with what still
        waits for the old one then. Nothing is sent to the old one any more.

        Raises NotFound, LocalError (blocked, or the queue is full), StorageError.
        """
        now = self._world.clock.now()
        fresh = StreamId(self._world.entropy(STREAM_ID_BYTES))

        def work(tx: apsw.Connection) -> tuple[outgoing.Recipient, Resent]:
            old = contact_named(tx, old_name)
            new = old if new_name is None else contact_named(tx, new_name)
            if new.blocked:
                raise LocalError(f"you have blocked {new.name}; unblock first, then resend")
            if new.contact_id == old.contact_id:
                return old, Resent(tuple(held.release(tx, old.contact_id, fresh, now)))
            return new, self._move(tx, old, new, fresh, now)

        person, resent = await self._database.write(work)
        self._signals.states_changed([*resent.ids, *resent.instead_of])
        self._couriers.wake(person.contact_id)
        return resent

    def _move(
        self, tx: apsw.Connection, old: outgoing.Recipient, new: outgoing.Recipient, fresh: StreamId, now: Millis
    ) -> Resent:
        found = held.unsettled(tx, old.contact_id)
        moved = {each.id: self._id_for(each.id, new.identity_key) for each in found}
        drafts = [self._draft(each, moved) for each in found]
        known = held.known_ids(tx, list(moved.values()))
        drafts = [each for each in drafts if each.id not in known]
        stream_id = outgoing.current_stream(tx, fresh)
        first = outgoing.next_sequence(tx, new.contact_id, stream_id)
        if not outgoing.has_room(tx, new.contact_id, stream_id, first, len(drafts), MAX_QUEUED_PER_CONTACT):
            raise LocalError(
                f"{MAX_QUEUED_PER_CONTACT} messages wait for {new.name} already; wait until some were sent"
            )
        if drafts:
            outgoing.insert(tx, new.contact_id, stream_id, first, drafts, now)
        for draft in drafts:
            edits = codec.decode_content(draft.body).edits
            if edits is not None:
                outgoing.add_edits(tx, new.contact_id, True, [(edits, draft.id)])
        held.mark_resent(tx, [each.id for each in found], now)
        return Resent(tuple(moved.values()), tuple(moved))

    def _id_for(self, old: MessageId, peer: IdentityKey) -> MessageId:
        return message_id(self._k_msgid, old[:NONCE_BYTES], peer)

    def _draft(self, message: Unsettled, moved: dict[MessageId, MessageId]) -> Draft:
        """The message as the other contact may understand it: what it refers to must be among those that move."""
        content = codec.decode_content(message.body)
        here: Content = replace(
            content,
            edits=None if content.edits is None else moved.get(content.edits),
            reply_to=None if content.reply_to is None else moved.get(content.reply_to),
        )
        body = codec.encode_content(here)
        return Draft(moved[message.id], body, body_hash(body), message.expire_after)
