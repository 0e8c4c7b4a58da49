"""Invites of ours from making to outcome, and accepting those of others: what API and CLI call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import structlog
import trio

from p2pe.config import CLOCK_SKEW, INVITE_RETRY_SECONDS, INVITE_SECONDS, LINK_BOOTSTRAP_MAX, RETRY_MAX
from p2pe.connectivity.service import Connectivity
from p2pe.contacts.invitee import Invitee, LearnBootstrap
from p2pe.contacts.inviter import Inviter
from p2pe.core.addresses import is_circuit
from p2pe.core.derive import identity_commitment
from p2pe.core.invite import (
    CODE_ENTROPY_BYTES,
    SECRET_BYTES,
    Code,
    Link,
    code_handle,
    code_of,
    decode_link,
    encode_link,
    is_link,
    link_handle,
    link_seed,
    locator_seed,
    make_code,
    parse_code,
    publish_days,
)
from p2pe.core.names import contact_name, safe_name
from p2pe.core.paths import publishable
from p2pe.errors import Conflict, NotFound, OwnInvite, StorageError, Unreachable
from p2pe.identity.keys import Identity
from p2pe.model import Address, Contact, ContactId, Millis, PeerInfo
from p2pe.ports import Directory, Host, World
from p2pe.rendezvous.invites import InviteRecords
from p2pe.rendezvous.pulse import Pulse
from p2pe.storage import contacts, invites
from p2pe.storage.database import Database
from p2pe.storage.invites import Invite, InviteKind, InviteState
from p2pe.storage.migrations import Tx

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

_log = structlog.get_logger(__name__)
_CODE_TRIES: Final = 4  # codes thrown away because their locator, or its slots, are taken
MakeKind = Literal["code", "link"]


@dataclass(frozen=True, slots=True)
class ShownInvite:
    """An invite as people see it. One of kind `code` has a link as well, for whoever can't speak to the other."""

    id: int
    kind: InviteKind
    state: InviteState
    code: str | None = field(repr=False)  # None once it is closed, and for kind `link`
    link: str | None = field(repr=False)  # None once it is closed
    name: str | None
    guesses_left: int
    created_at: Millis
    expires_at: Millis
    contact_id: ContactId | None
    shows_address: bool  # whoever has the code or link, or guesses the locator, learns our IP address


async def nothing_to_learn(_: Sequence[str]) -> None:
    """For nodes whose directory can't learn bootstrap nodes."""
    await trio.lowlevel.checkpoint()


class Pairing:
    """Made by `open_pairing`."""

    def __init__(
        self,
        world: World,
        host: Host,
        directory: Directory,
        database: Database,
        identity: Identity,
        connectivity: Connectivity,
        *,
        bootstrap: Callable[[], Sequence[str]] = tuple,
        learn_bootstrap: LearnBootstrap = nothing_to_learn,
        own_name: str = "",
    ) -> None:
        """`bootstrap` gives multiaddrs with /p2p for links; `learn_bootstrap` takes those of a link before it is
        looked up; `own_name` is suggested to the other side."""
        self._world = world
        self._host = host
        self._database = database
        self._identity = identity
        self._connectivity = connectivity
        self._bootstrap = bootstrap
        self._records = InviteRecords(world, directory)
        self._slots: dict[tuple[int, bytes], int] = {}  # by invite and seed; dropped with the invite
        self._published: dict[int, PeerInfo] = {}  # by open invite: what its records say
        self._seeds: dict[tuple[str, int], bytes] = {}  # by locator and day: each costs a second's CPU to find again
        self._changed = Pulse()
        name = safe_name(own_name)
        self._invitee = Invitee(world, host, database, identity, connectivity, self._records, learn_bootstrap, name)
        self.inviter = Inviter(world, host.peer_id, database, identity, connectivity, name, self._changed.fire)
        connectivity.acceptor.on_pairing = self.inviter.answer

    # --- inviting ---

    async def create_invite(self, kind: MakeKind = "code", name: str | None = None) -> ShownInvite:
        """Makes and publishes an invite for one person, good for INVITE_SECONDS. `name`: what to call them here.

        Raises UsageError (name), Conflict (name is taken), LocalError (too many open ones), Unreachable (it can't be
        published: nobody could find it)."""
        wanted = await self._free_contact_name(name)
        code, now = None, self._world.clock.now()
        if kind == "code":
            code = await self._free_code(now)
        secret = self._world.entropy(SECRET_BYTES)

        def create(tx: Tx) -> Invite:
            return invites.create(
                tx,
                kind=kind,
                handle=code_handle(code.locator) if code else link_handle(secret),
                locator=code.locator if code else "",
                password=code.password if code else "",
                secret=secret,
                name=wanted,
                now=now,
            )

        invite = await self._database.write(create)
        published = False
        try:
            await self._publish(invite)
            published = True
        finally:
            if not published:
                with trio.CancelScope(shield=True):
                    await self._close(invite.id, "revoked")
        self._changed.fire()
        return self._show(invite)

    async def invites(self) -> tuple[ShownInvite, ...]:
        """Newest first, closed ones included."""
        await self._expire()
        return tuple(self._show(each) for each in await self._database.read(invites.all_invites))

    async def wait_for(self, invite_id: int, seconds: float) -> ShownInvite:
        """The invite, as soon as it is no longer open, at the latest after so many seconds. Raises NotFound."""
        await self._expire()
        with trio.move_on_after(seconds):
            while True:
                seen = self._changed.count
                invite = await self._database.read(lambda tx: invites.get(tx, invite_id))
                if invite.state != "open":
                    return self._show(invite)
                with trio.move_on_after(max(0.0, (invite.expires_at - self._world.clock.now()) / 1000)):
                    await self._changed.beyond(seen)
                await self._expire()
        return self._show(await self._database.read(lambda tx: invites.get(tx, invite_id)))

    async def revoke(self, invite_id: int) -> None:
        """Takes an invite back. Raises NotFound; an invite that is closed already stays as it is."""
        invite = await self._database.read(lambda tx: invites.get(tx, invite_id))
        if invite.state == "open":
            await self._close(invite_id, "revoked")

    # --- accepting ---

    async def accept(self, invitation: str, name: str | None = None) -> Contact:
        """Pairs by a spoken code or a link. Returns once both sides have stored each other.

        Raises UsageError (unreadable code, link or name), Conflict (name is taken), OwnInvite, InviteNotFound,
        InviteExpired, GuessesSpent, WrongCode, AlreadyContact, Unreachable; PairingError when the other side isn't
        the one that the link names."""
        wanted = await self._free_contact_name(name)
        if is_link(invitation):
            return await self._invitee.accept_link(decode_link(invitation), wanted)
        code = parse_code(invitation)
        now = self._world.clock.now()
        for own in await self._database.read(lambda tx: invites.open_invites(tx, now)):
            if own.kind == "code" and code_of(own.locator, own.password) == code:
                raise OwnInvite("this is your own code: tell it to the person you want to meet")
        return await self._invitee.accept_code(code, wanted)

    async def _free_contact_name(self, name: str | None) -> str | None:
        if name is None:
            return None
        wanted = contact_name(name)
        try:
            await self._database.read(lambda tx: contacts.find(tx, wanted))
        except NotFound:
            return wanted
        raise Conflict(
            f"another contact is called {wanted!r} already: choose another name. If this is the same person with a new "
            f"identity: `p2pe contacts replace {wanted} CODE`"
        )

    # --- publishing ---

    def _own(self) -> PeerInfo:
        """Relay addresses alone if we hold any: strangers may find the record of a spoken code."""
        addresses = publishable(self._host.listen_addresses(), self._connectivity.policy)
        relayed = tuple(address for address in addresses if is_circuit(address))
        return PeerInfo(self._host.peer_id, relayed or addresses)

    async def _free_code(self, now: Millis) -> Code:
        """A code whose locator nobody uses, as far as can be seen. Raises Unreachable."""
        days = publish_days(now, Millis(now + 1000 * INVITE_SECONDS))
        for _ in range(_CODE_TRIES):
            code = make_code(self._world.entropy(CODE_ENTROPY_BYTES))
            handle = code_handle(code.locator)
            if await self._database.read(lambda tx, handle=handle: invites.by_handle(tx, handle)) is not None:  # type: ignore[misc]
                continue
            seeds = [await self._seed(code.locator, day) for day in days]
            if None not in [await self._records.free_slot(seed, self._host.peer_id) for seed in seeds]:
                return code
        raise Unreachable("no free code was found: make a link instead (`p2pe invite --link`)")

    async def _seed(self, locator: str, day: int) -> bytes:
        key = (locator, day)
        if key not in self._seeds:
            seed = await self._world.threads(lambda: locator_seed(locator, day))
            if len(self._seeds) >= 4 * _CODE_TRIES:
                self._seeds.pop(next(iter(self._seeds)))
            self._seeds[key] = seed
        return self._seeds[key]

    async def _publish(self, invite: Invite) -> None:
        """Publishes an open invite wherever it may be looked for. Raises Unreachable when nobody took it."""
        own = self._own()
        if not own.addresses:
            raise Unreachable("this node has no address that anybody could dial: see `p2pe status`")
        expires = Millis(invite.expires_at + 1000 * CLOCK_SKEW)  # whoever comes late hears that it has expired
        seeds = [link_seed(invite.secret)]
        if invite.kind == "code":
            seeds += [
                await self._seed(invite.locator, day) for day in publish_days(invite.created_at, invite.expires_at)
            ]
        for seed in seeds:
            slot = self._slots.get((invite.id, seed))
            if slot is None:
                slot = await self._records.free_slot(seed, own.peer_id) or 0
                self._slots[(invite.id, seed)] = slot
            if not await self._records.publish(seed, slot, own, expires):
                raise Unreachable(
                    "no DHT server took the invite: check this machine's clock and `p2pe status`, and try again"
                )
        self._published[invite.id] = own

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Publishes open invites anew after a restart and when our addresses change, and closes expired ones."""
        task_status.started()
        while True:
            seen = self._connectivity.addresses_changed.count
            wait = RETRY_MAX
            try:
                await self._expire()
                now, own = self._world.clock.now(), self._own()
                for invite in await self._database.read(lambda tx, now=now: invites.open_invites(tx, now)):  # type: ignore[misc]
                    if self._published.get(invite.id) != own:
                        await self._publish(invite)
            except (Unreachable, StorageError) as problem:
                _log.debug("open invites couldn't be published", reason=type(problem).__name__)
                wait = INVITE_RETRY_SECONDS
            with trio.move_on_after(wait):
                await self._connectivity.addresses_changed.beyond(seen)

    # --- keeping ---

    async def _expire(self) -> None:
        now = self._world.clock.now()
        everything = await self._database.read(invites.all_invites)
        if any(each.state == "open" and each.expires_at <= now for each in everything):
            self._forget(await self._database.write(lambda tx: invites.expire(tx, now)))
            self._changed.fire()

    async def _close(self, invite_id: int, state: InviteState) -> None:
        await self._database.write(lambda tx: invites.close(tx, invite_id, state))
        self._forget((invite_id,))
        self._changed.fire()

    def _forget(self, invite_ids: Sequence[int]) -> None:
        for invite_id in invite_ids:
            self._published.pop(invite_id, None)
        for key in [key for key in self._slots if key[0] in invite_ids]:
            del self._slots[key]

    def _show(self, invite: Invite) -> ShownInvite:
        is_open = invite.state == "open"
        code = str(code_of(invite.locator, invite.password)) if is_open and invite.kind == "code" else None
        own = self._own().addresses
        return ShownInvite(
            id=invite.id,
            kind=invite.kind,
            state=invite.state,
            code=code,
            link=encode_link(self._link(invite)) if is_open and invite.secret else None,
            name=invite.name,
            guesses_left=invite.guesses_left,
            created_at=invite.created_at,
            expires_at=invite.expires_at,
            contact_id=invite.contact_id,
            shows_address=any(not is_circuit(Address(address)) for address in own),
        )

    def _link(self, invite: Invite) -> Link:
        return Link(
            secret=invite.secret,
            identity_commitment=identity_commitment(self._identity.identity_key),
            bootstrap=tuple(self._bootstrap())[:LINK_BOOTSTRAP_MAX],
            expires_at=invite.expires_at // 1000,
        )


@asynccontextmanager
async def open_pairing(
    world: World,
    host: Host,
    directory: Directory,
    database: Database,
    identity: Identity,
    connectivity: Connectivity,
    *,
    bootstrap: Callable[[], Sequence[str]] = tuple,
    learn_bootstrap: LearnBootstrap = nothing_to_learn,
    own_name: str = "",
) -> AsyncIterator[Pairing]:
    """A Pairing whose `run` goes on while the block does."""
    pairing = Pairing(
        world,
        host,
        directory,
        database,
        identity,
        connectivity,
        bootstrap=bootstrap,
        learn_bootstrap=learn_bootstrap,
        own_name=own_name,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pairing.run)
        try:
            yield pairing
        finally:
            connectivity.acceptor.on_pairing = None
            nursery.cancel_scope.cancel()
