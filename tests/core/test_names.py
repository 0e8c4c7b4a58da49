"""A stranger's text can't steer a terminal, and a contact's name can't confuse a person or a path."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from p2pe.config import MAX_NAME_CHARS
from p2pe.core.names import contact_name, free_name, safe_name, safe_text, skeleton
from p2pe.errors import UsageError


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_nothing_that_controls_survives(text: str) -> None:
    for char in safe_text(text):
        assert char in "\n\t\u200c\u200d" or unicodedata.category(char) not in (
            "Cc",
            "Cf",
            "Cs",
            "Co",
            "Cn",
            "Zl",
            "Zp",
        )
    assert not set(safe_text(text, lines=False)) & set("\n\t\u200c\u200d\r\x1b")


@settings(max_examples=300, deadline=None)
@given(st.text(), st.text())
def test_marks_do_not_pile_up_and_joiners_do_not_hide(one: str, other: str) -> None:
    shown = safe_text(f"{one}z{chr(0x301) * 50}{other}")
    marks = 0
    for char in shown:
        marks = marks + 1 if unicodedata.category(char) in ("Mn", "Me") else 0
        assert marks <= 4
    assert safe_text(f"a\u200d{one}")[1:2] != "\u200d"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("alice", "Alice"),
        ("alice", "\u0430lice"),  # Cyrillic a
        ("paul", "pau1"),
        ("bob", "B0B"),
        ("maria", "rnaria"),
        ("zoe", "Zoë"),
        ("bill", "bi11"),
        ("ann", "a n n"),
        ("george", "ge\u03bfrge"),  # Greek omicron
        ("walter", "vvalter"),
    ],
)
def test_names_that_look_alike(one: str, other: str) -> None:
    assert skeleton(one) == skeleton(other)


def test_names_that_do_not() -> None:
    names = ["ann", "anna", "bob", "rob", "carl", "karl", "max", "mac", "нина", "김", "김민", "李", "王", "🐯", "🐻"]
    assert len({skeleton(each) for each in names}) == len(names)


def test_names_have_no_blank_letters() -> None:
    assert safe_name("bo\u3164b\ufe0f \u200b\u2800") == "bob"
    with pytest.raises(UsageError, match="invisible"):
        contact_name("bo\u3164b")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_a_safe_name_is_empty_or_a_valid_contact_name(text: str) -> None:
    name = safe_name(text)
    assert len(name) <= MAX_NAME_CHARS
    if name:
        assert safe_name(name) == name
        assert contact_name(name) == name


def test_examples() -> None:
    assert safe_text("a\x1b[2Jb\r\nc") == "a[2Jb\nc"
    assert safe_text("\u202eevil\u2066") == "evil"
    assert safe_text("👩\u200d🚀") == "👩\u200d🚀"
    assert safe_name("  Bob \n Smith/../x ") == "Bob Smith..x"
    assert safe_name("--name") == "name"
    assert contact_name("  Zoë ") == contact_name("Zoe\u0308")


@pytest.mark.parametrize(
    ("name", "said"),
    [("", "empty"), ("   ", "empty"), ("x" * 65, "64"), ("a/b", "slash"), ("-x", "begins"), ("a\u202eb", "invisible")],
)
def test_bad_names_are_refused_with_the_reason(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        contact_name(name)


def test_a_taken_name_gets_a_number() -> None:
    assert free_name("bob", frozenset()) == "bob"
    assert free_name("bob", frozenset({"bob", "bob-2"})) == "bob-3"
    assert free_name("Bob", frozenset({"bob"})) == "Bob-2"
    assert len(free_name("x" * 64, frozenset({"x" * 64}))) <= MAX_NAME_CHARS
