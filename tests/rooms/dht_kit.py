"""What the DHT's tests share: servers and clients on real loopback sockets, records, a hand-made hostile peer."""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack

import trio
from overlay_kit import LOOPBACK, inline
from p2pe.config import KAD_PROTOCOL
from p2pe.core.addresses import with_peer
from p2pe.core.records import make_record, public_key_of, record_key
from p2pe.core.varint import DelimitedReader, delimit
from p2pe.errors import Unreachable
from p2pe.model import Millis
from p2pe.overlay.dht import Dht, Mode, open_dht
from p2pe.overlay.host import OverlayHost, open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.limits import HostLimits
from p2pe.overlay.net import RealNet
from p2pe.ports import Connection, World
from p2pe.proto import kad_pb2

HOUR = 3_600_000


class SettableClock:
    """Wall-clock time that a test moves."""

    def __init__(self) -> None:
        self.ahead = 0

    def now(self) -> Millis:
        return Millis(int(time.time() * 1000) + self.ahead)


def make_world(clock: SettableClock | None = None) -> World:
    return World(clock=clock or SettableClock(), entropy=os.urandom, net=RealNet(), threads=inline)  # type: ignore[arg-type]


class Node:
    """A host with a DHT on it, that can be killed alone."""

    def __init__(self, host: OverlayHost, dht: Dht, scope: trio.CancelScope) -> None:
        self.host, self.dht, self._scope = host, dht, scope
        self.gone = trio.Event()

    @property
    def address(self) -> str:
        return with_peer(self.host.listen_addresses()[0], self.host.peer_id)

    async def kill(self) -> None:
        self._scope.cancel()
        await self.gone.wait()


async def start(
    nursery: trio.Nursery,
    mode: Mode = "server",
    bootstrap: tuple[str, ...] = (),
    *,
    clock: SettableClock | None = None,
    key: HostKey | None = None,
    limits: HostLimits | None = None,
    listen: str = LOOPBACK,
) -> Node:
    """A running node. It isn't necessarily joined yet."""

    async def run(task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED) -> None:
        world = make_world(clock)
        addresses = (listen,) if mode == "server" else ()
        with trio.CancelScope() as scope:
            async with AsyncExitStack() as stack:
                host = await stack.enter_async_context(
                    open_host(world, key=key or HostKey.generate(os.urandom), listen=addresses, limits=limits)  # type: ignore[arg-type]
                )
                dht = await stack.enter_async_context(open_dht(host, world, mode=mode, bootstrap=bootstrap))
                made = Node(host, dht, scope)
                task_status.started(made)
                await trio.sleep_forever()
        made.gone.set()

    node: Node = await nursery.start(run)
    return node


def signed(
    number: int, *, now: int | None = None, lives: int = HOUR, slot: int = 0, payload: bytes = bytes(512)
) -> tuple[bytes, bytes]:
    """(key, record) of the lookup key with this number."""
    seed = number.to_bytes(32, "big")
    made = int(time.time() * 1000) if now is None else now
    return record_key(public_key_of(seed), slot), make_record(seed, slot, made, Millis(made + lives), payload)


async def exchange(connection: Connection, request: kad_pb2.Message | bytes) -> kad_pb2.Message | None:
    """Sends one raw request; None when the server reset the stream, which may be before its protocol is settled."""
    raw = request if isinstance(request, bytes) else request.SerializeToString()
    try:
        stream = await connection.open_stream(KAD_PROTOCOL)
    except Unreachable:
        assert connection.is_alive
        return None
    try:
        await stream.send_all(delimit(raw))
        reader = DelimitedReader(1 << 20)
        while (answer := reader.next_message()) is None:
            piece = await stream.receive_some()
            if not piece:
                return None
            reader.receive(piece)
        return kad_pb2.Message.FromString(answer)
    except trio.BrokenResourceError:
        return None
    finally:
        await stream.aclose()
