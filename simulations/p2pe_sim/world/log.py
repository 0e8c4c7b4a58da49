"""What happened, in order: the digest of a run, and the events that a report shows.

Times, sizes, names and kinds alone: no bytes.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import trio

_FLUSH: Final = 4_096


class EventLog:
    """Every event goes into the digest; it is kept only on request."""

    def __init__(self, *, keep: bool) -> None:
        self.events: list[dict[str, Any]] = []
        self._keep = keep
        self._digest = hashlib.sha256()
        self._pending: list[str] = []
        self.trace: list[str] | None = None  # all lines that went into the digest: to find where two runs part

    def add(self, what: str, **fields: Any) -> None:
        event = {"at": round(trio.current_time(), 6), "what": what, **fields}
        self._line(json.dumps(event, sort_keys=True))
        if self._keep:
            self.events.append(event)

    def bytes_on_wire(self, number: int, size: int) -> None:
        self._line(f"{trio.current_time():.6f} {number} {size}")

    def _line(self, line: str) -> None:
        self._pending.append(line)
        if len(self._pending) >= _FLUSH:
            self._flush()

    def _flush(self) -> None:
        self._digest.update("\n".join(self._pending).encode() + b"\n")
        if self.trace is not None:
            self.trace += self._pending
        self._pending.clear()

    def digest(self) -> str:
        self._flush()
        return self._digest.hexdigest()
