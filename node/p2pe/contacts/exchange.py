"""The end of a pairing, the same for both sides: confirm that both hold the new pair secret, exchange tickets, and
store the contact.

Order: the invitee confirms, the inviter stores and confirms, the invitee stores. A crash in between leaves at worst
the inviter with a contact that the invitee hasn't; running `accept` again mends that while the invite lives,
and so does a new invite at any time: for a contact that exists already, the inviter keeps the old secret beside
the new one until a session under the new one shows that the invitee has stored it too.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from p2pe.connectivity.streams import FrameStream
from p2pe.core.codec import decode_frame, encode_frame
from p2pe.core.handshake import Established
from p2pe.core.names import free_name, safe_name
from p2pe.core.tickets import NONCE_BYTES, seal_ticket
from p2pe.errors import HandshakeError, InviteExpired, LinkClosed, RemoteError
from p2pe.identity.keys import Identity
from p2pe.model import Contact, ContactId, Goodbye, GoodbyeReason, Millis, PairConfirm, PeerInfo
from p2pe.ports import World
from p2pe.storage import contacts
from p2pe.storage.migrations import Tx


@dataclass(frozen=True, slots=True)
class Agreed:
    """What both sides have agreed on, ready to be stored."""

    established: Established
    secret: bytes
    ticket: bytes  # theirs
    name: str  # wanted; made unique when it is stored


class PairChannel:
    """PairConfirm frames over a session that has no contact yet."""

    def __init__(self, world: World, identity: Identity, frames: FrameStream, established: Established) -> None:
        frames.established()
        self._world = world
        self._identity = identity
        self._frames = frames
        self._established = established
        self.secret = established.pair_secret()

    @property
    def round_trip(self) -> float | None:
        """Seconds, of the connection."""
        return self._frames.stream.connection.round_trip

    async def confirm(self, petname: str) -> None:
        """Sends our proof and our ticket about them. Raises LinkClosed."""
        established = self._established
        nonce, now = self._world.entropy(NONCE_BYTES), self._world.clock.now()
        ticket = seal_ticket(self._identity.k_ticket, established.peer_identity_key, petname, now, nonce)
        frame = PairConfirm(established.confirm_mac(self.secret), ticket)
        await self._frames.write(established.send_cipher.encrypt(encode_frame(frame)))

    async def refuse(self) -> None:
        """Tells somebody who knew the code that it is too late. Raises LinkClosed."""
        goodbye = encode_frame(Goodbye(GoodbyeReason.SUPERSEDED))
        await self._frames.write(self._established.send_cipher.encrypt(goodbye))

    async def until_closed(self, scope: trio.CancelScope) -> None:
        """Cancels `scope` when the other side goes away while it has nothing to say."""
        try:
            await self._frames.read()
        except (LinkClosed, RemoteError):
            pass
        scope.cancel()

    async def aclose(self) -> None:
        """What was written still gets through."""
        await self._frames.stream.aclose()

    def abort(self) -> None:
        self._frames.stream.reset()

    async def receive_confirm(self, name: str) -> Agreed:
        """Takes their proof and ticket. Raises LinkClosed, RemoteError, InviteExpired when they refused."""
        established = self._established
        frame = decode_frame(established.recv_cipher.decrypt(await self._frames.read()))
        if isinstance(frame, Goodbye):
            raise InviteExpired("this invite was used by somebody already: ask for a new one")
        if not isinstance(frame, PairConfirm) or not established.is_peer_confirm(self.secret, frame.mac):
            raise HandshakeError("the other side didn't confirm the pairing")
        return Agreed(established, self.secret, frame.ticket, name)


def wanted_name(given: str | None, established: Established) -> str:
    """The name given here; else what they call themselves, made safe to show; else "contact"."""
    return given or safe_name(established.suggested_name) or "contact"


def store_as_inviter(tx: Tx, agreed: Agreed, now: Millis) -> ContactId:
    """Adds the contact; for one that exists, puts the new secret beside the one in use."""
    known = contacts.by_identity(tx, agreed.established.peer_identity_key)
    if known is None:
        return _add(tx, agreed, now)
    contacts.set_next_secret(tx, known.id, agreed.secret)
    contacts.set_ticket(tx, known.id, agreed.ticket)
    return known.id


def store_as_invitee(tx: Tx, agreed: Agreed, now: Millis, peer: PeerInfo) -> tuple[Contact, bool]:
    """Adds the contact, or renews the secret of one that exists. Returns it, and whether it is new."""
    known = contacts.by_identity(tx, agreed.established.peer_identity_key)
    if known is None:
        contact_id = _add(tx, agreed, now)
    else:
        contact_id = known.id
        contacts.replace_secret(tx, contact_id, agreed.secret, 1, now)
        contacts.set_ticket(tx, contact_id, agreed.ticket)
    contacts.set_peer(tx, contact_id, peer)
    return contacts.get(tx, contact_id), known is None


def _add(tx: Tx, agreed: Agreed, now: Millis) -> ContactId:
    taken = frozenset(each.name.lower() for each in contacts.all_contacts(tx))
    return contacts.add(
        tx,
        name=free_name(agreed.name, taken),
        identity_key=agreed.established.peer_identity_key,
        pair_secret=agreed.secret,
        paired_at=now,
        list_version=agreed.established.peer_certificate.list_version,
        protocol_version=agreed.established.version,
        ticket=agreed.ticket,
    )
