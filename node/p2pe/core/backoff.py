"""How long to wait before trying a contact again: doubling, capped, jittered. Pure; entropy is passed in."""

from __future__ import annotations

from dataclasses import dataclass

from p2pe.config import RETRY_FIRST, RETRY_JITTER, RETRY_MAX

ENTROPY_BYTES = 4  # what `Backoff.next` wants


@dataclass(slots=True)
class Backoff:
    """One contact's. `next` gives the wait before the next try; `reset` after a success."""

    failures: int = 0

    def next(self, entropy: bytes) -> float:
        """Seconds: RETRY_FIRST x 2^failures, at most RETRY_MAX, then +-RETRY_JITTER by ENTROPY_BYTES random bytes.

        The cap is applied before the jitter, so that two nodes at the cap don't fall into step.
        """
        wait = min(RETRY_FIRST * 2.0 ** min(self.failures, 32), RETRY_MAX)
        self.failures += 1
        fraction = int.from_bytes(entropy[:ENTROPY_BYTES], "big") / 2.0 ** (8 * ENTROPY_BYTES)
        return wait * (1.0 + RETRY_JITTER * (2.0 * fraction - 1.0))

    def reset(self) -> None:
        self.failures = 0
