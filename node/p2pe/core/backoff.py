"""How long to wait before trying a contact again: doubling, capped, jittered, and longer again for who stays away.

Pure; entropy is passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from p2pe.config import RETRY_AWAY_MAX, RETRY_FIRST, RETRY_JITTER, RETRY_MAX, RETRY_STEADY

ENTROPY_BYTES = 4  # what `Backoff.next` wants
_AT_MAX = math.ceil(math.log2(RETRY_MAX / RETRY_FIRST))  # failures with which the pause is RETRY_MAX


@dataclass(slots=True)
class Backoff:
    """One contact's. `next` gives the wait before the next try; `reset` after a success, `relax` at a sign of life.
    `may_be_away`: after RETRY_STEADY tries at RETRY_MAX the pause grows up to RETRY_AWAY_MAX."""

    failures: int = 0
    may_be_away: bool = False

    def next(self, entropy: bytes) -> float:
        """Seconds: RETRY_FIRST x 2^failures, at most RETRY_MAX, then +-RETRY_JITTER by ENTROPY_BYTES random bytes.

        The cap is applied before the jitter, so that two nodes at the cap don't fall into step.
        """
        wait = min(RETRY_FIRST * 2.0 ** min(self.failures, 32), RETRY_MAX)
        beyond = min(self.failures - _AT_MAX - RETRY_STEADY + 1, 32)
        if self.may_be_away and beyond > 0:
            wait = min(RETRY_MAX * 2.0**beyond, RETRY_AWAY_MAX)
        self.failures += 1
        fraction = int.from_bytes(entropy[:ENTROPY_BYTES], "big") / 2.0 ** (8 * ENTROPY_BYTES)
        return wait * (1.0 + RETRY_JITTER * (2.0 * fraction - 1.0))

    def relax(self) -> None:
        """The next pause is RETRY_MAX at the most, and grows from there."""
        self.failures = min(self.failures, _AT_MAX)

    def reset(self) -> None:
        self.failures = 0
