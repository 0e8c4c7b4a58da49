"""What makes a run a function of its plan: scheduling, module-level randomness, hash order.

Two names of trio's are private (`_core._run._r`, `_ALLOW_DETERMINISTIC_SCHEDULING`): trio has them for Hypothesis.
tests/world/test_canary.py fails when a release of trio drops or renames them.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from typing import Any

import trio

from p2pe_sim.world.randomness import Randomness


class _Scheduling(random.Random):
    """Trio's dice: the order in which tasks that can run do. A batch is one task more often than not."""

    def shuffle(self, batch: MutableSequence[Any]) -> None:
        if len(batch) > 1:
            draw = self.random
            batch[:] = sorted(batch, key=lambda _: draw())


class NotPinned(RuntimeError):
    """This process can't give the same run twice."""


def require_pinned_hashes() -> None:
    """Raises NotPinned unless sets of strings have the same order in each process."""
    if sys.flags.hash_randomization:
        raise NotPinned(
            "hash order isn't pinned: start Python with PYTHONHASHSEED=0 (p2pe-sim does), or one plan gives two runs"
        )


@contextmanager
def seeded(randomness: Randomness) -> Iterator[None]:
    """Trio's scheduler and the module `random` follow the seed inside the block."""
    scheduler: Any = trio._core._run  # type: ignore[attr-defined]  # see the head of this file
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r, random.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r = _Scheduling()
    scheduler._r.setstate(randomness.stream("trio").getstate())
    random.setstate(randomness.stream("random").getstate())
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        scheduler._r = before[1]
        random.setstate(before[2])
