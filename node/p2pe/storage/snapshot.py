"""Copies of the database: SQLite's online backup, which sees one consistent moment and lets the node go on working."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import apsw

from p2pe.errors import StorageError
from p2pe.storage.connection import CIPHER, connect, create_private, quick_check
from p2pe.storage.faults import storage_error
from p2pe.storage.migrations import migrate

T = TypeVar("T")


def copy_database(source: Path, source_key: bytes, target: Path, target_key: bytes) -> None:
    """Makes `target` (which must not exist), encrypted under `target_key`: one file, without a log.

    Another process may be using `source`. Blocking. Raises StorageError.
    """
    reader = _explained(source, lambda: connect(source, source_key, reader=True))
    try:
        create_private(target)
        _explained(target, lambda: _copy(reader, target, target_key))
    finally:
        reader.close()


def _copy(reader: apsw.Connection, target: Path, key: bytes) -> None:
    connection = apsw.Connection(str(target))
    try:
        connection.pragma("cipher", CIPHER)
        connection.pragma("key", f"raw:{key.hex()}")
        connection.pragma("temp_store", "memory")
        with connection.backup("main", reader, "main") as copying:
            copying.step()
        connection.pragma("journal_mode", "delete")
        if finding := quick_check(connection):
            raise apsw.CorruptError(finding)
    finally:
        connection.close()


def change_copy(path: Path, key: bytes, change: Callable[[apsw.Connection], T]) -> T:
    """Brings a copy's schema up to date and applies `change` in one transaction. Blocking. Raises StorageError (also
    for a copy that a newer p2pe made)."""

    def work() -> T:
        connection = connect(path, key)
        try:
            if finding := quick_check(connection):
                raise apsw.CorruptError(finding)
            migrate(connection, path)
            with connection:
                result = change(connection)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return result
        finally:
            connection.close()

    return _explained(path, work)


def look_into(path: Path, key: bytes, look: Callable[[apsw.Connection], T]) -> T:
    """Reads from a copy after checking all of it. Blocking. Raises StorageError."""

    def work() -> T:
        connection = connect(path, key, reader=True)
        try:
            if finding := quick_check(connection):
                raise apsw.CorruptError(finding)
            return look(connection)
        finally:
            connection.close()

    return _explained(path, work)


def _explained(path: Path, work: Callable[[], T]) -> T:
    try:
        return work()
    except apsw.Error as error:
        if failure := storage_error(error, path):
            raise failure from error
        raise StorageError(f"copying {path} failed ({error}); nothing was changed") from error
