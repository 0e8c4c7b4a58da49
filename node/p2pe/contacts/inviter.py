"""The inviter's side of a pairing: answers invitees, one guess at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
import trio

from p2pe.config import MAX_OPEN_INVITES
from p2pe.connectivity.acceptor import PairingRequest
from p2pe.connectivity.service import Connectivity
from p2pe.contacts.exchange import PairChannel, store_as_inviter, wanted_name
from p2pe.contacts.pake import Pake
from p2pe.contacts.refusal import STATES, Refusal
from p2pe.core.derive import link_psk0
from p2pe.core.handshake import Established
from p2pe.core.invite import code_of, link_handle
from p2pe.core.patience import handshake_patience
from p2pe.errors import GuessesSpent, HandshakeError, InviteExpired, NotFound
from p2pe.identity.keys import Identity
from p2pe.model import ContactId, IdentityKey, PeerId, Purpose
from p2pe.ports import World
from p2pe.storage import contacts, invites
from p2pe.storage.database import Database
from p2pe.storage.invites import Invite
from p2pe.storage.migrations import Tx

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Used:
    """An invite that somebody has come by. Until it would have expired, the same person may come again: the other
    side may have stopped before it stored us. Kept in memory alone; after a restart a new invite is needed."""

    invite: Invite  # with its words and secret, which the database has erased
    identity_key: IdentityKey
    guesses_left: int


@dataclass(slots=True)
class Inviter:
    """Answers PairingRequests. `invites_changed` is called after each commit that changed an invite."""

    world: World
    own_peer: PeerId
    database: Database
    identity: Identity
    connectivity: Connectivity
    own_name: str
    invites_changed: Callable[[], None]
    _used: dict[int, _Used] = field(default_factory=dict)  # by invite; at most MAX_OPEN_INVITES
    _turn: trio.Lock = field(default_factory=trio.Lock)  # one invitee at a time: a ledger, and CPU, are at stake

    async def answer(self, request: PairingRequest) -> bool:
        """See acceptor.PairingHandler. Raises HandshakeError, LinkClosed, trio.TooSlowError, StorageError."""
        with trio.fail_after(2 * handshake_patience(request.frames.stream.connection.round_trip)):
            async with self._turn:
                return await self._answer(request)

    async def _answer(self, request: PairingRequest) -> bool:
        invite = await self._find(request)
        if invite is None:
            request.refuse()
            return False
        if not isinstance(invite, Refusal):
            established = await self._handshake(request, invite)
            if not isinstance(established, Refusal):
                await self._pair(request, invite, established)
                return True
            invite = established
        request.refuse()
        await request.frames.write(bytes([invite]))
        return True

    # --- which invite ---

    async def _find(self, request: PairingRequest) -> Invite | Refusal | None:
        """The open invite that the hello names, why it is open no more, or None for one that never was."""
        now = self.world.clock.now()
        for number in [number for number, used in self._used.items() if used.invite.expires_at <= now]:
            del self._used[number]
        tag, by_code = request.hello.tag, request.hello.purpose is Purpose.PAIR_CODE
        open_ones = await self.database.read(lambda tx: invites.open_invites(tx, now))
        for invite in (*open_ones, *(used.invite for used in self._used.values())):
            if by_code and invite.kind == "code" and invite.handle == tag:
                return invite
            if not by_code and invite.secret and link_handle(invite.secret) == tag:
                return invite
        closed = await self.database.read(lambda tx: invites.by_handle(tx, tag))
        if closed is None:
            return None
        return STATES.get(closed.state, Refusal.EXPIRED)

    async def _spend_guess(self, invite: Invite) -> Refusal | int:
        """Commits the loss of one guess before it is used. Returns how many are left."""
        used = self._used.get(invite.id)
        if used is not None:
            used.guesses_left -= 1
            return used.guesses_left if used.guesses_left >= 0 else Refusal.SPENT
        now = self.world.clock.now()
        try:
            left = await self.database.write(lambda tx: invites.spend_guess(tx, invite.id, now))
        except GuessesSpent:
            return Refusal.SPENT
        except (InviteExpired, NotFound):
            return Refusal.EXPIRED
        self.invites_changed()
        return left

    # --- the handshake ---

    async def _handshake(self, request: PairingRequest, invite: Invite) -> Established | Refusal:
        """The responder's part, or why there is none."""
        handshake, frames = request.handshake, request.frames
        guesses_left: int | None = None
        if request.hello.purpose is Purpose.PAIR_CODE:
            spent = await self._spend_guess(invite)
            if isinstance(spent, Refusal):
                return spent
            guesses_left = spent
            code = code_of(invite.locator, invite.password)
            pake = Pake(
                code,
                dialer=frames.stream.remote_peer,
                responder=self.own_peer,
                is_dialer=False,
                entropy=self.world.entropy,
            )
            message, psk0 = await self.world.threads(lambda: (pake.start(), pake.finish(request.hello.pake)))
        else:
            message, psk0 = b"", link_psk0(invite.secret)
        await frames.write(handshake.reply(psk0, pake=message, suggested_name=self.own_name))
        try:
            second = handshake.receive_first(await frames.read())
        except HandshakeError:
            if guesses_left is not None and guesses_left <= 0:
                await self._close_spent(invite)
            raise
        await frames.write(second)
        return handshake.receive_third(await frames.read())

    async def _close_spent(self, invite: Invite) -> None:
        """The last guess was wrong."""
        if self._used.pop(invite.id, None) is None:
            await self.database.write(lambda tx: invites.close(tx, invite.id, "spent"))
            self.invites_changed()

    # --- the end of it ---

    async def _pair(self, request: PairingRequest, invite: Invite, established: Established) -> None:
        """Stores the contact once the invitee has proven itself, and only then confirms."""
        peer = established.peer_identity_key
        if peer == self.identity.identity_key:
            raise HandshakeError("an invite was accepted by the identity that made it")
        used = self._used.get(invite.id)
        known = await self.database.read(lambda tx: contacts.by_identity(tx, peer))
        channel = PairChannel(self.world, self.identity, request.frames, established)
        if (used is not None and used.identity_key != peer) or (known is not None and known.blocked):
            request.refuse()
            await channel.refuse()
            return
        name = wanted_name(invite.name, established)
        agreed = await channel.receive_confirm(name)
        now = self.world.clock.now()

        def store(tx: Tx) -> ContactId:
            contact_id = store_as_inviter(tx, agreed, now)
            invites.close(tx, invite.id, "paired", contact_id)
            return contact_id

        contact_id = await self.database.write(store)
        if used is None:
            if len(self._used) >= MAX_OPEN_INVITES:
                del self._used[min(self._used)]
            self._used[invite.id] = _Used(invite, peer, max(1, invite.guesses_left))
        await self.connectivity.roster.reload(contact_id)
        self.invites_changed()
        _log.info("paired", by=invite.kind)
        await channel.confirm(name)
