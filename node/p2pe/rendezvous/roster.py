"""All contacts with their working keys, in memory: what tags, lookups and dials are computed from.

The database is the truth. Whoever commits a change to a contact calls `reload` afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from p2pe.core.derive import PairKeys, is_lower, pair_keys
from p2pe.core.rotation import Pair
from p2pe.errors import NotFound
from p2pe.model import ContactId, IdentityKey, Millis, PeerInfo
from p2pe.rendezvous.pulse import Pulse
from p2pe.storage import contacts
from p2pe.storage.contacts import ContactSecrets
from p2pe.storage.database import Database


@dataclass(frozen=True, slots=True)
class Known:
    """A contact, ready for use. `keys`: of the pair secret in use, and of one that was agreed but not yet confirmed."""

    contact_id: ContactId
    identity_key: IdentityKey
    we_are_lower: bool
    blocked: bool
    list_version: int
    protocol_version: int
    keys: tuple[PairKeys, ...] = field(repr=False)
    peer: PeerInfo | None  # where it was reached last
    last_seen: int  # Unix milliseconds; 0 = never
    revoked: frozenset[bytes]  # their device keys that no longer count
    pair: Pair = field(repr=False)
    rotated_at: Millis

    @property
    def dial_keys(self) -> tuple[PairKeys, ...]:
        """In the order in which to try them. Once a rotation that we proposed was accepted, the other side surely has
        the next secret, and perhaps no longer the old one."""
        accepted = self.we_are_lower and self.pair.contribution is not None
        return self.keys[::-1] if accepted else self.keys

    @property
    def our_direction(self) -> int:
        """Direction of the records that we publish for this contact (docs/protocol.md "Lookup")."""
        return 0 if self.we_are_lower else 1

    @property
    def their_direction(self) -> int:
        return 1 - self.our_direction


class Roster:
    """`changed` fires whenever a contact came, went, or got other keys."""

    def __init__(self, database: Database, identity_key: IdentityKey) -> None:
        self._database = database
        self._identity_key = identity_key
        self._known: dict[ContactId, Known] = {}  # bounded by MAX_CONTACTS
        self.changed = Pulse()

    async def load(self) -> None:
        """Reads all contacts. Raises StorageError."""
        rows = await self._database.read(contacts.all_secrets)
        self._known = {row.contact.id: self._make(row) for row in rows}
        self.changed.fire()

    async def reload(self, contact_id: ContactId) -> None:
        """Reads one contact again; forgets it when it was removed. Raises StorageError."""
        try:
            row = await self._database.read(lambda tx: contacts.secrets(tx, contact_id))
        except NotFound:
            self._known.pop(contact_id, None)
        else:
            self._known[contact_id] = self._make(row)
        self.changed.fire()

    def get(self, contact_id: ContactId) -> Known | None:
        return self._known.get(contact_id)

    def all(self) -> tuple[Known, ...]:
        """Every contact, blocked ones included, by id."""
        return tuple(self._known[contact_id] for contact_id in sorted(self._known))

    def active(self) -> tuple[Known, ...]:
        """Those that aren't blocked."""
        return tuple(known for known in self.all() if not known.blocked)

    def _make(self, row: ContactSecrets) -> Known:
        secrets = [row.pair_secret, *([row.next_secret] if row.next_secret else [])]
        key = row.contact.identity_key
        return Known(
            contact_id=row.contact.id,
            identity_key=key,
            we_are_lower=is_lower(self._identity_key, key),
            blocked=row.contact.blocked,
            list_version=row.list_version,
            protocol_version=row.protocol_version,
            keys=tuple(pair_keys(secret) for secret in secrets),
            peer=row.peer,
            last_seen=row.last_seen or 0,
            revoked=row.revoked,
            pair=row.pair,
            rotated_at=row.rotated_at,
        )
