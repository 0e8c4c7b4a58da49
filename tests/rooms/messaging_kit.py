"""Two nodes' messaging rooms on real database files, joined by links that really encode and decode every frame.

A `Wire` is one link seen from outside: it can hold bytes back, let through any number of frames, and be cut.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import apsw
import trio
from p2pe.core import codec
from p2pe.errors import LinkClosed, Unreachable
from p2pe.messaging.courier import Couriers
from p2pe.messaging.expiry import Expiry
from p2pe.messaging.inbox import Inbox
from p2pe.messaging.outbox import Outbox
from p2pe.messaging.receiver import Receiver
from p2pe.messaging.signals import Signals
from p2pe.model import ContactId, Frame, IdentityKey, Millis, PathKind
from p2pe.ports import Net, World
from p2pe.storage.database import Database, open_database

T = TypeVar("T")
RECEIPT_KEY = b"receipt key of the pair (32 byte)"[:32]
NAMES = ("alice", "bob")
START = 1_700_000_000_000


class TestClock:
    """Wall-clock time that follows trio's clock, and can be put forward."""

    __test__ = False
    shift = 0

    def now(self) -> Millis:
        return Millis(START + self.shift + round(trio.current_time() * 1000) % 1_000_000_000)


def make_world(seed: int = 0, *, threads: bool = False) -> World:
    stream = random.Random(seed)

    async def inline(work: Callable[[], T], /) -> T:
        await trio.lowlevel.cancel_shielded_checkpoint()
        return work()

    async def elsewhere(work: Callable[[], T], /) -> T:
        return await trio.to_thread.run_sync(work)

    net: Net = None  # type: ignore[assignment]  # messaging never touches it
    return World(TestClock(), stream.randbytes, net, elsewhere if threads else inline)


class Direction:
    """Frames on their way to one end. `allowed` is how many may still arrive; None: all."""

    def __init__(self) -> None:
        self.under_way: deque[bytes] = deque()
        self.allowed: int | None = None
        self.cut = False
        self.seen: list[Frame] = []  # what arrived
        self._changed = trio.lowlevel.ParkingLot()

    def touch(self) -> None:
        self._changed.unpark_all()

    def put(self, raw: bytes) -> None:
        self.under_way.append(raw)
        self.touch()

    async def get(self) -> Frame:
        await trio.lowlevel.checkpoint()
        while True:
            if self.under_way and self.allowed != 0:
                if self.allowed is not None:
                    self.allowed -= 1
                frame = codec.decode_frame(self.under_way.popleft())
                self.seen.append(frame)
                return frame
            if self.cut:
                raise LinkClosed("cut")
            await self._changed.park()


class Wire:
    """A link between two nodes. End 0 is the dialer's. With a `budget`, a relay's circuit: it is cut, and what is under
    way lost, once so many bytes were written in both directions together."""

    def __init__(self, budget: int | None = None) -> None:
        self.towards = (Direction(), Direction())
        self.ends = (PipeLink(self, 0), PipeLink(self, 1))
        self.budget = budget

    def spend(self, size: int) -> bool:
        """False when that cut the link."""
        if self.budget is None:
            return True
        self.budget -= size
        if self.budget < 0:
            for each in self.towards:
                each.under_way.clear()
            self.cut()
        return self.budget >= 0

    def hold(self) -> None:
        for each in self.towards:
            each.allowed = 0

    def let_through(self, towards: int, frames: int | None) -> None:
        direction = self.towards[towards]
        if frames is None:
            direction.allowed = None
        else:
            direction.allowed = (direction.allowed or 0) + frames
        direction.touch()

    def cut(self) -> None:
        """What was let through still arrives; the rest is lost."""
        for each in self.towards:
            each.cut = True
            each.touch()

    @property
    def dead(self) -> bool:
        return self.towards[0].cut


class PipeLink:
    """ports.Link over a Wire."""

    contact_id = ContactId(1)

    @property
    def path(self) -> PathKind:
        return PathKind.DIRECT if self.wire.budget is None else PathKind.RELAYED

    def __init__(self, wire: Wire, end: int) -> None:
        self.wire = wire
        self.end = end
        self.peer_identity = IdentityKey(bytes([1 - end]) * 32)
        self.receipt_key = RECEIPT_KEY
        self.established_at = Millis(START)

    async def send(self, frames: tuple[Frame, ...]) -> None:
        await trio.lowlevel.checkpoint()
        if self.wire.dead:
            raise LinkClosed("cut")
        for each in frames:
            raw = codec.encode_frame(each)
            if not self.wire.spend(len(raw)):
                raise LinkClosed("cut by the relay")
            self.wire.towards[1 - self.end].put(raw)
            if self.wire.budget is not None:
                await trio.lowlevel.checkpoint()  # the other side reads while we write

    async def receive(self) -> Frame:
        return await self.wire.towards[self.end].get()

    async def aclose(self) -> None:
        self.wire.cut()
        await trio.lowlevel.checkpoint()


class Node:
    """One person's messaging room, running. The other is contact 1."""

    def __init__(self, index: int, database: Database, world: World, nursery: trio.Nursery, pair: Pair) -> None:
        self.index = index
        self.database = database
        self.world = world
        self.nursery = nursery
        self.pair = pair
        self.signals = Signals()
        self.couriers = Couriers(database, world, self.signals)
        self.receiver = Receiver(database, world, self.signals, self.couriers)
        self.outbox = Outbox(database, world, self.signals, self.couriers, b"k" * 32)
        self.inbox = Inbox(database, world, self.signals, self.couriers)
        self.expiry = Expiry(database, world, self.signals)

    @property
    def peer(self) -> str:
        return NAMES[1 - self.index]

    # ports.Links
    def current(self, contact_id: ContactId) -> PipeLink | None:
        raise NotImplementedError

    async def get(self, contact_id: ContactId) -> PipeLink:
        await trio.lowlevel.checkpoint()
        self.pair.dials += 1
        return self.pair.connect(self.index).ends[0]

    async def query(self, sql: str, *values: Any) -> Any:
        return await self.database.read(lambda tx: tx.execute(sql, values).fetchall())


class Pair:
    """Both nodes, and whether they can reach each other."""

    def __init__(self, directory: Path, *, key: bytes | None = None, threads: bool = False) -> None:
        self.directory = directory
        self.key = key
        self.threads = threads
        self.nodes: list[Node | None] = [None, None]
        self.online = True
        self.budget: int | None = None  # bytes that each new link carries before it is cut
        self.holding = False
        self.dials = 0
        self.wires: list[Wire] = []
        self._starts = 0

    def path(self, index: int) -> Path:
        return self.directory / f"{NAMES[index]}.db"

    def connect(self, dialer: int) -> Wire:
        """A new link, served at both ends. Raises Unreachable."""
        ours, theirs = self.nodes[dialer], self.nodes[1 - dialer]
        if ours is None or theirs is None or not self.online:
            raise Unreachable(f"no address of {NAMES[1 - dialer]} answered")
        wire = Wire(self.budget)
        wire.ends[0].peer_identity = IdentityKey(bytes([1 - dialer]) * 32)
        wire.ends[1].peer_identity = IdentityKey(bytes([dialer]) * 32)
        if self.holding:
            wire.hold()
        self.wires.append(wire)
        ours.nursery.start_soon(_serve, ours, wire, 0)
        theirs.nursery.start_soon(_serve, theirs, wire, 1)
        return wire

    def cut_all(self) -> None:
        for each in self.wires:
            each.cut()

    @asynccontextmanager
    async def node(self, index: int, wrap: Callable[[Database], Any] = lambda each: each) -> AsyncIterator[Node]:
        """Runs one node; leaving the block is a crash: whatever it was doing stops where it is."""
        self._starts += 1
        world = make_world(1000 * self._starts + index, threads=self.threads)
        async with open_database(self.path(index), self.key, world) as database:
            await database.write(lambda tx: add_contact(tx, NAMES[1 - index], 1 - index))
            async with trio.open_nursery() as nursery:
                node = Node(index, wrap(database), world, nursery, self)
                await nursery.start(node.couriers.run, node)
                self.nodes[index] = node
                try:
                    yield node
                finally:
                    self.nodes[index] = None
                    self.cut_all()
                    nursery.cancel_scope.cancel()


async def _serve(node: Node, wire: Wire, end: int) -> None:
    try:
        await node.receiver.serve(wire.ends[end])
    finally:
        wire.cut()


def add_contact(tx: apsw.Connection, name: str, index: int) -> None:
    tx.execute(
        """INSERT OR IGNORE INTO contacts (id, name, identity_key, pair_secret, rotated_at, list_version,
                                           protocol_version, paired_at) VALUES (1, ?, ?, x'00', 0, 0, 1, 0)""",
        (name, bytes([index]) * 32),
    )


@asynccontextmanager
async def both(directory: Path, **options: Any) -> AsyncIterator[tuple[Pair, Node, Node]]:
    pair = Pair(directory, **options)
    async with pair.node(0) as alice, pair.node(1) as bob:
        yield pair, alice, bob


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Polls a real condition; fails when it doesn't come true."""
    with trio.fail_after(seconds):
        while not await condition():  # noqa: ASYNC110  # the database can't set an event
            await trio.sleep(0.005)


async def texts(node: Node) -> list[str]:
    """Everything in the inbox, in order."""
    out: list[str] = []
    after = 0
    while page := await node.inbox.list(after=after):
        out += [each.content.text for each in page]
        after = page[-1].row
    return out
