"""Which of several links to one contact are superfluous.

Only the side that dialled a link closes it when another one has replaced it; when both sides dialled at once, the link
dialled by the lower identity key stays. So the two never close each other's, and never both.
"""

from __future__ import annotations

from collections.abc import Sequence

from p2pe.config import LINK_RACE_SECONDS
from p2pe.connectivity.session import Session
from p2pe.core.paths import is_better


def replaced(sessions: Sequence[Session], we_are_lower: bool) -> list[Session]:
    """Those of ours to close. `sessions`: all to a contact, oldest first. `we_are_lower`: of the two identity keys."""
    live = [each for each in sessions if each.is_open and not each.retiring]
    return [
        session
        for index, session in enumerate(live)
        if session.is_dialer
        and any(_replaces(other, session, at > index, we_are_lower) for at, other in enumerate(live))
    ]


def _replaces(other: Session, session: Session, is_newer: bool, we_are_lower: bool) -> bool:
    """Whether `other` makes `session`, which we dialled, superfluous. The margins differ so that, however the two
    clocks run, not both sides close theirs."""
    if other is session or is_better(session.path, other.path):
        return False
    if other.is_dialer:
        return is_newer
    younger_by = session.age - other.age
    if we_are_lower:
        return younger_by >= 2 * LINK_RACE_SECONDS
    return younger_by > -LINK_RACE_SECONDS
