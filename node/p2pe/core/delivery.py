"""The life of an outgoing message: which states follow which, and what people are told about each.

TRANSITIONS is the whole of it: storage/outgoing.py and held.py build the WHERE clauses of their updates from this
table, so that no statement can make a change which isn't in it. docs/protocol/delivery.md argues why a message is
neither lost nor doubled nor reordered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final

from p2pe.config import FIRST_OFFER_BYTES, MAX_IN_FLIGHT, MAX_OFFER_BYTES, MAX_RECEIPTS_PER_FRAME
from p2pe.model import (
    InboxState,
    MessageId,
    MessageState,
    Millis,
    Receipt,
    Receipts,
    ReceiptStatus,
    Retraction,
    Retractions,
)

# --- states ---


class Event(StrEnum):
    """What may happen to an outgoing message."""

    OFFER = "offer"  # it's about to be written to a link
    RECEIPT_DELIVERED = "receipt_delivered"
    RECEIPT_READ = "receipt_read"
    RECEIPT_RETRACTED = "receipt_retracted"
    RETRACT = "retract"  # its writer takes it back
    EXPIRE = "expire"
    HOLD = "hold"  # the contact's identity changed, or ours was restored from a backup
    RELEASE = "release"  # its writer lets it go after all; it may have left before
    RELEASE_UNSENT = "release_unsent"  # the same, and it has never left


_QUEUED, _OFFERED, _HELD = MessageState.QUEUED, MessageState.OFFERED, MessageState.HELD_IDENTITY
_DELIVERED, _READ = MessageState.DELIVERED, MessageState.READ
_RETRACTED, _EXPIRED = MessageState.RETRACTED, MessageState.EXPIRED

# Receipts count in QUEUED too: a database that was rolled back may have forgotten that it offered the message,
# and a receipt with the right MAC proves that the recipient has it.
TRANSITIONS: Final[dict[Event, tuple[tuple[MessageState, ...], MessageState]]] = {
    Event.OFFER: ((_QUEUED, _OFFERED), _OFFERED),
    Event.RECEIPT_DELIVERED: ((_QUEUED, _OFFERED, _HELD), _DELIVERED),
    Event.RECEIPT_READ: ((_QUEUED, _OFFERED, _HELD, _DELIVERED), _READ),
    Event.RECEIPT_RETRACTED: ((_QUEUED, _OFFERED, _HELD, _DELIVERED, _READ), _RETRACTED),
    Event.RETRACT: ((_QUEUED, _OFFERED, _HELD, _DELIVERED, _READ, _EXPIRED), _RETRACTED),  # expired here, not there yet
    Event.EXPIRE: ((_DELIVERED, _READ), _EXPIRED),
    Event.HOLD: ((_QUEUED, _OFFERED), _HELD),
    Event.RELEASE: ((_HELD,), _OFFERED),
    Event.RELEASE_UNSENT: ((_HELD,), _QUEUED),
}

RECEIPT_EVENTS: Final = {
    ReceiptStatus.DELIVERED: Event.RECEIPT_DELIVERED,
    ReceiptStatus.READ: Event.RECEIPT_READ,
    ReceiptStatus.RETRACTED: Event.RECEIPT_RETRACTED,
}

WAITING: Final = (_QUEUED, _OFFERED)  # what a courier works on
ENDED: Final = (_RETRACTED, _EXPIRED)  # the text isn't to be shown any more
REACHED: Final[dict[MessageState, tuple[MessageState, ...]]] = {
    _QUEUED: tuple(MessageState),
    _OFFERED: (_OFFERED, _DELIVERED, _READ),
    _DELIVERED: (_DELIVERED, _READ),
    _READ: (_READ,),
    _RETRACTED: (_RETRACTED,),
    _EXPIRED: (_EXPIRED,),
    _HELD: (_HELD,),
}  # waiting for the key is over in any of the values


def next_state(state: MessageState, event: Event) -> MessageState:
    """The state after `event`; the same state when the event doesn't change it (a late or repeated receipt)."""
    sources, target = TRANSITIONS[event]
    return target if state in sources else state


def is_final(state: MessageState) -> bool:
    """Whether `state` can't come nearer to READ any more: nobody needs to wait on."""
    return state in (_READ, _RETRACTED, _EXPIRED)


def sources(event: Event) -> tuple[str, ...]:
    """The states that `event` changes, as stored."""
    return tuple(str(each) for each in TRANSITIONS[event][0])


# --- what people are told ---


class Reason(StrEnum):
    """Why a row is in its state, where the state alone doesn't say it. Stored; sentences are made when read."""

    PLAIN = ""
    ERASED_UNSENT = "erased_unsent"  # RETRACTED: it had never left
    RETRACTING = "retracting"  # RETRACTED: a retraction is owed to the recipient until it answers
    RETRACTED_THERE = "retracted_there"  # RETRACTED: the recipient's node says it's gone there as well
    RESENT = "resent"  # RETRACTED: it was resent to another contact instead
    RESTORED = "restored"  # HELD_IDENTITY: it waited in a backup; what became of it since isn't known
    SAID_RETRACTED = "said_retracted"  # RETRACTED: only the recipient's node says so; our text is still here


@dataclass(frozen=True, slots=True)
class Situation:
    """How it stands with a contact right now. Apart from `blocked`, nothing of it is stored."""

    connected: bool = False
    blocked: bool = False
    trying: bool = False
    failure: str = ""  # why the last try failed, for people
    next_try_at: Millis | None = None


NOTHING_KNOWN: Final = Situation()


def explain(state: MessageState, reason: str, name: str, attempts: int, situation: Situation, now: Millis) -> str:
    """One sentence for people: what the message waits for, or what ended it. `name` is the contact's."""
    if state in WAITING:
        return _explain_waiting(state, name, attempts, situation, now)
    match state:
        case MessageState.DELIVERED:
            return f"{name}'s node has it safely on its disk"
        case MessageState.READ:
            return f"{name} has read it"
        case MessageState.EXPIRED:
            return (
                f"it has expired, as you asked: its text is erased here; {name}'s node counts from when it's read there"
            )
        case MessageState.HELD_IDENTITY:
            if reason == Reason.RESTORED:
                return (
                    "it waited in the backup that you restored, and may have been sent or taken back since; "
                    f"`p2pe resend {name}` sends it ({name} will see it once), `p2pe retract` erases it"
                )
            return f"{name}'s identity has changed; it's held until you resend it to the new one"
        case _:
            return {
                Reason.ERASED_UNSENT.value: "you took it back before it had left; its text is erased",
                Reason.RETRACTING.value: f"you took it back; {name}'s node hasn't confirmed that it's erased there",
                Reason.RESENT.value: f"you resent it to another contact; nothing more is sent to {name}",
                Reason.RETRACTED_THERE.value: f"you took it back; it's erased here and on {name}'s node",
                Reason.SAID_RETRACTED.value: (
                    f"{name}'s node says that you took it back and doesn't show it. This database doesn't know of that "
                    "(is it from a backup?), so your text is still here; retract it to erase it"
                ),
            }.get(reason, "you took it back; its text is erased")


def _explain_waiting(state: MessageState, name: str, attempts: int, situation: Situation, now: Millis) -> str:
    if situation.blocked:
        return f"you have blocked {name}; unblock to send it"
    if situation.connected:
        return "about to be sent" if state is _QUEUED else "sent, no receipt yet"
    waits = f"waiting for {name} to come online"
    if state is _OFFERED:
        times = "once" if attempts <= 1 else f"{attempts} times"
        waits = f"offered {times}, but no receipt came back; {waits} to offer it again ({name} will see it once)"
    if situation.trying:
        return f"{waits}; connecting now"
    if situation.failure:
        waits = f"{waits}; last try: {situation.failure}"
    if situation.next_try_at is not None:
        waits = f"{waits}; next try in {max(0, situation.next_try_at - now + 999) // 1000} s"
    return waits


def explain_incoming(state: InboxState, name: str, *, is_edited: bool, tells_reading: bool) -> str:
    """The same for a message to us."""
    edited = f"; {name} has changed its text since, see its history" if is_edited else ""
    match state:
        case InboxState.NEW:
            return f"it isn't marked as read{edited}"
        case InboxState.READ:
            told = f"{name} is told" if tells_reading else f"{name} isn't told"
            return f"you marked it as read; {told}{edited}"
        case InboxState.RETRACTED:
            return f"{name} took it back; its text is erased here"
        case InboxState.EXPIRED:
            return f"it has expired, as {name} asked; its text is erased here"


# --- one link's window ---


class Window:
    """The rows offered over the link in use and not receipted yet: at most MAX_IN_FLIGHT, in sending order.

    `cursor` is the highest row offered over this link. All waiting rows up to it are in the window, since a link
    starts at the lowest and takes every next one. `start` begins anew for another link.

    A cautious window is for a link that may be cut after a few bytes (a relay of somebody else's: 128 KiB). Offering
    all at once would then be in vain each time, since no receipt comes back before the cut. It offers a little, waits
    for the receipts, offers twice as much, and so on; whatever is cut off, what was receipted before stays done.
    """

    __slots__ = ("_rows", "cursor", "max_bytes")

    def __init__(self) -> None:
        self.cursor = 0
        self.max_bytes = MAX_OFFER_BYTES  # of the next offer
        self._rows: dict[MessageId, tuple[int, bytes]] = {}  # id -> (row, SHA-256 of the body)

    def start(self, *, cautious: bool = False) -> None:
        self.cursor = 0
        self.max_bytes = FIRST_OFFER_BYTES if cautious else MAX_OFFER_BYTES
        self._rows.clear()

    @property
    def is_cautious(self) -> bool:
        return self.max_bytes < MAX_OFFER_BYTES

    @property
    def room(self) -> int:
        """How many more rows may be offered now."""
        return 0 if self.is_cautious and self._rows else MAX_IN_FLIGHT - len(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def offer(self, ids: Sequence[MessageId], rows: Sequence[int], hashes: Sequence[bytes]) -> None:
        """Takes rows that were committed as OFFERED, ascending and above `cursor`."""
        self._rows.update(zip(ids, zip(rows, hashes, strict=True), strict=True))
        self.cursor = rows[-1]

    def body_hash(self, identifier: MessageId) -> bytes | None:
        held = self._rows.get(identifier)
        return held[1] if held else None

    def first_rows(self, ids: Sequence[MessageId]) -> tuple[int, int] | None:
        """The row range of `ids` when they are exactly the first ones in the window, in order; else None.

        Then one range update serves them all: every waiting row of the contact in it is one of them.
        """
        rows = self._rows
        if len(ids) > len(rows) or list(islice(rows, len(ids))) != list(ids):
            return None
        return rows[ids[0]][0], rows[ids[-1]][0]

    def forget(self, ids: Iterable[MessageId]) -> None:
        """Receipted: takes them out."""
        held = len(self._rows)
        for each in ids:
            self._rows.pop(each, None)
        if held and not self._rows and self.is_cautious:
            self.max_bytes = min(2 * self.max_bytes, MAX_OFFER_BYTES)


# --- frames of many ---

RECEIPTS_PER_FRAME: Final = min(MAX_RECEIPTS_PER_FRAME, 896)  # 72 bytes each: this many fill the largest frame


def receipt_frames(receipts: Sequence[Receipt]) -> Iterator[Receipts]:
    """As few frames as possible."""
    for at in range(0, len(receipts), RECEIPTS_PER_FRAME):
        yield Receipts(tuple(receipts[at : at + RECEIPTS_PER_FRAME]))


def retraction_frames(retractions: Sequence[Retraction]) -> Iterator[Retractions]:
    """As few frames as possible."""
    for at in range(0, len(retractions), RECEIPTS_PER_FRAME):
        yield Retractions(tuple(retractions[at : at + RECEIPTS_PER_FRAME]))


# --- ids ---

ID_ENTROPY_BYTES: Final = 11  # of the 16 nonce bytes; the other 5 are the time
_TICKS_PER_SECOND: Final = 16


def id_nonce(now: Millis, entropy: bytes) -> bytes:
    """The 16-byte nonce of a message id: 5 bytes of time in 1/16 s (big-endian), then 11 random bytes.

    Ids that grow with time keep the database's indices appending instead of touching a page a message, at both
    ends (the idea of RFC 9562's UUIDv7). The time is that of `sent_at`, which the recipient learns anyway; 88
    random bits within 1/16 s of one sender don't collide. A clock that jumps costs speed, nothing else.
    """
    ticks = now * _TICKS_PER_SECOND // 1000
    return (ticks & 0xFF_FFFF_FFFF).to_bytes(5, "big") + entropy[:ID_ENTROPY_BYTES]
