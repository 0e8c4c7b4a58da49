"""What has arrived: plain functions on an open transaction (`tx`, an apsw connection).

`accept` is where exactly-once and order are decided; docs/protocol/delivery.md has the argument. Rows whose
text is gone (retracted, expired) stay as tombstones, so that their ids are never accepted again. Times are Unix
milliseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import apsw

from p2pe.config import MAX_PAGE_BYTES, MAX_STREAMS_PER_CONTACT
from p2pe.core import codec
from p2pe.model import (
    ContactId,
    Content,
    InboxState,
    IncomingMessage,
    MessageId,
    Millis,
    OrderConflict,
    ReceiptStatus,
    StreamId,
    WireMessage,
)
from p2pe.storage.bulk import KEYS_OF_32, RECORDS, cut, cut_sizes, pack

EMPTY_HASH: Final = hashlib.sha256(b"").digest()  # a retracted message's body is empty, at both ends


class Accepted(NamedTuple):
    """What became of some messages: a receipt (id, SHA-256 of the body, status) for each up to the conflict."""

    receipts: list[tuple[MessageId, bytes, ReceiptStatus]]
    new: int  # how many were not known before
    conflict: OrderConflict | None = None


_INSERT: Final = f"""
INSERT INTO incoming (contact_id, stream_id, received_at, status, receipt_owed,
                      id, body_hash, sequence, sent_at, expire_after, body)
SELECT ?3, ?4, ?5, {int(ReceiptStatus.DELIVERED)}, 0, substr(?1, at + 1, 32), substr(?1, at + 33, 32),
       CAST(substr(?1, at + 65, 20) AS INTEGER), CAST(substr(?1, at + 85, 16) AS INTEGER),
       CAST(substr(?1, at + 101, 16) AS INTEGER), substr(?1, at + 117, size - 116)
FROM {RECORDS} WHERE true
ON CONFLICT (contact_id, id) DO NOTHING"""


def accept(
    tx: apsw.Connection, contact_id: ContactId, stream_id: StreamId, messages: Sequence[WireMessage], now: Millis
) -> Accepted:
    """Takes messages with ascending sequences as one link delivered them. Constant number of statements.

    A known id is a duplicate and gets its stored status; an unknown one above the stream's last sequence is new;
    an unknown one at or below it is a conflict, and nothing from there on is taken.
    """
    query = "SELECT last_sequence FROM incoming_streams WHERE contact_id = ? AND stream_id = ?"
    known_last = tx.execute(query, (contact_id, stream_id)).get
    last = known_last or 0
    hashes = [hashlib.sha256(each.body).digest() for each in messages]
    conflict = None
    if messages[0].sequence > last:
        new = _insert(tx, contact_id, stream_id, messages, hashes, now)
        known = {} if new == len(messages) else _known(tx, contact_id, messages)
        taken = len(messages)
    else:
        known = _known(tx, contact_id, messages)
        fresh, taken, conflict = _sort_out(stream_id, messages, hashes, known, last)
        new = _insert(tx, contact_id, stream_id, [m for m, _ in fresh], [h for _, h in fresh], now) if fresh else 0
    if new:
        top = max(last, messages[taken - 1].sequence)
        _advance(tx, contact_id, stream_id, top, known_last is None, now)
    delivered = ReceiptStatus.DELIVERED
    if not known:
        return Accepted([(m.id, h, delivered) for m, h in zip(messages[:taken], hashes, strict=False)], new, conflict)
    receipts = []
    for message, own_hash in zip(messages[:taken], hashes, strict=False):
        status, body_hash = known.get(message.id, (delivered, own_hash))
        receipts.append((message.id, body_hash, status))
    return Accepted(receipts, new, conflict)


def _sort_out(
    stream_id: StreamId,
    messages: Sequence[WireMessage],
    hashes: Sequence[bytes],
    known: dict[MessageId, tuple[ReceiptStatus, bytes]],
    last: int,
) -> tuple[list[tuple[WireMessage, bytes]], int, OrderConflict | None]:
    """(the new ones, how many of `messages` are answered, the conflict that ended it)."""
    fresh: list[tuple[WireMessage, bytes]] = []
    for at, (message, body_hash) in enumerate(zip(messages, hashes, strict=True)):
        if message.id in known:
            continue
        if message.sequence <= last:
            return fresh, at, OrderConflict(stream_id, last)
        last = message.sequence
        fresh.append((message, body_hash))
    return fresh, len(messages), None


def _insert(
    tx: apsw.Connection,
    contact_id: ContactId,
    stream_id: StreamId,
    messages: Sequence[WireMessage],
    hashes: Sequence[bytes],
    now: Millis,
) -> int:
    records = [
        b"%b%b%020d%016d%016d%b" % (m.id, h, m.sequence, m.sent_at, m.expire_after, m.body)
        for m, h in zip(messages, hashes, strict=True)
    ]
    tx.execute(_INSERT, (*pack(records), contact_id, stream_id, now))
    return int(tx.changes())


def _known(
    tx: apsw.Connection, contact_id: ContactId, messages: Sequence[WireMessage]
) -> dict[MessageId, tuple[ReceiptStatus, bytes]]:
    """Status and body hash of those that are here already. A tombstone's hash is that of the empty body."""
    query = f"""SELECT group_concat(status, ''), CAST(group_concat(id, '') AS BLOB),
                       CAST(group_concat(CASE status WHEN {int(ReceiptStatus.RETRACTED)} THEN ?4 ELSE body_hash END, '')
                            AS BLOB)
                FROM incoming WHERE contact_id = ?3 AND id IN {KEYS_OF_32}"""
    keys = (b"".join([each.id for each in messages]), len(messages), contact_id, EMPTY_HASH)
    statuses, ids, hashes = tx.execute(query, keys).get
    return {
        MessageId(identifier): (ReceiptStatus(int(status)), body_hash)
        for status, identifier, body_hash in zip(statuses or "", cut(ids, 32), cut(hashes, 32), strict=True)
    }


def _advance(
    tx: apsw.Connection, contact_id: ContactId, stream_id: StreamId, last: int, is_new: bool, now: Millis
) -> None:
    tx.execute(
        """INSERT INTO incoming_streams (contact_id, stream_id, last_sequence, seen_at) VALUES (?, ?, ?, ?)
           ON CONFLICT DO UPDATE SET last_sequence = excluded.last_sequence, seen_at = excluded.seen_at""",
        (contact_id, stream_id, last, now),
    )
    if is_new:  # a contact must not grow this table without end; ids alone still stop doubles
        tx.execute(
            """DELETE FROM incoming_streams WHERE contact_id = ?1 AND stream_id NOT IN (
                   SELECT stream_id FROM incoming_streams WHERE contact_id = ?1
                   ORDER BY stream_id = ?2 DESC, seen_at DESC LIMIT ?3)""",
            (contact_id, stream_id, MAX_STREAMS_PER_CONTACT),
        )


# --- taken back by the sender ---

_ERASE: Final = "body = x'', expires_at = NULL"
_ARRIVED: Final = "stream_id <> x''"  # not so for the tombstone of a message that was taken back before it came


def retract(tx: apsw.Connection, contact_id: ContactId, ids: Sequence[MessageId], now: Millis) -> list[MessageId]:
    """Erases what has arrived, and leaves tombstones for what hasn't, so that it never will. What replaced the text
    of one of `ids` goes with it. Returns all that are tombstones now."""
    query = f"SELECT edit FROM edits WHERE contact_id = ?3 AND ours = 0 AND target IN {KEYS_OF_32}"
    edits: list[tuple[Any, ...]] = tx.execute(query, (b"".join(ids), len(ids), contact_id)).fetchall()
    every = list(dict.fromkeys([*ids, *(MessageId(each) for (each,) in edits)]))
    keys = (b"".join(every), len(every), contact_id, now)
    retracted = int(ReceiptStatus.RETRACTED)
    tx.execute(
        f"""UPDATE incoming SET {_ERASE}, body_hash = x'', status = {retracted}, receipt_owed = 0,
                ended_at = CASE status WHEN {retracted} THEN ended_at ELSE ?4 END
            WHERE contact_id = ?3 AND id IN {KEYS_OF_32}""",
        keys,
    )
    if tx.changes() < len(every):
        tx.execute(
            f"""INSERT OR IGNORE INTO incoming (contact_id, id, stream_id, sequence, sent_at, received_at, ended_at,
                                                body, body_hash, status, receipt_owed)
                SELECT ?3, id, x'', 0, 0, ?4, ?4, x'', x'', {retracted}, 0 FROM {KEYS_OF_32}""",
            keys,
        )
    return every


def edits_of_tombstones(
    tx: apsw.Connection, contact_id: ContactId, edits: Sequence[tuple[MessageId, MessageId]]
) -> list[MessageId]:
    """Of (target, edit) pairs, the edits whose target was taken back: they mustn't bring its text to life again."""
    targets = [target for target, _ in edits]
    query = f"""SELECT id FROM incoming WHERE contact_id = ?3 AND status = {int(ReceiptStatus.RETRACTED)}
                AND id IN {KEYS_OF_32}"""
    gone = {bytes(each) for (each,) in tx.execute(query, (b"".join(targets), len(targets), contact_id))}
    return [edit for target, edit in edits if target in gone]


# --- reading ---


class Marked(NamedTuple):
    messages: int
    contacts: list[ContactId]  # those who are owed a receipt now


def mark_read(
    tx: apsw.Connection,
    *,
    contact_id: ContactId | None,
    ids: Sequence[MessageId],
    up_to: int | None,
    now: Millis,
) -> Marked:
    """Marks unread messages: of one contact or all, only `ids` (when given), only rows <= `up_to` (when given).

    Expiring ones begin to count down. Contacts with `tells_reading` are owed a READ receipt.
    """
    conditions = ["read_at IS NULL", "ended_at IS NULL"]
    values: list[Any] = [b"".join(ids), len(ids), now]
    if contact_id is not None:
        conditions.append(f"contact_id = ?{len(values) + 1}")
        values.append(contact_id)
    if ids:
        conditions.append(f"id IN {KEYS_OF_32}")
    if up_to is not None:
        conditions.append(f"row <= ?{len(values) + 1}")
        values.append(up_to)
    told = "contact_id IN (SELECT id FROM contacts WHERE tells_reading)"
    rows = tx.execute(
        f"""UPDATE incoming SET read_at = ?3, expires_at = CASE WHEN expire_after > 0 THEN ?3 + expire_after END,
                status = CASE WHEN {told} THEN {int(ReceiptStatus.READ)} ELSE status END,
                receipt_owed = CASE WHEN {told} THEN 1 ELSE receipt_owed END
            WHERE {" AND ".join(conditions)} RETURNING contact_id, receipt_owed""",
        values,
    )
    marked = [(int(contact), owed) for contact, owed in rows]
    return Marked(len(marked), [ContactId(each) for each in sorted({contact for contact, owed in marked if owed})])


def receipts_owed(
    tx: apsw.Connection, contact_id: ContactId, limit: int
) -> list[tuple[MessageId, bytes, ReceiptStatus]]:
    """Receipts that have never been written to a link: (id, SHA-256 of the body, status)."""
    query = """SELECT id, body_hash, status FROM incoming
               WHERE contact_id = ? AND receipt_owed = 1 ORDER BY row LIMIT ?"""
    found = tx.execute(query, (contact_id, limit))
    return [(MessageId(each), body_hash, ReceiptStatus(status)) for each, body_hash, status in found]


def receipts_written(tx: apsw.Connection, contact_id: ContactId, ids: Sequence[MessageId]) -> None:
    query = f"UPDATE incoming SET receipt_owed = 0 WHERE contact_id = ?3 AND id IN {KEYS_OF_32} AND receipt_owed = 1"
    tx.execute(query, (b"".join(ids), len(ids), contact_id))


# --- ends ---


def expire(tx: apsw.Connection, now: Millis, limit: int) -> int:
    """Erases read messages whose time is over by our clock. Returns how many, at most `limit`.

    The hash stays: the sender may still miss its receipt, which is bound to it.
    """
    tx.execute(
        f"""UPDATE incoming SET {_ERASE}, ended_at = ?1
            WHERE row IN (SELECT row FROM incoming WHERE expires_at IS NOT NULL AND expires_at <= ?1 LIMIT ?2)""",
        (now, limit),
    )
    return int(tx.changes())


def put_deadlines_forward(tx: apsw.Connection, millis: int) -> None:
    """Our clock was put back by so much: what counts down must not live the longer for it."""
    tx.execute("UPDATE incoming SET expires_at = expires_at - ? WHERE expires_at IS NOT NULL", (millis,))


def next_expiry(tx: apsw.Connection) -> Millis | None:
    query = "SELECT min(expires_at) FROM incoming WHERE expires_at IS NOT NULL"
    due = tx.execute(query).get
    return None if due is None else Millis(due)


# --- to look at ---

_EDITED: Final = f"""EXISTS (SELECT 1 FROM edits JOIN incoming AS newer
    ON newer.contact_id = edits.contact_id AND newer.id = edits.edit
    WHERE edits.contact_id = incoming.contact_id AND ours = 0 AND target = incoming.id
      AND newer.status <> {int(ReceiptStatus.RETRACTED)})"""
_SHOWN: Final = f"""
SELECT json_group_array(json_array(row, contact_id, name, received_at, sent_at, read_at, length(body), status, ended_at,
                                   expire_after, expires_at, edited)),
       CAST(group_concat(id, '') AS BLOB), CAST(group_concat(body, '') AS BLOB)
FROM (SELECT *, sum(length(body)) OVER (ROWS UNBOUNDED PRECEDING) - length(body) AS before
      FROM (SELECT incoming.*, contacts.name, {_EDITED} AS edited FROM """
IN_ORDER: Final = f"incoming JOIN contacts ON contacts.id = contact_id WHERE {_ARRIVED} AND "
# The index on ids starts with the contact: a search a contact. CROSS JOIN keeps SQLite from scanning instead.
_BY_ID: Final = f"contacts CROSS JOIN incoming ON incoming.contact_id = contacts.id WHERE {_ARRIVED} AND incoming.id "
ERASED: Final = Content("")


def show(tx: apsw.Connection, where: str, values: tuple[Any, ...]) -> list[IncomingMessage]:
    """`where`: IN_ORDER and what comes after it."""
    plain, ids, bodies = tx.execute(f"{_SHOWN}{where})) WHERE before < {MAX_PAGE_BYTES}", values).get
    rows = json.loads(plain)
    return [
        IncomingMessage(
            row=row,
            id=MessageId(identifier),
            contact_id=ContactId(contact_id),
            contact_name=name,
            received_at=received_at,
            sent_at=sent_at,
            content=codec.decode_content(body) if body else ERASED,
            read_at=read_at,
            state=_state(status, ended_at, read_at),
            is_edited=bool(edited),
            ended_at=ended_at,
            expire_after=expire_after,
            expires_at=expires_at,
        )
        for (
            (
                row,
                contact_id,
                name,
                received_at,
                sent_at,
                read_at,
                _,
                status,
                ended_at,
                expire_after,
                expires_at,
                edited,
            ),
            identifier,
            body,
        ) in zip(rows, cut(ids, 32), cut_sizes(bodies, [each[6] for each in rows]), strict=True)
    ]


def _state(status: int, ended_at: int | None, read_at: int | None) -> InboxState:
    if ended_at is not None:
        return InboxState.RETRACTED if status == ReceiptStatus.RETRACTED else InboxState.EXPIRED
    return InboxState.NEW if read_at is None else InboxState.READ


def page(
    tx: apsw.Connection,
    *,
    contact_id: ContactId | None,
    after: int,
    unread_only: bool,
    limit: int,
    ended: bool = False,
) -> list[IncomingMessage]:
    """Oldest first: rows above `after`. What was taken back or has expired is there only with `ended`."""
    conditions, values = ["row > ?"], [after]
    if contact_id is not None:
        conditions.append("contact_id = ?")
        values.append(contact_id)
    if unread_only:
        conditions.append("read_at IS NULL")
    if unread_only or not ended:
        conditions.append("ended_at IS NULL")
    return show(tx, f"{IN_ORDER}{' AND '.join(conditions)} ORDER BY row LIMIT ?", (*values, limit))


def newest(
    tx: apsw.Connection, *, contact_id: ContactId | None, before: int | None, limit: int, ended: bool = False
) -> list[IncomingMessage]:
    """The last `limit` ones (below row `before`, when given), oldest first."""
    conditions, values = ["row < ?"], [before if before is not None else 2**62]
    if contact_id is not None:
        conditions.append("contact_id = ?")
        values.append(contact_id)
    if not ended:
        conditions.append("ended_at IS NULL")
    return show(tx, f"{IN_ORDER}{' AND '.join(conditions)} ORDER BY row DESC LIMIT ?", (*values, limit))[::-1]


def by_ids(tx: apsw.Connection, ids: Sequence[MessageId]) -> list[IncomingMessage]:
    """Ended ones included."""
    return show(tx, f"{_BY_ID}IN {KEYS_OF_32} ORDER BY row", (b"".join(ids), len(ids)))


def by_prefix(tx: apsw.Connection, low: bytes, high: bytes, limit: int) -> list[IncomingMessage]:
    """Messages with low <= id <= high (32 bytes each), ended ones included."""
    return show(tx, _BY_ID + "BETWEEN ? AND ? ORDER BY row LIMIT ?", (low, high, limit))


def last_row(tx: apsw.Connection) -> int:
    return int(tx.execute("SELECT coalesce(max(row), 0) FROM incoming").get)


def unread_count(tx: apsw.Connection) -> int:
    return int(tx.execute("SELECT count(*) FROM incoming WHERE read_at IS NULL AND ended_at IS NULL").get)
