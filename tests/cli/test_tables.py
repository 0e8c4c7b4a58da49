"""Tables on terminals of any width: everything stays readable and can be copied whole."""

from __future__ import annotations

import pytest
from p2pe.cli.tables import laid_out
from rich.cells import cell_len

HEADERS = ("ID", "TO", "STATE", "WHY")
SENTENCE = "waits for bob to come online; next try in 2 s"
CODE = "47-crossover-clockwork-tiger"
ROWS = [("06b07a8c3c06efc8", "bob", "queued", SENTENCE), ("06b07a8c4d7db2fb", "白熊", "delivered", CODE)]


def text_of(width: int) -> list[str]:
    head, blocks = laid_out(HEADERS, ROWS, width)
    return [*head, *(line for block in blocks for line in block)]


@pytest.mark.parametrize("width", range(1, 140))
def test_nothing_is_cut_at_any_width(width: int) -> None:
    lines = text_of(width)
    words = " ".join(lines).split()
    for row in (HEADERS, *ROWS):
        for cell in row:
            for word in cell.split():
                assert word in words


@pytest.mark.parametrize("width", range(44, 140))
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(cell_len(line) for line in text_of(width)) <= width


def test_three_layouts() -> None:
    assert text_of(120)[:2] == [
        "ID                TO    STATE      WHY",
        f"06b07a8c3c06efc8  bob   queued     {SENTENCE}",
    ]
    assert text_of(50)[:4] == [
        "ID                TO    STATE",
        "    WHY",
        "06b07a8c3c06efc8  bob   queued",
        "    waits for bob to come online; next try in 2 s",
    ]
    assert text_of(30)[:5] == [
        "ID     06b07a8c3c06efc8",
        "TO     bob",
        "STATE  queued",
        f"WHY    {SENTENCE}",
        "",
    ]


def test_columns_of_wide_letters_line_up() -> None:
    _, blocks = laid_out(("NAME", "STATE"), [("白熊", "on"), ("bob", "off")], 80)
    assert blocks == [["白熊  on"], ["bob   off"]]


def test_no_rows() -> None:
    assert laid_out(HEADERS, [], 80) == (["ID  TO  STATE  WHY"], [])
