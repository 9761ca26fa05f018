"""Globs, words and property paths."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.patterns import (
    compile_glob,
    compile_word,
    compile_word_glob,
    fold,
    parse_property_path,
)

WORD = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
PATTERNS = st.text(alphabet="ab*?-_\n.[", max_size=8)
TEXTS = st.text(alphabet="ab-_\n.[*?", max_size=12)


def naive_glob(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(naive_glob(pattern[1:], text[i:]) for i in range(len(text) + 1))
    return bool(text) and pattern[0] in ("?", text[0]) and naive_glob(pattern[1:], text[1:])


def is_boundary(text: str, position: int) -> bool:
    return position in (0, len(text)) or text[position - 1] not in WORD or text[position] not in WORD


def naive_word_glob(pattern: str, text: str) -> bool:
    edges = [position for position in range(len(text) + 1) if is_boundary(text, position)]
    return any(naive_glob(pattern, text[i:j]) for i in edges for j in edges if i <= j)


@given(PATTERNS, TEXTS)
def test_glob_agrees_with_the_naive_one(pattern: str, text: str) -> None:
    assert compile_glob(pattern)(text) == naive_glob(pattern, text)


@given(PATTERNS, TEXTS)
def test_word_glob_agrees_with_the_naive_one(pattern: str, text: str) -> None:
    assert compile_word_glob(pattern)(text) == naive_word_glob(pattern, text)


@given(st.text(alphabet="ab-*", min_size=1, max_size=3), TEXTS)
def test_word_has_nothing_special(word: str, text: str) -> None:
    places = [i for i in range(len(text)) if text.startswith(word, i)]
    expected = any(is_boundary(text, i) and is_boundary(text, i + len(word)) for i in places)
    assert compile_word(word)(text) == expected


def test_question_mark_is_literal_where_only_stars_are_special() -> None:
    test = compile_glob("a?*", question_mark=False)
    assert test("a?b")
    assert not test("abc")


@given(st.text())
def test_folding_keeps_the_length(text: str) -> None:
    assert len(fold(text)) == len(text)


@pytest.mark.parametrize(("one", "other"), [("ÄPFEL", "äpfel"), ("ΟΔΟΣ", "οδος"), ("STRASSE", "strasse"), ("ẞ", "ß")])
def test_folding_forgets_case(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize("pattern", ["*a*a*a*a*a*a*a*b", "a*a*a*a*a*a*a*b", "a*b", "?*?*?*b", "a?a*?a?*b"])
def test_hostile_patterns_cost_little(pattern: str) -> None:
    body = "a " * 30_000
    start = time.process_time()
    assert not compile_glob(pattern)(body)
    assert not compile_word_glob(pattern)(body)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("content.body", ("content", "body")),
        (r"content.m\.relates_to.rel_type", ("content", "m.relates_to", "rel_type")),
        (r"content.m\\foo", ("content", "m\\foo")),
        (r"content.m\xfoo", ("content", "m\\xfoo")),
        (r"a\\.b", ("a\\", "b")),
        (r"a\\\.b", ("a\\.b",)),
        ("a\\", ("a\\",)),
        ("", ("",)),
        ("a..b", ("a", "", "b")),
    ],
)
def test_property_paths(path: str, names: tuple[str, ...]) -> None:
    assert parse_property_path(path) == names
