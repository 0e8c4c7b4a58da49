"""Connectivity put together: what app opens once, and everything above asks for links."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from p2pe.config import GREET_WAIT, NETWORK_GREET_PAUSE, PUBLISH_FIRST_WAIT, SESSION_PROTOCOL
from p2pe.connectivity.acceptor import Acceptor
from p2pe.connectivity.dialer import SessionDialer
from p2pe.connectivity.history import History
from p2pe.connectivity.links import LinkRegistry
from p2pe.connectivity.punching import Upgrader
from p2pe.core.addresses import is_circuit, is_public
from p2pe.core.paths import RelayPolicy, publishable
from p2pe.identity.keys import Identity
from p2pe.model import PeerInfo
from p2pe.overlay.connections import AddressesChanged, Connected, NetworkChanged
from p2pe.overlay.punch import Puncher
from p2pe.ports import Directory, LinkHandler, Relays, World
from p2pe.rendezvous.finder import Finder
from p2pe.rendezvous.publisher import Publisher
from p2pe.rendezvous.pulse import Pulse
from p2pe.rendezvous.roster import Roster
from p2pe.storage.database import Database

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

    from p2pe.overlay.host import OverlayHost


@dataclass(frozen=True, slots=True)
class Connectivity:
    """What `open_links` gives. `links` implements ports.Links."""

    links: LinkRegistry
    roster: Roster
    acceptor: Acceptor
    publisher: Publisher
    history: History
    finder: Finder
    addresses_changed: Pulse  # our own
    policy: RelayPolicy


@asynccontextmanager
async def open_links(
    world: World,
    host: OverlayHost,
    directory: Directory,
    database: Database,
    identity: Identity,
    *,
    on_link: LinkHandler,
    relay_policy: RelayPolicy = RelayPolicy.FALLBACK,
    greet: bool = True,
    settled: trio.Event | None = None,
    puncher: Puncher | None = None,
    relays: Relays | None = None,
) -> AsyncIterator[Connectivity]:
    """Publishes our records, greets the contacts, answers whoever comes, and keeps links while the block runs.

    Every link runs `on_link` in a task of its own for as long as it lives. When the block is left, every contact is
    told goodbye. `settled` says when our addresses are worth publishing. Raises StorageError when the contacts can't
    be read.
    """
    roster = Roster(database, identity.identity_key)
    await roster.load()
    history = History(world.clock)
    finder = Finder(world, directory)
    changed = Pulse()

    def own() -> PeerInfo:
        return PeerInfo(host.peer_id, publishable(host.listen_addresses(), relay_policy))

    async with trio.open_nursery() as nursery:
        dialer = SessionDialer(world, host, identity, finder, history, lambda: relay_policy, relays)
        links = LinkRegistry(world, database, roster, dialer, history, on_link, lambda: relay_policy, relays, nursery)
        acceptor = Acceptor(world, host, identity, roster, history, links.serve_accepted)
        publisher = Publisher(world, directory, roster, own=own, is_linked=links.is_linked, cover=identity.k_msgid)
        if puncher is not None:
            Upgrader(links, puncher, nursery)
        host.handle(SESSION_PROTOCOL, acceptor.on_stream)
        try:
            nursery.start_soon(_publish, publisher, settled)
            nursery.start_soon(_watch_links, links, publisher)
            await nursery.start(_watch_host, host, links, publisher, changed)
            if greet:
                nursery.start_soon(_greet, links, publisher)
            yield Connectivity(links, roster, acceptor, publisher, history, finder, changed, relay_policy)
        finally:
            host.unhandle(SESSION_PROTOCOL)
            with trio.CancelScope(shield=True):  # bounded by GOODBYE_SECONDS
                await links.stop()
            nursery.cancel_scope.cancel()


async def _publish(publisher: Publisher, settled: trio.Event | None) -> None:
    """A first record without a relay's address would only have to be replaced at once."""
    if settled is not None:
        with trio.move_on_after(PUBLISH_FIRST_WAIT):
            await settled.wait()
    await publisher.run()


async def _greet(links: LinkRegistry, publisher: Publisher) -> None:
    """After our records are out: of two that start together, the later one then finds the earlier. Where the
    directory is there only later, once more: whoever waits for us tries ever more seldom."""
    with trio.move_on_after(GREET_WAIT):  # without an address of our own we can still come to theirs
        await publisher.first_round.wait()
    await links.greet_all()
    if publisher.was_shut_out:
        await publisher.first_stored.wait()
        await links.greet_all()


async def _watch_links(links: LinkRegistry, publisher: Publisher) -> None:
    """Contacts whose link has ended must find us again."""
    while True:
        seen = links.changed.count
        await links.changed.beyond(seen)
        publisher.look_again()


async def _watch_host(
    host: OverlayHost,
    links: LinkRegistry,
    publisher: Publisher,
    changed: Pulse,
    *,
    task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Passes on what the overlay notices: new addresses, and connections over which a link may run better."""
    moved = Pulse()
    was_cut = was_reached = False
    async with host.events() as events, trio.open_nursery() as nursery:
        nursery.start_soon(_greet_again, links, publisher, moved)
        task_status.started()
        async for event in events:
            if isinstance(event, AddressesChanged):
                changed.fire()
                publisher.look_again()
                is_reached = any(is_public(a) or is_circuit(a) for a in host.listen_addresses())
                if was_cut and is_reached:  # no change of network, but of what is behind it: a router was off, say
                    moved.fire()
                was_cut = was_reached and not is_reached
                was_reached = was_reached or is_reached
                nursery.start_soon(links.network_changed)
            elif isinstance(event, Connected):
                nursery.start_soon(links.use_better_path, event.connection)
            elif isinstance(event, NetworkChanged):
                links.moved()
                publisher.look_again()
                moved.fire()


async def _greet_again(links: LinkRegistry, publisher: Publisher, moved: Pulse) -> None:
    """On another network, as after a start, every contact is told where we are now."""

    async def until_moved(seen: int, scope: trio.CancelScope) -> None:
        await trio.sleep(NETWORK_GREET_PAUSE)
        await moved.beyond(seen)
        scope.cancel()  # a round that is still dialling begins anew: with those seen last

    seen = moved.count
    while True:
        await moved.beyond(seen)
        seen = moved.count
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_moved, seen, nursery.cancel_scope)
            await publisher.caught_up()
            await links.greet_all()
            nursery.cancel_scope.cancel()
