"""What may be offered over a link: all at once, or a little at first where the link may be cut."""

from __future__ import annotations

from p2pe.config import FIRST_OFFER_BYTES, MAX_IN_FLIGHT, MAX_OFFER_BYTES
from p2pe.core.delivery import Window
from p2pe.model import MessageId


def ids(*numbers: int) -> list[MessageId]:
    return [MessageId(bytes([number]) * 32) for number in numbers]


def offer(window: Window, *rows: int) -> None:
    window.offer(ids(*rows), list(rows), [b""] * len(rows))


def test_a_bold_window_keeps_offering_until_it_is_full() -> None:
    window = Window()
    window.start()
    offer(window, 1, 2, 3)
    assert window.room == MAX_IN_FLIGHT - 3 and window.max_bytes == MAX_OFFER_BYTES


def test_a_cautious_window_waits_for_all_receipts_and_doubles() -> None:
    window = Window()
    window.start(cautious=True)
    assert window.max_bytes == FIRST_OFFER_BYTES and window.room == MAX_IN_FLIGHT
    offer(window, 1, 2)
    assert window.room == 0
    window.forget(ids(1))
    assert window.room == 0 and window.max_bytes == FIRST_OFFER_BYTES
    window.forget(ids(2, 9))
    assert window.room == MAX_IN_FLIGHT and window.max_bytes == 2 * FIRST_OFFER_BYTES
    window.forget(ids(2))  # receipted again: nothing was in the window, so nothing is learnt
    assert window.max_bytes == 2 * FIRST_OFFER_BYTES


def test_caution_ends_once_the_link_has_carried_enough() -> None:
    window = Window()
    window.start(cautious=True)
    row = 0
    while window.is_cautious:
        row += 1
        offer(window, row)
        window.forget(ids(row))
    assert row == 7 and window.max_bytes == MAX_OFFER_BYTES
    offer(window, 8)
    assert window.room == MAX_IN_FLIGHT - 1
    window.start(cautious=True)
    assert window.max_bytes == FIRST_OFFER_BYTES and len(window) == 0
