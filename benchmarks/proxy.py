"""The floor of a relay: a plain TCP proxy in trio, as a process of its own.

python -m benchmarks.proxy HOST PORT        prints the port it listens on
"""

from __future__ import annotations

import sys

import trio

PIECE = 64 * 1024  # bytes a read, as in the relay


async def carry(source: trio.SocketStream, target: trio.SocketStream) -> None:
    try:
        while piece := await source.receive_some(PIECE):
            await target.send_all(piece)
        await target.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def serve(host: str, port: int) -> None:
    async def bridge(near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream(host, port)
        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(carry, near, far)
            nursery.start_soon(carry, far, near)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(bridge, listeners)


if __name__ == "__main__":
    trio.run(serve, sys.argv[1], int(sys.argv[2]))
