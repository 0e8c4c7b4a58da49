"""Contacts and their pair secrets. Functions over a transaction; names are checked by core/names before they come here.

A name is unique without regard to ASCII case: `bob` and `Bob` would be mixed up on a command line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from p2pe import config
from p2pe.core.rotation import Pair
from p2pe.errors import AlreadyContact, Conflict, LocalError, NotFound
from p2pe.model import Contact, ContactId, IdentityKey, Millis, PeerId, PeerInfo, ReceiptStatus
from p2pe.storage.migrations import Tx
from p2pe.storage.peers import decode_addresses, encode_addresses

_CONTACT = "id, name, identity_key, paired_at, verified, blocked, tells_reading"
_SECRETS = (
    f"{_CONTACT}, pair_secret, pair_epoch, next_secret, rotated_at, list_version, protocol_version, ticket, "
    "addresses, last_seen, next_epoch, contribution, revoked"
)


@dataclass(frozen=True, slots=True)
class ContactSecrets:
    """A contact with all that a session with it needs. Never shown, never logged."""

    contact: Contact
    pair_secret: bytes = field(repr=False)
    pair_epoch: int
    next_secret: bytes | None = field(repr=False)  # agreed in a rotation, not yet confirmed: try it second
    rotated_at: Millis
    list_version: int  # of the newest device certificate seen; lower ones are refused
    protocol_version: int
    ticket: bytes | None = field(repr=False)  # theirs; handed back when they come with nothing but their phrase
    peer: PeerInfo | None  # where it was reached last
    last_seen: Millis | None
    next_epoch: int = 1  # of `next_secret`: 1 after a pairing or recovery
    contribution: bytes | None = field(default=None, repr=False)  # ours to a rotation that isn't over
    revoked: frozenset[bytes] = frozenset()  # device keys that the contact's newest certificate revokes

    @property
    def pair(self) -> Pair:
        return Pair(self.pair_secret, self.pair_epoch, self.next_secret, self.next_epoch, self.contribution)


def add(
    tx: Tx,
    *,
    name: str,
    identity_key: IdentityKey,
    pair_secret: bytes,
    paired_at: Millis,
    list_version: int,
    protocol_version: int = config.PROTOCOL_VERSION,
    ticket: bytes | None = None,
) -> ContactId:
    """Raises AlreadyContact (this identity is known), Conflict (the name is taken), LocalError (too many)."""
    if (known := by_identity(tx, identity_key)) is not None:
        raise AlreadyContact(f"this identity is already your contact {known.name!r}")
    _refuse_taken(tx, name)
    if tx.execute("SELECT count(*) FROM contacts").get >= config.MAX_CONTACTS:
        raise LocalError(f"there are {config.MAX_CONTACTS} contacts, the most a node keeps: remove some first")
    tx.execute(
        "INSERT INTO contacts (name, identity_key, pair_secret, rotated_at, list_version, protocol_version, ticket, "
        "paired_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (name, identity_key, pair_secret, paired_at, list_version, protocol_version, ticket, paired_at),
    )
    return ContactId(tx.last_insert_rowid())


def all_contacts(tx: Tx) -> tuple[Contact, ...]:
    """By name."""
    rows = tx.execute(f"SELECT {_CONTACT} FROM contacts ORDER BY name COLLATE NOCASE, id").fetchall()
    return tuple(_contact(row) for row in rows)


def get(tx: Tx, contact_id: ContactId) -> Contact:
    row = tx.execute(f"SELECT {_CONTACT} FROM contacts WHERE id = ?", (contact_id,)).fetchone()
    if row is None:
        raise NotFound("this contact was removed")
    return _contact(row)


def find(tx: Tx, name: str) -> Contact:
    """By name, without regard to ASCII case. Raises NotFound."""
    row = tx.execute(f"SELECT {_CONTACT} FROM contacts WHERE name = ? COLLATE NOCASE", (name,)).fetchone()
    if row is None:
        raise NotFound(f"no contact is called {name!r}: `p2pe contacts` lists them")
    return _contact(row)


def by_identity(tx: Tx, identity_key: IdentityKey) -> Contact | None:
    row = tx.execute(f"SELECT {_CONTACT} FROM contacts WHERE identity_key = ?", (identity_key,)).fetchone()
    return None if row is None else _contact(row)


def rename(tx: Tx, contact_id: ContactId, name: str) -> None:
    """Raises Conflict when another contact has that name."""
    _refuse_taken(tx, name, besides=contact_id)
    _change(tx, contact_id, "name", name)


def remove(tx: Tx, contact_id: ContactId) -> None:
    """Removes the contact, its keys, all messages to and from it, and what else names it (zeroed by secure_delete)."""
    tx.execute("UPDATE invites SET name = NULL WHERE contact_id = ?", (contact_id,))
    tx.execute(
        "DELETE FROM requests WHERE identity_key = (SELECT identity_key FROM contacts WHERE id = ?)", (contact_id,)
    )
    tx.execute("UPDATE invites SET name = NULL WHERE contact_id = ?", (contact_id,))
    tx.execute("DELETE FROM contacts WHERE id = ?", (contact_id,))
    if tx.changes() == 0:
        raise NotFound("this contact was removed already")


def set_verified(tx: Tx, contact_id: ContactId, verified: bool) -> None:
    _change(tx, contact_id, "verified", int(verified))


def set_blocked(tx: Tx, contact_id: ContactId, blocked: bool) -> None:
    _change(tx, contact_id, "blocked", int(blocked))


def set_tells_reading(tx: Tx, contact_id: ContactId, on: bool) -> None:
    """Whether the contact learns when its messages are marked read. Off: also what is owed but wasn't sent yet."""
    _change(tx, contact_id, "tells_reading", int(on))
    if not on:
        tx.execute(
            f"""UPDATE incoming INDEXED BY incoming_owed SET receipt_owed = 0, status = {int(ReceiptStatus.DELIVERED)}
                WHERE contact_id = ? AND receipt_owed = 1 AND status = {int(ReceiptStatus.READ)}""",
            (contact_id,),
        )


def secrets(tx: Tx, contact_id: ContactId) -> ContactSecrets:
    row = tx.execute(f"SELECT {_SECRETS} FROM contacts WHERE id = ?", (contact_id,)).fetchone()
    if row is None:
        raise NotFound("this contact was removed")
    return _secrets(row)


def all_secrets(tx: Tx) -> tuple[ContactSecrets, ...]:
    """By id, blocked ones included: for computing the tags that dialers may show."""
    return tuple(_secrets(row) for row in tx.execute(f"SELECT {_SECRETS} FROM contacts ORDER BY id").fetchall())


def saw(
    tx: Tx,
    contact_id: ContactId,
    now: Millis,
    *,
    list_version: int,
    protocol_version: int,
    revoked: Sequence[bytes] = (),
) -> None:
    """After each authenticated handshake. Both versions only ever grow; `revoked` goes with the list version."""
    tx.execute(
        "UPDATE contacts SET last_seen = ?1, revoked = CASE WHEN list_version <= ?2 THEN ?4 ELSE revoked END, "
        "list_version = max(list_version, ?2), protocol_version = max(protocol_version, ?3) WHERE id = ?5",
        (now, list_version, protocol_version, b"".join(revoked), contact_id),
    )


def set_peer(tx: Tx, contact_id: ContactId, peer: PeerInfo | None) -> None:
    """Remembers where the contact was reached, for trying there first next time."""
    stored = [] if peer is None else [str(peer.peer_id), *json.loads(encode_addresses(peer.addresses))]
    _change(tx, contact_id, "addresses", json.dumps(stored, separators=(",", ":")))


def set_ticket(tx: Tx, contact_id: ContactId, ticket: bytes) -> None:
    _change(tx, contact_id, "ticket", ticket)


def replace_secret(tx: Tx, contact_id: ContactId, pair_secret: bytes, epoch: int, now: Millis) -> None:
    """A new pair secret (recovery, or the end of a rotation); the old one and any half-agreed one are erased."""
    tx.execute(
        "UPDATE contacts SET pair_secret = ?, pair_epoch = ?, next_secret = NULL, next_epoch = 1, contribution = NULL, "
        "rotated_at = ? WHERE id = ?",
        (pair_secret, epoch, now, contact_id),
    )
    _refuse_missing(tx)


def set_next_secret(tx: Tx, contact_id: ContactId, next_secret: bytes | None) -> None:
    """A secret from a pairing or recovery, beside the one in use: both are valid until `replace_secret`. It takes the
    place of one that a rotation had agreed on."""
    tx.execute(
        "UPDATE contacts SET next_secret = ?, next_epoch = 1, contribution = NULL WHERE id = ?",
        (next_secret, contact_id),
    )
    _refuse_missing(tx)


def pair(tx: Tx, contact_id: ContactId) -> Pair:
    """The pair's secrets, as core/rotation.py sees them. Raises NotFound."""
    return secrets(tx, contact_id).pair


def store_pair(tx: Tx, contact_id: ContactId, pair: Pair, rotated_at: Millis | None) -> None:
    """A step of a rotation. `rotated_at` is given when the secret in use is another one now."""
    tx.execute(
        "UPDATE contacts SET pair_secret = ?, pair_epoch = ?, next_secret = ?, next_epoch = ?, contribution = ?, "
        "rotated_at = coalesce(?, rotated_at) WHERE id = ?",
        (pair.secret, pair.epoch, pair.next_secret, pair.next_epoch, pair.contribution, rotated_at, contact_id),
    )
    _refuse_missing(tx)


def rotate_soon(tx: Tx, contact_id: ContactId | None = None) -> None:
    """The secret (None: every secret) may be in other hands, or in an old backup: it is due for rotation now."""
    tx.execute("UPDATE contacts SET rotated_at = 0 WHERE id = coalesce(?, id)", (contact_id,))


def _change(tx: Tx, contact_id: ContactId, column: str, value: object) -> None:
    tx.execute(f"UPDATE contacts SET {column} = ? WHERE id = ?", (value, contact_id))
    _refuse_missing(tx)


def _refuse_missing(tx: Tx) -> None:
    if tx.changes() == 0:
        raise NotFound("this contact was removed")


def _refuse_taken(tx: Tx, name: str, besides: ContactId | None = None) -> None:
    row = tx.execute("SELECT id FROM contacts WHERE name = ? COLLATE NOCASE", (name,)).fetchone()
    if row is not None and row[0] != besides:
        raise Conflict(f"another contact is called {name!r} already: choose another name")


def _contact(row: tuple[Any, ...]) -> Contact:
    return Contact(
        id=ContactId(row[0]),
        name=row[1],
        identity_key=IdentityKey(row[2]),
        paired_at=Millis(row[3]),
        verified=bool(row[4]),
        blocked=bool(row[5]),
        tells_reading=bool(row[6]),
    )


def _secrets(row: tuple[Any, ...]) -> ContactSecrets:
    secret, epoch, following, rotated_at, list_version, protocol_version, ticket, addresses, last_seen = row[7:16]
    next_epoch, contribution, revoked = row[16:]
    return ContactSecrets(
        contact=_contact(row),
        pair_secret=secret,
        pair_epoch=epoch,
        next_secret=following,
        rotated_at=Millis(rotated_at),
        list_version=list_version,
        protocol_version=protocol_version,
        ticket=ticket,
        peer=_peer(addresses),
        last_seen=None if last_seen is None else Millis(last_seen),
        next_epoch=next_epoch,
        contribution=contribution,
        revoked=frozenset(revoked[at : at + 32] for at in range(0, len(revoked), 32)),
    )


def _peer(text: str) -> PeerInfo | None:
    stored = decode_addresses(text)
    return PeerInfo(PeerId.parse(stored[0]), stored[1:]) if stored else None
