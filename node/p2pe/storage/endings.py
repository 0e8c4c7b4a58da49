"""What became of messages to us after they had arrived: taken back or expired, numbered in that order.

A trigger (schema/0005.sql) adds the numbers in the transaction that ends a message. One row an ended message at most:
bounded as its tombstone in `incoming` is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import apsw

from p2pe.model import ContactId, IncomingMessage
from p2pe.storage.incoming import IN_ORDER, show


class Ended(NamedTuple):
    messages: list[IncomingMessage]
    number: int  # the cursor for the next look


def last_number(tx: apsw.Connection) -> int:
    return int(tx.execute("SELECT coalesce(max(number), 0) FROM endings").get)


def after(tx: apsw.Connection, number: int, *, contact_id: ContactId | None, up_to_row: int, limit: int) -> Ended:
    """Of the `limit` endings above `number`, those of messages with a row up to `up_to_row`: whoever follows the
    inbox has not seen the others, and won't."""
    if up_to_row == 0:
        return Ended([], max(number, last_number(tx)))
    query = "SELECT max(number) FROM (SELECT number FROM endings WHERE number > ? ORDER BY number LIMIT ?)"
    last = tx.execute(query, (number, limit)).get
    if last is None:
        return Ended([], number)
    conditions = "row IN (SELECT row FROM endings WHERE number > ? AND number <= ?) AND row <= ?"
    values: list[Any] = [number, last, up_to_row]
    if contact_id is not None:
        conditions += " AND contact_id = ?"
        values.append(contact_id)
    return Ended(show(tx, f"{IN_ORDER}{conditions} ORDER BY row", tuple(values)), int(last))
