"""Publishing and finding address records, on virtual time; contacts in a real database, records under real rules."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing
from p2pe.config import LOCATOR_SLOTS, LOCATOR_TRIES, PUBLISH_AT_ONCE, PUBLISH_SPREAD, RECORD_REFRESH, RECORD_TTL
from p2pe.core.derive import day_of, lookup_seed, pair_keys, record_aead_key
from p2pe.core.records import check_record, make_record, open_addresses, public_key_of, record_key, seal_addresses
from p2pe.errors import Unreachable
from p2pe.model import Address, ContactId, IdentityKey, Millis, PeerId, PeerInfo
from p2pe.ports import Net, World
from p2pe.rendezvous.finder import Finder, days_to_search
from p2pe.rendezvous.invites import InviteRecords
from p2pe.rendezvous.publisher import Publisher, days_to_publish
from p2pe.rendezvous.recovery import RecoveryRecords
from p2pe.rendezvous.roster import Roster
from p2pe.storage import contacts
from p2pe.storage.database import Database, open_database
from people_kit import START, MemoryDirectory, MovableClock

Jump = trio.testing.MockClock  # a test has to ask for the clock itself: pytest-trio looks at its arguments alone
DAY = 86_400_000
OWN_KEY, THEIR_KEY = IdentityKey(b"\x01" * 32), IdentityKey(b"\x02" * 32)
HERE = PeerInfo(PeerId(b"\x00\x24" + b"h" * 36), (Address("/ip4/192.0.2.1/tcp/1"),))
THERE = PeerInfo(PeerId(b"\x00\x24" + b"t" * 36), (Address("/ip4/192.0.2.2/tcp/2"),))


async def inline(work: object) -> object:
    return work()  # type: ignore[operator]


@dataclass
class Setup:
    clock: MovableClock
    world: World
    directory: MemoryDirectory
    database: Database
    roster: Roster
    publisher: Publisher
    own: PeerInfo = HERE
    linked: set[ContactId] = field(default_factory=set)

    async def add(self, number: int) -> ContactId:
        contact_id = await self.database.write(
            lambda tx: contacts.add(
                tx,
                name=f"contact {number}",
                identity_key=IdentityKey(THEIR_KEY[:28] + number.to_bytes(4, "big")),
                pair_secret=secret(number),
                paired_at=START,
                list_version=0,
            )
        )
        await self.roster.reload(contact_id)
        return contact_id

    def published(self, number: int) -> PeerInfo | None:
        """What that contact would find today."""
        now = self.clock.now()
        k_rv = pair_keys(secret(number)).rendezvous
        key = record_key(public_key_of(lookup_seed(k_rv, 0, day_of(now))), 0)
        raw = self.directory.records.get(key)
        if raw is None:
            return None
        return open_addresses(check_record(key, raw, now).payload, record_aead_key(k_rv, 0, day_of(now)))


def secret(number: int) -> bytes:
    return number.to_bytes(4, "big") * 8


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    clock = MovableClock()
    clock.offset = (DAY // 2 - START % DAY) / 1000  # noon
    world = World(clock=clock, entropy=os.urandom, net=cast(Net, None), threads=inline)  # type: ignore[arg-type]
    directory = MemoryDirectory(clock)
    async with open_database(tmp_path / "x.db", None) as database:
        roster = Roster(database, OWN_KEY)
        await roster.load()
        made: list[Setup] = []
        publisher = Publisher(
            world, directory, roster, own=lambda: made[0].own, is_linked=lambda each: each in made[0].linked
        )
        made.append(Setup(clock, world, directory, database, roster, publisher))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publisher.run)
            await trio.testing.wait_all_tasks_blocked()
            yield made[0]
            nursery.cancel_scope.cancel()


async def test_a_new_contact_is_published_for_within_a_second(setup: Setup, autojump_clock: Jump) -> None:
    await setup.add(1)
    await trio.sleep(1)
    assert setup.published(1) == HERE
    assert setup.directory.published == 1


async def test_records_are_refreshed_about_hourly_and_never_lapse(setup: Setup, autojump_clock: Jump) -> None:
    for number in range(20):
        await setup.add(number)
    await trio.sleep(5)
    before = setup.directory.published
    for _ in range(24 * 12):
        await trio.sleep(300)
        assert all(setup.published(number) == HERE for number in range(20))
    made = setup.directory.published - before
    fewest = 20 * 24 * 3600 / (RECORD_REFRESH * (1 + PUBLISH_SPREAD) + 120)
    assert fewest <= made <= 2 * 20 * 24 * 3600 / (RECORD_REFRESH * (1 - PUBLISH_SPREAD))


async def test_a_change_of_address_is_published_at_once_to_all(setup: Setup, autojump_clock: Jump) -> None:
    for number in range(30):
        await setup.add(number)
    await trio.sleep(5)
    setup.own = replace(HERE, addresses=(Address("/ip4/192.0.2.77/tcp/1"),))
    setup.publisher.look_again()
    await trio.sleep(1)
    assert all(setup.published(number) == setup.own for number in range(30))


async def shown_from(setup: Setup, *addresses: str) -> None:
    setup.own = replace(HERE, addresses=tuple(map(Address, addresses)))
    setup.publisher.look_again()


async def test_addresses_that_come_one_after_another_are_published_once(setup: Setup, autojump_clock: Jump) -> None:
    """While those published still lead here; and never later than two seconds after the first change."""
    for number in range(16):
        await setup.add(number)
    await trio.sleep(5)
    before = setup.directory.published
    shown = list(HERE.addresses)
    for number in range(3):
        shown.append(Address(f"/ip4/192.0.2.{40 + number}/tcp/443/p2p/12D3relay/p2p-circuit"))
        await shown_from(setup, *shown)
        await trio.sleep(0.6)
    assert setup.directory.published == before
    await trio.sleep(0.7)
    assert all(setup.published(number) == setup.own for number in range(16))
    assert setup.directory.published == before + 16
    setup.publisher.look_again()
    await shown_from(setup, *reversed(shown))  # the same, in another order: nobody would learn anything
    await trio.sleep(60)
    assert setup.directory.published == before + 16


async def test_who_lost_the_relays_waits_a_moment_for_the_next_one(setup: Setup, autojump_clock: Jump) -> None:
    """A record with nothing but a private address is of no use to most; but a second later it is better than a lie."""
    circuit, home = "/ip4/192.0.2.40/tcp/443/p2p/12D3relay/p2p-circuit", "/ip4/192.168.1.7/tcp/4001"
    await shown_from(setup, circuit, home)
    await setup.add(1)
    await trio.sleep(5)
    before = setup.directory.published
    await shown_from(setup, home)
    await trio.sleep(0.6)
    assert setup.directory.published == before
    await shown_from(setup, circuit.replace(".40", ".41"), home)
    await trio.sleep(0.4)
    assert setup.published(1) == setup.own
    await shown_from(setup, home)
    await trio.sleep(1.2)
    assert setup.published(1) == setup.own
    assert setup.directory.published == before + 2


async def test_what_was_stored_after_a_change_isnt_stored_again(setup: Setup, autojump_clock: Jump) -> None:
    """The addresses change while a round of publications is under way: its later part shows the new ones."""
    setup.directory.seconds = 1.0
    for number in range(3 * PUBLISH_AT_ONCE):
        await setup.add(number)
    await trio.sleep(1.5)
    setup.own = THERE
    setup.publisher.look_again()
    await trio.sleep(10)
    assert all(setup.published(number) == THERE for number in range(3 * PUBLISH_AT_ONCE))
    assert 3 * PUBLISH_AT_ONCE < setup.directory.published <= 5 * PUBLISH_AT_ONCE


async def test_a_linked_contact_costs_nothing_until_the_address_changes(setup: Setup, autojump_clock: Jump) -> None:
    contact = await setup.add(1)
    await trio.sleep(2)
    setup.linked.add(contact)
    before = setup.directory.published
    await trio.sleep(6 * 3600)
    assert setup.directory.published == before
    setup.linked.clear()
    setup.publisher.look_again()
    await trio.sleep(1)  # at once: the record has lapsed meanwhile
    assert setup.published(1) == HERE
    setup.linked.add(contact)
    setup.own = THERE
    setup.publisher.look_again()
    await trio.sleep(1)
    assert setup.published(1) == THERE


async def test_failures_are_retried_with_growing_pauses_and_nothing_breaks(setup: Setup, autojump_clock: Jump) -> None:
    setup.directory.is_down = True
    await setup.add(1)
    await trio.sleep(600)
    assert setup.published(1) is None
    assert setup.publisher.first_round.is_set()  # greeting doesn't wait for servers for ever
    setup.directory.is_down = False
    await trio.sleep(90)
    assert setup.published(1) == HERE


async def test_without_an_address_nothing_is_published(setup: Setup, autojump_clock: Jump) -> None:
    setup.own = replace(HERE, addresses=())
    await setup.add(1)
    await trio.sleep(60)
    assert setup.directory.published == 0
    setup.own = HERE
    setup.publisher.look_again()
    await trio.sleep(2)
    assert setup.published(1) == HERE


async def test_blocked_and_removed_contacts_are_no_longer_published_for(setup: Setup, autojump_clock: Jump) -> None:
    blocked, removed = await setup.add(1), await setup.add(2)
    await trio.sleep(2)
    await setup.database.write(lambda tx: contacts.set_blocked(tx, blocked, True))
    await setup.database.write(lambda tx: contacts.remove(tx, removed))
    for each in (blocked, removed):
        await setup.roster.reload(each)
    before = setup.directory.published
    await trio.sleep(4 * 3600)
    assert setup.directory.published == before


async def test_a_laptop_that_slept_publishes_when_it_wakes(setup: Setup, autojump_clock: Jump) -> None:
    await setup.add(1)
    await trio.sleep(2)
    setup.clock.offset += 12 * 3600  # wall-clock time went on, trio's didn't
    await trio.sleep(61)
    assert setup.published(1) == HERE


async def test_records_of_one_node_can_t_be_linked(setup: Setup, autojump_clock: Jump) -> None:
    """No bytes of one record's sealed part recur in another's, and every one is of the same size."""
    for number in range(10):
        await setup.add(number)
    await trio.sleep(5)
    records = list(setup.directory.records.values())
    assert len({len(raw) for raw in records}) == 1
    for raw in records:
        assert bytes(HERE.peer_id) not in raw and b"192.0.2.1" not in raw


def test_around_midnight_the_days_published_and_searched_meet() -> None:
    """Whatever the publisher's last refresh, and clocks up to ten minutes apart."""
    midnight = 20_000 * DAY
    longest = round(1000 * RECORD_REFRESH * (1 + PUBLISH_SPREAD))
    for made in range(midnight - 3 * 3_600_000, midnight + 3_600_000, 60_000):
        for age in (0, longest // 2, longest):
            for skew in (-599_000, 0, 599_000):
                published = days_to_publish(Millis(made))
                assert set(published) & set(days_to_search(Millis(made + age + skew))), (made - midnight, age, skew)
    assert len(days_to_publish(Millis(midnight + DAY // 2))) == 1


# --- finding ---


async def publish_as_contact(setup: Setup, number: int, where: PeerInfo, *, age: float = 0.0) -> bytes:
    """Publishes as the contact does, in its direction."""
    now = Millis(setup.clock.now() - round(1000 * age))
    k_rv = pair_keys(secret(number)).rendezvous
    seed, aead_key = lookup_seed(k_rv, 1, day_of(now)), record_aead_key(k_rv, 1, day_of(now))
    raw = make_record(seed, 0, now, Millis(now + 1000 * RECORD_TTL), seal_addresses(where, aead_key, os.urandom(12)))
    key = record_key(public_key_of(seed), 0)
    await setup.directory.publish(key, raw)
    return key


async def test_a_contact_is_found_until_the_record_ends(setup: Setup, autojump_clock: Jump) -> None:
    contact = setup.roster.get(await setup.add(1))
    assert contact is not None
    finder = Finder(setup.world, setup.directory)
    with pytest.raises(Unreachable, match="not online"):
        await finder.find(contact)
    await publish_as_contact(setup, 1, THERE)
    assert await finder.find(contact) == THERE
    setup.clock.offset += RECORD_TTL
    with pytest.raises(Unreachable, match="not online"):
        await finder.find(contact)


async def test_a_contact_whose_day_has_begun_is_found_where_it_is_now(setup: Setup, autojump_clock: Jump) -> None:
    """Their clock is ahead: since its midnight they publish under the new day's key, and ours shows the old day."""
    contact = setup.roster.get(await setup.add(1))
    assert contact is not None
    setup.clock.offset += (DAY - setup.clock.now() % DAY) / 1000 - 30  # half a minute to midnight
    await publish_as_contact(setup, 1, THERE, age=100)
    moved = PeerInfo(THERE.peer_id, (Address("/ip4/192.0.2.3/tcp/3"),))
    await publish_as_contact(setup, 1, moved, age=-60)
    finder = Finder(setup.world, setup.directory)
    assert await finder.find(contact) == moved
    setup.clock.offset += 60
    assert await finder.find(contact) == moved


async def test_the_newest_record_of_a_restored_identity_counts(setup: Setup, autojump_clock: Jump) -> None:
    """Around midnight there may be one under each day's key."""
    records = RecoveryRecords(setup.world, setup.directory)
    setup.clock.offset += (DAY - setup.clock.now() % DAY) / 1000 - 30
    await records.publish(THEIR_KEY, THERE)
    setup.clock.offset += 60
    await records.publish(THEIR_KEY, HERE)
    setup.clock.offset -= 60
    assert await records.find(THEIR_KEY) == HERE


async def test_what_isnt_sealed_by_the_contact_is_not_believed(setup: Setup, autojump_clock: Jump) -> None:
    """A storer that alters a record, or serves one of another pair, only denies service."""
    contact = setup.roster.get(await setup.add(1))
    assert contact is not None
    stored = await publish_as_contact(setup, 1, THERE)
    finder = Finder(setup.world, setup.directory)
    whole = setup.directory.lookup

    async def altered(key: bytes) -> tuple[bytes, ...]:
        (raw,) = await whole(key)
        return (raw[:-100] + bytes([raw[-100] ^ 1]) + raw[-99:], b"rubbish", b"")

    setup.directory.lookup = altered  # type: ignore[method-assign]
    with pytest.raises(Unreachable, match="not online"):
        await finder.find(contact)
    assert stored in setup.directory.records


# --- invites ---


async def test_slots_keep_inviters_of_one_locator_apart(setup: Setup, autojump_clock: Jump) -> None:
    records, seed = InviteRecords(setup.world, setup.directory), b"L" * 32
    expires = Millis(setup.clock.now() + 600_000)
    people = [PeerInfo(PeerId(b"\x00\x24" + bytes([n]) * 36), HERE.addresses) for n in range(LOCATOR_SLOTS)]
    for person in people[:LOCATOR_TRIES]:
        slot = await records.free_slot(seed, person.peer_id)
        assert slot is not None
        await records.publish(seed, slot, person, expires)
        await trio.sleep(1)
        assert await records.free_slot(seed, person.peer_id) == slot  # ours again, after a restart of the task
    assert await records.free_slot(seed, people[-1].peer_id) is None  # nobody would try it
    assert await records.find(seed) == tuple(reversed(people[:LOCATOR_TRIES]))  # newest first
    setup.clock.offset += 601
    assert await records.find(seed) == ()


async def test_an_invite_is_published_though_the_clock_was_set(setup: Setup, autojump_clock: Jump) -> None:
    """Back, so that it is valid for longer than any record may be; or ahead, while it was about to be published."""
    records, seed = InviteRecords(setup.world, setup.directory), b"L" * 32
    expires = Millis(setup.clock.now() + 600_000)
    setup.clock.offset -= 3 * 86_400
    assert await records.publish(seed, 0, HERE, expires)
    assert await records.find(seed) == (HERE,)
    setup.clock.offset += 4 * 86_400
    with pytest.raises(Unreachable, match="expired"):
        await records.publish(seed, 0, HERE, expires)


async def test_no_server_isnt_the_same_as_no_invite(setup: Setup, autojump_clock: Jump) -> None:
    records = InviteRecords(setup.world, setup.directory)
    assert await records.find(b"L" * 32) == ()
    setup.directory.is_down = True
    with pytest.raises(Unreachable):
        await records.find(b"L" * 32)


# --- what storers can count ---


def covered(setup: Setup) -> Publisher:
    """Another publisher of the same contacts, with cover."""
    return Publisher(
        setup.world, setup.directory, setup.roster, own=lambda: HERE, is_linked=lambda _: False, cover=b"c" * 32
    )


@pytest.mark.parametrize(("contacts_now", "records"), [(1, 16), (5, 16), (16, 16), (17, 32)])
async def test_the_first_publication_tells_a_storer_only_a_multiple_of_sixteen(
    setup: Setup, autojump_clock: Jump, contacts_now: int, records: int
) -> None:
    """And a restart publishes under the same keys again: records for nobody come back as the others do."""
    setup.own = replace(HERE, addresses=())  # the one without cover publishes nothing
    for number in range(contacts_now):
        await setup.add(number)
    setup.directory.records.clear()
    with trio.move_on_after(5):
        await covered(setup).run()
    keys = set(setup.directory.records)
    assert len(keys) == records
    assert len({len(raw) for raw in setup.directory.records.values()}) == 1
    setup.directory.records.clear()
    with trio.move_on_after(5):
        await covered(setup).run()
    assert set(setup.directory.records) == keys


async def test_contacts_and_nobodies_are_published_in_one_random_order(setup: Setup, autojump_clock: Jump) -> None:
    setup.own = replace(HERE, addresses=())
    for number in range(8):
        await setup.add(number)
    orders = set()
    for _ in range(4):
        setup.directory.records.clear()
        with trio.move_on_after(5):
            await covered(setup).run()
        day = day_of(setup.clock.now())
        seeds = [lookup_seed(pair_keys(secret(number)).rendezvous, 0, day) for number in range(8)]
        real = {record_key(public_key_of(seed), 0) for seed in seeds}
        order = tuple(key in real for key in setup.directory.records)
        assert sum(order) == 8 and len(order) == 16
        orders.add(order)
    assert len(orders) > 1


async def test_refreshes_follow_the_directory_and_records_outlive_two_of_them(
    setup: Setup, autojump_clock: Jump
) -> None:
    """Where servers stay, a record is stored every eight hours; it never lapses, midnights included."""
    setup.directory.refresh = 8 * 3600.0
    for number in range(5):
        await setup.add(number)
    await trio.sleep(5)
    before = setup.directory.published
    for _ in range(48):
        await trio.sleep(3600)
        assert all(setup.published(number) == HERE for number in range(5))
    assert setup.directory.published - before <= 5 * 2 * 6  # three a day and those for tomorrow; hourly would be 240
