"""The virtual network: TCP's manners, cuts that heal, deaths that nobody is told of, and NATs by RFC 4787."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import pytest
import trio
from p2pe.core.addresses import host_port, tcp_address
from p2pe.model import Address
from p2pe_sim.natlab.nat import NatType, punchable
from p2pe_sim.world.clock import jumping_clock
from p2pe_sim.world.machine import LinkShape, Machine, ProcessNet
from p2pe_sim.world.net import Internet
from p2pe_sim.world.randomness import Randomness
from p2pe_sim.world.wire import BUFFER_BYTES, VirtualStream

ANY = Address("/ip4/0.0.0.0/tcp/4001")
SHAPE = LinkShape(latency=0.01)


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs the test in virtual time, at most an hour of it."""

    @wraps(test)
    def run(**arguments: Any) -> None:
        async def main() -> None:
            with trio.fail_after(3600):
                await test(**arguments)

        trio.run(main, clock=jumping_clock())

    return run


@dataclass
class Pair:
    internet: Internet
    ada: Machine
    ben: Machine
    ours: VirtualStream
    theirs: VirtualStream


@asynccontextmanager
async def connected(shape: LinkShape = SHAPE, seed: int = 1) -> AsyncIterator[Pair]:
    internet = Internet(Randomness(seed))
    ada, ben = internet.add("ada", shape=shape), internet.add("ben", shape=shape)
    listener = await ProcessNet(internet, ben).listen(ANY)
    ours: Any = await ProcessNet(internet, ada).dial(tcp_address(ben.ip, 4001))
    theirs: Any = await listener.accept()
    yield Pair(internet, ada, ben, ours, theirs)


async def read_all(stream: VirtualStream) -> bytes:
    got = b""
    while piece := await stream.receive_some():
        got += piece
    return got


@virtual
async def test_bytes_arrive_in_order_after_the_latency_and_the_half_close_behind_them() -> None:
    async with connected() as pair:
        began = trio.current_time()
        await pair.ours.send_all(b"one ")
        await pair.ours.send_all(b"two")
        await pair.ours.send_eof()
        assert await pair.theirs.receive_some(2) == b"on"
        assert trio.current_time() - began == pytest.approx(0.02, abs=1e-4)
        assert await read_all(pair.theirs) == b"e two"
        assert await pair.theirs.receive_some() == b""
        await pair.theirs.send_all(b"still open this way")
        assert await pair.ours.receive_some() == b"still open this way"
        assert host_port(pair.theirs.remote) == host_port(pair.ours.local)


@virtual
async def test_bandwidth_and_loss_are_time_never_missing_bytes() -> None:
    async with connected(LinkShape(latency=0.01, bandwidth=100_000)) as pair:
        began = trio.current_time()
        await pair.ours.send_all(bytes(200_000))
        await pair.ours.send_eof()
        assert len(await read_all(pair.theirs)) == 200_000
        assert 2.0 < trio.current_time() - began < 4.5
    async with connected(LinkShape(latency=0.01, loss=0.3)) as pair:
        for n in range(50):
            await pair.ours.send_all(bytes([n]))
        await pair.ours.send_eof()
        assert await read_all(pair.theirs) == bytes(range(50))
        assert pair.internet.effects.retransmissions > 10


@virtual
async def test_a_writer_waits_for_a_reader() -> None:
    async with connected() as pair, trio.open_nursery() as nursery:
        written = 0

        async def write() -> None:
            nonlocal written
            for _ in range(100):
                await pair.ours.send_all(bytes(32_768))
                written += 32_768

        nursery.start_soon(write)
        await trio.sleep(100)
        assert BUFFER_BYTES <= written <= BUFFER_BYTES + 32_768
        got = 0
        while got < 100 * 32_768:
            got += len(await pair.theirs.receive_some())


@virtual
async def test_a_cut_path_stalls_and_goes_on_after_it_has_healed() -> None:
    async with connected() as pair:
        await pair.ours.send_all(b"under way")
        number = pair.internet.cut(frozenset({"ada"}), frozenset({"ben"}))
        await pair.ours.send_all(b", and more")
        with trio.move_on_after(30) as waited:
            await pair.theirs.receive_some()
        assert waited.cancelled_caught
        assert pair.internet.heal(number) == len(b"under way, and more")
        await pair.ours.send_eof()
        assert await read_all(pair.theirs) == b"under way, and more"
        assert pair.internet.effects.bytes_vanished == 0


@virtual
async def test_half_open_connections_swallow_bytes_and_tell_nobody() -> None:
    async with connected() as pair:
        assert pair.internet.kill_streams([pair.ours]) == 1
        await pair.ours.send_all(b"into the void")
        await pair.theirs.send_all(b"likewise")
        for stream in (pair.ours, pair.theirs):
            with trio.move_on_after(600) as waited:
                await stream.receive_some()
            assert waited.cancelled_caught
        assert pair.internet.effects.bytes_vanished == len(b"into the voidlikewise")


@virtual
async def test_resets_closes_and_kills_are_noticed_by_whom_they_should_be() -> None:
    async with connected() as pair:
        pair.internet.reset_streams([pair.ours])
        for stream in (pair.ours, pair.theirs):
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
    async with connected() as pair:
        await pair.theirs.aclose()
        assert await pair.ours.receive_some() == b""
        await pair.ours.send_all(b"nobody reads this")  # the answer is a reset
        await trio.sleep(1)
        with pytest.raises(trio.BrokenResourceError):
            await pair.ours.send_all(b"more")
        with pytest.raises(trio.ClosedResourceError):
            await pair.theirs.receive_some()
    async with connected() as pair:
        killed: Any = pair.theirs.owner
        assert killed.kill() == 1
        assert await pair.ours.receive_some() == b""  # the system closes what the process had open
    async with connected() as pair:
        killed = pair.theirs.owner
        assert killed.kill(power=True) == 1
        with trio.move_on_after(600) as waited:
            await pair.ours.receive_some()
        assert waited.cancelled_caught


@virtual
async def test_a_read_that_waits_ends_when_its_stream_is_closed_or_reset() -> None:
    async with connected() as pair, trio.open_nursery() as nursery:

        async def reads(stream: VirtualStream, error: type[Exception]) -> None:
            with pytest.raises(error):
                await stream.receive_some()

        nursery.start_soon(reads, pair.ours, trio.BrokenResourceError)
        nursery.start_soon(reads, pair.theirs, trio.ClosedResourceError)
        await trio.sleep(1)
        await pair.theirs.aclose()
        pair.ours.break_at(trio.current_time())


@virtual
async def test_dials_are_refused_time_out_or_find_no_network() -> None:
    async with connected() as pair:
        net = ProcessNet(pair.internet, pair.ada)

        async def errno_of(port: int, ip: str = pair.ben.ip) -> int | None:
            with pytest.raises(OSError) as caught:
                await net.dial(tcp_address(ip, port))
            return caught.value.errno

        assert await errno_of(9) == errno.ECONNREFUSED
        assert await errno_of(1, "8.8.8.8") == errno.ETIMEDOUT
        pair.internet.cut(frozenset({"ada"}), frozenset({"ben"}))
        began = trio.current_time()
        assert await errno_of(4001) == errno.ETIMEDOUT
        assert trio.current_time() - began == pytest.approx(127, abs=1)
        pair.internet.set_online(pair.ada, False)
        assert await errno_of(4001) == errno.ENETUNREACH
        with pytest.raises(OSError, match="IPv4"):
            await net.listen(Address("/ip6/::/tcp/0"))


@virtual
async def test_a_dial_through_a_short_cut_succeeds_by_its_next_attempt() -> None:
    async with connected() as pair, trio.open_nursery() as nursery:
        number = pair.internet.cut(frozenset({"ada"}), frozenset({"ben"}))

        async def heal() -> None:
            await trio.sleep(2)
            assert pair.internet.heal(number) > 0

        nursery.start_soon(heal)
        began = trio.current_time()
        await ProcessNet(pair.internet, pair.ada).dial(tcp_address(pair.ben.ip, 4001))
        assert trio.current_time() - began == pytest.approx(3.04, abs=0.01)


@virtual
async def test_another_address_is_told_to_the_machine_and_kills_its_connections() -> None:
    async with connected() as pair:
        old = pair.ada.ip
        async with ProcessNet(pair.internet, pair.ada).changes() as changes:
            assert pair.internet.move(pair.ada, 1) == 1
            await changes.wait()
        assert pair.ada.ip != old
        with trio.move_on_after(60) as waited:
            await pair.theirs.receive_some()
        assert waited.cancelled_caught


PUNCHED = [each for each in NatType if each is not NatType.V6_FIREWALL]


@pytest.mark.parametrize("one", PUNCHED)
@pytest.mark.parametrize("other", PUNCHED)
def test_punching_works_exactly_where_physics_allows(one: NatType, other: NatType) -> None:
    """Both learn from a server how they are seen, then dial each other from their listen ports, three rounds."""

    @virtual
    async def run() -> None:
        internet = Internet(Randomness(3))
        server = internet.add("server", shape=SHAPE)
        nodes = [internet.add("ada", nat=one, shape=SHAPE), internet.add("ben", nat=other, shape=SHAPE)]
        nets = [ProcessNet(internet, each) for each in nodes]
        through: list[bool] = []
        async with trio.open_nursery() as nursery:
            listener = await ProcessNet(internet, server).listen(Address("/ip4/0.0.0.0/tcp/443"))
            seen = []
            for net in nets:
                await net.listen(ANY)
                await net.dial(tcp_address(server.ip, 443), local=ANY)
                seen.append((await listener.accept()).remote)

            async def dial(net: ProcessNet, target: Address) -> None:
                with trio.move_on_after(2.5):
                    try:
                        await net.dial(target, local=ANY)
                        through.append(True)
                    except OSError:
                        await trio.sleep(2.5)

            for _ in range(3):
                async with trio.open_nursery() as round_:
                    round_.start_soon(dial, nets[0], seen[1])
                    round_.start_soon(dial, nets[1], seen[0])
            nursery.cancel_scope.cancel()
        assert bool(through) is punchable(one, other)

    run()
