"""The invitee's side of a pairing: finds who published the invite, proves the code or the link, stores the contact."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
import trio

from p2pe.config import SESSION_PROTOCOL
from p2pe.connectivity.dialer import local_party
from p2pe.connectivity.service import Connectivity
from p2pe.connectivity.streams import FrameStream
from p2pe.contacts.exchange import PairChannel, store_as_invitee, wanted_name
from p2pe.contacts.pake import Pake
from p2pe.contacts.refusal import read_refusal
from p2pe.core.derive import day_of, identity_commitment, link_psk0
from p2pe.core.handshake import DIALER_ENTROPY_BYTES, DialerHandshake, Established, Expected
from p2pe.core.handshake_messages import NONCE_BYTES
from p2pe.core.invite import Code, Link, code_handle, link_handle, link_seed, locator_seed, search_days
from p2pe.core.paths import dial_order
from p2pe.core.patience import handshake_patience
from p2pe.errors import (
    AlreadyContact,
    HandshakeError,
    InviteExpired,
    InviteNotFound,
    LinkClosed,
    OwnInvite,
    PairingError,
    RemoteError,
    Unreachable,
    WrongCode,
)
from p2pe.identity.keys import Identity
from p2pe.model import Contact, Millis, PeerInfo, Purpose
from p2pe.ports import Connection, Host, World
from p2pe.rendezvous.invites import InviteRecords
from p2pe.storage import contacts, invites
from p2pe.storage.database import Database

_log = structlog.get_logger(__name__)
LearnBootstrap = Callable[[Sequence[str]], Awaitable[None]]


@dataclass(slots=True)
class Invitee:
    """Accepts other people's invites."""

    world: World
    host: Host
    database: Database
    identity: Identity
    connectivity: Connectivity
    records: InviteRecords
    learn_bootstrap: LearnBootstrap
    own_name: str

    async def accept_code(self, code: Code, name: str | None) -> Contact:
        """Raises the errors of docs/protocol.md "Pairing": each a subclass of PairingError, or Unreachable."""
        day = str(day_of(self.world.clock.now()))

        async def spend() -> None:
            now = self.world.clock.now()
            await self.database.write(lambda tx: invites.spend_own_guess(tx, code.locator, day, now))

        peers = await self._find_code(code)
        try:
            return await self._try_each(peers, name, lambda on: self._by_code(on, code, spend))
        except (WrongCode, InviteExpired, Unreachable) as problem:
            if len(peers) < 2:
                raise
            raise type(problem)(f"{problem}. {_crowded(len(peers))}") from problem

    async def accept_link(self, link: Link, name: str | None) -> Contact:
        """As `accept_code`; a link can't be guessed, so no guesses are counted."""
        if link.expires_at * 1000 <= self.world.clock.now():
            raise InviteExpired("this invite has expired: ask for a new one")
        if link.identity_commitment == identity_commitment(self.identity.identity_key):
            raise OwnInvite("this is your own invite: send it to the person you want to meet")
        await self.learn_bootstrap(link.bootstrap)
        peers = await self.records.find(link_seed(link.secret))
        return await self._try_each(peers, name, lambda on: self._by_link(on, link))

    async def _find_code(self, code: Code) -> tuple[PeerInfo, ...]:
        for day in search_days(self.world.clock.now()):
            seed = await self.world.threads(lambda day=day: locator_seed(code.locator, day))  # type: ignore[misc]
            peers = await self.records.find(seed)
            if peers:
                return peers
        return ()

    # --- trying ---

    async def _try_each(
        self,
        peers: tuple[PeerInfo, ...],
        name: str | None,
        handshake: Callable[[Connection], Awaitable[tuple[FrameStream, Established]]],
    ) -> Contact:
        """Each who publishes there, newest first: two people may have hit upon the same locator."""
        others = [peer for peer in peers if peer.peer_id != self.host.peer_id]
        if not others:
            raise InviteNotFound(
                "no such invite is published: check the number and the first word, and that it isn't "
                "older than ten minutes. If all that is right, ask for the link of the same invite"
            )
        problem: PairingError | Unreachable | None = None
        for peer in others:
            try:
                connection = await self._connect(peer)
                with trio.fail_after(2 * handshake_patience(connection.round_trip)):
                    frames, established = await handshake(connection)
                    return await self._pair(frames, established, name)
            except trio.TooSlowError:
                problem = problem or Unreachable("the node that made the invite stopped answering: try again")
            except Unreachable as error:
                problem = problem or error
            except (WrongCode, InviteExpired) as error:
                problem = error
            except RemoteError as error:
                problem = PairingError(f"the other side broke off the pairing: {error}")
        assert problem is not None
        raise problem

    async def _connect(self, peer: PeerInfo) -> Connection:
        order = dial_order((), peer.addresses, self.connectivity.policy, self.host.listen_addresses())
        try:
            return await self.host.connect(PeerInfo(peer.peer_id, order))
        except Unreachable as error:
            text = f"the invite was found, but the node that made it can't be reached: {error}"
            raise Unreachable(text, error.attempts) from None

    async def _by_code(
        self, connection: Connection, code: Code, spend_guess: Callable[[], Awaitable[None]]
    ) -> tuple[FrameStream, Established]:
        pake = Pake(
            code,
            dialer=self.host.peer_id,
            responder=connection.remote_peer,
            is_dialer=True,
            entropy=self.world.entropy,
        )
        message = await self.world.threads(pake.start)
        handshake = self._handshake(connection, Purpose.PAIR_CODE, code_handle(code.locator), Expected(), message)
        await spend_guess()
        frames, reply = await self._hello(connection, handshake)
        theirs = handshake.read_reply(reply).pake
        psk0 = await self.world.threads(lambda: pake.finish(theirs))
        await frames.write(handshake.first_message(psk0))
        try:
            third = handshake.receive_second(await frames.read())
        except (LinkClosed, HandshakeError):
            if not connection.is_alive:
                raise Unreachable("the connection broke") from None
            raise WrongCode("the code is wrong: ask for it again, word by word; three wrong tries end it") from None
        await frames.write(third)
        return frames, _established(handshake)

    async def _by_link(self, connection: Connection, link: Link) -> tuple[FrameStream, Established]:
        expected = Expected(commitment=link.identity_commitment)
        handshake = self._handshake(connection, Purpose.PAIR_LINK, link_handle(link.secret), expected)
        frames, reply = await self._hello(connection, handshake)
        await frames.write(handshake.receive_reply(reply, link_psk0(link.secret)))
        try:
            await frames.write(handshake.receive_second(await frames.read()))
        except LinkClosed as error:
            raise Unreachable(str(error)) from None
        return frames, _established(handshake)

    def _handshake(
        self, connection: Connection, purpose: Purpose, handle: bytes, expected: Expected, pake: bytes = b""
    ) -> DialerHandshake:
        return DialerHandshake(
            local_party(self.identity, self.host),
            connection.remote_peer,
            purpose,
            tag=handle,
            nonce=self.world.entropy(NONCE_BYTES),
            entropy=self.world.entropy(DIALER_ENTROPY_BYTES),
            expected=expected,
            pake=pake,
            suggested_name=self.own_name,
        )

    async def _hello(self, connection: Connection, handshake: DialerHandshake) -> tuple[FrameStream, bytes]:
        """Sends the Hello on a new stream and gives the raw HelloReply. Raises the error that a refusal stands for."""
        frames = FrameStream(await connection.open_stream(SESSION_PROTOCOL))
        try:
            await frames.write(handshake.hello())
            reply = await frames.read()
        except LinkClosed:
            raise InviteExpired(
                "whoever made this invite doesn't know it any more: it expired, or was used or taken back; "
                "ask for a new one"
            ) from None
        refusal = read_refusal(reply)
        if refusal is not None:
            raise refusal
        return frames, reply

    # --- the end of it ---

    async def _pair(self, frames: FrameStream, established: Established, name: str | None) -> Contact:
        peer_key = established.peer_identity_key
        connection = frames.stream.connection
        if peer_key == self.identity.identity_key:
            raise OwnInvite("this is your own invite: send it to the person you want to meet")
        known = await self.database.read(lambda tx: contacts.by_identity(tx, peer_key))
        if known is not None and known.blocked:
            raise AlreadyContact(f"this is {known.name!r}, whom you have blocked: `p2pe contacts unblock` comes first")
        channel = PairChannel(self.world, self.identity, frames, established)
        wanted = wanted_name(name, established)
        try:
            await channel.confirm(wanted)
            agreed = await channel.receive_confirm(wanted)
        except LinkClosed:
            raise Unreachable("the other side went away before it confirmed: accept the same invite again") from None
        now: Millis = self.world.clock.now()
        reached = PeerInfo(connection.remote_peer, (connection.remote_address,))
        contact, is_new = await self.database.write(lambda tx: store_as_invitee(tx, agreed, now, reached))
        await self.connectivity.roster.reload(contact.id)
        await frames.stream.aclose()
        self.connectivity.links.connect_soon(contact.id)
        _log.info("paired", new=is_new)
        if not is_new:
            raise AlreadyContact(
                f"this is {contact.name!r}, already a contact: the two of you have renewed your shared key, "
                "and everything else stays as it was"
            )
        return contact


def _crowded(publishers: int) -> str:
    """Anybody can publish under a code's number and first word; nobody can under a link's secret."""
    return (
        f"{publishers} nodes publish under this number and first word, and none of those tried was the right one: "
        "if the code is right, somebody is crowding it out; ask for the link of the same invite"
    )


def _established(handshake: DialerHandshake) -> Established:
    assert handshake.established is not None
    return handshake.established
