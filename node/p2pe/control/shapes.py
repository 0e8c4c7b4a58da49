"""The answers of the control API, as the JSON objects they are.

One definition for both ends: the server fills and documents them (OpenAPI), the client hands them out. No pydantic
here, so that a CLI command needn't load it. Times are Unix milliseconds, durations seconds, ids and keys hex.
"""

from __future__ import annotations

from typing_extensions import TypedDict


class ErrorBody(TypedDict):
    code: str
    message: str


class ErrorAnswer(TypedDict):
    error: ErrorBody


class OutgoingShape(TypedDict):
    """A message of ours."""

    id: str
    contact: str
    state: str
    reason: str
    since: int
    text: str
    reply_to: str | None
    edits: str | None
    queued_at: int
    offered_at: int | None
    delivered_at: int | None
    read_at: int | None
    attempts: int
    expire_after: float | None
    expires_at: int | None


class IncomingShape(TypedDict):
    """A message to us. `row` is the cursor for `after`. `state` is new, read, retracted or expired; of the last two
    the text is gone. `edits` names the message whose text this one replaces, `edited` says that a later one does."""

    row: int
    id: str
    contact: str
    state: str
    since: int
    text: str
    reply_to: str | None
    edits: str | None
    edited: bool
    sent_at: int
    received_at: int
    read_at: int | None
    expire_after: float | None
    expires_at: int | None


class IncomingDetail(IncomingShape):
    """With the reason for its state, as a sentence."""

    reason: str


class OutboxAnswer(TypedDict):
    messages: list[OutgoingShape]


class AcceptedAnswer(TypedDict):
    """Ids of a batch, in the order of the request; all are durably committed."""

    ids: list[str]


class InboxAnswer(TypedDict):
    """`next` is the `after` of the following request, `next_ended` its `ended_after`. `ended`: of the messages up to
    `after` those that were taken back or have expired since `ended_after`."""

    messages: list[IncomingShape]
    next: int
    ended: list[IncomingShape]
    next_ended: int


class IncomingHistory(TypedDict):
    """A message and what replaced its text, oldest first."""

    messages: list[IncomingShape]


class MarkedAnswer(TypedDict):
    marked: int


class ContactShape(TypedDict):
    """`looks_like`: names of other contacts that a person may take this one for."""

    name: str
    identity_key: str
    safety_number: str
    paired_at: int
    verified: bool
    blocked: bool
    receipts: bool
    connected: bool
    path: str | None
    looks_like: list[str]


class ContactsAnswer(TypedDict):
    contacts: list[ContactShape]


class InviteShape(TypedDict):
    """`code` and `link` are empty once the invite is closed; `contact` is set once somebody came. `shows_address`:
    whoever has the code or the link, or guesses the locator, learns this machine's IP address."""

    id: int
    kind: str
    state: str
    code: str | None
    link: str | None
    name: str | None
    guesses_left: int
    shows_address: bool
    created_at: int
    expires_at: int
    contact: ContactShape | None


class InvitesAnswer(TypedDict):
    invites: list[InviteShape]


class RequestShape(TypedDict):
    """A former contact who came to this restored identity. `state`: waiting, approved, refused."""

    id: int
    name: str
    identity_key: str
    safety_number: str
    met_at: int
    first_at: int
    last_at: int
    state: str


class RequestsAnswer(TypedDict):
    requests: list[RequestShape]


class ReplacedAnswer(TypedDict):
    """`held`: messages that waited for the old identity, and wait for `resend` now."""

    old: ContactShape
    new: ContactShape
    held: int


class DevicesAnswer(TypedDict):
    """Keys are hex. Contacts refuse certificates with a lower `list_version` than they have seen."""

    device: str
    list_version: int
    issued_at: int
    revoked: list[str]


class AttemptShape(TypedDict):
    at: int
    step: str
    target: str
    outcome: str
    took: float


class WhyAnswer(TypedDict):
    """How a contact is, or isn't, reached, and what waits for it."""

    contact: str
    connected: bool
    path: str | None
    round_trip: float | None
    since: int | None
    next_try_at: int | None
    waiting: int
    summary: str
    advice: list[str]
    attempts: list[AttemptShape]


class RelayShape(TypedDict):
    peer_id: str
    address: str


class LinkShape(TypedDict):
    """How a connected contact is reached. `path`: lan, direct, punched or relayed."""

    contact: str
    path: str
    round_trip: float | None
    since: int | None


class ReachabilityShape(TypedDict):
    """`reachable` public, private or unknown; `nat` none, endpoint-independent, endpoint-dependent or unknown."""

    reachable: str
    relay_policy: str
    nat: str
    port_kept: bool | None
    port_mapping: str  # what the router was asked for and granted, or why not, for people
    verified: list[str]
    observed: list[str]
    relays: list[RelayShape]


class OverlayShape(TypedDict):
    peer_id: str
    listen: list[str]
    connections: int
    directory_peers: int
    directory_mode: str  # client, or server while others are served
    records_refused: bool  # as in DhtAnswer
    reachability: ReachabilityShape


class BucketShape(TypedDict):
    """`number`: leading bits shared with this node."""

    number: int
    servers: int
    live: int
    waiting: int


class DhtTrafficShape(TypedDict):
    requests: int
    failures: int
    bytes_out: int
    bytes_in: int


class DhtServedShape(TypedDict):
    find_node: int
    get_value: int
    put_value: int
    ping: int
    stored: int
    refused_records: int
    refused_rate: int
    malformed: int


class DhtAnswer(TypedDict):
    """The directory from here. `mode` is client or server. `records_refused`: servers answer, and none takes a record
    of this node: most likely its clock is wrong."""

    mode: str
    joined: bool
    servers_known: int
    servers_live: int
    buckets: list[BucketShape]
    records_stored: int
    records_refused: bool
    refreshed_ago: float | None
    leaving_per_hour: float
    republish_after: int
    lookups: int
    lookups_failed: int
    lookup_median: float | None
    traffic: DhtTrafficShape
    served: DhtServedShape


class NearServerShape(TypedDict):
    address: str
    shared_bits: int
    round: int
    stores: bool


class DhtLookupAnswer(TypedDict):
    """Nearest first. `stores`: a record of this hash would be stored there."""

    hash: str
    seconds: float
    requests: int
    unanswered: int
    servers: list[NearServerShape]


class CountsShape(TypedDict):
    contacts: int
    connected: int
    queued: int
    offered: int
    held: int
    unread: int


class StatusAnswer(TypedDict):
    version: str
    pid: int
    home: str
    started_at: int
    identity_key: str
    key_protection: str
    overlay: OverlayShape
    counts: CountsShape
    links: list[LinkShape]
