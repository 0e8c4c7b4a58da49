"""The metrics port, to which strangers may come: on real sockets."""

from __future__ import annotations

from collections.abc import Iterable

import trio
from p2pe import config
from p2pe.overlay.scrape import bind_metrics, gauges, serve_metrics
from prometheus_client.core import Metric


async def nothing_much() -> Iterable[Metric]:
    return [gauges("p2pe_test", "A number", "what", {"this": 1.0})]


async def ask(port: int) -> bytes:
    """Empty when the connection was closed unheard."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        try:
            await stream.send_all(b"GET /metrics HTTP/1.1\r\n\r\n")
            return b"".join([piece async for piece in stream])
        except trio.BrokenResourceError:
            return b""


async def test_who_opens_many_connections_holds_a_few_and_not_for_long(nursery: trio.Nursery) -> None:
    listeners = await bind_metrics("127.0.0.1", 0)
    port = listeners[0].socket.getsockname()[1]
    nursery.start_soon(serve_metrics, listeners, nothing_much)
    assert b'p2pe_test{what="this"} 1.0' in await ask(port)
    silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(config.SCRAPE_CONNECTIONS)]
    surplus = await trio.open_tcp_stream("127.0.0.1", port)
    with trio.fail_after(config.SCRAPE_SECONDS * 0.8):  # long before the silent ones' time is over
        try:
            assert await surplus.receive_some() == b""
        except trio.BrokenResourceError:
            pass
    await silent.pop().aclose()
    answers: list[bytes] = []
    while not (answers and answers[-1]):  # the place of the one that left is free as soon as that is noticed
        answers.append(await ask(port))
    assert b"200 OK" in answers[-1]
    for each in (surplus, *silent):
        await each.aclose()
    nursery.cancel_scope.cancel()
