"""Record store: rules, quotas, and a state machine that compares it to a plain model."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from p2pe.core.kademlia.record_store import RecordStore
from p2pe.core.records import check_record, make_record, public_key_of, record_key
from p2pe.errors import RemoteError
from p2pe.model import Millis, PeerId

NOW = Millis(1_800_000_000_000)
HOUR = 3_600_000


def peer(number: int) -> PeerId:
    return PeerId(b"\x00\x04" + number.to_bytes(4, "big"))


def signed(seed_number: int, sequence: int = NOW, expires: int = NOW + HOUR, slot: int = 0) -> tuple[bytes, bytes]:
    seed = seed_number.to_bytes(32, "big")
    raw = make_record(seed, slot, sequence, Millis(expires), bytes(512))
    return record_key(public_key_of(seed), slot), raw


def real_store(**limits: int) -> RecordStore:
    return RecordStore(check_record, bytes(16), **limits)


@dataclass(frozen=True)
class Fake:
    sequence: int
    expires_at: Millis


def loose(key: bytes, raw: bytes, now: Millis) -> Fake:
    """A validator for tests about numbers: raw is b"<sequence> <expires>"."""
    sequence, expires = raw.split()
    return Fake(int(sequence), Millis(int(expires)))


def key_of(number: int) -> bytes:
    return b"/p2pe/" + number.to_bytes(32, "big") + b"\0"


def test_a_valid_record_is_kept_and_served_until_it_expires() -> None:
    store = real_store()
    key, raw = signed(1)
    store.put(key, raw, source=peer(1), network=None, now=NOW)
    assert store.get(key, Millis(NOW + HOUR - 1)) == raw
    assert store.get(key, Millis(NOW + HOUR)) is None
    assert store.expire(Millis(NOW + HOUR)) == 1
    assert len(store) == 0


def test_anything_but_a_valid_record_is_refused() -> None:
    store = real_store()
    key, raw = signed(1)
    other_key, _ = signed(2)
    bad: list[tuple[bytes, bytes]] = [
        (key, b"meet me at nine"),
        (key, raw + bytes(1024)),
        (other_key, raw),
        (key, raw[:-1] + bytes([raw[-1] ^ 1])),
        (b"/pk/" + key, raw),
        (key[:-1] + b"\x04", raw),
        (key, b""),
        signed(1, expires=NOW - 1, sequence=NOW - HOUR),
        signed(1, sequence=NOW + HOUR, expires=NOW + 2 * HOUR),
        signed(1, sequence=NOW, expires=NOW + 25 * HOUR),
    ]
    for wrong_key, wrong in bad:
        with pytest.raises(RemoteError):
            store.put(wrong_key, wrong, source=peer(1), network=None, now=NOW)
    assert len(store) == 0


def test_a_newer_record_replaces_an_older_never_the_reverse() -> None:
    store = real_store()
    key, old = signed(1, sequence=NOW - 1000)
    _, new = signed(1, sequence=NOW)
    store.put(key, old, source=peer(1), network=None, now=NOW)
    store.put(key, new, source=peer(2), network=None, now=NOW)
    with pytest.raises(RemoteError, match="newer"):
        store.put(key, old, source=peer(1), network=None, now=NOW)
    store.put(key, new, source=peer(3), network=None, now=NOW)  # again is fine
    assert store.get(key, NOW) == new
    assert len(store) == 1


def test_one_public_key_has_at_most_four_records() -> None:
    store = real_store()
    for slot in range(4):
        key, raw = signed(1, slot=slot)
        store.put(key, raw, source=peer(1), network=None, now=NOW)
    assert len(store) == 4
    with pytest.raises(RemoteError):
        store.put(key[:-1] + b"\x04", raw, source=peer(1), network=None, now=NOW)


def test_quotas_for_a_peer_and_for_a_network() -> None:
    store = RecordStore(loose, bytes(16), per_peer=2, per_network=3)
    raw = b"1 %d" % (NOW + HOUR)
    for n in range(2):
        store.put(key_of(n), raw, source=peer(1), network=b"net", now=NOW)
    with pytest.raises(RemoteError, match="peer"):
        store.put(key_of(2), raw, source=peer(1), network=b"net", now=NOW)
    store.put(key_of(0), b"2 %d" % (NOW + HOUR), source=peer(1), network=b"net", now=NOW)  # an update is no growth
    store.put(key_of(2), raw, source=peer(2), network=b"net", now=NOW)
    with pytest.raises(RemoteError, match="network"):
        store.put(key_of(3), raw, source=peer(3), network=b"net", now=NOW)
    store.put(key_of(3), raw, source=peer(3), network=b"other", now=NOW)
    store.put(key_of(4), raw, source=peer(4), network=None, now=NOW)  # no limit for the local network


def test_a_flood_displaces_itself_and_not_the_others() -> None:
    store = RecordStore(loose, b"salt" * 4, max_records=100, per_peer=10**6, per_network=10**6)
    raw = b"1 %d" % (NOW + HOUR)
    for n in range(20):
        store.put(key_of(n), raw, source=peer(n), network=b"honest%d" % (n % 5), now=NOW)
    for n in range(1000, 3000):
        store.put(key_of(n), raw, source=peer(n), network=b"flood", now=NOW)
    assert len(store) == 100
    assert all(store.get(key_of(n), NOW) == raw for n in range(20))


def test_which_record_goes_depends_on_the_secret_salt() -> None:
    def left(salt: bytes) -> list[int]:
        store = RecordStore(loose, salt, max_records=10)
        for n in range(60):
            store.put(key_of(n), b"1 %d" % (NOW + HOUR), source=peer(n), network=b"net", now=NOW)
        return [n for n in range(60) if store.get(key_of(n), NOW)]

    assert len(left(bytes(16))) == 10
    assert left(bytes(16)) != left(b"other salt, 16 b")


class StoreMachine(RuleBasedStateMachine):
    """Any sequence of puts, updates and waiting agrees with a dictionary, and the books always balance."""

    def __init__(self) -> None:
        super().__init__()
        self.store = RecordStore(loose, bytes(16), max_records=12, per_peer=4, per_network=6)
        self.now = int(NOW)
        self.model: dict[bytes, tuple[int, int, bytes]] = {}

    @rule(
        number=st.integers(0, 20),
        sequence=st.integers(1, 5),
        lives=st.integers(1, 100),
        who=st.integers(0, 5),
        net=st.sampled_from([b"a", b"b", b"c", None]),
    )
    def put(self, number: int, sequence: int, lives: int, who: int, net: bytes | None) -> None:
        key, expires = key_of(number), self.now + lives
        raw = b"%d %d" % (sequence, expires)
        present = self.store.get(key, Millis(self.now))
        try:
            self.store.put(key, raw, source=peer(who), network=net, now=Millis(self.now))
        except RemoteError:
            assert self.store.get(key, Millis(self.now)) == present
            return
        if present is not None and present != raw:
            assert int(present.split()[0]) < sequence
        self.model[key] = (sequence, expires, raw)

    @rule(by=st.integers(1, 60))
    def wait(self, by: int) -> None:
        self.now += by

    @invariant()
    def serves_only_what_was_put_and_lives(self) -> None:
        for number in range(21):
            raw = self.store.get(key_of(number), Millis(self.now))
            if raw is not None:
                _, expires, expected = self.model[key_of(number)]
                assert raw == expected
                assert expires > self.now

    @invariant()
    def books_balance(self) -> None:
        store = self.store
        assert len(store) <= 12
        assert sum(store._by_peer.values()) == len(store)
        assert sum(len(keys) for keys in store._by_network.values()) == len(store)
        sizes = [len(keys) for keys in store._by_network.values()]
        assert store._largest == max(sizes, default=0)
        assert max(store._by_peer.values(), default=0) <= 4
        assert max((len(k) for n, k in store._by_network.items() if n), default=0) <= 6
        assert len(store._expiry) <= 2 * len(store) + 65


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
