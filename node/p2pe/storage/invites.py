"""Our open invites, and the ledger of our guesses at other people's codes.

A guess is spent in a commit of its own *before* it is used: a crash, a restart or a cut connection never gives it
back. Closing an invite, in whatever way, erases its words and its secret.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from p2pe import config
from p2pe.errors import GuessesSpent, InviteExpired, LocalError, NotFound
from p2pe.model import ContactId, Millis
from p2pe.storage.migrations import Tx

InviteKind = Literal["code", "link"]
InviteState = Literal["open", "paired", "expired", "spent", "revoked"]
_INVITE = "id, kind, handle, locator, password, secret, name, guesses_left, created_at, expires_at, state, contact_id"


@dataclass(frozen=True, slots=True)
class Invite:
    id: int
    kind: InviteKind
    handle: bytes  # 8 bytes that name it in Hello.tag
    locator: str  # '47-crossover'; '' for a link
    password: str = field(repr=False)  # '' once it is closed
    secret: bytes = field(repr=False)  # 16 bytes of a link; empty for a code or once it is closed
    name: str | None  # how whoever comes will be called here
    guesses_left: int
    created_at: Millis
    expires_at: Millis
    state: InviteState
    contact_id: ContactId | None


def create(
    tx: Tx,
    *,
    kind: InviteKind,
    handle: bytes,
    locator: str,
    password: str,
    secret: bytes,
    name: str | None,
    now: Millis,
    seconds: int = config.INVITE_SECONDS,
    guesses: int = config.INVITE_GUESSES,
) -> Invite:
    """Raises LocalError when config.MAX_OPEN_INVITES are open already. Also closes what has expired."""
    expire(tx, now)
    if tx.execute("SELECT count(*) FROM invites WHERE state = 'open'").get >= config.MAX_OPEN_INVITES:
        raise LocalError(f"{config.MAX_OPEN_INVITES} invites are open: wait until one expires, or revoke one")
    tx.execute(
        "INSERT INTO invites (kind, handle, locator, password, secret, name, guesses_left, created_at, expires_at, "
        "state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'open')",
        (kind, handle, locator, password, secret, name, guesses, now, now + 1000 * seconds),
    )
    return get(tx, tx.last_insert_rowid())


def get(tx: Tx, invite_id: int) -> Invite:
    row = tx.execute(f"SELECT {_INVITE} FROM invites WHERE id = ?", (invite_id,)).fetchone()
    if row is None:
        raise NotFound(f"there is no invite {invite_id}: `p2pe invites` lists them")
    return _invite(row)


def by_handle(tx: Tx, handle: bytes) -> Invite | None:
    """In whatever state it is."""
    row = tx.execute(f"SELECT {_INVITE} FROM invites WHERE handle = ?", (handle,)).fetchone()
    return None if row is None else _invite(row)


def open_invites(tx: Tx, now: Millis) -> tuple[Invite, ...]:
    """Open and not expired at `now`, oldest first."""
    rows = tx.execute(
        f"SELECT {_INVITE} FROM invites WHERE state = 'open' AND expires_at > ? ORDER BY id", (now,)
    ).fetchall()
    return tuple(_invite(row) for row in rows)


def all_invites(tx: Tx) -> tuple[Invite, ...]:
    """Newest first; of the closed ones the latest config.MAX_CLOSED_INVITES."""
    return tuple(_invite(row) for row in tx.execute(f"SELECT {_INVITE} FROM invites ORDER BY id DESC").fetchall())


def spend_guess(tx: Tx, invite_id: int, now: Millis) -> int:
    """Takes one guess off an open invite; commit this before answering whoever guesses. Returns how many are left.

    Raises InviteExpired or GuessesSpent when there is none to take. An invite on its last guess stays open for that
    guess; the caller closes it as 'spent' when the guess was wrong.
    """
    invite = get(tx, invite_id)
    if invite.state == "spent" or (invite.state == "open" and invite.guesses_left <= 0):
        raise GuessesSpent("all guesses at this invite are spent: make a new one")
    if invite.state != "open" or invite.expires_at <= now:
        raise InviteExpired("this invite is no longer open: make a new one")
    tx.execute("UPDATE invites SET guesses_left = guesses_left - 1 WHERE id = ?", (invite_id,))
    return invite.guesses_left - 1


def close(tx: Tx, invite_id: int, state: InviteState, contact_id: ContactId | None = None) -> None:
    """Ends an invite and erases what could be guessed. One that has led to a contact stays 'paired'."""
    tx.execute(
        "UPDATE invites SET state = ?, contact_id = ?, password = '', secret = x'' WHERE id = ? AND state != 'paired'",
        (state, contact_id, invite_id),
    )
    tx.execute(
        "DELETE FROM invites WHERE state != 'open' AND id NOT IN "
        "(SELECT id FROM invites WHERE state != 'open' ORDER BY id DESC LIMIT ?)",
        (config.MAX_CLOSED_INVITES,),
    )


def expire(tx: Tx, now: Millis) -> tuple[int, ...]:
    """Closes what is past its time. Returns the ids."""
    rows: list[tuple[Any, ...]] = tx.execute(
        "SELECT id FROM invites WHERE state = 'open' AND expires_at <= ? ORDER BY id", (now,)
    ).fetchall()
    for (invite_id,) in rows:
        close(tx, invite_id, "expired")
    return tuple(invite_id for (invite_id,) in rows)


def spend_own_guess(tx: Tx, locator: str, day: str, now: Millis, guesses: int = config.INVITE_GUESSES) -> int:
    """One of our guesses at somebody's code; commit before dialling. Returns how many are left for that day.

    Raises GuessesSpent: more would only burn the other side's guesses.
    """
    row = tx.execute("SELECT spent FROM guesses WHERE locator = ? AND day = ?", (locator, day)).fetchone()
    spent = 0 if row is None else int(row[0])
    if spent >= guesses:
        raise GuessesSpent(f"{guesses} codes beginning with {locator} failed today: ask for a new invite")
    tx.execute(
        "INSERT INTO guesses VALUES (?, ?, 1, ?) ON CONFLICT (locator, day) "
        "DO UPDATE SET spent = spent + 1, last_at = excluded.last_at",
        (locator, day, now),
    )
    tx.execute(
        "DELETE FROM guesses WHERE (locator, day) NOT IN "
        "(SELECT locator, day FROM guesses ORDER BY last_at DESC, locator LIMIT ?)",
        (config.MAX_GUESS_ROWS,),
    )
    return guesses - spent - 1


def _invite(row: tuple[Any, ...]) -> Invite:
    contact_id = row[11]
    return Invite(
        id=row[0],
        kind=row[1],
        handle=row[2],
        locator=row[3],
        password=row[4],
        secret=row[5],
        name=row[6],
        guesses_left=row[7],
        created_at=Millis(row[8]),
        expires_at=Millis(row[9]),
        state=row[10],
        contact_id=None if contact_id is None else ContactId(contact_id),
    )
