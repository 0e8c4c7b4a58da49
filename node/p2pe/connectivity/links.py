"""All live links, and how new ones come about: asked for, accepted, greeted, renewed, moved to a better path.
Implements ports.Links. Of several links to a contact the newest is used; the others are closed (replacing.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog
import trio

from p2pe.config import (
    GREET_AT_ONCE,
    LINK_RETIRE_QUIET,
    LINK_RETIRE_SECONDS,
    MAX_GREETED,
    MAX_LINKS_PER_CONTACT,
    RECONNECT_WAITS,
    RECONNECT_WAITS_DIALLED,
)
from p2pe.connectivity.dialer import SessionDialer
from p2pe.connectivity.history import History
from p2pe.connectivity.noting import note_session
from p2pe.connectivity.reconnecting import Reconnector
from p2pe.connectivity.replacing import replaced
from p2pe.connectivity.session import Session
from p2pe.core.paths import RelayPolicy, is_better
from p2pe.errors import P2peError, StorageError, Unreachable
from p2pe.model import ContactId, ContactReachability, GoodbyeReason, PathAttempt
from p2pe.ports import Connection, LinkHandler, Relays, World
from p2pe.rendezvous.pulse import Pulse
from p2pe.rendezvous.roster import Known, Roster
from p2pe.storage.database import Database

_log = structlog.get_logger(__name__)
_GONE_FOR_GOOD = (GoodbyeReason.STOPPING, GoodbyeReason.RENEW, GoodbyeReason.SUPERSEDED)


@dataclass(slots=True)
class _Dialling:
    """One dial that several callers wait for."""

    done: trio.Event = field(default_factory=trio.Event)
    problem: Unreachable = field(default_factory=lambda: Unreachable("the session ended at once"))


class LinkRegistry:
    """Made by connectivity/service.open_links. `changed` fires when a link came or went."""

    def __init__(
        self,
        world: World,
        database: Database,
        roster: Roster,
        dialer: SessionDialer,
        history: History,
        on_link: LinkHandler,
        policy: Callable[[], RelayPolicy],
        relays: Relays | None,
        nursery: trio.Nursery,
    ) -> None:
        self._world = world
        self._database = database
        self._roster = roster
        self._dialer = dialer
        self._policy = policy
        self._relays = relays
        self._history = history
        self._on_link = on_link
        self._nursery = nursery
        self._sessions: dict[ContactId, list[Session]] = {}  # oldest first; at most MAX_LINKS_PER_CONTACT each
        self._dials: dict[ContactId, _Dialling] = {}
        self._moved = Pulse()  # to another network
        self.reconnector = Reconnector(world, self._moved, self._try_again, nursery)
        self._renewing: dict[ContactId, None] = {}
        self._is_stopping = False
        self.changed = Pulse()
        self.on_adopted: Callable[[Session], None] | None = None  # a link has come
        self.on_unreachable: Callable[[ContactId], None] | None = None  # a contact couldn't be reached
        self.on_new_device: Callable[[ContactId], None] | None = None  # a contact came with a newer device list

    # --- what there is ---

    def current(self, contact_id: ContactId) -> Session | None:
        """See ports.Links."""
        for session in reversed(self._sessions.get(contact_id, [])):
            if session.is_usable and not session.retiring:
                return session
        return None

    def is_linked(self, contact_id: ContactId) -> bool:
        """Whether the contact is there, though the session be due for renewal."""
        return self._open(contact_id) is not None

    def _open(self, contact_id: ContactId) -> Session | None:
        return next((each for each in reversed(self._sessions.get(contact_id, [])) if each.is_open), None)

    def all(self) -> tuple[Session, ...]:
        return tuple(session for sessions in self._sessions.values() for session in sessions)

    def reachability(self, contact_id: ContactId) -> ContactReachability:
        """For `p2pe why` and `p2pe status`."""
        session = self._open(contact_id)
        return ContactReachability(
            contact_id=contact_id,
            connected=session is not None,
            path=session.path if session else None,
            round_trip=session.connection.round_trip if session else None,
            since=session.established_at if session else None,
            attempts=self._history.of(contact_id),
            next_try_at=self.reconnector.next_try(contact_id) if session is None else None,
        )

    # --- getting one ---

    async def get(self, contact_id: ContactId) -> Session:
        """See ports.Links. Callers for the same contact share one dial, which goes on if one of them is cancelled."""
        session = self.current(contact_id)
        if session is not None:
            return session
        dialling = self._dials.get(contact_id)
        if dialling is None:
            dialling = self._dials[contact_id] = _Dialling()
            self._nursery.start_soon(self._dial, contact_id, dialling)
        while True:  # a link that comes by itself meanwhile is as good
            seen = self.changed.count
            session = self.current(contact_id)
            if session is not None:
                return session
            if dialling.done.is_set():
                raise dialling.problem
            await self.changed.beyond(seen)

    async def _dial(self, contact_id: ContactId, dialling: _Dialling) -> None:
        try:
            known = self._roster.get(contact_id)
            if known is None:
                raise Unreachable("this contact was removed")
            if known.blocked:
                raise Unreachable("this contact is blocked: `p2pe contacts unblock` lets messages through again")
            if self._is_stopping:
                raise Unreachable("this node is stopping")
            self._adopt(await self._dial_here(known), known)
        except Unreachable as problem:
            dialling.problem = problem
            if self.on_unreachable is not None and not self._is_stopping:
                self.on_unreachable(contact_id)
        finally:
            del self._dials[contact_id]
            dialling.done.set()
            self.changed.fire()

    async def _dial_here(self, known: Known) -> Session:
        """Begins anew when we come to another network meanwhile: attempts from the old one would only time out."""
        while True:
            seen = self._moved.count
            session: Session | None = None
            problem: Unreachable | None = None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_when_moved, seen, nursery.cancel_scope)
                try:
                    session = await self._dialer.dial(known)
                except Unreachable as error:
                    problem = error
                nursery.cancel_scope.cancel()
            if session is not None:
                return session
            if problem is not None and self._moved.count == seen:
                raise problem

    async def _cancel_when_moved(self, seen: int, scope: trio.CancelScope) -> None:
        await self._moved.beyond(seen)
        scope.cancel()

    # --- serving one ---

    async def serve_accepted(self, session: Session, known: Known) -> None:
        """For the acceptor: serves a session until it ends."""
        self._adopt(session, known)
        await session.ended.wait()

    def _adopt(self, session: Session, known: Known) -> None:
        now = self._roster.get(known.contact_id)
        if now is None or now.blocked:  # since the handshake began
            session.abort()
            return
        self.reconnector.found(known.contact_id)
        sessions = self._sessions.setdefault(known.contact_id, [])
        sessions.append(session)
        surplus = sessions[: max(0, len(sessions) - MAX_LINKS_PER_CONTACT)]
        for old in surplus:
            old.abort()
        self._nursery.start_soon(self._serve, session, known)
        self._nursery.start_soon(self._remember, session, known)
        self._nursery.start_soon(self._improve, session)
        if self.on_adopted is not None:
            self.on_adopted(session)
        self.changed.fire()
        self._retire_replaced(known)

    async def _serve(self, session: Session, known: Known) -> None:
        """Runs the handler of a link for as long as the link lives."""
        broke_protocol = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.do_chores)
                if session.is_dialer:
                    nursery.start_soon(self._renew_when_due, session)
                try:
                    await self._on_link(session)
                except StorageError as problem:
                    _log.error("a link was closed: nothing can be stored", problem=str(problem))
                except P2peError as problem:
                    broke_protocol = problem.code in ("remote", "handshake")
                    _log.debug("a link ended", reason=type(problem).__name__)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    _log.debug("a link ended", reason="stream")
                nursery.cancel_scope.cancel()
        finally:
            was_ours_to_end = session.ended.is_set() and not session.broke
            self._forget(session)
        if broke_protocol:
            session.abort()
        else:
            await session.end(GoodbyeReason.STOPPING)
        if was_ours_to_end:
            return
        if self._relays is not None and session.goodbye is None and not session.connection.is_alive:
            self._relays.broke(session.connection.remote_address)
        if session.goodbye not in _GONE_FOR_GOOD:
            waits = RECONNECT_WAITS if session.is_dialer else RECONNECT_WAITS_DIALLED
            self.reconnector.soon(known.contact_id, waits)

    def _forget(self, session: Session) -> None:
        sessions = self._sessions.get(session.contact_id, [])
        sessions[:] = [each for each in sessions if each is not session]
        if not sessions:
            self._sessions.pop(session.contact_id, None)
        session.chores.set()
        self.changed.fire()

    async def _remember(self, session: Session, known: Known) -> None:
        """Notes in the database when, where and on which device the contact was reached, and that a newly agreed
        secret works: the old one is erased then."""
        try:
            is_new_device, dropped = await self._database.write(
                partial(note_session, session, known.peer, self._world.clock.now())
            )
            if dropped:
                await self._database.truncate_log()
                _log.info("a pair secret was rotated")
            await self._roster.reload(known.contact_id)
        except P2peError as problem:
            _log.warning("where a contact was reached couldn't be noted", problem=str(problem))
            return
        if is_new_device:
            for other in list(self._sessions.get(known.contact_id, [])):
                if other.device_key != session.device_key:
                    other.abort()
            if self.on_new_device is not None:
                self.on_new_device(known.contact_id)

    # --- replacing one by another ---

    def _retire_replaced(self, known: Known) -> None:
        """Starts to close those links of ours that another one has replaced."""
        for session in replaced(self._sessions.get(known.contact_id, []), known.we_are_lower):
            session.retiring = True
            self._nursery.start_soon(self._retire, session)

    async def _retire(self, session: Session) -> None:
        """Closes it when it has been quiet for a moment: what is on its way gets through."""
        with trio.move_on_after(LINK_RETIRE_SECONDS):
            await session.wait_quiet(LINK_RETIRE_QUIET)
        await session.end(GoodbyeReason.SUPERSEDED)

    async def _renew_when_due(self, session: Session) -> None:
        """Makes the session's successor in time, on the best connection there is."""
        await session.wait_renewal_due()
        await self._open_over(session.contact_id, session.connection)

    async def meet(self, contact_id: ContactId, connection: Connection) -> None:
        """The contact was found at the other end of this connection: a link over it, unless there is one as good."""
        session = self._open(contact_id)
        if session is None or is_better(connection.path, session.path):
            await self._open_over(contact_id, connection)

    async def _open_over(self, contact_id: ContactId, connection: Connection) -> None:
        """A fresh session beside those there are. A failure leaves things as they are."""
        known = self._roster.get(contact_id)
        if known is None or known.blocked or contact_id in self._renewing or self._is_stopping:
            return
        self._renewing[contact_id] = None
        try:
            self._adopt(await self._dialer.open_session(known, connection), known)
        except Unreachable as problem:
            _log.debug("a session couldn't be renewed", problem=str(problem))
        finally:
            del self._renewing[contact_id]

    async def renew(self, contact_id: ContactId) -> None:
        """A fresh session beside the one in use: under a new pair secret, or with a new certificate of ours."""
        session = self.current(contact_id)
        if session is not None:
            await self._open_over(session.contact_id, session.connection)

    def renew_soon(self, contact_id: ContactId) -> None:
        """The same in the background."""
        self._nursery.start_soon(self.renew, contact_id)

    async def use_better_path(self, connection: Connection) -> None:
        """A connection has come up: sessions of ours with that peer move to it if its path is better."""
        if self._policy() is RelayPolicy.ONLY:
            return
        for session in self.all():
            if (
                session.is_dialer
                and session.peer_id == connection.remote_peer
                and session.is_open
                and not session.retiring
                and is_better(connection.path, session.path)
            ):
                await self._open_over(session.contact_id, connection)

    async def _improve(self, session: Session) -> None:
        """The better connection may have come up while this session's handshake was under way."""
        connection = self._dialer.best_connection(session.peer_id)
        if connection is not None:
            await self.use_better_path(connection)

    # --- when things change ---

    def moved(self) -> None:
        """We are on another network: links that were lost may be possible again."""
        self._moved.fire()
        self.reconnector.moved()

    async def greet_all(self) -> None:
        """Dials every contact once, those seen last first: what waits on either side arrives at once."""
        order = sorted(self._roster.active(), key=lambda known: (-known.last_seen, known.contact_id))
        queue = [known.contact_id for known in order[:MAX_GREETED]][::-1]

        async def worker() -> None:
            while queue:
                try:
                    await self.get(queue.pop())
                except Unreachable:
                    continue

        async with trio.open_nursery() as nursery:
            for _ in range(min(GREET_AT_ONCE, len(queue))):
                nursery.start_soon(worker)

    def connect_soon(self, contact_id: ContactId) -> None:
        """Dials a contact that was just paired or unblocked, in the background."""
        self.reconnector.soon(contact_id)

    async def _try_again(self, contact_id: ContactId) -> None:
        """For the reconnector. Raises Unreachable; returns when the link is there, or isn't wanted any more."""
        known = self._roster.get(contact_id)
        if known is not None and not (known.blocked or self._is_stopping or self.is_linked(contact_id)):
            await self.get(contact_id)

    async def network_changed(self) -> None:
        """Our addresses changed: links that died with the old ones are found out and made anew."""
        async with trio.open_nursery() as nursery:
            for session in self.all():
                nursery.start_soon(self._probe, session)

    async def _probe(self, session: Session) -> None:
        if session.is_usable and not await session.probe() and not session.ended.is_set():
            session.abort()
            self.reconnector.soon(session.contact_id)

    async def drop(self, contact_id: ContactId) -> None:
        """Ends all links to a contact that was blocked or removed, and what carries them, as the node's stop does."""
        connections: list[Connection] = []
        for session in list(self._sessions.get(contact_id, [])):
            connections.append(session.connection)
            await session.end(GoodbyeReason.STOPPING)
        for connection in connections:
            if not any(each.connection is connection and each.contact_id != contact_id for each in self.all()):
                await connection.aclose()
        if self._roster.get(contact_id) is None:
            self._history.forget(contact_id)

    async def stop(self) -> None:
        """Says goodbye on every link; no new ones come after this."""
        self._is_stopping = True
        self.reconnector.stop()
        async with trio.open_nursery() as nursery:
            for session in self.all():
                nursery.start_soon(session.end, GoodbyeReason.STOPPING)

    def note(self, contact_id: ContactId, attempt: PathAttempt) -> None:
        """Adds a line to what `p2pe why` shows; for hole punching and the like."""
        self._history.add(contact_id, (attempt,))
