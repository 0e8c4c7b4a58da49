"""Following the inbox with two cursors: what arrives, and what becomes of it; over crashes, pages and removals."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest
import trio
from messaging_kit import Node, Pair, both, until
from p2pe.messaging.inbox import Followed
from p2pe.model import InboxState, MessageId
from p2pe.storage.migrations import migrate, migrations
from trio.testing import MockClock, wait_all_tasks_blocked

_CONTACT = """INSERT INTO contacts (id, name, identity_key, pair_secret, rotated_at, list_version, protocol_version,
                                    paired_at)"""


async def delivered(sender: Node, text: str, **options: object) -> MessageId:
    sent = await sender.outbox.send(sender.peer, text, **options)  # type: ignore[arg-type]
    await sender.outbox.wait(sent.id, timeout=10)
    return sent.id


async def taken_back(sender: Node, identifier: MessageId) -> None:
    await sender.outbox.retract(identifier)

    async def confirmed() -> bool:
        return "erased here and on" in (await sender.outbox.show(identifier)).reason

    await until(confirmed)


class Follower:
    """What `p2pe inbox --follow` does, one page at a time."""

    def __init__(self, node: Node, *, after: int = 0, ended_after: int | None = None) -> None:
        self.node = node
        self.after = after
        self.ended_after = ended_after
        self.seen: list[str] = []

    async def page(self, timeout: float = 0.0, limit: int = 1000) -> Followed:
        found = await self.node.inbox.follow(
            after=self.after, ended_after=self.ended_after, timeout=timeout, limit=limit
        )
        if found.messages:
            self.after = found.messages[-1].row
        self.ended_after = found.ended_number
        self.seen += [each.content.text for each in found.messages]
        self.seen += [f"{each.row} {each.state.value}" for each in found.ended]
        return found


async def test_a_follower_hears_of_retractions_once(tmp_path: Path) -> None:
    async with both(tmp_path) as (_, alice, bob):
        first, second = await delivered(alice, "one"), await delivered(alice, "two")
        follower = Follower(bob)
        await follower.page()
        assert follower.seen == ["one", "two"]
        await taken_back(alice, second)
        await taken_back(alice, first)
        await follower.page()
        assert follower.seen[2:] == ["1 retracted", "2 retracted"]
        assert await follower.page() == Followed([], [], follower.ended_after or 0)


async def test_a_waiting_follower_is_woken_by_either(tmp_path: Path) -> None:
    async with both(tmp_path) as (_, alice, bob):
        sent = await delivered(alice, "one")
        follower = Follower(bob)
        await follower.page()
        for change, seen in ((taken_back(alice, sent), "1 retracted"), (delivered(alice, "two"), "two")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follower.page, 60.0)
                await wait_all_tasks_blocked()
                await change
            assert follower.seen[-1] == seen


async def test_what_expires_is_said_too(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with both(tmp_path) as (_, alice, bob):
        bob.nursery.start_soon(bob.expiry.run)
        await delivered(alice, "burn this", expire_after=60_000)
        follower = Follower(bob)
        await follower.page()
        await bob.inbox.mark_read()
        [ended] = (await follower.page(3600.0)).ended
        assert (ended.state, ended.content.text) == (InboxState.EXPIRED, "")


async def test_the_cursor_survives_the_follower_and_the_node(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    async with pair.node(0) as alice:
        async with pair.node(1) as bob:
            sent = await delivered(alice, "one")
            follower = Follower(bob)
            await follower.page()
            await taken_back(alice, sent)
        async with pair.node(1) as bob:
            again = Follower(bob, after=follower.after, ended_after=follower.ended_after)
            await again.page()
            assert again.seen == ["1 retracted"]
            late = Follower(bob, after=follower.after)  # begins now: what is over is over
            await late.page()
            assert late.seen == []


async def test_what_ended_before_it_was_given_out_is_no_news(tmp_path: Path) -> None:
    async with both(tmp_path) as (_, alice, bob):
        ids = [await delivered(alice, str(number)) for number in range(5)]
        follower = Follower(bob, ended_after=0)
        await follower.page(limit=2)
        await taken_back(alice, ids[1])
        await taken_back(alice, ids[3])
        for _ in range(3):
            await follower.page(limit=2)
        assert follower.seen == ["0", "1", "2", "4", "2 retracted"]


async def test_many_endings_come_in_pages(tmp_path: Path) -> None:
    async with both(tmp_path) as (_, alice, bob):
        ids = [await delivered(alice, str(number)) for number in range(5)]
        follower = Follower(bob)
        await follower.page()
        for each in ids:
            await taken_back(alice, each)
        pages = [len((await follower.page(limit=2)).ended) for _ in range(4)]
        assert pages == [2, 2, 1, 0]


async def test_numbers_are_not_given_twice_when_a_contact_goes(tmp_path: Path) -> None:
    async with both(tmp_path) as (_, alice, bob):
        follower = Follower(bob)
        sent = await delivered(alice, "one")
        await follower.page()
        await taken_back(alice, sent)
        await follower.page()
        await bob.database.write(lambda tx: tx.execute("DELETE FROM incoming").fetchall())
        assert await bob.query("SELECT row FROM endings") == []
        second = await delivered(alice, "two")
        await follower.page()
        await taken_back(alice, second)
        await follower.page()
        assert follower.seen[-1].endswith("retracted") and len(follower.seen) == 4


async def test_only_the_contact_that_is_followed(tmp_path: Path) -> None:
    async with both(tmp_path) as (_, alice, bob):
        sent = await delivered(alice, "one")
        await bob.inbox.follow(after=0)
        await taken_back(alice, sent)
        found = await bob.inbox.follow(contact_name="alice", after=1, ended_after=0)
        assert [each.row for each in found.ended] == [1]
        await bob.database.write(_now_of_carol)
        found = await bob.inbox.follow(contact_name="alice", after=1, ended_after=0)
        assert (found.ended, found.ended_number) == ([], 1)


def _now_of_carol(tx: apsw.Connection) -> None:
    tx.execute(f"{_CONTACT} VALUES (2, 'carol', x'07', x'00', 0, 1, 1, 0)").fetchall()
    tx.execute("UPDATE incoming SET contact_id = 2").fetchall()


@pytest.mark.parametrize("ended_at", [None, 5])
def test_an_older_database_gets_its_endings(tmp_path: Path, ended_at: int | None) -> None:
    connection = apsw.Connection(str(tmp_path / "a.db"))
    migrate(connection, "a.db", migrations()[:4])
    connection.execute(f"{_CONTACT} VALUES (1, 'a', x'01', x'02', 0, 1, 1, 0)")
    for number, stream in enumerate((b"s", b"")):  # the second: a tombstone of what never arrived
        connection.execute(
            """INSERT INTO incoming (id, contact_id, stream_id, sequence, sent_at, received_at, body, body_hash, status,
                                     ended_at) VALUES (?, 1, ?, ?, 0, 0, x'', x'', 1, ?)""",
            (bytes([number]), stream, number, ended_at),
        )
    assert migrate(connection, "a.db") >= 1
    found = connection.execute("SELECT number, row FROM endings").fetchall()
    assert found == ([] if ended_at is None else [(1, 1)])
