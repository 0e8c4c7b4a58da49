"""Names and texts of others, made safe to show; names of contacts, held to rules. Pure.

A stranger's text must not move the cursor, clear the screen, turn the direction of writing or hide letters
(Unicode general categories Cc, Cf, Cs, Co, Cn; UAX #9 for the bidirectional controls).
"""

from __future__ import annotations

import unicodedata

from p2pe.config import MAX_NAME_CHARS
from p2pe.errors import UsageError

_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")  # emoji families and several scripts need them, between visible letters
_FORBIDDEN_IN_NAMES = frozenset("/\\")  # names stand in paths of the control API


def safe_text(text: str, *, lines: bool = True) -> str:
    """`text` without invisible or controlling characters. Line feeds and tabs stay
    when `lines`, else turn to blanks."""
    kept = []
    for char in text.replace("\r\n", "\n"):
        if char in "\n\t":
            kept.append(char if lines else " ")
        elif char in _JOINERS:
            kept.append(char if lines else "")
        elif unicodedata.category(char) not in _UNSAFE:
            kept.append(char)
    return "".join(kept)


def safe_name(suggested: str) -> str:
    """A name that somebody else suggested, fit to be shown and to be a contact's name; "" when nothing is left."""
    plain = unicodedata.normalize("NFC", safe_text(suggested[: 4 * MAX_NAME_CHARS], lines=False))
    plain = " ".join("".join(char for char in plain if char not in _FORBIDDEN_IN_NAMES).split())
    plain = plain.lstrip("-.").strip()
    return plain[:MAX_NAME_CHARS].rstrip()


def contact_name(name: str) -> str:
    """The name under which a contact is kept: NFC, without surrounding blanks. Raises UsageError, saying what is
    wrong with it."""
    normal = unicodedata.normalize("NFC", name).strip()
    if not normal:
        raise UsageError("a contact's name must not be empty")
    if len(normal) > MAX_NAME_CHARS:
        raise UsageError(f"a contact's name has at most {MAX_NAME_CHARS} characters, not {len(normal)}")
    if safe_name(normal) != normal:
        raise UsageError(
            f"“{safe_name(normal)}” would do, but the name given has invisible characters, a slash, "
            "doubled blanks, or begins with - or ."
        )
    return normal


def free_name(wanted: str, taken: frozenset[str]) -> str:
    """`wanted`, or `wanted-2`, `wanted-3` and so on. `taken`: names in lower case; case makes no difference."""
    if wanted.lower() not in taken:
        return wanted
    number = 2
    while (numbered := f"{wanted[: MAX_NAME_CHARS - 8]}-{number}").lower() in taken:
        number += 1
    return numbered
