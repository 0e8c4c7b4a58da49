"""A running node: every room opened in order, wired in one place, and closed in reverse.

    database > host > directory > messaging > links > couriers, expiry, pairing > control API

`run` is the whole, from the locked home on; `run_node` begins with an unlocked identity. Both give `Services`
through their task status once the node is ready, and end when they are cancelled: with goodbyes to the contacts,
the ports closed and the database's log written back.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import structlog
import trio

from p2pe.app_home import DEFAULT_LISTEN, SEALED, UNSEALED, Settings
from p2pe.config import KAD_STORE_PERSON, PEERS_SAVE_SECONDS, RESTART_FIRST_SECONDS, RESTART_MAX_SECONDS
from p2pe.connectivity.nearby import Nearby
from p2pe.connectivity.service import Connectivity, open_links
from p2pe.contacts.book import Book
from p2pe.contacts.devices import Devices
from p2pe.contacts.pairing import Pairing
from p2pe.contacts.recovery import Recovery
from p2pe.contacts.replacing import replace_contact
from p2pe.contacts.requests import Requests
from p2pe.contacts.rotator import Rotator
from p2pe.control.server import serve
from p2pe.control.services import Services
from p2pe.control.shapes import OverlayShape
from p2pe.core.addresses import split_peer, with_peer
from p2pe.core.advice import Own
from p2pe.core.paths import RelayPolicy
from p2pe.core.serving import ServingChoice
from p2pe.errors import StorageError, UsageError
from p2pe.identity.keyfile import is_sealed
from p2pe.identity.keyring import open_identity
from p2pe.identity.keys import Identity
from p2pe.messaging.courier import Couriers
from p2pe.messaging.expiry import Expiry
from p2pe.messaging.inbox import Inbox
from p2pe.messaging.outbox import Outbox
from p2pe.messaging.receiver import FrameHandler, Receiver
from p2pe.messaging.resend import Resender
from p2pe.messaging.signals import Signals
from p2pe.model import Frame, PeerInfo, Rotation
from p2pe.overlay.dht import Dht, Mode, open_dht
from p2pe.overlay.dht_view import DhtView
from p2pe.overlay.host import OverlayHost, open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.netwatch import watch_network
from p2pe.overlay.portmap import PortMapper
from p2pe.overlay.reach import Reach, RelaysKnown, open_reach
from p2pe.overlay.serving import serve_while_reachable
from p2pe.overlay.world import real_world
from p2pe.ports import World
from p2pe.rendezvous.recovery import RecoveryRecords
from p2pe.storage import peers
from p2pe.storage.database import Database, open_database

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

_log: Final = structlog.get_logger(__name__)
OpenDatabase = Callable[[], AbstractAsyncContextManager[Database]]
Work = Callable[..., Awaitable[None]]  # takes a task status


async def run(
    settings: Settings,
    world: World | None = None,
    passphrase: str | None = None,
    *,
    task_status: TaskStatus[Services] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Locks the home, unlocks the identity, and runs the node until cancelled. Raises what keeps it from starting."""
    world = world or real_world()
    with settings.home.lock():
        identity = await world.threads(lambda: open_identity(settings.home, passphrase))
        await run_node(settings, world, identity, task_status=task_status)


async def run_node(
    settings: Settings,
    world: World | None,
    identity: Identity,
    *,
    open_db: OpenDatabase | None = None,
    control: bool = True,
    task_status: TaskStatus[Services] = trio.TASK_STATUS_IGNORED,
) -> None:
    """A node with an unlocked identity, until cancelled. The caller holds the home's lock.

    `open_db` brings another disk and `control` False leaves the socket out: for simulations.
    """
    world = world or real_world()
    if open_db is None:
        open_db = partial(open_database, settings.home.database, identity.database_key, world)
    async with (
        open_db() as database,
        open_host(world, key=HostKey.generate(world.entropy)) as host,
    ):
        await _listen(host, settings)
        seeds = await database.read(peers.load)
        async with (
            _open_dht(host, world, settings, seeds) as dht,
            open_reach(host, settings.relay, lambda: _relays(settings, dht)) as reach,
        ):
            outside = _Outside(settings, world, identity, database, host, dht, reach)
            signals = Signals()
            couriers = Couriers(database, world, signals)
            rotation: dict[type[Frame], FrameHandler] = {}  # filled below: the links come first
            receiver = Receiver(database, world, signals, couriers, rotation)
            async with (
                open_links(
                    world,
                    host,
                    dht,
                    database,
                    identity,
                    on_link=receiver.serve,
                    relay_policy=settings.relay,
                    settled=reach.settled,
                    puncher=reach.puncher,
                    relays=reach.relay,
                ) as connectivity,
                trio.open_nursery() as nursery,
            ):
                connectivity.links.on_new_device = partial(couriers.wake, others=True)
                rotator = Rotator(world, database, connectivity.roster, connectivity.links)
                rotation[Rotation] = rotator.handle
                services, parts = _rooms(outside, connectivity, signals, couriers)
                for name, work in {**parts, "rotation": rotator.run}.items():
                    await nursery.start(supervise, name, work)
                nursery.start_soon(_look_again_when_moved, connectivity, couriers)
                nursery.start_soon(_keep_peers, database, world, dht)
                if control:
                    await nursery.start(supervise, "control", partial(serve, services, settings.home.socket))
                if settings.metrics is not None:
                    from p2pe.control.metrics import run_metrics  # and the Prometheus client, for those who ask

                    await nursery.start(supervise, "metrics", partial(run_metrics, services, *settings.metrics))
                task_status.started(services)
                await trio.sleep_forever()


@dataclass(frozen=True, slots=True)
class _Outside:
    """What the upper rooms stand on, opened and running."""

    settings: Settings
    world: World
    identity: Identity
    database: Database
    host: OverlayHost
    dht: Dht
    reach: Reach


def _rooms(
    outside: _Outside, connectivity: Connectivity, signals: Signals, couriers: Couriers
) -> tuple[Services, dict[str, Work]]:
    """The upper rooms, wired: what the control API serves, and the tasks to supervise, in the order of their start."""
    settings, world, identity = outside.settings, outside.world, outside.identity
    database, host, dht, reach = outside.database, outside.host, outside.dht, outside.reach
    roster, links = connectivity.roster, connectivity.links
    pairing = Pairing(
        world,
        host,
        dht,
        database,
        identity,
        connectivity,
        bootstrap=lambda: settings.bootstrap or _servers(dht),
        learn_bootstrap=dht.learn_bootstrap,
    )
    records = RecoveryRecords(world, dht)
    requests = Requests(world, host, database, identity, connectivity, records)
    uses_lan = world.lan and settings.lan and settings.relay is not RelayPolicy.ONLY
    mapper = PortMapper(host) if uses_lan else None
    services = Services(
        version=version("p2pe"),
        pid=os.getpid(),
        home=str(settings.home.path),
        started_at=world.clock.now(),
        identity_key=identity.identity_key,
        key_protection=SEALED if is_sealed(settings.home.keys) else UNSEALED,
        now=world.clock.now,
        overlay=lambda: _overlay(host, dht, reach, mapper),
        directory=DhtView(dht),
        own_reach=lambda: _own_reach(dht, reach),
        book=Book(database, roster, links),
        pairing=pairing,
        requests=requests,
        replace_contact=partial(replace_contact, world, database, pairing),
        devices=Devices(world, settings.home, identity, database, roster, links),
        links=links,
        couriers=couriers,
        outbox=Outbox(database, world, signals, couriers, identity.k_msgid),
        inbox=Inbox(database, world, signals, couriers),
        resender=Resender(database, world, signals, couriers, identity.k_msgid),
    )
    parts: dict[str, Work] = {
        "couriers": partial(couriers.run, links),
        "expiry": Expiry(database, world, signals).run,
        "pairing": pairing.run,
        "requests": requests.run,
        "recovery": Recovery(world, host, database, identity, connectivity, records).run,
        "network": partial(watch_network, host),
    }
    if settings.directory is ServingChoice.AUTO and settings.relay is not RelayPolicy.ONLY:
        parts["serving"] = partial(serve_while_reachable, host, dht, reach)
    if mapper is not None:
        parts["port mapping"] = mapper.run
        parts["local network"] = Nearby(world, host, roster, links).run
    return services, parts


def _open_dht(
    host: OverlayHost, world: World, settings: Settings, seeds: Sequence[PeerInfo]
) -> AbstractAsyncContextManager[Dht]:
    mode: Mode = "server" if settings.directory is ServingChoice.SERVER else "client"
    return open_dht(host, world, mode=mode, bootstrap=settings.bootstrap, seeds=seeds, max_records=KAD_STORE_PERSON)


async def _listen(host: OverlayHost, settings: Settings) -> None:
    """Addresses that were asked for must work; of the defaults one is enough (a machine without IPv6).

    With relay = only there is no port at all: whoever found it open would know the address that is to be hidden.
    """
    if settings.relay is RelayPolicy.ONLY:
        if settings.listen:
            _log.warning("not listening: with relay = only everybody comes through a relay", asked=settings.listen)
        return
    refused: list[str] = []
    for address in settings.listen or DEFAULT_LISTEN:
        try:
            await host.listen(address)
        except OSError as error:
            if settings.listen:
                raise UsageError(f"can't listen on {address}: {error.strerror or error}") from error
            refused.append(f"{address}: {error.strerror or error}")
    if len(refused) == len(DEFAULT_LISTEN):
        raise UsageError(f"can't listen anywhere ({'; '.join(refused)})")


def _relays(settings: Settings, dht: Dht) -> RelaysKnown:
    plain = [text for text in settings.bootstrap if not text.startswith("/dnsaddr/")]  # those come with the directory
    named = [PeerInfo(peer_id, (address,)) for address, peer_id in map(split_peer, plain)]
    return RelaysKnown([*named, *dht.upkeep.bootstrap_peers], dht.peers())


def _overlay(host: OverlayHost, dht: Dht, reach: Reach, mapper: PortMapper | None) -> OverlayShape:
    status = reach.status()
    return {
        "peer_id": str(host.peer_id),
        "listen": list(host.listen_addresses()),
        "connections": len(host.connections()),
        "directory_peers": len(dht.peers()),
        "directory_mode": dht.mode,
        "records_refused": dht.records_refused,
        "reachability": {
            "reachable": status.reachable.value,
            "relay_policy": status.policy.value,
            "nat": status.nat.value,
            "port_kept": status.port_kept,
            "port_mapping": "off" if mapper is None else mapper.describe(),
            "verified": list(status.verified),
            "observed": list(status.observed),
            "relays": [{"peer_id": str(peer), "address": address} for peer, address in status.relays],
        },
    }


def _own_reach(dht: Dht, reach: Reach) -> Own:
    status = reach.status()
    return Own(status.policy, status.reachable, status.nat, len(status.relays), len(dht.peers()), dht.records_refused)


def _servers(dht: Dht) -> tuple[str, ...]:
    """Directory servers that answer, as bootstrap addresses: for the links of a node that was given none."""
    return tuple(with_peer(peer.addresses[0], peer.peer_id) for peer in dht.peers() if peer.addresses)


async def _look_again_when_moved(connectivity: Connectivity, couriers: Couriers) -> None:
    """Who was out of reach may not be any more once our own addresses are others."""
    while True:
        await connectivity.addresses_changed.beyond(connectivity.addresses_changed.count)
        couriers.look_again()


async def _keep_peers(database: Database, world: World, dht: Dht) -> None:
    """Notes now and then which directory servers answer, so that the next start needs no bootstrap node."""
    while True:
        await trio.sleep(PEERS_SAVE_SECONDS)
        known = dht.peers()
        if known:
            try:
                await database.write(partial(peers.save, peers=known, now=world.clock.now()))
            except StorageError as problem:
                _log.warning("known directory servers couldn't be noted", problem=str(problem))


async def supervise(
    name: str,
    work: Work,
    *,
    task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Runs `work` (which has a task status) for ever. What it raises while starting is the caller's. Later a defect
    in one room is logged, and that room begins anew after a pause: the others, and whoever talks to them, go on."""
    pause = RESTART_FIRST_SECONDS
    started = False
    while True:
        began = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(work)
                if not started:
                    started = True
                    task_status.started()
        except Exception as defect:  # the one place: see the docstring
            if not started:
                raise
            _log.error("a part of the node failed; it begins anew", part=name, pause=pause, exc_info=defect)
        if trio.current_time() - began > RESTART_MAX_SECONDS:
            pause = RESTART_FIRST_SECONDS
        await trio.sleep(pause)
        pause = min(2 * pause, RESTART_MAX_SECONDS)
