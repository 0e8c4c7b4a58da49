"""A muxed stream is a trio HalfCloseableStream by trio's own conformance suite."""

from __future__ import annotations

import trio
import trio.testing
from p2pe import config
from p2pe.overlay.yamux import YamuxConnection
from p2pe.overlay.yamux_stream import MuxedStream


async def test_stream_passes_trios_conformance_suite(nursery: trio.Nursery) -> None:
    async def connect() -> tuple[YamuxConnection, YamuxConnection]:
        left, right = trio.testing.memory_stream_pair()
        dialer, listener = YamuxConnection(left, True), YamuxConnection(right, False)
        await nursery.start(dialer.run)
        await nursery.start(listener.run)
        return dialer, listener

    async def pair() -> tuple[MuxedStream, MuxedStream]:
        dialer, listener = await connect()
        mine = await dialer.open_stream()
        return mine, await listener.accept_stream()

    async def clogged_pair() -> tuple[MuxedStream, MuxedStream]:
        mine, theirs = await pair()
        for stream in (mine, theirs):
            await stream.send_all(bytes(config.YAMUX_INITIAL_WINDOW))
            await stream.send_all(bytes(config.YAMUX_SEND_BUFFER))
        return mine, theirs

    await trio.testing.check_half_closeable_stream(pair, clogged_pair)
    nursery.cancel_scope.cancel()
