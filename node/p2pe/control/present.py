"""Values of the rooms as the JSON objects of control/shapes.py."""

from __future__ import annotations

from collections.abc import Sequence

from p2pe.contacts.pairing import ShownInvite
from p2pe.control.shapes import (
    AttemptShape,
    ContactShape,
    DevicesAnswer,
    IncomingShape,
    InviteShape,
    LinkShape,
    OutgoingShape,
    WhyAnswer,
)
from p2pe.core.advice import Own, advise
from p2pe.core.delivery import Situation
from p2pe.core.derive import safety_number
from p2pe.identity.devices import DeviceList
from p2pe.model import (
    Contact,
    ContactReachability,
    IdentityKey,
    IncomingMessage,
    MessageId,
    Millis,
    OutgoingMessage,
    PathAttempt,
    PathKind,
)


def _hex(identifier: MessageId | None) -> str | None:
    return None if identifier is None else identifier.hex()


def outgoing(message: OutgoingMessage) -> OutgoingShape:
    return {
        "id": message.id.hex(),
        "contact": message.contact_name,
        "state": message.state.value,
        "reason": message.reason,
        "since": message.since,
        "text": message.content.text,
        "reply_to": _hex(message.content.reply_to),
        "edits": _hex(message.content.edits),
        "queued_at": message.queued_at,
        "offered_at": message.offered_at,
        "delivered_at": message.delivered_at,
        "read_at": message.read_at,
        "attempts": message.attempts,
        "expire_after": message.expire_after / 1000 or None,
        "expires_at": message.expires_at,
    }


def incoming(message: IncomingMessage) -> IncomingShape:
    return {
        "row": message.row,
        "id": message.id.hex(),
        "contact": message.contact_name,
        "state": message.state.value,
        "since": message.ended_at or message.read_at or message.received_at,
        "text": message.content.text,
        "reply_to": _hex(message.content.reply_to),
        "edits": _hex(message.content.edits),
        "edited": message.is_edited,
        "sent_at": message.sent_at,
        "received_at": message.received_at,
        "read_at": message.read_at,
        "expire_after": message.expire_after / 1000 or None,
        "expires_at": message.expires_at,
    }


def contact(person: Contact, own: IdentityKey, path: PathKind | None, looks_like: Sequence[str] = ()) -> ContactShape:
    """`path`: of the live link, None without one. `looks_like`: names of others that a person may mix it up with."""
    return {
        "name": person.name,
        "identity_key": person.identity_key.hex(),
        "safety_number": safety_number(own, person.identity_key),
        "paired_at": person.paired_at,
        "verified": person.verified,
        "blocked": person.blocked,
        "receipts": person.tells_reading,
        "connected": path is not None,
        "path": None if path is None else path.value,
        "looks_like": list(looks_like),
    }


def devices(found: DeviceList) -> DevicesAnswer:
    return {
        "device": found.device_key.hex(),
        "list_version": found.list_version,
        "issued_at": found.issued_at,
        "revoked": [each.hex() for each in found.revoked],
    }


def attempt(tried: PathAttempt) -> AttemptShape:
    return {
        "at": tried.at,
        "step": tried.step,
        "target": tried.target,
        "outcome": tried.outcome,
        "took": round(tried.took, 4),
    }


_PATHS = {
    PathKind.LAN: "over the local network",
    PathKind.DIRECT: "directly",
    PathKind.PUNCHED: "directly, through both sides' NATs",
    PathKind.RELAYED: "through a relay, which sees neither texts nor names",
}


def link(person: Contact, reach: ContactReachability) -> LinkShape | None:
    """None for a contact who isn't connected."""
    if reach.path is None:
        return None
    return {"contact": person.name, "path": reach.path.value, "round_trip": reach.round_trip, "since": reach.since}


def why(
    person: Contact, reach: ContactReachability, situation: Situation, waiting: int, now: Millis, own: Own
) -> WhyAnswer:
    """How a contact is reached, or which step failed last, and what would help. `waiting`: messages queued for it."""
    next_try = situation.next_try_at or reach.next_try_at
    return {
        "contact": person.name,
        "connected": reach.connected,
        "path": None if reach.path is None else reach.path.value,
        "round_trip": reach.round_trip,
        "since": reach.since,
        "next_try_at": None if reach.connected else next_try,
        "waiting": waiting,
        "summary": _summary(person, reach, situation, next_try, now),
        "advice": list(advise(reach, own, blocked=person.blocked)),
        "attempts": [attempt(each) for each in reach.attempts],
    }


def _summary(
    person: Contact, reach: ContactReachability, situation: Situation, next_try: Millis | None, now: Millis
) -> str:
    if person.blocked:
        return f"You have blocked {person.name}: nothing is sent, and to them you look offline."
    if reach.connected and reach.path is not None:
        trip = "" if reach.round_trip is None else f", round trip {reach.round_trip * 1000:.0f} ms"
        return f"{person.name} is connected {_PATHS[reach.path]}{trip}."
    failed = [each for each in reach.attempts if each.outcome != "ok"]
    problem = situation.failure or (f"{failed[-1].step}: {failed[-1].outcome}" if failed else "")
    parts = [f"{person.name} isn't connected"]
    if problem:
        parts.append(f"; last try: {problem}")
    if situation.trying:
        parts.append("; connecting now")
    elif next_try is not None:
        parts.append(f"; next try in {max(0, next_try - now + 999) // 1000} s")
    elif not problem:
        parts.append("; nothing waits for them, so nothing is tried until they come or you write")
    return "".join(parts) + "."


def invite(shown: ShownInvite, person: ContactShape | None) -> InviteShape:
    """`person`: who came, once somebody did."""
    return {
        "id": shown.id,
        "kind": shown.kind,
        "state": shown.state,
        "code": shown.code,
        "link": shown.link,
        "name": shown.name,
        "guesses_left": shown.guesses_left,
        "shows_address": shown.shows_address,
        "created_at": shown.created_at,
        "expires_at": shown.expires_at,
        "contact": person,
    }
