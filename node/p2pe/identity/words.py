"""24 words for the root seed: BIP 39 with the English list, 256 bits and an 8-bit checksum, no BIP 39 passphrase."""

from __future__ import annotations

from difflib import get_close_matches

from mnemonic import Mnemonic

from p2pe.errors import UsageError
from p2pe.identity.keys import SEED_BYTES

WORD_COUNT = 24


def words_of(seed: bytes) -> str:
    """The 24 words of a 32-byte seed, separated by single spaces."""
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a root seed has {SEED_BYTES} bytes, not {len(seed)}")
    return Mnemonic("english").to_mnemonic(seed)


def seed_of(words: str) -> bytes:
    """The seed that 24 words stand for; case, spacing, commas and numbering (`1. abandon`) don't matter.

    Raises UsageError: a wrong number of words, a word that isn't in the list (which, and what it may have been),
    or a checksum that doesn't fit (a word was mistaken or two were swapped).
    """
    given = [word for word in words.lower().replace(",", " ").split() if not word.rstrip(".):").isdigit()]
    language = Mnemonic("english")
    known: list[str] = language.wordlist
    # The first four letters of each word are unique in the list (BIP 39, "Wordlist"), so they are enough.
    by_start = {word[:4]: word for word in known}
    chosen = []
    for position, word in enumerate(given, start=1):
        match = word if word in known else by_start.get(word) if len(word) == 4 else None
        if match is None:
            close = get_close_matches(word, known, n=3, cutoff=0.6)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise UsageError(f"word {position}, {word!r}, isn't one of the 2048 words of a phrase.{hint}")
        chosen.append(match)
    if len(chosen) != WORD_COUNT:
        raise UsageError(f"a phrase has {WORD_COUNT} words; these are {len(chosen)}")
    if not language.check(" ".join(chosen)):
        raise UsageError(
            "each word is in the list, but together they aren't a phrase (the checksum doesn't fit): a word was "
            "mistaken for a similar one, or two changed places"
        )
    return bytes(language.to_entropy(chosen))
