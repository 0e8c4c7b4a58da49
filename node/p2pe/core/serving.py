"""Whether a person's node serves the directory for others. Pure.

A server must be there when it is asked, at the address that others know. So a node serves only after strangers could
dial it for long without a break, and stops soon once they can't. Each time that was short-lived, the next wait doubles:
a verdict that flaps doesn't make servers come and go.
"""

from __future__ import annotations

from enum import StrEnum

from p2pe.config import SERVE_AFTER, SERVE_AFTER_MAX, SERVE_LINGER, SERVE_STEADY


class ServingChoice(StrEnum):
    """`--directory`. AUTO: while strangers can reach this node."""

    AUTO = "auto"
    CLIENT = "client"
    SERVER = "server"


class Serving:
    """Told by `look` what is known now. Seconds of any one clock."""

    def __init__(self) -> None:
        self.serves = False
        self._wait = SERVE_AFTER
        self._since: float | None = None  # reachable without a break, or since when it serves
        self._lost_at: float | None = None

    def look(self, is_reachable: bool, now: float) -> bool:
        """`serves`, brought up to date."""
        if self.serves:
            self._keep(is_reachable, now)
        elif not is_reachable:
            self._since = None
        else:
            self._since = now if self._since is None else self._since
            if now - self._since >= self._wait:
                self.serves, self._since = True, now
        return self.serves

    def _keep(self, is_reachable: bool, now: float) -> None:
        if is_reachable:
            self._lost_at = None
            return
        self._lost_at = now if self._lost_at is None else self._lost_at
        if now - self._lost_at >= SERVE_LINGER:
            was_steady = self._lost_at - (self._since or 0.0) >= SERVE_STEADY
            self._wait = SERVE_AFTER if was_steady else min(2 * self._wait, SERVE_AFTER_MAX)
            self.serves, self._since, self._lost_at = False, None, None

    def wake_at(self) -> float:
        """When `look` may say something else though nothing has changed; infinity: never."""
        if self.serves:
            return float("inf") if self._lost_at is None else self._lost_at + SERVE_LINGER
        return float("inf") if self._since is None else self._since + self._wait
