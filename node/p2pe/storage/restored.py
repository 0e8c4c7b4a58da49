"""What a database is told when it was restored, so that nothing old comes back into use: docs/protocol/identity.md."""

from __future__ import annotations

from p2pe.config import RECOVER_SECONDS
from p2pe.model import Millis, StreamId
from p2pe.storage import contacts, held, invites, meta
from p2pe.storage.migrations import Tx


def begin_anew(tx: Tx, now: Millis) -> None:
    """An identity came back: for RECOVER_SECONDS its contacts may find it by its identity key alone, and secrets that
    lie in a backup are replaced as soon as there is a link."""
    meta.put_number(tx, meta.RESTORED_AT, now)
    meta.put_number(tx, meta.RECOVER_UNTIL, now + 1000 * RECOVER_SECONDS)
    contacts.rotate_soon(tx)


def mark_restored(tx: Tx, fresh: StreamId, now: Millis, *, hold: bool) -> int:
    """For a database that comes from a backup. Returns how many messages were waiting in it."""
    begin_anew(tx, now)
    for invite in invites.all_invites(tx):
        if invite.state == "open":
            invites.close(tx, invite.id, "revoked")
    return held.mark_restored(tx, fresh, now, hold=hold)
