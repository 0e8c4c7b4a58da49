"""A bootstrap node and a person's node under attack, and an honest person beside the attackers: do they still meet?

Real processes in a network namespace, so that attackers come from as many subnets as they like.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio
from p2pe.core.addresses import split_peer
from p2pe.model import Address, PeerId

from p2pe_sim.attacks import ATTACKS, Attack, Target
from p2pe_sim.namespace import in_namespace, ip
from p2pe_sim.processes import Person, Processes, Running, pair, processes

SOURCES: Final = tuple(f"10.66.{subnet}.1" for subnet in range(250))
BAD_WORDS: Final = ("Traceback", "stream handler failed", "a part of the node failed")


@dataclass(frozen=True)
class Trial:
    """One attack. Memory in MiB; `seconds`: from an honest node's start to its message being delivered, meanwhile."""

    attack: str
    effect: tuple[int, int]  # what got through to the bootstrap node and to the person's node
    seconds: float
    memory: dict[str, tuple[float, float, float]] = field(default_factory=dict)  # before, at the peak, after
    complaints: tuple[str, ...] = ()  # lines in the logs that shouldn't be there

    def growth(self) -> float:
        return max(peak - before for before, peak, _ in self.memory.values())


def memory(pid: int, name: str = "VmRSS") -> float:
    """Resident MiB of a process: now (VmRSS) or at its peak (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name)) / 1024


def _forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _person_target(person: Person) -> Target:
    with person.client() as client:
        overlay = client.status()["overlay"]
    address = next(each for each in overlay["listen"] if "/p2p-circuit" not in each)
    return Target(Address(address), PeerId.parse(overlay["peer_id"]))


def besiege(attacks: Iterable[str] = tuple(ATTACKS), step: Callable[[str], None] = lambda _: None) -> list[Trial]:
    """Runs the attacks one after the other. Raises LabUnavailable where there can be no namespace."""
    return in_namespace(lambda: _besiege(attacks, step))


def _besiege(attacks: Iterable[str], step: Callable[[str], None]) -> list[Trial]:
    ip(*(f"addr add 10.{host}.0.1/24 dev lan0" for host in (1, 2, 3)), "route add local 10.66.0.0/16 dev lo")
    with processes() as story:
        bootstrap = story.bootstrap(listen="/ip4/10.1.0.1/tcp/0")
        alice = story.person("alice", options=("--listen", "/ip4/10.2.0.1/tcp/0")).start()
        bob = story.person("bob", options=("--listen", "/ip4/10.3.0.1/tcp/0")).start()
        pair(alice, bob)
        trials = []
        for name in attacks:
            step(name)
            trials.append(_try(name, ATTACKS[name], story, bootstrap, alice, bob))
        return trials


def _try(name: str, attack: Attack, story: Processes, bootstrap: Running, alice: Person, bob: Person) -> Trial:
    assert bob.node is not None
    victims = {"bootstrap": bootstrap, "person": bob.node}
    targets = [Target(*split_peer(story.bootstraps[0])), _person_target(bob)]
    seen = {each: len(running.log_text()) for each, running in victims.items()}
    before = {each: memory(running.process.pid) for each, running in victims.items()}
    for running in victims.values():
        _forget_peak(running.process.pid)
    effect = [0, 0]
    took = 0.0
    over = trio.Event()

    async def strike(number: int) -> None:
        effect[number] = await attack(targets[number], SOURCES, over)

    def honest() -> float:
        """Away and back again: a fresh connection to the bootstrap node and to Bob, and a message."""
        alice.stop()
        began = time.monotonic()
        alice.start()
        with alice.client() as client:
            sent = client.send("bob", f"in spite of: {name}")["id"]
        alice.wait_delivered(sent)
        return time.monotonic() - began

    async def both() -> None:
        nonlocal took
        async with trio.open_nursery() as nursery:
            for number in range(len(targets)):
                nursery.start_soon(strike, number)
            await trio.sleep(1.0)  # the attack is at its height
            took = await trio.to_thread.run_sync(honest)
            over.set()

    trio.run(both)
    figures, complaints = {}, []
    for each, running in victims.items():
        pid = running.process.pid
        figures[each] = (before[each], memory(pid, "VmHWM"), memory(pid))
        fresh = running.log_text()[seen[each] :]
        complaints += [line for line in fresh.splitlines() if any(word in line for word in BAD_WORDS)]
    return Trial(name, (effect[0], effect[1]), took, figures, tuple(complaints))
