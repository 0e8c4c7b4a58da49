"""From send to DELIVERED and what lies between: order, once, truth of the states, links that come, overlap and go."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from messaging_kit import Pair, both, texts, until
from p2pe.model import Batch, MessageState, OrderConflict


async def test_a_message_is_delivered_and_receipted(tmp_path: Path) -> None:
    async with both(tmp_path) as (_, alice, bob):
        sent = await alice.outbox.send("bob", "hello")
        assert sent.state is MessageState.QUEUED
        got = await alice.outbox.wait(sent.id, MessageState.DELIVERED, timeout=10)
        assert got.state is MessageState.DELIVERED
        assert got.offered_at is not None and got.delivered_at is not None and got.attempts == 1
        assert got.reason == "bob's node has it safely on its disk"
        (arrived,) = await bob.inbox.list()
        assert (arrived.id, arrived.content.text, arrived.contact_name) == (sent.id, "hello", "alice")
        assert arrived.sent_at == sent.queued_at and arrived.read_at is None


async def test_thousands_both_ways_arrive_once_and_in_order(tmp_path: Path) -> None:
    count = 5000  # more than a window, several commits
    async with both(tmp_path) as (_, alice, bob):
        from p2pe.messaging.outbox import SendRequest

        for node in (alice, bob):
            await node.outbox.send_many([SendRequest(node.peer, f"{node.index} {n}") for n in range(count)])
        for node in (alice, bob):
            await until(lambda node=node: _none_waits(node))  # type: ignore[misc]
        assert await texts(bob) == [f"0 {n}" for n in range(count)]
        assert await texts(alice) == [f"1 {n}" for n in range(count)]


async def _none_waits(node: object) -> bool:
    counts = await node.outbox.counts()  # type: ignore[attr-defined]
    return not any(counts.values())


async def test_long_texts_are_cut_into_frames_that_fit(tmp_path: Path) -> None:
    async with both(tmp_path) as (pair, alice, bob):
        long = ["ü" * 16_000 + str(n) for n in range(70)]
        for each in long:
            sent = await alice.outbox.send("bob", each)
        await alice.outbox.wait(sent.id, timeout=10)
        assert await texts(bob) == long
        batches = [each for each in pair.wires[0].towards[1].seen if isinstance(each, Batch)]
        assert len(batches) >= 70 * 32_000 // 65_535


async def test_it_waits_here_and_leaves_when_the_contact_comes(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    async with pair.node(0) as alice:
        sent = await alice.outbox.send("bob", "are you there?")
        await until(lambda: _has_failed(alice))
        shown = await alice.outbox.show(sent.id)
        assert shown.state is MessageState.QUEUED
        assert shown.reason.startswith("waiting for bob to come online; last try: no address of bob answered; next try")
        async with pair.node(1) as bob:
            pair.connect(1)  # bob's node greets its contacts
            await alice.outbox.wait(sent.id, timeout=5)
            assert await texts(bob) == ["are you there?"]


async def _has_failed(node: object) -> bool:
    return node.couriers.situation(1).next_try_at is not None  # type: ignore[attr-defined]


async def test_offered_is_said_before_it_leaves_and_until_a_receipt_came(tmp_path: Path) -> None:
    async with both(tmp_path) as (pair, alice, bob):
        pair.holding = True
        sent = await alice.outbox.send("bob", "x")
        await until(lambda: _under_way(pair, 1))
        shown = await alice.outbox.show(sent.id)
        assert shown.state is MessageState.OFFERED and shown.reason == "sent, no receipt yet"
        assert await texts(bob) == []
        pair.online = False
        pair.cut_all()
        await until(lambda: _has_failed(alice))
        shown = await alice.outbox.show(sent.id)
        assert shown.state is MessageState.OFFERED
        assert shown.reason.startswith("offered once, but no receipt came back; waiting for bob to come online")
        pair.online, pair.holding = True, False
        got = await alice.outbox.wait(sent.id, timeout=10)
        assert got.attempts == 2
        assert await texts(bob) == ["x"]


async def _under_way(pair: Pair, towards: int) -> bool:
    return bool(pair.wires) and bool(pair.wires[-1].towards[towards].under_way)


async def test_a_lost_receipt_is_given_again_and_nothing_is_doubled(tmp_path: Path) -> None:
    async with both(tmp_path) as (pair, alice, bob):
        pair.holding = True
        sent = await alice.outbox.send("bob", "once")
        await until(lambda: _under_way(pair, 1))
        pair.wires[0].let_through(1, None)  # it arrives, its receipt doesn't
        await until(lambda: _under_way(pair, 0))
        assert await texts(bob) == ["once"]
        assert (await alice.outbox.show(sent.id)).state is MessageState.OFFERED
        pair.holding = False
        pair.wires[0].cut()
        await alice.outbox.wait(sent.id, timeout=10)
        assert await texts(bob) == ["once"]


async def test_overlapping_links_neither_double_nor_reorder(tmp_path: Path) -> None:
    async with both(tmp_path) as (pair, alice, bob):
        pair.holding = True
        for n in range(5):
            await alice.outbox.send("bob", str(n))
        await until(lambda: _under_way(pair, 1))
        first = pair.wires[0]
        second = pair.connect(0)  # the newer one takes over; what is on the first is still under way
        for n in range(5, 10):
            last = await alice.outbox.send("bob", str(n))
        await until(lambda: _carries(second, 10))
        first.let_through(1, 1)
        await trio.testing.wait_all_tasks_blocked()
        second.let_through(1, None)
        await until(lambda: _has(bob, 10))
        first.let_through(1, None)
        for wire in (first, second):
            wire.let_through(0, None)
        await alice.outbox.wait(last.id, timeout=10)
        assert await texts(bob) == [str(n) for n in range(10)]


async def _carries(wire: object, count: int) -> bool:
    from p2pe.core.codec import decode_frame

    frames = [decode_frame(each) for each in wire.towards[1].under_way]  # type: ignore[attr-defined]
    return sum(len(each.messages) for each in frames if isinstance(each, Batch)) >= count


async def _has(node: object, count: int) -> bool:
    return len(await texts(node)) >= count  # type: ignore[arg-type]


async def test_a_write_that_hangs_on_a_dead_link_gives_way_to_a_newer_one(tmp_path: Path) -> None:
    async with both(tmp_path) as (pair, alice, bob):
        first = pair.connect(0)
        await trio.testing.wait_all_tasks_blocked()

        async def hang(_: object) -> None:
            await trio.sleep_forever()

        first.ends[0].send = hang  # type: ignore[method-assign]
        sent = await alice.outbox.send("bob", "x")
        await trio.testing.wait_all_tasks_blocked()
        pair.connect(1)
        await alice.outbox.wait(sent.id, timeout=10)
        assert await texts(bob) == ["x"]
        assert first.dead  # it was cut off within a frame: nothing else may be written to it


async def test_both_restart_and_go_on(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    async with pair.node(0) as alice:
        for n in range(300):
            await alice.outbox.send("bob", str(n))
    async with pair.node(1):
        pass
    async with pair.node(0) as alice, pair.node(1) as bob:
        await until(lambda: _none_waits(alice))
        assert await texts(bob) == [str(n) for n in range(300)]


async def test_a_rolled_back_sender_loses_and_doubles_nothing(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    async with pair.node(0) as alice:
        await alice.outbox.send("bob", "before")
    image = pair.path(0).read_bytes()
    async with pair.node(0) as alice, pair.node(1) as bob:
        for n in range(3):
            sent = await alice.outbox.send("bob", f"lost here {n}")
        await alice.outbox.wait(sent.id, timeout=10)
    pair.path(0).write_bytes(image)
    async with pair.node(0) as alice, pair.node(1) as bob:
        for n in range(3):
            sent = await alice.outbox.send("bob", f"after {n}")
        await alice.outbox.wait(sent.id, timeout=10)
        assert await texts(bob) == ["before", *(f"lost here {n}" for n in range(3)), *(f"after {n}" for n in range(3))]
        conflicts = [each for wire in pair.wires for each in wire.towards[0].seen if isinstance(each, OrderConflict)]
        assert len(conflicts) == 1
        streams = await alice.query("SELECT DISTINCT stream_id FROM outgoing WHERE row > 1")
        assert len(streams) == 1 and await alice.query("SELECT value FROM meta WHERE key = 'stream_id'") == streams


async def test_failed_links_are_retried_ever_more_slowly(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    pair = Pair(tmp_path)
    async with pair.node(0) as alice:
        await alice.outbox.send("bob", "x")
        await trio.sleep(600)
        assert 10 <= pair.dials <= 25  # 0.5, 1, 2, ... 32, then a minute each, jittered


async def test_a_link_that_dies_without_a_receipt_is_not_dialled_in_a_loop(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    pair = Pair(tmp_path)
    async with pair.node(0) as alice, pair.node(1):
        real = pair.connect

        def dead(dialer: int):  # type: ignore[no-untyped-def]
            wire = real(dialer)
            wire.hold()
            wire.cut()
            return wire

        pair.connect = dead  # type: ignore[method-assign]
        await alice.outbox.send("bob", "x")
        await trio.sleep(600)
        assert 5 <= pair.dials <= 40


async def test_a_blocked_contact_is_not_dialled(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    pair = Pair(tmp_path)
    async with pair.node(0) as alice:
        sent = await alice.outbox.send("bob", "x")
        await alice.database.write(lambda tx: tx.execute("UPDATE contacts SET blocked = 1").fetchall())
        await trio.sleep(60)
        dials = pair.dials
        await trio.sleep(600)
        assert pair.dials == dials
        assert "blocked bob" in (await alice.outbox.show(sent.id)).reason


@pytest.mark.parametrize("bad", ["receipt", "retraction"])
async def test_a_wrong_mac_drops_the_link_and_changes_nothing(tmp_path: Path, bad: str) -> None:
    from p2pe.model import Receipt, Receipts, ReceiptStatus, Retraction, Retractions

    async with both(tmp_path) as (pair, alice, bob):
        pair.holding = True
        sent = await alice.outbox.send("bob", "x")
        await until(lambda: _under_way(pair, 1))
        wire = pair.wires[0]
        wire.let_through(1, None)
        await until(lambda: _has(bob, 1))
        if bad == "receipt":
            wire.towards[0].under_way.clear()
            wire.let_through(0, None)
            await wire.ends[1].send((Receipts((Receipt(sent.id, ReceiptStatus.DELIVERED, bytes(32)),)),))
        else:
            wire.let_through(0, None)
            await wire.ends[0].send((Retractions((Retraction(sent.id, bytes(32)),)),))
        await until(lambda: _is_dead(wire))
        if bad == "receipt":
            assert (await alice.outbox.show(sent.id)).state is MessageState.OFFERED
        assert await texts(bob) == ["x"]


async def _is_dead(wire: object) -> bool:
    return wire.dead  # type: ignore[attr-defined, no-any-return]
