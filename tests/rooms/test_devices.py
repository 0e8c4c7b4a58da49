"""A stolen device stops working at each contact that has seen a newer list, and what is forgotten is gone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from p2pe.contacts.devices import Devices
from p2pe.core.certificate import make_certificate, verify_certificate
from p2pe.core.tickets import seal_ticket
from p2pe.errors import NotFound, Unreachable, UsageError, WrongPassphrase
from p2pe.identity.home import Home
from p2pe.identity.keyring import create_identity, open_identity
from p2pe.identity.keys import DeviceKeys, Identity, RootKeys
from p2pe.model import ContactId, IdentityKey, MessageId, Millis, StreamId
from p2pe.storage import contacts, incoming, invites, outgoing, requests
from p2pe.storage.database import open_database
from p2pe.storage.migrations import Tx
from people_kit import START, Node, People, Person, acquaint, until, until_async
from storage_kit import decrypted_pages

SEED = b"seed of alice, known to her only"


def device(seed: bytes, list_version: int, revoked: tuple[bytes, ...] = (), keys: DeviceKeys | None = None) -> Identity:
    """One device of an identity."""
    root, own = RootKeys.from_seed(seed), keys or DeviceKeys.generate(os.urandom)
    certificate = make_certificate(root.signing_seed, own.public, list_version, START, revoked)
    return Identity(
        root.identity_key, own.private, own.public, certificate, root.k_ticket, root.k_msgid, os.urandom(32)
    )


async def seen(node: Node) -> tuple[int, frozenset[bytes]]:
    [known] = node.connectivity.roster.all()
    row = await node.database.read(lambda tx: contacts.secrets(tx, known.contact_id))
    return row.list_version, row.revoked


async def knows(person: Person, name: str, key: IdentityKey, secret: bytes) -> None:
    """A contact in the database of a node that doesn't run yet."""

    def add(tx: Tx) -> ContactId:
        return contacts.add(tx, name=name, identity_key=key, pair_secret=secret, paired_at=START, list_version=0)

    async with open_database(person.path, person.identity.database_key) as database:
        await database.write(add)


async def reaches(caller: Node, called: Node) -> bool:
    """Whether a session can be made now that the other side accepts too: the caller's handshake is over first."""
    [known] = caller.connectivity.roster.all()
    try:
        session = await caller.connectivity.links.get(known.contact_id)
    except Unreachable:
        return False
    accepted = False

    def is_decided() -> bool:
        nonlocal accepted
        accepted = any(each.peer_id == caller.host.peer_id for each in called.connectivity.links.all())
        return accepted or session.ended.is_set()

    await until(is_decided)
    return accepted


@pytest.mark.parametrize("version", [4, 5, 6])
async def test_a_stolen_device_gets_in_until_the_newer_list_was_seen(tmp_path: Path, version: int) -> None:
    """`version`: of the thief's certificate. Bob has then seen list 5, which also names the stolen key."""
    people, secret = People(tmp_path), os.urandom(32)
    alice, bob, thief = people.person("alice"), people.person("bob"), people.person("thief")
    stolen = device(SEED, version)
    thief.identity = stolen
    alice.identity = device(SEED, 5, (stolen.device_public,))
    await knows(thief, "bob", bob.identity.identity_key, secret)
    await knows(alice, "bob", bob.identity.identity_key, secret)
    await knows(bob, "alice", stolen.identity_key, secret)
    async with bob.run(greet=False) as at_bob:
        await at_bob.connectivity.publisher.first_round.wait()
        if version < 5:
            async with thief.run(greet=False) as at_thief:
                assert await reaches(at_thief, at_bob), "nobody has told Bob yet: the theft works so long"
                await until_async(lambda: _saw(at_bob, version))
        async with alice.run(greet=False) as at_alice:
            assert await reaches(at_alice, at_bob)
            await until_async(lambda: _saw(at_bob, 5))
            assert (await seen(at_bob))[1] == {stolen.device_public}
        async with thief.run(greet=False) as at_thief:
            await at_thief.connectivity.publisher.first_round.wait()
            assert not await reaches(at_thief, at_bob), "the stolen device got in"
            assert not await reaches(at_bob, at_thief), "Bob's own call went to the stolen device"
        async with alice.run(greet=False) as at_alice:
            assert await reaches(at_alice, at_bob)


async def _saw(node: Node, version: int) -> bool:
    return (await seen(node))[0] == version


async def test_a_certificate_for_another_key_or_by_another_identity_gets_nobody_in(tmp_path: Path) -> None:
    people, secret = People(tmp_path), os.urandom(32)
    bob = people.person("bob")
    genuine, own = device(SEED, 5), DeviceKeys.generate(os.urandom)
    forged = {
        "another device's": replace(genuine, device_private=own.private, device_public=own.public),
        "self-signed": replace(device(os.urandom(32), 9), identity_key=genuine.identity_key),
    }
    await knows(bob, "alice", genuine.identity_key, secret)
    async with bob.run(greet=False) as at_bob:
        await at_bob.connectivity.publisher.first_round.wait()
        for name, identity in {**forged, "genuine": genuine}.items():
            thief = people.person(name.replace(" ", ""))
            thief.identity = identity
            await knows(thief, "bob", bob.identity.identity_key, secret)
            async with thief.run(greet=False) as at_thief:
                await at_thief.connectivity.publisher.first_round.wait()
                assert await reaches(at_thief, at_bob) is (name == "genuine"), name
                assert await reaches(at_bob, at_thief) is (name == "genuine"), name


async def test_a_newer_list_ends_sessions_of_older_devices_and_repeats_retractions(tmp_path: Path) -> None:
    people, secret = People(tmp_path), os.urandom(32)
    alice, again, bob = people.person("alice"), people.person("again"), people.person("bob")
    alice.identity, again.identity = device(SEED, 5), device(SEED, 6)
    told: list[object] = []
    for person in (alice, again):
        await knows(person, "bob", bob.identity.identity_key, secret)
    await knows(bob, "alice", alice.identity.identity_key, secret)
    async with bob.run(greet=False) as at_bob, alice.run(greet=False) as at_alice:
        at_bob.connectivity.links.on_new_device = told.append
        await at_bob.connectivity.publisher.first_round.wait()
        assert await reaches(at_alice, at_bob)
        await until(lambda: bool(told))
        told.clear()  # the first list counts as a newer one
        [old] = at_bob.connectivity.links.all()
        [known] = at_bob.connectivity.roster.all()

        def taken_back(tx: Tx) -> None:
            stream = outgoing.current_stream(tx, StreamId(b"s" * 16))
            outgoing.insert(
                tx, known.contact_id, stream, 1, [outgoing.Draft(MessageId(b"m" * 32), b"x", b"h" * 32)], START
            )
            offered = outgoing.offer(tx, known.contact_id, 0, 10, 10_000, START)
            assert offered is not None
            outgoing.retract(tx, offered.ids, START)
            outgoing.settle(tx, known.contact_id, incoming.ReceiptStatus.RETRACTED, offered.ids, START)
            assert outgoing.retractions_owed(tx, known.contact_id) == []

        await at_bob.database.write(taken_back)
        async with again.run(greet=False) as at_again:
            assert await reaches(at_again, at_bob)
            with trio.fail_after(10):
                await old.ended.wait()
            await until(lambda: told == [known.contact_id])
            owed = await at_bob.database.read(lambda tx: outgoing.retractions_owed(tx, known.contact_id))
            assert owed == [b"m" * 32], "a restored backup may hold the text: the tombstone is owed again"


async def test_revoking_in_a_running_node(tmp_path: Path) -> None:
    people = People(tmp_path)
    home = Home(tmp_path / "home")
    identity, _ = create_identity(home, "right passphrase", os.urandom, START)
    alice, bob = people.person("alice"), people.person("bob")
    alice.identity = open_identity(home, "right passphrase")
    async with alice.run() as at_alice, bob.run() as at_bob:
        await acquaint(at_alice, "alice", at_bob, "bob")
        devices = Devices(
            at_alice.world,
            home,
            at_alice.identity,
            at_alice.database,
            at_alice.connectivity.roster,
            at_alice.connectivity.links,
        )
        await until_async(lambda: reaches(at_alice, at_bob))
        before = devices.list()
        kept = home.keys.read_bytes()
        for keys, passphrase, error in (
            ([b"x" * 32], "wrong passphrase", WrongPassphrase),
            ([b"x" * 32], None, WrongPassphrase),
            ([before.device_key], "right passphrase", UsageError),
            ([bytes([n]) * 32 for n in range(65)], "right passphrase", UsageError),
        ):
            with pytest.raises(error):
                await devices.revoke(keys, passphrase)
        assert home.keys.read_bytes() == kept and devices.list() == before
        after = await devices.revoke([b"x" * 32], "right passphrase")
        assert after.list_version > before.list_version and after.revoked == (b"x" * 32,)
        await until_async(lambda: _saw(at_bob, after.list_version))
        stored = verify_certificate(open_identity(home, "right passphrase").certificate)
        assert stored.list_version == after.list_version and stored.device_key == identity.device_public


async def test_what_is_forgotten_is_in_no_page_of_the_file(tmp_path: Path) -> None:
    people, secret = People(tmp_path), os.urandom(32)
    alice, bob, carol = people.person("alice"), people.person("bob"), people.person("carol")
    async with alice.run() as at_alice, bob.run() as at_bob, carol.run() as at_carol:
        await acquaint(at_alice, "alice", at_bob, "Bartholomew", secret)
        await acquaint(at_alice, "alice", at_carol, "Caroline")
        contact_id = await at_alice.contact_id("Bartholomew")
        bobs = at_bob.identity.identity_key
        ticket = seal_ticket(b"k" * 32, bobs, "alice", START, os.urandom(24))
        contribution, following = os.urandom(32), os.urandom(32)

        def live(tx: Tx) -> None:
            contacts.set_ticket(tx, contact_id, ticket)
            pair = replace(contacts.pair(tx, contact_id), next_secret=following, contribution=contribution)
            contacts.store_pair(tx, contact_id, pair, None)
            stream = outgoing.current_stream(tx, StreamId(b"s" * 16))
            for number in range(300):
                body = b"to Bartholomew, number %d" % number
                identifier = MessageId(b"mine" + number.to_bytes(28, "big"))
                draft = outgoing.Draft(identifier, body, os.urandom(32))
                outgoing.insert(tx, contact_id, stream, number + 1, [draft], START)
                wire = incoming.WireMessage(MessageId(b"his " + identifier[4:]), number + 1, START, b"from " + body)
                incoming.accept(tx, contact_id, StreamId(b"b" * 16), [wire], START)
            made = invites.create(tx, kind="link", handle=b"h" * 8, locator="", password="", secret=b"q" * 16,
                                  name="Bartholomew", now=START)  # fmt: skip
            invites.close(tx, made.id, "paired", contact_id)
            requests.came(tx, bobs, "Bartholomew", START, Millis(START + 1))

        await at_alice.database.write(live)
        traces = [b"Bartholomew", bobs, secret, following, contribution, ticket, b"his \x00", b"mine\x00", b"b" * 16]
        at_alice.connectivity.links.connect_soon(contact_id)
        await until_async(lambda: _linked(at_alice))
        before = decrypted_pages(alice.path, alice.identity.database_key)
        assert all(each in before for each in traces), "the search finds nothing"
        await at_alice.book.remove("bartholomew")
        assert not at_alice.connectivity.links.all()
        with pytest.raises(NotFound):
            await at_alice.book.find("Bartholomew")
        after = decrypted_pages(alice.path, alice.identity.database_key)
        assert [each for each in traces if each in after] == []
        assert b"Caroline" in after
    after = decrypted_pages(alice.path, alice.identity.database_key)
    assert [each for each in traces if each in after] == []


async def _linked(node: Node) -> bool:
    return bool(node.connectivity.links.all())
