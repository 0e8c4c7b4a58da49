"""`ByteStream.send_now` of the operating system's TCP and of the virtual network's: what it takes arrives, in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from p2pe.core.addresses import tcp_address
from p2pe.model import Address
from p2pe.overlay.net import RealNet
from p2pe.ports import ByteStream
from p2pe_sim.world.clock import jumping_clock
from p2pe_sim.world.machine import LinkShape, ProcessNet
from p2pe_sim.world.net import Internet
from p2pe_sim.world.randomness import Randomness

Pair = tuple[ByteStream, ByteStream]


async def real_pair() -> Pair:
    listener = await RealNet().listen(Address("/ip4/127.0.0.1/tcp/0"))
    ours = await RealNet().dial(listener.address)
    theirs = await listener.accept()
    await listener.aclose()
    return ours, theirs


async def virtual_pair() -> Pair:
    internet = Internet(Randomness(1))
    ada, ben = internet.add("ada", shape=LinkShape()), internet.add("ben", shape=LinkShape())
    listener = await ProcessNet(internet, ben).listen(Address("/ip4/0.0.0.0/tcp/4001"))
    ours = await ProcessNet(internet, ada).dial(tcp_address(ben.ip, 4001))
    return ours, await listener.accept()


@pytest.fixture(params=["real", "virtual"])
def on_a_pair(request: pytest.FixtureRequest) -> Callable[[Callable[[Pair], Awaitable[None]]], None]:
    is_real = request.param == "real"

    def run(test: Callable[[Pair], Awaitable[None]]) -> None:
        async def main() -> None:
            await test(await (real_pair() if is_real else virtual_pair()))

        clock: Any = None if is_real else jumping_clock()
        trio.run(main, clock=clock)

    return run


Run = Callable[[Callable[[Pair], Awaitable[None]]], None]


def test_it_stops_at_a_full_buffer_and_send_all_goes_on_where_it_stopped(on_a_pair: Run) -> None:
    async def test(pair: Pair) -> None:
        ours, theirs = pair
        sent, left = bytearray(), b""
        for number in range(10_000):
            piece = number.to_bytes(4, "big") * 8_192
            taken = ours.send_now(piece)
            sent += piece
            if taken < len(piece):
                left = piece[taken:]
                break
        assert left
        got = bytearray()

        async def read() -> None:
            while piece := await theirs.receive_some():
                got.extend(piece)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await ours.send_all(left)
            await ours.send_eof()
        assert got == sent

    on_a_pair(test)


def test_it_takes_nothing_of_an_ended_stream_and_send_all_says_why(on_a_pair: Run) -> None:
    async def test(pair: Pair) -> None:
        ours, theirs = pair
        await ours.send_eof()
        assert ours.send_now(b"late") == 0
        with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
            await ours.send_all(b"late")
        await ours.aclose()
        assert ours.send_now(b"later") == 0
        with pytest.raises(trio.ClosedResourceError):
            await ours.send_all(b"later")
        assert await theirs.receive_some() == b""
        await theirs.aclose()

    on_a_pair(test)
