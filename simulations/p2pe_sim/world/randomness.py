"""All chance of a run, from its seed: one independent stream a purpose.

A stream is named by who draws from it (a node, a link, a disk), so that a node or fault left out of a plan changes
nothing for the others: that is what makes a failing plan shrink.
"""

from __future__ import annotations

import hashlib
import random


class Randomness:
    """Gives the streams of one run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def stream(self, *name: object) -> random.Random:
        """A fresh generator at the beginning of the stream with this name."""
        text = "\0".join([str(self.seed), *map(str, name)])
        return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))

    def token(self, *name: object) -> bytes:
        """32 bytes that belong to this name: keys and other things that need to be drawn once."""
        return hashlib.sha256("\0".join(["token", str(self.seed), *map(str, name)]).encode()).digest()
