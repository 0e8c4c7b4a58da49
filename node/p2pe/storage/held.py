"""Outgoing messages whose recipient, or whose own past, has become uncertain: a contact's new identity, a restored
backup, what is sent again to somebody else. Plain functions on an open transaction, as in outgoing.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import apsw

from p2pe.core.delivery import Event, Reason, sources
from p2pe.model import ContactId, MessageId, MessageState, Millis, StreamId
from p2pe.storage.bulk import KEYS_OF_32, cut
from p2pe.storage.outgoing import STREAM_KEY, WAITING_STATES, current_stream, next_sequence, state_list


def mark_restored(tx: apsw.Connection, fresh: StreamId, now: Millis, *, hold: bool) -> int:
    """After a backup was restored: another sending order, and what waited in it is held (`hold`), or waits on in the
    new order. Either way it may have left since the backup was made, or been taken back. Returns how many rows."""
    tx.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (STREAM_KEY, fresh))
    if hold:
        tx.execute(
            f"""UPDATE outgoing SET state = '{MessageState.HELD_IDENTITY}', reason = '{Reason.RESTORED}', since = ?1
                WHERE {WAITING_STATES}""",
            (now,),
        )
        return int(tx.changes())
    tx.execute(
        f"""UPDATE outgoing SET stream_id = ?2, sequence = fresh.n, state = '{MessageState.OFFERED}',
                since = ?1, offered_at = coalesce(offered_at, ?1)
            FROM (SELECT row AS at, row_number() OVER (PARTITION BY contact_id ORDER BY row) AS n
                  FROM outgoing WHERE {WAITING_STATES}) AS fresh
            WHERE outgoing.row = fresh.at""",
        (now, fresh),
    )
    return int(tx.changes())


def hold(tx: apsw.Connection, contact_id: ContactId, now: Millis) -> int:
    """HELD_IDENTITY for all that waits for a contact whose identity changed. Returns how many."""
    tx.execute(
        f"""UPDATE outgoing INDEXED BY outgoing_waiting
            SET state = '{MessageState.HELD_IDENTITY}', reason = '', since = ?2
            WHERE contact_id = ?1 AND {WAITING_STATES}""",
        (contact_id, now),
    )
    return int(tx.changes())


_HELD_OF: Final = f"outgoing INDEXED BY outgoing_held WHERE state = '{MessageState.HELD_IDENTITY}' AND contact_id"


def release(tx: apsw.Connection, contact_id: ContactId, fresh: StreamId, now: Millis) -> list[MessageId]:
    """What was held for the contact goes to the end of its queue, in the order in which it was written.

    New row numbers: rows and sequences must ascend together. Those that may have left are OFFERED, the others QUEUED.
    """
    stream_id = current_stream(tx, fresh)
    rows = [row for (row,) in tx.execute(f"SELECT row FROM {_HELD_OF} = ? ORDER BY row", (contact_id,))]
    sequence = next_sequence(tx, contact_id, stream_id)
    last = tx.execute("SELECT max(coalesce(max(row), 0), (SELECT seq FROM sqlite_sequence WHERE name = 'outgoing')) "
                      "FROM outgoing").get  # fmt: skip
    for at, row in enumerate(rows):
        tx.execute(
            f"""UPDATE outgoing SET row = ?2, stream_id = ?3, sequence = ?4, since = ?5, reason = '',
                    state = CASE WHEN offered_at IS NULL AND reason <> '{Reason.RESTORED}'
                            THEN '{MessageState.QUEUED}' ELSE '{MessageState.OFFERED}' END
                WHERE row = ?1""",
            (row, last + 1 + at, stream_id, sequence + at, now),
        )
    if rows:
        tx.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'outgoing'", (last + len(rows),))
    moved = tx.execute("SELECT id FROM outgoing WHERE row > ? ORDER BY row", (last,))
    return [MessageId(each) for (each,) in moved]


class Unsettled(NamedTuple):
    """A message that is to go to another contact instead."""

    id: MessageId
    body: bytes
    expire_after: int


def unsettled(tx: apsw.Connection, contact_id: ContactId) -> list[Unsettled]:
    """What is held or waits for the contact, in order."""
    query = f"""SELECT id, body, expire_after FROM outgoing WHERE contact_id = ?
                AND (state = '{MessageState.HELD_IDENTITY}' OR {WAITING_STATES}) ORDER BY row"""
    return [Unsettled(MessageId(i), body, expire) for i, body, expire in tx.execute(query, (contact_id,))]


def known_ids(tx: apsw.Connection, ids: Sequence[MessageId]) -> set[MessageId]:
    """Those of `ids` that are here, in whatever state."""
    query = f"SELECT CAST(group_concat(id, '') AS BLOB) FROM outgoing WHERE id IN {KEYS_OF_32}"
    return {MessageId(each) for each in cut(tx.execute(query, (b"".join(ids), len(ids))).get, 32)}


def mark_resent(tx: apsw.Connection, ids: Sequence[MessageId], now: Millis) -> None:
    """Taken back here, since they go to another contact: nothing more is sent to the old one."""
    query = f"""UPDATE outgoing SET state = '{MessageState.RETRACTED}', reason = '{Reason.RESENT}', since = ?3,
                    body = x'', body_hash = x''
                WHERE id IN {KEYS_OF_32} AND state IN ({state_list(sources(Event.RETRACT))})"""
    tx.execute(query, (b"".join(ids), len(ids), now))


def retract_again(tx: apsw.Connection, contact_id: ContactId) -> int:
    """The contact is on a new device, perhaps from an old backup in which texts live that were taken back since:
    every retraction that it had confirmed is owed again. Returns how many."""
    tx.execute(
        f"""UPDATE outgoing SET reason = '{Reason.RETRACTING}'
            WHERE contact_id = ? AND state = '{MessageState.RETRACTED}' AND reason = '{Reason.RETRACTED_THERE}'""",
        (contact_id,),
    )
    return int(tx.changes())
