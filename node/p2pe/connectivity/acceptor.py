"""Answers whoever opens a stream of the session protocol: contacts get a session, invitees their pairing, and
everybody else silence, before any public-key work.

A blocked contact is answered as a stranger is: from outside it looks as if nobody were there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from p2pe.connectivity.admission import Admission
from p2pe.connectivity.dialer import local_party
from p2pe.connectivity.history import History
from p2pe.connectivity.session import Session
from p2pe.connectivity.streams import FrameStream
from p2pe.core.derive import PairKeys, day_of, is_tag, session_tag
from p2pe.core.handshake import RESPONDER_ENTROPY_BYTES, Expected, ResponderHandshake
from p2pe.core.handshake_messages import Hello
from p2pe.core.patience import handshake_patience
from p2pe.errors import HandshakeError, LinkClosed, RemoteError
from p2pe.identity.keys import Identity
from p2pe.model import PeerId, Purpose
from p2pe.ports import Host, Stream, World
from p2pe.rendezvous.roster import Known, Roster

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PairingRequest:
    """An invitee's Hello, read but not answered. `refuse` counts it against the sender's attempts."""

    hello: Hello
    handshake: ResponderHandshake
    frames: FrameStream
    refuse: Callable[[], None]


PairingHandler = Callable[[PairingRequest], Awaitable[bool]]
"""Answers a PairingRequest and returns True, or doesn't: then the stream is reset, as when it raises HandshakeError,
LinkClosed or trio.TooSlowError."""

Continuation = Callable[[], Awaitable[None]]
RecoveryHandler = Callable[[PairingRequest], Awaitable[Continuation | None]]
"""Answers a contact of before; what it returns is run after the handshake no longer counts as one under way, and closes
the stream. None: the stream is reset, as when it raises HandshakeError, RemoteError or LinkClosed."""

SessionHandler = Callable[[Session, Known], Awaitable[None]]
"""Serves an accepted session until it ends."""


def find_by_tag(
    contacts: tuple[Known, ...], hello: Hello, dialer: PeerId, responder: PeerId, today: int
) -> tuple[Known, PairKeys] | None:
    """The contact whose tag this is, today's first: clocks and midnight may differ by a day. Never a blocked one.

    One HMAC a contact and day: 0.3 ms for 100 contacts, 15 ms for 5,000.
    """
    for day in (today, today - 1, today + 1):
        for known in contacts:
            if known.blocked:
                continue
            for keys in known.keys:
                expected = session_tag(keys.tag, day, not known.we_are_lower, dialer, responder, hello.nonce)
                if is_tag(expected, hello.tag):
                    return known, keys
    return None


class Acceptor:
    """`on_stream` is the host's handler of SESSION_PROTOCOL. `on_pairing` is set by contacts/pairing."""

    def __init__(
        self,
        world: World,
        host: Host,
        identity: Identity,
        roster: Roster,
        history: History,
        on_session: SessionHandler,
    ) -> None:
        self._world = world
        self._host = host
        self._identity = identity
        self._roster = roster
        self._history = history
        self._on_session = on_session
        self.admission = Admission()
        self.on_pairing: PairingHandler | None = None
        self.on_recover: RecoveryHandler | None = None

    async def on_stream(self, stream: Stream) -> None:
        """One inbound stream, from Hello to the end of its session."""
        deadline = trio.current_time() + handshake_patience(stream.connection.round_trip)
        frames = FrameStream(stream)
        raw_hello = await self._first_frame(frames, deadline)
        if raw_hello is None or not self.admission.begin():
            stream.reset()
            return
        in_handshake = True
        try:
            accepted = await self._accept(frames, raw_hello, deadline)
            self.admission.end()
            in_handshake = False
            if accepted is not None:
                await accepted()
        finally:
            if in_handshake:
                self.admission.end()

    async def _first_frame(self, frames: FrameStream, deadline: float) -> bytes | None:
        """Whoever says nothing only waits beside others who say nothing, and takes nobody's place in a handshake."""
        remote = frames.stream.connection.remote_address
        try:
            with self.admission.waiting_room.enter(remote), trio.fail_at(deadline):
                return await frames.read()
        except (RemoteError, LinkClosed, trio.TooSlowError) as problem:
            self.admission.failed(remote)
            _log.debug("an inbound stream said no hello", reason=type(problem).__name__)
        return None

    async def _accept(self, frames: FrameStream, raw_hello: bytes, deadline: float) -> Continuation | None:
        """The handshake, and what follows it; None when there was none to be had, and the stream is gone."""
        stream = frames.stream
        remote = stream.connection.remote_address
        in_order = False
        try:
            with trio.fail_at(deadline):
                handshake = ResponderHandshake(
                    local_party(self._identity, self._host),
                    stream.remote_peer,
                    entropy=self._world.entropy(RESPONDER_ENTROPY_BYTES),
                )
                hello = handshake.receive_hello(raw_hello)
                if hello.purpose is Purpose.SESSION:
                    accepted = await self._session(frames, handshake, hello)
                    in_order = accepted is not None
                    return None if accepted is None else partial(self._on_session, *accepted)
                if hello.purpose is Purpose.RECOVER:
                    continuation = await self._recovery(frames, handshake, hello)
                    in_order = continuation is not None
                    return continuation
            if hello.purpose in (Purpose.PAIR_CODE, Purpose.PAIR_LINK):
                in_order = await self._pairing(frames, handshake, hello)
        except (RemoteError, LinkClosed, trio.TooSlowError) as problem:
            self.admission.failed(remote)
            _log.debug("an inbound handshake ended early", reason=type(problem).__name__)
        finally:
            if not in_order:
                stream.reset()
        return None

    async def _session(
        self, frames: FrameStream, handshake: ResponderHandshake, hello: Hello
    ) -> tuple[Session, Known] | None:
        stream = frames.stream
        today = day_of(self._world.clock.now())
        match = find_by_tag(self._roster.all(), hello, stream.remote_peer, self._host.peer_id, today)
        if match is None:
            self.admission.failed(stream.connection.remote_address)
            return None
        known, keys = match
        if not self.admission.may_contact(known.contact_id):
            return None
        started = trio.current_time()
        expected = Expected(known.identity_key, None, known.list_version, known.protocol_version, known.revoked)
        try:
            await frames.write(handshake.reply(keys.psk0, expected=expected))
            await frames.write(handshake.receive_first(await frames.read()))
            established = handshake.receive_third(await frames.read())
        except HandshakeError as error:
            remote = stream.connection.remote_address
            self._history.note(known.contact_id, "handshake", remote, f"they came, but {error}", started)
            raise
        self._history.note(known.contact_id, "handshake", stream.connection.remote_address, "ok: they came", started)
        session = Session(self._world, frames, established, known.contact_id, keys.receipt)
        return session, known

    async def _recovery(self, frames: FrameStream, handshake: ResponderHandshake, hello: Hello) -> Continuation | None:
        """Everybody who comes so counts as a stranger: all that they prove at first is that they know our identity."""
        remote = frames.stream.connection.remote_address
        exhausted = self.admission.is_exhausted(remote)
        self.admission.failed(remote)
        if self.on_recover is None or exhausted:
            return None
        return await self.on_recover(PairingRequest(hello, handshake, frames, lambda: None))

    async def _pairing(self, frames: FrameStream, handshake: ResponderHandshake, hello: Hello) -> bool:
        """True when an answer was written that must still get through."""
        remote = frames.stream.connection.remote_address
        if self.on_pairing is None or self.admission.is_exhausted(remote):
            self.admission.failed(remote)
            return False
        request = PairingRequest(hello, handshake, frames, lambda: self.admission.failed(remote))
        answered = await self.on_pairing(request)
        if answered:
            await frames.stream.aclose()
        return answered
