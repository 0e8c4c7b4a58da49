"""`p2pe inbox --follow`: goes on over restarts of the node, and prints nothing twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from p2pe.cli import output
from p2pe.errors import NoDaemon

if TYPE_CHECKING:
    from p2pe.control.client import Client
    from p2pe.control.shapes import InboxAnswer, IncomingShape

_LOOK_EVERY: Final = 0.5  # seconds between two looks whether the node is back


@dataclass
class Following:
    """One follower. Both cursors move on with each thing that is shown."""

    node: Client
    contact: str | None
    after: int
    ended_after: int | None
    show: Callable[[IncomingShape], bool]  # whether the message is to be marked as read then
    show_ended: Callable[[InboxAnswer], None]
    tells: bool  # that the node went away and came back
    _unmarked: IncomingShape | None = None
    _is_away: bool = False

    def run(self) -> NoReturn:
        """For ever. Raises NoDaemon when no node runs to begin with; what else the node raises."""
        met = False
        while True:
            try:
                self._mark()
                for page in self.node.follow_pages(
                    contact=self.contact, after=self.after, ended_after=self.ended_after
                ):
                    met = True
                    self._away(False)
                    self._take(page)
            except NoDaemon:
                if not met:
                    raise
                self._away(True)
                time.sleep(_LOOK_EVERY)

    def _take(self, page: InboxAnswer) -> None:
        for message in page["messages"]:
            self.after = message["row"]
            if self.show(message):
                self._unmarked = message
                self._mark()
        self.after = page["next"]
        self.show_ended(page)
        self.ended_after = page["next_ended"]

    def _mark(self) -> None:
        """Also what was shown when the node went away: an expiring message must begin to count down."""
        if self._unmarked is not None:
            self.node.mark_read(contact=self._unmarked["contact"], ids=[self._unmarked["id"]])
            self._unmarked = None

    def _away(self, is_away: bool) -> None:
        if self.tells and is_away != self._is_away:
            output.note("The node went away; waiting for it. Ctrl-C ends this." if is_away else "The node is back.")
        self._is_away = is_away
