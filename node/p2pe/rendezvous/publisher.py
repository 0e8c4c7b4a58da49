"""Publishes where we are, once for each contact, under the pair's key of the day.

Nobody but the contact can tell whose record it is, or that two of them are the same node's on two days
(docs/protocol/directory.md). All at once, in random order, on a start and once changed addresses have settled; after
that each on its own, as often as the directory says. Records that nobody reads fill their number up to a multiple of
PUBLISH_COVER: whoever stores many of one node's can't tell by them how many contacts there are
(docs/decisions/0401-publishing.md). A contact with a live link needs no refresh until that link ends: it knows where
we are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
import trio

from p2pe.config import (
    CLOCK_SKEW,
    PUBLISH_AT_ONCE,
    PUBLISH_COVER,
    PUBLISH_DEBOUNCE,
    PUBLISH_LOOK,
    PUBLISH_SETTLE,
    PUBLISH_SETTLE_MAX,
    PUBLISH_SPREAD,
    RECORD_REFRESH,
    RECORD_TTL,
    RECORD_TTL_REFRESHES,
)
from p2pe.core.addresses import is_circuit, is_public
from p2pe.core.backoff import ENTROPY_BYTES, Backoff
from p2pe.core.derive import cover_rendezvous, day_of, lookup_seed, record_aead_key
from p2pe.core.records import NONCE_BYTES, make_record, public_key_of, record_key, seal_addresses
from p2pe.errors import Unreachable
from p2pe.model import Address, ContactId, Millis, PeerInfo
from p2pe.ports import Directory, World
from p2pe.rendezvous.pulse import Pulse
from p2pe.rendezvous.roster import Roster

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Aim:
    """For whom to publish: a contact, or nobody (a negative id)."""

    contact_id: ContactId
    keys: tuple[bytes, ...]  # K_rendezvous of each pair secret in use, newest last
    direction: int


@dataclass(slots=True)
class _Schedule:
    """One aim's publications, in wall-clock time: that goes on while a laptop sleeps."""

    due: Millis
    pause: float = RECORD_REFRESH  # seconds from the last publication to the next, without the jitter
    published: int = 0  # Unix milliseconds; 0 = never
    key: bytes = b""  # of the pair secret it was published under
    shown: frozenset[Address] = frozenset()  # our addresses in it, or in the attempt that is being repeated
    backoff: Backoff = field(default_factory=Backoff)


def days_to_publish(now: Millis, refresh: float = RECORD_REFRESH) -> tuple[int, ...]:
    """Today, and tomorrow too when midnight (UTC) comes before the next refresh is sure to have happened."""
    horizon = now + round(1000 * (refresh * (1 + PUBLISH_SPREAD) + CLOCK_SKEW))
    return tuple(range(day_of(now), day_of(Millis(horizon)) + 1))


def _from_outside(addresses: frozenset[Address]) -> frozenset[Address]:
    return frozenset(a for a in addresses if is_circuit(a) or is_public(a))


class _Settling:
    """Our addresses, and whether it is time to publish them. Relays and proofs come and go one after another."""

    def __init__(self) -> None:
        self.shown: frozenset[Address] = frozenset()  # what was last thought worth publishing
        self._latest: frozenset[Address] = frozenset()
        self._changed = 0.0  # trio time at which the last change was seen, and the first one not yet published; both
        self._began = 0.0  # come PUBLISH_DEBOUNCE after it happened

    def look(self, own: frozenset[Address], now: float) -> None:
        if own == self._latest:
            return
        if self._latest == self.shown:
            self._began = now
        self._latest, self._changed = own, now

    def is_somewhere(self) -> bool:
        return bool(self._latest)

    def still_reached(self) -> bool:
        """Who reads what is published reaches us by some of it, from anywhere."""
        return bool(_from_outside(self.shown) & self._latest)

    def due(self) -> float | None:
        """When to publish what was last looked at; None: it is published, or there is nothing."""
        if not self._latest or self._latest == self.shown:
            return None
        if not self.shown:
            return self._changed
        awaits_relay = _from_outside(self.shown) and not _from_outside(self._latest)  # as after a start
        if not (awaits_relay or self.still_reached()):
            return self._changed
        return min(self._changed + PUBLISH_SETTLE, self._began + PUBLISH_SETTLE_MAX) - PUBLISH_DEBOUNCE


class Publisher:
    """`run` it once. `own` gives our peer id and what contacts may see of our addresses, best first. `cover`: a lasting
    secret from which the records for nobody are derived; None: there are none."""

    def __init__(
        self,
        world: World,
        directory: Directory,
        roster: Roster,
        *,
        own: Callable[[], PeerInfo],
        is_linked: Callable[[ContactId], bool],
        cover: bytes | None = None,
    ) -> None:
        self._world = world
        self._directory = directory
        self._roster = roster
        self._own = own
        self._is_linked = is_linked
        self._covers = () if cover is None else tuple(cover_rendezvous(cover, n) for n in range(PUBLISH_COVER))
        self._schedules: dict[ContactId, _Schedule] = {}  # bounded by MAX_CONTACTS
        self._wake = Pulse()
        self._settling = _Settling()
        self._acted = 0  # the last wake-up of which everything due has been tried
        self._rounds = Pulse()
        self.was_shut_out = False  # nobody took the first record that was to be stored
        self.first_stored = trio.Event()  # somebody has taken a record of ours: the directory is there
        self.first_round = trio.Event()  # everything was tried once: contacts can find us, or nobody can be asked

    def look_again(self) -> None:
        """Our addresses may be others than before, or a link has come or gone: `run` sees what is due."""
        self._wake.fire()

    async def caught_up(self) -> None:
        """Returns when what is due after the calls of `look_again` so far has been tried: what can wait isn't due."""
        wanted = self._wake.count
        while self._acted < wanted:
            await self._rounds.beyond(self._rounds.count)

    async def run(self) -> None:
        """Runs until it is cancelled. Failures of the directory are retried with back-off, never raised."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_roster)
            while True:
                seen = self._wake.count
                due = self._take_due()
                if due:
                    await self._publish_all(due)
                if self._settling.shown:
                    self.first_round.set()
                if self._settling.due() is None or self._settling.still_reached():
                    self._acted = seen
                    self._rounds.fire()
                with trio.move_on_after(self._seconds_to_next()) as waiting:
                    await self._wake.beyond(seen)
                if not waiting.cancelled_caught:
                    await trio.sleep(PUBLISH_DEBOUNCE if self._settling.shown else 0)

    async def _watch_roster(self) -> None:
        while True:
            seen = self._roster.changed.count
            await self._roster.changed.beyond(seen)
            self._wake.fire()

    # --- what is due ---

    def _aims(self) -> list[_Aim]:
        """The contacts that aren't blocked, and as many nobodies as make the number round."""
        aims = [
            _Aim(known.contact_id, tuple(keys.rendezvous for keys in known.keys), known.our_direction)
            for known in self._roster.active()
        ]
        if self._covers:
            for number in range(-len(aims) % PUBLISH_COVER):
                aims.append(_Aim(ContactId(-1 - number), (self._covers[number],), number % 2))
        return aims

    def _take_due(self) -> list[_Aim]:
        """Brings the schedules up to date with roster, addresses and clock; gives the aims to publish for now."""
        now = self._world.clock.now()
        own = frozenset(self._own().addresses)
        self._settling.look(own, trio.current_time())
        if not own:
            return []  # nowhere to be reached yet: AddressesChanged follows
        settled = self._settling.due()
        if settled is not None and settled <= trio.current_time():
            self._settling.shown = own
        aims = self._aims()
        present = {aim.contact_id for aim in aims}
        for contact_id in [each for each in self._schedules if each not in present]:
            del self._schedules[contact_id]
        due = []
        for aim in aims:
            schedule = self._schedules.setdefault(aim.contact_id, _Schedule(now))
            # Of a round during which the addresses changed, the later part has shown the new ones already.
            moved = schedule.shown != self._settling.shown and own == self._settling.shown
            if moved or schedule.published > now or schedule.key != aim.keys[-1]:
                schedule.due = now
            elif self._has_lapsed(schedule, now) and not self._is_linked(aim.contact_id):
                schedule.due = now  # a link made refreshing needless, and has ended
            if schedule.due > now:
                continue
            if not moved and schedule.published and self._is_linked(aim.contact_id):
                self._schedule_next(schedule, now)
                continue
            due.append(aim)
        due.sort(key=lambda _: self._world.entropy(8))
        return due

    @staticmethod
    def _has_lapsed(schedule: _Schedule, now: Millis) -> bool:
        """The last publication is older than a refresh, and none has failed since (those have their back-off)."""
        oldest = now - round(1000 * schedule.pause * (1 + PUBLISH_SPREAD))
        return 0 < schedule.published < oldest and not schedule.backoff.failures

    def _schedule_next(self, schedule: _Schedule, now: Millis) -> None:
        fraction = int.from_bytes(self._world.entropy(4), "big") / 2**32
        schedule.pause = self._directory.refresh_seconds()
        seconds = schedule.pause * (1 + PUBLISH_SPREAD * (2 * fraction - 1))
        schedule.due = Millis(now + round(1000 * seconds))

    def _seconds_to_next(self) -> float:
        if not self._settling.is_somewhere():
            return PUBLISH_LOOK
        now = self._world.clock.now()
        waits = [(schedule.due - now) / 1000 for schedule in self._schedules.values()]
        if (settled := self._settling.due()) is not None:
            waits.append(settled - trio.current_time())
        return max(0.05, min([PUBLISH_LOOK, *waits]))

    # --- publishing ---

    async def _publish_all(self, due: list[_Aim]) -> None:
        queue = list(due)

        async def worker() -> None:
            while queue:
                await self._publish(queue.pop())

        async with trio.open_nursery() as nursery:
            for _ in range(min(PUBLISH_AT_ONCE, len(due))):
                nursery.start_soon(worker)

    async def _publish(self, aim: _Aim) -> None:
        schedule = self._schedules.get(aim.contact_id)
        now, own = self._world.clock.now(), self._own()
        if schedule is None or not own.addresses:
            return
        schedule.shown = frozenset(own.addresses)
        taken, problem = 0, ""
        try:
            for key in aim.keys:
                for day in days_to_publish(now, self._directory.refresh_seconds()):
                    taken = await self._store(own, key, aim.direction, day)
        except Unreachable as error:
            problem = str(error)
        if problem or not taken:
            self.was_shut_out = self.was_shut_out or not self.first_stored.is_set()
            wait = schedule.backoff.next(self._world.entropy(ENTROPY_BYTES))
            schedule.due = Millis(self._world.clock.now() + round(1000 * wait))
            _log.debug("an address record wasn't stored; trying again", seconds=round(wait, 1), problem=problem)
            return
        schedule.backoff.reset()
        self.first_stored.set()
        schedule.published, schedule.key = now, aim.keys[-1]
        self._schedule_next(schedule, now)

    async def _store(self, own: PeerInfo, k_rendezvous: bytes, direction: int, day: int) -> int:
        now = self._world.clock.now()  # of each record: the clock may be set while one is stored
        seed = lookup_seed(k_rendezvous, direction, day)
        aead_key = record_aead_key(k_rendezvous, direction, day)
        payload = seal_addresses(own, aead_key, self._world.entropy(NONCE_BYTES))
        lives = max(RECORD_TTL, RECORD_TTL_REFRESHES * self._directory.refresh_seconds())
        raw = make_record(seed, 0, now, Millis(now + round(1000 * lives)), payload)
        return await self._directory.publish(record_key(public_key_of(seed), 0), raw)
