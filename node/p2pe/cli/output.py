"""Printing: tables and sentences for people, JSON for programs.

What others wrote passes `safe` before it reaches a terminal; JSON escapes everything outside ASCII by itself.
Colours and rich (45 ms to import) are for terminals alone; NO_COLOR is obeyed (no-color.org).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from p2pe.core.names import safe_text

STATE_COLOURS: Final = {
    "queued": "yellow",
    "offered": "cyan",
    "delivered": "green",
    "read": "green",
    "retracted": "dim",
    "expired": "dim",
    "held_identity": "red",
}
_ANSI: Final = {"yellow": "33", "cyan": "36", "green": "32", "red": "31", "dim": "2", "bold": "1"}
SHORT_ID: Final = 16  # hex digits shown in tables: 40 bits of time, 24 random ones


def on_terminal() -> bool:
    return sys.stdout.isatty()


def coloured() -> bool:
    return on_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str) -> str:
    """`text` in a colour of _ANSI, where colours are wanted."""
    return f"\x1b[{_ANSI[style]}m{text}\x1b[0m" if coloured() and style in _ANSI else text


def emit_json(value: Any, *, line: bool = False) -> None:
    """One document: indented on a terminal, else (and with `line`) on one line."""
    print(json.dumps(value, indent=None if line or not on_terminal() else 2), flush=True)


def safe(text: str, *, lines: bool = False) -> str:
    """Text of others, unable to steer a terminal."""
    return safe_text(text, lines=lines)


def note(text: str) -> None:
    """Something for people that isn't the result: to standard error."""
    print(text, file=sys.stderr, flush=True)


def when(millis: int | None) -> str:
    """Local time: to the second for today, with the date otherwise."""
    if millis is None:
        return "-"
    moment = datetime.fromtimestamp(millis / 1000)
    if moment.date() == datetime.now().date():
        return moment.strftime("%H:%M:%S")
    return moment.strftime("%Y-%m-%d %H:%M")


def duration(seconds: float) -> str:
    """`12 ms`, `3.4 s`, `5 min`, `2 h`, `3 d`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, styles: Sequence[str | None] = ()) -> None:
    """A table; `styles` colours whole rows. On a terminal its layout follows the width (cli/tables.py)."""
    if on_terminal():
        _terminal_table(headers, rows, styles)
        return
    widths = [max(len(row[at]) for row in (headers, *rows)) for at in range(len(headers))]
    for row in (headers, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _terminal_table(headers: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str | None]) -> None:
    from p2pe.cli.tables import laid_out

    head, blocks = laid_out(headers, rows, shutil.get_terminal_size().columns)
    for line in head:
        print(paint(line, "bold"))
    for at, block in enumerate(blocks):
        style = styles[at] if at < len(styles) else None
        for line in block:
            print(paint(line, style or "") if line else "")


def counted(number: int, thing: str) -> str:
    """`1 message`, `2 messages`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def tries(left: int) -> str:
    return "1 try" if left == 1 else f"{left} tries"


def fields(pairs: Sequence[tuple[str, str]]) -> None:
    """`name  value` lines, aligned."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        first, *rest = value.split("\n")
        print(f"{paint(name.ljust(width), 'bold')}  {first}")
        for line in rest:
            print(f"{' ' * width}  {line}")


def grouped(digits: str) -> str:
    """A safety number as people compare it: twelve groups of five, in three lines."""
    groups = digits.split() if " " in digits else [digits[at : at + 5] for at in range(0, len(digits), 5)]
    return "\n".join(" ".join(groups[at : at + 4]) for at in range(0, len(groups), 4))
