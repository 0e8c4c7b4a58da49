"""Where broken invariants are collected."""

from __future__ import annotations

from collections.abc import Callable, Collection

import trio

from p2pe_sim.invariants import SAFETY
from p2pe_sim.result import Broken
from p2pe_sim.world.log import EventLog

_MAX: int = 100  # of one run: a broken node breaks the same thing again and again


class Findings:
    """`checked`: names of the invariants that count; empty: all of them."""

    def __init__(self, log: EventLog, checked: Collection[str] = ()) -> None:
        unknown = sorted(set(checked) - set(SAFETY))
        if unknown:
            raise ValueError(f"there is no invariant {unknown[0]!r}; there are {', '.join(SAFETY)}")
        self.broken: list[Broken] = []
        self.on_broken: Callable[[Broken], None] = lambda _: None
        self._checked = frozenset(checked or SAFETY)
        self._log = log

    def add(self, invariant: str, detail: str, *nodes: str, message: str | None = None) -> None:
        if (invariant in SAFETY and invariant not in self._checked) or len(self.broken) >= _MAX:
            return
        found = Broken(invariant, round(trio.current_time(), 6), detail, nodes, message)
        self.broken.append(found)
        self._log.add("broken", invariant=invariant, message=message, detail=detail)
        self.on_broken(found)
