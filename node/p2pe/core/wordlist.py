"""The 2,048 words of the BIP39 English list, as the kept library `mnemonic` ships them.

No two share their first four letters, so four letters are enough to type, and a misheard word is recognisable.
"""

from __future__ import annotations

import difflib
from functools import cache

from mnemonic import Mnemonic

from p2pe.errors import UsageError

PREFIX_LETTERS = 4  # enough to tell all words apart
WORD_COUNT = 2048


@cache
def words() -> tuple[str, ...]:
    """The list, in its standard (alphabetical) order."""
    return tuple(Mnemonic("english").wordlist)


@cache
def _by_prefix() -> dict[str, str]:
    return {word[:PREFIX_LETTERS]: word for word in words()}


def complete(typed: str) -> str:
    """The word that `typed` (lower case) is, or begins when it has at least four letters.
    Raises UsageError that suggests near words."""
    candidate = _by_prefix().get(typed[:PREFIX_LETTERS])
    if candidate == typed or (candidate and len(typed) >= PREFIX_LETTERS and candidate.startswith(typed)):
        return candidate
    near = difflib.get_close_matches(typed, words(), n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; ask for the word again, letter by letter"
    raise UsageError(f"“{typed[:32]}” is not a word of the list{hint}")
