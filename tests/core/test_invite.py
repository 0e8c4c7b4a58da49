"""Codes and links as people type them, damaged ones included; and that no secret half reaches a lookup key."""

from __future__ import annotations

import hashlib
import inspect

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from p2pe.config import LINK_BOOTSTRAP_MAX
from p2pe.core.invite import (
    Code,
    Link,
    code_handle,
    code_of,
    decode_link,
    encode_link,
    is_link,
    link_handle,
    link_seed,
    locator_seed,
    make_code,
    parse_code,
    publish_days,
    search_days,
)
from p2pe.core.wordlist import words
from p2pe.errors import UsageError
from p2pe.model import Millis

DAY = 86_400_000
CODE = Code(47, ("crumble", "clock", "tiger"))
LINK = Link(b"s" * 16, b"c" * 16, ("/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWabc",), 1_800_000_000)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=16, max_size=16))
def test_every_code_reads_back_however_it_is_typed(entropy: bytes) -> None:
    code = make_code(entropy)
    text = str(code)
    assert parse_code(text) == code
    assert parse_code(text.upper()) == code
    assert parse_code("  " + text.replace("-", " , ") + "\n") == code
    assert parse_code(" ".join(part[:4] for part in text.split("-"))) == code
    assert code_of(code.locator, code.password) == code


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "a number and three words"),
        ("47-crumble-clock", "a number and three words"),
        ("47-crumble-clock-tiger-tiger", "a number and three words"),
        ("crumble-47-clock-tiger", "a number and three words"),
        ("100-crumble-clock-tiger", "from 0 to 99"),
        ("007-crumble-clock-tiger", "from 0 to 99"),
        ("47-crumbel-clock-tiger", "did you mean crumble"),
        ("47-crumble-clonk-tiger", "clock"),
        ("47-crumble-clo-tiger", "did you mean"),
        ("47-crumble-clock-qqqqqqqq", "letter by letter"),
        ("47-crumble-clock-tigers", "did you mean tiger"),
    ],
)
def test_what_is_wrong_with_a_code_is_said(typed: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_code(typed)


def test_codes_are_spread_over_all_words_and_numbers() -> None:
    codes = [make_code(hashlib.sha256(str(index).encode()).digest()[:16]) for index in range(3000)]
    assert {code.number for code in codes} == set(range(100))
    for place in range(3):
        assert len({code.words[place] for code in codes}) > 1200
    assert make_code(b"\xff" * 16).words[2] in words()


def test_the_password_stays_out_of_logs() -> None:
    assert "clock" not in repr(CODE) and "tiger" not in repr(CODE)
    assert "73" not in repr(LINK)


def test_lookup_depends_on_the_locator_and_the_day_alone() -> None:
    """Frozen answers: another implementation must find the same place. The functions aren't given the password."""
    assert locator_seed("47-crumble", 20_000).hex() == FROZEN_SEED
    assert locator_seed("47-crumble", 20_001).hex() != FROZEN_SEED
    assert code_handle("47-crumble").hex() == FROZEN_CODE_HANDLE
    assert link_handle(b"s" * 16).hex() == FROZEN_LINK_HANDLE
    assert link_seed(b"s" * 16).hex() == FROZEN_LINK_SEED
    for function in (locator_seed, code_handle):
        assert next(iter(inspect.signature(function).parameters)) == "locator"


FROZEN_SEED = "883e076ab4fc7444cb8eb8db5360b9f6545f522720f0bd3bef7c4fabfef34ee2"
FROZEN_CODE_HANDLE = "fe5d4e5904b0a1d6"
FROZEN_LINK_HANDLE = "029e268635d95822"
FROZEN_LINK_SEED = "1057580aef78e057a67965f2830f77edd126577b90b239adf698905ef51aac58"


def test_midnight_is_between_nobody_and_an_invite() -> None:
    noon, midnight = Millis(20_000 * DAY + DAY // 2), 20_001 * DAY
    assert publish_days(noon, Millis(noon + 600_000)) == (20_000,)
    assert search_days(noon) == (20_000,)
    late = Millis(midnight - 60_000)
    assert publish_days(late, Millis(late + 600_000)) == (20_000, 20_001)
    # whatever moment of an invite's life, and whichever clock is ahead by up to ten minutes: the days meet
    for made in range(midnight - 1_300_000, midnight + 1_300_000, 100_000):
        for age in range(0, 600_001, 100_000):
            for skew in (-599_000, 0, 599_000):
                published = publish_days(Millis(made), Millis(made + 600_000))
                assert set(published) & set(search_days(Millis(made + age + skew)))


def test_links_read_back_in_any_case_and_over_line_breaks() -> None:
    text = encode_link(LINK)
    assert is_link(text) and is_link("  P2PE:ABC") and not is_link("47-crumble-clock-tiger")
    assert decode_link(text) == LINK
    assert decode_link(text.upper()) == LINK
    assert decode_link(f" {text[:30]}\n {text[30:]}") == LINK


@settings(max_examples=200, deadline=None)
@given(st.integers(5, 10_000), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_a_mistyped_link_is_noticed(position: int, letter: str) -> None:
    text = encode_link(LINK)
    position = 5 + position % (len(text) - 5)
    changed = text[:position] + letter + text[position + 1 :]
    if changed == text:
        return
    try:  # the last letter holds a few unused bits
        assert decode_link(changed) == LINK
    except UsageError as error:
        assert "damaged" in str(error)


def test_a_link_cut_short_anywhere_is_noticed() -> None:
    text = encode_link(LINK)
    for length in range(5, len(text) - 1):
        with pytest.raises(UsageError, match="damaged"):
            decode_link(text[:length])


@pytest.mark.parametrize(
    "link",
    [
        Link(b"s" * 16, b"c" * 16, ("/x" * 129,), 1),
        Link(b"s" * 16, b"c" * 16, (), 1),
    ],
)
def test_links_from_faulty_makers(link: Link) -> None:
    text = encode_link(link)
    if link.bootstrap:
        with pytest.raises(UsageError, match="faulty"):
            decode_link(text)
    else:
        assert decode_link(text) == link


def test_an_overlong_link_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(UsageError, match="at most"):
        decode_link("p2pe:" + "a" * 5000)


def test_a_link_names_at_most_four_bootstrap_nodes() -> None:
    many = Link(b"s" * 16, b"c" * 16, tuple(f"/ip4/192.0.2.{n}/tcp/1/p2p/x" for n in range(9)), 1)
    assert decode_link(encode_link(many)).bootstrap == many.bootstrap[:LINK_BOOTSTRAP_MAX]
