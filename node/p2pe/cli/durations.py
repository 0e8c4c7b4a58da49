"""Lengths of time as people write them: 90s, 10m, 1h, 7d, 2w."""

from __future__ import annotations

import re
from typing import Final

from p2pe.config import MAX_EXPIRE_MILLIS
from p2pe.errors import UsageError

_UNITS: Final = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_MOST: Final = MAX_EXPIRE_MILLIS // 1000


def seconds_in(text: str) -> float:
    """Raises UsageError for anything but a number with one of _UNITS, from a second to _MOST."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*([a-z]+)", text.strip().lower())
    if found is None or found[2] not in _UNITS:
        raise UsageError(f"{text!r} isn't a length of time: write 30s, 10m, 1h, 7d or 2w")
    seconds = float(found[1]) * _UNITS[found[2]]
    if not 1 <= seconds <= _MOST:
        raise UsageError(f"{text!r} isn't possible: from 1s to {_MOST // 86_400}d are")
    return seconds
