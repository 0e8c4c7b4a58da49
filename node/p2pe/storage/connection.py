"""One SQLite connection, opened the way every connection to our database must be.

Encryption: SQLite3 Multiple Ciphers, its cipher `chacha20` (ChaCha20-Poly1305 per page, RFC 8439, with a fresh
nonce for each write of a page), keyed with 32 raw bytes: the passphrase's Argon2id guards the key file, so the
cipher's own key derivation would only cost time. Pages, the write-ahead log and page 1 are all encrypted; in the
clear are the file's size, and bytes 16 to 23 of the file (page size and format numbers).
"""

from __future__ import annotations

import os
from pathlib import Path

import apsw

from p2pe import config
from p2pe.errors import StorageError
from p2pe.storage.migrations import Tx

KEY_BYTES = 32
CIPHER = "chacha20"


def connect(
    path: Path | str, key: bytes | None, *, vfs: str | None = None, exclusive: bool = False, reader: bool = False
) -> Tx:
    """Opens and configures a connection. Raises apsw's errors (faults.storage_error explains them).

    `exclusive`: the only connection there will be; the write-ahead log then needs no shared memory, which a
    simulated disk doesn't have. `reader`: may not change anything.
    """
    if key is not None and len(key) != KEY_BYTES:
        raise ValueError(f"a database key has {KEY_BYTES} bytes, not {len(key)}")
    if vfs is None and str(path) != ":memory:" and not reader:
        create_private(Path(path))
    connection = apsw.Connection(str(path), vfs=vfs)
    try:
        _configure(connection, key, exclusive=exclusive, reader=reader)
    except apsw.Error:
        close(connection)
        raise
    return connection


def close(connection: Tx) -> None:
    """Closes it whatever the disk says: what SQLite then can't write back stays in the log, complete."""
    try:
        connection.close(True)
    except apsw.Error:
        pass


def create_private(path: Path) -> None:
    """Makes the file with mode 0600 before SQLite does with 0644; SQLite gives its log the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StorageError(
            f"{path} can't be opened for writing ({error.strerror}). Check that its directory exists and that this "
            "user may write there, or choose another home with --home"
        ) from error


def _configure(connection: Tx, key: bytes | None, *, exclusive: bool, reader: bool) -> None:
    connection.set_busy_timeout(config.DB_BUSY_MILLIS)
    if key is not None:
        connection.pragma("cipher", CIPHER)
        connection.pragma("key", f"raw:{key.hex()}")
    if exclusive:
        connection.pragma("locking_mode", "exclusive")
    connection.pragma("temp_store", "memory")  # temporary files would not be encrypted
    connection.pragma("foreign_keys", True)
    connection.pragma("trusted_schema", False)
    if reader:
        connection.pragma("query_only", True)
        return
    connection.pragma("secure_delete", True)  # before the first write: freed cells and pages are zeroed
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    connection.pragma("wal_autocheckpoint", config.DB_WAL_PAGES)
    connection.pragma("journal_size_limit", config.DB_WAL_BYTES)
    connection.pragma("cache_size", -config.DB_CACHE_KIB)


def quick_check(connection: Tx) -> str | None:
    """SQLite's own structural check; also verifies every page's MAC. None when sound, else the first finding."""
    finding = str(connection.execute("PRAGMA quick_check(1)").get)
    return None if finding == "ok" else finding.splitlines()[-1]  # the first line is a heading
