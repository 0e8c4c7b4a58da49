"""Contacts of before who came to a restored node with a ticket of ours: kept until they are approved, or for long
enough. Functions over a transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from p2pe import config
from p2pe.errors import NotFound
from p2pe.model import IdentityKey, Millis
from p2pe.storage.migrations import Tx

RequestState = Literal["waiting", "approved", "refused"]
_REQUEST: Final = "id, identity_key, petname, met_at, first_at, last_at, state, name"


@dataclass(frozen=True, slots=True)
class Request:
    id: int
    identity_key: IdentityKey
    petname: str  # what we called them, as the ticket says
    met_at: Millis
    first_at: Millis
    last_at: Millis
    state: RequestState
    name: str | None  # what to call them now; None: the petname


def came(tx: Tx, identity_key: IdentityKey, petname: str, met_at: Millis, now: Millis) -> Request:
    """Notes that somebody came. What was decided about them stays. Forgets the old, and the oldest beyond the bound."""
    expire(tx, now)
    tx.execute(
        "INSERT INTO requests (identity_key, petname, met_at, first_at, last_at, state) "
        "VALUES (?, ?, ?, ?, ?, 'waiting') ON CONFLICT (identity_key) DO UPDATE SET last_at = excluded.last_at",
        (identity_key, petname, met_at, now, now),
    )  # fmt: skip
    tx.execute(
        "DELETE FROM requests WHERE id NOT IN (SELECT id FROM requests ORDER BY last_at DESC, id DESC LIMIT ?)",
        (config.MAX_RECOVER_REQUESTS,),
    )
    found = by_identity(tx, identity_key)
    assert found is not None
    return found


def expire(tx: Tx, now: Millis) -> None:
    """Forgets whoever hasn't come for config.RECOVER_REQUEST_SECONDS."""
    tx.execute("DELETE FROM requests WHERE last_at <= ?", (now - 1000 * config.RECOVER_REQUEST_SECONDS,))


def by_identity(tx: Tx, identity_key: IdentityKey) -> Request | None:
    row = tx.execute(f"SELECT {_REQUEST} FROM requests WHERE identity_key = ?", (identity_key,)).fetchone()
    return None if row is None else _request(row)


def get(tx: Tx, request_id: int) -> Request:
    row = tx.execute(f"SELECT {_REQUEST} FROM requests WHERE id = ?", (request_id,)).fetchone()
    if row is None:
        raise NotFound(f"there is no request {request_id}: `p2pe requests` lists them")
    return _request(row)


def all_requests(tx: Tx) -> tuple[Request, ...]:
    """Those who came last first."""
    rows = tx.execute(f"SELECT {_REQUEST} FROM requests ORDER BY last_at DESC, id DESC").fetchall()
    return tuple(_request(row) for row in rows)


def decide(tx: Tx, request_id: int, state: RequestState, name: str | None = None) -> Request:
    """Raises NotFound."""
    tx.execute("UPDATE requests SET state = ?, name = ? WHERE id = ?", (state, name, request_id))
    return get(tx, request_id)


def remove(tx: Tx, identity_key: IdentityKey) -> None:
    """They are a contact again, or forgotten."""
    tx.execute("DELETE FROM requests WHERE identity_key = ?", (identity_key,))


def _request(row: tuple[Any, ...]) -> Request:
    return Request(row[0], IdentityKey(row[1]), row[2], Millis(row[3]), Millis(row[4]), Millis(row[5]), row[6], row[7])
