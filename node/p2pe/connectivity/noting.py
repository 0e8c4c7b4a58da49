"""What the database keeps of a link that has come up: when, where and on which device the contact was reached."""

from __future__ import annotations

from p2pe.connectivity.dialer import dialled_peer
from p2pe.connectivity.session import Session
from p2pe.core.derive import pair_keys
from p2pe.core.rotation import proven
from p2pe.model import Millis, PeerInfo
from p2pe.storage import contacts, held
from p2pe.storage.migrations import Tx


def note_session(session: Session, before: PeerInfo | None, now: Millis, tx: Tx) -> tuple[bool, bool]:
    """(the contact is on a newer device list than before, an old pair secret was dropped)."""
    contact_id = session.contact_id
    row = contacts.secrets(tx, contact_id)
    contacts.saw(
        tx,
        contact_id,
        now,
        list_version=session.list_version,
        protocol_version=session.version,
        revoked=session.revoked,
    )
    peer = dialled_peer(session, before)
    if peer is not None:
        contacts.set_peer(tx, contact_id, peer)
    is_new_device = session.list_version > row.list_version
    if is_new_device:
        held.retract_again(tx, contact_id)
        contacts.rotate_soon(tx, contact_id)  # the secret may be on a device that was stolen
    dropped = row.next_secret is not None and pair_keys(row.next_secret).receipt == session.receipt_key
    if dropped:
        contacts.store_pair(tx, contact_id, proven(row.pair), now)
    return is_new_device, dropped
