"""Rotation on real databases and over real links, with everything lost at every step, and the old keys gone."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing
from p2pe.config import ROTATE_SECONDS
from p2pe.connectivity.session import Session
from p2pe.contacts.rotator import Rotator
from p2pe.core import rotation
from p2pe.core.derive import pair_keys
from p2pe.core.rotation import Pair
from p2pe.errors import LinkClosed
from p2pe.model import ContactId, Frame, Rotation, RotationStep
from p2pe.storage import contacts
from p2pe.storage.connection import connect
from p2pe.storage.contacts import ContactSecrets
from p2pe.storage.migrations import Tx, migrate
from people_kit import START, Node, People, Person, acquaint, until_async
from storage_kit import KEY, NOW, add_contact, decrypted_pages

# --- the databases, closed and opened again at every step ---


@dataclass
class Side:
    """One side's database file. Every `change` is a process of its own."""

    path: Path
    contact_id: ContactId

    @contextmanager
    def _open(self) -> Iterator[Tx]:
        connection = connect(self.path, KEY)
        try:
            yield connection
        finally:
            connection.close()

    def pair(self) -> Pair:
        with self._open() as tx:
            return contacts.pair(tx, self.contact_id)

    def store(self, pair: Pair) -> None:
        with self._open() as tx, tx:
            contacts.store_pair(tx, self.contact_id, pair, NOW)

    def secrets(self) -> tuple[bytes, ...]:
        pair = self.pair()
        return (pair.secret,) if pair.next_secret is None else (pair.secret, pair.next_secret)


def run_until(one: Side, other: Side, steps: int, fresh: Iterator[bytes]) -> None:
    """The first `steps` of store, send, store, send, store, send, store; then both processes die."""
    stored, proposal = rotation.propose(one.pair(), next(fresh))
    if steps >= 1:
        one.store(stored)
    if steps < 2 or (answer := rotation.accept(other.pair(), proposal, next(fresh))) is None:
        return
    stored, acceptance = answer
    if steps >= 3:
        other.store(stored)
    if steps < 4 or (last := rotation.commit(one.pair(), acceptance)) is None:
        return
    stored, commitment = last
    if steps >= 5:
        one.store(stored)
    if steps >= 7:
        dropped = rotation.committed(other.pair(), commitment)
        assert dropped is not None
        other.store(dropped)


def meet(one: Side, other: Side, *, one_notes: bool = True, other_notes: bool = True) -> bool:
    """A session; whether it is under the secret that both use."""
    [used, *_] = [key for key in one.secrets()[::-1] if key in other.secrets()]
    for side, notes in ((one, one_notes), (other, other_notes)):
        if notes and used == side.pair().next_secret:
            side.store(rotation.proven(side.pair()))
    return one.pair().secret == other.pair().secret == used


@pytest.mark.parametrize("steps", range(8))
def test_two_files_agree_again_whatever_was_lost(tmp_path: Path, steps: int) -> None:
    """At every cut: the next session is noted by both, by either or by neither; then all goes well. That every longer
    history ends well is tests/core/test_rotation.py's."""
    connection = connect(tmp_path / "made", KEY)
    migrate(connection, tmp_path / "made")
    contact_id = add_contact(connection)
    connection.close()
    for count, notes in enumerate(itertools.product((True, False), repeat=2)):
        one, other = (Side(tmp_path / f"{count}{name}", contact_id) for name in "ab")
        for side in (one, other):
            shutil.copy(tmp_path / "made", side.path)
        fresh = (bytes([number]) * 32 for number in range(1, 250))
        run_until(one, other, steps, fresh)
        if meet(one, other, one_notes=notes[0], other_notes=notes[1]):
            run_until(one, other, steps, fresh)
        for _ in range(2):
            if meet(one, other) and (one.pair().contribution or other.pair().contribution):
                run_until(one, other, 7, fresh)
        meet(one, other)
        assert one.pair() == other.pair()
        assert one.pair().next_secret is None and one.pair().contribution is None


def test_the_old_secret_is_in_no_page_of_the_file(tmp_path: Path) -> None:
    """Among many contacts, so that pages are split and cells are moved."""
    path = tmp_path / "db"
    connection = connect(path, KEY)
    migrate(connection, path)
    old = {}
    with connection:
        for number in range(300):
            contact_id = add_contact(connection, f"contact {number}")
            old[contact_id] = os.urandom(32)
            contacts.replace_secret(connection, contact_id, old[contact_id], 1, NOW)
    erased = []
    for contact_id, secret in list(old.items())[::3]:
        contribution, theirs = os.urandom(32), os.urandom(32)
        with connection:
            pair, _ = rotation.propose(contacts.pair(connection, contact_id), contribution)
            contacts.store_pair(connection, contact_id, pair, None)
        with connection:
            answer = rotation.commit(pair, Rotation(RotationStep.ACCEPT, 2, theirs))
            assert answer is not None
            contacts.store_pair(connection, contact_id, answer[0], None)
        with connection:
            contacts.store_pair(connection, contact_id, rotation.proven(answer[0]), NOW)
        erased += [secret, contribution]
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert path.with_name("db-wal").stat().st_size == 0
    connection.close()
    pages = decrypted_pages(path, KEY)
    assert all(each in pages for contact_id, each in old.items() if each not in erased), "the search finds nothing"
    left = [each for each in erased if each in pages]
    assert not left, f"{len(left)} of {len(erased)} are still in the file"


# --- over links ---


@asynccontextmanager
async def rotating(person: Person) -> AsyncIterator[Node]:
    async with person.run() as node, trio.open_nursery() as nursery:
        rotator = Rotator(node.world, node.database, node.connectivity.roster, node.connectivity.links)
        node.handlers[Rotation] = rotator.handle
        await nursery.start(rotator.run)
        yield node
        nursery.cancel_scope.cancel()


def put_clock(people: People, seconds: float) -> None:
    """So many seconds after the contacts were made."""
    people.clock.offset = 0
    people.clock.offset = seconds - (people.clock.now() - START) / 1000


async def secrets_of(node: Node) -> ContactSecrets:
    [known] = node.connectivity.roster.all()
    return await node.database.read(lambda tx: contacts.secrets(tx, known.contact_id))


async def have_rotated(one: Node, other: Node, old: bytes) -> bool:
    ours, theirs = await secrets_of(one), await secrets_of(other)
    return ours.pair == theirs.pair and ours.next_secret is None and ours.pair_secret != old


async def test_after_thirty_days_both_have_a_new_secret_and_no_trace_of_the_old(tmp_path: Path) -> None:
    people = People(tmp_path)
    alice, bob, old = people.person("alice"), people.person("bob"), os.urandom(32)
    async with rotating(alice) as at_alice, rotating(bob) as at_bob:
        await acquaint(at_alice, "alice", at_bob, "bob", old, list_version=1)
        at_alice.connectivity.links.connect_soon(await at_alice.contact_id("bob"))
        await until_async(lambda: _linked(at_alice, at_bob))
        put_clock(people, ROTATE_SECONDS - 3_600)
        at_alice.connectivity.links.changed.fire()
        at_bob.connectivity.links.changed.fire()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert (await secrets_of(at_alice)).pair_secret == old, "too early"
        put_clock(people, ROTATE_SECONDS + 3_600)
        at_alice.connectivity.links.changed.fire()
        at_bob.connectivity.links.changed.fire()
        await until_async(lambda: have_rotated(at_alice, at_bob, old))
        assert (await secrets_of(at_alice)).pair_epoch == 2
        await until_async(lambda: _is_on_new_key(at_alice))
    for person in (alice, bob):
        assert old not in decrypted_pages(person.path, person.identity.database_key)


async def test_a_newer_device_list_is_reason_enough(tmp_path: Path) -> None:
    people, old = People(tmp_path), os.urandom(32)
    async with rotating(people.person("alice")) as at_alice, rotating(people.person("bob")) as at_bob:
        await acquaint(at_alice, "alice", at_bob, "bob", old, list_version=0)
        at_alice.connectivity.links.connect_soon(await at_alice.contact_id("bob"))
        await until_async(lambda: have_rotated(at_alice, at_bob, old))


async def test_a_session_under_another_secret_than_the_one_in_use_changes_nothing(tmp_path: Path) -> None:
    people = People(tmp_path)
    alice, bob, old = people.person("alice"), people.person("bob"), os.urandom(32)
    async with rotating(alice) as at_alice, rotating(bob) as at_bob:
        await acquaint(at_alice, "alice", at_bob, "bob", old, list_version=1)
        at_alice.connectivity.links.connect_soon(await at_alice.contact_id("bob"))
        await until_async(lambda: _linked(at_alice, at_bob))
        lower, upper = sorted((at_alice, at_bob), key=lambda node: node.identity.identity_key)
        [known] = upper.connectivity.roster.all()
        await upper.database.write(lambda tx: contacts.replace_secret(tx, known.contact_id, b"x" * 32, 7, NOW))
        link = lower.connectivity.links.all()[0]
        await link.send((Rotation(RotationStep.PROPOSE, 8, b"p" * 32),))
        await link.send((Rotation(RotationStep.PROPOSE, 2, b"p" * 32),))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert (await secrets_of(upper)).pair == Pair(b"x" * 32, 7)


async def test_steps_of_the_wrong_side_end_the_link(tmp_path: Path) -> None:
    people = People(tmp_path)
    async with rotating(people.person("alice")) as at_alice, rotating(people.person("bob")) as at_bob:
        await acquaint(at_alice, "alice", at_bob, "bob", list_version=1)
        at_alice.connectivity.links.connect_soon(await at_alice.contact_id("bob"))
        await until_async(lambda: _linked(at_alice, at_bob))
        lower, upper = sorted((at_alice, at_bob), key=lambda node: node.identity.identity_key)
        before = await secrets_of(lower)
        link = upper.connectivity.links.all()[0]
        await link.send((Rotation(RotationStep.PROPOSE, 2, b"p" * 32),))
        with trio.fail_after(10):
            await link.ended.wait()
        assert (await secrets_of(lower)).pair == before.pair


@pytest.mark.parametrize("lost", list(RotationStep))
async def test_a_frame_that_is_lost_with_its_link_is_made_up_for(
    tmp_path: Path, lost: RotationStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = People(tmp_path)
    alice, bob, old = people.person("alice"), people.person("bob"), os.urandom(32)
    genuine, losses = Session.send, []

    async def lossy(self: Session, frames: tuple[Frame, ...]) -> None:
        if not losses and any(isinstance(each, Rotation) and each.step is lost for each in frames):
            losses.append(lost)
            self.abort()
            raise LinkClosed("lost")
        await genuine(self, frames)

    monkeypatch.setattr(Session, "send", lossy)
    async with rotating(alice) as at_alice, rotating(bob) as at_bob:
        await acquaint(at_alice, "alice", at_bob, "bob", old, list_version=1)
        put_clock(people, ROTATE_SECONDS + 3_600)
        at_alice.connectivity.links.connect_soon(await at_alice.contact_id("bob"))
        await until_async(lambda: have_rotated(at_alice, at_bob, old))
        assert losses == [lost]


async def _linked(one: Node, other: Node) -> bool:
    return all(node.connectivity.links.all() for node in (one, other))


async def _is_on_new_key(node: Node) -> bool:
    [known] = node.connectivity.roster.all()
    link = node.connectivity.links.current(known.contact_id)
    return link is not None and link.receipt_key == pair_keys((await secrets_of(node)).pair_secret).receipt
