"""Two people's lives in any order: writing, taking back, editing, reading, expiring, crashing, going back to an old
backup, rotating secrets, blocking, forgetting, pairing again. Whatever happens, nothing is doubled or reordered, what
was taken back stays so, states go forward alone and are true, and no key encrypts twice under one nonce.

Hypothesis makes up the lives. The production nodes live them (`app.run_node`: real handshakes, real databases) on a
virtual network, disk and clock. Everything that a session encrypts passes a wrapper that remembers key and nonce.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import apsw
import p2pe.contacts.rotator as rotator_module
import p2pe.core.cipher as cipher_module
import p2pe.core.rotation as rotation_module
import pytest
import structlog
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from p2pe.control.services import Services
from p2pe.core.certificate import verify_certificate
from p2pe.core.codec import decode_content
from p2pe.core.tickets import NONCE_BYTES, seal_ticket
from p2pe.errors import P2peError
from p2pe.identity.keyring import enrol
from p2pe.model import StreamId
from p2pe.storage import contacts
from p2pe.storage.restored import mark_restored
from p2pe_sim.plan import BEGINS_AT, Node, Role
from p2pe_sim.world.clock import VirtualClock, jumping_clock
from p2pe_sim.world.determinism import seeded
from p2pe_sim.world.net import Internet
from p2pe_sim.world.person import DATABASE, Person, prepare
from p2pe_sim.world.randomness import Randomness
from p2pe_sim.world.server import Server

NAMES = ("alice", "bob")
WHO = st.integers(0, 1)
RANK = {"queued": 0, "offered": 1, "delivered": 2, "read": 3, "expired": 4, "retracted": 5}
ROTATE_SECONDS = 40  # instead of 30 days: several rotations a life
SETTLE_SECONDS = 3_000  # virtual, at the most, until everything that waits has ended

step = st.one_of(
    st.tuples(st.just("send"), WHO, st.integers(1, 3)),
    st.tuples(st.just("send"), WHO, st.integers(1, 3)),
    st.tuples(st.just("retract"), WHO, st.integers(0, 5)),
    st.tuples(st.just("retract"), WHO, st.integers(0, 5)),
    st.tuples(st.just("edit"), WHO, st.integers(0, 5)),
    st.tuples(st.just("expiring"), WHO, st.integers(1, 60)),
    st.tuples(st.just("read"), WHO, st.integers(0, 1)),
    st.tuples(st.just("crash"), WHO, st.integers(0, 1)),
    st.tuples(st.just("start"), WHO, st.just(0)),
    st.tuples(st.just("start"), WHO, st.just(0)),
    st.tuples(st.just("backup"), WHO, st.just(0)),
    st.tuples(st.just("restore"), WHO, st.integers(0, 1)),
    st.tuples(st.just("block"), WHO, st.just(0)),
    st.tuples(st.just("unblock"), WHO, st.just(0)),
    st.tuples(st.just("forget"), WHO, st.just(0)),
    st.tuples(st.just("meet"), WHO, st.just(0)),
    st.tuples(st.just("wait"), st.integers(1, 90), st.just(0)),
    st.tuples(st.just("wait"), st.integers(1, 10), st.just(0)),
)
lives = st.lists(step, min_size=3, max_size=14)
Life = list[tuple[str, int, int]]


def counting(used: Counter[tuple[bytes, bytes]]) -> type[Any]:
    """Stands in for the AEAD, and remembers under which key and nonce it encrypted. Not REKEY's nonce: what that
    makes is the next key, the same at both ends."""
    real = cipher_module.ChaCha20Poly1305

    class Counting:
        def __init__(self, key: bytes) -> None:
            self._key = bytes(key)
            self._real = real(key)

        def encrypt(self, nonce: bytes, data: bytes, associated: bytes | None) -> bytes:
            if nonce != cipher_module._REKEY_NONCE:
                used[self._key, bytes(nonce)] += 1
            return self._real.encrypt(nonce, data, associated)

        def decrypt(self, nonce: bytes, data: bytes, associated: bytes | None) -> bytes:
            return self._real.decrypt(nonce, data, associated)

    return Counting


class Unwatched:
    """Stands where a simulation's observer is: whatever it is told, it takes. What counts here is looked up."""

    def __getattr__(self, _name: str) -> Unwatched:
        return self

    def __call__(self, *_told: object, **_more: object) -> Unwatched:
        return self

    def start_failed(self, _person: Person, problem: str) -> None:
        pytest.fail(f"a node can't start: {problem}")


class Lives:
    """Plays one life of two."""

    def __init__(self, seed: int) -> None:
        self.randomness = Randomness(seed)
        self.internet = Internet(self.randomness)
        server = Node("server", Role.BOOTSTRAP)
        clock = VirtualClock(BEGINS_AT)
        self.server = Server(server, self.internet.add("server"), self.internet, self.randomness, clock)
        self.people: list[Person] = []
        for name in NAMES:
            node = Node(name)
            self.people.append(
                Person(
                    node,
                    self.internet.add(name),
                    self.internet,
                    self.randomness,
                    VirtualClock(BEGINS_AT),
                    self.server.addresses,
                )
            )
        self.watch: Any = Unwatched()
        self.seeds = [self.randomness.token("root", name, 0) for name in NAMES]
        self.count = 0
        self.backups: list[bytes | None] = [None, None]
        self.text_of: dict[bytes, str] = {}
        self.resent: set[str] = set()  # texts that a person let go late: their place isn't that of their number
        self.last: list[dict[bytes, str]] = [{}, {}]
        self.lost = [False, False]  # their disk has forgotten messages that were receipted
        self.erased: set[str] = set()  # texts deleted before they left, whatever a backup says
        self.buried: list[set[str]] = [set(), set()]  # texts of which the other side has confirmed that they're gone
        self.reasons: dict[bytes, str] = {}  # seen last
        self.nursery: trio.Nursery
        self._befriend()

    def _befriend(self) -> None:
        secret = self.randomness.token("pair")
        for index, person in enumerate(self.people):
            other = self.people[1 - index].identity
            ours, now = person.identity.identity_key, person.clock.epoch
            ticket = seal_ticket(other.k_ticket, ours, NAMES[index], now, bytes(NONCE_BYTES))

            def add(
                tx: apsw.Connection, index: int = index, ticket: bytes = ticket, key: Any = other.identity_key
            ) -> None:
                contacts.add(
                    tx,
                    name=NAMES[1 - index],
                    identity_key=key,
                    pair_secret=secret,
                    paired_at=self.people[index].clock.epoch,
                    list_version=1,
                    ticket=ticket,
                )
                contacts.set_tells_reading(tx, contacts.find(tx, NAMES[1 - index]).id, True)

            self.on_disk(index, add)

    def on_disk(self, index: int, work: Any) -> Any:
        """Works on the database of a node that is down."""
        mount = self.people[index].disk.mount()  # a VFS that nobody holds is gone
        connection = apsw.Connection(DATABASE, vfs=mount.name)
        connection.pragma("locking_mode", "exclusive")
        connection.execute("BEGIN")
        result = work(connection)
        connection.execute("COMMIT")
        connection.close()
        return result

    # --- the run ---

    async def play(self, life: Life) -> None:
        async with trio.open_nursery() as self.nursery:
            self.nursery.start_soon(self.server.run, self.watch, ())
            await self.server.up.wait()
            for index in (0, 1):
                await self.start(index)
            for what, first, second in life:
                await getattr(self, what)(first, second)
                await trio.sleep(1.0)
                await self.check()
            await self.settle()
            for person in self.people:
                person.crash(power=False)
            self.nursery.cancel_scope.cancel()

    def services(self, index: int) -> Services | None:
        return self.people[index].services

    async def knows(self, index: int) -> bool:
        services = self.services(index)
        return services is not None and len(await services.book.list()) == 1

    # --- steps ---

    async def start(self, index: int, _: int = 0) -> None:
        person = self.people[index]
        if person.process is None or not person.process.is_alive:
            self.nursery.start_soon(person.run, self.watch)
            await person.up.wait()

    async def crash(self, index: int, power: int) -> None:
        person = self.people[index]
        person.crash(power=bool(power))
        person.machine.is_powered = True

    async def wait(self, seconds: int, _: int) -> None:
        await trio.sleep(seconds)

    async def send(self, index: int, count: int, expire_after: int = 0) -> None:
        services = self.services(index)
        if services is None or not await self.knows(index):
            return
        for _ in range(count):
            self.count += 1
            text = f"{self.count:04d}"
            try:
                sent = await services.outbox.send(NAMES[1 - index], text, expire_after=expire_after)
            except P2peError:
                return  # blocked
            self.text_of[sent.id] = text

    async def expiring(self, index: int, seconds: int) -> None:
        await self.send(index, 1, 1000 * seconds)

    async def retract(self, index: int, which: int) -> None:
        services = self.services(index)
        if services is not None and (sent := await services.outbox.list()):
            chosen = sent[-1 - which % len(sent)]
            after = await services.outbox.retract(chosen.id)
            assert after.content.text == "" and after.state.value == "retracted"
            if "before it had left" in after.reason:
                self.erased.add(self.text_of[chosen.id])

    async def edit(self, index: int, which: int) -> None:
        services = self.services(index)
        if services is not None and (sent := await services.outbox.list()):
            self.count += 1
            text = f"{self.count:04d}"
            try:
                edit = await services.outbox.edit(sent[-1 - which % len(sent)].id, text)
            except P2peError:
                return  # it has ended, or the contact is blocked
            self.text_of[edit.id] = text

    async def read(self, index: int, _: int) -> None:
        services = self.services(index)
        if services is not None:
            await services.inbox.mark_read()

    async def backup(self, index: int, _: int) -> None:
        person = self.people[index]
        was_up = await person.stop()
        self.backups[index] = person.disk.copy_of(DATABASE)
        if was_up:
            await self.start(index)

    async def restore(self, index: int, resend: int) -> None:
        backup = self.backups[index]
        if backup is None:
            return
        person = self.people[index]
        await person.stop()
        old = verify_certificate(person.identity.certificate)
        person.identity = enrol(
            self.seeds[index],
            self.randomness.stream("enrol", index, self.count, person.starts).randbytes,
            person.clock.now(),
            list_version=old.list_version,
            revoked=(*old.revoked, old.device_key),
        )
        person.disk.erase()
        person.disk.load(DATABASE, backup)
        fresh = StreamId(self.randomness.token("stream", index, self.count, person.starts)[:16])
        self.on_disk(index, lambda tx: mark_restored(tx, fresh, person.clock.now(), hold=True))
        self.forgets(index)
        await self.start(index)
        services = self.services(index)
        if resend and services is not None and await self.knows(index):
            try:
                for each in (await services.resender.resend(NAMES[1 - index])).ids:
                    self.resent.add(self.text_of[each])
            except P2peError:
                return  # blocked

    async def block(self, index: int, _: int, on: bool = True) -> None:
        services = self.services(index)
        if services is not None and await self.knows(index):
            person = await services.book.set_blocked(NAMES[1 - index], on)
            services.couriers.contact_changed(person.id)

    async def unblock(self, index: int, _: int) -> None:
        await self.block(index, 0, on=False)

    async def forget(self, index: int, _: int) -> None:
        services = self.services(index)
        if services is not None and await self.knows(index):
            person = await services.book.find(NAMES[1 - index])
            await services.book.remove(NAMES[1 - index])
            services.couriers.contact_changed(person.id)
            self.forgets(index)

    def forgets(self, index: int) -> None:
        """What this one's database knew isn't sure any more."""
        self.lost[index] = True
        self.last[index].clear()
        self.buried[1 - index].clear()

    async def meet(self, index: int, _: int) -> None:
        """They pair again, by a link, if one of them has forgotten the other."""
        ours, theirs = self.services(index), self.services(1 - index)
        if ours is None or theirs is None or (await self.knows(0) and await self.knows(1)):
            return
        try:
            invite = await ours.pairing.create_invite("link", None if await self.knows(index) else NAMES[1 - index])
            with trio.fail_after(120):
                await theirs.pairing.accept(invite.link or "", None if await self.knows(1 - index) else NAMES[index])
        except (P2peError, trio.TooSlowError):
            return  # a blocked one doesn't come in, a request of before stands in the way: another time

    # --- what must hold ---

    async def rows(self, index: int, query: str) -> list[Any]:
        services = self.services(index)
        if services is None:
            return []
        database = services.outbox._database
        return list(await database.read(lambda tx: tx.execute(query).fetchall()))

    async def inbox(self, index: int) -> list[str]:
        rows = await self.rows(index, "SELECT body FROM incoming WHERE body <> x'' ORDER BY row")
        return [decode_content(body).text for (body,) in rows]

    async def check(self) -> None:
        for index in (0, 1):
            shown = await self.inbox(1 - index)
            assert len(shown) == len(set(shown)), f"doubled: {shown}"
            in_place = [text for text in shown if text not in self.resent]
            assert in_place == sorted(in_place), f"out of order: {shown}"
            assert not (self.erased - self.resent) & set(shown), f"deleted before it left, and there: {shown}"
            assert not self.buried[index] & set(shown), f"taken back, confirmed, and there again: {shown}"
            here = {bytes(each) for (each,) in await self.rows(1 - index, "SELECT id FROM incoming")}
            for identifier, state, reason in await self.rows(index, "SELECT id, state, reason FROM outgoing"):
                identifier = bytes(identifier)
                if reason == "retracted_there" != self.reasons.get(identifier):
                    self.buried[index].add(self.text_of[identifier])
                self.reasons[identifier] = reason
                before = self.last[index].get(identifier, "queued")
                if "held" not in state and "held" not in before:
                    assert RANK[before] <= RANK[state], f"{before} -> {state}"
                self.last[index][identifier] = state
                if state in ("delivered", "read") and not self.lost[1 - index] and self.services(1 - index) is not None:
                    assert identifier in here, f"{state}, but it isn't there"

    async def settle(self) -> None:
        """Everybody is up, known and unblocked; then everything that waits must end, and the accounts balance."""
        for index in (0, 1):
            await self.start(index)
            await self.unblock(index, 0)
        for _ in range(5):
            await self.meet(0, 0)
            await trio.sleep(30)
            if await self.knows(0) and await self.knows(1):
                break
        assert await self.knows(0) and await self.knows(1), "they can't become contacts again"
        for index in (0, 1):
            await self.send(index, 1)
        with trio.move_on_after(SETTLE_SECONDS):
            while await self.waits(0) or await self.waits(1):  # noqa: ASYNC110 - a database can't set an event
                await trio.sleep(5)
        await self.check()
        for index in (0, 1):
            assert not await self.waits(index), await self.told(index)
            shown = set(await self.inbox(1 - index))
            rows = await self.rows(index, "SELECT id, state, reason FROM outgoing")
            for identifier, state, reason in rows:
                text = self.text_of[bytes(identifier)]
                if state == "retracted" and reason != "resent":
                    assert text not in shown, f"{text} was taken back ({reason}), and is there"
                elif state in ("delivered", "read") and not self.lost[1 - index]:
                    gone = await self.rows(1 - index, "SELECT id FROM incoming WHERE ended_at IS NOT NULL")
                    assert text in shown or (identifier,) in gone, f"{text} is {state}, and isn't there"

    async def waits(self, index: int) -> int:
        [(count,)] = await self.rows(
            index,
            """SELECT count(*) FROM outgoing
               WHERE state IN ('queued', 'offered') OR (state = 'retracted' AND reason = 'retracting')""",
        ) or [(1,)]
        return int(count)

    async def told(self, index: int) -> list[Any]:
        services = self.services(index)
        assert services is not None
        person = (await services.book.list())[0]
        attempts = services.links.reachability(person.id).attempts
        return [*await services.outbox.list(), *[(each.step, each.outcome) for each in attempts[-8:]]]


def play(life: Life) -> Counter[tuple[bytes, bytes]]:
    """Returns under which keys and nonces was encrypted, and how often."""
    prepare()
    used: Counter[tuple[bytes, bytes]] = Counter()
    lived = Lives(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False)
    with pytest.MonkeyPatch.context() as patch, seeded(lived.randomness):
        patch.setattr(cipher_module, "ChaCha20Poly1305", counting(used))
        patch.setattr(rotation_module, "ROTATE_SECONDS", ROTATE_SECONDS)
        patch.setattr(rotator_module, "ROTATE_LOOK", 10.0)
        trio.run(lived.play, life, clock=jumping_clock())
    assert used and set(used.values()) == {1}, "a key was used twice under one nonce"
    return used


FOUND_AGAIN: Life = [("send", 0, 1), ("send", 1, 1), ("wait", 90, 0), ("wait", 90, 0)]  # it takes a look or two
OLD_BACKUP_OF_A_SENDER: Life = [
    *(("crash", 1, 0), ("send", 0, 2), ("backup", 0, 0), ("retract", 0, 0), ("start", 1, 0), ("wait", 60, 0)),
    *(("restore", 0, 0), *FOUND_AGAIN),
]
OLD_BACKUP_OF_A_READER: Life = [
    *(("send", 0, 2), ("wait", 10, 0), ("backup", 1, 0), ("retract", 0, 0), ("wait", 60, 0), ("restore", 1, 0)),
    *(("send", 0, 1), ("wait", 90, 0)),
]
TOMBSTONE_AND_OLD_BACKUPS: Life = [
    *(("backup", 1, 0), ("crash", 1, 0), ("send", 0, 1), ("backup", 0, 0), ("start", 1, 0), ("wait", 60, 0)),
    *(("restore", 1, 0), *FOUND_AGAIN, ("retract", 0, 1), ("wait", 60, 0), ("restore", 0, 1), *FOUND_AGAIN),
]
BOTH_RESTORED: Life = [
    *(("send", 0, 2), ("backup", 0, 0), ("backup", 1, 0), ("wait", 90, 0), ("send", 1, 2), ("wait", 10, 0)),
    *(("restore", 0, 1), ("restore", 1, 1), ("send", 0, 1), ("send", 1, 1)),
]
FORGOTTEN_AND_MET: Life = [
    *(("send", 0, 1), ("forget", 1, 0), ("send", 0, 2), ("meet", 0, 0), ("send", 1, 1), ("wait", 60, 0)),
    *(("forget", 0, 0), ("meet", 1, 0), ("send", 0, 1)),
]
BLOCKED_THEN_NOT: Life = [("block", 1, 0), ("send", 0, 2), ("retract", 0, 0), ("wait", 60, 0), ("unblock", 1, 0)]
CRASHES: Life = [("send", 0, 3), ("crash", 0, 1), ("start", 0, 0), ("crash", 1, 1), ("send", 0, 1), ("start", 1, 0)]


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(lives)
@example(OLD_BACKUP_OF_A_SENDER)
@example(OLD_BACKUP_OF_A_READER)
@example(TOMBSTONE_AND_OLD_BACKUPS)
@example(BOTH_RESTORED)
@example(FORGOTTEN_AND_MET)
@example(BLOCKED_THEN_NOT)
@example(CRASHES)
def test_any_two_lives_end_well(life: Life) -> None:
    play(life)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(lives)
def test_many_lives_end_well(life: Life) -> None:
    play(life)
