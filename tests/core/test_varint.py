"""Unsigned varints and length-delimited messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from p2pe.core.varint import DelimitedReader, decode_varint, delimit, encode_varint
from p2pe.errors import RemoteError


@pytest.mark.parametrize(
    ("value", "raw"), [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (300, "ac02"), (16384, "808001")]
)
def test_known_answers(value: int, raw: str) -> None:
    """From the unsigned-varint specification."""
    assert encode_varint(value).hex() == raw
    assert decode_varint(bytes.fromhex(raw)) == (value, len(raw) // 2)


@given(st.integers(0, 2**63 - 1), st.binary(max_size=4))
def test_round_trip(value: int, tail: bytes) -> None:
    raw = encode_varint(value)
    assert decode_varint(raw + tail) == (value, len(raw))
    assert decode_varint(raw[:-1]) is None


def test_limits() -> None:
    for value in (-1, 2**63):
        with pytest.raises(ValueError, match="not an unsigned varint"):
            encode_varint(value)
    with pytest.raises(RemoteError):
        decode_varint(b"\xff" * 9)


@given(st.lists(st.binary(max_size=300), max_size=6), st.integers(1, 64))
def test_messages_however_cut(messages: list[bytes], step: int) -> None:
    wire = b"".join(map(delimit, messages))
    reader = DelimitedReader(300)
    got = []
    for start in range(0, len(wire), step):
        reader.receive(wire[start : start + step])
        while (message := reader.next_message()) is not None:
            got.append(message)
    assert got == messages and reader.is_empty


def test_an_oversized_message_is_refused_before_it_arrives() -> None:
    reader = DelimitedReader(10)
    reader.receive(encode_varint(11))
    with pytest.raises(RemoteError, match="limit is 10"):
        reader.next_message()
