"""What goes wrong in a run, and how much it was felt: each fault's effect is measured, never assumed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from p2pe_sim.plan import INSTANT, PARAMETERS, Fault, FaultKind
from p2pe_sim.world.machine import LinkShape, Machine
from p2pe_sim.world.person import Person
from p2pe_sim.world.server import Server

if TYPE_CHECKING:
    from p2pe_sim.world.stage import Stage

_LINE: Final = (FaultKind.LOSS, FaultKind.LATENCY, FaultKind.BANDWIDTH)
_DOWN: Final = (FaultKind.STOP, FaultKind.CRASH, FaultKind.CRASH_NO_FLUSH, FaultKind.REINSTALL)


class Faults:
    """Runs the plan's faults. `effects`: fault id -> what it did, in the unit that fits its kind."""

    def __init__(self, stage: Stage) -> None:
        self.effects: dict[str, float] = {}
        self._stage = stage
        self._lines: dict[str, dict[str, Fault]] = {}  # machine -> faults that hold on its line
        self._shapes = {name: machine.shape for name, machine in stage.internet.machines.items()}
        self._moves = 0

    async def run(self, fault: Fault) -> None:
        """From its beginning to its end. To be started at `fault.at`."""
        self._note(fault, on=True)
        self.effects[fault.id] = 0.0
        match fault.kind:
            case FaultKind.PARTITION:
                await self._partition(fault)
            case kind if kind in _LINE:
                await self._line(fault)
            case kind if kind in _DOWN:
                await self._down(fault)
            case FaultKind.CLOCK_JUMP:
                await self._clock_jump(fault)
            case FaultKind.DISK_FULL:
                await self._disk_full(fault)
            case _:
                self._instant(fault)
        if fault.kind not in INSTANT:
            self._note(fault, on=False)

    def _note(self, fault: Fault, *, on: bool) -> None:
        self._stage.log.add("fault", fault=fault.id, kind=str(fault.kind), on=on, targets=list(fault.targets))

    def _machines(self, fault: Fault) -> list[Machine]:
        return [self._stage.internet.machines[name] for name in fault.targets]

    async def _hold(self, fault: Fault) -> None:
        await trio.sleep_until(fault.until)

    async def _partition(self, fault: Fault) -> None:
        internet = self._stage.internet
        inside = frozenset(fault.targets)
        number = internet.cut(inside, frozenset(internet.machines) - inside)
        try:
            await self._hold(fault)
        finally:
            self.effects[fault.id] = internet.heal(number)

    async def _line(self, fault: Fault) -> None:
        machines = self._machines(fault)
        before = [(m.tally.bytes, m.tally.retransmissions, m.tally.waited) for m in machines]
        for machine in machines:
            self._lines.setdefault(machine.name, {})[fault.id] = fault
            self._reshape(machine)
        try:
            await self._hold(fault)
        finally:
            for machine in machines:
                del self._lines[machine.name][fault.id]
                self._reshape(machine)
            index = {FaultKind.LATENCY: 0, FaultKind.LOSS: 1, FaultKind.BANDWIDTH: 2}[fault.kind]
            after = [(m.tally.bytes, m.tally.retransmissions, m.tally.waited) for m in machines]
            self.effects[fault.id] = round(sum(a[index] - b[index] for a, b in zip(after, before, strict=True)), 6)

    def _reshape(self, machine: Machine) -> None:
        shape: LinkShape = self._shapes[machine.name]
        for fault in self._lines[machine.name].values():
            values = {**PARAMETERS[fault.kind], **fault.params}
            match fault.kind:
                case FaultKind.LOSS:
                    shape = replace(shape, loss=1.0 - (1.0 - shape.loss) * (1.0 - values["rate"]))
                case FaultKind.LATENCY:
                    shape = replace(shape, latency=shape.latency + values["seconds"])
                case _:
                    limit = values["bytes_per_second"]
                    shape = replace(shape, bandwidth=min(shape.bandwidth or limit, limit))
        machine.shape = shape

    async def _down(self, fault: Fault) -> None:
        stage = self._stage
        took = 0
        downed = []
        for name in fault.targets:
            node = stage.nodes[name]
            down = await self._take_down(fault, node)
            if down:
                took += down
                downed.append(node)
        self.effects[fault.id] = took
        await self._hold(fault)
        for node in downed:
            node.machine.is_powered = True
            stage.internet.rerouted()
            stage.start_soon(node)

    async def _take_down(self, fault: Fault, node: Person | Server) -> int:
        what = "stop" if fault.kind is FaultKind.STOP else "crash"
        if fault.kind is FaultKind.STOP:
            took = int(await self._stage.stop(node))
        else:
            took = node.crash(power=fault.kind is FaultKind.CRASH_NO_FLUSH)
        if took:
            self._stage.log.add(what, node=node.name)
        if took and fault.kind is FaultKind.REINSTALL and isinstance(node, Person):
            node.reinstall()
            self._stage.ledger.erased(node.name)
        return took

    async def _clock_jump(self, fault: Fault) -> None:
        seconds = {**PARAMETERS[fault.kind], **fault.params}["seconds"]
        clocks = [self._stage.nodes[name].clock for name in fault.targets]
        before = sum(clock.reads for clock in clocks)
        for clock in clocks:
            clock.skew += seconds
        try:
            await self._hold(fault)
        finally:
            for clock in clocks:
                clock.skew -= seconds
            self.effects[fault.id] = sum(clock.reads for clock in clocks) - before

    async def _disk_full(self, fault: Fault) -> None:
        disks = [node.disk for name in fault.targets if isinstance(node := self._stage.nodes[name], Person)]
        before = sum(disk.effects.writes_refused for disk in disks)
        for disk in disks:
            disk.is_full = True
        try:
            await self._hold(fault)
        finally:
            for disk in disks:
                disk.is_full = False
            self.effects[fault.id] = sum(disk.effects.writes_refused for disk in disks) - before

    def _instant(self, fault: Fault) -> None:
        internet = self._stage.internet
        inside, everybody = frozenset(fault.targets), frozenset(internet.machines)
        match fault.kind:
            case FaultKind.RESET:
                took = internet.reset_streams(internet.streams_between(inside, everybody))
            case FaultKind.HALF_OPEN:
                took = internet.kill_streams(internet.streams_between(inside, everybody))
            case _:
                took = 0
                for machine in self._machines(fault):
                    self._moves += 1
                    took += 1 + internet.move(machine, self._moves)
                self._stage.watch.secrecy.addresses_moved()
        self.effects[fault.id] = took
