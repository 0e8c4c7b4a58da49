"""The inbox: pages with a durable cursor, waiting for more, marking read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import apsw
import trio

from p2pe.config import API_PAGE
from p2pe.core.delivery import explain_incoming
from p2pe.errors import LocalError, NotFound
from p2pe.messaging.courier import Couriers
from p2pe.messaging.names import contact_named, id_range
from p2pe.messaging.signals import Signals
from p2pe.model import Contact, ContactId, IncomingMessage, MessageId
from p2pe.ports import World
from p2pe.storage import endings, incoming, outgoing
from p2pe.storage.database import Database

Messages = list[IncomingMessage]


class Followed(NamedTuple):
    """One page of `Inbox.follow`."""

    messages: Messages  # that arrived
    ended: Messages  # that had arrived, and were taken back or have expired
    ended_number: int  # the cursor for `ended`


class Inbox:
    """Listing never marks anything: receipts of reading are off until switched on for a contact (contacts/book.py)."""

    def __init__(self, database: Database, world: World, signals: Signals, couriers: Couriers) -> None:
        self._database = database
        self._world = world
        self._signals = signals
        self._couriers = couriers

    async def list(
        self,
        *,
        contact_name: str | None = None,
        after: int = 0,
        unread_only: bool = False,
        limit: int = API_PAGE,
        ended: bool = False,
    ) -> Messages:
        """Messages with a row above `after`, oldest first, at most `limit` (and API_PAGE, and MAX_PAGE_BYTES of
        text, though never none when there are some). The last one's row is the cursor for the next page. What was
        taken back or has expired is there only with `ended`, without its text."""

        def look(tx: apsw.Connection) -> Messages:
            most = max(1, min(limit, API_PAGE))
            contact_id = _contact_id(tx, contact_name)
            return incoming.page(
                tx, contact_id=contact_id, after=after, unread_only=unread_only, limit=most, ended=ended
            )

        return await self._database.read(look)

    async def newest(
        self,
        *,
        contact_name: str | None = None,
        before: int | None = None,
        limit: int = API_PAGE,
        ended: bool = False,
    ) -> Messages:
        """The last `limit` messages (below row `before`, when given), oldest of them first. `ended` as in `list`."""

        def look(tx: apsw.Connection) -> Messages:
            most = max(1, min(limit, API_PAGE))
            contact_id = _contact_id(tx, contact_name)
            return incoming.newest(tx, contact_id=contact_id, before=before, limit=most, ended=ended)

        return await self._database.read(look)

    async def follow(
        self,
        *,
        contact_name: str | None = None,
        after: int,
        ended_after: int | None = None,
        limit: int = API_PAGE,
        timeout: float = 0.0,
    ) -> Followed:
        """Like `list`, but rests for up to `timeout` seconds until there is something. Also tells which messages with a
        row up to `after` were taken back or have expired since the cursor `ended_after`, the `ended_number` of the
        answer before; None begins with what ends from now on.

        `p2pe inbox --follow` is a loop of these. Both lists come out of one look and the cursors are the caller's: a
        crash between two calls loses neither."""
        most = max(1, min(limit, API_PAGE))

        def look(tx: apsw.Connection) -> Followed:
            contact_id = _contact_id(tx, contact_name)
            found = incoming.page(tx, contact_id=contact_id, after=after, unread_only=False, limit=most)
            if ended_after is None:
                return Followed(found, [], endings.last_number(tx))
            ended = endings.after(tx, ended_after, contact_id=contact_id, up_to_row=after, limit=most)
            return Followed(found, ended.messages, ended.number)

        seen = self._signals.inbox.count
        followed = await self._database.read(look)
        with trio.move_on_after(timeout):
            while not followed.messages and not followed.ended:
                seen = await self._signals.inbox.beyond(seen)
                followed = await self._database.read(look)
        return followed

    async def show(self, identifier: MessageId | str) -> IncomingMessage:
        """One message, by id or by a unique beginning of its hex form. Raises NotFound; LocalError when several fit."""
        if isinstance(identifier, bytes):
            low = high = bytes(identifier)
            shown = identifier.hex()
        else:
            low, high = id_range(identifier)
            shown = identifier
        fits = await self._database.read(lambda tx: incoming.by_prefix(tx, low, high, 2))
        if not fits:
            raise NotFound(f"no message {shown} is in the inbox; `p2pe inbox` lists them")
        if len(fits) > 1:
            raise LocalError(f"{shown} is the beginning of several ids; give more of it")
        return fits[0]

    async def history(self, identifier: MessageId | str) -> Messages:
        """A message and all that replaced its text, oldest first."""
        found = await self.show(identifier)
        original = found.content.edits or found.id

        def look(tx: apsw.Connection) -> Messages:
            ids = [original, *outgoing.edits_of(tx, found.contact_id, False, original)]
            return [each for each in incoming.by_ids(tx, ids) if each.contact_id == found.contact_id]

        return await self._database.read(look)

    async def last_ended(self) -> int:
        """The cursor `ended_after` for what ends from now on."""
        return await self._database.read(endings.last_number)

    async def last_row(self) -> int:
        """The cursor behind everything that is here now."""
        return await self._database.read(incoming.last_row)

    async def unread_count(self) -> int:
        return await self._database.read(incoming.unread_count)

    async def mark_read(
        self, *, contact_name: str | None = None, ids: Sequence[MessageId] = (), up_to: int | None = None
    ) -> int:
        """Marks messages read: of one contact or all, only `ids`, only rows up to `up_to`; what isn't given doesn't
        restrict. Returns how many were unread. Expiring ones begin to count down; contacts with
        `tells_reading` get a receipt."""
        now = self._world.clock.now()

        def mark(tx: apsw.Connection) -> incoming.Marked:
            contact_id = _contact_id(tx, contact_name)
            return incoming.mark_read(tx, contact_id=contact_id, ids=ids, up_to=up_to, now=now)

        marked = await self._database.write(mark)
        for contact_id in marked.contacts:
            self._couriers.wake(contact_id, others=True)
        if marked.messages:
            self._signals.inbox_touched()
        return marked.messages

    def explain(self, message: IncomingMessage, person: Contact) -> str:
        """Why a message from `person` is in its state, as a sentence."""
        return explain_incoming(
            message.state, person.name, is_edited=message.is_edited, tells_reading=person.tells_reading
        )


def _contact_id(tx: apsw.Connection, name: str | None) -> ContactId | None:
    return None if name is None else contact_named(tx, name).contact_id
