"""A restored node's side of recovery: it can be found by its identity key for a while, and takes back the contacts who
come with a ticket that it once gave. Somebody it knows already is taken back at once; everybody else waits for
approval, on the line or until the next time, since a ticket outlives whatever became of the contact.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog
import trio

from p2pe.config import (
    INVITE_RETRY_SECONDS,
    MAX_RECOVER_WAITING,
    PUBLISH_LOOK,
    RECORD_REFRESH,
    RECOVER_WAIT,
)
from p2pe.connectivity.acceptor import PairingRequest
from p2pe.connectivity.service import Connectivity
from p2pe.contacts.exchange import Agreed, PairChannel, store_as_inviter
from p2pe.core.addresses import is_circuit
from p2pe.core.derive import recover_psk0
from p2pe.core.handshake import Established
from p2pe.core.names import contact_name, safe_name
from p2pe.core.paths import publishable
from p2pe.core.patience import handshake_patience
from p2pe.core.tickets import Ticket, open_ticket
from p2pe.errors import Conflict, HandshakeError, LinkClosed, NotFound, RemoteError, StorageError, Unreachable
from p2pe.identity.keys import Identity
from p2pe.model import Address, ContactId, PeerInfo
from p2pe.ports import Host, World
from p2pe.rendezvous.pulse import Pulse
from p2pe.rendezvous.recovery import RecoveryRecords
from p2pe.storage import contacts, meta, requests
from p2pe.storage.database import Database
from p2pe.storage.migrations import Tx
from p2pe.storage.requests import Request, RequestState

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

_log = structlog.get_logger(__name__)
Continuation = Callable[[], Awaitable[None]]


class Requests:
    """`run` it once; it does nothing on a node that wasn't restored lately."""

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
        self._until = 0  # Unix milliseconds
        self._waiting = 0  # contacts on the line
        self._decided = Pulse()
        self.published = Pulse()
        connectivity.acceptor.on_recover = self.answer

    # --- to decide ---

    async def list(self) -> tuple[Request, ...]:
        """Those who came last first; the refused ones too."""
        now = self._world.clock.now()

        def look(tx: Tx) -> tuple[Request, ...]:
            requests.expire(tx, now)
            return requests.all_requests(tx)

        return await self._database.write(look)

    async def approve(self, request_id: int, name: str | None = None) -> Request:
        """Takes somebody back: at once if they are on the line, else when they come next.

        Raises NotFound, UsageError (unfit name), Conflict (name is taken)."""
        wanted = None if name is None else contact_name(name)

        def work(tx: Tx) -> Request:
            if wanted is not None:
                try:
                    contacts.find(tx, wanted)
                except NotFound:
                    pass
                else:
                    raise Conflict(f"another contact is called {wanted!r} already: choose another name")
            return requests.decide(tx, request_id, "approved", wanted)

        return await self._decide(work)

    async def refuse(self, request_id: int) -> Request:
        """They aren't asked about again; to them nothing answers. Raises NotFound."""
        return await self._decide(lambda tx: requests.decide(tx, request_id, "refused"))

    async def _decide(self, work: Callable[[Tx], Request]) -> Request:
        decided = await self._database.write(work)
        self._decided.fire()
        return decided

    # --- being found ---

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Publishes where we are under our identity key until the time is over."""
        until = await self._database.read(lambda tx: meta.get_number(tx, meta.RECOVER_UNTIL))
        self._until = until or 0
        task_status.started()
        changed = self._connectivity.addresses_changed
        while self._world.clock.now() < self._until:
            seen = changed.count
            own = self._own()
            wait = float(RECORD_REFRESH)
            try:
                if not own.addresses or not await self._records.publish(self._identity.identity_key, own):
                    wait = PUBLISH_LOOK
            except Unreachable:
                wait = INVITE_RETRY_SECONDS
            else:
                self.published.fire()
            with trio.move_on_after(wait):
                await changed.beyond(seen)
        await trio.sleep_forever()

    def _own(self) -> PeerInfo:
        """Relay addresses alone if we hold any: whoever was once a contact may read the record."""
        addresses = publishable(self._host.listen_addresses(), self._connectivity.policy)
        relayed = tuple(address for address in addresses if is_circuit(Address(address)))
        return PeerInfo(self._host.peer_id, relayed or addresses)

    # --- being found out ---

    async def answer(self, request: PairingRequest) -> Continuation | None:
        """The responder's handshake; then what is left to do, which may take as long as a person needs to decide. None
        when there is nothing to be had. Raises RemoteError, LinkClosed, StorageError."""
        if self._world.clock.now() >= self._until:
            return None
        frames, handshake = request.frames, request.handshake
        await frames.write(handshake.reply(recover_psk0(self._identity.identity_key)))
        await frames.write(handshake.receive_first(await frames.read()))
        established = handshake.receive_third(await frames.read())
        ticket = self._check(established)
        channel = PairChannel(self._world, self._identity, frames, established)
        known = await self._database.read(lambda tx: contacts.by_identity(tx, established.peer_identity_key))
        if known is not None:
            if known.blocked:
                return None
            secrets = await self._database.read(lambda tx: contacts.secrets(tx, known.id))
            device = established.peer_certificate
            if device.list_version < secrets.list_version or device.device_key in secrets.revoked:
                raise HandshakeError("the certificate is older than one that was seen before, or revoked")
            return lambda: self._take_back(channel, established, known.name, ask=False)
        now = self._world.clock.now()
        name = safe_name(ticket.petname) or "contact"
        found = await self._database.write(
            lambda tx: requests.came(tx, established.peer_identity_key, name, ticket.met_at, now)
        )
        if found.state == "refused":
            return None
        if found.state == "waiting":
            _log.info("somebody came with a contact ticket; `p2pe requests` shows it", request=found.id)
        return lambda: self._take_back(channel, established, found.name or found.petname, ask=True)

    def _check(self, established: Established) -> Ticket:
        """The ticket must be of our own making, and about the one who presents it."""
        if established.peer_identity_key == self._identity.identity_key:
            raise HandshakeError("a recovery by our own identity")
        ticket = open_ticket(self._identity.k_ticket, established.ticket)
        if ticket.peer_identity_key != established.peer_identity_key:
            raise HandshakeError("a contact ticket about somebody else than the one who presents it")
        return ticket

    async def _take_back(self, channel: PairChannel, established: Established, name: str, *, ask: bool) -> None:
        """Waits for approval if need be, agrees on a new pair secret, stores the contact, confirms."""
        try:
            with trio.fail_after(handshake_patience(channel.round_trip)):
                agreed = await channel.receive_confirm(name)
            if ask:
                chosen = await self._approved(channel, established)
                if chosen is None:
                    await channel.refuse()
                    await channel.aclose()
                    return
                agreed = Agreed(agreed.established, agreed.secret, agreed.ticket, chosen)
            now = self._world.clock.now()

            def store(tx: Tx) -> ContactId:
                contact_id = store_as_inviter(tx, agreed, now)
                requests.remove(tx, established.peer_identity_key)
                return contact_id

            contact_id = await self._database.write(store)
            await self._connectivity.roster.reload(contact_id)
            _log.info("a contact of before is back")
            await channel.confirm(agreed.name)
            await channel.aclose()
        except (RemoteError, LinkClosed, trio.TooSlowError, StorageError) as problem:
            _log.debug("a recovery ended early", reason=type(problem).__name__)
            channel.abort()

    async def _approved(self, channel: PairChannel, established: Established) -> str | None:
        """The name to use, once somebody has approved; None when nobody did in time, or it was refused."""
        if self._waiting >= MAX_RECOVER_WAITING:
            return None
        state: RequestState = "waiting"
        name: str | None = None
        self._waiting += 1
        try:
            with trio.move_on_after(RECOVER_WAIT):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(channel.until_closed, nursery.cancel_scope)
                    while state == "waiting":
                        seen = self._decided.count
                        found = await self._database.read(
                            lambda tx: requests.by_identity(tx, established.peer_identity_key)
                        )
                        if found is None:
                            break
                        state, name = found.state, found.name or found.petname
                        if state == "waiting":
                            await self._decided.beyond(seen)
                    nursery.cancel_scope.cancel()
        finally:
            self._waiting -= 1
        return name if state == "approved" else None
