"""What was tried to reach each contact, and with what outcome: the lines of `p2pe why`. Kept in memory, bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import trio

from p2pe.config import HISTORY_ATTEMPTS
from p2pe.model import ContactId, PathAttempt
from p2pe.ports import Clock


class History:
    """The latest HISTORY_ATTEMPTS attempts of each contact."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._attempts: dict[ContactId, deque[PathAttempt]] = {}  # bounded by MAX_CONTACTS

    def add(self, contact_id: ContactId, attempts: Iterable[PathAttempt]) -> None:
        kept = self._attempts.setdefault(contact_id, deque(maxlen=HISTORY_ATTEMPTS))
        kept.extend(attempts)

    def note(self, contact_id: ContactId, step: str, target: str, outcome: str, started: float) -> None:
        """Adds one attempt that began at `started` (trio's clock) and has just ended."""
        took = trio.current_time() - started
        self.add(contact_id, (PathAttempt(self._clock.now(), step, target, outcome, took),))

    def of(self, contact_id: ContactId) -> tuple[PathAttempt, ...]:
        """Oldest first."""
        return tuple(self._attempts.get(contact_id, ()))

    def forget(self, contact_id: ContactId) -> None:
        self._attempts.pop(contact_id, None)
