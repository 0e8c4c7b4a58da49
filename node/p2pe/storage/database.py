"""The encrypted database: one writer with group commit, a few readers, blocking work off the event loop.

Rules:

- `write(work)` runs `work(tx)` and returns its result once the COMMIT that contains it is on the disk
  (synchronous=FULL). Calls made while a commit is under way share the next one, each inside a savepoint of its
  own: an exception undoes that work alone and goes to its caller.
- A commit that fails undoes the whole group; every caller in it gets StorageError, and the next call starts afresh.
- Works run in the order of the calls. A work sees what earlier works of its group did.
- Cancelling a caller whose work is still queued takes it back: it never runs. Once its group has begun, the caller
  is shielded until the group has ended, and gets the result. There is never a half.
- `read(work)` sees one consistent snapshot of committed data on a connection that can't write.
- A work returns plain values, never a cursor; it begins and ends no transaction; it may catch
  apsw.ConstraintError and no other SQLite error (a full disk can end the transaction under it).

The leader of a group is the first caller in the queue: no background task, so nothing has to be stopped and no
exception is wrapped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import apsw
import outcome
import trio

from p2pe import config
from p2pe.errors import StorageError
from p2pe.ports import Threads, World
from p2pe.storage.connection import close, connect, quick_check
from p2pe.storage.faults import storage_error
from p2pe.storage.migrations import Tx, migrate

T = TypeVar("T")
_Result = outcome.Value[Any] | outcome.Error


async def _inline(work: Callable[[], T], /) -> T:
    await trio.lowlevel.cancel_shielded_checkpoint()
    return work()


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    """One call. `result` is set when its group has ended; a job without a result that is woken leads."""

    work: Callable[[Tx], T]
    alone: bool = False  # runs by itself and outside any transaction
    result: _Result | None = None
    task: trio.lowlevel.Task | None = None


class Database:
    """Made by `open_database`; usable inside that block only, by any number of tasks."""

    def __init__(self, path: Path | str, threads: Threads, writer: Tx, readers: Sequence[Tx], reopen: Callable[[], Tx]):
        self.path = path
        self._threads = threads
        self._writer: Tx | None = writer
        self._reopen = reopen
        self._waiting: deque[_Job[Any]] = deque()
        self._led = False
        self._closed = False
        self._idle = list(readers)
        self._reader_slots = trio.Semaphore(max(1, len(readers)))
        self._shared = not readers  # exclusive mode: reads use the writer's connection

    async def write(self, work: Callable[[Tx], T]) -> T:
        """Runs `work` and commits it durably. Raises what `work` raised, or StorageError."""
        return await self._submit(_Job(work))

    async def maintain(self, work: Callable[[Tx], T]) -> T:
        """Runs `work` on the write connection between groups, outside any transaction (VACUUM, checkpoints)."""
        return await self._submit(_Job(work, alone=True))

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Runs `work` on one snapshot of committed data. Raises what `work` raised, or StorageError."""
        if self._shared:
            return await self._submit(_Job(partial(_read, work=work), alone=True))
        if self._closed:
            raise trio.ClosedResourceError("the database is closed")
        async with self._reader_slots:
            reader = self._idle.pop()
            try:
                return await self._threads(partial(self._run_read, reader, work))
            finally:
                self._idle.append(reader)

    async def truncate_log(self) -> None:
        """Writes the log back and cuts it to nothing, so that erased content isn't left in it either.

        Readers at work make it stop early without an error; the next automatic checkpoint goes on from there.
        """
        await self.maintain(_truncate_log)

    # --- queueing: everything below until _run_group runs on the event loop ---

    async def _submit(self, job: _Job[T]) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            raise trio.ClosedResourceError("the database is closed")
        return await self._enter(job)

    async def _enter(self, job: _Job[T]) -> T:
        self._waiting.append(job)
        if self._led:
            await self._wait(job)
        else:
            self._led = True
        if job.result is None:
            await self._lead()
        assert job.result is not None
        value: T = job.result.unwrap()
        return value

    async def _wait(self, job: _Job[Any]) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            if job not in self._waiting:
                return trio.lowlevel.Abort.FAILED  # its group is running: stay until that has ended
            self._waiting.remove(job)
            return trio.lowlevel.Abort.SUCCEEDED

        job.task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _lead(self) -> None:
        """Runs one group, wakes its members, and passes the lead to whoever is next."""
        with trio.CancelScope(shield=True):
            if not self._waiting[0].alone:
                await trio.lowlevel.checkpoint()  # tasks that are ready now get to join this group
            group = self._next_group()
            try:
                results = await self._threads(partial(self._run_group, group))
                for job, result in zip(group, results, strict=True):
                    job.result = result
            finally:
                self._finish(group)

    def _next_group(self) -> list[_Job[Any]]:
        group = [self._waiting.popleft()]
        while not group[0].alone and self._waiting and len(group) < config.DB_GROUP_MAX and not self._waiting[0].alone:
            group.append(self._waiting.popleft())
        return group

    def _finish(self, group: Sequence[_Job[Any]]) -> None:
        for job in group:
            if job.result is None:  # no worker thread could be had, or the process is being interrupted
                job.result = outcome.Error(StorageError(f"writing {self.path} was interrupted; nothing was changed"))
            if job.task is not None:
                trio.lowlevel.reschedule(job.task)
        if self._waiting:
            following = self._waiting[0]
            assert following.task is not None
            leader, following.task = following.task, None
            trio.lowlevel.reschedule(leader)
        else:
            self._led = False

    # --- the rest runs in a worker thread, one call at a time for the writer ---

    def _run_group(self, group: Sequence[_Job[Any]]) -> list[_Result]:
        try:
            if self._writer is None:
                self._writer = self._reopen()
            if group[0].alone:
                return [self._explained(outcome.capture(group[0].work, self._writer))]
            return _commit(self._writer, group, self._explained)
        except (apsw.Error, StorageError) as error:
            self._undo()
            failure = error if isinstance(error, StorageError) else storage_error(error, self.path)
            if failure is None:
                failure = StorageError(f"writing {self.path} failed ({error}); nothing was changed")
            failure.__cause__ = None if failure is error else error
            return [outcome.Error(_copy(failure)) for _ in group]

    def _undo(self) -> None:
        """After a failed commit: leaves the connection without a transaction, or drops it for a new one."""
        if self._writer is None:
            return
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except apsw.Error:
            close(self._writer)
            self._writer = None

    def _run_read(self, reader: Tx, work: Callable[[Tx], T]) -> T:
        value: T = self._explained(outcome.capture(_read, reader, work)).unwrap()
        return value

    def _explained(self, result: _Result) -> _Result:
        if isinstance(result, outcome.Error) and (failure := storage_error(result.error, self.path)):
            failure.__cause__ = result.error
            return outcome.Error(failure)
        return result

    # --- closing ---

    async def _close(self) -> None:
        with trio.CancelScope(shield=True):
            self._closed = True
            await self._enter(_Job(lambda _: None, alone=True))  # behind everything that is still queued
            for _ in self._idle:
                await self._reader_slots.acquire()
            await self._threads(self._close_connections)

    def _close_connections(self) -> None:
        for reader in self._idle:
            reader.close()
        if self._writer is not None:
            try:
                _truncate_log(self._writer)
            except apsw.Error:
                pass  # a full or failing disk: the log stays, complete, and is used at the next start
            close(self._writer)


def _read(connection: Tx, work: Callable[[Tx], T]) -> T:
    connection.execute("BEGIN")
    try:
        return work(connection)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _truncate_log(connection: Tx) -> None:
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _commit(connection: Tx, group: Sequence[_Job[Any]], explained: Callable[[_Result], _Result]) -> list[_Result]:
    """One transaction for all of `group`. Raises when the transaction as a whole can't be committed."""
    connection.execute("BEGIN IMMEDIATE")
    if len(group) == 1:  # a savepoint would only repeat what the transaction does
        result = outcome.capture(group[0].work, connection)
        if isinstance(result, outcome.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            return [explained(result)]
        _still_ours(connection, result)
        connection.execute("COMMIT")
        return [result]
    results = []
    for job in group:
        connection.execute("SAVEPOINT work")
        result = outcome.capture(job.work, connection)
        _still_ours(connection, result)
        if isinstance(result, outcome.Error):
            connection.execute("ROLLBACK TO work")
        connection.execute("RELEASE work")
        results.append(explained(result))
    connection.execute("COMMIT")
    return results


def _still_ours(connection: Tx, result: _Result) -> None:
    """SQLite ends the whole transaction by itself on some faults (a full disk); then all of the group is undone."""
    if connection.in_transaction:
        return
    if isinstance(result, outcome.Error) and isinstance(result.error, apsw.Error):
        raise result.error
    raise StorageError("a transaction was ended by the work inside it; nothing of its group is certain")


def _copy(error: StorageError) -> StorageError:
    """Each caller raises an exception of its own: a traceback must not grow with the number of callers."""
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy


@asynccontextmanager
async def open_database(
    path: Path | str,
    key: bytes | None,
    world: World | None = None,
    *,
    vfs: str | None = None,
    exclusive: bool = False,
) -> AsyncIterator[Database]:
    """Opens (or makes) the database, brings its schema up to date, and closes it at the end of the block.

    `key`: 32 bytes, or None for an unencrypted database (simulations and tests alone). `world` gives the thread
    runner; None runs blocking work inline. `vfs` and `exclusive` are for a simulated disk: one connection, no
    shared memory. Raises StorageError: damaged, wrong key, newer schema, not writable, full.
    """
    threads: Threads = _inline if world is None else world.threads
    connections = await threads(partial(_open_all, path, key, vfs, exclusive))
    reopen = partial(connect, path, key, vfs=vfs, exclusive=exclusive)
    database = Database(path, threads, connections[0], connections[1:], reopen)
    try:
        yield database
    finally:
        await database._close()


def _open_all(path: Path | str, key: bytes | None, vfs: str | None, exclusive: bool) -> list[Tx]:
    """The writer first, then the readers. Closes them all again when one can't be opened."""
    connections: list[Tx] = []
    try:
        writer = connect(path, key, vfs=vfs, exclusive=exclusive)
        connections.append(writer)
        pages, size = writer.execute("PRAGMA page_count").get, writer.execute("PRAGMA page_size").get
        if pages * size <= config.DB_CHECK_BYTES and (finding := quick_check(writer)):
            raise apsw.CorruptError(finding)
        migrate(writer, path)
        if not exclusive and str(path) != ":memory:":
            connections += [connect(path, key, vfs=vfs, reader=True) for _ in range(config.DB_READERS)]
    except (apsw.Error, StorageError) as error:
        for connection in connections:
            close(connection)
        if failure := storage_error(error, path):
            raise failure from error
        raise
    return connections
