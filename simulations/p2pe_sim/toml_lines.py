"""Where in a TOML text a key stands. `tomllib` gives values without lines, and a person needs the line."""

from __future__ import annotations

import re
from collections.abc import Sequence

Path = tuple[str | int, ...]

_TABLE = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"""^\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+))*)\s*=""")


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


def lines_of(text: str) -> dict[Path, int]:
    """Path of each table and key -> its line, from 1. Elements of an array of tables are numbered from 0.

    Keys inside inline tables aren't listed, nor are lines inside multi-line values told apart from keys: for the
    plain files this is for, `line_of` falls back to the nearest enclosing key.
    """
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _TABLE.match(line):
            table = tuple(_parts(header.group(2)))
            if header.group(1) == "[[":
                index = counts.get(table, 0)
                counts[table] = index + 1
                found.setdefault(table, number)
                table = (*table, index)
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            found.setdefault((*table, *_parts(key.group(1))), number)
    return found


def line_of(text: str, path: Sequence[str | int]) -> int | None:
    """The line of `path`, or of the nearest thing around it; None when nothing of it is in the text."""
    lines = lines_of(text)
    for length in range(len(path), 0, -1):
        if (line := lines.get(tuple(path[:length]))) is not None:
            return line
    return None
