"""Whatever happens in whatever order, nothing is lost, doubled, reordered or in a state that isn't true.

Hypothesis makes up a story of sends, retractions, links that come, overlap, deliver some frames and die, crashes
just before or just after a commit, restarts and rolled-back databases. The real rooms run it on real files, on one
thread and a manual clock, so that a story always plays the same way. After every step the states are held against
the other side's database; at the end everything may pass, and the accounts must balance.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import apsw
import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from messaging_kit import Node, Pair, texts
from p2pe.core.codec import decode_content
from p2pe.model import MessageState
from p2pe.storage.database import Database
from trio.testing import MockClock, wait_all_tasks_blocked

T = TypeVar("T")
# These crashes are those of a process, which leaves what it wrote to the kernel: a disk of memory is as good, and a
# hundred times faster. What a power cut leaves is tests/rooms/test_storage_failures.py's and the simulator's subject.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
WHO = st.integers(0, 1)
RANK = {
    "queued": 0,
    "offered": 1,
    "delivered": 2,
    "read": 3,
    "retracted": 4,
}

step = st.one_of(
    st.tuples(st.just("send"), WHO, st.integers(1, 4)),
    st.tuples(st.just("send"), WHO, st.integers(1, 4)),
    st.tuples(st.just("connect"), WHO, st.integers(0, 1)),
    st.tuples(st.just("let"), st.integers(0, 7), st.integers(1, 3)),
    st.tuples(st.just("let"), st.integers(0, 7), st.integers(1, 3)),
    st.tuples(st.just("let"), st.integers(0, 7), st.just(99)),
    st.tuples(st.just("cut"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("crash"), WHO, st.just(0)),
    st.tuples(st.just("die at commit"), WHO, st.integers(0, 5)),
    st.tuples(st.just("start"), WHO, st.just(0)),
    st.tuples(st.just("start"), WHO, st.just(0)),
    st.tuples(st.just("retract"), WHO, st.integers(0, 9)),
    st.tuples(st.just("read"), WHO, st.integers(0, 1)),
    st.tuples(st.just("wait"), st.integers(1, 70), st.just(0)),
    st.tuples(st.just("copy"), WHO, st.just(0)),
    st.tuples(st.just("roll back"), WHO, st.just(0)),
)


# Stories that need many steps in a row to become interesting, as seen from node 0.
DEAD_SENDER_REMEMBERS = [("connect", 0, 1), ("send", 0, 2), ("crash", 0, 0), ("start", 0, 0), ("connect", 1, 1)]
OVERTAKEN = [("connect", 0, 0), ("send", 0, 2), ("connect", 0, 1), ("let", 1, 99)]
RETRACTED_IN_FLIGHT = [("connect", 0, 0), ("send", 0, 2), ("retract", 0, 0), ("let", 1, 1), ("let", 1, 99)]
TOMBSTONE_FIRST = [("connect", 0, 0), ("send", 0, 2), ("retract", 0, 1), ("connect", 0, 1), ("let", 1, 99)]
ROLLED_BACK = [
    *(("connect", 0, 1), ("copy", 0, 0), ("send", 0, 1), ("roll back", 0, 0)),
    *(("start", 0, 0), ("connect", 0, 0), ("send", 0, 1), ("send", 0, 3), ("let", 1, 1), ("let", 1, 99)),
]
RETRACTION_ROLLED_BACK = [
    *(("connect", 0, 1), ("send", 0, 2), ("copy", 0, 0), ("retract", 0, 0), ("roll back", 0, 0)),
    *(("start", 0, 0), ("connect", 0, 1), ("send", 0, 1)),
]
QUEUE_RETRACTED_AND_ROLLED_BACK = [
    *(("connect", 0, 0), ("send", 0, 2), ("copy", 0, 0), ("let", 1, 99), ("retract", 0, 0), ("let", 1, 99)),
    *(("roll back", 0, 0), ("start", 0, 0), ("connect", 0, 1), ("send", 0, 1)),
]
STORIES = [
    *(DEAD_SENDER_REMEMBERS, OVERTAKEN, RETRACTED_IN_FLIGHT, TOMBSTONE_FIRST, ROLLED_BACK, RETRACTION_ROLLED_BACK),
    QUEUE_RETRACTED_AND_ROLLED_BACK,
]


def turned(story: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """The same with the roles swapped."""
    return [(what, first if what in ("wait", "let", "cut") else 1 - first, second) for what, first, second in story]


steps = st.lists(step, min_size=1, max_size=12)
whole_stories = st.lists(
    st.one_of(steps, steps, st.sampled_from(STORIES), st.sampled_from(STORIES).map(turned)), min_size=1, max_size=5
).map(lambda parts: [each for part in parts for each in part])


class MortalDatabase:
    """Stops for ever just before, or just after, one of its next commits. Only a crash ends that."""

    def __init__(self, database: Database, machine: Machine, index: int) -> None:
        self._database = database
        self._machine = machine
        self._index = index
        self.read = database.read
        self.truncate_log = database.truncate_log

    async def write(self, work: Callable[[apsw.Connection], T]) -> T:
        fuse = self._machine.fuse[self._index]
        if fuse is not None:
            self._machine.fuse[self._index] = fuse - 2
            if fuse == 0:
                await self._dead()
            if fuse == 1:
                await self._database.write(work)
                await self._dead()
        return await self._database.write(work)

    async def _dead(self) -> None:
        self._machine.fuse[self._index] = 0
        await trio.sleep_forever()


class Machine:
    """Plays one story."""

    def __init__(self, directory: Path, nursery: trio.Nursery, clock: MockClock) -> None:
        self.directory = directory
        self.nursery = nursery
        self.clock = clock
        self.pair = Pair(directory)
        self.pair.holding = True
        self.lives: list[trio.CancelScope | None] = [None, None]
        self.fuse: list[int | None] = [None, None]  # commits until death, times two; odd: after the commit
        self.count = [0, 0]
        self.accepted: list[set[str]] = [set(), set()]  # send returned
        self.erased_unsent: list[set[str]] = [set(), set()]
        self.last: list[dict[bytes, str]] = [{}, {}]  # states seen last
        self.copied = [False, False]
        self.rolled_back = [False, False]
        self.pair_rolled = False

    async def play(self, story: list[tuple[str, int, int]]) -> None:
        for index in (0, 1):
            await self.start(index)
        for what, first, second in story:
            await getattr(self, what.replace(" ", "_"))(first, second)
            await wait_all_tasks_blocked()
            await self.check_states()
        await self.finish()

    # --- steps ---

    async def start(self, index: int, _: int = 0) -> None:
        if self.lives[index] is not None:
            return
        self.fuse[index] = None
        started = trio.Event()

        async def live() -> None:
            with trio.CancelScope() as self.lives[index]:
                async with self.pair.node(index, lambda each: MortalDatabase(each, self, index)) as node:

                    def tell(tx: apsw.Connection) -> None:
                        tx.execute("UPDATE contacts SET tells_reading = 1")

                    await node.database._database.write(tell)  # type: ignore[attr-defined]
                    started.set()
                    await trio.sleep_forever()

        self.nursery.start_soon(live)
        await started.wait()

    async def crash(self, index: int, _: int = 0) -> None:
        life = self.lives[index]
        if life is not None:
            self.lives[index] = None
            life.cancel()
            await wait_all_tasks_blocked()

    async def die_at_commit(self, index: int, fuse: int) -> None:
        if self.fuse[index] is None:
            self.fuse[index] = fuse

    async def send(self, index: int, count: int) -> None:
        node = self.pair.nodes[index]
        if node is None:
            return
        for _ in range(count):
            self.count[index] += 1
            self.nursery.start_soon(self._send, node, index, f"{self.count[index]:04d}")
            await wait_all_tasks_blocked()

    async def _send(self, node: Node, index: int, text: str) -> None:
        await node.outbox.send(node.peer, text)
        self.accepted[index].add(text)

    async def connect(self, index: int, free: int) -> None:
        if None not in self.pair.nodes:
            wire = self.pair.connect(index)
            if free:
                wire.let_through(0, None)
                wire.let_through(1, None)

    async def let(self, which: int, frames: int) -> None:
        live = [each for each in self.pair.wires[-4:] if not each.dead]
        if live:
            live[which // 2 % len(live)].let_through(which % 2, None if frames == 99 else frames)

    async def cut(self, which: int, _: int) -> None:
        live = [each for each in self.pair.wires[-4:] if not each.dead]
        if live:
            live[which % len(live)].cut()

    async def retract(self, index: int, which: int) -> None:
        node = self.pair.nodes[index]
        if node is None or self.fuse[index] is not None:
            return
        sent = await node.outbox.list()
        if sent:
            chosen = sent[-1 - which % len(sent)]
            text = chosen.content.text
            after = await node.outbox.retract(chosen.id)
            assert after.state is MessageState.RETRACTED and after.content.text == ""
            if after.reason.endswith("its text is erased") and text:
                self.erased_unsent[index].add(text)

    async def read(self, index: int, _: int) -> None:
        node = self.pair.nodes[index]
        if node is not None and self.fuse[index] is None:
            await node.inbox.mark_read()

    async def wait(self, seconds: int, _: int) -> None:
        self.clock.jump(seconds)

    async def copy(self, index: int, _: int) -> None:
        for each in self.files(index):
            shutil.copy(each, f"{each}.copy")
        self.copied[index] = True

    async def roll_back(self, index: int, _: int) -> None:
        if not self.copied[index]:
            return
        await self.crash(index)
        self.put_copy_back(index)
        self.rolled_back[index] = True
        self.last[index].clear()
        self.erased_unsent[index].clear()

    def put_copy_back(self, index: int) -> None:
        for suffix in ("", "-wal"):
            each = Path(f"{self.pair.path(index)}{suffix}")
            each.unlink(missing_ok=True)
            if Path(f"{each}.copy").exists():
                shutil.copy(f"{each}.copy", each)

    def files(self, index: int) -> list[Path]:
        path = self.pair.path(index)
        for suffix in ("", "-wal"):
            Path(f"{path}{suffix}.copy").unlink(missing_ok=True)
        return [each for each in (path, Path(f"{path}-wal")) if each.exists()]

    # --- what must hold ---

    def rows(self, index: int, sql: str) -> list[tuple[Any, ...]]:
        """From a copy of the file, as a crash right now would leave it."""
        with tempfile.TemporaryDirectory(dir=self.directory) as temporary:
            for suffix in ("", "-wal"):
                source = Path(f"{self.pair.path(index)}{suffix}")
                if source.exists():
                    shutil.copy(source, Path(temporary) / f"db{suffix}")
            connection = apsw.Connection(str(Path(temporary) / "db"))
            try:
                return connection.execute(sql).fetchall()
            finally:
                connection.close()

    def arrived(self, index: int) -> tuple[list[str], set[bytes], set[bytes]]:
        """(texts in the inbox in order, ids here, ids of tombstones)."""
        rows = self.rows(index, "SELECT id, body, status FROM incoming ORDER BY row")
        shown = [decode_content(body).text for _, body, _ in rows if body]
        return shown, {each for each, _, _ in rows}, {each for each, _, status in rows if status == 3}

    async def check_states(self) -> None:
        for index in (0, 1):
            shown, here, tombstones = self.arrived(1 - index)
            assert len(shown) == len(set(shown)), f"doubled: {shown}"
            assert shown == sorted(shown), f"out of order: {shown}"
            assert not self.erased_unsent[index] & set(shown), "arrived although it was erased before it left"
            for identifier, state in self.rows(index, "SELECT id, state FROM outgoing"):
                before = self.last[index].get(identifier, "queued")
                assert RANK[before] <= RANK[state], f"{before} -> {state}"
                self.last[index][identifier] = state
                if state in ("delivered", "read") and not self.rolled_back[1 - index]:
                    assert identifier in here, f"{state}, but it isn't there"
                    # A rolled-back sender may have forgotten that it took a delivered message back.
                    assert identifier not in tombstones or self.rolled_back[index], f"{state}, but it's erased there"

    async def finish(self) -> None:
        """Lets everything through, and balances the accounts."""
        for index in (0, 1):
            if self.fuse[index] is not None:
                await self.crash(index)
            await self.start(index)
        self.pair.holding = False
        self.pair.cut_all()
        for _ in range(300):
            await wait_all_tasks_blocked()
            self.clock.jump(1)
            if not any(self.waits(index) for index in (0, 1)):
                break
        await wait_all_tasks_blocked()
        await self.check_states()
        for index in (0, 1):
            node = self.pair.nodes[index]
            assert node is not None
            assert not self.waits(index), await node.outbox.list()
            shown, _, _ = self.arrived(1 - index)
            other = self.pair.nodes[1 - index]
            assert other is not None and shown == await texts(other)
            for message in await node.outbox.list():
                if message.state is MessageState.RETRACTED:
                    # A database that was rolled back learns from the other side what it took back, and keeps the text.
                    assert message.content.text == "" or self.rolled_back[index]
                elif not self.rolled_back[1 - index]:
                    assert message.state in (MessageState.DELIVERED, MessageState.READ)
                    assert message.content.text in shown or self.rolled_back[index]
            if not self.rolled_back[0] and not self.rolled_back[1]:
                kept = {each.content.text for each in await node.outbox.list()}
                retracted = {each.id for each in await node.outbox.list() if not each.content.text}
                assert self.accepted[index] - kept == set() or retracted, "accepted by send, and gone"
                assert len(self.accepted[index] - kept) <= len(retracted)
                assert set(shown) == kept - {""}

    def waits(self, index: int) -> int:
        return int(
            self.rows(
                index,
                """SELECT count(*) FROM outgoing
                   WHERE state IN ('queued', 'offered') OR (state = 'retracted' AND reason = 'retracting')""",
            )[0][0]
        )


def play(story: list[tuple[str, int, int]]) -> None:
    clock = MockClock()

    async def main() -> None:
        with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
            async with trio.open_nursery() as nursery:
                await Machine(Path(directory), nursery, clock).play(story)
                nursery.cancel_scope.cancel()

    trio.run(main, clock=clock)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(whole_stories)
@example(DEAD_SENDER_REMEMBERS)
@example(OVERTAKEN)
@example(RETRACTED_IN_FLIGHT)
@example(TOMBSTONE_FIRST)
@example(ROLLED_BACK)
@example(RETRACTION_ROLLED_BACK)
@example(QUEUE_RETRACTED_AND_ROLLED_BACK)
def test_any_story_ends_well(story: list[tuple[str, int, int]]) -> None:
    play(story)


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(whole_stories)
def test_any_long_story_ends_well(story: list[tuple[str, int, int]]) -> None:
    play(story)
