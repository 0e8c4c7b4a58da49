"""One byte in place of a HelloReply: why an invite whose handle the dialer knows isn't good any more.

Only who holds the invite gets to hear it; for everybody else the stream just closes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from p2pe.errors import GuessesSpent, InviteExpired, PairingError

REFUSAL_BYTES: Final = 1


class Refusal(IntEnum):
    EXPIRED = 1
    SPENT = 2
    CLOSED = 3  # used by somebody, or taken back


STATES: Final = {
    "expired": Refusal.EXPIRED,
    "spent": Refusal.SPENT,
    "paired": Refusal.CLOSED,
    "revoked": Refusal.CLOSED,
}
_SAID: Final[dict[int, PairingError]] = {
    Refusal.EXPIRED: InviteExpired("this invite has expired: ask for a new one"),
    Refusal.SPENT: GuessesSpent("too many wrong codes were tried at this invite: ask for a new one"),
    Refusal.CLOSED: InviteExpired("this invite was used or taken back: ask for a new one"),
}


def read_refusal(raw: bytes) -> PairingError | None:
    """The error that a refusal stands for; None for anything longer, which is a HelloReply."""
    if len(raw) != REFUSAL_BYTES:
        return None
    said = _SAID.get(raw[0], _SAID[Refusal.CLOSED])
    return type(said)(str(said))
