"""Our hosts with the real clock (others read the times we send), and the test protocols; streams.mjs is the other half.

/test/echo/1.0.0    echoes until the end, then ends
/test/sink/1.0.0    reads to the end, then answers {"count", "sha256"} and ends
/test/source/1.0.0  reads a decimal number to the end, then sends that many bytes of the pattern and ends
/test/hold/1.0.0    accepts and doesn't read
/test/reset/1.0.0   resets at the first byte
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from hashlib import sha256
from typing import Final

import trio
from overlay_kit import LOOPBACK, echo, read_all
from p2pe.model import Address
from p2pe.overlay.host import OverlayHost, open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.limits import HostLimits
from p2pe.overlay.relay.client import RelayClient, open_relay_client
from p2pe.overlay.relay.limits import RelayLimits
from p2pe.overlay.relay.service import RelayService, open_relay
from p2pe.overlay.world import real_world
from p2pe.ports import Connection, Stream

ECHO: Final = "/test/echo/1.0.0"
SINK: Final = "/test/sink/1.0.0"
SOURCE: Final = "/test/source/1.0.0"
HOLD: Final = "/test/hold/1.0.0"
RESET: Final = "/test/reset/1.0.0"
PIECE: Final = 65_537
BLOCK: Final = bytes((i * i + (i >> 7)) & 255 for i in range(PIECE))


def pattern(size: int) -> Iterator[bytes]:
    """The test pattern's first `size` bytes, in pieces."""
    for start in range(0, size, PIECE):
        yield BLOCK[: min(PIECE, size - start)]


def digest(size: int) -> dict[str, object]:
    """What a sink answers when the pattern's first `size` bytes came in whole and in order."""
    hashed = sha256()
    for piece in pattern(size):
        hashed.update(piece)
    return {"count": size, "sha256": hashed.hexdigest()}


async def digest_of(stream: Stream) -> dict[str, object]:
    hashed, count = sha256(), 0
    while piece := await stream.receive_some():
        hashed.update(piece)
        count += len(piece)
    return {"count": count, "sha256": hashed.hexdigest()}


async def send_pattern(stream: Stream, size: int) -> None:
    for piece in pattern(size):
        await stream.send_all(piece)


async def _sink(stream: Stream) -> None:
    found = await digest_of(stream)
    await stream.send_all(json.dumps(found).encode())


async def _source(stream: Stream) -> None:
    await send_pattern(stream, int(await read_all(stream)))


async def _reset(stream: Stream) -> None:
    await stream.receive_some()
    stream.reset()


class Held:
    """The HOLD handler: keeps its streams until `release`."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.is_released = trio.Event()
        self.found: list[dict[str, object]] = []

    async def handle(self, stream: Stream) -> None:
        self.streams.append(stream)
        await self.is_released.wait()
        self.found.append(await digest_of(stream))


async def real_host(
    stack: AsyncExitStack, *, limits: HostLimits | None = None, listen: Address = LOOPBACK
) -> OverlayHost:
    key = HostKey.generate(os.urandom)
    return await stack.enter_async_context(open_host(real_world(), key=key, listen=(listen,), limits=limits))


async def real_relay(stack: AsyncExitStack, **limits: int) -> tuple[OverlayHost, RelayService]:
    made = await real_host(stack)
    return made, await stack.enter_async_context(open_relay(made, RelayLimits(**limits)))  # type: ignore[arg-type]


async def real_client(stack: AsyncExitStack) -> tuple[OverlayHost, RelayClient]:
    """A relay's client that serves the test protocols."""
    made = await real_host(stack)
    serve_streams(made)
    return made, await stack.enter_async_context(open_relay_client(made))


def serve_streams(host: OverlayHost) -> Held:
    held = Held()
    host.handle(ECHO, echo)
    host.handle(SINK, _sink)
    host.handle(SOURCE, _source)
    host.handle(HOLD, held.handle)
    host.handle(RESET, _reset)
    return held


async def sink(connection: Connection, size: int) -> dict[str, object]:
    """Sends the pattern and half-closes; the other side's account of it."""
    stream = await connection.open_stream(SINK)
    await send_pattern(stream, size)
    await stream.send_eof()
    answer: dict[str, object] = json.loads(await read_all(stream))
    await stream.aclose()
    return answer


async def source(connection: Connection, size: int) -> dict[str, object]:
    """Asks for the pattern; our account of what came."""
    stream = await connection.open_stream(SOURCE)
    await stream.send_all(str(size).encode())
    await stream.send_eof()
    found = await digest_of(stream)
    await stream.aclose()
    return found
