"""The virtual Internet: addresses, routes, partitions, names, and what was seen on its wires."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import Final

import trio
from p2pe.core.addresses import tcp_address

from p2pe_sim.natlab.nat import NatType
from p2pe_sim.world.clock import call_at
from p2pe_sim.world.machine import Dial, LinkShape, Machine
from p2pe_sim.world.nat import BEHAVIOURS, Endpoint, NatBox
from p2pe_sim.world.randomness import Randomness
from p2pe_sim.world.wire import Pipe, VirtualStream

Route = tuple[Machine, int]
_DNS_SECONDS: Final = 0.02


@dataclass(slots=True)
class Effects:
    """What the network has done to those who use it, in all."""

    attempts_dropped: int = 0  # connection attempts that met a cut path, a loss or nobody
    attempts_filtered: int = 0  # ... that a NAT kept out
    attempts_refused: int = 0
    bytes_stalled: int = 0
    bytes_vanished: int = 0
    resets: int = 0
    retransmissions: int = 0
    connections: int = 0
    punched: int = 0  # simultaneous opens
    killed: int = 0  # connections made half-open or reset by a fault


@dataclass(slots=True)
class Taps:
    """Who wants to see what: wire bytes, and connection attempts between machines."""

    on_bytes: list[Callable[[Pipe, bytes], None]] = field(default_factory=list)
    on_attempt: list[Callable[[Machine, Machine], None]] = field(default_factory=list)


@dataclass(slots=True)
class Syn:
    """A connection attempt on its way. `outer`: the endpoint it seems to come from; `inner_port`: behind the NAT."""

    dial: Dial
    machine: Machine
    port: int
    outer: Endpoint
    remote: Endpoint
    target: Machine
    inner_port: int
    latency: float  # one way


@dataclass(slots=True)
class Partition:
    """Two groups of machines between which nothing passes. `effect`: bytes stalled and attempts dropped by it."""

    ones: frozenset[str]
    others: frozenset[str]
    effect: int = 0

    def blocks(self, one: Machine, other: Machine) -> bool:
        return (one.name in self.ones and other.name in self.others) or (
            one.name in self.others and other.name in self.ones
        )


class Internet:
    """All machines of a run, under a jumping clock."""

    def __init__(self, randomness: Randomness) -> None:
        self.effects = Effects()
        self.taps = Taps()
        self.machines: dict[str, Machine] = {}
        self.names: dict[str, tuple[str, ...]] = {}
        self.dns_down = False
        self._randomness = randomness
        self._hosts: dict[str, Machine | NatBox] = {}
        self._lanes: dict[tuple[str, str], Random] = {}
        self._partitions: dict[int, Partition] = {}
        self._streams: dict[VirtualStream, None] = {}
        self._tuples: dict[tuple[str, int, str], int] = {}
        self._numbers = itertools.count(1)

    # --- machines ---

    def add(self, name: str, *, nat: NatType = NatType.NONE, shape: LinkShape | None = None) -> Machine:
        """A machine with an address in a /24 of its own, behind a NAT of its own unless `nat` is NONE."""
        behaviour = BEHAVIOURS[nat]
        outer = self._address(name)
        box = None
        if behaviour is not None:
            box = NatBox(outer, behaviour, self._randomness.stream("nat", name))
        digest = sha256(name.encode()).digest()
        is_private = behaviour is not None and behaviour.translates
        inner = f"192.168.{digest[0]}.{2 + digest[1] % 250}" if is_private else outer
        machine = Machine(name, inner, box, shape or LinkShape(), self._randomness.stream("machine", name))
        self.machines[name] = machine
        self._hosts[outer] = box or machine
        return machine

    def _address(self, name: str, turn: int = 0) -> str:
        digest = sha256(f"{name}/{turn}".encode()).digest()
        ip = f"{20 + digest[0] % 70}.{digest[1]}.{digest[2]}.{1 + digest[3] % 250}"
        taken = {each.rpartition(".")[0] for each in self._hosts}
        return self._address(name, turn + 1_000) if ip.rpartition(".")[0] in taken else ip

    def move(self, machine: Machine, turn: int) -> int:
        """Gives the machine (or the NAT in front of it) another address; its connections are dead, and nobody is
        told. Returns how many those were."""
        old = machine.public_ip
        new = self._address(machine.name, turn)
        self._hosts[new] = self._hosts.pop(old)
        if machine.nat is not None:
            machine.nat.ip = new
            machine.nat.forget()
        if machine.ip == old:  # behind a NAT nobody is told
            machine.ip = new
            machine.tell_changed()
        return self.kill_streams(list(machine.streams))

    def kill_streams(self, streams: list[VirtualStream]) -> int:
        """Makes connections half-open at both ends: bytes vanish, no error."""
        for stream in streams:
            for pipe in stream.pipes:
                pipe.kill()
        self.effects.killed += len(streams)
        return len(streams)

    def reset_streams(self, streams: list[VirtualStream]) -> int:
        """Somebody on the way resets connections: both ends learn at once."""
        now = trio.current_time()
        for stream in streams:
            stream.break_at(now)
            stream.peer.break_at(now)
        self.effects.killed += len(streams)
        self.effects.resets += 2 * len(streams)
        return len(streams)

    def streams_between(self, ones: frozenset[str], others: frozenset[str]) -> list[VirtualStream]:
        """The dialers' ends of live connections between two groups of machines, in order of creation."""
        found = []
        for stream in self._streams:
            pair = (stream.pipes[1].source.name, stream.pipes[1].target.name)
            if stream.pipes[1].number % 2 == 0 and (
                (pair[0] in ones and pair[1] in others) or (pair[1] in ones and pair[0] in others)
            ):
                found.append(stream)
        return found

    @property
    def live_connections(self) -> int:
        return len(self._streams) // 2

    # --- paths ---

    def is_open(self, one: Machine, other: Machine) -> bool:
        if one is other:
            return True
        if not (one.is_online and other.is_online and one.is_powered and other.is_powered):
            return False
        return not any(each.blocks(one, other) for each in self._partitions.values())

    def cut(self, ones: frozenset[str], others: frozenset[str]) -> int:
        """Partitions two groups of machines; returns the number by which `heal` ends it."""
        number = next(self._numbers)
        self._partitions[number] = Partition(ones, others)
        self.rerouted()
        return number

    def heal(self, number: int) -> int:
        """Returns what the partition did: bytes stalled and connection attempts dropped."""
        healed = self._partitions.pop(number)
        self.rerouted()
        return healed.effect

    def effect_of(self, number: int) -> int:
        return self._partitions[number].effect

    def note_blocked(self, one: Machine, other: Machine, size: int) -> None:
        self.effects.bytes_stalled += size
        for each in self._partitions.values():
            if each.blocks(one, other):
                each.effect += max(1, size)

    def set_online(self, machine: Machine, is_online: bool) -> None:
        machine.is_online = is_online
        machine.tell_changed()
        self.rerouted()

    def rerouted(self) -> None:
        """Paths were cut or healed: what is under way stalls, what has stalled goes on."""
        for stream in self._streams:
            pipe = stream.pipes[1]
            if self.is_open(pipe.source, pipe.target):
                pipe.path_healed()
            else:
                pipe.path_cut()

    # --- connecting ---

    def attempt(self, dial: Dial, machine: Machine, port: int, remote: Endpoint) -> None:
        """Sends a connection attempt; what it meets settles `dial`, or nothing does."""
        outer = (machine.ip, port)
        same = remote[0] == machine.ip or remote[0].startswith("127.")
        if machine.nat is not None and not same:
            if machine.nat.behaviour.only_port not in (0, remote[1]):
                self.effects.attempts_filtered += 1
                return
            outer = machine.nat.outbound(machine, port, remote)
        target = machine if same else self._machine_at(remote[0])
        if target is None:
            self.effects.attempts_dropped += 1
            return
        for tap in self.taps.on_attempt:
            tap(machine, target)
        latency = 0.0 if same else machine.shape.latency + target.shape.latency
        syn = Syn(dial, machine, port, outer, remote, target, remote[1], latency)
        self.after(latency, lambda: self._arrive(syn))

    def _machine_at(self, ip: str) -> Machine | None:
        """The machine that has the address, or one behind the NAT that has it."""
        host = self._hosts.get(ip)
        if isinstance(host, NatBox):
            return next(each for each in self.machines.values() if each.nat is host)
        return host

    def _arrive(self, syn: Syn) -> None:
        machine, target = syn.machine, syn.target
        lost = self._lane(machine, target).random() < machine.shape.loss + target.shape.loss
        if not syn.dial.is_open:
            return
        if lost or not self.is_open(machine, target):
            self.effects.attempts_dropped += 1
            if not lost:
                self.note_blocked(machine, target, 0)
            return
        if target is not machine and syn.remote[0] != target.public_ip:
            self.effects.attempts_dropped += 1  # it has moved meanwhile
            return
        if target is not machine and target.nat is not None:
            through = target.nat.inbound(syn.remote[1], syn.outer)
            if through is None:
                self.effects.attempts_filtered += 1
                if target.nat.behaviour.answers_rst:
                    self.after(syn.latency, lambda: self._refuse(syn.dial))
                return
            syn.target, syn.inner_port = target, _ = through
        other = target.dials.get((syn.inner_port, *syn.outer))
        if other is not None and other.is_open:
            self.after(syn.latency, lambda: self._meet(syn, other))
        elif syn.inner_port in target.listeners:
            self.after(syn.latency, lambda: self._establish(syn))
        else:
            self.effects.attempts_refused += 1
            self.after(syn.latency, lambda: self._refuse(syn.dial))

    def _refuse(self, dial: Dial) -> None:
        if dial.is_open:
            dial.settle(OSError(errno.ECONNREFUSED, "connection refused"))

    def _meet(self, syn: Syn, other: Dial) -> None:
        """Both have dialled each other: RFC 9293, 3.5, simultaneous open."""
        if not (syn.dial.is_open and other.is_open and self.is_open(syn.machine, syn.target)):
            return
        ours, theirs = self._connect(syn)
        ours.owner, theirs.owner = syn.dial.net, other.net
        self.effects.punched += 1
        syn.dial.settle(ours)
        other.settle(theirs)

    def _establish(self, syn: Syn) -> None:
        listener = syn.target.listeners.get(syn.inner_port)
        if not syn.dial.is_open or listener is None or not self.is_open(syn.machine, syn.target):
            return
        ours, theirs = self._connect(syn)
        ours.owner, theirs.owner = syn.dial.net, listener.net
        syn.dial.settle(ours)
        self.after(syn.latency, lambda: listener.offer(theirs))

    def _connect(self, syn: Syn) -> tuple[VirtualStream, VirtualStream]:
        machine, target = syn.machine, syn.target
        number = 2 * next(self._numbers)
        there = Pipe(self, number, machine, target, self._lane(machine, target))
        back = Pipe(self, number + 1, target, machine, self._lane(target, machine))
        local, far = tcp_address(machine.ip, syn.port), tcp_address(*syn.remote)
        near, seen = tcp_address(target.ip, syn.inner_port), tcp_address(*syn.outer)
        ours = VirtualStream(self, machine, local, far, back, there)
        theirs = VirtualStream(self, target, near, seen, there, back)
        ours.peer, theirs.peer = theirs, ours
        for stream in (ours, theirs):
            self._streams[stream] = None
            stream.machine.streams[stream] = None
            self._count(stream, 1)
        self.effects.connections += 1
        return ours, theirs

    def closed(self, stream: VirtualStream) -> None:
        stream.machine.streams.pop(stream, None)
        self._count(stream, -1)
        if stream.peer not in stream.peer.machine.streams:
            self._streams.pop(stream, None)
            self._streams.pop(stream.peer, None)

    def _count(self, stream: VirtualStream, change: int) -> None:
        key = (stream.machine.name, int(stream.local.rpartition("/")[2]), stream.remote)
        count = self._tuples.get(key, 0) + change
        if count:
            self._tuples[key] = count
        else:
            self._tuples.pop(key, None)

    def is_connected(self, machine: Machine, port: int, remote: Endpoint) -> bool:
        return (machine.name, port, tcp_address(*remote)) in self._tuples

    def _lane(self, source: Machine, target: Machine) -> Random:
        key = (source.name, target.name)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = self._randomness.stream("link", *key)
        return lane

    # --- names ---

    async def resolve(self, machine: Machine, name: str) -> tuple[str, ...]:
        await trio.sleep(_DNS_SECONDS)
        if self.dns_down or not machine.is_online:
            raise OSError(errno.EHOSTUNREACH, "name resolution failed")
        if name not in self.names:
            raise OSError(errno.ENOENT, f"{name} isn't known")
        return self.names[name]

    # --- wires ---

    def saw_bytes(self, pipe: Pipe, data: bytes) -> None:
        for tap in self.taps.on_bytes:
            tap(pipe, data)

    # --- time ---

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        call_at(trio.current_time() + seconds, act)
