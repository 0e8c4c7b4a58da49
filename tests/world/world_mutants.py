"""Nodes that are broken on purpose: each by one change that a programmer could make by mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

Change = tuple[object, str, Callable[[Any], Any]]  # (where, name, original -> replacement)
MUTANTS: dict[str, tuple[Change, ...]] = {}


@contextmanager
def applied(mutant: str) -> Iterator[None]:
    """The mutant's changes hold inside the block, and in what is forked there."""
    with ExitStack() as stack:
        for where, name, change in MUTANTS[mutant] if mutant else ():
            stack.enter_context(patch.object(where, name, change(getattr(where, name))))
        yield
