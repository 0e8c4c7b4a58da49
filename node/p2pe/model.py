"""Value types that every room shares. No behaviour beyond reading and printing themselves.

Times are Unix milliseconds (`Millis`) where they are stored or sent, seconds (`float`) where they are
durations handed to trio. Addresses are text multiaddrs (`/ip4/192.0.2.1/tcp/4001`) without a `/p2p` part
unless a docstring says otherwise; only `overlay` turns them into libp2p's own types.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NewType

import base58

Millis = NewType("Millis", int)
Address = NewType("Address", str)
ContactId = NewType("ContactId", int)  # row id in this database; means nothing elsewhere
IdentityKey = NewType("IdentityKey", bytes)  # Ed25519 public key, 32 bytes
MessageId = NewType("MessageId", bytes)  # 32 bytes, see docs/protocol.md "Message ids"
StreamId = NewType("StreamId", bytes)  # 16 bytes: one installation's sending order


class PeerId(bytes):
    """A libp2p peer id: the raw multihash. Prints as base58btc, the form people see (`12D3Koo...`)."""

    def __str__(self) -> str:
        return str(base58.b58encode(bytes(self)), "ascii")

    def __repr__(self) -> str:
        return f"PeerId({self})"

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """Reads the base58btc form. Raises ValueError when it isn't base58 or not a plausible multihash."""
        raw = base58.b58decode(text)
        if len(raw) < 4 or raw[0] not in (0x00, 0x12) or raw[1] != len(raw) - 2:
            raise ValueError(f"not a libp2p peer id: {text!r}")
        return cls(raw)


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A peer and the addresses under which it may be reached (text multiaddrs without /p2p)."""

    peer_id: PeerId
    addresses: tuple[Address, ...] = ()


class PathKind(StrEnum):
    """How a connection runs. LAN and DIRECT are plain dials; PUNCHED was opened from both sides at once."""

    LAN = "lan"
    DIRECT = "direct"
    PUNCHED = "punched"
    RELAYED = "relayed"


class MessageState(StrEnum):
    """Where an outgoing message is. The transition table is core/delivery.py; no other change is legal."""

    QUEUED = "queued"  # committed here; has never left
    OFFERED = "offered"  # may have left; no receipt yet
    DELIVERED = "delivered"  # the recipient's receipt says: durably committed there
    READ = "read"
    RETRACTED = "retracted"
    EXPIRED = "expired"
    HELD_IDENTITY = "held_identity"  # the contact's identity changed, or ours was restored; needs a resend


class InboxState(StrEnum):
    """Where an incoming message is."""

    NEW = "new"
    READ = "read"  # marked so here
    RETRACTED = "retracted"  # its sender took it back
    EXPIRED = "expired"  # as its sender asked, a while after it was marked read


class ReceiptStatus(IntEnum):
    """Same numbers as in session.proto."""

    DELIVERED = 1
    READ = 2
    RETRACTED = 3


class Purpose(IntEnum):
    """Same numbers as in session.proto."""

    SESSION = 1
    PAIR_CODE = 2
    PAIR_LINK = 3
    RECOVER = 4


# --- frames inside a session (core/codec.py turns them into protobuf and back) ---


@dataclass(frozen=True, slots=True)
class Content:
    """What a person wrote. `text` for a message; with `edits` it replaces the text of that earlier message."""

    text: str
    reply_to: MessageId | None = None
    edits: MessageId | None = None


@dataclass(frozen=True, slots=True)
class WireMessage:
    """One message as it travels. `body` is the serialized Content: receipts are bound to its SHA-256."""

    id: MessageId
    sequence: int
    sent_at: Millis
    body: bytes
    expire_after: int = 0  # milliseconds after reading; 0 = never


@dataclass(frozen=True, slots=True)
class Batch:
    stream_id: StreamId
    messages: tuple[WireMessage, ...]


@dataclass(frozen=True, slots=True)
class Receipt:
    id: MessageId
    status: ReceiptStatus
    mac: bytes


@dataclass(frozen=True, slots=True)
class Receipts:
    receipts: tuple[Receipt, ...]


@dataclass(frozen=True, slots=True)
class OrderConflict:
    stream_id: StreamId
    last_sequence: int


@dataclass(frozen=True, slots=True)
class Retraction:
    id: MessageId
    mac: bytes


@dataclass(frozen=True, slots=True)
class Retractions:
    retractions: tuple[Retraction, ...]


@dataclass(frozen=True, slots=True)
class PairConfirm:
    mac: bytes
    ticket: bytes


@dataclass(frozen=True, slots=True)
class Ping:
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    nonce: bytes


class GoodbyeReason(IntEnum):
    STOPPING = 1
    RENEW = 2
    SUPERSEDED = 3


@dataclass(frozen=True, slots=True)
class Goodbye:
    reason: GoodbyeReason


class RotationStep(IntEnum):
    PROPOSE = 1
    ACCEPT = 2
    COMMIT = 3


@dataclass(frozen=True, slots=True)
class Rotation:
    step: RotationStep
    epoch: int
    contribution: bytes


Frame = Batch | Receipts | OrderConflict | Retractions | PairConfirm | Ping | Pong | Goodbye | Rotation


# --- what people see ---


@dataclass(frozen=True, slots=True)
class Contact:
    id: ContactId
    name: str
    identity_key: IdentityKey
    paired_at: Millis
    verified: bool = False
    blocked: bool = False
    tells_reading: bool = False  # it gets receipts when its messages are marked read here


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message of ours, with its state, why it is in that state, and since when."""

    id: MessageId
    contact_id: ContactId
    contact_name: str
    state: MessageState
    reason: str  # a sentence for people: what it waits for, or what ended it
    since: Millis
    queued_at: Millis
    content: Content
    offered_at: Millis | None = None
    delivered_at: Millis | None = None
    read_at: Millis | None = None
    attempts: int = 0  # how many times it was offered
    expire_after: int = 0  # milliseconds after delivery (there: after reading); 0 = never
    expires_at: Millis | None = None  # by our clock, once it counts down


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    row: int  # grows with arrival; a cursor for `--follow`
    id: MessageId
    contact_id: ContactId
    contact_name: str
    received_at: Millis
    sent_at: Millis  # the sender's clock
    content: Content  # an empty text once it was taken back or has expired
    read_at: Millis | None = None
    state: InboxState = InboxState.NEW
    is_edited: bool = False  # a later message of the same sender replaces its text
    ended_at: Millis | None = None  # when it was taken back or expired here
    expire_after: int = 0  # milliseconds after reading; 0 = never
    expires_at: Millis | None = None  # by our clock, once it counts down


@dataclass(frozen=True, slots=True)
class PathAttempt:
    """One line of `p2pe why NAME`."""

    at: Millis
    step: str  # "lookup", "dial", "relay", "punch", "handshake"
    target: str  # the address or relay, or "" for a lookup
    outcome: str  # "ok", or what failed, for people
    took: float = 0.0  # seconds


@dataclass(frozen=True, slots=True)
class ContactReachability:
    contact_id: ContactId
    connected: bool
    path: PathKind | None = None
    round_trip: float | None = None  # seconds
    since: Millis | None = None
    attempts: tuple[PathAttempt, ...] = field(default=())
    next_try_at: Millis | None = None
