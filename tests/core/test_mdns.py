"""Announcements on the local network: their form, and what those who aren't meant can read in them."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from p2pe.config import LAN_ENTRIES
from p2pe.core import mdns
from p2pe.core.derive import lan_entry, lan_key
from p2pe.core.mdns import ENTRY_BYTES, NONCE_BYTES, Announcement, decode, encode, is_query, query
from p2pe.errors import RemoteError


def announcement() -> Announcement:
    entries = tuple(os.urandom(ENTRY_BYTES) for _ in range(LAN_ENTRIES))
    return Announcement(os.urandom(NONCE_BYTES), 4001, entries)


def test_what_is_announced_is_read() -> None:
    made = announcement()
    message = encode(made)
    assert decode(message) == made
    assert len(message) <= mdns.MAX_MESSAGE and len(encode(announcement())) == len(message)
    assert not is_query(message)


def test_a_query_is_known_beside_other_questions() -> None:
    assert is_query(query()) and decode(query()) is None
    other = b"\x04_ipp\x04_tcp\x05local\x00\x00\x0c\x00\x01"
    both = query()[:4] + b"\x00\x02" + query()[6:12] + other + b"\x05_P2PE\xc0\x11\x00\x0c\x00\x01"
    assert is_query(both)
    assert not is_query(query()[:4] + b"\x00\x01" + query()[6:12] + other)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        bytes(11),
        b"\x00\x00\x84\x00\x00\x00\x00\x01" + bytes(4) + b"\xc0\x0c" + bytes(10),  # a name that points to itself
        b"\x00\x00\x84\x00\x00\x00\x00\x01" + bytes(4) + b"\xc0\xff" + bytes(10),
        b"\x00\x00\x84\x00\x00\x00\x00\x01" + bytes(4) + b"\x01a" * 40 + bytes(11),
        b"\x00\x00\x84\x00\x00\x00\x00\x01" + bytes(4) + b"\x00\x00\x10\x00\x01\x00\x00\x00\x00\xff\xff",
        bytes(2_000),
    ],
    ids=["empty", "short", "self-pointer", "forward-pointer", "many-labels", "long-record", "long"],
)
def test_malformed_messages_are_refused(message: bytes) -> None:
    with pytest.raises(RemoteError):
        decode(message)
    is_query(message)


@given(st.binary(max_size=200), st.integers(0, 1_400), st.integers(0, 1_200))
def test_torn_messages_are_refused_or_read(noise: bytes, cut: int, at: int) -> None:
    whole = encode(Announcement(bytes(NONCE_BYTES), 4001, (bytes(ENTRY_BYTES),) * LAN_ENTRIES))
    for message in (noise, whole[:cut], whole[:at] + noise + whole[at + len(noise) :]):
        try:
            decode(message)
        except RemoteError:
            pass
        is_query(message)


def test_entries_change_with_the_nonce_the_day_the_side_and_the_pair() -> None:
    key, nonce = lan_key(bytes(32), 0, 20_000), bytes(8)
    made = {
        lan_entry(key, nonce)[0],
        lan_entry(key, b"another!")[0],
        lan_entry(lan_key(bytes(32), 0, 20_001), nonce)[0],
        lan_entry(lan_key(bytes(32), 1, 20_000), nonce)[0],
        lan_entry(lan_key(b"x" * 32, 0, 20_000), nonce)[0],
    }
    assert len(made) == 5
    assert lan_entry(key, nonce) == lan_entry(key, nonce)
