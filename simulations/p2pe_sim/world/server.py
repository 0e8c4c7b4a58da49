"""A bootstrap node of a run: DHT server, relay and dial-backs, as p2pe-bootstrap opens them, on a virtual machine."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import trio
from p2pe import config
from p2pe.core.addresses import tcp_address, with_peer
from p2pe.model import Address
from p2pe.overlay.host import open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.limits import HostLimits
from p2pe.ports import World
from p2pe_bootstrap.services import Services, open_services

from p2pe_sim import plan
from p2pe_sim.world.clock import VirtualClock
from p2pe_sim.world.hostile import misbehave
from p2pe_sim.world.machine import Machine, ProcessNet
from p2pe_sim.world.net import Internet
from p2pe_sim.world.person import inline
from p2pe_sim.world.randomness import Randomness

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

    from p2pe_sim.world.watch import Watch

PORTS: Final = (4001, 443)  # the second for those whose network lets nothing else out
DRAIN_SECONDS: Final = 5.0


class Server:
    """Made once a run; its key, and with it its address, outlives its processes."""

    def __init__(
        self, node: plan.Node, machine: Machine, internet: Internet, randomness: Randomness, clock: VirtualClock
    ) -> None:
        self.name = node.name
        self.machine = machine
        self.clock = clock
        self.behaviour = node.behaviour
        self.key = HostKey(randomness.token("host key", node.name))
        self.starts = 0
        self.net: ProcessNet | None = None
        self.services: Services | None = None
        self.up = trio.Event()
        self.down_since: float | None = 0.0
        self.down_spans: list[tuple[float, float]] = []
        self._internet = internet
        self._randomness = randomness
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(with_peer(tcp_address(self.machine.ip, port), self.key.peer_id) for port in PORTS)

    async def run(
        self, watch: Watch, bootstrap: tuple[str, ...], *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """One process, to its end."""
        self.starts += 1
        net = self.net = ProcessNet(self._internet, self.machine)
        scope = self._scope = trio.CancelScope()
        ended = self._ended = trio.Event()
        entropy = self._randomness.stream("entropy", self.name, self.starts).randbytes
        world = World(clock=self.clock, entropy=entropy, net=net, threads=inline)
        limits = HostLimits(max_connections=config.MAX_CONNECTIONS_BOOTSTRAP)
        try:
            with scope:
                async with AsyncExitStack() as stack:
                    host = await stack.enter_async_context(open_host(world, key=self.key, limits=limits))
                    for port in PORTS:
                        await host.listen(Address(f"/ip4/0.0.0.0/tcp/{port}"))
                    services = await stack.enter_async_context(open_services(host, world, bootstrap))
                    rng = self._randomness.stream("hostile", self.name, self.starts)
                    misbehave(services, self.behaviour, rng, lambda: watch.count("misdeeds"))
                    self.services = services
                    if self.down_since is not None:
                        self.down_spans.append((self.down_since, trio.current_time()))
                        self.down_since = None
                    watch.server_started(self, services)
                    self.up.set()
                    task_status.started()
                    await trio.sleep_forever()
        except* Exception as group:  # noqa: BLE001 - whatever ends a node is a finding
            if net.is_alive:
                watch.died(self, group, True)
        finally:
            if net.is_alive:
                net.kill()
            ended.set()
            if self.net is net:
                self._is_down()

    def _is_down(self) -> None:
        self.services = None
        self.net = None
        self.up = trio.Event()
        if self.down_since is None:
            self.down_since = trio.current_time()

    async def stop(self) -> bool:
        """As with SIGTERM, drained. False when it wasn't running."""
        if self.services is None:
            return False
        ended = self._ended
        await self.services.drain(DRAIN_SECONDS)
        self._scope.cancel()
        await ended.wait()
        return True

    def crash(self, *, power: bool) -> int:
        """See Person.crash."""
        if self.net is None or self.services is None:
            return 0
        took = 1 + self.net.kill(power=power)
        if power:
            self.machine.is_powered = False
        self._scope.cancel()
        self._is_down()
        return took
