"""People's nodes for the tests of rendezvous, connectivity and pairing: real hosts on loopback sockets, real
encrypted databases in files, one directory. All in one process, each with a clock that tests may move."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import trio
from p2pe.config import RECORD_REFRESH
from p2pe.connectivity.service import Connectivity, open_links
from p2pe.contacts.book import Book
from p2pe.contacts.pairing import Pairing, open_pairing
from p2pe.core.certificate import make_certificate
from p2pe.core.paths import RelayPolicy
from p2pe.core.records import check_record
from p2pe.errors import LinkClosed, RemoteError, Unreachable
from p2pe.identity.keys import DeviceKeys, Identity, RootKeys
from p2pe.messaging.receiver import FrameHandler
from p2pe.model import Address, Contact, ContactId, Frame, IdentityKey, Millis
from p2pe.overlay.dht import Dht, open_dht
from p2pe.overlay.host import OverlayHost, open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.net import RealNet
from p2pe.ports import Directory, Link, World
from p2pe.storage import contacts
from p2pe.storage.database import Database, open_database
from p2pe.storage.migrations import Tx

T = TypeVar("T")
LOOPBACK = Address("/ip4/127.0.0.1/tcp/0")
START = Millis(1_800_000_000_000)


class MovableClock:
    """Trio's clock plus an offset that tests set: `now` in Unix milliseconds."""

    def __init__(self) -> None:
        self.offset = 0.0  # seconds

    def now(self) -> Millis:
        return Millis(START + round(1000 * (trio.current_time() % 10**6 + self.offset)))


class WorkerThreads:
    async def __call__(self, work: Callable[[], T], /) -> T:
        return await trio.to_thread.run_sync(work)


class MemoryDirectory:
    """A directory with the rules of a DHT server: one record a key, the highest sequence, none expired."""

    def __init__(self, clock: MovableClock) -> None:
        self.clock = clock
        self.records: dict[bytes, bytes] = {}
        self.is_down = False
        self.published = 0
        self.looked_up = 0
        self.refresh = float(RECORD_REFRESH)
        self.seconds = 0.0  # that a publication takes

    def refresh_seconds(self) -> float:
        return self.refresh

    async def publish(self, key: bytes, record: bytes) -> int:
        await trio.sleep(self.seconds)
        if self.is_down:
            raise Unreachable("no DHT server answers")
        new = check_record(key, record, self.clock.now())
        old = self.records.get(key)
        self.published += 1
        if old is None or self._sequence(key, old) <= new.sequence:
            self.records[key] = record
        return 1

    def _sequence(self, key: bytes, raw: bytes) -> int:
        try:
            return check_record(key, raw, self.clock.now()).sequence
        except RemoteError:  # it has expired
            return 0

    async def lookup(self, key: bytes) -> tuple[bytes, ...]:
        await trio.lowlevel.checkpoint()
        if self.is_down:
            raise Unreachable("no DHT server answers")
        self.looked_up += 1
        raw = self.records.get(key)
        if raw is None:
            return ()
        try:
            check_record(key, raw, self.clock.now())
        except RemoteError:
            return ()
        return (raw,)


def make_identity(clock: MovableClock, seed: bytes | None = None) -> Identity:
    root = RootKeys.from_seed(seed or os.urandom(32))
    device = DeviceKeys.generate(os.urandom)
    return Identity(
        identity_key=root.identity_key,
        device_private=device.private,
        device_public=device.public,
        certificate=make_certificate(root.signing_seed, device.public, 1, clock.now()),
        k_ticket=root.k_ticket,
        k_msgid=root.k_msgid,
        database_key=os.urandom(32),
    )


class Gate:
    """While shut, what comes over links isn't read."""

    def __init__(self) -> None:
        self._open = trio.Event()
        self._open.set()

    def shut(self) -> None:
        self._open = trio.Event()

    async def wait(self) -> None:
        await self._open.wait()


@dataclass
class Node:
    """One person's running node. `frames` is what came over links, `links` every link that was served."""

    world: World
    clock: MovableClock
    identity: Identity
    host: OverlayHost
    database: Database
    connectivity: Connectivity
    pairing: Pairing
    book: Book
    links: list[Link]
    frames: list[Frame]
    gate: Gate
    handlers: dict[type[Frame], FrameHandler]  # who takes frames of a kind, instead of `frames`

    async def contact_id(self, name: str) -> ContactId:
        return (await self.book.find(name)).id

    def is_linked(self, contact: Contact) -> bool:
        return self.connectivity.links.is_linked(contact.id)


@dataclass
class Person:
    """Somebody with a home: their node can be stopped and started again."""

    path: Path
    directory: MemoryDirectory
    name: str
    identity: Identity
    clock: MovableClock
    policy: RelayPolicy = RelayPolicy.FALLBACK
    bootstrap: tuple[str, ...] = ()
    learnt: list[str] = field(default_factory=list)
    listen: tuple[Address, ...] = (LOOPBACK,)
    servers: tuple[str, ...] | None = None  # bootstrap addresses of a real DHT; None: the directory in memory

    @asynccontextmanager
    async def run(self, *, greet: bool = True) -> AsyncIterator[Node]:
        world = World(clock=self.clock, entropy=os.urandom, net=RealNet(), threads=WorkerThreads())
        served: list[Link] = []
        frames: list[Frame] = []
        gate = Gate()
        handlers: dict[type[Frame], FrameHandler] = {}

        async def on_link(link: Link) -> None:
            served.append(link)
            try:
                while True:
                    await gate.wait()
                    frame = await link.receive()
                    if type(frame) in handlers:
                        await handlers[type(frame)](link, frame)
                    else:
                        frames.append(frame)
            except LinkClosed:
                return

        async with AsyncExitStack() as stack:
            database = await stack.enter_async_context(open_database(self.path, self.identity.database_key, world))
            host = await stack.enter_async_context(
                open_host(world, key=HostKey.generate(os.urandom), listen=self.listen)
            )
            directory: Directory = self.directory
            dht: Dht | None = None
            if self.servers is not None:
                dht = await stack.enter_async_context(open_dht(host, world, mode="client", bootstrap=self.servers))
                directory = dht

            async def learn(addresses: Sequence[str]) -> None:
                self.learnt.extend(addresses)
                if dht is not None:
                    await dht.learn_bootstrap(addresses)

            connectivity = await stack.enter_async_context(
                open_links(
                    world,
                    host,
                    directory,
                    database,
                    self.identity,
                    on_link=on_link,
                    relay_policy=self.policy,
                    greet=greet,
                )
            )
            pairing = await stack.enter_async_context(
                open_pairing(
                    world,
                    host,
                    directory,
                    database,
                    self.identity,
                    connectivity,
                    bootstrap=lambda: self.bootstrap,
                    learn_bootstrap=learn,
                    own_name=self.name,
                )
            )
            book = Book(database, connectivity.roster, connectivity.links)
            yield Node(
                world,
                self.clock,
                self.identity,
                host,
                database,
                connectivity,
                pairing,
                book,
                served,
                frames,
                gate,
                handlers,
            )


class People:
    """Makes persons who share a directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = MovableClock()
        self.directory = MemoryDirectory(self.clock)

    def person(self, name: str, *, seed: bytes | None = None) -> Person:
        path = self.folder / f"{name}.db"
        return Person(path, self.directory, name, make_identity(self.clock, seed), self.clock)


async def acquaint(
    one: Node, one_name: str, other: Node, other_name: str, secret: bytes | None = None, *, list_version: int = 0
) -> None:
    """Makes two nodes contacts without a pairing: `one` is called `one_name` by the other."""
    shared = secret or os.urandom(32)
    for node, name, peer in ((one, other_name, other), (other, one_name, one)):
        key: IdentityKey = peer.identity.identity_key

        def add(tx: Tx, name: str = name, key: IdentityKey = key) -> ContactId:
            return contacts.add(
                tx, name=name, identity_key=key, pair_secret=shared, paired_at=START, list_version=list_version
            )

        contact_id = await node.database.write(add)
        await node.connectivity.roster.reload(contact_id)


async def all_published(*nodes: Node) -> None:
    """Waits until each node has published where it is for each of its contacts. (Near midnight that is two records
    a contact: counting records won't do.)"""

    def is_done(node: Node) -> bool:
        schedules = node.connectivity.publisher._schedules
        active = node.connectivity.roster.active()
        return all(each.contact_id in schedules and schedules[each.contact_id].published for each in active)

    await until(lambda: all(is_done(node) for node in nodes))


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Waits for a real condition, with a deadline."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - any condition, of any part
            await trio.sleep(0.005)


async def until_async(condition: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    with trio.fail_after(seconds):
        while not await condition():  # noqa: ASYNC110 - as above
            await trio.sleep(0.01)
