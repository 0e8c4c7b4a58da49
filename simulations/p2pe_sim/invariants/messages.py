"""The ledger of all messages of a run: exactly once, in order, nothing lost, states forward, receipts true.

It is told of every commit of every node before anything that follows from it leaves the node, and compares what a
node's tables say after each start with what they said before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import trio
from p2pe.core.delivery import TRANSITIONS
from p2pe.model import MessageState

from p2pe_sim.invariants.findings import Findings
from p2pe_sim.world.log import EventLog

_HELD: Final = (MessageState.DELIVERED, MessageState.READ)  # what the recipient is said to have
_HELD_BACK: Final = str(MessageState.HELD_IDENTITY)
_EVENT_OF: Final = {MessageState.HELD_IDENTITY: "held"}


def _reachable() -> dict[str, frozenset[str]]:
    """State -> all states that one commit may lead to, itself included: several steps, but never out of HELD_IDENTITY
    on the way. What was held is sent again only once a person says so."""
    steps = {(str(source), str(target)) for sources, target in TRANSITIONS.values() for source in sources}
    reach: dict[str, frozenset[str]] = {}
    for state in map(str, MessageState):
        found = {state}
        for _ in MessageState:
            found |= {to for source, to in steps if source in found and (source == state or source != _HELD_BACK)}
        reach[state] = frozenset(found)
    return reach


REACHABLE: Final = _reachable()


class OutgoingRow(NamedTuple):
    peer: str
    message: str  # the plan's id
    state: str


class IncomingRow(NamedTuple):
    peer: str
    message: str
    text: str


@dataclass(slots=True)
class Sent:
    """A message of the plan, from the moment it is in its sender's table."""

    sender: str
    recipient: str
    number: int  # in the order of this sender to this recipient
    queued_at: float
    accepted_at: float | None = None  # when `send` returned
    received_at: float | None = None  # when the recipient's disk had it
    delivered_at: float | None = None
    is_forgotten: bool = False  # by a sender who installed anew or removed the contact


@dataclass(slots=True)
class _Tables:
    """What one person's committed tables say, as far as the plan's messages go."""

    states: dict[str, str] = field(default_factory=dict)
    inbox: dict[str, int] = field(default_factory=dict)  # message -> how many rows
    durable: set[str] = field(default_factory=set)  # of `inbox`
    last: dict[str, int] = field(default_factory=dict)  # peer -> number of the newest message from it


class Ledger:
    """One a run."""

    def __init__(self, findings: Findings, log: EventLog, texts: dict[str, str]) -> None:
        self.sent: dict[str, Sent] = {}
        self._texts = texts
        self._findings = findings
        self._log = log
        self._tables: dict[str, _Tables] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._ever: dict[str, set[str]] = {}  # person -> messages that were durably there at some time
        self.state_counts: dict[str, int] = {}
        self._seen_states: dict[str, int] = {}

    def _of(self, person: str) -> _Tables:
        return self._tables.setdefault(person, _Tables())

    # --- told by the world ---

    def committed(
        self, person: str, outgoing: list[OutgoingRow], incoming: list[IncomingRow], *, is_durable: bool
    ) -> None:
        """Rows that one commit of `person` wrote, in order. `is_durable`: a power cut now would lose none of them."""
        for row in outgoing:
            self._outgoing(person, row)
        for arrived in incoming:
            self._arrived(person, arrived)
        if is_durable:
            tables = self._of(person)
            fresh = tables.inbox.keys() - tables.durable
            if fresh:
                tables.durable |= fresh
                self._ever.setdefault(person, set()).update(fresh)

    def accepted(self, message: str) -> None:
        """`send` has returned for it."""
        sent = self.sent.get(message)
        if sent is None:
            self._findings.add("nothing-lost", f"`send` returned for {message}, which is in no table", message=message)
            return
        if sent.accepted_at is None:
            sent.accepted_at = trio.current_time()
            self._log.add("accepted", node=sent.sender, peer=sent.recipient, message=message)

    def reopened(self, person: str, outgoing: list[OutgoingRow], incoming: list[IncomingRow]) -> None:
        """All rows that `person` has after a start: nothing that was promised may be missing."""
        tables = self._of(person)
        now = {row.message: row.state for row in outgoing}
        for message, sent in self.sent.items():
            promised = sent.sender == person and sent.accepted_at is not None and not sent.is_forgotten
            if promised and message not in now:
                self._findings.add(
                    "nothing-lost",
                    f"{person} had accepted {message}, and lost it",
                    person,
                    message=message,
                )
        for message, before in tables.states.items():
            after = now.get(message)
            if after is not None and after not in REACHABLE[before]:
                self._findings.add(
                    "states-forward", f"{message} was {before}; after a start it is {after}", person, message=message
                )
        here = {row.message for row in incoming}
        for message in sorted(tables.durable - here):
            self._findings.add(
                "nothing-lost", f"{person} had received {message}; after a start it is gone", person, message=message
            )
        tables.states = now
        tables.inbox = dict.fromkeys(here, 1)
        tables.durable = set(here)
        tables.last = {}
        for row in incoming:
            if (known := self.sent.get(row.message)) is not None:
                tables.last[row.peer] = max(tables.last.get(row.peer, 0), known.number)

    def erased(self, person: str) -> None:
        """The home was lost, and with it everything that was promised from there."""
        self._tables.pop(person, None)
        for sent in self.sent.values():
            sent.is_forgotten = sent.is_forgotten or sent.sender == person

    def given_up(self, sender: str, recipient: str) -> None:
        """The contact was removed, and with it all messages to and from it."""
        for message, sent in list(self.sent.items()):
            if sent.sender == sender and sent.recipient == recipient:
                sent.is_forgotten = True
                self._of(sender).states.pop(message, None)
            elif sent.sender == recipient and sent.recipient == sender:
                self._of(sender).durable.discard(message)

    def in_state(self) -> dict[str, int]:
        """How many messages are in each state now."""
        counts = dict.fromkeys(self._seen_states, 0)
        for tables in self._tables.values():
            for state in tables.states.values():
                counts[state] = counts.get(state, 0) + 1
        self._seen_states.update(counts)
        return counts

    # --- checks ---

    def _outgoing(self, person: str, row: OutgoingRow) -> None:
        tables = self._of(person)
        sent = self.sent.get(row.message)
        now = trio.current_time()
        if sent is None:
            pair = (person, row.peer)
            self._counts[pair] = self._counts.get(pair, 0) + 1
            sent = self.sent[row.message] = Sent(person, row.peer, self._counts[pair], now)
        before = tables.states.get(row.message)
        if before == row.state:
            return
        tables.states[row.message] = row.state
        self._log.add(
            _EVENT_OF.get(MessageState(row.state), row.state), node=person, peer=row.peer, message=row.message
        )
        self.state_counts[row.state] = self.state_counts.get(row.state, 0) + 1
        if before is not None and row.state not in REACHABLE[before]:
            self._findings.add(
                "states-forward", f"{row.message} went from {before} to {row.state}", person, message=row.message
            )
        if before is None and row.state != MessageState.QUEUED:
            self._findings.add(
                "states-forward", f"{row.message} began its life {row.state}", person, message=row.message
            )
        if row.state in _HELD:
            if sent.delivered_at is None:
                sent.delivered_at = now
            if row.message not in self._ever.get(row.peer, ()):
                self._findings.add(
                    "receipts-true",
                    f"{row.message} is {row.state} for {person}, but {row.peer}'s disk doesn't have it",
                    person,
                    row.peer,
                    message=row.message,
                )

    def _arrived(self, person: str, row: IncomingRow) -> None:
        tables = self._of(person)
        sent = self.sent.get(row.message)
        count = tables.inbox[row.message] = tables.inbox.get(row.message, 0) + 1
        self._log.add("received", node=person, peer=row.peer, message=row.message)
        if sent is None or sent.recipient != person or sent.sender != row.peer:
            self._findings.add(
                "exactly-once", f"{person} got {row.message} from {row.peer}, who never sent it there", person, row.peer
            )
            return
        if sent.received_at is None:
            sent.received_at = trio.current_time()
        if count > 1:
            self._findings.add(
                "exactly-once", f"{row.message} is in {person}'s inbox {count} times", person, message=row.message
            )
        if row.text != self._texts[row.message]:
            self._findings.add("exactly-once", f"{row.message} arrived altered", person, row.peer, message=row.message)
        last = tables.last.get(row.peer, 0)
        if sent.number < last:
            self._findings.add(
                "order",
                f"{row.message} is number {sent.number} from {row.peer} to {person}, and came after number {last}",
                person,
                row.peer,
                message=row.message,
            )
        tables.last[row.peer] = max(last, sent.number)
