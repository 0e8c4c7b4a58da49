"""Contact tickets: one size, readable by their maker alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from p2pe.config import MAX_NAME_CHARS, TICKET_BYTES
from p2pe.core.tickets import Ticket, open_ticket, seal_ticket
from p2pe.errors import RemoteError
from p2pe.model import IdentityKey, Millis

KEY, NONCE, PEER = b"k" * 32, b"n" * 24, IdentityKey(b"p" * 32)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=MAX_NAME_CHARS)


@given(names, st.integers(0, 4_000_000_000))
def test_round_trip_in_one_size(name: str, seconds: int) -> None:
    raw = seal_ticket(KEY, PEER, name, Millis(seconds * 1000 + 999), NONCE)
    assert len(raw) == TICKET_BYTES
    ticket = open_ticket(KEY, raw)
    assert (ticket.peer_identity_key, ticket.met_at) == (PEER, seconds * 1000)
    assert name.startswith(ticket.petname)
    assert ticket.petname == name or len(name.encode()) > 160


def test_long_names_are_cut_between_characters() -> None:
    ticket = open_ticket(KEY, seal_ticket(KEY, PEER, "a" + "😀" * 63, Millis(0), NONCE))
    assert ticket == Ticket(PEER, "a" + "😀" * 39, Millis(0))


def test_every_altered_byte_is_noticed() -> None:
    raw = seal_ticket(KEY, PEER, "bob", Millis(1000), NONCE)
    for at in range(len(raw)):
        with pytest.raises(RemoteError):
            open_ticket(KEY, raw[:at] + bytes([raw[at] ^ 0x80]) + raw[at + 1 :])


def test_another_root_cannot_read_it() -> None:
    with pytest.raises(RemoteError):
        open_ticket(b"x" * 32, seal_ticket(KEY, PEER, "bob", Millis(1000), NONCE))


def test_nonces_make_tickets_unlinkable() -> None:
    one, other = (seal_ticket(KEY, PEER, "bob", Millis(1000), nonce) for nonce in (NONCE, b"m" * 24))
    assert one[25:] != other[25:]


@given(st.binary(max_size=300))
def test_any_bytes(noise: bytes) -> None:
    for raw in (noise, noise.ljust(TICKET_BYTES, b"\x01")[:TICKET_BYTES]):
        with pytest.raises(RemoteError):
            open_ticket(KEY, raw)


def test_nonce_of_the_wrong_size() -> None:
    with pytest.raises(ValueError, match="24"):
        seal_ticket(KEY, PEER, "bob", Millis(0), bytes(12))
