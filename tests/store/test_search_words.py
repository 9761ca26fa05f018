"""Cutting texts up for searching."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from homeserver.store.search_words import (
    MAX_GRAMS,
    contains,
    fold,
    grams_of,
    rank,
    searched_text,
    sought_grams,
    words_of,
)


def test_case_accents_and_width_make_no_difference() -> None:
    assert fold("Crème BRÛLÉE ＡＢＣ ﾊﾝｶｸ") == "creme brulee abc ハンカク"
    assert fold("が") != fold("か")


def test_words_are_runs_of_anything_but_space_and_punctuation() -> None:
    assert words_of("Hello, (wörld)! 「東京都」へ。🎉 a_b") == ["hello", "world", "東京都", "へ", "🎉", "a", "b"]


def test_a_gram_begins_at_each_place_of_a_word() -> None:
    assert sorted(grams_of("hello")) == ["ell", "hel", "llo", "lo", "o"]
    assert sought_grams(["hello", "東京"]) == (["ell", "hel", "llo"], ["東京"])


@given(st.text(min_size=1, max_size=40), st.integers(0, 39), st.integers(1, 40))
def test_every_part_of_a_word_is_found_by_its_grams(text: str, start: int, length: int) -> None:
    grams = grams_of(text)
    for word in words_of(text):
        part = word[start % len(word) :][:length]
        whole, beginnings = sought_grams([part])
        assert set(whole) <= set(grams)
        assert all(any(gram.startswith(beginning) for gram in grams) for beginning in beginnings)
        assert contains(text, [part])


@given(st.text(max_size=200))
def test_grams_have_no_separators(text: str) -> None:
    assert not any(character.isspace() or character in "\"'\\\0" for gram in grams_of(text) for character in gram)


def test_grams_are_bounded() -> None:
    text = " ".join(chr(0x4E00 + n % 9000) + chr(0x4E00 + n // 9) for n in range(20_000))
    assert len(grams_of(text)) == MAX_GRAMS


def test_whole_words_and_short_texts_rank_higher() -> None:
    ranks = [rank(text, ["cat"]) for text in ("cat", "a cat of mine", "catalogue of mine", "educate of mine")]
    assert ranks == sorted(ranks, reverse=True) and len(set(ranks)) == 4


def test_topics_are_searched_with_their_plain_texts_only() -> None:
    content = {
        "topic": "old",
        "m.topic": {"m.text": [{"body": "plain"}, {"body": "<b>rich</b>", "mimetype": "text/html"}, 3]},
    }
    assert searched_text("m.room.topic", content) == "old\nplain"
    assert searched_text("m.room.message", {"body": 3}) == ""
    assert searched_text("m.room.encrypted", {"body": "x"}) == ""
