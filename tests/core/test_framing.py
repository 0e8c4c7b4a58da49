"""Frames come out whole and in order, however the stream was cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from p2pe.config import MAX_HANDSHAKE_BYTES, NOISE_MAX_BYTES
from p2pe.core.framing import FrameReader, frame
from p2pe.errors import RemoteError


def drain(reader: FrameReader) -> list[bytes]:
    out = []
    while (payload := reader.next_frame()) is not None:
        out.append(payload)
    return out


def test_split_at_every_byte() -> None:
    payloads = [b"a", b"bc" * 200, b"\x00", b"last"]
    stream = b"".join(map(frame, payloads))
    for cut in range(len(stream) + 1):
        reader = FrameReader(NOISE_MAX_BYTES)
        reader.receive(stream[:cut])
        got = drain(reader)
        reader.receive(stream[cut:])
        assert got + drain(reader) == payloads
        assert reader.buffered == 0


@given(st.lists(st.binary(min_size=1, max_size=600), max_size=20), st.data())
def test_split_anywhere(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(frame, payloads))
    reader, got, at = FrameReader(NOISE_MAX_BYTES), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, 700))
        reader.receive(memoryview(stream)[at : at + size])
        at += size
        got += drain(reader)
    assert got == payloads
    assert reader.buffered == 0


def test_one_byte_at_a_time() -> None:
    reader, got = FrameReader(NOISE_MAX_BYTES), []
    for byte in frame(bytes(range(256)) * 255) + frame(b"z"):
        reader.receive(bytes([byte]))
        got += drain(reader)
    assert got == [bytes(range(256)) * 255, b"z"]


@pytest.mark.parametrize("length", [0, MAX_HANDSHAKE_BYTES + 1, NOISE_MAX_BYTES])
def test_forbidden_lengths_are_refused_at_the_prefix(length: int) -> None:
    reader = FrameReader(MAX_HANDSHAKE_BYTES)
    reader.receive(length.to_bytes(2, "big"))
    with pytest.raises(RemoteError, match=str(length)):
        reader.next_frame()


def test_limit_may_be_raised_after_the_handshake() -> None:
    reader = FrameReader(4)
    reader.receive(frame(b"four") + frame(b"x" * NOISE_MAX_BYTES))
    assert reader.next_frame() == b"four"
    reader.limit = NOISE_MAX_BYTES
    assert reader.next_frame() == b"x" * NOISE_MAX_BYTES


def test_a_cut_frame_stays_visible() -> None:
    reader = FrameReader(100)
    reader.receive(frame(b"hello")[:-1])
    assert reader.next_frame() is None
    assert reader.buffered == 6


@pytest.mark.parametrize("size", [0, NOISE_MAX_BYTES + 1])
def test_framing_what_cannot_be_framed(size: int) -> None:
    with pytest.raises(ValueError, match=str(size)):
        frame(bytes(size))


@given(st.binary(max_size=400))
def test_any_bytes(noise: bytes) -> None:
    reader = FrameReader(64)
    reader.receive(noise)
    try:
        assert all(0 < len(payload) <= 64 for payload in drain(reader))
    except RemoteError:
        pass
