"""Who may cost us what: attempts of strangers per subnet and in all, and handshakes under way.

A hello with a contact's tag, or with the handle of an open invite, is no stranger's; everything else counts here,
before any public-key work (docs/protocol.md "Messages": no open inbox).
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from p2pe.config import (
    MAX_CONTACT_HANDSHAKES_PER_MINUTE,
    MAX_PENDING_HANDSHAKES,
    MAX_SUBNETS_COUNTED,
    MAX_WAITING_HELLOS,
    SESSION_ATTEMPTS_PER_MINUTE,
    SESSION_ATTEMPTS_PER_MINUTE_PER_SUBNET,
)
from p2pe.core.addresses import subnet_of
from p2pe.model import Address, ContactId

_WINDOW = 60.0  # seconds


class _Counter:
    """Events within the last minute, up to a limit."""

    __slots__ = ("_limit", "_times")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._times: deque[float] = deque(maxlen=limit)

    def is_full(self) -> bool:
        return len(self._times) == self._limit and trio.current_time() - self._times[0] < _WINDOW

    def count(self) -> None:
        self._times.append(trio.current_time())


@dataclass(frozen=True, slots=True, eq=False)
class _Guest:
    subnet: bytes
    evict: Callable[[], None]


class WaitingRoom:
    """Streams whose hello hasn't come yet. A newcomer always gets in: when it is full, the subnet that has most in it
    loses its oldest. An honest dialler's hello comes within a round trip, so it isn't the oldest for long, while those
    who open streams and say nothing push each other out."""

    def __init__(self, places: int = MAX_WAITING_HELLOS) -> None:
        self._places = places
        self._guests: dict[_Guest, None] = {}  # in order of arrival
        self.evicted = 0  # since the start

    @contextmanager
    def enter(self, remote: Address) -> Iterator[trio.CancelScope]:
        """A place while the block runs. The block is cancelled when it is evicted."""
        with trio.CancelScope() as scope:
            guest = _Guest(_subnet(remote), scope.cancel)
            if len(self._guests) >= self._places:
                self._evict_one()
            self._guests[guest] = None
            try:
                yield scope
            finally:
                self._guests.pop(guest, None)

    def _evict_one(self) -> None:
        crowd = Counter(guest.subnet for guest in self._guests)
        greedy = max(crowd, key=lambda subnet: crowd[subnet])
        victim = next(guest for guest in self._guests if guest.subnet == greedy)
        del self._guests[victim]
        self.evicted += 1
        victim.evict()


class Admission:
    """Counters of one node. Subnets beyond MAX_SUBNETS_COUNTED push out the oldest; the total still holds."""

    def __init__(self) -> None:
        self._total = _Counter(SESSION_ATTEMPTS_PER_MINUTE)
        self._subnets: OrderedDict[bytes, _Counter] = OrderedDict()
        self._contacts: dict[ContactId, _Counter] = {}  # bounded by MAX_CONTACTS
        self._pending = 0
        self.waiting_room = WaitingRoom()
        self.refused = 0  # since the start, for status and tests

    def begin(self) -> bool:
        """Takes a place for one handshake, once there is a hello; False when all MAX_PENDING_HANDSHAKES are taken.
        Pair it with `end`."""
        if self._pending >= MAX_PENDING_HANDSHAKES:
            self.refused += 1
            return False
        self._pending += 1
        return True

    def end(self) -> None:
        self._pending -= 1

    def is_exhausted(self, remote: Address) -> bool:
        """Whether strangers from there, or strangers at all, have used up their attempts for this minute."""
        subnet = self._subnets.get(_subnet(remote))
        return self._total.is_full() or (subnet is not None and subnet.is_full())

    def failed(self, remote: Address) -> None:
        """A stranger's hello, a wrong guess, or a handshake that failed."""
        self.refused += 1
        self._total.count()
        key = _subnet(remote)
        counter = self._subnets.pop(key, None) or _Counter(SESSION_ATTEMPTS_PER_MINUTE_PER_SUBNET)
        self._subnets[key] = counter
        counter.count()
        if len(self._subnets) > MAX_SUBNETS_COUNTED:
            self._subnets.popitem(last=False)

    def may_contact(self, contact_id: ContactId) -> bool:
        """Whether the contact hasn't opened too many sessions this minute; counts this one."""
        counter = self._contacts.setdefault(contact_id, _Counter(MAX_CONTACT_HANDSHAKES_PER_MINUTE))
        if counter.is_full():
            self.refused += 1
            return False
        counter.count()
        return True


def _subnet(remote: Address) -> bytes:
    """Those who come through a relay count under the relay's subnet; what can't be read counts together."""
    return subnet_of(remote) or b""
