"""What a node commits, seen at the commit: rows of its tables that concern the plan's messages.

The names used here are private to storage/database.py; tests/world/test_canary.py fails when they change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import apsw
from p2pe.core import codec
from p2pe.model import IdentityKey
from p2pe.storage.database import Database
from p2pe.storage.migrations import Tx

from p2pe_sim.invariants.messages import IncomingRow, OutgoingRow

_TABLES = ("outgoing", "incoming", "contacts")
_OUT = "SELECT c.name, o.body, o.state FROM outgoing o JOIN contacts c ON c.id = o.contact_id WHERE {} ORDER BY o.row"
_IN = "SELECT c.name, i.body FROM incoming i JOIN contacts c ON c.id = i.contact_id WHERE {} ORDER BY i.row"
_CONTACTS = "SELECT name, identity_key, pair_secret, next_secret FROM contacts"


class ContactRow(NamedTuple):
    name: str
    identity_key: IdentityKey
    pair_secret: bytes
    next_secret: bytes | None


class Commit(NamedTuple):
    """What one group commit wrote, or all there is after a start."""

    outgoing: list[OutgoingRow]
    incoming: list[IncomingRow]
    contacts: list[ContactRow]


OnCommit = Callable[[Commit], None]


def message_of(text: str) -> str:
    """The plan's id of a message, from its text."""
    return text.partition(" ")[0]


class Observer:
    """Tells `on_commit` which rows each group commit of `database` wrote, before its callers go on."""

    def __init__(self, database: Database, on_commit: OnCommit) -> None:
        self._database: Any = database
        self._on_commit = on_commit
        self._touched: dict[tuple[str, int], int] = {}
        self._hooked: Tx | None = None
        self._run_group = database._run_group
        setattr(database, "_run_group", self._observed)  # noqa: B010 - mypy forbids the plain form
        self._hook()

    def _hook(self) -> None:
        writer = self._database._writer
        if writer is not self._hooked and writer is not None:
            self._hooked = writer
            writer.set_update_hook(self._updated)

    def _updated(self, operation: int, _database: str, table: str, row: int) -> None:
        if table in _TABLES and operation != apsw.SQLITE_DELETE:
            self._touched[table, row] = operation

    def _observed(self, group: Sequence[Any]) -> Any:
        results = self._run_group(group)
        self._hook()
        touched, self._touched = self._touched, {}
        if touched and self._hooked is not None:
            outgoing = sorted(row for table, row in touched if table == "outgoing")
            fresh = sorted(
                row for (table, row), how in touched.items() if table == "incoming" and how == apsw.SQLITE_INSERT
            )
            changed = sorted(row for table, row in touched if table == "contacts")
            if outgoing or fresh or changed:
                tx = self._hooked
                commit = Commit(outgoing_rows(tx, outgoing), incoming_rows(tx, fresh), contact_rows(tx, changed))
                self._on_commit(commit)
        return results


def everything(tx: Tx) -> Commit:
    return Commit(outgoing_rows(tx), incoming_rows(tx), contact_rows(tx))


def contact_rows(tx: Tx, rows: list[int] | None = None) -> list[ContactRow]:
    if rows is None:
        return [ContactRow(*row) for row in tx.execute(_CONTACTS)]
    return [ContactRow(*each) for row in rows for each in tx.execute(f"{_CONTACTS} WHERE id = ?", (row,))]


def outgoing_rows(tx: Tx, rows: list[int] | None = None) -> list[OutgoingRow]:
    """These rows, or all."""
    found = []
    for where, values in _wheres("o", rows):
        for peer, body, state in tx.execute(_OUT.format(where), values):
            if body:
                found.append(OutgoingRow(peer, message_of(codec.decode_content(body).text), state))
    return found


def incoming_rows(tx: Tx, rows: list[int] | None = None) -> list[IncomingRow]:
    found = []
    for where, values in _wheres("i", rows):
        for peer, body in tx.execute(_IN.format(where), values):
            if body:
                text = codec.decode_content(body).text
                found.append(IncomingRow(peer, message_of(text), text))
    return found


def _wheres(alias: str, rows: list[int] | None) -> list[tuple[str, tuple[int, ...]]]:
    if rows is None:
        return [("true", ())]
    return [(f"{alias}.row = ?", (row,)) for row in rows]
