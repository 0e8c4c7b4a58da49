"""One run: the machines and nodes of a plan, its timeline, and what is checked at the end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from p2pe.control.services import Services
from p2pe.errors import LocalError, NotFound, P2peError, StorageError
from p2pe.model import IdentityKey

from p2pe_sim.invariants.findings import Findings
from p2pe_sim.invariants.links import check_links
from p2pe_sim.invariants.liveness import check_liveness
from p2pe_sim.invariants.messages import Ledger
from p2pe_sim.invariants.secrecy import Secrecy
from p2pe_sim.plan import Fault, Friendship, Message, Node, Plan, Role
from p2pe_sim.world.clock import VirtualClock
from p2pe_sim.world.faults import Faults
from p2pe_sim.world.log import EventLog
from p2pe_sim.world.machine import LinkShape
from p2pe_sim.world.net import Internet
from p2pe_sim.world.person import RESTART_SECONDS, CutOff, Person
from p2pe_sim.world.randomness import Randomness
from p2pe_sim.world.server import DRAIN_SECONDS, Server
from p2pe_sim.world.watch import Watch

if TYPE_CHECKING:
    pass  # the installed trio-stubs know it under this name alone

RETRY_SECONDS: Final = 2.0  # before a person tries again what their node refused
RETRY_MAX: Final = 30.0
STOP_SECONDS: Final = 5.0  # for a node to end: GOODBYE_SECONDS, YAMUX_GOODBYE_SECONDS after it, and a commit
_JITTER: Final = 0.1  # of a link's latency


class Stage:
    """Set up by the constructor, played by `run`."""

    def __init__(self, plan: Plan, log: EventLog) -> None:
        self.plan = plan
        self.log = log
        self.randomness = Randomness(plan.seed)
        self.marker = "~" + self.randomness.token("marker").hex()[:14] + "~"
        self.texts = {message.id: self._text(message) for message in plan.messages}
        self.findings = Findings(log, plan.checks.safety)
        self.ledger = Ledger(self.findings, log, self.texts)
        self.watch = Watch(log, self.findings, self.ledger)
        self.internet = Internet(self.randomness)
        self.people: dict[str, Person] = {}
        self.servers: dict[str, Server] = {}
        self.ended_at = 0.0
        self._nursery: trio.Nursery
        self._set_up()
        self.faults = Faults(self)

    def _text(self, message: Message) -> str:
        """The plan's id of the message, the run's marker, and filling; at least as long as the first two are."""
        head = f"{message.id} {self.marker}"
        return head + "." * (message.size - len(head))

    def _set_up(self) -> None:
        internet, watch = self.internet, self.watch
        for node in self.plan.nodes:
            shape = LinkShape(node.latency, node.bandwidth, node.loss, node.latency * _JITTER)
            machine = internet.add(node.name, nat=node.nat, shape=shape)
            if node.role is Role.BOOTSTRAP:
                self.servers[node.name] = Server(node, machine, internet, self.randomness, self._clock(node))
        bootstrap = tuple(each for server in self.servers.values() for each in server.addresses)
        for node in self.plan.people():
            machine = internet.machines[node.name]
            self.people[node.name] = Person(node, machine, internet, self.randomness, self._clock(node), bootstrap)
        hidden = frozenset(node.name for node in self.plan.people() if node.relay == "only")
        machines = {name: person.machine for name, person in self.people.items()}
        watch.people = self.people
        pairs_later = any(each.at is not None for each in self.plan.friendships)
        watch.secrecy = Secrecy(
            self.findings, self.marker.encode(), machines, hidden, knows_all_records=not pairs_later
        )
        internet.taps.on_bytes.append(watch.on_bytes)
        internet.taps.on_attempt.append(watch.secrecy.on_attempt)
        self._befriend()

    def _clock(self, node: Node) -> VirtualClock:
        return VirtualClock(self.plan.begins_at, node.clock_skew)

    def _befriend(self) -> None:
        """Those who are paired before the world begins."""
        for name, person in self.people.items():
            friends = []
            for each in self.plan.friendships:
                if each.at is None and name in (each.one, each.other):
                    friend = self.people[each.other if name == each.one else each.one]
                    secret = self.randomness.token("pair", *sorted((each.one, each.other)))
                    friends.append((friend.name, friend.identity.identity_key, secret))
            if friends:
                person.befriend(friends)

    @property
    def nodes(self) -> dict[str, Person | Server]:
        return {**self.people, **self.servers}

    def down_spans(self) -> dict[str, list[tuple[float, float]]]:
        """When each node wasn't up, to the end."""
        spans = {}
        for name, node in self.nodes.items():
            spans[name] = list(node.down_spans)
            if node.down_since is not None and node.down_since < self.ended_at:
                spans[name].append((node.down_since, self.ended_at))
        return spans

    def met_nobody(self, fault: Fault) -> bool:
        """Whether none of its targets was up while the fault held: then nothing could come of it."""
        down = self.down_spans()
        until = min(fault.until, self.ended_at)
        return all(any(low <= fault.at and until <= high for low, high in down[name]) for name in fault.targets)

    # --- the run ---

    async def run(self) -> None:
        """To the plan's end. Raises only what a defect of the simulator, or an escape, raises."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.watch.sample, lambda: self.internet.live_connections)
            for at, _, act in self._timeline():
                await trio.sleep_until(at)
                nursery.start_soon(act)
            await trio.sleep_until(self.plan.duration)
            self.ended_at = trio.current_time()
            for server in self.servers.values():
                if server.services is not None:
                    self.watch.secrecy.on_protocols(server.name, server.services.host.protocols())
            check_liveness(self.plan, self.ledger.sent, self.down_spans(), self.ended_at, self.findings)
            check_links(self.plan, self.people, self.down_spans(), self.ended_at, self.findings)
            async with trio.open_nursery() as stopping:
                for person in self.people.values():
                    stopping.start_soon(self.stop, person)
            nursery.cancel_scope.cancel()

    async def stop(self, node: Person | Server) -> bool:
        """As with SIGTERM. False when it wasn't running. One that doesn't end is a finding, and killed."""
        with trio.move_on_after(STOP_SECONDS + (DRAIN_SECONDS if isinstance(node, Server) else 0.0)):
            return await node.stop()
        self.findings.add("stops", f"{node.name} was told to stop, and still ran {STOP_SECONDS:g} s later", node.name)
        return node.crash(power=False) > 0

    def _timeline(self) -> list[tuple[float, int, Callable[[], Awaitable[None]]]]:
        acts: list[tuple[float, Callable[[], Awaitable[None]]]] = []
        for node in self.plan.nodes:
            acts.append((node.starts_at, _partial(self._start, node)))
        for friendship in self.plan.friendships:
            if friendship.at is not None:
                acts.append((friendship.at, _partial(self._pair, friendship)))
        for message in self.plan.messages:
            acts.append((message.at, _partial(self._send, message)))
        for fault in self.plan.faults:
            acts.append((fault.at, _partial(self.faults.run, fault)))
        return sorted((min(at, self.plan.duration), number, act) for number, (at, act) in enumerate(acts))

    async def _start(self, node: Node) -> None:
        await self._run(self.nodes[node.name])

    def start_soon(self, node: Person | Server) -> None:
        self._nursery.start_soon(self._run, node)

    async def _run(self, node: Person | Server) -> None:
        """One process of a node. One that couldn't start is started again, as a service manager does."""
        if isinstance(node, Server):
            others = tuple(a for each in self.servers.values() if each is not node for a in each.addresses)
            await node.run(self.watch, others)
            return
        while True:
            if await node.run(self.watch):
                return
            await trio.sleep(RESTART_SECONDS)

    async def _send(self, message: Message) -> None:
        """A person's part: whatever goes wrong, it is sent again with the same key until the node has accepted it."""
        person = self.people[message.sender]
        generation = person.generation
        pause = RETRY_SECONDS
        while person.generation == generation:
            await person.up.wait()
            try:
                await person.ask(partial(self._accept, message))
            except CutOff:
                await trio.sleep(RETRY_SECONDS)
            except (NotFound, StorageError, LocalError) as problem:
                self.watch.count("refused")
                self.log.add("refused", node=person.name, message=message.id, problem=type(problem).__name__)
                await trio.sleep(pause)
                pause = min(2 * pause, RETRY_MAX)
            else:
                return

    async def _accept(self, message: Message, services: Services) -> None:
        await services.outbox.send(message.recipient, self.texts[message.id], idempotency_key=message.id)
        if self.people[message.sender].services is services:  # else: it was killed, and told nobody
            self.ledger.accepted(message.id)
            self.watch.count("sent")

    async def _know_each_other(self, one: Person, other: Person) -> bool:
        """Whether an earlier try did it, though its answer was lost. Contacts that were somebody's before they
        installed anew are removed, and what waited for them with it."""
        known = []
        for here, there in ((one, other), (other, one)):
            known.append(await here.ask(partial(_forget, there.name, there.identity.identity_key)))
            if not known[-1]:
                self.ledger.given_up(here.name, there.name)
        return all(known)

    async def _pair(self, friendship: Friendship) -> None:
        """By a spoken code: one makes it, the other types it in a moment later, both again if something goes wrong."""
        one, other = self.people[friendship.one], self.people[friendship.other]
        while True:
            await one.up.wait()
            await other.up.wait()
            try:
                if await self._know_each_other(one, other):
                    return
                code = (await one.ask(lambda node: node.pairing.create_invite("code", other.name))).code or ""
                await other.ask(partial(_accept_invite, code, one.name))
                self.watch.count("paired")
                self.log.add("paired", node=one.name, peer=other.name)
                return
            except P2peError as problem:
                self.log.add("pairing_failed", node=one.name, peer=other.name, problem=type(problem).__name__)
                self.watch.count("pairings_failed")
            except CutOff:
                pass
            await trio.sleep(RETRY_SECONDS)


async def _forget(name: str, current: IdentityKey, services: Services) -> bool:
    """Removes the contact of that name unless it has this identity; True when it has."""
    try:
        known = await services.book.find(name)
    except NotFound:
        return False
    if known.identity_key == current:
        return True
    await services.book.remove(name)
    return False


async def _accept_invite(code: str, name: str, services: Services) -> None:
    await services.pairing.accept(code, name)


def _partial(act: Callable[..., Awaitable[None]], *arguments: object) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        await act(*arguments)

    return run
