"""A machine of the virtual network, and the ports.Net that one process on it sees.

A machine outlives its processes: a killed process leaves connections whose other ends are reset; a machine that
lost its power leaves connections whose other ends learn nothing.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

import trio
from p2pe.core.addresses import host_port, is_loopback, tcp_address
from p2pe.model import Address
from p2pe.ports import ByteStream, Listener, NetworkChanges

from p2pe_sim.world.downlink import Downlink
from p2pe_sim.world.nat import Endpoint, NatBox
from p2pe_sim.world.wire import VirtualStream

if TYPE_CHECKING:
    from p2pe_sim.world.net import Internet

SYN_WAITS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # seconds after each attempt (Linux, tcp_syn_retries 6)
_EPHEMERAL: Final = (32_768, 60_999)  # Linux' ip_local_port_range
_LOOPBACK: Final = "127.0.0.1"
_BACKLOG: Final = 512


@dataclass(frozen=True, slots=True)
class LinkShape:
    """A machine's own line to the backbone. Two machines' lines add up to the path between them."""

    latency: float = 0.01  # seconds, one way
    bandwidth: float = 0.0  # bytes a second each way; 0: unlimited
    loss: float = 0.0  # of a segment
    jitter: float = 0.0  # seconds at the most, on top of `latency`


@dataclass(slots=True)
class Tally:
    """What a machine's line has done to what went over it: how a fault of the line is measured."""

    bytes: int = 0
    retransmissions: int = 0
    waited: float = 0.0  # seconds that chunks queued for bandwidth


class NetworkNews:
    """ports.NetworkChanges of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._seen = machine.changes

    async def wait(self) -> None:
        await trio.lowlevel.checkpoint()
        while self._seen == self._machine.changes:
            await self._machine.changed.park()
        self._seen = self._machine.changes


class Dial:
    """A connection attempt under way."""

    __slots__ = ("done", "net", "result")

    def __init__(self, net: ProcessNet) -> None:
        self.net = net
        self.done = trio.Event()
        self.result: VirtualStream | OSError | None = None

    def settle(self, result: VirtualStream | OSError) -> None:
        self.result = result
        self.done.set()

    @property
    def is_open(self) -> bool:
        return self.result is None and self.net.is_alive


class Machine:
    """Made by `Internet.add`."""

    def __init__(self, name: str, ip: str, nat: NatBox | None, shape: LinkShape, rng: Random) -> None:
        self.name = name
        self.ip = ip
        self.nat = nat
        self.shape = shape
        self.rng = rng
        self.is_online = True  # its line; False: nothing goes in or out
        self.is_powered = True
        self.tally = Tally()
        self.changes = 0  # of its addresses or its line, as a process on it notices them
        self.changed = trio.lowlevel.ParkingLot()
        self.up_free = 0.0  # when its line has sent all that was given to it
        self.down = Downlink()
        self.listeners: dict[int, VirtualListener] = {}
        self.dials: dict[tuple[int, str, int], Dial] = {}
        self.streams: dict[VirtualStream, None] = {}

    @property
    def public_ip(self) -> str:
        return self.nat.ip if self.nat is not None else self.ip

    def tell_changed(self) -> None:
        self.changes += 1
        self.changed.unpark_all()

    def free_port(self) -> int:
        while True:
            port = self.rng.randint(*_EPHEMERAL)
            if port not in self.listeners and all(port != key[0] for key in self.dials):
                return port


class VirtualListener:
    """ports.Listener."""

    def __init__(self, net: ProcessNet, address: Address, port: int) -> None:
        self.address = address
        self.net = net
        self._port = port
        self._waiting: deque[VirtualStream] = deque()
        self._changed = trio.lowlevel.ParkingLot()
        self._is_closed = False

    def offer(self, stream: VirtualStream) -> None:
        if self._is_closed or len(self._waiting) >= _BACKLOG:
            stream.close()
            return
        stream.owner = self.net
        self._waiting.append(stream)
        self._changed.unpark()

    async def accept(self) -> ByteStream:
        await trio.lowlevel.checkpoint()
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError("the listener was closed")
            if self._waiting:
                return self._waiting.popleft()
            await self._changed.park()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self.net.machine.listeners.pop(self._port, None)
        for stream in self._waiting:
            stream.close()
        self._waiting.clear()
        self._changed.unpark_all()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


class ProcessNet:
    """ports.Net for one process on `machine`. After `kill` nothing it does has any effect."""

    def __init__(self, internet: Internet, machine: Machine) -> None:
        self.internet = internet
        self.machine = machine
        self.is_alive = True

    async def listen(self, address: Address) -> Listener:
        await trio.lowlevel.checkpoint()
        _, port = self._endpoint(address)
        if port and port in self.machine.listeners:
            raise OSError(errno.EADDRINUSE, "another program uses it")
        port = port or self.machine.free_port()
        listener = VirtualListener(self, tcp_address(_ip(address), port), port)
        self.machine.listeners[port] = listener
        return listener

    async def dial(self, address: Address, *, local: Address | None = None) -> ByteStream:
        await trio.lowlevel.checkpoint()
        remote = self._endpoint(address)
        machine = self.machine
        if not machine.is_online and not is_loopback(address):
            raise OSError(errno.ENETUNREACH, "network is unreachable")
        bound = None if local is None else host_port(local)
        port = bound[1] if bound else machine.free_port()
        key = (port, *remote)
        if key in machine.dials or self.internet.is_connected(machine, port, remote):
            raise OSError(errno.EADDRNOTAVAIL, "this port is connected there already")
        dial = machine.dials[key] = Dial(self)
        try:
            for wait in SYN_WAITS:
                self.internet.attempt(dial, machine, port, remote)
                with trio.move_on_after(wait):
                    await dial.done.wait()
                if isinstance(dial.result, VirtualStream):
                    stream, dial.result = dial.result, OSError(errno.ECONNABORTED, "handed over")
                    return stream
                if dial.result is not None:
                    raise dial.result
            raise OSError(errno.ETIMEDOUT, "connection timed out")
        finally:
            machine.dials.pop(key, None)
            if isinstance(dial.result, VirtualStream):
                dial.result.close()  # cancelled in the moment it was established
            elif dial.result is None:
                dial.settle(OSError(errno.ECANCELED, "given up"))

    async def interfaces(self) -> tuple[Address, ...]:
        await trio.lowlevel.checkpoint()
        loopback = Address(f"/ip4/{_LOOPBACK}")
        return (loopback, Address(f"/ip4/{self.machine.ip}")) if self.machine.is_online else (loopback,)

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[NetworkChanges]:
        yield NetworkNews(self.machine)

    async def resolve(self, name: str) -> tuple[str, ...]:
        return await self.internet.resolve(self.machine, name)

    def _endpoint(self, address: Address) -> Endpoint:
        parts = host_port(address)
        if parts is None or address.startswith("/ip6/"):
            raise OSError(errno.EAFNOSUPPORT, f"not an IPv4 and TCP address: {address}")
        if not self.is_alive:
            raise OSError(errno.ENETDOWN, "this process was killed")
        return parts

    def kill(self, *, power: bool = False) -> int:
        """The process is gone. Other ends are reset, unless the machine lost its `power`: they learn nothing then.
        Returns how many connections that took."""
        self.is_alive = False
        for listener in [each for each in self.machine.listeners.values() if each.net is self]:
            listener.close()
        streams = [each for each in self.machine.streams if each.owner is self]
        for stream in streams:
            for pipe in stream.pipes:
                if power:
                    pipe.kill()
            stream.break_at(trio.current_time())
            stream.close()
        return len(streams)


def _ip(address: Address) -> str:
    parts = host_port(address)
    assert parts is not None
    return parts[0]
