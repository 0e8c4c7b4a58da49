"""Retraction, edits, reading and expiry on both sides, in whatever order things arrive."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from messaging_kit import Node, Pair, both, texts, until
from p2pe.core.derive import receipt_mac, retraction_mac
from p2pe.errors import LocalError
from p2pe.model import (
    Batch,
    InboxState,
    MessageId,
    MessageState,
    Receipt,
    Receipts,
    ReceiptStatus,
    Retraction,
    Retractions,
)
from p2pe.storage import contacts, held
from p2pe.storage.incoming import EMPTY_HASH
from trio.testing import MockClock, wait_all_tasks_blocked

SECRET = "the secret of the purple hedgehog"
HOUR = 3_600_000


def on_disk(pair: Pair, index: int) -> bytes:
    """All bytes of the database and its log; these databases aren't encrypted, so this is what the pages hold."""
    return b"".join(
        each.read_bytes()
        for each in (pair.path(index), Path(f"{pair.path(index)}-wal"))
        if each.exists()
    )  # fmt: skip


async def execute(node: Node, sql: str, *values: object) -> None:
    await node.database.write(lambda tx: tx.execute(sql, values).fetchall())


async def delivered(sender: Node, text: str, **options: object) -> MessageId:
    sent = await sender.outbox.send(sender.peer, text, **options)  # type: ignore[arg-type]
    await sender.outbox.wait(sent.id, timeout=10)
    return sent.id


def _state_is(node: Node, identifier: MessageId, reason: str) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return reason in (await node.outbox.show(identifier)).reason

    return look


def _gone_there(node: Node, identifier: MessageId) -> Callable[[], Awaitable[bool]]:
    return _state_is(node, identifier, "erased here and on")


# --- taken back before it left ---


async def test_erased_while_queued_leaves_nothing_to_send_and_nothing_on_the_disk(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    async with pair.node(0) as alice:
        sent = await alice.outbox.send("bob", SECRET)
        edit = await alice.outbox.edit(sent.id, SECRET + ", revised")
        assert SECRET.encode() in on_disk(pair, 0)
        after = await alice.outbox.retract(sent.id)
        assert after.state is MessageState.RETRACTED and after.content.text == ""
        assert after.reason == "you took it back before it had left; its text is erased"
        assert (await alice.outbox.show(edit.id)).state is MessageState.RETRACTED
        assert SECRET.encode() not in on_disk(pair, 0)
        async with pair.node(1) as bob:
            pair.connect(1)
            other = await delivered(alice, "something else")
            assert await texts(bob) == ["something else"]
            seen = [each for wire in pair.wires for direction in wire.towards for each in direction.seen]
            assert [each.id for batch in seen if isinstance(batch, Batch) for each in batch.messages] == [other]
            assert not any(isinstance(each, Retractions) for each in seen)
    for index in (0, 1):
        assert SECRET.encode() not in on_disk(pair, index)
        assert sqlite3.connect(pair.path(index)).execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_nothing_is_left_on_the_recipients_disk_either(tmp_path: Path) -> None:
    async with both(tmp_path) as (pair, alice, bob):
        bob.nursery.start_soon(bob.expiry.run)
        sent = await delivered(alice, SECRET)
        assert SECRET.encode() in on_disk(pair, 1)
        await alice.outbox.retract(sent)
        assert SECRET.encode() not in on_disk(pair, 0)
        await until(_gone_there(alice, sent))
        await until(lambda: _is_off_disk(pair, 1))


async def _is_off_disk(pair: Pair, index: int) -> bool:
    return SECRET.encode() not in on_disk(pair, index)


# --- taken back afterwards ---


@pytest.mark.parametrize("read_first", [False, True])
@pytest.mark.parametrize("times", [1, 2])
async def test_taken_back_after_delivery(tmp_path: Path, read_first: bool, times: int) -> None:
    async with both(tmp_path) as (_, alice, bob):
        await bob.database.write(lambda tx: contacts.set_tells_reading(tx, 1, True))  # type: ignore[arg-type]
        sent = await delivered(alice, "oops")
        if read_first:
            await bob.inbox.mark_read()
            await alice.outbox.wait(sent, MessageState.READ, timeout=10)
        for _ in range(times):
            await alice.outbox.retract(sent)
        await until(_gone_there(alice, sent))
        assert await texts(bob) == []
        [left] = await bob.inbox.list(ended=True)
        assert (left.state, left.content.text, left.is_edited) == (InboxState.RETRACTED, "", False)
        assert left.ended_at is not None and (left.read_at is not None) == read_first
        assert await bob.inbox.unread_count() == 0
        assert await bob.inbox.mark_read() == 0
        again = await alice.outbox.retract(sent)  # it has ended: nothing changes
        assert again.reason.startswith("you took it back; it's erased here and on")


async def test_a_retraction_that_comes_before_its_message_wins(tmp_path: Path) -> None:
    """It overtakes the message on a newer link; the message then finds a tombstone, and nobody ever sees it."""
    async with both(tmp_path) as (pair, alice, bob):
        pair.holding = True
        sent = await alice.outbox.send("bob", "never to be seen")
        await until(lambda: _under_way(pair, 1))
        first = pair.wires[0]
        await alice.outbox.retract(sent.id)
        second = pair.connect(0)
        second.let_through(1, None)
        second.let_through(0, None)
        await until(_gone_there(alice, sent.id))
        first.let_through(1, None)
        await wait_all_tasks_blocked()
        assert await texts(bob) == []
        assert await bob.inbox.list(ended=True) == []  # it never was here: there is nothing to tell
        assert [each.state for each in await alice.outbox.list()] == [MessageState.RETRACTED]


async def _under_way(pair: Pair, towards: int) -> bool:
    return bool(pair.wires) and bool(pair.wires[-1].towards[towards].under_way)


async def test_a_retraction_reaches_a_contact_that_has_lost_the_message(tmp_path: Path) -> None:
    """The recipient's disk is from before the message: the retraction leaves a tombstone there all the same."""
    pair = Pair(tmp_path)
    async with pair.node(1):
        pass
    image = tmp_path / "image"
    shutil.copy(pair.path(1), image)
    async with pair.node(0) as alice, pair.node(1):
        sent = await delivered(alice, "lost there")
    shutil.copy(image, pair.path(1))
    async with pair.node(0) as alice, pair.node(1) as bob:
        await alice.outbox.retract(sent)
        await until(_gone_there(alice, sent))
        assert await bob.inbox.list(ended=True) == []
        # an old backup of Alice's would offer it again: the tombstone answers
        await execute(alice, "UPDATE outgoing SET state = 'queued', reason = '', body = x'0a0161' WHERE id = ?", sent)
        await execute(alice, "UPDATE outgoing SET body_hash = zeroblob(32)")
        alice.couriers.wake(1)  # type: ignore[arg-type]
        await until(_state_is(alice, sent, "doesn't show it"))
        assert await texts(bob) == []


async def test_what_a_contacts_backup_brought_back_is_taken_back_again(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    image = tmp_path / "image"
    async with pair.node(0) as alice, pair.node(1):
        sent = await delivered(alice, SECRET)
    shutil.copy(pair.path(1), image)
    async with pair.node(0) as alice, pair.node(1):
        await alice.outbox.retract(sent)
        await until(_gone_there(alice, sent))
    shutil.copy(image, pair.path(1))
    async with pair.node(0) as alice, pair.node(1) as bob:
        assert await texts(bob) == [SECRET]
        assert await alice.database.write(lambda tx: held.retract_again(tx, 1)) == 1  # type: ignore[arg-type]
        alice.couriers.wake(1, others=True)  # type: ignore[arg-type]
        await until(_gone_there(alice, sent))
        assert await texts(bob) == []


async def test_nobody_else_can_take_a_message_back(tmp_path: Path) -> None:
    """A contact's retraction names a message of ours, and one of somebody else's: only its own ids can be meant."""
    async with both(tmp_path) as (pair, alice, bob):
        ours = await delivered(bob, "bob's own words")
        await execute(
            bob,
            """INSERT INTO contacts (id, name, identity_key, pair_secret, rotated_at, list_version, protocol_version,
                                     paired_at) VALUES (2, 'carol', randomblob(32), x'00', 0, 0, 1, 0)""",
        )
        from_carol = MessageId(bytes(range(32)))
        await execute(
            bob,
            """INSERT INTO incoming (id, contact_id, stream_id, sequence, sent_at, received_at, body, body_hash, status)
               VALUES (?, 2, zeroblob(16), 1, 0, 0, x'0a056361726f6c', zeroblob(32), 1)""",
            from_carol,
        )
        link = pair.wires[-1].ends[1 if pair.wires[-1].ends[1].peer_identity == bytes([1]) * 32 else 0]
        key = link.receipt_key
        await link.send(
            (Retractions(tuple(Retraction(each, retraction_mac(key, each)) for each in (ours, from_carol))),)
        )
        await wait_all_tasks_blocked()
        assert (await bob.outbox.show(ours)).state is MessageState.DELIVERED
        assert [each.content.text for each in await bob.inbox.list(contact_name="carol")] == ["carol"]
        assert await texts(alice) == ["bob's own words"]


async def test_a_contact_cannot_erase_our_own_text(tmp_path: Path) -> None:
    """It says RETRACTED of a message that we never took back. We say what it says, and keep what is ours."""
    async with both(tmp_path) as (pair, alice, _):
        sent = await delivered(alice, "mine")
        link = next(each for each in pair.wires[-1].ends if each.peer_identity == bytes([0]) * 32)
        mac = receipt_mac(link.receipt_key, sent, EMPTY_HASH, ReceiptStatus.RETRACTED)
        await link.send((Receipts((Receipt(sent, ReceiptStatus.RETRACTED, mac),)),))
        await until(_state_is(alice, sent, "doesn't know of that"))
        shown = await alice.outbox.show(sent)
        assert (shown.state, shown.content.text) == (MessageState.RETRACTED, "mine")
        erased = await alice.outbox.retract(sent)
        assert (erased.content.text, erased.reason) == ("", "you took it back; it's erased here and on bob's node")


# --- edits ---


async def test_edits_keep_their_history_on_both_sides(tmp_path: Path) -> None:
    async with both(tmp_path) as (_, alice, bob):
        sent = await delivered(alice, "one")
        second = await alice.outbox.edit(sent, "two")
        third = await alice.outbox.edit(second.id, "three")  # an edit of an edit is one of the original
        await alice.outbox.wait(third.id, timeout=10)
        for history in (await alice.outbox.history(second.id), await bob.inbox.history(sent)):
            assert [each.content.text for each in history] == ["one", "two", "three"]
            assert [each.content.edits for each in history] == [None, sent, sent]
        assert [each.is_edited for each in await bob.inbox.list()] == [True, False, False]
        await alice.outbox.retract(third.id)  # an edit taken back alone: the text before it counts again
        await until(_gone_there(alice, third.id))
        assert [each.content.text for each in await bob.inbox.history(sent)] == ["one", "two", ""]
        await alice.outbox.retract(sent)
        await until(_gone_there(alice, second.id))
        assert await texts(bob) == []
        with pytest.raises(LocalError, match="taken back"):
            await alice.outbox.edit(sent, "four")


async def test_an_edit_does_not_bring_a_message_to_life_again(tmp_path: Path) -> None:
    """A rolled-back sender edits what it has forgotten to have taken back: the tombstone wins over the edit."""
    pair = Pair(tmp_path)
    image = tmp_path / "image"
    async with pair.node(0) as alice, pair.node(1):
        sent = await delivered(alice, "regretted")
    shutil.copy(pair.path(0), image)
    async with pair.node(0) as alice, pair.node(1):
        await alice.outbox.retract(sent)
        await until(_gone_there(alice, sent))
    shutil.copy(image, pair.path(0))
    async with pair.node(0) as alice, pair.node(1) as bob:
        edit = await alice.outbox.edit(sent, "regretted, again")
        await until(_state_is(alice, edit.id, "doesn't show it"))
        assert await texts(bob) == []


async def test_a_retraction_takes_along_edits_that_its_sender_has_forgotten(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    image = tmp_path / "image"
    async with pair.node(0) as alice, pair.node(1):
        sent = await delivered(alice, "before")
    shutil.copy(pair.path(0), image)
    async with pair.node(0) as alice, pair.node(1):
        edit = await alice.outbox.edit(sent, "after")
        await alice.outbox.wait(edit.id, timeout=10)
    shutil.copy(image, pair.path(0))
    async with pair.node(0) as alice, pair.node(1) as bob:
        assert await texts(bob) == ["before", "after"]
        await alice.outbox.retract(sent)
        await until(_gone_there(alice, sent))
        assert await texts(bob) == []


# --- reading ---


async def test_receipts_of_reading_only_where_they_are_on(tmp_path: Path) -> None:
    async with both(tmp_path) as (_, alice, bob):
        first = await delivered(alice, "first")
        assert await bob.inbox.mark_read() == 1
        await bob.database.write(lambda tx: contacts.set_tells_reading(tx, 1, True))  # type: ignore[arg-type]
        second = await delivered(alice, "second")
        assert await bob.inbox.mark_read(ids=[second]) == 1
        await alice.outbox.wait(second, MessageState.READ, timeout=10)
        assert (await alice.outbox.show(first)).state is MessageState.DELIVERED
        assert await bob.inbox.mark_read() == 0


async def test_switching_receipts_off_takes_back_what_was_not_sent_yet(tmp_path: Path) -> None:
    async with both(tmp_path) as (pair, alice, bob):
        await bob.database.write(lambda tx: contacts.set_tells_reading(tx, 1, True))  # type: ignore[arg-type]
        sent = await delivered(alice, "private")
        pair.online = False
        pair.cut_all()
        await wait_all_tasks_blocked()
        await bob.inbox.mark_read()
        await bob.database.write(lambda tx: contacts.set_tells_reading(tx, 1, False))  # type: ignore[arg-type]
        pair.online = True
        await delivered(alice, "next")
        assert (await alice.outbox.show(sent)).state is MessageState.DELIVERED
        assert [each.state for each in await bob.inbox.list()] == [InboxState.READ, InboxState.NEW]


# --- expiry ---


async def _expired(node: Node, index: int, identifier: MessageId) -> bool:
    if index == 0:
        return (await node.outbox.show(identifier)).state is MessageState.EXPIRED
    return (await node.inbox.show(identifier)).state is InboxState.EXPIRED


@pytest.mark.parametrize("skew", [0, -20 * HOUR, 20 * HOUR])
async def test_each_side_erases_by_its_own_clock(tmp_path: Path, autojump_clock: MockClock, skew: int) -> None:
    """However far apart the two clocks are: an hour from delivery here, an hour from reading there."""
    async with both(tmp_path) as (pair, alice, bob):
        bob.world.clock.shift = skew  # type: ignore[attr-defined]
        for node in (alice, bob):
            node.nursery.start_soon(node.expiry.run)
        sent = await delivered(alice, SECRET, expire_after=HOUR)
        await trio.sleep(1800)
        [there] = await bob.inbox.list()
        assert there.expire_after == HOUR and there.expires_at is None
        await bob.inbox.mark_read()
        await trio.sleep(1790)
        assert not await _expired(alice, 0, sent) and not await _expired(bob, 1, sent)
        await trio.sleep(20)
        assert await _expired(alice, 0, sent) and not await _expired(bob, 1, sent)
        await trio.sleep(1830)
        assert await _expired(bob, 1, sent)
        assert await texts(bob) == []
        assert SECRET.encode() not in on_disk(pair, 0) + on_disk(pair, 1)
        shown = await alice.outbox.show(sent)
        assert "erased here" in shown.reason and shown.content.text == ""


async def test_a_clock_that_is_put_back_stretches_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with both(tmp_path) as (_, alice, bob):
        for node in (alice, bob):
            node.nursery.start_soon(node.expiry.run)
        sent = await delivered(alice, "x", expire_after=HOUR)
        await bob.inbox.mark_read()
        await trio.sleep(1200)
        for node in (alice, bob):
            node.world.clock.shift = -1000 * HOUR  # type: ignore[attr-defined]
        await trio.sleep(1800)
        later = await delivered(alice, "y", expire_after=HOUR)  # what begins afterwards has its whole hour
        await bob.inbox.mark_read()
        await trio.sleep(620)
        for index, node in enumerate((alice, bob)):
            assert await _expired(node, index, sent)
            assert not await _expired(node, index, later)
        await trio.sleep(HOUR / 1000)
        for index, node in enumerate((alice, bob)):
            assert await _expired(node, index, later)


async def test_a_clock_that_is_put_back_while_the_node_is_off(tmp_path: Path, autojump_clock: MockClock) -> None:
    pair = Pair(tmp_path)
    async with pair.node(0) as alice, pair.node(1):
        alice.nursery.start_soon(alice.expiry.run)
        sent = await delivered(alice, "x", expire_after=HOUR)
        await trio.sleep(1200)
    async with pair.node(0) as alice:
        alice.world.clock.shift = -1000 * HOUR  # type: ignore[attr-defined]
        alice.nursery.start_soon(alice.expiry.run)
        await trio.sleep(2500)
        assert await _expired(alice, 0, sent)


async def test_a_clock_that_was_put_back_while_nothing_counted_down_costs_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with both(tmp_path) as (_, alice, _bob):
        alice.nursery.start_soon(alice.expiry.run)
        first = await delivered(alice, "x", expire_after=60_000)
        await trio.sleep(70)
        assert await _expired(alice, 0, first)
        alice.world.clock.shift = -1000 * HOUR  # type: ignore[attr-defined]
        second = await delivered(alice, "y", expire_after=HOUR)
        await trio.sleep(1800)
        assert not await _expired(alice, 0, second)
        await trio.sleep(1900)
        assert await _expired(alice, 0, second)


async def test_an_edit_of_an_expiring_message_expires_too(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with both(tmp_path) as (_, alice, bob):
        for node in (alice, bob):
            node.nursery.start_soon(node.expiry.run)
        sent = await delivered(alice, "x", expire_after=HOUR)
        edit = await alice.outbox.edit(sent, "y")
        assert edit.expire_after == HOUR
        await alice.outbox.wait(edit.id, timeout=10)
        await bob.inbox.mark_read()
        await trio.sleep(3700)
        assert await texts(bob) == []
        assert [each.state for each in await bob.inbox.list(ended=True)] == [InboxState.EXPIRED] * 2


async def test_what_has_expired_here_can_still_be_taken_back_there(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The recipient hasn't read it, so its hour hasn't begun; the sender's has long ended."""
    async with both(tmp_path) as (_, alice, bob):
        alice.nursery.start_soon(alice.expiry.run)
        sent = await delivered(alice, "x", expire_after=HOUR)
        await trio.sleep(4000)
        assert await _expired(alice, 0, sent) and await texts(bob) == ["x"]
        with pytest.raises(LocalError, match="expired"):
            await alice.outbox.edit(sent, "y")
        await alice.outbox.retract(sent)
        await until(_gone_there(alice, sent))
        assert await texts(bob) == []


async def test_thousands_expire_in_pieces(tmp_path: Path) -> None:
    from p2pe.messaging.outbox import SendRequest

    async with both(tmp_path) as (_, alice, bob):
        count = 2500
        sent = await alice.outbox.send_many([SendRequest("bob", str(n), expire_after=1000) for n in range(count)])
        await alice.outbox.wait(sent[-1].id, timeout=30)
        assert await bob.inbox.mark_read() == count
        for node in (alice, bob):
            node.world.clock.shift = 2000  # type: ignore[attr-defined]
            assert await node.expiry.erase_due() is None
        assert await texts(bob) == []
        assert len(await bob.query("SELECT 1 FROM incoming WHERE ended_at IS NOT NULL")) == count
        assert len(await alice.query("SELECT 1 FROM outgoing WHERE state = 'expired' AND body = x''")) == count
