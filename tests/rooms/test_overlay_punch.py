"""Hole punching on real sockets: both ends dial from their listen ports, over a relay's word."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from functools import partial

import pytest
import trio
from overlay_kit import ECHO, info, say, until
from p2pe import config
from p2pe.core.punch import PunchMessage, Said
from p2pe.errors import Unreachable
from p2pe.model import Address, PathAttempt, PathKind, PeerId
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.punch import DCUTR_PROTOCOL, Puncher, _to_wire, open_puncher
from p2pe.overlay.relay.client import open_relay_client
from p2pe.overlay.relay.wire import MessageStream
from p2pe.proto.circuit_pb2 import HolePunch
from relay_kit import client, relay, through_relay


def anything(_: Address) -> bool:
    """Loopback too is worth naming and dialling here."""
    return True


async def pair(stack: AsyncExitStack) -> tuple[OverlayHost, Puncher, OverlayHost, Puncher]:
    """(dialler of the circuit, its puncher, receiver, its puncher), connected over a relay."""
    r, _ = await relay(stack)
    b, b_client = await client(stack)
    a, _ = await client(stack)
    await b_client.reserve(info(r))
    a_puncher = await stack.enter_async_context(open_puncher(a, anything))
    b_puncher = await stack.enter_async_context(open_puncher(b, anything))
    await a.connect(through_relay(b))
    await until(lambda: bool(b.connections(a.peer_id)))
    return a, a_puncher, b, b_puncher


async def test_the_receiver_of_a_circuit_gets_a_direct_connection_that_works_both_ways() -> None:
    async with AsyncExitStack() as stack:
        a, a_puncher, b, b_puncher = await pair(stack)
        answered: list[tuple[PeerId, PathAttempt]] = []
        a_puncher.on_answered = lambda peer, attempt: answered.append((peer, attempt))
        (relayed,) = b.connections(a.peer_id)
        attempts = await b_puncher.punch(relayed)
        assert [each.outcome for each in attempts] == ["ok"]
        await until(lambda: a.connections(b.peer_id)[0].path is not PathKind.RELAYED)
        direct = b.connections(a.peer_id)[0]
        assert direct.path is not PathKind.RELAYED
        assert await say(await direct.open_stream(ECHO), b"from the receiver") == b"from the receiver"
        back = a.connections(b.peer_id)[0]
        assert await say(await back.open_stream(ECHO), b"from the dialler") == b"from the dialler"
        await until(lambda: bool(answered))
        assert answered[0][0] == b.peer_id and answered[0][1].outcome == "ok"
        assert await b_puncher.punch(relayed) == ()  # there is a direct one: nothing to do


async def test_the_dialler_of_a_circuit_does_not_initiate() -> None:
    async with AsyncExitStack() as stack:
        a, a_puncher, b, _ = await pair(stack)
        (relayed,) = a.connections(b.peer_id)
        assert await a_puncher.punch(relayed) == ()
        assert len(b.connections(a.peer_id)) == 1


async def test_who_may_not_learn_our_address_is_told_nothing() -> None:
    """A stranger who comes through our relay asks us to punch."""
    async with AsyncExitStack() as stack:
        a, _, b, b_puncher = await pair(stack)
        b_puncher.allows = lambda _: False
        (relayed,) = a.connections(b.peer_id)
        with pytest.raises((Unreachable, trio.BrokenResourceError)):
            stream = await relayed.open_stream(DCUTR_PROTOCOL)
            await MessageStream(stream).send(_to_wire(PunchMessage(Said.CONNECT, a.listen_addresses())))
            await stream.receive_some()
        assert [c.path for c in b.connections(a.peer_id)] == [PathKind.RELAYED]


async def test_over_a_direct_connection_nobody_punches() -> None:
    async with AsyncExitStack() as stack:
        a, _, b, b_puncher = await pair(stack)
        direct = await a.dial(info(b))
        with pytest.raises((Unreachable, trio.BrokenResourceError)):
            await (await direct.open_stream(DCUTR_PROTOCOL)).receive_some()
        assert await b_puncher.punch(b.connections(a.peer_id)[0]) == ()


async def test_garbage_is_dropped_and_the_next_round_works() -> None:
    async with AsyncExitStack() as stack:
        a, _, b, b_puncher = await pair(stack)
        (relayed,) = b.connections(a.peer_id)
        for garbage in (b"\x00", b"\xff" * 64, b"\x03\x08\xac\x02", os.urandom(4096)):
            stream = await relayed.open_stream(DCUTR_PROTOCOL)
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(garbage)
                await stream.send_eof()
                while await stream.receive_some():
                    pass
        attempts = await b_puncher.punch(relayed)
        assert attempts[-1].outcome == "ok"


async def test_nobody_has_us_dial_addresses_of_their_choice_for_ever() -> None:
    async with AsyncExitStack() as stack:
        a, _, b, _ = await pair(stack)
        (relayed,) = b.connections(a.peer_id)
        answers = 0
        for _ in range(config.PUNCH_ANSWERS_PER_MINUTE + 3):
            try:
                stream = await relayed.open_stream(DCUTR_PROTOCOL)
                messages = MessageStream(stream)
                await messages.send(_to_wire(PunchMessage(Said.CONNECT)))  # no addresses: only answers count here
                await messages.receive(HolePunch)
                answers += 1
                await messages.send(_to_wire(PunchMessage(Said.SYNC)))
                await stream.send_eof()
                while await stream.receive_some():
                    pass
            except (Unreachable, trio.BrokenResourceError):
                continue
        assert config.PUNCH_ANSWERS_PER_MINUTE <= answers < config.PUNCH_ANSWERS_PER_MINUTE + 3


async def test_a_failed_dial_is_reset_so_that_the_listen_port_can_dial_there_again(nursery: trio.Nursery) -> None:
    """Somebody accepts and says nothing that we understand. Closed as usual, the pair of ports would be in TIME-WAIT
    (which Linux lets pass on loopback alone)."""
    was_reset: list[bool] = []

    async def babble(stream: trio.SocketStream) -> None:
        await stream.send_all(b"\x05hello")
        try:
            async for _ in stream:
                pass
            was_reset.append(False)
        except trio.BrokenResourceError:
            was_reset.append(True)

    async with AsyncExitStack() as stack:
        _, _, b, _ = await pair(stack)
        listeners = await nursery.start(partial(trio.serve_tcp, babble, 0, host="127.0.0.1"))
        address = Address(f"/ip4/127.0.0.1/tcp/{listeners[0].socket.getsockname()[1]}")
        with pytest.raises(Unreachable):
            await b.dial_address(PeerId(b"\x00\x01a"), address, local=b.bound_addresses()[0])
        await until(lambda: was_reset == [True])
        nursery.cancel_scope.cancel()


async def test_both_initiating_ends_in_one_working_connection() -> None:
    """Each has dialled the other through a relay."""
    async with AsyncExitStack() as stack:
        a, a_puncher, b, b_puncher = await pair(stack)
        r2, _ = await relay(stack)
        a_client = await stack.enter_async_context(open_relay_client(a))
        await a_client.reserve(info(r2))
        address = a_client.held[0].addresses[0]
        await b.dial_address(a.peer_id, address)
        await until(lambda: any(not c.is_dialer for c in a.connections(b.peer_id)))
        theirs = next(c for c in a.connections(b.peer_id) if not c.is_dialer)
        ours = next(c for c in b.connections(a.peer_id) if not c.is_dialer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a_puncher.punch, theirs)
            nursery.start_soon(b_puncher.punch, ours)
        await until(lambda: a.connections(b.peer_id)[0].path is not PathKind.RELAYED)
        await until(lambda: b.connections(a.peer_id)[0].path is not PathKind.RELAYED)
        assert await say(await a.connections(b.peer_id)[0].open_stream(ECHO), b"x") == b"x"


async def test_no_way_through_says_what_happened_and_the_relayed_connection_lives_on() -> None:
    async with AsyncExitStack() as stack:
        a, _, b, b_puncher = await pair(stack)
        await a.close_listeners()
        b_puncher._useful = lambda _: False
        (relayed,) = b.connections(a.peer_id)
        attempts = await b_puncher.punch(relayed)
        assert attempts and all("no address" in each.outcome for each in attempts)
        assert await say(await relayed.open_stream(ECHO), b"still here") == b"still here"
        with pytest.raises(Unreachable):
            await b.dial(info(a))
