"""Our host and a stock py-libp2p host (in its own process), both ways, on real sockets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from overlay_kit import ECHO, host, until, world
from p2pe.core.addresses import split_peer, with_peer
from p2pe.model import Address, PeerInfo
from p2pe.overlay.host import open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.ping import ping

SCRIPT = Path(__file__).with_name("stock_libp2p.py")


class Lines:
    """The process's JSON lines."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._buffer = bytearray()

    async def next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with trio.fail_after(60):
            while b"\n" not in self._buffer:
                piece = await self._process.stdout.receive_some()
                assert piece, "the stock libp2p process ended early"
                self._buffer += piece
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        found: dict[str, Any] = json.loads(line)
        return found


@asynccontextmanager
async def stock(*arguments: str) -> AsyncIterator[Lines]:
    process = await trio.lowlevel.open_process(
        [sys.executable, str(SCRIPT), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield Lines(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def test_we_dial_a_stock_host() -> None:
    async with AsyncExitStack() as stack, stock() as lines:
        address, peer_id = split_peer((await lines.next())["address"])
        ours = await host(stack)
        connection = await ours.connect(PeerInfo(peer_id, (address,)))
        stream = await connection.open_stream(ECHO)
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        await stream.aclose()
        assert await ping(connection, os.urandom) > 0
        identity = await ours.identify(connection)
        assert ECHO in identity.protocols and address in identity.addresses
        await until(lambda: connection.round_trip is not None)


async def test_a_stock_host_dials_us() -> None:
    async with AsyncExitStack() as stack:
        ours = await host(stack)
        text = with_peer(ours.listen_addresses()[0], ours.peer_id)
        async with stock(text) as lines:
            await lines.next()
            assert await lines.next() == {"echo": "hello"}
            assert await lines.next() == {"ping": 2}
            said = await lines.next()
            assert said["agent"].startswith("p2pe/") and ECHO in said["protocols"]


async def test_plaintext_is_never_spoken() -> None:
    """A dialer that offers every security protocol but Noise gets `na` for each (libp2p-facts, 16)."""
    from p2pe.overlay import multistream

    async with open_host(world(), key=HostKey.generate(os.urandom), listen=[Address("/ip4/127.0.0.1/tcp/0")]) as ours:
        raw = await world().net.dial(ours.listen_addresses()[0])
        reader = multistream.LineReader(raw.receive_some)
        try:
            await multistream.propose(reader, raw.send_all, ["/plaintext/2.0.0", "/secio/1.0.0", "/tls/1.0.0"])
        except multistream.NotSupported:
            pass
        else:
            raise AssertionError("something else than Noise was accepted")
        await raw.aclose()
