"""Held messages on their way: to the same contact or to another identity, once whatever happens."""

from __future__ import annotations

import itertools
from pathlib import Path

import apsw
import pytest
from messaging_kit import make_world
from p2pe.core import codec
from p2pe.core.derive import is_own_message_id
from p2pe.errors import LocalError, NotFound
from p2pe.messaging.courier import Couriers
from p2pe.messaging.outbox import Outbox
from p2pe.messaging.resend import Resender
from p2pe.messaging.signals import Signals
from p2pe.model import ContactId, Content, IdentityKey, MessageId, MessageState
from p2pe.storage import contacts, held, outgoing
from p2pe.storage.database import Database, open_database

K_MSGID = b"i" * 32
KEYS = {name: IdentityKey(name.encode().ljust(32, b".")) for name in ("old", "new")}


class Desk:
    """An outbox and a resender over one database, and nobody to deliver to."""

    def __init__(self, database: Database) -> None:
        world, signals = make_world(), Signals()
        couriers = Couriers(database, world, signals)
        self.database = database
        self.outbox = Outbox(database, world, signals, couriers, K_MSGID)
        self.resender = Resender(database, world, signals, couriers, K_MSGID)

    async def add(self, name: str) -> ContactId:
        return await self.database.write(
            lambda tx: contacts.add(
                tx,
                name=name,
                identity_key=KEYS[name],
                pair_secret=name.encode().ljust(32),
                paired_at=self.outbox._world.clock.now(),
                list_version=0,
            )
        )

    async def hold(self, contact_id: ContactId) -> int:
        return await self.database.write(lambda tx: held.hold(tx, contact_id, self.outbox._world.clock.now()))

    async def offered(self, contact_id: ContactId) -> list[tuple[int, Content]]:
        """(sequence, content) of what would be written to a link, checked as the recipient's codec would."""
        now = self.outbox._world.clock.now()
        offer = await self.database.write(lambda tx: outgoing.offer(tx, contact_id, 0, 100, 10**6, now))
        if offer is None:
            return []
        for stream_id, messages in offer.runs:
            for batch in codec.batches(stream_id, messages):
                codec.decode_frame(codec.encode_frame(batch))
        return [(m.sequence, codec.decode_content(m.body)) for _, messages in offer.runs for m in messages]

    async def contents(self, name: str) -> list[tuple[MessageState, Content]]:
        return [(each.state, each.content) for each in await self.outbox.list(contact_name=name)]


async def test_to_another_identity_in_order_with_its_edits_and_answers(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db", None) as database:
        desk = Desk(database)
        old, new = await desk.add("old"), await desk.add("new")
        first = await desk.outbox.send("old", "first")
        second = await desk.outbox.send("old", "second", reply_to=first.id)
        edit = await desk.outbox.edit(first.id, "first, mended")
        gone = await desk.outbox.send("old", "taken back")
        await desk.outbox.retract(gone.id)
        await desk.outbox.send("new", "already there")
        assert await desk.hold(old) == 3
        assert await desk.offered(old) == [], "nothing is offered while it is held"
        resent = await desk.resender.resend("old", "new")
        assert resent.instead_of == (first.id, second.id, edit.id)
        assert all(is_own_message_id(K_MSGID, each, KEYS["new"]) for each in resent.ids)
        moved_first, moved_second, _ = resent.ids
        contents = [content for _, content in await desk.offered(new)]
        assert contents == [
            Content("already there"),
            Content("first"),
            Content("second", reply_to=moved_first),
            Content("first, mended", edits=moved_first),
        ]
        assert {state for state, _ in await desk.contents("old")} == {MessageState.RETRACTED}
        assert (
            await desk.outbox.show(first.id)
        ).reason == "you resent it to another contact; nothing more is sent to old"
        history = await desk.outbox.history(moved_first)
        assert [each.content.text for each in history] == ["first", "first, mended"]
        assert moved_second in [each.id for each in await desk.outbox.list(contact_name="new")]
        assert await desk.database.read(lambda tx: outgoing.anything_waits(tx, old)) is False


async def test_what_it_refers_to_and_stays_behind_is_left_out(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db", None) as database:
        desk = Desk(database)
        old, new = await desk.add("old"), await desk.add("new")
        sent = await desk.outbox.send("old", "delivered before")
        row = await desk.database.read(lambda tx: tx.execute("SELECT max(row) FROM outgoing").get)
        await desk.offered(old)
        await desk.database.write(lambda tx: outgoing.deliver_range(tx, old, row, row, desk.outbox._world.clock.now()))
        await desk.outbox.edit(sent.id, "mended")
        await desk.outbox.send("old", "an answer", reply_to=sent.id)
        await desk.resender.resend("old", "new")
        assert [content for _, content in await desk.offered(new)] == [Content("mended"), Content("an answer")]
        assert [state for state, _ in await desk.contents("old")] == [
            MessageState.DELIVERED, MessageState.RETRACTED, MessageState.RETRACTED,
        ]  # fmt: skip


async def test_resent_twice_it_is_the_same_message(tmp_path: Path) -> None:
    """As after a restored backup in which it is held again: the id is that of the first time."""
    path = tmp_path / "db"
    async with open_database(path, None) as database:
        desk = Desk(database)
        old = await desk.add("old")
        await desk.add("new")
        await desk.outbox.send("old", "once")
        await desk.hold(old)
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    ids = []
    for each in (path, copy):
        async with open_database(each, None) as database:
            ids.append((await Desk(database).resender.resend("old", "new")).ids)
    assert ids[0] == ids[1] and len(ids[0]) == 1


@pytest.mark.parametrize("restored", [False, True])
async def test_released_to_the_same_contact_it_goes_behind_what_was_written_since(
    tmp_path: Path, restored: bool
) -> None:
    async with open_database(tmp_path / "db", None) as database:
        desk = Desk(database)
        old = await desk.add("old")
        await desk.outbox.send("old", "unsent")
        await desk.outbox.send("old", "also unsent")
        if restored:
            stream = outgoing.StreamId(b"r" * 16)
            now = desk.outbox._world.clock.now()
            await desk.database.write(lambda tx: held.mark_restored(tx, stream, now, hold=True))
        else:
            await desk.hold(old)
        await desk.outbox.send("old", "since")
        resent = await desk.resender.resend("old")
        assert len(resent.ids) == 2 and resent.instead_of == ()
        expected = MessageState.OFFERED if restored else MessageState.QUEUED
        assert (await desk.outbox.show(resent.ids[0])).state is expected
        await desk.outbox.send("old", "last")
        found = await desk.offered(old)
        assert [content.text for _, content in found] == ["since", "unsent", "also unsent", "last"]
        sequences = [sequence for sequence, _ in found]
        assert all(one < two for one, two in itertools.pairwise(sequences))
        assert (await desk.resender.resend("old")).ids == ()


async def test_refusals(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db", None) as database:
        desk = Desk(database)
        old, new = await desk.add("old"), await desk.add("new")
        sent = await desk.outbox.send("old", "stays")
        await desk.hold(old)

        def block(tx: apsw.Connection) -> None:
            contacts.set_blocked(tx, new, True)

        await desk.database.write(block)
        for names, error in ((("old", "new"), LocalError), (("old", "nobody"), NotFound), (("nobody", None), NotFound)):
            with pytest.raises(error):
                await desk.resender.resend(*names)
        assert (await desk.outbox.show(MessageId(sent.id))).state is MessageState.HELD_IDENTITY
