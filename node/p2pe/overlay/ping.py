"""/ipfs/ping/1.0.0: echoes 32 bytes at a time (libp2p ping specification). Our own links use yamux pings instead."""

from __future__ import annotations

from typing import Final

import trio

from p2pe import config
from p2pe.core.patience import patience
from p2pe.errors import RemoteError
from p2pe.ports import Connection, Entropy, Stream

PING_PROTOCOL: Final = "/ipfs/ping/1.0.0"
_SIZE: Final = 32
_SILENCE: Final = 60.0  # seconds without a ping after which the stream is dropped


async def answer_pings(stream: Stream) -> None:
    """The handler: echoes until the other side closes or falls silent."""
    with trio.move_on_after(_SILENCE) as deadline:
        while await _echo(stream):
            deadline.deadline = trio.current_time() + _SILENCE


async def _echo(stream: Stream) -> bool:
    payload = await _read(stream)
    if payload is None:
        return False
    await stream.send_all(payload)
    return True


async def _read(stream: Stream) -> bytes | None:
    payload = bytearray()
    while len(payload) < _SIZE:
        piece = await stream.receive_some(_SIZE - len(payload))
        if not piece:
            return None
        payload += piece
    return bytes(payload)


async def ping(connection: Connection, entropy: Entropy) -> float:
    """Seconds of one round trip through the peer's ping handler. Raises Unreachable, RemoteError, stream errors,
    and trio.TooSlowError after CONNECTION_PING_TIMEOUT, or what a slow line needs."""
    with trio.fail_after(patience(config.CONNECTION_PING_TIMEOUT, connection.round_trip, 2)):
        stream = await connection.open_stream(PING_PROTOCOL)
        try:
            payload = entropy(_SIZE)
            started = trio.current_time()
            await stream.send_all(payload)
            if await _read(stream) != payload:
                raise RemoteError("the answer to a ping isn't its echo")
            return trio.current_time() - started
        finally:
            stream.reset()
