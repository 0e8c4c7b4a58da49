"""Group commit, isolation, cancellation, readers, encryption: a real file and real threads."""

from __future__ import annotations

import random
import threading
from functools import partial
from pathlib import Path

import apsw
import pytest
import trio
from p2pe.errors import NotFound, StorageError
from p2pe.storage.database import Database, open_database
from p2pe.storage.migrations import Tx, migrate, schema_version
from storage_kit import KEY, marks, put_mark, threaded_world
from trio.testing import wait_all_tasks_blocked


class Gate:
    """A work that keeps the writer busy until it is let go, so that what a test starts meanwhile must queue."""

    def __init__(self) -> None:
        self.entered = trio.Event()
        self._open = threading.Event()
        self._token = trio.lowlevel.current_trio_token()

    def work(self, tx: Tx) -> None:
        self._token.run_sync_soon(self.entered.set)
        assert self._open.wait(10)

    def open(self) -> None:
        self._open.set()


async def test_what_write_returned_for_is_there_after_a_reopening(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with open_database(path, KEY, threaded_world()) as database:
        assert await database.write(partial(put_mark, name="one")) == "one"
        assert await database.read(marks) == ["one"]
    assert not (tmp_path / "a.db-wal").exists()
    async with open_database(path, KEY, threaded_world()) as database:
        assert await database.read(marks) == ["one"]


async def test_calls_made_during_a_commit_share_the_next(tmp_path: Path) -> None:
    commits = 0

    def count() -> bool:
        nonlocal commits
        commits += 1
        return False

    async with open_database(tmp_path / "a.db", KEY, threaded_world()) as database:
        await database.maintain(lambda tx: tx.set_commit_hook(count))
        gate = Gate()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.write, gate.work)
            await gate.entered.wait()
            for i in range(100):
                nursery.start_soon(database.write, partial(put_mark, name=f"{i:03}"))
            await wait_all_tasks_blocked()
            gate.open()
        assert commits == 2  # the gate's, and one for all hundred
        assert await database.read(marks) == [f"{i:03}" for i in range(100)]


async def test_an_exception_undoes_its_own_work_alone_and_goes_to_its_caller(tmp_path: Path) -> None:
    def fail(tx: Tx, name: str) -> None:
        put_mark(tx, name)
        raise NotFound(name)

    async def expect_failure(database: Database, name: str) -> None:
        with pytest.raises(NotFound, match=name):
            await database.write(partial(fail, name=name))

    async def violate(database: Database) -> None:
        with pytest.raises(apsw.ConstraintError):
            await database.write(lambda tx: (put_mark(tx, "c"), put_mark(tx, "c")))

    async with open_database(tmp_path / "a.db", KEY, threaded_world()) as database:
        gate = Gate()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.write, gate.work)
            await gate.entered.wait()
            nursery.start_soon(database.write, partial(put_mark, name="a"))
            nursery.start_soon(expect_failure, database, "bad1")
            nursery.start_soon(violate, database)
            nursery.start_soon(expect_failure, database, "bad2")
            nursery.start_soon(database.write, partial(put_mark, name="b"))
            await wait_all_tasks_blocked()
            gate.open()
        await expect_failure(database, "alone")
        assert await database.read(marks) == ["a", "b"]


async def test_works_run_in_the_order_of_the_calls(tmp_path: Path) -> None:
    seen: list[int] = []
    async with open_database(tmp_path / "a.db", KEY, threaded_world()) as database:
        gate = Gate()

        async def write(number: int) -> None:
            await database.write(lambda tx: seen.append(number))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.write, gate.work)
            await gate.entered.wait()
            for i in range(1200):  # more than one group
                nursery.start_soon(write, i)
                await trio.lowlevel.checkpoint()  # each calls before the next one is started
            gate.open()
        assert seen == list(range(1200))


async def test_cancelled_while_queued_never_runs(tmp_path: Path) -> None:
    async with open_database(tmp_path / "a.db", KEY, threaded_world()) as database:
        gate, scope = Gate(), trio.CancelScope()

        async def cancelled() -> None:
            with scope:
                await database.write(partial(put_mark, name="no"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.write, gate.work)
            await gate.entered.wait()
            nursery.start_soon(cancelled)
            await wait_all_tasks_blocked()
            nursery.start_soon(database.write, partial(put_mark, name="yes"))
            scope.cancel()
            await wait_all_tasks_blocked()
            assert scope.cancelled_caught
            gate.open()
        assert await database.read(marks) == ["yes"]


@pytest.mark.parametrize("member", ["leader", "follower"])
async def test_cancelled_while_its_group_runs_gets_the_result(tmp_path: Path, member: str) -> None:
    async with open_database(tmp_path / "a.db", KEY, threaded_world()) as database:
        gate, scope, results = Gate(), trio.CancelScope(), []

        def gated(tx: Tx) -> str:
            put_mark(tx, "kept")
            gate.work(tx)
            return "kept"

        async def cancelled() -> None:
            with scope:
                results.append(await database.write(gated))
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            if member == "follower":
                first = Gate()
                nursery.start_soon(database.write, first.work)
                await first.entered.wait()
                nursery.start_soon(database.write, partial(put_mark, name="other"))
                await wait_all_tasks_blocked()
                nursery.start_soon(cancelled)
                await wait_all_tasks_blocked()
                first.open()
            else:
                nursery.start_soon(cancelled)
            await gate.entered.wait()
            scope.cancel()
            await wait_all_tasks_blocked()
            assert not scope.cancelled_caught
            gate.open()
        assert results == ["kept"]
        assert scope.cancelled_caught  # at its next checkpoint
        assert "kept" in await database.read(marks)


@pytest.mark.parametrize("seed", range(5))
async def test_under_random_cancellation_returned_means_committed_and_cancelled_means_never(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    returned: set[str] = set()
    async with open_database(tmp_path / "a.db", KEY, threaded_world()) as database:

        async def write(name: str, scope: trio.CancelScope) -> None:
            with scope:
                returned.add(await database.write(partial(put_mark, name=name)))

        async with trio.open_nursery() as nursery:
            scopes = []
            for i in range(300):
                scopes.append(trio.CancelScope())
                nursery.start_soon(write, f"{i:03}", scopes[-1])
                if chance.random() < 0.2:
                    await trio.lowlevel.checkpoint()
                if chance.random() < 0.5:
                    chance.choice(scopes).cancel()
        assert set(await database.read(marks)) == returned
        assert 0 < len(returned) < 300


async def test_a_commit_that_fails_fails_its_whole_group_and_the_next_one_works(tmp_path: Path) -> None:
    failures: list[StorageError] = []

    async def expect_failure(database: Database, name: str) -> None:
        with pytest.raises(StorageError) as caught:
            await database.write(partial(put_mark, name=name))
        failures.append(caught.value)

    async with open_database(tmp_path / "a.db", KEY, threaded_world()) as database:
        gate = Gate()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.write, gate.work)
            await gate.entered.wait()
            for i in range(5):
                nursery.start_soon(expect_failure, database, str(i))
            await wait_all_tasks_blocked()
            refusals = iter([False, True])  # the gate's commit passes, the group's doesn't
            assert database._writer is not None
            database._writer.set_commit_hook(lambda: next(refusals, False))
            gate.open()
        assert len({id(failure) for failure in failures}) == 5
        assert await database.read(marks) == []
        await database.write(partial(put_mark, name="after"))
        assert await database.read(marks) == ["after"]


async def test_a_work_that_ends_the_transaction_fails_its_group(tmp_path: Path) -> None:
    async with open_database(tmp_path / "a.db", KEY, threaded_world()) as database:
        with pytest.raises(StorageError, match="ended by the work"):
            await database.write(lambda tx: tx.execute("ROLLBACK").fetchall())
        await database.write(partial(put_mark, name="after"))
        assert await database.read(marks) == ["after"]


async def test_readers_see_one_snapshot_and_cannot_write(tmp_path: Path) -> None:
    async with open_database(tmp_path / "a.db", KEY, threaded_world()) as database:
        gate = Gate()
        counts: list[int] = []

        def count_twice(tx: Tx) -> None:
            counts.append(len(marks(tx)))
            gate.work(tx)
            counts.append(len(marks(tx)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.read, count_twice)
            await gate.entered.wait()
            await database.write(partial(put_mark, name="meanwhile"))  # a reader doesn't hold a writer up
            assert await database.read(marks) == ["meanwhile"]
            gate.open()
        assert counts == [0, 0]
        with pytest.raises(StorageError, match="can't be written"):
            await database.read(partial(put_mark, name="no"))
        with pytest.raises(NotFound):
            await database.read(partial(_raise, error=NotFound("x")))
        assert await database.read(marks) == ["meanwhile"]


def _raise(tx: Tx, error: Exception) -> None:
    raise error


async def test_leaving_the_block_finishes_what_was_queued_and_refuses_more(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with trio.open_nursery() as nursery:
        async with open_database(path, KEY, threaded_world()) as database:
            gate = Gate()
            nursery.start_soon(database.write, gate.work)
            await gate.entered.wait()
            nursery.start_soon(database.write, partial(put_mark, name="queued"))
            await wait_all_tasks_blocked()
            nursery.start_soon(_open_soon, gate)
        for call in (database.write, database.read):
            with pytest.raises(trio.ClosedResourceError):
                await call(marks)
    async with open_database(path, KEY, threaded_world()) as database:
        assert await database.read(marks) == ["queued"]


async def _open_soon(gate: Gate) -> None:
    await wait_all_tasks_blocked()
    gate.open()


def assert_private(directory: Path, secret: bytes) -> None:
    for file in sorted(directory.iterdir()):
        assert file.stat().st_mode & 0o777 == 0o600, file
        raw = file.read_bytes()
        assert secret not in raw and b"CREATE TABLE" not in raw and b"SQLite format" not in raw, file


async def test_nothing_written_can_be_read_without_the_key(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    secret = b"the marmalade is in the cellar"
    async with open_database(path, KEY, threaded_world()) as database:
        await database.write(partial(put_mark, name="plan", value=secret * 500))
        assert_private(tmp_path, secret)
        assert (tmp_path / "a.db-wal").stat().st_size > 10_000  # the log was really looked at
    assert secret not in path.read_bytes()
    for key in (bytes(32), None):
        with pytest.raises(StorageError, match=r"a\.db can't be read with this home's key"):
            async with open_database(path, key, threaded_world()):
                pass


async def test_the_connections_are_set_up_for_durability_and_erasure(tmp_path: Path) -> None:
    def settings(tx: Tx) -> dict[str, object]:
        names = ("journal_mode", "synchronous", "secure_delete", "foreign_keys", "temp_store", "query_only", "cipher")
        return {name: tx.pragma(name) for name in names}

    async with open_database(tmp_path / "a.db", KEY, threaded_world()) as database:
        assert await database.maintain(settings) == {
            "journal_mode": "wal",
            "synchronous": 2,
            "secure_delete": 1,
            "foreign_keys": 1,
            "temp_store": 2,
            "query_only": 0,
            "cipher": "chacha20",
        }
        assert (await database.read(settings))["query_only"] == 1


def names(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


async def test_a_simulated_disk_needs_one_connection_and_no_shared_memory(tmp_path: Path) -> None:
    async with open_database(tmp_path / "a.db", None, exclusive=True, vfs="unix-none") as database:
        async with trio.open_nursery() as nursery:
            for i in range(20):
                nursery.start_soon(database.write, partial(put_mark, name=f"{i:02}"))
                nursery.start_soon(database.read, marks)
        assert len(await database.read(marks)) == 20
        assert names(tmp_path) == ["a.db", "a.db-wal"]
    async with open_database(":memory:", None, exclusive=True) as database:
        await database.write(partial(put_mark, name="a"))
        assert await database.read(marks) == ["a"]


def test_migrations_are_numbered_atomic_and_never_go_back(tmp_path: Path) -> None:
    first, second = (1, "CREATE TABLE a (x); INSERT INTO a VALUES (1);"), (2, "ALTER TABLE a ADD COLUMN y;")
    connection = apsw.Connection(str(tmp_path / "a.db"))
    assert migrate(connection, "a.db", [first]) == 1
    assert migrate(connection, "a.db", [first]) == 0
    with pytest.raises(apsw.SQLError):
        migrate(connection, "a.db", [first, (2, "CREATE TABLE b (x); SELECT nonsense;")])
    assert schema_version(connection) == 1
    assert connection.execute("SELECT name FROM sqlite_schema").get == "a"
    assert migrate(connection, "a.db", [first, second]) == 1
    assert connection.execute("SELECT x, y FROM a").fetchall() == [(1, None)]
    with pytest.raises(StorageError, match=r"newer p2pe \(schema 2; this program knows 1\)"):
        migrate(connection, "a.db", [first])


async def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with open_database(path, KEY, threaded_world()) as database:
        await database.maintain(lambda tx: tx.pragma("user_version", 9999))
    before = path.read_bytes()
    with pytest.raises(StorageError, match="newer p2pe"):
        async with open_database(path, KEY, threaded_world()):
            pass
    assert path.read_bytes() == before
