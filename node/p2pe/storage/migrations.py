"""Numbered schema changes: schema/NNNN.sql, applied in order, each in one transaction with its number.

`PRAGMA user_version` is the number of the last one applied. A database that is newer than this program is
refused and left untouched: an older program would not know what its columns mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TypeAlias

import apsw

from p2pe.errors import StorageError

_NAME = re.compile(r"(\d{4})\.sql")
Tx: TypeAlias = apsw.Connection


@cache
def migrations() -> tuple[tuple[int, str], ...]:
    """All (number, SQL) pairs that this program carries, ascending and without gaps from 1."""
    found = []
    for entry in resources.files("p2pe.storage").joinpath("schema").iterdir():
        if match := _NAME.fullmatch(entry.name):
            found.append((int(match[1]), entry.read_text(encoding="utf-8")))
    found.sort()
    if [number for number, _ in found] != list(range(1, len(found) + 1)) or not found:
        raise StorageError("this installation's schema files are incomplete: reinstall p2pe")
    return tuple(found)


def schema_version(connection: Tx) -> int:
    return int(connection.execute("PRAGMA user_version").get)


def migrate(connection: Tx, path: object, steps: Sequence[tuple[int, str]] | None = None) -> int:
    """Brings the database up to date. Returns how many steps were applied. Raises StorageError for a newer one."""
    steps = migrations() if steps is None else steps
    known = steps[-1][0]
    present = schema_version(connection)
    if present > known:
        raise StorageError(
            f"{path} was written by a newer p2pe (schema {present}; this program knows {known}). "
            "Upgrade this program; nothing was changed"
        )
    applied = 0
    for number, script in steps:
        if number <= present:
            continue
        with connection:  # a savepoint of its own: a failing step leaves nothing behind
            for _ in connection.execute(script):
                pass
            connection.execute(f"PRAGMA user_version = {number:d}")
        applied += 1
    return applied
