"""Two real nodes behind two routers, and a public bootstrap node that relays: do they talk, and over which path?"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from p2pe.errors import NoDaemon

from p2pe_sim.natlab.lab import WIRE_DELAY, Lab, Node, laboratory
from p2pe_sim.natlab.nat import NatType
from p2pe_sim.processes import Person, Processes, eventually, pair, processes

PORT = 4001  # the listen port of every node: one that the remapping router knows
PUBLIC_PORT = 4100  # the bootstrap node's
STRAIGHT = ("direct", "punched", "lan")


@dataclass(frozen=True)
class Outcome:
    """What became of one pair. Times are seconds; None: it didn't happen while we watched."""

    one: NatType
    other: NatType
    delivered: bool
    path: str | None  # the last one seen
    first_delivery: float | None  # from both nodes answering
    straight_after: float | None  # from the relayed connection to the direct one; None also without a relayed one


@dataclass
class Stage:
    """A running laboratory with a bootstrap node and two paired people, nodes not started."""

    lab: Lab
    story: Processes
    public: Node
    places: tuple[Node, Node]
    alice: Person
    bob: Person

    def start(self) -> None:
        for person in (self.alice, self.bob):
            person.launch()
        for person in (self.alice, self.bob):
            person.ready()

    def path(self) -> str | None:
        """The path of Alice's connection to Bob, None while there is none."""
        try:
            with self.alice.client() as client:
                return client.contact("bob")["path"]
        except NoDaemon:
            return None

    def say(self, text: str) -> str:
        """Alice writes to Bob; returns the message's id."""
        with self.alice.client() as client:
            return client.send("bob", text)["id"]

    def heard(self) -> list[str]:
        return [message["text"] for message in self.bob.inbox("alice")]

    def until_heard(self, text: str) -> None:
        eventually(f"Bob to hear {text!r}", lambda: text in self.heard())

    def until_straight(self, patience: float) -> str | None:
        """Waits for a path without a relay; None when there is none after `patience` seconds."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            path = self.path()
            if path in STRAIGHT:
                return path
            time.sleep(0.02)
        return None


class PairedHomes:
    """Two homes paired once on loopback, to be copied for every stage: pairing isn't what a stage is about."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with processes() as story:
            story.bootstrap()
            alice, bob = story.person("alice").start(), story.person("bob").start()
            pair(alice, bob)
            for person in (alice, bob):
                person.stop()
                shutil.copytree(person.home, folder / person.name)

    def person(self, name: str, story: Processes, place: Node, options: tuple[str, ...]) -> Person:
        home = story.folder / name
        shutil.copytree(self._folder / name, home)
        os.chmod(home, 0o700)
        return Person(name, home, story, tuple(place.command([])), options)


def listening(kind: NatType) -> tuple[str, ...]:
    """The `p2pe run` options of a node behind a router of `kind`."""
    if kind is NatType.V6_FIREWALL:
        return ("--listen", f"/ip4/0.0.0.0/tcp/{PORT}", "--listen", f"/ip6/::/tcp/{PORT}")
    return ("--listen", f"/ip4/0.0.0.0/tcp/{PORT}")


@contextmanager
def stage(
    homes: PairedHomes,
    one: NatType,
    other: NatType,
    *,
    delay: float = WIRE_DELAY,
    loss: float = 0.0,
    seed: int = 1,
    bootstraps: int = 1,
    options: tuple[str, ...] = (),
) -> Iterator[Stage]:
    """Raises LabUnavailable where no laboratory can be."""
    with laboratory(delay=delay, loss=loss, seed=seed) as lab:
        publics = [lab.public(f"pub{number}") for number in range(bootstraps)]
        places = lab.behind("a", one), lab.behind("b", other)
        lab.start()
        with processes() as story:
            for number, public in enumerate(publics):
                port = 443 if NatType.ONLY_443 in (one, other) else PUBLIC_PORT
                listen = [f"/ip4/{public.address}/tcp/{port}", f"/ip6/{public.address6}/tcp/{port}"]
                if NatType.V6_FIREWALL in (one, other):  # it has no way out for IPv4; people are told the first address
                    listen.reverse()
                story.bootstrap(
                    f"bootstrap{number}",
                    listen=listen[0],
                    inside=public.command([]),
                    options=["--listen", listen[1]],
                )
            alice = homes.person("alice", story, places[0], (*listening(one), *options))
            bob = homes.person("bob", story, places[1], (*listening(other), *options))
            yield Stage(lab, story, publics[0], places, alice, bob)


def try_pair(homes: PairedHomes, one: NatType, other: NatType, *, seed: int, watch: float) -> Outcome:
    """Starts both, sends one message, and watches the path for `watch` seconds after the first connection."""
    with stage(homes, one, other, seed=seed) as scene:
        scene.start()
        began = time.monotonic()
        scene.say("hello")
        first: float | None = None
        relayed_at: float | None = None
        straight_at: float | None = None
        connected_at: float | None = None
        path = None
        while (now := time.monotonic()) < (connected_at or began + 30.0) + watch:
            path = scene.path()
            if path is not None and connected_at is None:
                connected_at = now
            if path == "relayed" and relayed_at is None:
                relayed_at = now
            if first is None and "hello" in scene.heard():
                first = now - began
            if path in STRAIGHT:
                straight_at = now
                if first is not None:
                    break
            time.sleep(0.02)
        after = None if straight_at is None or relayed_at is None else straight_at - relayed_at
        return Outcome(one, other, first is not None, path, first, after)
