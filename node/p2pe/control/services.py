"""What the control API is given to serve: the rooms, and facts about this node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from p2pe.connectivity.links import LinkRegistry
from p2pe.contacts.book import Book
from p2pe.contacts.devices import Devices
from p2pe.contacts.pairing import Pairing
from p2pe.contacts.replacing import Replaced
from p2pe.contacts.requests import Requests
from p2pe.control.shapes import OverlayShape
from p2pe.core.advice import Own
from p2pe.messaging.courier import Couriers
from p2pe.messaging.inbox import Inbox
from p2pe.messaging.outbox import Outbox
from p2pe.messaging.resend import Resender
from p2pe.model import IdentityKey, Millis
from p2pe.overlay.dht_view import DhtView


class Replace(Protocol):
    """contacts/replacing.replace_contact, with a node's rooms filled in."""

    async def __call__(self, name: str, *, invitation: str | None, by: str | None) -> Replaced: ...


@dataclass(frozen=True, slots=True)
class Services:
    """One running node. Usable until the node stops; made by app.py."""

    version: str
    pid: int
    home: str
    started_at: Millis
    identity_key: IdentityKey
    key_protection: str  # "passphrase" or "file mode"
    now: Callable[[], Millis]
    overlay: Callable[[], OverlayShape]
    directory: DhtView
    own_reach: Callable[[], Own]
    book: Book
    pairing: Pairing
    requests: Requests
    devices: Devices
    replace_contact: Replace
    links: LinkRegistry
    couriers: Couriers
    outbox: Outbox
    inbox: Inbox
    resender: Resender
