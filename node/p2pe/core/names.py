"""Names and texts of others, made safe to show; names of contacts, held to rules. Pure.

A stranger's text must not move the cursor, clear the screen, turn the direction of writing or hide letters
(Unicode general categories Cc, Cf, Cs, Co, Cn; UAX #9 for the bidirectional controls). Names that look alike are told
by a skeleton, after UTS #39, with the letters that people really mix up instead of its whole table.
"""

from __future__ import annotations

import unicodedata

from p2pe.config import MAX_NAME_CHARS
from p2pe.errors import UsageError

_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")  # emoji families and several scripts need them, between visible letters
_FORBIDDEN_IN_NAMES = frozenset("/\\")  # names stand in paths of the control API
_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")  # letters and marks that show nothing
_MARKS = frozenset({"Mn", "Me"})
_MOST_MARKS = 4  # on one letter: Vietnamese and Hebrew need up to 3; piles of them run over other lines


def safe_text(text: str, *, lines: bool = True) -> str:
    """`text` without invisible or controlling characters. Line feeds and tabs stay
    when `lines`, else turn to blanks."""
    kept: list[str] = []
    marks = 0
    plain = text.replace("\r\n", "\n")
    for at, char in enumerate(plain):
        if char in "\n\t":
            kept.append(char if lines else " ")
        elif char in _JOINERS:
            if lines and _joins(plain[at - 1 : at], plain[at + 1 : at + 2]):
                kept.append(char)
        elif (category := unicodedata.category(char)) not in _UNSAFE:
            marks = marks + 1 if category in _MARKS else 0
            if marks <= _MOST_MARKS:
                kept.append(char)
    return "".join(kept)


def _joins(before: str, after: str) -> bool:
    """Whether a joiner has a purpose between these: never beside ASCII, where it only hides."""
    return bool(before and after) and not (before.isascii() or after.isascii())


def safe_name(suggested: str) -> str:
    """A name that somebody else suggested, fit to be shown and to be a contact's name; "" when nothing is left."""
    plain = unicodedata.normalize("NFC", safe_text(suggested[: 4 * MAX_NAME_CHARS], lines=False))
    plain = "".join(char for char in plain if char not in _FORBIDDEN_IN_NAMES and not _is_blank(char))
    plain = " ".join(plain.split())
    plain = plain.lstrip("-.").strip()
    return plain[:MAX_NAME_CHARS].rstrip()


def _is_blank(char: str) -> bool:
    """Shows nothing of its own: fillers, and the selectors of a letter's variants (U+FE00.., U+E0100.., U+180B..)."""
    return (
        char in _BLANK_LETTERS or "\ufe00" <= char <= "\ufe0f" or "\u180b" <= char <= "\u180f" or char >= "\U000e0100"
    )


# What remains of a name when letters that look alike are one: Cyrillic, Greek, digits, and pairs read as one letter.
_LOOKS_LIKE = str.maketrans(
    {
        **dict(zip("абвгдеёзіїјкԛмнопрсѕтуухһьԝч", "a6brдeeзiijkqmhonpcstyyxhbw4", strict=True)),
        **dict(zip("αβγειηκνορτυχωϲ", "abyeinkvoptuxwc", strict=True)),
        **dict(zip("0135", "olзs", strict=True)),
        **dict(zip("ıɩłøđŧħ|!ӏ", "iilodthlll", strict=True)),
    }
)


def skeleton(name: str) -> str:
    """Equal for names that a person may take for each other, case and accents aside."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    plain = "".join(char for char in plain if unicodedata.category(char) not in _MARKS).translate(_LOOKS_LIKE)
    plain = plain.replace("rn", "m").replace("vv", "w").replace("cl", "d").replace("i", "l")
    return "".join(char for char in plain if char.isalnum()) or plain


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
