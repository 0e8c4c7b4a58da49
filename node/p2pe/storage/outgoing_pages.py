"""Reading the outgoing queue and history: pages, single messages, counts. Nothing here changes a row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import apsw

from p2pe.config import MAX_PAGE_BYTES
from p2pe.core import codec
from p2pe.core.delivery import WAITING
from p2pe.model import ContactId, Content, MessageId, MessageState, Millis, OutgoingMessage
from p2pe.storage.bulk import KEYS_OF_32, cut, cut_sizes
from p2pe.storage.outgoing import WAITING_OF, WAITING_STATES, state_list


class Stored(NamedTuple):
    """A message as stored: `reason` is a core/delivery.Reason, not yet a sentence."""

    row: int
    message: OutgoingMessage
    blocked: bool  # its contact


_SHOWN: Final = """
SELECT json_group_array(json_array(row, contact_id, name, state, reason, since, queued_at, offered_at, delivered_at,
                                   read_at, attempts, length(body), blocked, expire_after,
                                   expires_at)),
       CAST(group_concat(id, '') AS BLOB), CAST(group_concat(body, '') AS BLOB)
FROM (SELECT *, sum(length(body)) OVER (ROWS UNBOUNDED PRECEDING) - length(body) AS before
      FROM (SELECT outgoing.*, contacts.name, contacts.blocked
            FROM outgoing JOIN contacts ON contacts.id = contact_id """

ERASED: Final = Content("")


def _show(tx: apsw.Connection, where: str, values: tuple[Any, ...]) -> list[Stored]:
    plain, ids, bodies = tx.execute(f"{_SHOWN}{where})) WHERE before < {MAX_PAGE_BYTES}", values).get
    rows = json.loads(plain)
    out = []
    for fields, identifier, body in zip(
        rows, cut(ids, 32), cut_sizes(bodies, [each[11] for each in rows]), strict=True
    ):
        (
            row,
            contact_id,
            name,
            state,
            reason,
            since,
            queued_at,
            offered_at,
            delivered_at,
            read_at,
            attempts,
            _,
            blocked,
            expire_after,
            expires_at,
        ) = fields
        message = OutgoingMessage(
            id=MessageId(identifier),
            contact_id=ContactId(contact_id),
            contact_name=name,
            state=MessageState(state),
            reason=reason,
            since=since,
            queued_at=queued_at,
            content=codec.decode_content(body) if body else ERASED,
            offered_at=offered_at,
            delivered_at=delivered_at,
            read_at=read_at,
            attempts=attempts,
            expire_after=expire_after,
            expires_at=expires_at,
        )
        out.append(Stored(row, message, bool(blocked)))
    return out


def by_id(tx: apsw.Connection, identifier: MessageId) -> Stored | None:
    found = _show(tx, "WHERE outgoing.id = ?", (identifier,))
    return found[0] if found else None


def by_ids(tx: apsw.Connection, ids: Sequence[MessageId]) -> dict[MessageId, Stored]:
    found = _show(tx, f"WHERE outgoing.id IN {KEYS_OF_32}", (b"".join(ids), len(ids)))
    return {each.message.id: each for each in found}


def by_prefix(tx: apsw.Connection, low: bytes, high: bytes, limit: int) -> list[Stored]:
    """Messages with low <= id <= high (32 bytes each), newest first."""
    return _show(tx, "WHERE outgoing.id BETWEEN ? AND ? ORDER BY row DESC LIMIT ?", (low, high, limit))


def page(
    tx: apsw.Connection,
    *,
    contact_id: ContactId | None,
    states: Sequence[MessageState],
    before: int | None,
    limit: int,
) -> list[Stored]:
    """Newest first: rows below `before`. No `states` means all."""
    conditions: list[str] = ["1"]
    values: list[Any] = []
    if contact_id is not None:
        conditions.append("contact_id = ?")
        values.append(contact_id)
    if states:
        wanted = set(states)
        if wanted <= set(WAITING):
            conditions.append(WAITING_STATES)
        conditions.append(f"state IN ({state_list(str(each) for each in states)})")
    if before is not None:
        conditions.append("row < ?")
        values.append(before)
    return _show(tx, f"WHERE {' AND '.join(conditions)} ORDER BY row DESC LIMIT ?", (*values, limit))


def counts(tx: apsw.Connection) -> dict[MessageState, int]:
    """How many are QUEUED, OFFERED and HELD_IDENTITY: what hasn't ended."""
    held = f"SELECT '{MessageState.HELD_IDENTITY}', count(*) FROM outgoing WHERE state = '{MessageState.HELD_IDENTITY}'"
    found = tx.execute(
        f"""SELECT state, count(*) FROM outgoing INDEXED BY outgoing_waiting
            WHERE {WAITING_STATES} GROUP BY state UNION ALL {held}"""
    )
    out = dict.fromkeys((*WAITING, MessageState.HELD_IDENTITY), 0)
    return out | {MessageState(state): count for state, count in found}


def oldest_waiting(tx: apsw.Connection) -> Millis | None:
    """When the first of those that are QUEUED or OFFERED was queued."""
    first = f"SELECT min(row) FROM outgoing INDEXED BY outgoing_waiting WHERE {WAITING_STATES}"
    queued_at = tx.execute(f"SELECT queued_at FROM outgoing WHERE row = ({first})").get
    return None if queued_at is None else Millis(queued_at)


def waiting_count(tx: apsw.Connection, contact_id: ContactId) -> int:
    return int(
        tx.execute(
            f"SELECT count(*) FROM {WAITING_OF} = ?",
            (contact_id,),
        ).get
    )
