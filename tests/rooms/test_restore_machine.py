"""Old backups on either side, in any interleaving with sending, taking back and cut sessions: nothing is doubled,
reordered, or brought back.

No clock, no links: a session is what messaging does in one (tests/rooms/test_messaging_machine.py shows that it does),
cut after any step. Alice sends, Bob receives. After a restore the person takes back again what she remembers having
taken back, and lets the rest go at some time: that is what holding is for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import apsw
from hypothesis import given, settings
from hypothesis import strategies as st
from p2pe.core import codec
from p2pe.core.derive import body_hash
from p2pe.model import ContactId, Content, MessageId, MessageState, Millis, ReceiptStatus, StreamId
from p2pe.storage import held, incoming, outgoing
from p2pe.storage.connection import connect
from p2pe.storage.migrations import Tx, migrate
from p2pe.storage.restored import mark_restored
from storage_kit import add_contact

STEPS = 6  # of a session: retract there, receipt; offer, accept, receipt; and all of it again after a conflict


def database(name: str) -> tuple[Tx, ContactId]:
    tx = connect(":memory:", None)
    migrate(tx, name)
    return tx, add_contact(tx, name)


def copied(raw: bytes) -> Tx:
    tx = connect(":memory:", None)
    tx.deserialize("main", raw)
    return tx


@dataclass
class Truth:
    """What really happened to a message, whatever the databases remember."""

    left: bool = False  # Bob's node has had it
    taken_back: bool = False


@dataclass
class Pair:
    alice: Tx
    bob: Tx
    contact: ContactId
    now: int = 1_800_000_000_000
    count: int = 0
    truth: dict[MessageId, Truth] = field(default_factory=dict)
    backups: dict[str, list[bytes]] = field(default_factory=lambda: {"alice": [], "bob": []})
    bob_is_new: bool = False  # his device list is newer than the one that Alice's node has seen

    @classmethod
    def new(cls) -> Pair:
        (alice, contact), (bob, _) = database("bob"), database("alice")
        return cls(alice, bob, contact)

    def tick(self) -> Millis:
        self.now += 1_000
        return Millis(self.now)

    def fresh(self) -> StreamId:
        self.count += 1
        return StreamId(self.count.to_bytes(16, "big"))

    # --- what may happen ---

    def send(self, _: int) -> None:
        self.count += 1
        identifier = MessageId(self.count.to_bytes(32, "big"))
        body = codec.encode_content(Content(f"text {self.count}"))
        stream = outgoing.current_stream(self.alice, self.fresh())
        sequence = outgoing.next_sequence(self.alice, self.contact, stream)
        draft = outgoing.Draft(identifier, body, body_hash(body))
        outgoing.insert(self.alice, self.contact, stream, sequence, [draft], self.tick())
        self.truth[identifier] = Truth()

    def take_back(self, which: int) -> None:
        here = [each for each, truth in self.truth.items() if not truth.taken_back and self.state(each) is not None]
        if here:
            chosen = here[which % len(here)]
            outgoing.retract(self.alice, [chosen], self.tick())
            self.truth[chosen].taken_back = True

    def session(self, cut: int) -> None:
        """Up to `cut` steps of it."""
        steps = cut % (2 * STEPS)
        if self.bob_is_new and steps:
            held.retract_again(self.alice, self.contact)
            self.bob_is_new = False
        for _ in range(2):
            if not self._exchange(steps):
                return
            steps -= STEPS

    def _exchange(self, steps: int) -> bool:
        """True when it ended in an order conflict, after which it begins anew."""
        owed = outgoing.retractions_owed(self.alice, self.contact)
        if owed and steps > 0:
            incoming.retract(self.bob, self.contact, owed, self.tick())
        if owed and steps > 1:
            outgoing.settle(self.alice, self.contact, ReceiptStatus.RETRACTED, owed, self.tick())
        if steps <= 2 or (offer := outgoing.offer(self.alice, self.contact, 0, 100, 10**6, self.tick())) is None:
            return False
        for stream_id, messages in offer.runs:
            for batch in codec.batches(stream_id, messages):
                codec.decode_frame(codec.encode_frame(batch))  # sequences ascend, or this raises
            if steps <= 3:
                return False
            accepted = incoming.accept(self.bob, self.contact, stream_id, messages, self.tick())
            for identifier, _, _ in accepted.receipts:
                self.truth[identifier].left = True
            if steps > 4:
                for identifier, _, status in accepted.receipts:
                    outgoing.settle(self.alice, self.contact, status, [identifier], self.tick())
            if accepted.conflict is not None:
                outgoing.restart_stream(self.alice, self.contact, stream_id, self.fresh())
                return True
        return False

    def back_up_alice(self, _: int) -> None:
        self.backups["alice"].append(bytes(self.alice.serialize("main")))

    def back_up_bob(self, _: int) -> None:
        self.backups["bob"].append(bytes(self.bob.serialize("main")))

    def restore_alice(self, which: int) -> None:
        if not self.backups["alice"]:
            return
        self.alice = copied(self.backups["alice"][which % len(self.backups["alice"])])
        mark_restored(self.alice, self.fresh(), self.tick(), hold=True)
        self.bob_is_new = True  # her database may not know his newest list
        assert outgoing.offer(self.alice, self.contact, 0, 100, 10**6, self.tick()) is None, "sent by itself"
        remembered = [
            each for each, truth in self.truth.items()
            if truth.taken_back and self.state(each) is MessageState.HELD_IDENTITY
        ]  # fmt: skip
        outgoing.retract(self.alice, remembered, self.tick())

    def release(self, _: int) -> None:
        held.release(self.alice, self.contact, self.fresh(), self.tick())

    def restore_bob(self, which: int) -> None:
        if self.backups["bob"]:
            self.bob = copied(self.backups["bob"][which % len(self.backups["bob"])])
            mark_restored(self.bob, self.fresh(), self.tick(), hold=True)
            self.bob_is_new = True

    # --- what must hold ---

    def state(self, identifier: MessageId) -> MessageState | None:
        found = self.alice.execute("SELECT state FROM outgoing WHERE id = ?", (identifier,)).get
        return None if found is None else MessageState(found)

    def shown(self) -> list[tuple[MessageId, bytes, int]]:
        query = "SELECT id, stream_id, sequence FROM incoming WHERE length(body) > 0 ORDER BY row"
        return [(MessageId(i), stream, sequence) for i, stream, sequence in self.bob.execute(query)]

    def check(self) -> None:
        shown = self.shown()
        ids = [identifier for identifier, _, _ in shown]
        assert len(ids) == len(set(ids)), "doubled"
        last: dict[bytes, int] = {}
        for _, stream, sequence in shown:
            assert sequence > last.get(stream, 0), "reordered"
            last[stream] = sequence
        for identifier in ids:
            truth = self.truth[identifier]
            assert truth.left and not (truth.taken_back and not truth.left), "it was deleted before it left"

    def check_at_rest(self) -> None:
        """After undisturbed sessions nothing waits, and Bob shows nothing that Alice's node has taken back."""
        self.release(0)
        self.session(2 * STEPS - 1)
        self.session(2 * STEPS - 1)
        assert not outgoing.anything_waits(self.alice, self.contact)
        for identifier, _, _ in self.shown():
            assert self.state(identifier) is not MessageState.RETRACTED, "brought back"


NEVER_LEFT_BUT_SHOWN = "a message that was taken back before it left has reached Bob"
OPERATIONS = {
    "send": 6,
    "take_back": 3,
    "session": 5,
    "back_up_alice": 2,
    "back_up_bob": 2,
    "restore_alice": 1,
    "release": 1,
    "restore_bob": 1,
}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_old_backups_double_reorder_and_resurrect_nothing(seed: int, length: int) -> None:
    """Stories of `length` operations; a shorter one that fails is found by shrinking `length`."""
    random = Random(seed)
    names = random.choices(list(OPERATIONS), list(OPERATIONS.values()), k=length)
    story = [(name, random.randrange(2 * STEPS)) for name in names]
    pair = Pair.new()
    gone_unsent: set[MessageId] = set()
    try:
        for name, argument in story:
            getattr(pair, name)(argument)
            pair.check()
            if name == "take_back":
                gone_unsent |= {each for each, truth in pair.truth.items() if truth.taken_back and not truth.left}
            assert not any(pair.truth[each].left for each in gone_unsent), NEVER_LEFT_BUT_SHOWN
        pair.check_at_rest()
        pair.check()
        assert not any(pair.truth[each].left for each in gone_unsent), NEVER_LEFT_BUT_SHOWN
    finally:
        for tx in (pair.alice, pair.bob):
            assert isinstance(tx, apsw.Connection)
            tx.close()
