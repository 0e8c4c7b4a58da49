"""Recovery: a restored node takes back who comes with a ticket of its own making, and nobody else."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
import trio.testing
from p2pe.config import MAX_RECOVER_REQUESTS
from p2pe.contacts import recovery as recovery_module
from p2pe.contacts.exchange import Agreed, PairChannel
from p2pe.contacts.recovery import Recovery
from p2pe.contacts.requests import Requests
from p2pe.core.tickets import seal_ticket
from p2pe.errors import LinkClosed, NotFound
from p2pe.model import ContactId, IdentityKey, Millis
from p2pe.rendezvous.recovery import RecoveryRecords
from p2pe.storage import contacts, requests
from p2pe.storage.contacts import ContactSecrets
from p2pe.storage.database import open_database
from p2pe.storage.migrations import Tx
from p2pe.storage.restored import begin_anew
from people_kit import START, Node, People, Person, until, until_async
from storage_kit import NOW, add_contact, threaded_world

OLD_SECRET = b"o" * 32


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> People:
    monkeypatch.setattr(recovery_module, "RECOVER_LOOK_FIRST", 0.05)
    return People(tmp_path)


@dataclass
class Living:
    node: Node
    requests: Requests
    recovery: Recovery

    async def secrets(self, name: str) -> ContactSecrets:
        contact_id = await self.node.contact_id(name)
        return await self.node.database.read(lambda tx: contacts.secrets(tx, contact_id))

    async def look(self, name: str = "bob") -> None:
        self.recovery.unreachable(await self.node.contact_id(name))


@asynccontextmanager
async def living(person: Person) -> AsyncIterator[Living]:
    """A node with both sides of recovery."""
    async with person.run(greet=False) as node, trio.open_nursery() as nursery:
        records = RecoveryRecords(node.world, person.directory)
        asked = Requests(node.world, node.host, node.database, node.identity, node.connectivity, records)
        recovery = Recovery(node.world, node.host, node.database, node.identity, node.connectivity, records)
        await nursery.start(asked.run)
        await nursery.start(recovery.run)
        yield Living(node, asked, recovery)
        nursery.cancel_scope.cancel()


async def was_restored(person: Person) -> None:
    async with open_database(person.path, person.identity.database_key) as database:
        await database.write(lambda tx: begin_anew(tx, person.clock.now()))


def ticket_of(giver: Person, about: Person, petname: str = "alice") -> bytes:
    return seal_ticket(giver.identity.k_ticket, about.identity.identity_key, petname, START, os.urandom(24))


async def knows(person: Person, other: Person, name: str, ticket: bytes | None, secret: bytes = OLD_SECRET) -> None:
    key: IdentityKey = other.identity.identity_key

    def add(tx: Tx) -> ContactId:
        return contacts.add(
            tx, name=name, identity_key=key, pair_secret=secret, paired_at=START, list_version=1, ticket=ticket
        )

    async with open_database(person.path, person.identity.database_key) as database:
        await database.write(add)


async def test_both_are_contacts_again_after_the_approval(people: People) -> None:
    alice, bob = people.person("alice"), people.person("bob")
    ticket = ticket_of(bob, alice)
    await knows(alice, bob, "bob", ticket)
    await was_restored(bob)
    async with living(bob) as bobs, living(alice) as alices:
        await until(lambda: people.directory.published > 0)
        await alices.look()
        await until_async(lambda: _has_requests(bobs))
        [request] = await bobs.requests.list()
        assert (request.petname, request.state) == ("alice", "waiting")
        assert await bobs.node.book.list() == ()
        assert (await alices.secrets("bob")).pair_secret == OLD_SECRET, "nothing is given up before the approval"
        await bobs.requests.approve(request.id, "alicia")
        await until_async(lambda: _is_linked(alices, "bob"))
        hers, his = await alices.secrets("bob"), await bobs.secrets("alicia")
        assert hers.pair_secret == his.pair_secret != OLD_SECRET
        assert hers.next_secret is None and hers.pair_epoch == his.pair_epoch == 1
        assert hers.ticket not in (None, ticket) and his.ticket is not None
        assert await bobs.requests.list() == ()


async def test_an_approval_in_their_absence_counts_when_they_come_next(people: People) -> None:
    alice, bob = people.person("alice"), people.person("bob")
    await knows(alice, bob, "bob", ticket_of(bob, alice))
    await was_restored(bob)
    async with living(bob) as bobs:
        async with living(alice) as alices:
            await until(lambda: people.directory.published > 0)
            await alices.look()
            await until_async(lambda: _has_requests(bobs))
        [request] = await bobs.requests.list()
        await bobs.requests.approve(request.id)
        assert await bobs.node.book.list() == ()
        async with living(alice) as alices:
            await alices.look()
            await until_async(lambda: _is_linked(alices, "bob"))


async def test_who_is_refused_hears_nothing_and_keeps_everything(people: People) -> None:
    alice, bob = people.person("alice"), people.person("bob")
    await knows(alice, bob, "bob", ticket_of(bob, alice))
    await was_restored(bob)
    async with living(bob) as bobs, living(alice) as alices:
        await until(lambda: people.directory.published > 0)
        await alices.look()
        await until_async(lambda: _has_requests(bobs))
        [request] = await bobs.requests.list()
        await bobs.requests.refuse(request.id)
        seen = bobs.node.connectivity.acceptor.admission.refused
        await until(lambda: bobs.node.connectivity.acceptor.admission.refused > seen)  # she came again
        assert await bobs.node.book.list() == ()
        assert [each.state for each in await bobs.requests.list()] == ["refused"]
        assert (await alices.secrets("bob")).pair_secret == OLD_SECRET


@pytest.mark.parametrize("how", ["another giver", "altered", "about somebody else", "none of any kind", "own"])
async def test_false_tickets_are_refused_before_anything_is_kept(people: People, how: str) -> None:
    bob, carol, mallory = people.person("bob"), people.person("carol"), people.person("mallory")
    genuine = ticket_of(bob, mallory)
    ticket = {
        "another giver": ticket_of(carol, mallory),
        "altered": genuine[:100] + bytes([genuine[100] ^ 1]) + genuine[101:],
        "about somebody else": ticket_of(bob, carol),
        "none of any kind": b"x",
        "own": ticket_of(mallory, mallory),
    }[how]
    await knows(mallory, bob, "bob", ticket)
    await was_restored(bob)
    async with living(bob) as bobs, living(mallory) as hers:
        await until(lambda: people.directory.published > 0)
        await hers.look()
        refused = bobs.node.connectivity.acceptor.admission
        await until(lambda: refused.refused >= 2)
        assert await bobs.requests.list() == () and await bobs.node.book.list() == ()
        assert (await hers.secrets("bob")).pair_secret == OLD_SECRET


async def test_the_genuine_ticket_of_that_test_is_accepted(people: People) -> None:
    """What tells the refusals above from a test that can't fail."""
    bob, mallory = people.person("bob"), people.person("mallory")
    await knows(mallory, bob, "bob", ticket_of(bob, mallory))
    await was_restored(bob)
    async with living(bob) as bobs, living(mallory) as hers:
        await until(lambda: people.directory.published > 0)
        await hers.look()
        await until_async(lambda: _has_requests(bobs))


async def test_who_publishes_under_anothers_identity_is_found_out(people: People) -> None:
    """Mallory was a contact of Bob's, so she knows his identity key, and how to publish under it."""
    alice, bob, mallory = people.person("alice"), people.person("bob"), people.person("mallory")
    await knows(alice, bob, "bob", ticket_of(bob, alice))
    await was_restored(mallory)
    async with living(mallory) as hers, living(alice) as alices:
        records = RecoveryRecords(hers.node.world, people.directory)
        await records.publish(bob.identity.identity_key, hers.requests._own())
        posing = replace(hers.node.identity, identity_key=bob.identity.identity_key)
        hers.requests._identity = posing  # she derives the handshake's key from his identity, as she can
        await alices.look()
        await until(lambda: _tried(alices))
        secrets = await alices.secrets("bob")
        assert secrets.pair_secret == OLD_SECRET and secrets.next_secret is None
        assert "isn't the one expected" in _outcomes(alices)


async def test_somebody_known_is_taken_back_without_asking(people: People) -> None:
    """Restored from an old backup: the contact is there, the secret is stale."""
    alice, bob = people.person("alice"), people.person("bob")
    await knows(alice, bob, "bob", ticket_of(bob, alice))
    await knows(bob, alice, "alice", None, secret=b"s" * 32)
    await was_restored(bob)
    async with living(bob) as bobs, living(alice) as alices:
        await until(lambda: people.directory.published > 0)
        await alices.look()
        await until_async(lambda: _is_linked(alices, "bob"))
        await until_async(lambda: _agree(alices, bobs))
        assert await bobs.requests.list() == ()


async def test_blocked_ones_get_nothing(people: People) -> None:
    alice, bob = people.person("alice"), people.person("bob")
    await knows(alice, bob, "bob", ticket_of(bob, alice))
    await knows(bob, alice, "alice", None, secret=b"s" * 32)
    await was_restored(bob)
    async with living(bob) as bobs, living(alice) as alices:
        await bobs.node.book.set_blocked("alice", True)
        await until(lambda: people.directory.published > 0)
        await alices.look()
        await until(lambda: _tried(alices))
        assert (await alices.secrets("bob")).pair_secret == OLD_SECRET
        assert (await bobs.secrets("alice")).next_secret is None


async def test_a_lost_confirmation_is_made_up_for_by_the_next_session(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bob has stored Alice under the new secret, and she never hears so: she has it beside the old one."""
    alice, bob = people.person("alice"), people.person("bob")
    await knows(alice, bob, "bob", ticket_of(bob, alice))
    await knows(bob, alice, "alice", None, secret=b"s" * 32)
    await was_restored(bob)
    genuine = PairChannel.receive_confirm

    async def deaf(self: PairChannel, name: str) -> Agreed:
        agreed = await genuine(self, name)
        if self._identity.identity_key == alice.identity.identity_key:
            raise LinkClosed("lost")
        return agreed

    monkeypatch.setattr(PairChannel, "receive_confirm", deaf)
    async with living(bob) as bobs, living(alice) as alices:
        await until(lambda: people.directory.published > 0)
        await alices.look()
        await until_async(lambda: _agree_on_next(alices, bobs))
        assert (await alices.secrets("bob")).pair_secret == OLD_SECRET
        alices.node.connectivity.links.connect_soon(await alices.node.contact_id("bob"))
        await until_async(lambda: _agree(alices, bobs))


async def test_a_node_that_was_not_restored_lets_nobody_in_this_way(people: People) -> None:
    alice, bob = people.person("alice"), people.person("bob")
    await knows(alice, bob, "bob", ticket_of(bob, alice))
    async with living(bob) as bobs, living(alice) as alices:
        records = RecoveryRecords(bobs.node.world, people.directory)
        await records.publish(bob.identity.identity_key, bobs.requests._own())  # left over from before, say
        await alices.look()
        await until(lambda: _tried(alices))
        assert await bobs.requests.list() == ()


async def test_after_thirty_days_it_is_over(people: People) -> None:
    bob = people.person("bob")
    await was_restored(bob)
    bob.clock.offset = 30 * 86_400 + 60
    async with living(bob):
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert people.directory.published == 0


async def test_strangers_are_capped_before_any_public_key_work(people: People) -> None:
    alice, bob = people.person("alice"), people.person("bob")
    await knows(alice, bob, "bob", ticket_of(bob, alice))
    await was_restored(bob)
    async with living(bob) as bobs, living(alice) as alices:
        await until(lambda: people.directory.published > 0)
        admission = bobs.node.connectivity.acceptor.admission
        for _ in range(5):
            admission.failed(alices.node.host.listen_addresses()[0])
        await alices.look()
        await until(lambda: _tried(alices))
        assert await bobs.requests.list() == ()


async def test_requests_are_bounded_and_forgotten_in_time(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db", None, threaded_world()) as database:

        def fill(tx: Tx) -> None:
            for number in range(MAX_RECOVER_REQUESTS + 10):
                key = IdentityKey(number.to_bytes(32, "big"))
                requests.came(tx, key, f"p{number}", NOW, Millis(NOW + number))

        await database.write(fill)
        kept = await database.read(requests.all_requests)
        assert len(kept) == MAX_RECOVER_REQUESTS and kept[-1].petname == "p10"
        month = 30 * 86_400_000
        await database.write(lambda tx: requests.expire(tx, Millis(NOW + 20 + month)))
        assert (await database.read(requests.all_requests))[-1].petname == "p21"
        await database.write(lambda tx: requests.expire(tx, Millis(NOW + 2 * month)))
        assert await database.read(requests.all_requests) == ()
        with pytest.raises(NotFound):
            await database.write(lambda tx: requests.decide(tx, 1, "approved"))


async def test_a_revoked_device_key_stays_noted_and_goes_with_the_list_version(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db", None, threaded_world()) as database:
        one, two = b"1" * 32, b"2" * 32
        contact_id = await database.write(add_contact)
        results: list[frozenset[bytes]] = []
        for version, revoked in ((5, (one,)), (4, ()), (6, (one, two)), (6, (one, two))):

            def work(tx: Tx, version: int = version, revoked: tuple[bytes, ...] = revoked) -> frozenset[bytes]:
                contacts.saw(tx, contact_id, NOW, list_version=version, protocol_version=1, revoked=revoked)
                return contacts.secrets(tx, contact_id).revoked

            results.append(await database.write(work))
        assert results == [{one}, {one}, {one, two}, {one, two}]


# --- looking ---


async def _has_requests(living: Living) -> bool:
    return bool(await living.requests.list())


async def _is_linked(living: Living, name: str) -> bool:
    return living.node.connectivity.links.is_linked(await living.node.contact_id(name))


async def _agree(one: Living, other: Living) -> bool:
    ours, theirs = await one.secrets("bob"), await other.secrets("alice")
    return ours.pair_secret == theirs.pair_secret and ours.next_secret is None and theirs.next_secret is None


async def _agree_on_next(one: Living, other: Living) -> bool:
    ours, theirs = await one.secrets("bob"), await other.secrets("alice")
    return ours.next_secret is not None and ours.next_secret == theirs.next_secret


def _outcomes(living: Living) -> str:
    links = living.node.connectivity.links
    contact_id = living.node.connectivity.roster.all()[0].contact_id
    return " ".join(each.outcome for each in links.reachability(contact_id).attempts if each.step == "recover")


def _tried(living: Living) -> bool:
    return bool(_outcomes(living))
