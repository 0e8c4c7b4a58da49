"""What the storage tests share: a world with real threads, and a database file in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import trio
from p2pe.model import ContactId, IdentityKey, Millis
from p2pe.ports import Net, World
from p2pe.storage import contacts
from p2pe.storage.connection import connect
from p2pe.storage.migrations import Tx

T = TypeVar("T")
KEY = bytes(range(32))
NOW = Millis(1_750_000_000_000)


class FixedClock:
    def now(self) -> Millis:
        return NOW


class WorkerThreads:
    async def __call__(self, work: Callable[[], T], /) -> T:
        return await trio.to_thread.run_sync(work)


def threaded_world() -> World:
    """Storage uses nothing of a world but its threads."""
    return World(clock=FixedClock(), entropy=os.urandom, net=cast(Net, None), threads=WorkerThreads())


def put_mark(tx: Tx, name: str, value: bytes = b"x") -> str:
    """A row whose presence tells whether a work was committed."""
    tx.execute("INSERT INTO meta VALUES (?, ?)", (name, value))
    return name


def marks(tx: Tx) -> list[str]:
    return [str(name) for (name,) in tx.execute("SELECT key FROM meta ORDER BY key").fetchall()]


def add_contact(tx: Tx, name: str = "bob") -> ContactId:
    return contacts.add(
        tx,
        name=name,
        identity_key=IdentityKey(name.encode().ljust(32, b".")),
        pair_secret=b"s" * 32,
        paired_at=NOW,
        list_version=1,
    )


def decrypted_pages(path: Path, key: bytes | None) -> bytes:
    """Every page of a database file, free ones and unused parts of pages included, as SQLite sees them."""
    connection = connect(path, key, reader=True)
    try:
        return bytes(connection.serialize("main"))
    finally:
        connection.close()


def child(script: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(script), *arguments]
