"""Yamux beside py-libp2p's own, interleaved in one run over loopback TCP: bulk and small messages per CPU second."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from p2pe.overlay.yamux import YamuxConnection

BULK_BYTES = 64 * 2**20
WRITE = 2**20
MESSAGES = 5_000
MESSAGE = bytes(256)
ROUNDS = 5

Send = Callable[[bytes], Awaitable[None]]
Receive = Callable[[int], Awaitable[bytes]]


class Secured:
    """A trio stream in the shape py-libp2p's Yamux wants."""

    def __init__(self, stream: trio.abc.Stream, is_initiator: bool) -> None:
        self.stream, self.is_initiator = stream, is_initiator

    async def read(self, n: int | None = None) -> bytes:
        return bytes(await self.stream.receive_some(n))

    async def write(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def close(self) -> None:
        await self.stream.aclose()

    def get_remote_address(self) -> None:
        return None


async def tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    left = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
    async with listener:
        return left, await listener.accept()


@asynccontextmanager
async def ours() -> AsyncIterator[tuple[Send, Receive]]:
    left, right = await tcp_pair()
    dialer, listener = YamuxConnection(left, True), YamuxConnection(right, False)
    async with trio.open_nursery() as nursery:
        await nursery.start(dialer.run)
        await nursery.start(listener.run)
        sender = await dialer.open_stream()
        receiver = await listener.accept_stream()
        yield sender.send_all, receiver.receive_some
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def theirs() -> AsyncIterator[tuple[Send, Receive]]:
    left, right = await tcp_pair()
    dialer: Any = Yamux(Secured(left, True), ID(b"peer"), is_initiator=True)  # type: ignore[arg-type]
    listener: Any = Yamux(Secured(right, False), ID(b"peer"), is_initiator=False)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dialer.start)
        nursery.start_soon(listener.start)
        await dialer.event_started.wait()
        await listener.event_started.wait()
        sender = await dialer.open_stream()
        receiver = await listener.accept_stream()
        yield sender.write, receiver.read
        nursery.cancel_scope.cancel()


async def bulk(send: Send, receive: Receive) -> float:
    """MiB per CPU second."""

    async def write() -> None:
        block = bytes(WRITE)
        for _ in range(BULK_BYTES // WRITE):
            await send(block)

    return await timed(write, receive, BULK_BYTES) * BULK_BYTES / 2**20


async def small(send: Send, receive: Receive) -> float:
    """256-byte messages, each its own write, per CPU second."""

    async def write() -> None:
        for _ in range(MESSAGES):
            await send(MESSAGE)

    return await timed(write, receive, MESSAGES * len(MESSAGE)) * MESSAGES


async def timed(write: Callable[[], Awaitable[None]], receive: Receive, size: int) -> float:
    started = time.process_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        while size > 0:
            size -= len(await receive(256 * 1024))
    return 1.0 / (time.process_time() - started)


async def compare() -> dict[str, Any]:
    """Medians, and the ratio of each interleaved pair (median, least, most), by measure."""
    figures: dict[str, Any] = {}
    for name, measure in (("bulk_mib", bulk), ("small_messages", small)):
        pairs = []
        for _ in range(ROUNDS):
            async with ours() as ends:
                mine = await measure(*ends)
            async with theirs() as ends:
                pairs.append((mine, await measure(*ends)))
        ratios = sorted(mine / other for mine, other in pairs)
        figures[name] = {
            "ours_per_cpu_second": round(statistics.median(mine for mine, _ in pairs)),
            "py_libp2p_per_cpu_second": round(statistics.median(other for _, other in pairs)),
            "ratio": [round(statistics.median(ratios), 2), round(ratios[0], 2), round(ratios[-1], 2)],
        }
    return figures


async def main() -> None:
    print(json.dumps(await compare(), indent=2))


if __name__ == "__main__":
    trio.run(main)
