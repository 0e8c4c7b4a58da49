"""How a story is told: acts, what people type, and what must be true afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rich.console import Console

from p2pe_sim.processes import PATIENCE, ProcessFailed, eventually

T = TypeVar("T")


class StoryFailed(ProcessFailed):
    """Something that the story asserts isn't so. `str()` says what."""


class Teller:
    """Narrates to a console. `holds` is both the sentence that is told and the assertion behind it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.asserted = 0

    def act(self, title: str) -> None:
        self._console.print(f"\n[bold]{title}[/bold]")

    def say(self, text: str) -> None:
        self._console.print(f"  {text}")

    def holds(self, sentence: str, is_so: bool, *, found: object = "") -> None:
        """Asserts, and tells what was asserted."""
        if not is_so:
            self._console.print(f"  [bold]✗ {sentence}[/bold] (found: {found!r})")
            raise StoryFailed(f"it isn't so that {sentence}; found: {found!r}")
        self.asserted += 1
        self._console.print(f"  ✓ {sentence}")

    def comes(self, sentence: str, look: Callable[[], T | None]) -> T:
        """Waits for it, and tells it. Raises ProcessFailed when it doesn't come."""
        found = eventually(sentence, look, patience=3 * PATIENCE)  # they look for each other ever more rarely
        self.asserted += 1
        self._console.print(f"  ✓ {sentence}")
        return found
