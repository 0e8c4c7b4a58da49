"""Circuit relay v2 on real loopback sockets: reservations, circuits, limits, what ends what, and blindness."""

from __future__ import annotations

import gc
import os
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial

import pytest
import trio
import trio.testing
from overlay_kit import ECHO, host, info, read_all, say, until
from p2pe import config
from p2pe.core.addresses import host_port
from p2pe.core.varint import delimit
from p2pe.errors import RemoteError, Unreachable
from p2pe.model import Address, Millis, PathKind, PeerInfo
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.relay.voucher import check_voucher, make_voucher
from p2pe.overlay.relay.wire import HOP_PROTOCOL, STOP_PROTOCOL, MessageStream
from p2pe.ports import Clock, Stream
from p2pe.proto.circuit_pb2 import HopMessage, Peer, Status, StopMessage
from relay_kit import circuits, client, relay, through_relay


@dataclass
class OffClock:
    """Wall-clock time that is wrong by so many hours."""

    right: Clock
    hours: int

    def now(self) -> Millis:
        return Millis(self.right.now() + self.hours * 3_600_000)


SECRET = b"the owls are not what they seem " * 64


async def test_a_relayed_connection_carries_streams_both_ways() -> None:
    async with AsyncExitStack() as stack:
        r, service = await relay(stack)
        b, b_client = await client(stack)
        a, _ = await client(stack)
        held = await b_client.reserve(info(r))
        assert held.has_voucher
        assert circuits(b) == tuple(f"{address}/p2p/{r.peer_id}/p2p-circuit" for address in r.listen_addresses())
        there = await a.connect(through_relay(b))
        assert there.path is PathKind.RELAYED and there.remote_peer == b.peer_id
        payload = os.urandom(2_000_000)
        assert await say(await there.open_stream(ECHO), payload) == payload
        (back,) = b.connections(a.peer_id)
        assert back.path is PathKind.RELAYED and back.remote_address == circuits(b)[0]
        assert await say(await back.open_stream(ECHO), b"back") == b"back"
        assert service.metrics.circuits == 1 and service.metrics.bytes_relayed > 4_000_000
        await there.aclose()
        await until(lambda: service.metrics.circuits == 0 and not b.connections(a.peer_id))


async def test_first_records_wait_for_both_relays_but_not_for_one_that_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with AsyncExitStack() as stack:
        near, far = info((await relay(stack))[0]), info((await relay(stack))[0])
        (_, b), (_, c) = await client(stack), await client(stack)
        way = host_port(far.addresses[0])
        assert way is not None

        async def slow(client_end: trio.SocketStream) -> None:
            await trio.sleep(0.2)
            async with await trio.open_tcp_stream(*way) as server_end, trio.open_nursery() as both:
                both.start_soon(pump, client_end, server_end)
                both.start_soon(pump, server_end, client_end)

        async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                async for chunk in source:
                    await sink.send_all(chunk)

        async with trio.open_nursery() as nursery:
            (front,) = await nursery.start(partial(trio.serve_tcp, slow, 0, host="127.0.0.1"))
            port = front.socket.getsockname()[1]
            far = PeerInfo(far.peer_id, (Address(f"/ip4/127.0.0.1/tcp/{port}"),))
            monkeypatch.setattr(config, "RELAY_SECOND_WAIT", 30.0)
            nursery.start_soon(b.keep, lambda: [near, far])
            await b.settled.wait()
            assert len(b.held) == 2
            monkeypatch.setattr(config, "RELAY_SECOND_WAIT", 0.05)
            (mute,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            stack.push_async_callback(mute.aclose)
            silent = PeerInfo(far.peer_id, (Address(f"/ip4/127.0.0.1/tcp/{mute.socket.getsockname()[1]}"),))
            nursery.start_soon(c.keep, lambda: [silent, near])
            await c.settled.wait()
            assert [held.relay for held in c.held] == [near.peer_id]
            nursery.cancel_scope.cancel()


async def test_a_dial_without_reservation_says_why() -> None:
    async with AsyncExitStack() as stack:
        r, service = await relay(stack)
        a, _ = await client(stack)
        b = await host(stack)
        await b.connect(info(r))  # connected, but has reserved nothing
        address = f"{r.listen_addresses()[0]}/p2p/{r.peer_id}/p2p-circuit"
        with pytest.raises(Unreachable) as caught:
            await a.connect(PeerInfo(b.peer_id, (address,)))  # type: ignore[arg-type]
        (attempt,) = caught.value.attempts
        assert attempt.step == "relay" and "isn't connected to this relay" in attempt.outcome
        assert service.metrics.circuits_refused == 1


async def test_reservations_are_for_the_authenticated_peer_only() -> None:
    async with AsyncExitStack() as stack:
        r, service = await relay(stack)
        a, _ = await client(stack)
        connection = await a.connect(info(r))
        for _ in range(5):
            messages = MessageStream(await connection.open_stream(HOP_PROTOCOL))
            invented = HostKey.generate(os.urandom).peer_id
            await messages.send(HopMessage(type=HopMessage.RESERVE, peer=Peer(id=invented)))
            answer = await messages.receive(HopMessage)
            assert answer.status == Status.OK
            assert check_voucher(answer.reservation.voucher, r.peer_id, a.peer_id) == answer.reservation.expire
            assert not service._ledger.is_reserved(invented, trio.current_time())
        assert service.metrics.reservations == 1


async def test_a_reservation_ends_with_its_connection() -> None:
    async with AsyncExitStack() as stack:
        r, service = await relay(stack)
        b, b_client = await client(stack)
        await b_client.reserve(info(r))
        for connection in b.connections(r.peer_id):
            await connection.aclose()
        await until(lambda: service.metrics.reservations == 0)
        assert b_client.held == ()


async def test_limits_on_reservations_in_all_and_per_subnet() -> None:
    for limits in ({"max_reservations": 2}, {"max_reservations_per_subnet": 2, "limit_loopback": True}):
        async with AsyncExitStack() as stack:
            r, service = await relay(stack, **limits)
            peers = [await client(stack) for _ in range(3)]
            await peers[0][1].reserve(info(r))
            await peers[1][1].reserve(info(r))
            await peers[0][1].reserve(info(r))  # renewing takes no further place
            with pytest.raises(Unreachable, match="no place left"):
                await peers[2][1].reserve(info(r))
            assert service.metrics.reservations == 2


async def test_limits_on_circuits_per_peer() -> None:
    async with AsyncExitStack() as stack:
        r, service = await relay(stack, max_circuits_per_peer=1)
        b, b_client = await client(stack)
        await b_client.reserve(info(r))
        a, _ = await client(stack)
        c, _ = await client(stack)
        await a.connect(through_relay(b))
        with pytest.raises(Unreachable, match="at its limit"):
            await c.connect(through_relay(b))
        assert service.metrics.circuits == 1


async def test_a_circuit_is_cut_by_its_bytes_and_the_next_one_works() -> None:
    async with AsyncExitStack() as stack:
        r, service = await relay(stack, circuit_bytes=100_000)
        b, b_client = await client(stack)
        await b_client.reserve(info(r))
        a, _ = await client(stack)
        there = await a.connect(through_relay(b))
        with pytest.raises(trio.BrokenResourceError):
            await say(await there.open_stream(ECHO), bytes(300_000))
        await until(lambda: not there.is_alive and not b.connections(a.peer_id))
        assert service.metrics.circuits_cut == 1
        again = await a.connect(through_relay(b))
        assert await say(await again.open_stream(ECHO), b"on we go") == b"on we go"


async def test_a_circuit_is_cut_by_its_time_though_nothing_flows() -> None:
    async with AsyncExitStack() as stack:
        r, service = await relay(stack, circuit_seconds=1)
        b, b_client = await client(stack)
        await b_client.reserve(info(r))
        a, _ = await client(stack)
        there = await a.connect(through_relay(b))
        await until(lambda: not there.is_alive)
        await until(lambda: service.metrics.circuits_cut == 1 and service.metrics.circuits == 0)


async def test_closing_one_circuit_leaves_the_others_of_the_same_peer() -> None:
    async with AsyncExitStack() as stack:
        r, service = await relay(stack)
        b, b_client = await client(stack)
        await b_client.reserve(info(r))
        a, _ = await client(stack)
        c, _ = await client(stack)
        of_a = await a.connect(through_relay(b))
        of_c = await c.connect(through_relay(b))
        await of_a.aclose()
        await until(lambda: service.metrics.circuits == 1)
        assert await say(await of_c.open_stream(ECHO), b"still here") == b"still here"


async def test_keep_moves_to_another_relay_when_one_dies(nursery: trio.Nursery) -> None:
    async with AsyncExitStack() as stack:
        r1, _ = await relay(stack)
        r2, _ = await relay(stack)
        r3, _ = await relay(stack)
        b, b_client = await client(stack)
        nursery.start_soon(b_client.keep, lambda: (info(r1), info(r2), info(r3)), 2)
        await until(lambda: len(b_client.held) == 2)
        assert {h.relay for h in b_client.held} == {r1.peer_id, r2.peer_id}
        await r1.close_listeners()
        await r1.close_connections()
        await until(lambda: {h.relay for h in b_client.held} == {r2.peer_id, r3.peer_id})
        assert not any(str(r1.peer_id) in address for address in circuits(b))
        nursery.cancel_scope.cancel()


async def test_keep_moves_from_a_relay_that_breaks_what_it_carries(nursery: trio.Nursery) -> None:
    """Only after several broken links, only while another relay is there, and not when the relay itself had gone."""
    async with AsyncExitStack() as stack:
        relays = [(await relay(stack))[0] for _ in range(3)]
        (r1, r2, r3), b_client = relays, (await client(stack))[1]
        known = [info(r1), info(r2)]
        nursery.start_soon(b_client.keep, lambda: tuple(known), 2)
        await until(lambda: len(b_client.held) == 2)
        bad = next(held.addresses[0] for held in b_client.held if held.relay == r1.peer_id)
        for count in range(1, config.RELAY_FAILURES_DOUBTED + 1):
            b_client.broke(bad)
            await until(lambda count=count: b_client.failures(bad) == count)  # type: ignore[misc]
        assert {held.relay for held in b_client.held} == {r1.peer_id, r2.peer_id}  # there is nobody else
        known.append(info(r3))
        b_client.broke(bad)
        await until(lambda: {held.relay for held in b_client.held} == {r2.peer_id, r3.peer_id})
        other = next(held.addresses[0] for held in b_client.held if held.relay == r2.peer_id)
        await r2.close_listeners()
        await r2.close_connections()
        await until(lambda: r2.peer_id not in {held.relay for held in b_client.held})
        b_client.broke(other)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert b_client.failures(other) == 0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("hours", [-5, 5])
async def test_a_clock_that_is_hours_off_neither_ends_a_reservation_nor_keeps_it(
    hours: int, nursery: trio.Nursery
) -> None:
    """It is given by the relay's clock. Taken at its word it would be over at once, and asked for all the time; or be
    renewed hours after it had ended."""
    async with AsyncExitStack() as stack:
        r, service = await relay(stack)
        b, b_client = await client(stack)
        b.world = replace(b.world, clock=OffClock(b.world.clock, hours))
        nursery.start_soon(b_client.keep, lambda: (info(r),), 1)
        await until(lambda: len(b_client.held) == 1)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert service.metrics.reservations_granted == 1
        left = b_client.held[0].refresh - trio.current_time()
        assert 60 < left < config.RELAY_RESERVATION_SECONDS
        nursery.cancel_scope.cancel()


async def test_keep_refreshes_in_time_and_no_more_often(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "RELAY_RESERVATION_LEAST", 1.0)
    async with AsyncExitStack() as stack:
        r, service = await relay(stack, reservation_seconds=4)
        b, b_client = await client(stack)
        nursery.start_soon(b_client.keep, lambda: (info(r),), 1)
        await until(lambda: service.metrics.reservations_granted == 2)
        assert len(b_client.held) == 1
        a, _ = await client(stack)
        await a.connect(through_relay(b))
        assert service.metrics.requests_refused == 0
        nursery.cancel_scope.cancel()


async def test_draining_refuses_new_ones_and_lets_circuits_end() -> None:
    async with AsyncExitStack() as stack:
        r, service = await relay(stack)
        b, b_client = await client(stack)
        await b_client.reserve(info(r))
        a, _ = await client(stack)
        c, c_client = await client(stack)
        there = await a.connect(through_relay(b))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.drain, 30.0)
            await until(lambda: service._is_draining)
            with pytest.raises(Unreachable, match="no place left"):
                await c_client.reserve(info(r))
            with pytest.raises(Unreachable, match="at its limit"):
                await c.connect(through_relay(b))
            assert await say(await there.open_stream(ECHO), b"the rest") == b"the rest"
            await there.aclose()
        assert service.metrics.circuits_cut == 0
        again = await host(stack)
        await again.connect(info(r))
        await service.drain(0)


async def test_a_relay_can_not_pass_off_one_peer_as_another() -> None:
    """The relay names a source that isn't the one who does the Noise handshake: the circuit is dropped."""
    async with AsyncExitStack() as stack:
        r, _ = await relay(stack)
        b, b_client = await client(stack)
        await b_client.reserve(info(r))
        a = await host(stack)
        (to_b,) = r.connections(b.peer_id)
        stream = await to_b.open_stream(STOP_PROTOCOL)
        messages = MessageStream(stream)
        other = HostKey.generate(os.urandom).peer_id
        await messages.send(StopMessage(type=StopMessage.CONNECT, peer=Peer(id=other)))
        assert (await messages.receive(StopMessage)).status == Status.OK
        from p2pe.overlay.relay.wire import CircuitStream

        raw = CircuitStream(stream, messages.rest(), circuits(b)[0])
        connection = await a.upgrade_outbound(raw, b.peer_id, circuits(b)[0], PathKind.RELAYED)
        await until(lambda: not connection.is_alive)
        assert b.connections(a.peer_id) == ()


@pytest.mark.parametrize("garbage", [b"\x05hello", b"\xff" * 12, b"\x90\x7f" + bytes(100), b"\x02\x08\x07"])
async def test_garbage_requests_are_answered_or_dropped_and_others_go_on(garbage: bytes) -> None:
    async with AsyncExitStack() as stack:
        r, _ = await relay(stack)
        a, _ = await client(stack)
        b, b_client = await client(stack)
        connection = await a.connect(info(r))
        stream = await connection.open_stream(HOP_PROTOCOL)
        await stream.send_all(garbage)
        await stream.send_eof()
        try:
            await read_all(stream)
        except trio.BrokenResourceError:
            pass
        await b_client.reserve(info(r))
        await a.connect(through_relay(b))


async def test_too_many_requests_are_refused() -> None:
    async with AsyncExitStack() as stack:
        r, service = await relay(stack, requests_per_minute=3)
        _, b_client = await client(stack)
        for _ in range(3):
            await b_client.reserve(info(r))
        with pytest.raises(Unreachable, match="at its limit"):
            await b_client.reserve(info(r))
        assert service.metrics.requests_refused == 1


async def test_a_slow_reader_on_one_circuit_does_not_stop_another(nursery: trio.Nursery) -> None:
    async with AsyncExitStack() as stack:
        r, _ = await relay(stack)
        b, b_client = await client(stack)
        await b_client.reserve(info(r))
        a, _ = await client(stack)
        c, _ = await client(stack)
        blocked = trio.Event()

        async def never_reads(stream: Stream) -> None:
            await blocked.wait()

        b.handle("/test/sink", never_reads)
        stuck = await (await a.connect(through_relay(b))).open_stream("/test/sink")
        nursery.start_soon(stuck.send_all, bytes(8_000_000))
        there = await c.connect(through_relay(b))
        for _ in range(20):
            assert await say(await there.open_stream(ECHO), bytes(10_000)) == bytes(10_000)
        nursery.cancel_scope.cancel()


async def test_the_relay_sees_no_plaintext_and_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """All bytes that pass through the relay's streams are recorded: none is the secret, and afterwards none is left."""
    seen: list[bytes] = []
    async with AsyncExitStack() as stack:
        r, service = await relay(stack)
        b, b_client = await client(stack)
        await b_client.reserve(info(r))
        a, _ = await client(stack)
        carry = service._carry

        async def recording(source: MessageStream, target: Stream, circuit: trio.CancelScope) -> None:
            receive = source.stream.receive_some

            class Tap:
                async def receive_some(self, size: int | None = None) -> bytes | bytearray:
                    piece = await receive(size)
                    seen.append(bytes(piece))
                    return piece

                def __getattr__(self, name: str) -> object:
                    return getattr(source_stream, name)

            source_stream = source.stream
            source.stream = Tap()  # type: ignore[assignment]
            try:
                await carry(source, target, circuit)
            finally:
                source.stream = source_stream

        monkeypatch.setattr(service, "_carry", recording)
        there = await a.connect(through_relay(b))
        assert await say(await there.open_stream(ECHO), SECRET) == SECRET
        passed = b"".join(seen)
        assert len(passed) > 2 * len(SECRET)
        assert SECRET[:16] not in passed and b"owls" not in passed
        await there.aclose()
        await until(lambda: service.metrics.circuits == 0)
        assert not service._scopes
        probe = passed[len(passed) // 2 : len(passed) // 2 + 24]  # ciphertext, unique to this run
        seen.clear()
        del passed
        gc.collect()
        for connection in (*r.connections(a.peer_id), *r.connections(b.peer_id)):
            for state in connection._muxer.machine.streams.values():
                assert not any(probe in bytes(chunk) for chunk in (*state.chunks, *state.pending))
    out, err = capfd.readouterr()
    assert "owls" not in out + err


def test_vouchers_are_refused_when_anything_is_changed() -> None:
    key, peer = HostKey.generate(os.urandom), HostKey.generate(os.urandom).peer_id
    raw = make_voucher(key, peer, 1_700_000_000)
    assert check_voucher(raw, key.peer_id, peer) == 1_700_000_000
    for other in (
        (raw, peer, peer),
        (raw, key.peer_id, key.peer_id),
        (make_voucher(HostKey.generate(os.urandom), peer, 1), key.peer_id, peer),
    ):
        with pytest.raises(RemoteError):
            check_voucher(*other)
    for place in range(len(raw)):
        damaged = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        with pytest.raises(RemoteError):
            check_voucher(damaged, key.peer_id, peer)
        with pytest.raises(RemoteError):
            check_voucher(raw[:place], key.peer_id, peer)


@pytest.mark.parametrize("key", ["0805", "08051220" + "00" * 32, "0800122000", "08021221" + "02" * 33, "080112200102"])
def test_a_voucher_with_a_key_of_an_unknown_kind_or_form_is_refused(key: str) -> None:
    """A relay chooses these bytes: py-libp2p raises errors of many kinds over them."""
    own, peer = HostKey.generate(os.urandom), HostKey.generate(os.urandom).peer_id
    raw = make_voucher(own, peer, 1_700_000_000)
    genuine = bytes([1 << 3 | 2]) + delimit(own.public_bytes)
    assert raw.startswith(genuine)
    forged = bytes([1 << 3 | 2]) + delimit(bytes.fromhex(key)) + raw[len(genuine) :]
    with pytest.raises(RemoteError):
        check_voucher(forged, own.peer_id, peer)
