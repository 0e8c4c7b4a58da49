"""What the overlay's tests share: hosts on real loopback sockets, an echo protocol, waiting for a condition."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack

import trio
from p2pe.model import Address, Millis, PeerInfo
from p2pe.overlay.host import OverlayHost, open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.limits import HostLimits
from p2pe.overlay.net import RealNet
from p2pe.ports import Stream, World

LOOPBACK = Address("/ip4/127.0.0.1/tcp/0")
ECHO = "/test/echo/1.0.0"


class FixedClock:
    def now(self) -> Millis:
        return Millis(1_700_000_000_000)


async def inline(work: Callable[[], object]) -> object:
    return work()


def world() -> World:
    return World(clock=FixedClock(), entropy=os.urandom, net=RealNet(), threads=inline)  # type: ignore[arg-type]


async def echo(stream: Stream) -> None:
    while piece := await stream.receive_some():
        await stream.send_all(piece)
    await stream.send_eof()


async def host(
    stack: AsyncExitStack, *listen: Address, limits: HostLimits | None = None, key: HostKey | None = None
) -> OverlayHost:
    made = await stack.enter_async_context(
        open_host(world(), key=key or HostKey.generate(os.urandom), listen=listen or (LOOPBACK,), limits=limits)
    )
    made.handle(ECHO, echo)
    return made


def info(of: OverlayHost) -> PeerInfo:
    return PeerInfo(of.peer_id, of.listen_addresses())


async def read_all(stream: Stream) -> bytes:
    got = bytearray()
    while piece := await stream.receive_some():
        got += piece
    return bytes(got)


async def say(connection_stream: Stream, data: bytes) -> bytes:
    """Sends and reads at once: an echo longer than the windows would wait for its reader for ever."""
    problem: trio.BrokenResourceError | None = None
    answer = b""

    async def send() -> None:
        try:
            await connection_stream.send_all(data)
            await connection_stream.send_eof()
        except trio.BrokenResourceError:
            pass  # the reader sees it too

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        try:
            answer = await read_all(connection_stream)
        except trio.BrokenResourceError as error:
            problem = error
            nursery.cancel_scope.cancel()
    if problem is not None:
        raise problem
    await connection_stream.aclose()
    return answer


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a real condition, with a deadline."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - any condition, of any part
            await trio.sleep(0.005)
