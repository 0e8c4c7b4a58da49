"""Contacts recognise each other's announcements; strangers read nothing in them. Over real multicast."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from netns_kit import ip, run_in_namespace
from p2pe.config import LAN_ENTRIES
from p2pe.connectivity.nearby import Nearby
from p2pe.core.mdns import Announcement
from p2pe.model import Address, ContactId, IdentityKey, PathKind
from p2pe.storage import contacts
from p2pe.storage.migrations import Tx
from people_kit import START, Node, People, acquaint, until

ANY = Address("/ip4/0.0.0.0/tcp/0")


def nearby(node: Node) -> Nearby:
    return Nearby(node.world, node.host, node.connectivity.roster, node.connectivity.links)


async def test_a_contact_reads_who_it_is_and_a_stranger_nothing(tmp_path: Path) -> None:
    people = People(tmp_path)
    async with (
        people.person("anna").run(greet=False) as a,
        people.person("ben").run(greet=False) as b,
        people.person("carl").run(greet=False) as c,
    ):
        assert nearby(a).compose(4001) is None  # nobody to tell
        await acquaint(a, "anna", b, "ben")
        await acquaint(c, "carl", a, "anna")
        one, two = nearby(a).compose(4001), nearby(a).compose(4001)
        assert one is not None and two is not None
        found = nearby(b).recognise(one)
        assert found is not None and found[0].contact_id == await b.contact_id("anna")
        assert found[1] == a.host.peer_id
        assert nearby(a).recognise(one) is None  # one's own tags are of the other direction
        b_only = nearby(b).compose(4001)
        assert b_only is not None and nearby(c).recognise(b_only) is None
        # Nothing links two announcements, and their size doesn't tell how many contacts there are.
        assert not set(one.entries) & set(two.entries) and one.nonce != two.nonce
        assert len(one.entries) == len(b_only.entries) == LAN_ENTRIES
        await a.book.set_blocked("ben", True)
        blocked = nearby(a).compose(4001)
        assert blocked is not None and nearby(b).recognise(blocked) is None


async def test_yesterdays_announcement_is_still_read_for_a_day(tmp_path: Path) -> None:
    people = People(tmp_path)
    async with people.person("anna").run(greet=False) as a, people.person("ben").run(greet=False) as b:
        await acquaint(a, "anna", b, "ben")
        made = nearby(a).compose(4001)
        assert made is not None
        people.clock.offset += 86_400
        assert nearby(b).recognise(made) is not None
        people.clock.offset += 86_400
        assert nearby(b).recognise(made) is None


async def test_of_many_contacts_all_get_their_turn(tmp_path: Path) -> None:
    people = People(tmp_path)
    async with people.person("anna").run(greet=False) as a:
        for number in range(2 * LAN_ENTRIES + 5):

            def add(tx: Tx, number: int = number) -> ContactId:
                key = IdentityKey(os.urandom(32))
                name = f"contact {number}"
                secret = os.urandom(32)
                return contacts.add(
                    tx, name=name, identity_key=key, pair_secret=secret, paired_at=START, list_version=0
                )

            await a.connectivity.roster.reload(await a.database.write(add))
        maker = nearby(a)
        told: set[int] = set()
        for _ in range(8):
            told.update(known.contact_id for known in maker._choose())
        assert len(told) == 2 * LAN_ENTRIES + 5


def test_two_nodes_on_one_network_meet_without_any_directory(tmp_path: Path) -> None:
    async def story() -> None:
        ip("addr add 192.168.5.1/24 dev lan0")
        people = People(tmp_path)
        people.directory.is_down = True
        anna, ben = people.person("anna"), people.person("ben")
        anna.listen = ben.listen = (ANY,)
        async with anna.run() as a, ben.run() as b, trio.open_nursery() as nursery:
            await acquaint(a, "anna", b, "ben")
            for node in (a, b):
                await nursery.start(nearby(node).run)
            await until(lambda: bool(a.connectivity.links.all()) and bool(b.connectivity.links.all()))
            assert {session.path for session in a.connectivity.links.all()} == {PathKind.LAN}
            assert people.directory.looked_up == 0
            nursery.cancel_scope.cancel()

    run_in_namespace(story)


@pytest.mark.parametrize("forged", [0, 1])
async def test_a_forged_entry_leads_to_nobody(tmp_path: Path, forged: int) -> None:
    """Somebody repeats a tag that they overheard, with a key or a port of their own."""
    people = People(tmp_path)
    async with people.person("anna").run(greet=False) as a, people.person("ben").run(greet=False) as b:
        await acquaint(a, "anna", b, "ben")
        made = nearby(a).compose(1)
        assert made is not None
        entries = tuple(e[:8] + bytes(32) for e in made.entries) if forged else made.entries
        hearer = nearby(b)
        async with trio.open_nursery() as nursery:
            hearer._nursery = nursery
            await hearer.hear(Address("/ip4/127.0.0.1/tcp/1"), Announcement(made.nonce, 1, entries))
        assert not b.connectivity.links.all() and not hearer._dialling
