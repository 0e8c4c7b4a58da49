"""The outgoing queue and its history: plain functions on an open transaction (`tx`, an apsw connection).

The database is the queue: a courier holds row numbers and hashes, never the only copy of anything. States change
only along core/delivery.TRANSITIONS, from which the WHERE clauses here are made. Times are Unix milliseconds. What a
new identity or a restored backup does to these rows is in held.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import apsw

from p2pe.config import MAX_OFFER_MESSAGES
from p2pe.core.delivery import RECEIPT_EVENTS, WAITING, Event, Reason, sources
from p2pe.model import (
    ContactId,
    IdentityKey,
    MessageId,
    MessageState,
    Millis,
    ReceiptStatus,
    StreamId,
    WireMessage,
)
from p2pe.storage.bulk import KEYS_OF_32, RECORDS, cut, cut_sizes, numbers, pack

STREAM_KEY: Final = "stream_id"  # in meta


def state_list(states: Iterable[str]) -> str:
    return ", ".join(f"'{each}'" for each in states)


# Word for word the condition of the partial index `outgoing_waiting`, or SQLite wouldn't use it.
WAITING_STATES: Final = f"state IN ({state_list(str(each) for each in WAITING)})"
_RETRACTING: Final = f"state = '{MessageState.RETRACTED}' AND reason = '{Reason.RETRACTING}'"
# Named, or SQLite may read a contact's whole history to find that nothing waits.
WAITING_OF: Final = f"outgoing INDEXED BY outgoing_waiting WHERE {WAITING_STATES} AND contact_id"
_RETRACTING_OF: Final = f"outgoing INDEXED BY outgoing_retracting WHERE {_RETRACTING} AND contact_id"


# --- whom to ---


class Recipient(NamedTuple):
    contact_id: ContactId
    name: str
    identity_key: IdentityKey
    blocked: bool


def recipients(tx: apsw.Connection, names: Sequence[str]) -> dict[str, Recipient]:
    """Those of `names` that are contacts."""
    found = tx.execute(
        "SELECT id, name, identity_key, blocked FROM contacts WHERE name IN (SELECT value FROM json_each(?))",
        (json.dumps(list(dict.fromkeys(names))),),
    )
    return {name: Recipient(ContactId(i), name, IdentityKey(key), bool(blocked)) for i, name, key, blocked in found}


def contact_names(tx: apsw.Connection) -> list[str]:
    return [name for (name,) in tx.execute("SELECT name FROM contacts ORDER BY name")]


def is_served(tx: apsw.Connection, contact_id: ContactId) -> tuple[bool, bool]:
    """(it exists, it is blocked)."""
    for (blocked,) in tx.execute("SELECT blocked FROM contacts WHERE id = ?", (contact_id,)):
        return True, bool(blocked)
    return False, False


# --- in ---


class Draft(NamedTuple):
    """A message about to be queued."""

    id: MessageId
    body: bytes
    body_hash: bytes
    expire_after: int = 0
    idempotency_key: str = ""


def current_stream(tx: apsw.Connection, fresh: StreamId) -> StreamId:
    """This installation's sending order; `fresh` becomes it when there is none (first use, after a restore)."""
    for (value,) in tx.execute("SELECT value FROM meta WHERE key = ?", (STREAM_KEY,)):
        return StreamId(value)
    tx.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (STREAM_KEY, fresh))
    return fresh


def next_sequence(tx: apsw.Connection, contact_id: ContactId, stream_id: StreamId) -> int:
    query = "SELECT coalesce(max(sequence), 0) + 1 FROM outgoing WHERE contact_id = ? AND stream_id = ?"
    return int(tx.execute(query, (contact_id, stream_id)).get)


def has_room(
    tx: apsw.Connection, contact_id: ContactId, stream_id: StreamId, first: int, count: int, most: int
) -> bool:
    """Whether `count` messages from sequence `first` on keep the contact's waiting rows at or below `most`.

    Counts only when it must: the distance to the lowest waiting sequence bounds the number from above.
    """
    lowest = f"""SELECT stream_id, sequence FROM {WAITING_OF} = ? ORDER BY row LIMIT 1"""
    head = tx.execute(lowest, (contact_id,)).get
    if head is None or (head[0] == stream_id and first - head[1] + count <= most):
        return count <= most
    waiting = tx.execute(f"SELECT count(*) FROM {WAITING_OF} = ?", (contact_id,)).get
    return bool(waiting + count <= most)


_INSERT: Final = f"""
INSERT INTO outgoing (contact_id, stream_id, sequence, state, reason, since, queued_at,
                      id, body_hash, expire_after, idempotency_key, body)
SELECT ?3, ?4, ?5 + n, '{MessageState.QUEUED}', '', ?6, ?6,
       substr(?1, at + 1, 32), substr(?1, at + 33, 32), CAST(substr(?1, at + 65, 16) AS INTEGER),
       nullif(CAST(substr(?1, at + 84, keysize) AS TEXT), ''), substr(?1, at + 84 + keysize, size - 83 - keysize)
FROM (SELECT n, at, size, CAST(substr(?1, at + 81, 3) AS INTEGER) AS keysize FROM {RECORDS})"""


def insert(
    tx: apsw.Connection, contact_id: ContactId, stream_id: StreamId, first: int, drafts: Sequence[Draft], now: Millis
) -> None:
    """Queues `drafts` in order with sequences from `first` on. One statement however many."""
    records = []
    for identifier, body, body_hash, expire_after, key in drafts:
        raw = key.encode()
        records.append(b"%b%b%016d%03d%b%b" % (identifier, body_hash, expire_after, len(raw), raw, body))
    tx.execute(_INSERT, (*pack(records), contact_id, stream_id, first, now))


class Keyed(NamedTuple):
    contact_id: ContactId
    id: MessageId
    body_hash: bytes  # empty when the text is erased
    expire_after: int


def by_idempotency_keys(tx: apsw.Connection, keys: Sequence[str]) -> dict[str, Keyed]:
    """Messages that were sent under one of `keys` before."""
    found = tx.execute(
        """SELECT idempotency_key, contact_id, id, body_hash, expire_after FROM outgoing
           WHERE idempotency_key IN (SELECT value FROM json_each(?))""",
        (json.dumps(list(keys)),),
    )
    return {key: Keyed(ContactId(contact), MessageId(i), h, expire) for key, contact, i, h, expire in found}


# --- out ---


class Offer(NamedTuple):
    """Rows to write to a link now, in order; already committed as OFFERED once the transaction is."""

    ids: list[MessageId]
    rows: list[int]
    hashes: list[bytes]
    runs: list[tuple[StreamId, list[WireMessage]]]  # consecutive messages of one stream


_OFFER_TAKE: Final = f"""
SELECT CAST(group_concat(id, '') AS BLOB), CAST(group_concat(body_hash, '') AS BLOB),
       CAST(group_concat(body, '') AS BLOB), CAST(group_concat(stream_id, '') AS BLOB),
       group_concat(row || ',' || sequence || ',' || queued_at || ',' || expire_after || ',' || length(body), ',')
FROM (SELECT * FROM {WAITING_OF} = ?1 AND row > ?2 AND row <= (
          SELECT max(row) FROM (
              SELECT row, sum(length(body)) OVER (ORDER BY row) - length(body) AS before FROM (
                  SELECT row, body FROM {WAITING_OF} = ?1 AND row > ?2
                  ORDER BY row LIMIT ?3))
          WHERE before < ?4)
      ORDER BY row LIMIT ?3)"""

_OFFER_MARK: Final = f"""
UPDATE outgoing INDEXED BY outgoing_waiting SET since = CASE state WHEN '{MessageState.QUEUED}' THEN ?4 ELSE since END,
                    state = '{MessageState.OFFERED}', offered_at = coalesce(offered_at, ?4), attempts = attempts + 1
WHERE contact_id = ?1 AND {WAITING_STATES} AND row BETWEEN ?2 AND ?3"""


def offer(
    tx: apsw.Connection, contact_id: ContactId, after: int, room: int, max_bytes: int, now: Millis
) -> Offer | None:
    """Marks the next waiting rows above row `after` as OFFERED and returns them: at most `room` of them, whose bodies
    without the last one's are less than `max_bytes`.

    None when there are none. The caller writes them only after this has been committed.
    """
    limit = min(room, MAX_OFFER_MESSAGES)
    ids, hashes, bodies, streams, values = tx.execute(_OFFER_TAKE, (contact_id, after, limit, max_bytes)).get
    plain = numbers(values)
    if not plain:
        return None
    rows, each_id = plain[::5], [MessageId(each) for each in cut(ids, 32)]
    messages = [
        WireMessage(identifier, sequence, Millis(queued_at), body, expire_after)
        for identifier, sequence, queued_at, expire_after, body in zip(
            each_id, plain[1::5], plain[2::5], plain[3::5], cut_sizes(bodies, plain[4::5]), strict=True
        )
    ]
    tx.execute(_OFFER_MARK, (contact_id, rows[0], rows[-1], now))
    return Offer(each_id, rows, cut(hashes, 32), _runs(cut(streams, 16), messages))


def _runs(streams: list[bytes], messages: list[WireMessage]) -> list[tuple[StreamId, list[WireMessage]]]:
    if streams.count(streams[0]) == len(streams):
        return [(StreamId(streams[0]), messages)]
    runs: list[tuple[StreamId, list[WireMessage]]] = []
    for stream, message in zip(streams, messages, strict=True):
        if not runs or runs[-1][0] != stream:
            runs.append((StreamId(stream), []))
        runs[-1][1].append(message)
    return runs


def waiting_contacts(tx: apsw.Connection) -> list[ContactId]:
    """Contacts for whom something waits here: messages, retractions, receipts of reading. Not the blocked ones."""
    query = f"""
        SELECT id FROM contacts WHERE NOT blocked AND (
            EXISTS (SELECT 1 FROM {WAITING_OF} = contacts.id)
            OR EXISTS (SELECT 1 FROM {_RETRACTING_OF} = contacts.id)
            OR EXISTS (SELECT 1 FROM incoming WHERE contact_id = contacts.id AND receipt_owed = 1))
        ORDER BY id"""
    return [ContactId(each) for (each,) in tx.execute(query)]


def anything_waits(tx: apsw.Connection, contact_id: ContactId) -> bool:
    """The same question for one contact, blocked or not."""
    query = f"""
        SELECT EXISTS (SELECT 1 FROM {WAITING_OF} = ?1)
            OR EXISTS (SELECT 1 FROM {_RETRACTING_OF} = ?1)
            OR EXISTS (SELECT 1 FROM incoming WHERE contact_id = ?1 AND receipt_owed = 1)"""
    return bool(tx.execute(query, (contact_id,)).get)


# --- receipts ---


def body_hashes(tx: apsw.Connection, contact_id: ContactId, ids: Sequence[MessageId]) -> dict[MessageId, bytes]:
    """SHA-256 of the bodies of those of `ids` that we sent to the contact and haven't erased."""
    query = f"""SELECT CAST(group_concat(id, '') AS BLOB), CAST(group_concat(body_hash, '') AS BLOB) FROM outgoing
                WHERE id IN {KEYS_OF_32} AND +contact_id = ?3 AND length(body_hash) = 32"""
    found, hashes = tx.execute(query, (b"".join(ids), len(ids), contact_id)).get
    return {MessageId(each): h for each, h in zip(cut(found, 32), cut(hashes, 32), strict=True)}


_COUNTS_DOWN: Final = "CASE WHEN expire_after > 0 THEN ?4 + expire_after END"
_SETTLED: Final = f"""state = '{MessageState.DELIVERED}', reason = '', since = ?4, delivered_at = ?4,
                      expires_at = {_COUNTS_DOWN}"""


def deliver_range(tx: apsw.Connection, contact_id: ContactId, first_row: int, last_row: int, now: Millis) -> None:
    """DELIVERED for all OFFERED rows of the contact from `first_row` to `last_row`: the caller knows they're those."""
    query = f"""UPDATE outgoing INDEXED BY outgoing_waiting SET {_SETTLED}
                WHERE contact_id = ?1 AND {WAITING_STATES} AND state = '{MessageState.OFFERED}'
                  AND row BETWEEN ?2 AND ?3"""
    tx.execute(query, (contact_id, first_row, last_row, now))


_CHANGES: Final[dict[ReceiptStatus, str]] = {
    ReceiptStatus.DELIVERED: _SETTLED,
    ReceiptStatus.READ: f"""state = '{MessageState.READ}', reason = '', since = ?4, read_at = ?4,
                            delivered_at = coalesce(delivered_at, ?4),
                            expires_at = coalesce(expires_at, {_COUNTS_DOWN})""",
    # Nothing here says that it was taken back. Perhaps a restored backup has forgotten it; perhaps the other side
    # made it up. Our text is ours: nobody else erases it.
    ReceiptStatus.RETRACTED: f"""state = '{MessageState.RETRACTED}', reason = '{Reason.SAID_RETRACTED}', since = ?4,
                                 expires_at = NULL""",
}


def settle(
    tx: apsw.Connection, contact_id: ContactId, status: ReceiptStatus, ids: Sequence[MessageId], now: Millis
) -> None:
    """What receipts of `status` change, for ids whose MACs were checked. Unknown ids and ended rows stay."""
    keys = (b"".join(ids), len(ids), contact_id, now)
    states = state_list(sources(RECEIPT_EVENTS[status]))
    where = f"WHERE id IN {KEYS_OF_32} AND +contact_id = ?3"
    tx.execute(f"UPDATE outgoing SET {_CHANGES[status]} {where} AND state IN ({states})", keys)
    if status is ReceiptStatus.RETRACTED:
        # `since` stays: that is when it was taken back
        tx.execute(f"UPDATE outgoing SET reason = '{Reason.RETRACTED_THERE}' {where} AND {_RETRACTING}", keys[:3])


def restart_stream(tx: apsw.Connection, contact_id: ContactId, stream_id: StreamId, fresh: StreamId) -> bool:
    """The answer to an OrderConflict about `stream_id`: waiting rows of the contact go, in order, to `fresh`.

    False, and nothing changes, when that stream is neither current nor one of a waiting row: the conflict is old.
    """
    current = current_stream(tx, fresh)
    concerned = tx.execute(
        f"SELECT EXISTS (SELECT 1 FROM {WAITING_OF} = ? AND stream_id = ?)",
        (contact_id, stream_id),
    ).get
    if not concerned and current != stream_id:
        return False
    tx.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (STREAM_KEY, fresh))
    tx.execute(
        f"""UPDATE outgoing SET stream_id = ?2, sequence = fresh.n
            FROM (SELECT row AS at, row_number() OVER (ORDER BY row) AS n FROM {WAITING_OF} = ?1) AS fresh
            WHERE outgoing.row = fresh.at""",
        (contact_id, fresh),
    )
    return True


# --- taking back ---


def retract(tx: apsw.Connection, ids: Sequence[MessageId], now: Millis) -> int:
    """Erases the texts. Rows that may have left owe the recipient a retraction; the others leave nothing to send.

    Returns how many changed.
    """
    query = f"""
        UPDATE outgoing SET state = '{MessageState.RETRACTED}', since = ?3, body = x'', body_hash = x'',
            expires_at = NULL,
            reason = CASE WHEN offered_at IS NULL AND reason <> '{Reason.RESTORED}'
                          AND state IN ('{MessageState.QUEUED}', '{MessageState.HELD_IDENTITY}')
                     THEN '{Reason.ERASED_UNSENT}'
                     WHEN state = '{MessageState.RETRACTED}' THEN '{Reason.RETRACTED_THERE}'
                     ELSE '{Reason.RETRACTING}' END
        WHERE id IN {KEYS_OF_32} AND (state IN ({state_list(sources(Event.RETRACT))})
              OR state = '{MessageState.RETRACTED}' AND reason = '{Reason.SAID_RETRACTED}')"""
    tx.execute(query, (b"".join(ids), len(ids), now))
    return int(tx.changes())


def retractions_owed(tx: apsw.Connection, contact_id: ContactId) -> list[MessageId]:
    """Those that the contact hasn't confirmed."""
    query = f"SELECT CAST(group_concat(id, '') AS BLOB) FROM (SELECT id FROM {_RETRACTING_OF} = ? ORDER BY row)"
    return [MessageId(each) for each in cut(tx.execute(query, (contact_id,)).get, 32)]


def add_edits(
    tx: apsw.Connection, contact_id: ContactId, ours: bool, edits: Sequence[tuple[MessageId, MessageId]]
) -> None:
    """Notes (target, edit) pairs."""
    tx.executemany(
        "INSERT OR IGNORE INTO edits (contact_id, ours, target, edit) VALUES (?, ?, ?, ?)",
        [(contact_id, int(ours), target, edit) for target, edit in edits],
    )


def edits_of(tx: apsw.Connection, contact_id: ContactId, ours: bool, target: MessageId) -> list[MessageId]:
    """Ids of the messages that replace the text of `target`, oldest first."""
    table = "outgoing" if ours else "incoming"
    query = f"""SELECT edit FROM edits JOIN {table} ON {table}.id = edit AND {table}.contact_id = edits.contact_id
                WHERE edits.contact_id = ? AND ours = ? AND target = ? ORDER BY {table}.row"""
    return [MessageId(each) for (each,) in tx.execute(query, (contact_id, int(ours), target))]


# --- ends ---


def expire(tx: apsw.Connection, now: Millis, limit: int) -> list[MessageId]:
    """Erases delivered messages whose time is over by our clock. Returns their ids, at most `limit`."""
    query = f"""UPDATE outgoing SET state = '{MessageState.EXPIRED}', reason = '', since = ?1,
                    body = x'', body_hash = x'', expires_at = NULL
                WHERE row IN (SELECT row FROM outgoing WHERE expires_at IS NOT NULL AND expires_at <= ?1 LIMIT ?2)
                  AND state IN ({state_list(sources(Event.EXPIRE))}) RETURNING id"""
    return [MessageId(each) for (each,) in tx.execute(query, (now, limit))]


def put_deadlines_forward(tx: apsw.Connection, millis: int) -> None:
    """Our clock was put back by so much: what counts down must not live the longer for it."""
    tx.execute("UPDATE outgoing SET expires_at = expires_at - ? WHERE expires_at IS NOT NULL", (millis,))


def next_expiry(tx: apsw.Connection) -> Millis | None:
    due = tx.execute("SELECT min(expires_at) FROM outgoing WHERE expires_at IS NOT NULL").get
    return None if due is None else Millis(due)
