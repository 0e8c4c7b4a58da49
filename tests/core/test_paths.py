"""The order in which paths are tried, and what each relay policy never does."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from p2pe.config import MAX_DIAL_ADDRESSES
from p2pe.core.addresses import is_circuit
from p2pe.core.paths import RelayPolicy, dial_order, is_better, publishable, wants_direct
from p2pe.model import Address, PathKind

V4, V6 = Address("/ip4/203.0.113.5/tcp/4001"), Address("/ip6/2001:db8::5/tcp/4001")
HOME, LOOP = Address("/ip4/192.168.1.5/tcp/4001"), Address("/ip4/127.0.0.1/tcp/4001")
CIRCUIT = Address("/ip4/198.51.100.1/tcp/4001/p2p/12D3KooWRelay/p2p-circuit")
OWN_HOME = (Address("/ip4/192.168.1.9/tcp/1"),)


def test_cached_then_local_then_direct_then_relayed() -> None:
    assert dial_order((), (CIRCUIT, V4, V6, HOME), RelayPolicy.FALLBACK, OWN_HOME) == (HOME, V6, V4, CIRCUIT)
    assert dial_order((V4,), (CIRCUIT, V6, HOME), RelayPolicy.FALLBACK, OWN_HOME) == (V4, HOME, V6, CIRCUIT)
    assert dial_order((CIRCUIT,), (V4,), RelayPolicy.FALLBACK) == (V4, CIRCUIT)


def test_addresses_that_would_lead_to_strangers_are_left_out() -> None:
    assert dial_order((), (HOME, LOOP, V4), RelayPolicy.FALLBACK) == (V4,)
    assert dial_order((), (HOME, LOOP), RelayPolicy.FALLBACK, (LOOP,)) == (HOME, LOOP)
    assert dial_order((), (Address("/ip4/0.0.0.0/tcp/1"), Address("/ip6/fe80::1/tcp/1")), RelayPolicy.FALLBACK) == ()


pool = st.lists(st.sampled_from([V4, V6, HOME, LOOP, CIRCUIT]))
many = st.lists(st.integers(1, 60).map(lambda n: Address(f"/ip4/203.0.113.{n}/tcp/1")))


@settings(max_examples=200, deadline=None)
@given(pool, pool, many)
def test_policies_hold_whatever_is_offered(cached: list[Address], found: list[Address], more: list[Address]) -> None:
    for own in ((), (LOOP,)):
        only = dial_order(cached, found + more, RelayPolicy.ONLY, own)
        never = dial_order(cached, found + more, RelayPolicy.NEVER, own)
        both = dial_order(cached, found + more, RelayPolicy.FALLBACK, own)
        assert all(is_circuit(address) for address in only)
        assert not any(is_circuit(address) for address in never)
        assert len(both) <= MAX_DIAL_ADDRESSES and len(set(both)) == len(both)
        assert (CIRCUIT in both) == (CIRCUIT in cached + found)  # never crowded out by direct ones
    assert all(is_circuit(address) for address in publishable(cached + more, RelayPolicy.ONLY))
    assert not any(is_circuit(address) for address in publishable(cached + more, RelayPolicy.NEVER))


def test_what_a_record_shows() -> None:
    assert publishable((LOOP, HOME, CIRCUIT, V4), RelayPolicy.FALLBACK) == (V4, CIRCUIT, HOME)
    assert publishable((LOOP,), RelayPolicy.FALLBACK) == (LOOP,)
    assert publishable((LOOP, V4, HOME), RelayPolicy.ONLY) == ()


def test_when_to_move() -> None:
    assert is_better(PathKind.PUNCHED, PathKind.RELAYED) and is_better(PathKind.LAN, PathKind.DIRECT)
    assert not is_better(PathKind.PUNCHED, PathKind.DIRECT) and not is_better(PathKind.RELAYED, PathKind.RELAYED)
    assert wants_direct(PathKind.RELAYED, RelayPolicy.FALLBACK)
    assert not wants_direct(PathKind.RELAYED, RelayPolicy.ONLY) and not wants_direct(PathKind.LAN, RelayPolicy.FALLBACK)
