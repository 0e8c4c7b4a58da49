"""Tables for terminals, whatever their width. Nothing is cut: ids, codes and links are there to be copied.

Three layouts, the first that fits: columns side by side, the last one wrapped at blanks; the last column on lines of
its own below each row; a block of `name  value` lines for each row.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import Final

from rich.cells import cell_len

_GAP: Final = 2
_LEAST_LAST: Final = 24  # cells: narrower sentences are hard to read
_INDENT: Final = 4


def laid_out(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> tuple[list[str], list[list[str]]]:
    """(lines of the head, for each row its lines), for a terminal of `width` cells."""
    widths = [max(cell_len(row[at]) for row in (headers, *rows)) for at in range(len(headers))]
    before = sum(widths[:-1]) + _GAP * (len(headers) - 1)
    left = width - before
    longest_word = max(cell_len(word) for row in rows for word in row[-1].split() or [""]) if rows else 0
    if left >= max(min(widths[-1], _LEAST_LAST), longest_word):
        return [_side_by_side(headers, widths)], [_wrapped(row, widths, before, left) for row in rows]
    if before - _GAP <= width and len(headers) > 1:
        below = [[_side_by_side(row[:-1], widths), *_below(row[-1], width)] for row in rows]
        return [_side_by_side(headers[:-1], widths), *_below(headers[-1], width)], below
    longest_name = max(map(cell_len, headers))
    blocks = [[f"{_padded(name, longest_name)}  {value}" for name, value in zip(headers, row, strict=True)] + [""]
              for row in rows]  # fmt: skip
    return [], blocks


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _side_by_side(cells: Sequence[str], widths: Sequence[int]) -> str:
    return (" " * _GAP).join(_padded(cell, width) for cell, width in zip(cells, widths, strict=False)).rstrip()


def _wrapped(row: Sequence[str], widths: Sequence[int], before: int, left: int) -> list[str]:
    first = [_side_by_side(row[:-1], widths)] if len(row) > 1 else [""]
    lines = zip_longest(first, _at_blanks(row[-1], left) or [""], fillvalue="")
    return [(_padded(start, before) + end).rstrip() for start, end in lines]


def _below(text: str, width: int) -> list[str]:
    return [" " * _INDENT + line for line in _at_blanks(text, max(1, width - _INDENT))]


def _at_blanks(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
