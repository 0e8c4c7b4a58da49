"""The Noise handshake over in-memory pipes: agreement, rubbish, and the imports beneath it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from p2pe.errors import HandshakeError, RemoteError
from p2pe.model import Address
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.identify import read
from p2pe.overlay.noise import NoiseHandshake, SecureStream, WrongPeer
from p2pe.overlay.noise_identity import proved
from p2pe.overlay.upgrade import Upgraded, upgrade_inbound, upgrade_outbound
from p2pe.overlay.wire_addresses import address_from_bytes, address_to_bytes

A, B, FORGER = HostKey(b"a" * 32), HostKey(b"b" * 32), HostKey(b"f" * 32)
YAMUX = ("/yamux/1.0.0",)
Tamper = Callable[[bytes], bytes]


def shake(
    tamper: dict[int, Tamper] | None = None,
    muxers: tuple[tuple[str, ...], tuple[str, ...]] = (YAMUX, YAMUX),
) -> tuple[NoiseHandshake, NoiseHandshake]:
    """Runs a handshake in memory; `tamper[n]` changes message n (1 to 3) under way."""
    change = tamper or {}

    def passed(number: int, message: bytes) -> bytes:
        return change.get(number, lambda same: same)(message)

    dialer = NoiseHandshake(A, os.urandom, is_dialer=True, muxers=muxers[0])
    listener = NoiseHandshake(B, os.urandom, is_dialer=False, muxers=muxers[1])
    listener.receive_first(passed(1, dialer.first()))
    assert dialer.receive_identity(passed(2, listener.write_identity())) == B.peer_id
    assert listener.receive_identity(passed(3, dialer.write_identity())) == A.peer_id
    return dialer, listener


def test_both_sides_agree_on_keys_and_muxer() -> None:
    dialer, listener = shake()
    assert dialer.keys() == tuple(reversed(listener.keys()))
    assert dialer.muxer == listener.muxer == "/yamux/1.0.0"
    assert dialer.keys()[0] != dialer.keys()[1]


def test_entropy_alone_decides() -> None:
    """The simulator replays runs: equal entropy, equal bytes."""

    def run() -> list[bytes]:
        counter = iter(range(1, 100))
        handshake = NoiseHandshake(A, lambda n: bytes([next(counter)]) * n, is_dialer=True, muxers=YAMUX)
        return [handshake.first()]

    assert run() == run()


def test_no_common_muxer_fails() -> None:
    with pytest.raises(HandshakeError, match="no stream muxer"):
        shake(muxers=(YAMUX, ("/mplex/6.7.0",)))


def test_a_peer_that_names_no_muxer_is_asked_later() -> None:
    dialer = NoiseHandshake(A, os.urandom, is_dialer=True, muxers=YAMUX)
    listener = NoiseHandshake(B, os.urandom, is_dialer=False, muxers=())
    listener.receive_first(dialer.first())
    dialer.receive_identity(listener.write_identity())
    assert dialer.muxer is None


@settings(deadline=None, max_examples=150)
@given(st.sampled_from([1, 2, 3]), st.data())
def test_any_change_under_way_fails(number: int, data: st.DataObject) -> None:
    def change(message: bytes) -> bytes:
        position = data.draw(st.integers(0, len(message) - 1))
        flip = data.draw(st.integers(1, 255))
        return message[:position] + bytes([message[position] ^ flip]) + message[position + 1 :]

    if number == 1:
        # X25519 ignores the top bit of a key; Noise binds the raw bytes into the transcript all the same.
        with pytest.raises(HandshakeError):
            shake({1: change})
        return
    with pytest.raises(HandshakeError):
        shake({number: change})


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=600))
def test_rubbish_raises_handshake_errors_alone(rubbish: bytes) -> None:
    for number in (1, 2, 3):
        if number == 1 and len(rubbish) == 32:
            continue  # a valid key by itself
        with pytest.raises(HandshakeError):
            shake({number: lambda _: rubbish})


def forged(payload: bytes) -> None:
    """A dialer whose encrypted identity is any bytes at all."""
    dialer = NoiseHandshake(FORGER, os.urandom, is_dialer=True, muxers=YAMUX)
    listener = NoiseHandshake(B, os.urandom, is_dialer=False, muxers=YAMUX)
    listener.receive_first(dialer.first())
    dialer.receive_identity(listener.write_identity())
    listener.receive_identity(bytes(dialer._noise.write_message(payload)))


def field(tag: int, value: bytes) -> bytes:
    return bytes([tag << 3 | 2]) + len(value).to_bytes(1, "big") + value


@settings(deadline=None, max_examples=200)
@given(
    st.binary(max_size=100)
    | st.builds(
        lambda kind, key, signature: field(1, bytes([8, kind, 18, len(key)]) + key) + field(2, signature),
        st.integers(0, 5),
        st.binary(max_size=80),
        st.binary(max_size=80),
    )
)
def test_a_forged_identity_raises_handshake_errors_alone(payload: bytes) -> None:
    with pytest.raises(HandshakeError):
        forged(payload)


def test_a_proof_that_was_right_is_remembered_for_its_own_key_alone() -> None:
    payload, static = A.noise.payload(YAMUX), A.noise.pair.public_bytes
    assert proved(payload, static) == (A.peer_id, YAMUX)
    assert proved(payload, static) == (A.peer_id, YAMUX)
    for other in (FORGER.noise.pair.public_bytes, B.noise.pair.public_bytes):
        for _ in range(2):
            with pytest.raises(HandshakeError, match="signature"):
                proved(payload, other)
    assert HostKey(b"a" * 32).noise.pair.public_bytes == static


def test_somebody_elses_identity_is_refused() -> None:
    """A real identity payload, replayed by one who doesn't hold its Noise key."""
    honest = NoiseHandshake(A, os.urandom, is_dialer=True, muxers=YAMUX)
    victim = NoiseHandshake(B, os.urandom, is_dialer=False, muxers=YAMUX)
    victim.receive_first(honest.first())
    honest.receive_identity(victim.write_identity())
    taken = victim._read(honest.write_identity())
    with pytest.raises(HandshakeError, match="signature"):
        forged(taken)


async def test_the_channel_carries_any_size_and_notices_changes() -> None:
    dialer, listener = shake()
    left, right = trio.testing.memory_stream_pair()
    here = SecureStream(left, *dialer.keys(), bytearray())  # type: ignore[arg-type]
    there = SecureStream(right, *listener.keys(), bytearray())  # type: ignore[arg-type]
    blob = os.urandom(700_001)

    async def send() -> None:
        await here.send_all(blob)
        await here.send_all(b"")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        got = bytearray()
        while len(got) < len(blob):
            got += await there.receive_some()
    assert bytes(got) == blob
    await left.send_all(b"\x00\x20" + os.urandom(32))
    with pytest.raises(RemoteError, match="decrypt"):
        await there.receive_some()


class Delayed:
    """One end of a pipe whose bytes take `delay` seconds."""

    def __init__(self, delay: float) -> None:
        self.local = self.remote = Address("/ip4/192.0.2.1/tcp/1")
        self.delay = delay
        self.send_channel, self.receive_channel = trio.open_memory_channel[tuple[float, bytes]](1000)
        self.other: Delayed | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.send_channel.send((trio.current_time() + self.delay, bytes(data)))

    def send_now(self, data: bytes) -> int:
        return 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        assert self.other is not None
        due, data = await self.other.receive_channel.receive()
        await trio.sleep_until(due)
        return data

    async def send_eof(self) -> None: ...
    async def wait_send_all_might_not_block(self) -> None: ...
    async def aclose(self) -> None: ...


def pipe(delay: float) -> tuple[Delayed, Delayed]:
    a, b = Delayed(delay), Delayed(delay)
    a.other, b.other = b, a
    return a, b


async def test_an_upgrade_takes_one_round_trip(autojump_clock: trio.testing.MockClock) -> None:
    here, there = pipe(0.5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upgrade_inbound, there, B, os.urandom)
        upgraded = await upgrade_outbound(here, A, os.urandom, B.peer_id)
        assert trio.current_time() == pytest.approx(1.0)
    assert upgraded.remote_peer == B.peer_id and upgraded.is_dialer


async def test_both_sides_dialling_at_once_agree_on_roles(autojump_clock: trio.testing.MockClock) -> None:
    """TCP's simultaneous open, as hole punching meets it."""
    here, there = pipe(0.1)
    results: list[Upgraded] = []

    async def dial(raw: Delayed, key: HostKey, expected: HostKey) -> None:
        results.append(await upgrade_outbound(raw, key, os.urandom, expected.peer_id))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial, here, A, B)
        nursery.start_soon(dial, there, B, A)
    by_peer = {upgraded.remote_peer: upgraded for upgraded in results}
    a_side, b_side = by_peer[B.peer_id], by_peer[A.peer_id]
    assert a_side.is_dialer == (A.peer_id > B.peer_id) and a_side.is_dialer != b_side.is_dialer
    await a_side.stream.send_all(b"through")
    assert await b_side.stream.receive_some() == b"through"
    await b_side.stream.send_all(b"and back")
    assert await a_side.stream.receive_some() == b"and back"


async def test_a_wrong_peer_never_sees_our_identity(autojump_clock: trio.testing.MockClock) -> None:
    here, there = pipe(0.1)
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upgrade_inbound, there, B, os.urandom)
            await upgrade_outbound(here, A, os.urandom, A.peer_id)
    assert caught.group_contains(WrongPeer)
    sent = b""
    while True:
        try:
            sent += here.receive_channel.receive_nowait()[1]
        except trio.WouldBlock:
            break
    assert len(sent) < 10  # no third message is waiting


@given(st.binary(max_size=200))
def test_identify_reads_anything_or_refuses(raw: bytes) -> None:
    try:
        read(raw)
    except RemoteError:
        pass


@given(
    st.binary(max_size=100) | st.from_regex(rb"(\x04.{4}|\x06..|\x29.{16}|\x36.{3}|\xa5\x03.{3}){0,4}", fullmatch=True)
)
def test_binary_addresses_read_or_are_none(raw: bytes) -> None:
    text = address_from_bytes(raw)
    if text is not None:
        assert address_from_bytes(address_to_bytes(text)) == text


def test_libp2p_is_imported_lightly_and_the_real_package_still_works() -> None:
    """50 MiB of transports stay out; what was loaded is the very same as the whole library's."""
    script = """
import sys
from p2pe.overlay.libp2p_import import ID, Ed25519PrivateKey, NoiseHandshakePayload
assert "libp2p" not in sys.modules and "libp2p.security" not in sys.modules
heavy = [m for m in sys.modules if m.startswith(("aioquic", "aiortc", "requests", "libp2p.transport", "libp2p.abc"))]
assert not heavy, heavy
from libp2p.security.noise.transport import Transport  # circular: works through the front door alone
import libp2p
from libp2p.crypto.ed25519 import Ed25519PrivateKey as real_key
from libp2p.peer.id import ID as real_id
from libp2p.security.noise.messages import NoiseHandshakePayload as real_payload
assert (real_id, real_key, real_payload) == (ID, Ed25519PrivateKey, NoiseHandshakePayload)
assert libp2p.new_host().get_id()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_after_the_real_package_the_light_import_changes_nothing() -> None:
    script = """
import libp2p
from libp2p.peer.id import ID as real
from p2pe.overlay.libp2p_import import ID
assert ID is real
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
