"""From what people type to rows: contact names and the beginnings of message ids, with helpful errors."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

import apsw

from p2pe.config import MESSAGE_ID_BYTES
from p2pe.errors import LocalError, NotFound
from p2pe.storage import outgoing
from p2pe.storage.outgoing import Recipient

_SHORTEST_PREFIX: Final = 4  # hex digits


def contacts_named(tx: apsw.Connection, names: Sequence[str]) -> dict[str, Recipient]:
    """All of them. Raises NotFound for the first that isn't a contact, naming those that look like it."""
    found = outgoing.recipients(tx, names)
    for name in names:
        if name not in found:
            raise NotFound(_unknown(name, outgoing.contact_names(tx)))
    return found


def contact_named(tx: apsw.Connection, name: str) -> Recipient:
    return contacts_named(tx, [name])[name]


def _unknown(name: str, known: list[str]) -> str:
    if not known:
        return f"there is no contact {name!r}, nor any other yet; pair with `p2pe invite` or `p2pe accept`"
    by_folded = {each.casefold(): each for each in known}
    close = [by_folded[each] for each in get_close_matches(name.casefold(), list(by_folded), n=3, cutoff=0.5)]
    if close:
        return f"there is no contact {name!r}; did you mean {' or '.join(close)}?"
    return f"there is no contact {name!r}; `p2pe contacts` lists them"


def id_range(prefix: str) -> tuple[bytes, bytes]:
    """The lowest and highest message id whose hex form begins with `prefix`. Raises LocalError."""
    digits = prefix.strip().lower()
    if not _SHORTEST_PREFIX <= len(digits) <= 2 * MESSAGE_ID_BYTES or set(digits) - set("0123456789abcdef"):
        raise LocalError(
            f"{prefix!r} isn't a message id: {_SHORTEST_PREFIX} to {2 * MESSAGE_ID_BYTES} hex digits, "
            "as `p2pe send` and `p2pe outbox` print them"
        )
    return bytes.fromhex(digits.ljust(2 * MESSAGE_ID_BYTES, "0")), bytes.fromhex(
        digits.ljust(2 * MESSAGE_ID_BYTES, "f")
    )
