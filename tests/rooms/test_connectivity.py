"""Links on real hosts: made, accepted, refused, renewed, replaced, lost and made again."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from p2pe import config
from p2pe.config import SESSION_PROTOCOL
from p2pe.connectivity import session as session_module
from p2pe.connectivity.dialer import local_party
from p2pe.connectivity.streams import FrameStream
from p2pe.core.derive import day_of, pair_keys, session_tag
from p2pe.core.framing import frame
from p2pe.core.handshake import DIALER_ENTROPY_BYTES, DialerHandshake, Expected
from p2pe.errors import LinkClosed, RemoteError, Unreachable
from p2pe.model import (
    ContactId,
    MessageId,
    OrderConflict,
    PathKind,
    PeerInfo,
    Purpose,
    Receipt,
    Receipts,
    ReceiptStatus,
    StreamId,
)
from p2pe.ports import Stream
from people_kit import Node, People, acquaint, all_published, make_identity, until, until_async

FRAME = OrderConflict(StreamId(b"s" * 16), 7)
SECRET = b"S" * 32


@pytest.fixture
async def people(tmp_path: Path) -> People:
    return People(tmp_path)


@pytest.fixture
async def pair(people: People) -> AsyncIterator[tuple[Node, Node]]:
    """Alice and Bob: running, contacts, nobody has dialled yet."""
    async with people.person("alice").run(greet=False) as alice, people.person("bob").run(greet=False) as bob:
        await acquaint(alice, "alice", bob, "bob", SECRET)
        await all_published(alice, bob)
        yield alice, bob


async def published(people: People, records: int) -> None:
    await until(lambda: len(people.directory.records) >= records)


async def linked(alice: Node, bob: Node) -> None:
    await alice.connectivity.links.get(await alice.contact_id("bob"))
    await until(lambda: len(bob.links) == 1 and len(alice.links) == 1)


async def stream_to(node: Node, peer: Node) -> Stream:
    info = PeerInfo(peer.host.peer_id, peer.host.listen_addresses())
    return await (await node.host.connect(info)).open_stream(SESSION_PROTOCOL)


async def closed_without_a_word(stream: Stream) -> bool:
    with trio.fail_after(5):
        try:
            return await stream.receive_some(1) == b""
        except trio.BrokenResourceError:
            return True


def hello(dialer: Node, responder: Node, *, secret: bytes = SECRET, day_shift: int = 0) -> DialerHandshake:
    keys, nonce = pair_keys(secret), os.urandom(16)
    lower = dialer.identity.identity_key < responder.identity.identity_key
    day = day_of(dialer.clock.now()) + day_shift
    return DialerHandshake(
        local_party(dialer.identity, dialer.host),
        responder.host.peer_id,
        Purpose.SESSION,
        tag=session_tag(keys.tag, day, lower, dialer.host.peer_id, responder.host.peer_id, nonce),
        nonce=nonce,
        entropy=os.urandom(DIALER_ENTROPY_BYTES),
        expected=Expected(responder.identity.identity_key),
    )


# --- links ---


async def test_a_link_carries_frames_both_ways(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    contact = await alice.contact_id("bob")
    link = await alice.connectivity.links.get(contact)
    await until(lambda: len(bob.links) == 1)
    await link.send((FRAME, FRAME))
    await bob.links[0].send((FRAME,))
    await until(lambda: bob.frames == [FRAME, FRAME] and alice.frames == [FRAME])
    assert link.peer_identity == bob.identity.identity_key
    assert link.receipt_key == bob.links[0].receipt_key == pair_keys(SECRET).receipt
    assert link.path is PathKind.LAN
    assert await alice.connectivity.links.get(contact) is link
    shown = alice.connectivity.links.reachability(contact)
    assert shown.connected and shown.since == link.established_at
    assert [each.step for each in shown.attempts if each.outcome == "ok"][-1] == "handshake"


async def test_many_who_ask_share_one_dial(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    contact = await alice.contact_id("bob")
    got = []

    async def ask() -> None:
        got.append(await alice.connectivity.links.get(contact))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    assert len(set(map(id, got))) == 1
    await until(lambda: len(bob.links) == 1)


async def test_one_who_asks_and_gives_up_doesnt_stop_the_others(pair: tuple[Node, Node]) -> None:
    alice, _ = pair
    contact = await alice.contact_id("bob")
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def impatient() -> None:
            with scope:
                await alice.connectivity.links.get(contact)

        nursery.start_soon(impatient)
        await trio.lowlevel.checkpoint()
        scope.cancel()
        with trio.fail_after(10):
            assert await alice.connectivity.links.get(contact)


async def test_both_dial_at_once_and_one_link_remains(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    at_alice, at_bob = await alice.contact_id("bob"), await bob.contact_id("alice")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alice.connectivity.links.get, at_alice)
        nursery.start_soon(bob.connectivity.links.get, at_bob)
    await until(lambda: len(alice.connectivity.links.all()) == 1 and len(bob.connectivity.links.all()) == 1)
    await trio.sleep(2 * config.LINK_RETIRE_QUIET)  # and it isn't closed after that
    (ours,), (theirs,) = alice.connectivity.links.all(), bob.connectivity.links.all()
    await ours.send((FRAME,))
    await theirs.send((FRAME,))
    await until(lambda: alice.frames == [FRAME] and bob.frames == [FRAME])


async def test_cached_addresses_spare_a_lookup(people: People, pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    await linked(alice, bob)
    contact = await alice.contact_id("bob")

    def is_cached() -> bool:
        known = alice.connectivity.roster.get(contact)
        return known is not None and known.peer is not None

    await until(is_cached)
    bob.connectivity.links._is_stopping = True  # only alice calls
    looked_up = people.directory.looked_up
    for connection in alice.host.connections():
        await connection.aclose()
    await until(lambda: len(bob.links) == 2)
    assert people.directory.looked_up == looked_up


async def test_frames_sent_by_many_tasks_arrive_whole(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    await linked(alice, bob)
    link = alice.links[0]
    frames = [OrderConflict(StreamId(bytes([n]) * 16), n) for n in range(50)]
    async with trio.open_nursery() as nursery:
        for each in frames:
            nursery.start_soon(link.send, (each, each))
    await until(lambda: len(bob.frames) == 100)
    assert sorted(bob.frames, key=repr) == sorted([*frames, *frames], key=repr)
    assert all(bob.frames[n] == bob.frames[n + 1] for n in range(0, 100, 2))  # each send stays together


async def test_a_send_cut_off_midway_ends_the_session(pair: tuple[Node, Node]) -> None:
    """Half an encrypted frame is on the wire: nothing after it could be read."""
    alice, bob = pair
    await linked(alice, bob)
    bob.gate.shut()
    link, large = alice.links[0], Receipts((Receipt(MessageId(b"i" * 32), ReceiptStatus.READ, b"m" * 32),) * 800)
    with trio.move_on_after(0.5) as scope:
        while True:
            await link.send((large,) * 50)
    assert scope.cancelled_caught
    with pytest.raises(LinkClosed):
        await link.send((FRAME,))
    await until(lambda: len(bob.links) == 2)  # a new one was made by itself


async def test_a_send_cancelled_before_it_began_costs_nothing(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    await linked(alice, bob)
    with trio.CancelScope() as scope:
        scope.cancel()
        await alice.links[0].send((FRAME,))
    await alice.links[0].send((FRAME,))
    await until(lambda: bob.frames == [FRAME])


# --- who is let in ---


async def test_a_stranger_is_closed_before_any_answer(people: People, pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    async with people.person("mallory").run() as mallory:
        stream = await stream_to(mallory, bob)
        await stream.send_all(frame(hello(mallory, bob, secret=b"?" * 32).hello()))
        assert await closed_without_a_word(stream)
    assert bob.connectivity.acceptor.admission.refused == 1
    assert bob.links == []
    await linked(alice, bob)  # contacts come through all the same


async def test_a_replayed_hello_from_another_node_is_a_strangers(people: People, pair: tuple[Node, Node]) -> None:
    """The tag binds both peer ids, so a hello that leaked is of no use to another node."""
    alice, bob = pair
    raw = hello(alice, bob).hello()
    async with people.person("mallory").run() as mallory:
        stream = await stream_to(mallory, bob)
        await stream.send_all(frame(raw))
        assert await closed_without_a_word(stream)
    own = await stream_to(alice, bob)
    await own.send_all(frame(raw))
    assert len(await own.receive_some(2)) > 0  # from the node that it names it is good


async def test_a_replayed_handshake_is_refused(pair: tuple[Node, Node]) -> None:
    """All that a session's dialer sent, sent again: the responder's fresh keys make message 1 fail."""
    alice, bob = pair
    handshake = hello(alice, bob)
    first = FrameStream(await stream_to(alice, bob))
    sent = [handshake.hello()]
    await first.write(sent[0])
    sent.append(handshake.receive_reply(await first.read(), pair_keys(SECRET).psk0))
    await first.write(sent[1])
    sent.append(handshake.receive_second(await first.read()))
    await first.write(sent[2])
    await until(lambda: len(bob.links) == 1)
    again = FrameStream(await stream_to(alice, bob))
    await again.write(sent[0])
    await again.read()
    await again.write(*sent[1:])
    assert await closed_without_a_word(again.stream)
    assert len(bob.links) == 1


@pytest.mark.parametrize("day_shift", [-1, 0, 1])
async def test_clocks_may_differ_by_a_day(pair: tuple[Node, Node], day_shift: int) -> None:
    alice, bob = pair
    frames = FrameStream(await stream_to(alice, bob))
    await frames.write(hello(alice, bob, day_shift=day_shift).hello())
    assert len(await frames.read()) > 1000


async def test_two_days_are_too_many(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    frames = FrameStream(await stream_to(alice, bob))
    await frames.write(hello(alice, bob, day_shift=2).hello())
    assert await closed_without_a_word(frames.stream)


async def test_the_right_tag_with_a_wrong_psk_is_refused(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    handshake = hello(alice, bob)
    frames = FrameStream(await stream_to(alice, bob))
    await frames.write(handshake.hello())
    await frames.write(handshake.receive_reply(await frames.read(), b"?" * 32))
    assert await closed_without_a_word(frames.stream)
    assert bob.links == []


async def test_an_impostor_with_the_pair_secret_but_another_identity_is_refused(
    people: People, pair: tuple[Node, Node]
) -> None:
    """Somebody stole the pair secret, but not the identity key: both sides notice."""
    alice, bob = pair
    async with people.person("mallory").run() as mallory:
        mallory_as_alice = hello(mallory, bob)
        keys, nonce = pair_keys(SECRET), os.urandom(16)
        lower = alice.identity.identity_key < bob.identity.identity_key
        tag = session_tag(keys.tag, day_of(bob.clock.now()), lower, mallory.host.peer_id, bob.host.peer_id, nonce)
        mallory_as_alice = DialerHandshake(
            local_party(mallory.identity, mallory.host),
            bob.host.peer_id,
            Purpose.SESSION,
            tag=tag,
            nonce=nonce,
            entropy=os.urandom(DIALER_ENTROPY_BYTES),
            expected=Expected(bob.identity.identity_key),
        )
        frames = FrameStream(await stream_to(mallory, bob))
        await frames.write(mallory_as_alice.hello())
        await frames.write(mallory_as_alice.receive_reply(await frames.read(), keys.psk0))
        second = await frames.read()
        with pytest.raises(RemoteError, match="somebody else"):
            mallory_as_alice.receive_second(second)  # bob says whom he takes her for
    assert bob.links == []


async def test_the_wrong_node_at_a_contacts_place_is_noticed(people: People, pair: tuple[Node, Node]) -> None:
    """Mallory holds the pair secret and publishes herself under it; she isn't the identity that alice expects."""
    alice, bob = pair
    async with people.person("mallory").run(greet=False) as mallory:
        from p2pe.storage import contacts

        add = {"identity_key": alice.identity.identity_key, "pair_secret": SECRET, "paired_at": mallory.clock.now()}
        contact_id = await mallory.database.write(
            lambda tx: contacts.add(tx, name="alice", list_version=0, **add)  # type: ignore[arg-type]
        )
        await mallory.connectivity.roster.reload(contact_id)
        known = alice.connectivity.roster.get(await alice.contact_id("bob"))
        assert known is not None
        connection = await alice.host.connect(PeerInfo(mallory.host.peer_id, mallory.host.listen_addresses()))
        dialer = alice.connectivity.links._dialer
        lower_matches = (mallory.identity.identity_key < alice.identity.identity_key) == (
            bob.identity.identity_key < alice.identity.identity_key
        )
        with pytest.raises(Unreachable, match="isn't the one expected" if lower_matches else "handshake failed"):
            await dialer.open_session(known, connection)
    assert alice.links == []


async def test_attempts_of_strangers_are_counted_per_subnet(people: People, pair: tuple[Node, Node]) -> None:
    """Pairing handles that nobody gave out: after five in a minute nothing of it is even looked up, while a
    contact behind the same address still comes through."""
    alice, bob = pair
    looked = 0
    answer = bob.connectivity.acceptor.on_pairing
    assert answer is not None

    async def counting(request: object) -> bool:
        nonlocal looked
        looked += 1
        return await answer(request)  # type: ignore[arg-type]

    bob.connectivity.acceptor.on_pairing = counting
    async with people.person("mallory").run() as mallory:
        for _ in range(8):
            stream = await stream_to(mallory, bob)
            guess = DialerHandshake(
                local_party(mallory.identity, mallory.host),
                bob.host.peer_id,
                Purpose.PAIR_LINK,
                tag=os.urandom(8),
                nonce=os.urandom(16),
                entropy=os.urandom(DIALER_ENTROPY_BYTES),
                expected=Expected(),
            )
            await stream.send_all(frame(guess.hello()))
            assert await closed_without_a_word(stream)
    assert looked == config.SESSION_ATTEMPTS_PER_MINUTE_PER_SUBNET
    await linked(alice, bob)


async def test_garbage_and_silence_end_quickly(pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = pair
    monkeypatch.setattr("p2pe.core.patience.HANDSHAKE_TIMEOUT", 0.2)
    for garbage in (b"\x00\x00", b"\xff\xff", b"\x00\x05hello", os.urandom(5000), b""):
        stream = await stream_to(alice, bob)
        if garbage:
            await stream.send_all(garbage)
        assert await closed_without_a_word(stream)
    assert bob.links == []


async def test_silent_strangers_push_each_other_out_and_no_contact(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    room = bob.connectivity.acceptor.admission.waiting_room
    room._places = 2 * config.MAX_PENDING_HANDSHAKES
    silent = [await stream_to(alice, bob) for _ in range(room._places)]
    await until(lambda: len(room._guests) == room._places and room.evicted == 0)
    silent += [await stream_to(alice, bob) for _ in range(8)]
    await until(lambda: room.evicted == 8)
    assert await closed_without_a_word(silent[0])  # the oldest
    await linked(alice, bob)
    assert len(room._guests) <= room._places
    for stream in silent:
        stream.reset()
    await until(lambda: not room._guests)


# --- blocking and removing ---


async def test_a_blocked_contact_sees_somebody_offline(people: People, pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    await linked(alice, bob)
    await bob.book.set_blocked("alice", True)
    contact = await alice.contact_id("bob")
    await until(lambda: not alice.connectivity.links.is_linked(contact))
    stream = await stream_to(alice, bob)
    await stream.send_all(frame(hello(alice, bob).hello()))
    assert await closed_without_a_word(stream)
    with pytest.raises(Unreachable, match="blocked"):
        await bob.connectivity.links.get(await bob.contact_id("alice"))
    await bob.book.set_blocked("alice", False)
    await until(lambda: alice.connectivity.links.is_linked(contact))


async def test_a_removed_contact_is_a_stranger(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    await linked(alice, bob)
    await bob.book.remove("alice")
    assert await bob.book.list() == ()
    with pytest.raises(Unreachable, match="handshake failed"):
        await alice.connectivity.links.get(await alice.contact_id("bob"))
    with pytest.raises(Unreachable, match="removed"):
        await bob.connectivity.links.get(ContactId(1))


# --- offline, back, restarted ---


async def test_somebody_offline_is_unreachable_with_the_reason(people: People) -> None:
    alice_person, bob_person = people.person("alice"), people.person("bob")
    async with alice_person.run(greet=False) as alice:
        async with bob_person.run(greet=False) as bob:
            await acquaint(alice, "alice", bob, "bob", SECRET)
        contact = await alice.contact_id("bob")
        with pytest.raises(Unreachable, match="not online"):
            await alice.connectivity.links.get(contact)
        people.directory.is_down = True
        with pytest.raises(Unreachable, match="no DHT server"):
            await alice.connectivity.links.get(contact)
        steps = [(each.step, each.outcome) for each in alice.connectivity.links.reachability(contact).attempts]
        assert ("lookup", "not online: no address of theirs is published") in steps
        assert ("lookup", "no DHT server answers") in steps


async def test_a_contact_that_comes_back_greets_us(people: People) -> None:
    alice_person, bob_person = people.person("alice"), people.person("bob")
    async with alice_person.run() as alice:
        async with bob_person.run() as bob:
            await acquaint(alice, "alice", bob, "bob", SECRET)
            await published(people, 2)
            await linked(alice, bob)
        contact = await alice.contact_id("bob")
        await until(lambda: not alice.connectivity.links.is_linked(contact))
        async with bob_person.run() as bob:
            await until(lambda: alice.connectivity.links.is_linked(contact))
            assert bob.connectivity.links.is_linked(await bob.contact_id("alice"))


async def test_two_who_start_together_find_each_other(people: People) -> None:
    alice_person, bob_person = people.person("alice"), people.person("bob")
    async with alice_person.run() as alice, bob_person.run() as bob:
        await acquaint(alice, "alice", bob, "bob", SECRET)
    people.directory.records.clear()
    async with alice_person.run() as alice, bob_person.run():
        contact = await alice.contact_id("bob")
        await until(lambda: alice.connectivity.links.is_linked(contact))


async def test_a_link_whose_connection_broke_is_made_anew(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    await linked(alice, bob)
    for connection in bob.host.connections():
        await connection.aclose()
    await until(lambda: len(alice.links) >= 2 and len(bob.links) >= 2)


async def test_a_goodbye_is_not_followed_by_calls(people: People, pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    await linked(alice, bob)
    looked_up = people.directory.looked_up
    await alice.connectivity.links.stop()
    contact = await bob.contact_id("alice")
    await until(lambda: not bob.connectivity.links.is_linked(contact))
    assert bob.connectivity.links.reconnector.next_try(contact) is None
    assert people.directory.looked_up == looked_up


# --- renewal and change ---


async def test_a_session_is_renewed_by_volume_without_a_gap(
    pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "SESSION_MAX_BYTES", 40_000)
    alice, bob = pair
    await linked(alice, bob)
    contact = await alice.contact_id("bob")
    frames = [OrderConflict(StreamId(b"s" * 16), n) for n in range(400)]  # 274 bytes each on the wire
    for each in frames:
        while True:
            try:
                await (await alice.connectivity.links.get(contact)).send((each,))
                break
            except LinkClosed:
                continue
    await until(lambda: len(bob.frames) == len(frames), 20)
    assert sorted(bob.frames, key=lambda each: each.last_sequence) == frames  # type: ignore[union-attr]
    assert len(bob.links) >= 3
    assert len({link.established_at for link in bob.links}) >= 1
    await until(lambda: len(alice.connectivity.links.all()) == 1)  # the old ones are closed


async def test_a_busy_session_is_renewed_by_time(pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "SESSION_MAX_SECONDS", 0.5)
    alice, bob = pair
    await linked(alice, bob)
    await until(lambda: len(bob.links) >= 3)
    assert alice.connectivity.links.is_linked(await alice.contact_id("bob"))


async def test_an_idle_session_rests_until_it_is_used(pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "SESSION_MAX_SECONDS", 0.3)
    monkeypatch.setattr(session_module, "SESSION_BUSY_SECONDS", 0.0)
    alice, bob = pair
    await linked(alice, bob)
    contact = await alice.contact_id("bob")
    old = alice.links[0]
    await until(lambda: alice.connectivity.links.current(contact) is None)
    assert alice.connectivity.links.is_linked(contact)  # still there, only not to be used
    assert len(bob.links) == 1
    with pytest.raises(LinkClosed):
        await old.send((FRAME,))
    await (await alice.connectivity.links.get(contact)).send((FRAME,))
    await until(lambda: bob.frames == [FRAME])


async def test_a_half_agreed_secret_works_and_is_promoted(pair: tuple[Node, Node]) -> None:
    """Phase one of a change of secrets at one side only: both old and new are good, and use promotes the new."""
    from p2pe.storage import contacts

    alice, bob = pair
    fresh = b"N" * 32
    at_alice, at_bob = await alice.contact_id("bob"), await bob.contact_id("alice")
    now = alice.clock.now()
    await alice.database.write(lambda tx: contacts.set_next_secret(tx, at_alice, fresh))
    await alice.connectivity.roster.reload(at_alice)
    await bob.database.write(lambda tx: contacts.replace_secret(tx, at_bob, fresh, 2, now))
    await bob.connectivity.roster.reload(at_bob)
    link = await alice.connectivity.links.get(at_alice)  # the old secret fails, the new one is tried next
    assert link.receipt_key == pair_keys(fresh).receipt

    async def promoted() -> bool:
        row = await alice.database.read(lambda tx: contacts.secrets(tx, at_alice))
        return row.pair_secret == fresh and row.next_secret is None

    await until_async(promoted)


async def test_a_downgraded_or_older_device_list_is_refused(pair: tuple[Node, Node]) -> None:
    from p2pe.storage import contacts

    alice, _ = pair
    contact, now = await alice.contact_id("bob"), alice.clock.now()
    await alice.database.write(lambda tx: contacts.saw(tx, contact, now, list_version=9, protocol_version=1))
    await alice.connectivity.roster.reload(contact)
    with pytest.raises(Unreachable, match="device list"):
        await alice.connectivity.links.get(contact)


async def test_a_restored_node_with_the_same_identity_is_the_same_contact(people: People) -> None:
    """Another device key, signed by the same identity: a reinstalled machine with its database."""
    seed = b"7" * 32
    alice_person, bob_person = people.person("alice"), people.person("bob", seed=seed)
    async with alice_person.run() as alice, bob_person.run() as bob:
        await acquaint(alice, "alice", bob, "bob", SECRET)
    fresh = make_identity(people.clock, seed)
    object.__setattr__(fresh, "database_key", bob_person.identity.database_key)
    bob_person.identity = fresh
    async with alice_person.run() as alice, bob_person.run():
        contact = await alice.contact_id("bob")
        await until(lambda: alice.connectivity.links.is_linked(contact))
