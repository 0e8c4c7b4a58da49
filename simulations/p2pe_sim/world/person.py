"""A person of a run: one identity, one machine with its disk, and the production node on it, started and stopped."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final, TypeVar

import apsw
import trio
from p2pe.app import OpenDatabase, run_node
from p2pe.app_home import Settings
from p2pe.control.services import Services
from p2pe.core.certificate import make_certificate
from p2pe.core.paths import RelayPolicy
from p2pe.identity.home import Home
from p2pe.identity.keyfile import DeviceBox, write_keys
from p2pe.identity.keys import DeviceKeys, Identity, RootKeys
from p2pe.model import Address, IdentityKey, PeerId
from p2pe.overlay.identify import agent_version
from p2pe.overlay.wire_addresses import address_from_bytes, address_to_bytes
from p2pe.ports import Link, World
from p2pe.storage import contacts
from p2pe.storage.database import Database, open_database

from p2pe_sim import plan
from p2pe_sim.world.clock import VirtualClock
from p2pe_sim.world.disk import Disk, Mount
from p2pe_sim.world.machine import Machine, ProcessNet
from p2pe_sim.world.net import Internet
from p2pe_sim.world.observe import Commit, Observer, everything
from p2pe_sim.world.randomness import Randomness

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

    from p2pe_sim.world.watch import Watch

T = TypeVar("T")
_KEY_BYTES: Final = 32
DATABASE: Final = "p2pe.db"
LISTEN: Final = (Address("/ip4/0.0.0.0/tcp/4001"),)
_PEER: Final = f"/p2p/{PeerId(bytes([0x12, 0x20, *bytes(32)]))}"
_EXAMPLES: Final = (f"/ip4/192.0.2.1/tcp/1{_PEER}/p2p-circuit{_PEER}", f"/ip6/2001:db8::1/tcp/1{_PEER}")
RESTART_SECONDS: Final = 5.0  # what a service manager waits before it starts a node again that couldn't start


async def inline(work: Callable[[], T], /) -> T:
    """ports.Threads without threads: under a clock that jumps, time would leap while a thread works."""
    await trio.lowlevel.cancel_shielded_checkpoint()
    return work()


@cache
def empty_database() -> bytes:
    """The file of a database that was just made. Made once, and inherited by every forked run."""
    disk = Disk("template", Random(0))
    mount = disk.mount()

    async def make() -> None:
        async with open_database(DATABASE, None, None, vfs=mount.name, exclusive=True):
            pass

    trio.run(make)
    return disk.copy_of(DATABASE) or b""


@cache
def _home() -> Home:
    """A home for Settings: its key file is asked whether it is sealed, and nothing more."""
    folder = Path(tempfile.mkdtemp(prefix="p2pe-sim-"))
    box = DeviceBox(bytes(_KEY_BYTES), b"", bytes(_KEY_BYTES), bytes(_KEY_BYTES), bytes(_KEY_BYTES))
    write_keys(folder / "keys", None, box, bytes(_KEY_BYTES), bytes)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Home(folder)


def prepare() -> None:
    """What every run needs, made before the first fork."""
    empty_database()
    _home()
    agent_version()
    for text in _EXAMPLES:  # a codec of the multiaddr library is imported when it is first needed
        address_from_bytes(address_to_bytes(text))


class CutOff(Exception):
    """The node ended before it had answered, or wasn't running."""


class Process:
    """One run of a node, from its start to its end."""

    def __init__(self, net: ProcessNet, mount: Mount) -> None:
        self.net = net
        self.mount = mount
        self.scope = trio.CancelScope()
        self.services: Services | None = None
        self.nursery: trio.Nursery
        self.ended = trio.Event()

    @property
    def is_alive(self) -> bool:
        return self.net.is_alive and not self.ended.is_set()


class Person:
    """Made once a run. `start`, `stop`, `crash`; while it is up, `services` is the node's."""

    def __init__(
        self,
        node: plan.Node,
        machine: Machine,
        internet: Internet,
        randomness: Randomness,
        clock: VirtualClock,
        bootstrap: tuple[str, ...],
    ) -> None:
        self.name = node.name
        self.machine = machine
        self.clock = clock
        self.disk = Disk(node.name, randomness.stream("disk", node.name))
        self.generation = 0  # of the identity: grows with each reinstallation
        self.starts = 0
        self.process: Process | None = None
        self.up = trio.Event()  # set while `services` may be used; replaced at each end
        self.down_since: float | None = 0.0
        self.down_spans: list[tuple[float, float]] = []
        self._internet = internet
        self._randomness = randomness
        self._settings = Settings(_home(), LISTEN, bootstrap, RelayPolicy(node.relay))
        self.identity = self._make_identity()
        self.disk.load(DATABASE, empty_database())

    def _make_identity(self) -> Identity:
        token = self._randomness.token
        root = RootKeys.from_seed(token("root", self.name, self.generation))
        device = DeviceKeys.from_private(token("device", self.name, self.generation))
        return Identity(
            identity_key=root.identity_key,
            device_private=device.private,
            device_public=device.public,
            certificate=make_certificate(root.signing_seed, device.public, 1, self.clock.epoch),
            k_ticket=root.k_ticket,
            k_msgid=root.k_msgid,
            database_key=token("database", self.name, self.generation),
        )

    @property
    def services(self) -> Services | None:
        process = self.process
        return process.services if process is not None and process.is_alive else None

    def befriend(self, others: list[tuple[str, IdentityKey, bytes]]) -> None:
        """Writes contacts as a pairing leaves them: (name, identity key, pair secret). Before the first start."""
        mount = self.disk.mount()
        connection = apsw.Connection(DATABASE, vfs=mount.name)
        connection.pragma("locking_mode", "exclusive")
        connection.execute("BEGIN")
        for name, key, secret in others:
            contacts.add(
                connection,
                name=name,
                identity_key=key,
                pair_secret=secret,
                paired_at=self.clock.epoch,
                list_version=1,
            )
        connection.execute("COMMIT")
        connection.close()

    # --- life ---

    async def run(self, watch: Watch) -> bool:
        """One process, to its end. False when it couldn't start, or died of a defect: it is to be started again."""
        self.starts += 1
        failed = False
        process = self.process = Process(ProcessNet(self._internet, self.machine), self.disk.mount())
        world = World(
            clock=self.clock,
            entropy=self._randomness.stream("entropy", self.name, self.starts).randbytes,
            net=process.net,
            threads=inline,
        )
        try:
            with process.scope:
                async with trio.open_nursery() as process.nursery:
                    nursery = process.nursery
                    opened = _open_observed(self, process, watch)
                    services = await nursery.start(_run_node, self._settings, world, self.identity, opened)
                    _watch_links(services, self, process, watch)
                    process.services = services
                    self._is_up()
                    watch.started(self)
                    self.up.set()
        except* Exception as group:  # noqa: BLE001 - whatever ends a node is a finding
            if process.is_alive:  # else: it was killed, and its unwinding means nothing
                failed = not process.scope.cancel_called  # whoever told it to end starts it again
                watch.died(self, group, process.services is not None)
        finally:
            if process.is_alive:
                process.net.kill()
            process.ended.set()
            if self.process is process:
                self._is_down()
        return not failed

    def _is_up(self) -> None:
        if self.down_since is not None:
            self.down_spans.append((self.down_since, trio.current_time()))
            self.down_since = None

    def _is_down(self) -> None:
        self.up = trio.Event()
        if self.down_since is None:
            self.down_since = trio.current_time()

    async def ask(self, work: Callable[[Services], Awaitable[T]]) -> T:
        """Has the node do something, as a request at its control socket does: in the process, and no longer than that
        lives. Raises CutOff, and whatever `work` raises."""
        process, services = self.process, self.services
        if process is None or services is None or process.scope.cancel_called:
            raise CutOff
        done = trio.Event()
        answers: list[T] = []
        problems: list[Exception] = []

        async def request() -> None:
            try:
                answers.append(await work(services))
            except Exception as problem:  # noqa: BLE001 - it is the asker's to judge
                problems.append(problem)
            finally:
                done.set()

        process.nursery.start_soon(request)
        await done.wait()
        if not process.is_alive or not (answers or problems):
            raise CutOff
        if problems:
            raise problems[0]
        return answers[0]

    async def stop(self) -> bool:
        """As with SIGTERM. False when it wasn't running."""
        process = self.process
        if process is None or not process.is_alive:
            return False
        process.scope.cancel()
        await process.ended.wait()
        return True

    def crash(self, *, power: bool) -> int:
        """As with SIGKILL, or as when the power fails. Returns what it took down: the process and its connections;
        0 when it wasn't running."""
        process = self.process
        if process is None or not process.is_alive:
            return 0
        process.mount.cut_off()
        took = 1 + process.net.kill(power=power)
        if power:
            self.disk.power_cut()
            self.machine.is_powered = False
        process.scope.cancel()
        self.process = None
        self._is_down()
        return took

    def reinstall(self) -> None:
        """A new installation with a new identity, and nobody who knows it. While it is down."""
        self.generation += 1
        self.identity = self._make_identity()
        self.disk.erase()
        self.disk.load(DATABASE, empty_database())


async def _run_node(
    settings: Settings,
    world: World,
    identity: Identity,
    opened: OpenDatabase,
    *,
    task_status: TaskStatus[Services] = trio.TASK_STATUS_IGNORED,
) -> None:
    await run_node(settings, world, identity, open_db=opened, control=False, task_status=task_status)


def _open_observed(person: Person, process: Process, watch: Watch) -> OpenDatabase:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Database]:
        async with open_database(DATABASE, None, None, vfs=process.mount.name, exclusive=True) as database:
            held = await database.read(everything)
            watch.secrecy.book.learn_cover(person.name, person.identity.k_msgid)
            watch.ledger.reopened(person.name, held.outgoing, held.incoming)
            for row in held.contacts:
                watch.contact_changed(person, row)

            def on_commit(commit: Commit) -> None:
                if process.is_alive:
                    is_durable = person.disk.is_clean
                    watch.ledger.committed(person.name, commit.outgoing, commit.incoming, is_durable=is_durable)
                    for row in commit.contacts:
                        watch.contact_changed(person, row)

            Observer(database, on_commit)
            yield database

    return opened


def _watch_links(services: Services, person: Person, process: Process, watch: Watch) -> None:
    """Notes when links come and go, where the courier learns of it."""
    couriers = services.couriers
    attach, detach = couriers.attach, couriers.detach

    def attached(link: Link) -> None:
        attach(link)
        if process.is_alive:
            watch.link_changed(person, link, is_up=True)

    def detached(link: Link) -> None:
        detach(link)
        if process.is_alive:
            watch.link_changed(person, link, is_up=False)

    couriers.attach = attached  # type: ignore[method-assign]
    couriers.detach = detached  # type: ignore[method-assign]
