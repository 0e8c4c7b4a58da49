"""What strangers may throw at a running node: for tests, and for the robustness table of `make bench-net`.

Each attack does its worst, keeps it up until `over` is set, and returns how much of it got through: an attack without
effect proves nothing. Sources are IP addresses to attack from, so that limits per subnet can be walked around.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

import trio
from p2pe import config
from p2pe.core.varint import encode_varint
from p2pe.core.yamux import DATA, HEADER, SYN, WINDOW_UPDATE
from p2pe.errors import P2peError, Unreachable
from p2pe.model import Address, PeerId
from p2pe.overlay.connection import HostConnection
from p2pe.overlay.host import OverlayHost, open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.limits import HostLimits
from p2pe.overlay.multistream import line
from p2pe.overlay.net import RealNet
from p2pe.overlay.noise import SecureStream
from p2pe.overlay.upgrade import upgrade_outbound
from p2pe.overlay.world import real_world
from p2pe.ports import ByteStream, Connection

BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, P2peError)
_GREETING: Final = line("/multistream/1.0.0")
_LINGER_SECONDS: Final = 20.0  # a stream with rubbish should be gone by then


@dataclass(frozen=True, slots=True)
class Target:
    address: Address
    peer_id: PeerId


Attack = Callable[[Target, Sequence[str], trio.Event], Awaitable[int]]


async def raw(target: Target, source: str) -> ByteStream:
    """A TCP connection to the target, from `source`. Raises OSError."""
    return await RealNet().dial(target.address, local=Address(f"/ip4/{source}/tcp/0"))


async def secured(target: Target, source: str) -> SecureStream:
    """The same after an honest Noise handshake: what is written now is yamux, or is not. Raises BROKEN."""
    stream = await raw(target, source)
    key = HostKey.generate(os.urandom)
    return (await upgrade_outbound(stream, key, os.urandom, target.peer_id)).stream


async def drain(stream: ByteStream | SecureStream) -> None:
    """Reads and forgets until the end."""
    try:
        while await stream.receive_some():
            pass
    except BROKEN:
        pass


async def syn_flood(target: Target, sources: Sequence[str], over: trio.Event, count: int = 5_000) -> int:
    """Opens `count` streams on one connection and says nothing on them. Returns how many were sent."""
    stream = await secured(target, sources[0])
    sent = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain, stream)
        try:
            for number in range(count):
                await stream.send_all(HEADER.pack(0, WINDOW_UPDATE, SYN, 1 + 2 * number, 0))
                sent += 1
            await over.wait()
        except BROKEN:
            pass
        nursery.cancel_scope.cancel()
    return sent


async def overfill_window(
    target: Target, sources: Sequence[str], over: trio.Event, size: int = 200 * config.MIB
) -> int:
    """Sends `size` bytes into one stream whatever its window is. Returns how many bytes went before the end."""
    stream = await secured(target, sources[0])
    piece = HEADER.pack(0, DATA, 0, 1, 60 * config.KIB) + bytes(60 * config.KIB)
    sent = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain, stream)
        try:
            await stream.send_all(HEADER.pack(0, WINDOW_UPDATE, SYN, 1, 0))
            hello = _GREETING + line("/ipfs/ping/1.0.0")
            await stream.send_all(HEADER.pack(0, DATA, 0, 1, len(hello)) + hello)
            while sent < size:
                await stream.send_all(piece)
                sent += len(piece)
        except BROKEN:
            pass
        nursery.cancel_scope.cancel()
    return sent


async def idle_connections(target: Target, sources: Sequence[str], over: trio.Event, count: int = 1_000) -> int:
    """Opens `count` connections from all sources in turn and says nothing. Returns how many were opened."""
    opened: list[ByteStream] = []
    try:
        for number in range(count):
            try:
                opened.append(await raw(target, sources[number % len(sources)]))
            except OSError:
                continue
        await over.wait()
        return len(opened)
    finally:
        for stream in opened:
            with trio.CancelScope(shield=True) as scope:
                scope.cancel()
                await stream.aclose()


async def slowloris(target: Target, sources: Sequence[str], over: trio.Event) -> int:
    """Stops halfway at each step of a connection, and drips. Returns how many connections and streams were held."""
    held = 0
    halves = (b"", _GREETING[:7], _GREETING + line("/noise") + b"\x00", _GREETING + line("/noise") + b"\x00\x20abc")

    async def stall(source: str, half: bytes) -> None:
        nonlocal held
        try:
            stream = await raw(target, source)
            await stream.send_all(half)
            held += 1
            await drain(stream)
        except BROKEN:
            pass

    async def half_a_frame(source: str) -> None:
        nonlocal held
        try:
            stream = await secured(target, source)
            await stream.send_all(HEADER.pack(0, DATA, SYN, 1, 100)[:5])
            held += 1
            await drain(stream)
        except BROKEN:
            pass

    async def half_a_request(source: str) -> None:
        """On each protocol: many streams that begin something and never end it."""
        nonlocal held
        async with open_attacker() as host:
            try:
                connection = await dial_from(host, target, source)
                protocols = (await host.identify(connection)).protocols
                for protocol in protocols:
                    for _ in range(40):
                        stream = await connection.open_stream(protocol)
                        await stream.send_all(b"\x40")
                        held += 1
            except (*BROKEN, trio.TooSlowError):
                pass
            await over.wait()

    async with trio.open_nursery() as nursery:
        for number, source in enumerate(sources[:64]):
            nursery.start_soon(stall, source, halves[number % len(halves)])
            if number % 4 == 0:
                nursery.start_soon(half_a_frame, source)
        for source in sources[:4]:
            nursery.start_soon(half_a_request, source)
        await over.wait()
        nursery.cancel_scope.cancel()
    return held


RUBBISH: Final = (
    b"",
    b"\x00" * 64,
    b"\xff" * 5_000,
    b"\x0b" * 1_000,  # protobuf groups, opened and never closed
    b"GET / HTTP/1.1\r\n\r\n",
    encode_varint(1 << 40) + b"x",
    encode_varint(10 * config.MIB) + bytes(1_000),
    encode_varint(3) + b"\x0a\xff\x7f",  # a field longer than its message
    encode_varint(64) + bytes(64),
    b"\x00\x00\x00\x00" + bytes(64),
    b"\xff\xff\xff\xff" + bytes(70_000),
)


async def rubbish(target: Target, sources: Sequence[str], over: trio.Event) -> int:
    """On every protocol that the target says it speaks, and before any: rubbish. Returns how many pieces were sent.
    Raises Unreachable when a stream with rubbish stays open."""
    noise = random.Random(7)
    pieces = [*RUBBISH, *(noise.randbytes(size) for size in (1, 17, 300, 5_000, 66_000))]
    pieces += [encode_varint(size) + noise.randbytes(size) for size in (2, 40, 900)]
    sent = 0

    async def on_stream(connection: Connection, protocol: str) -> None:
        nonlocal sent
        for piece in pieces:
            with trio.move_on_after(_LINGER_SECONDS) as patience:
                try:
                    stream = await connection.open_stream(protocol)
                    await stream.send_all(piece)
                    sent += 1
                    await stream.send_eof()
                    while await stream.receive_some():
                        pass
                    await stream.aclose()
                except (trio.BrokenResourceError, trio.ClosedResourceError, Unreachable):
                    continue
            if patience.cancelled_caught:
                raise Unreachable(f"a stream of {protocol} with {piece[:12]!r} stayed open")

    async def below(source: str, piece: bytes) -> None:
        nonlocal sent
        for open_it in (raw, secured):
            try:
                stream = await open_it(target, source)
                await stream.send_all(piece)
                sent += 1
                with trio.move_on_after(1.0):
                    await drain(stream)
                with trio.CancelScope(shield=True) as scope:
                    scope.cancel()
                    await stream.aclose()
            except BROKEN:
                continue

    async with open_attacker() as host:
        connection = await dial_from(host, target, sources[0])
        protocols = (await host.identify(connection)).protocols
        async with trio.open_nursery() as nursery:
            for protocol in protocols:
                nursery.start_soon(on_stream, connection, protocol)
        async with trio.open_nursery() as nursery:
            for number, piece in enumerate(pieces):
                nursery.start_soon(below, sources[number % len(sources)], piece)
    return sent


def open_attacker() -> AbstractAsyncContextManager[OverlayHost]:
    """A host that obeys no limits of its own."""
    limits = HostLimits(max_streams_per_connection=100_000)
    return open_host(real_world(), key=HostKey.generate(os.urandom), limits=limits)


async def dial_from(host: OverlayHost, target: Target, source: str) -> HostConnection:
    return await host.dial_address(target.peer_id, target.address, local=Address(f"/ip4/{source}/tcp/0"))


ATTACKS: Final[dict[str, Attack]] = {
    "5,000 streams opened (SYN flood)": syn_flood,
    "200 MiB into a window": overfill_window,
    "1,000 idle connections of one subnet": lambda target, sources, over: idle_connections(target, sources[:1], over),
    "1,000 idle connections of 250 subnets": idle_connections,
    "slowloris at every step": slowloris,
    "rubbish on every protocol": rubbish,
}
