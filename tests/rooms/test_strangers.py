"""What strangers and blocked contacts cost, and what they learn: no public-key work, and the same for both."""

from __future__ import annotations

import os
import sys
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from types import FrameType
from typing import Any

import p2pe.connectivity.acceptor as acceptor_module
import pytest
import trio
from p2pe import config
from p2pe.config import SESSION_PROTOCOL
from p2pe.connectivity.dialer import local_party
from p2pe.contacts.pake import Pake
from p2pe.core.derive import day_of, lookup_seed, pair_keys, session_tag
from p2pe.core.framing import frame
from p2pe.core.handshake import DIALER_ENTROPY_BYTES, DialerHandshake, Expected
from p2pe.core.invite import code_handle, parse_code
from p2pe.core.records import public_key_of, record_key
from p2pe.errors import LinkClosed, Unreachable
from p2pe.model import ContactId, GoodbyeReason, IdentityKey, PeerInfo, Purpose
from p2pe.ports import Stream
from p2pe.storage import contacts
from p2pe.storage.migrations import Tx
from people_kit import START, Node, People, acquaint, all_published, until

SECRET = b"S" * 32
SAMPLES = 300  # of each kind
OTHER_CONTACTS = 50
# Methods of the cryptography library's keys: every Diffie-Hellman, encapsulation, signature and derivation of a key.
PUBLIC_KEY_WORK = {
    "exchange", "encapsulate", "decapsulate", "sign", "verify", "generate", "public_key", "from_private_bytes",
    "from_public_bytes", "from_seed_bytes",
}  # fmt: skip


@pytest.fixture
async def people(tmp_path: Path) -> People:
    return People(tmp_path)


@pytest.fixture
async def trio_of_nodes(people: People) -> AsyncIterator[tuple[Node, Node, Node]]:
    """Alice, Bob and Carol run; Alice and Carol are contacts of Bob's."""
    async with (
        people.person("alice").run(greet=False) as alice,
        people.person("bob").run(greet=False) as bob,
        people.person("carol").run(greet=False) as carol,
    ):
        await acquaint(alice, "alice", bob, "bob", SECRET)
        await acquaint(carol, "carol", bob, "bob", b"C" * 32)
        await all_published(alice, bob, carol)
        yield alice, bob, carol


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts calls of PUBLIC_KEY_WORK on this thread, whoever makes them, and the PAKE's, which has its own."""
    work: Counter[str] = Counter()

    def profile(_frame: FrameType, event: str, what: Any) -> None:
        if event == "c_call" and getattr(what, "__name__", "") in PUBLIC_KEY_WORK:
            owner = getattr(what, "__self__", None)
            module = getattr(owner, "__module__", None) or type(owner).__module__
            if "cryptography" in module or "rust" in module or "openssl" in module:
                work[what.__name__] += 1

    def pake(real: Callable[..., bytes]) -> Callable[..., bytes]:
        def counting(*arguments: Any) -> bytes:
            work["pake"] += 1
            return real(*arguments)

        return counting

    with monkeypatch.context() as patch:
        for step in ("start", "finish"):
            patch.setattr(Pake, step, pake(getattr(Pake, step)))
        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            yield work
        finally:
            sys.setprofile(before)


async def stream_to(node: Node, peer: Node) -> Stream:
    info = PeerInfo(peer.host.peer_id, peer.host.listen_addresses())
    return await (await node.host.connect(info)).open_stream(SESSION_PROTOCOL)


def hello(
    dialer: Node, responder: Node, secret: bytes = SECRET, purpose: Purpose = Purpose.SESSION, pake: bytes = b""
) -> bytes:
    """A framed Hello. Made beforehand: the dialer's own work isn't to be counted."""
    nonce = os.urandom(16)
    lower = dialer.identity.identity_key < responder.identity.identity_key
    ours, theirs = dialer.host.peer_id, responder.host.peer_id
    tag = b"" if purpose is Purpose.RECOVER else os.urandom(8)
    if purpose is Purpose.SESSION:
        tag = session_tag(pair_keys(secret).tag, day_of(dialer.clock.now()), lower, ours, theirs, nonce)
    handshake = DialerHandshake(
        local_party(dialer.identity, dialer.host),
        theirs,
        purpose,
        tag=tag,
        nonce=nonce,
        entropy=os.urandom(DIALER_ENTROPY_BYTES),
        expected=Expected(responder.identity.identity_key),
        **({"pake": pake} if pake else {}),
    )
    return frame(handshake.hello())


async def answer_to(stream: Stream, raw: bytes) -> int:
    """How many bytes came back before the stream ended, or the first few."""
    await stream.send_all(raw)
    with trio.fail_after(10):
        try:
            return len(await stream.receive_some(4096))
        except trio.BrokenResourceError:
            return 0


async def test_no_public_key_work_for_strangers_or_the_blocked(
    trio_of_nodes: tuple[Node, Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob, carol = trio_of_nodes
    await bob.book.set_blocked("alice", True)
    spoken = os.urandom(33)
    attempts = {
        "no contact's tag": hello(alice, bob, b"?" * 32),
        "a blocked contact's tag": hello(alice, bob),
        "a code without an open invite": hello(alice, bob, purpose=Purpose.PAIR_CODE, pake=spoken),
        "a link without an open invite": hello(alice, bob, purpose=Purpose.PAIR_LINK),
        "recovery from a node that wasn't restored": hello(alice, bob, purpose=Purpose.RECOVER),
        "garbage": b"\x00\x05hello",
        "an impossible length": b"\xff\xff" + bytes(100),
    }
    for what, raw in attempts.items():
        stream = await stream_to(alice, bob)  # the connection's own handshake isn't counted
        with counted(monkeypatch) as work:
            assert await answer_to(stream, raw) == 0, what
        assert not work, f"{what}: {dict(work)}"
    stream, raw = await stream_to(carol, bob), hello(carol, bob, b"C" * 32)
    with counted(monkeypatch) as work:
        assert await answer_to(stream, raw) > 0
    assert work["encapsulate"] == 1, "a contact's hello is answered, or this test counts nothing"


async def test_beyond_the_caps_even_an_open_invite_costs_nothing(
    trio_of_nodes: tuple[Node, Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob, _ = trio_of_nodes
    await bob.pairing.create_invite("code", "somebody")
    for _ in range(config.SESSION_ATTEMPTS_PER_MINUTE_PER_SUBNET):
        assert await answer_to(await stream_to(alice, bob), hello(alice, bob, b"?" * 32)) == 0
    [code] = [each.code for each in await bob.pairing.invites()]
    assert code is not None
    handle = code_handle(parse_code(code).locator)
    handshake = DialerHandshake(
        local_party(alice.identity, alice.host),
        bob.host.peer_id,
        Purpose.PAIR_CODE,
        tag=handle,
        nonce=os.urandom(16),
        entropy=os.urandom(DIALER_ENTROPY_BYTES),
        expected=Expected(),
        pake=os.urandom(33),
    )
    stream, raw = await stream_to(alice, bob), frame(handshake.hello())
    with counted(monkeypatch) as work:
        assert await answer_to(stream, raw) == 0
    assert not work


async def test_a_blocked_contact_costs_what_a_stranger_costs(
    trio_of_nodes: tuple[Node, Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very same steps: as many tags computed as for one who was never a contact. Times are in
    benchmarks/blocked.py; here it is counted, so that no load can disturb it."""
    alice, bob, _ = trio_of_nodes
    tags: list[int] = []
    real = session_tag

    def counting(*arguments: Any) -> bytes:
        tags.append(1)
        return real(*arguments)

    monkeypatch.setattr(acceptor_module, "session_tag", counting)
    costs = {}
    await bob.book.set_blocked("alice", True)
    for what, secret in (("blocked", SECRET), ("never known", b"?" * 32)):
        tags.clear()
        stream = await stream_to(alice, bob)
        assert await answer_to(stream, hello(alice, bob, secret)) == 0
        costs[what] = len(tags)
    await bob.book.remove("alice")
    tags.clear()
    assert await answer_to(await stream_to(alice, bob), hello(alice, bob)) == 0
    costs["removed"] = len(tags)
    assert set(costs.values()) == {3}, costs  # three days of one contact that isn't blocked: Carol


async def test_blocking_ends_things_as_a_stop_does(people: People, trio_of_nodes: tuple[Node, Node, Node]) -> None:
    """Goodbye, then the end of the connection; no record is published any more; and nobody calls back."""
    alice, bob, _ = trio_of_nodes
    contact = await alice.contact_id("bob")
    await alice.connectivity.links.get(contact)
    await until(lambda: len(bob.connectivity.links.all()) == 1)
    [session] = alice.connectivity.links.all()
    published = dict(people.directory.records)
    await bob.book.set_blocked("alice", True)
    await until(lambda: not session.connection.is_alive)
    await until(lambda: not alice.connectivity.links.all())
    assert session.goodbye in (GoodbyeReason.STOPPING, None)  # as with a stop, the end may overtake the goodbye
    bob.clock.offset += 2 * config.RECORD_REFRESH
    bob.connectivity.publisher.look_again()
    await until(lambda: people.directory.records != published)  # Carol's is renewed
    alices = all_keys(alice, bob)
    renewed = {key for key, raw in people.directory.records.items() if published.get(key) != raw}
    assert renewed and not renewed & alices
    assert alice.connectivity.links.current(contact) is None


def all_keys(alice: Node, bob: Node) -> set[bytes]:
    """Where Bob would publish for Alice, today and around."""
    keys, direction = pair_keys(SECRET), 0 if bob.identity.identity_key < alice.identity.identity_key else 1
    today = day_of(bob.clock.now())
    seeds = [lookup_seed(keys.rendezvous, direction, day) for day in range(today - 1, today + 3)]
    return {record_key(public_key_of(seed), 0) for seed in seeds}


async def test_a_contact_blocked_in_the_middle_of_its_handshake_gets_no_link(
    trio_of_nodes: tuple[Node, Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob, _ = trio_of_nodes
    real = bob.connectivity.acceptor._on_session

    async def blocked_meanwhile(*arguments: Any) -> None:
        await bob.book.set_blocked("alice", True)
        await real(*arguments)

    monkeypatch.setattr(bob.connectivity.acceptor, "_on_session", blocked_meanwhile)
    with pytest.raises(Unreachable):
        await alice.connectivity.links.get(await alice.contact_id("bob"))
        await until(lambda: not alice.connectivity.links.all())
        raise Unreachable("it ended at once")
    assert bob.connectivity.links.all() == () and bob.links == []


async def test_after_our_restart_blocked_looks_exactly_like_offline(people: People) -> None:
    """The other side holds our last address. A node that was stopped, and one that was restarted and blocks, give
    the same steps with the same outcomes and the same sentence."""
    seen: dict[str, tuple[str, set[tuple[str, str]]]] = {}
    for what in ("offline", "blocked"):
        alice_home, bob_home = people.person(f"alice-{what}"), people.person(f"bob-{what}")
        async with alice_home.run(greet=False) as alice:
            async with bob_home.run(greet=False) as bob:
                await acquaint(alice, "alice", bob, "bob")
                await all_published(alice, bob)
                contact = await alice.contact_id("bob")
                await alice.connectivity.links.get(contact)
                if what == "blocked":
                    await bob.book.set_blocked("alice", True)
                await until(lambda alice=alice, what=what: what == "offline" or not alice.connectivity.links.all())
            if what == "blocked":
                async with bob_home.run() as bob:
                    seen[what] = await _try(alice, contact)
            else:
                seen[what] = await _try(alice, contact)
    assert seen["offline"] == seen["blocked"]


async def _try(alice: Node, contact: Any) -> tuple[str, set[tuple[str, str]]]:
    """The sentence, and the steps with their outcomes, of a try made now."""
    await until(lambda: not alice.connectivity.links.is_linked(contact))
    began = alice.clock.now()
    with pytest.raises((Unreachable, LinkClosed)) as failure:
        await alice.connectivity.links.get(contact)
    attempts = alice.connectivity.links.reachability(contact).attempts
    steps = {(each.step, each.outcome) for each in attempts if each.at >= began}
    return str(failure.value).replace(str(attempts[-1].target), "…"), steps


def likelier(one: list[float], other: list[float]) -> float:
    """The probability that a value of `one` is above one of `other` (the Mann-Whitney statistic, scaled): 0.5 when
    nobody can tell the two apart."""
    ranked = sorted(other)
    return sum((bisect_left(ranked, each) + bisect_right(ranked, each)) / 2 for each in one) / len(one) / len(ranked)


async def test_the_time_of_the_refusal_says_nothing(trio_of_nodes: tuple[Node, Node, Node]) -> None:
    """From the last byte of the hello to the end of the stream, as the other side's node measures it: somebody blocked,
    and somebody whom we have never known. In turns, so that the machine's load falls on both alike."""
    alice, bob, _ = trio_of_nodes
    for number in range(OTHER_CONTACTS):
        await acquaint_stranger(bob, f"friend {number}")
    await bob.book.set_blocked("alice", True)
    times: dict[str, list[float]] = {"blocked": [], "unknown": []}
    for number in range(2 * SAMPLES):
        what, secret = (("blocked", SECRET), ("unknown", os.urandom(32)))[number % 2]
        raw = hello(alice, bob, secret)
        stream = await stream_to(alice, bob)
        began = time.perf_counter()
        assert await answer_to(stream, raw) == 0
        times[what].append(time.perf_counter() - began)
    for what, values in times.items():
        cuts = [round(1e6 * each) for each in quantiles(values, n=20)]
        print(f"{what:8} p5 {cuts[0]} µs, median {cuts[9]} µs, p95 {cuts[18]} µs, {len(values)} samples")
    chance = likelier(times["blocked"], times["unknown"])
    print(f"blocked takes longer with probability {chance:.3f}")
    assert 0.4 < chance < 0.6  # five standard deviations of 0.02 at 300 samples


async def acquaint_stranger(node: Node, name: str) -> None:
    """A contact that has no node."""
    key = IdentityKey(os.urandom(32))

    def add(tx: Tx) -> ContactId:
        return contacts.add(
            tx, name=name, identity_key=key, pair_secret=os.urandom(32), paired_at=START, list_version=0
        )

    await node.connectivity.roster.reload(await node.database.write(add))
