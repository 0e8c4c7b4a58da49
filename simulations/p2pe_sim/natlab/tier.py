"""Tier 2: a plan with real processes, in network namespaces, behind real routers, in real time.

What of a plan is played: nodes with their NAT types and relay policies, contacts paired before, messages, and the
faults STOP, CRASH and PARTITION. One wire delays everybody alike, by the mean of the plan's latencies, and loses the
mean of its losses. `Result.counts["left_out"]` says how many faults of other kinds were not played. Judged from
outside, as a person would see it: each message there once, in order, with states that are true.
"""

from __future__ import annotations

import heapq
import shutil
import signal
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Final

from p2pe_sim.natlab.lab import Lab, LabUnavailable, laboratory, require_lab
from p2pe_sim.natlab.lab import Node as Place
from p2pe_sim.natlab.pairs import PUBLIC_PORT, listening
from p2pe_sim.plan import Behaviour, Fault, FaultKind, Message, Plan, Role
from p2pe_sim.processes import LOOPBACK, Person, Processes, Running, pair, processes
from p2pe_sim.result import Broken, Result, Verdict

PLAYED: Final = frozenset({FaultKind.STOP, FaultKind.CRASH, FaultKind.PARTITION})
_LOOK_EVERY: Final = 0.2  # seconds between looks at what has arrived, once all is sent
_CUT: Final = "p2pe_cut"  # the nft table that is a partition


def run(plan: Plan, *, keep_events: bool = False) -> Result:
    """VACUOUS with the reason where there can't be a laboratory. There is no digest: time is real."""
    try:
        require_lab()
    except LabUnavailable as reason:
        return Result(plan.scenario, plan.seed, Verdict.VACUOUS, problem=f"skipped: tier 2 can't run here: {reason}")
    with tempfile.TemporaryDirectory(prefix="p2pe-sim-") as folder, _Theatre.opened(plan, Path(folder)) as theatre:
        theatre.play()
        return theatre.judged(keep_events)


@contextmanager
def _homes(plan: Plan, folder: Path) -> Iterator[dict[str, Path]]:
    """Every person's home, paired with the contacts on loopback: pairing through routers isn't what this is about."""
    with processes() as story:
        story.bootstrap()
        people = {node.name: story.person(node.name, options=LOOPBACK).start() for node in plan.people()}
        for each in plan.friendships:
            pair(people[each.one], people[each.other])
        for person in people.values():
            person.stop()
            shutil.copytree(person.home, folder / person.name)
    yield {name: folder / name for name in people}


@dataclass
class _Theatre:
    """The laboratory with everybody in it, and the play."""

    plan: Plan
    lab: Lab
    story: Processes
    places: dict[str, Place]
    people: dict[str, Person]
    servers: dict[str, tuple[Running, list[str]]] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)  # plan's message id -> the node's, once `send` has returned
    effects: dict[str, float] = field(default_factory=dict)
    _began: float = 0.0
    _began_wall: float = 0.0
    _later: dict[str, list[Message]] = field(default_factory=lambda: defaultdict(list))  # for nodes that are down

    @classmethod
    @contextmanager
    def opened(cls, plan: Plan, folder: Path) -> Iterator[_Theatre]:
        hostile = [node.name for node in plan.nodes if node.behaviour is not Behaviour.HONEST]
        if hostile:
            raise ValueError(f"tier 2 has honest nodes alone; {', '.join(hostile)} can't be played there")
        delay = fmean(node.latency for node in plan.nodes)
        loss = fmean(node.loss for node in plan.nodes)
        with (
            _homes(plan, folder) as homes,
            laboratory(delay=delay, loss=loss, seed=plan.seed) as lab,
        ):
            places = {node.name: lab.behind(f"n{number}", node.nat) for number, node in enumerate(plan.nodes)}
            lab.start()
            with processes() as story:
                theatre = cls(plan, lab, story, places, {})
                theatre._enter(homes)
                yield theatre

    def _enter(self, homes: dict[str, Path]) -> None:
        for node in self.plan.nodes:
            place = self.places[node.name]
            if node.role is Role.BOOTSTRAP:
                listen = f"/ip4/{place.address}/tcp/{PUBLIC_PORT}"
                running = self.story.bootstrap(node.name, listen=listen, inside=place.command([]))
                self.servers[node.name] = running, list(running.process.args)  # type: ignore[arg-type]
        for node in self.plan.people():
            inside = tuple(self.places[node.name].command([]))
            options = (*listening(node.nat), "--relay", node.relay)
            self.people[node.name] = Person(node.name, homes[node.name], self.story, inside, options)
        for person in self.people.values():
            person.launch()
        for person in self.people.values():
            person.ready()

    @property
    def _now(self) -> float:
        return time.monotonic() - self._began

    def play(self) -> None:
        """Does everything in the plan at its time, then waits until all has arrived, or until the plan's end."""
        self._began, self._began_wall = time.monotonic(), time.time()
        order = count()
        due: list[tuple[float, int, Callable[[], None]]] = []
        for message in self.plan.messages:
            heapq.heappush(due, (message.at, next(order), lambda m=message: self._send(m)))  # type: ignore[misc]
        for fault in self.plan.faults:
            if fault.kind in PLAYED:
                heapq.heappush(due, (fault.at, next(order), lambda f=fault: self._begin(f)))  # type: ignore[misc]
                heapq.heappush(due, (fault.until, next(order), lambda f=fault: self._end(f)))  # type: ignore[misc]
        while due:
            at, _, act = heapq.heappop(due)
            time.sleep(max(0.0, at - self._now))
            act()
        ends = max(self.plan.duration, self._now + max((each.within for each in self.plan.checks.liveness), default=0))
        while self._now < ends and not self._all_delivered():
            time.sleep(_LOOK_EVERY)

    def _all_delivered(self) -> bool:
        return not any(
            message["state"] in ("queued", "offered") for person in self.people.values() for message in person.outbox()
        )

    def _send(self, message: Message) -> None:
        sender = self.people[message.sender]
        if sender.node is None:
            self._later[message.sender].append(message)
            return
        text = f"{message.id} ".ljust(message.size, "x")
        sent = sender.persist(lambda client: client.send(message.recipient, text, key=message.id))
        self.ids[message.id] = sent["id"]

    def _begin(self, fault: Fault) -> None:
        if fault.kind is FaultKind.PARTITION:
            for name in fault.targets:
                self._cut(name, fault.targets)
            self.effects[fault.id] = float(len(fault.targets))
            return
        for name in fault.targets:
            if name in self.people and self.people[name].node is not None:
                self.people[name].stop() if fault.kind is FaultKind.STOP else self.people[name].kill()
            elif name in self.servers:
                self.servers[name][0].end(signal.SIGTERM if fault.kind is FaultKind.STOP else signal.SIGKILL)
            self.effects[fault.id] = self.effects.get(fault.id, 0.0) + 1.0

    def _end(self, fault: Fault) -> None:
        for name in fault.targets:
            if fault.kind is FaultKind.PARTITION:
                self._nft(name, f"delete table inet {_CUT}")
            elif name in self.people:
                self.people[name].start()
                for message in self._later.pop(name, []):
                    self._send(message)
            else:
                argv = self.servers[name][1]
                self.servers[name] = self.story.spawn(name, argv), argv

    def _cut(self, name: str, together: tuple[str, ...]) -> None:
        """Only packets to and from the networks of `together` pass. Loopback stays."""
        others = ", ".join(f"5.{_number(self.places[other])}.0.0/16" for other in together if other != name)
        chains = []
        for hook, interface, address in (("output", "oifname", "daddr"), ("input", "iifname", "saddr")):
            allowed = f"ip {address} {{ {others} }} accept\n" if others else ""
            start = f"type filter hook {hook} priority -300\n{interface} lo accept\n"
            chains.append(f"chain {hook} {{\n{start}{allowed}drop\n}}\n")
        self._nft(name, f"table inet {_CUT} {{\n{''.join(chains)}}}")

    def _nft(self, name: str, rules: str) -> None:
        argv = self.places[name].command(["nft", "-f", "-"])
        subprocess.run(argv, input=rules + "\n", text=True, check=True, capture_output=True)

    # --- judging ---

    def judged(self, keep_events: bool) -> Result:
        """What a person with all the screens before them would say."""
        out = {name: {message["id"]: message for message in person.outbox()} for name, person in self.people.items()}
        found: list[Broken] = []
        took: list[tuple[float, float]] = []
        events: list[dict[str, object]] = []
        delivered = 0
        heard = self._heard()
        for message in self.plan.messages:
            where = (message.sender, message.recipient)
            got = heard.get((message.recipient, message.sender), [])
            times = got.count(message.id)
            if times > 1:
                twice = f"{message.recipient} has {message.id} {times} times"
                found.append(self._broken("once", twice, where, message))
            known = out[message.sender].get(self.ids.get(message.id, ""))
            if known is None:
                found.append(self._broken("lost", f"{message.sender}'s node doesn't know {message.id}", where, message))
                continue
            if (known["state"] == "delivered") != bool(times):
                state = (
                    f"{message.sender} shows {message.id} as {known['state']}; {message.recipient} has it {times} times"
                )
                if known["state"] == "delivered" or self._now >= self.plan.duration:
                    found.append(self._broken("delivered", state, where, message))
            if known["delivered_at"] is not None:
                delivered += 1
                took.append((self._at(known["queued_at"]), (known["delivered_at"] - known["queued_at"]) / 1000))
            moments = (known["queued_at"], known["offered_at"], known["delivered_at"])
            for what, at in zip(("queued", "offered", "delivered"), moments, strict=True):
                if at is not None:
                    line = {"at": self._at(at), "what": what, "node": message.sender, "peer": message.recipient}
                    events.append({**line, "message": message.id})
        found += self._order(heard)
        paths = self._paths()
        played = sum(fault.kind in PLAYED for fault in self.plan.faults)
        return Result(
            self.plan.scenario,
            self.plan.seed,
            Verdict.BROKEN if found else Verdict.PASSED,
            broken=tuple(found),
            virtual_seconds=round(self._now, 3),
            counts={
                "sent": len(self.ids),
                "delivered": delivered,
                "left_out": len(self.plan.faults) - played,
                **{f"{path}_links": number for path, number in paths.items()},
            },
            effects=dict(self.effects),
            series={"delivery": tuple(took)},
            events=tuple(sorted(events, key=lambda each: float(str(each["at"])))) if keep_events else (),
        )

    def _at(self, millis: int) -> float:
        return round(millis / 1000 - self._began_wall, 3)

    def _broken(self, invariant: str, detail: str, nodes: tuple[str, ...], message: Message) -> Broken:
        return Broken(invariant, round(self._now, 3), detail, nodes, message.id)

    def _heard(self) -> dict[tuple[str, str], list[str]]:
        """(who, from whom) -> the plan's message ids, in the order of the inbox."""
        heard: dict[tuple[str, str], list[str]] = {}
        for each in self.plan.friendships:
            for one, other in ((each.one, each.other), (each.other, each.one)):
                heard[one, other] = [item["text"].split(" ")[0] for item in self.people[one].inbox(other)]
        return heard

    def _order(self, heard: dict[tuple[str, str], list[str]]) -> Iterator[Broken]:
        """Per contact, in the order in which `send` was called. Messages kept for a node that was down come after."""
        place = {name: number for number, name in enumerate(self.ids)}
        for (who, whom), got in heard.items():
            numbers = [place[name] for name in got if name in place]
            if numbers != sorted(numbers):
                detail = f"{who} has {whom}'s messages in the order {', '.join(got)}"
                yield Broken("order", round(self._now, 3), detail, (whom, who))

    def _paths(self) -> dict[str, int]:
        found: dict[str, int] = defaultdict(int)
        for each in self.plan.friendships:
            with self.people[each.one].client() as client:
                path = client.contact(each.other)["path"]
            if path is not None:
                found[path] += 1
        return found


def _number(place: Place) -> str:
    """The N of its public network 5.N.0.0/16."""
    return place.address.split(".")[2] if place.address.startswith("192.168.") else place.address.split(".")[1]
