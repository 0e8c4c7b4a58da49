"""A contact's side of recovery: somebody can't be reached as agreed, so perhaps they came back with nothing but their
24 words, or with an old backup, and wait to be found by their identity key. Same identity, so nobody is asked: the
pair agrees on a new secret, and what was queued goes on by itself.

A look shows its storers that somebody looks for one opaque key, so it is made seldom: RECOVER_LOOK_FIRST after
a contact was first found unreachable, then while there are further attempts to reach it, ever more rarely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
import trio

from p2pe.config import (
    RECOVER_LOOK_FIRST,
    RECOVER_LOOK_MAX,
    RECOVER_LOOKS_AT_ONCE,
    RECOVER_SWEEP,
    RECOVER_SWEEP_AFTER,
    RECOVER_WAIT,
    SESSION_PROTOCOL,
)
from p2pe.connectivity.dialer import local_party, run_dialer
from p2pe.connectivity.service import Connectivity
from p2pe.connectivity.streams import FrameStream
from p2pe.contacts.exchange import Agreed, PairChannel
from p2pe.core.derive import recover_psk0
from p2pe.core.handshake import DIALER_ENTROPY_BYTES, DialerHandshake, Expected
from p2pe.core.handshake_messages import NONCE_BYTES
from p2pe.core.paths import dial_order
from p2pe.core.patience import handshake_patience
from p2pe.errors import InviteExpired, LinkClosed, NotFound, RemoteError, StorageError, Unreachable
from p2pe.identity.keys import Identity
from p2pe.model import ContactId, PathAttempt, PeerInfo, Purpose
from p2pe.ports import Connection, Host, World
from p2pe.rendezvous.pulse import Pulse
from p2pe.rendezvous.recovery import RecoveryRecords
from p2pe.storage import contacts
from p2pe.storage.contacts import ContactSecrets
from p2pe.storage.database import Database
from p2pe.storage.migrations import Tx

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Look:
    """When to look for one contact next, by trio's clock."""

    due: float
    wait: float = RECOVER_LOOK_FIRST
    wanted: bool = True  # somebody tried to reach the contact since the last look
    running: bool = False


class Recovery:
    """`run` it once."""

    def __init__(
        self,
        world: World,
        host: Host,
        database: Database,
        identity: Identity,
        connectivity: Connectivity,
        records: RecoveryRecords,
    ) -> None:
        self._world = world
        self._host = host
        self._database = database
        self._identity = identity
        self._connectivity = connectivity
        self._records = records
        self._looks: dict[ContactId, _Look] = {}  # bounded by MAX_CONTACTS; dropped when a contact is reached
        self._wake = Pulse()
        connectivity.links.on_unreachable = self.unreachable
        self._slots = trio.CapacityLimiter(RECOVER_LOOKS_AT_ONCE)

    def unreachable(self, contact_id: ContactId) -> None:
        """Told by the links whenever a contact couldn't be reached."""
        look = self._looks.get(contact_id)
        if look is None:
            look = self._looks[contact_id] = _Look(trio.current_time() + self._jittered(RECOVER_LOOK_FIRST))
        look.wanted = True
        self._wake.fire()

    def _jittered(self, seconds: float) -> float:
        return seconds * (0.75 + self._world.entropy(1)[0] / 512)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Looks for contacts when it is time. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            task_status.started()
            while True:
                seen = self._wake.count
                now = trio.current_time()
                for contact_id, look in list(self._looks.items()):
                    if self._connectivity.links.is_linked(contact_id) and not look.running:
                        del self._looks[contact_id]
                    elif look.wanted and not look.running and look.due <= now:
                        look.wanted, look.running = False, True
                        nursery.start_soon(self._look, contact_id, look)
                waits = [each.due - now for each in self._looks.values() if each.wanted and not each.running]
                with trio.move_on_after(max(0.0, min(waits, default=float("inf")))):
                    await self._wake.beyond(seen)

    async def _sweep(self) -> None:
        """Now and then looks for contacts whom nobody writes to: they may be waiting to be found all the same."""
        while True:
            await trio.sleep(self._jittered(RECOVER_SWEEP))
            long_ago = self._world.clock.now() - 1000 * RECOVER_SWEEP_AFTER
            for known in self._connectivity.roster.active():
                if known.last_seen < long_ago and not self._connectivity.links.is_linked(known.contact_id):
                    self.unreachable(known.contact_id)

    async def _look(self, contact_id: ContactId, look: _Look) -> None:
        """One look, and what follows from it."""
        soon = False
        started = trio.current_time()
        try:
            async with self._slots:
                found = await self._find(contact_id)
            if found is not None:
                done = await self._recover(*found)
                soon = not done
                self._note(contact_id, "ok" if done else "they were restored, and haven't approved you yet", started)
        except Unreachable as problem:
            _log.debug("no recovery", problem=str(problem))
        except NotFound:  # the contact was removed meanwhile
            self._looks.pop(contact_id, None)
            return
        except (RemoteError, LinkClosed, trio.TooSlowError, StorageError) as problem:
            self._note(contact_id, str(problem) or "it took too long", started)
        look.running = False
        look.wait = RECOVER_LOOK_FIRST if soon else min(2 * look.wait, RECOVER_LOOK_MAX)
        look.wanted = look.wanted or soon
        look.due = trio.current_time() + self._jittered(look.wait)
        self._wake.fire()

    def _note(self, contact_id: ContactId, outcome: str, started: float) -> None:
        took = trio.current_time() - started
        attempt = PathAttempt(self._world.clock.now(), "recover", "their identity key", outcome, took)
        self._connectivity.links.note(contact_id, attempt)

    async def _find(self, contact_id: ContactId) -> tuple[ContactSecrets, Connection] | None:
        """A connection to whoever says to be the contact. None when nobody does, or there is no ticket to present."""
        secrets = await self._database.read(lambda tx: contacts.secrets(tx, contact_id))
        if secrets.ticket is None or secrets.contact.blocked or self._connectivity.links.is_linked(contact_id):
            return None
        peer = await self._records.find(secrets.contact.identity_key)
        if peer is None:
            return None
        order = dial_order((), peer.addresses, self._connectivity.policy, self._host.listen_addresses())
        return secrets, await self._host.connect(PeerInfo(peer.peer_id, order))

    async def _recover(self, secrets: ContactSecrets, connection: Connection) -> bool:
        """The handshake, and the exchange after it. False: they haven't decided yet.

        The new secret is stored beside the one in use before the other side can store it: whatever is lost after that,
        a session under it can be made. Raises RemoteError, LinkClosed, Unreachable, trio.TooSlowError, StorageError.
        """
        person = secrets.contact
        assert secrets.ticket is not None
        handshake = DialerHandshake(
            local_party(self._identity, self._host),
            connection.remote_peer,
            Purpose.RECOVER,
            tag=b"",
            nonce=self._world.entropy(NONCE_BYTES),
            entropy=self._world.entropy(DIALER_ENTROPY_BYTES),
            expected=Expected(
                person.identity_key, None, secrets.list_version, secrets.protocol_version, secrets.revoked
            ),
            ticket=secrets.ticket,
        )
        with trio.fail_after(handshake_patience(connection.round_trip)):
            frames = FrameStream(await connection.open_stream(SESSION_PROTOCOL))
            established = await run_dialer(frames, handshake, recover_psk0(person.identity_key))
        channel = PairChannel(self._world, self._identity, frames, established)
        done = False
        try:
            await self._database.write(lambda tx: contacts.set_next_secret(tx, person.id, channel.secret))
            await self._connectivity.roster.reload(person.id)
            await channel.confirm(person.name)
            with trio.fail_after(RECOVER_WAIT + handshake_patience(connection.round_trip)):
                agreed = await channel.receive_confirm(person.name)
            await self._store(secrets, agreed, connection)
            done = True
        except InviteExpired:
            return False
        finally:
            if done:
                await channel.aclose()
            else:
                channel.abort()
        _log.info("a contact was restored; the two of us have a new shared key")
        return True

    async def _store(self, secrets: ContactSecrets, agreed: Agreed, connection: Connection) -> None:
        contact_id, now = secrets.contact.id, self._world.clock.now()
        reached = PeerInfo(connection.remote_peer, (connection.remote_address,))

        def work(tx: Tx) -> None:
            contacts.replace_secret(tx, contact_id, agreed.secret, 1, now)
            contacts.set_ticket(tx, contact_id, agreed.ticket)
            contacts.set_peer(tx, contact_id, reached)

        await self._database.write(work)
        await self._database.truncate_log()
        await self._connectivity.roster.reload(contact_id)
        self._connectivity.links.connect_soon(contact_id)
