"""How texts are cut up for searching, on both databases alike.

A word is a run of anything but space and punctuation, so Chinese, Japanese or Korean text has long ones. At each place of a
word the next three characters are a gram. Whatever is part of a word is found by its grams: all of three characters and more,
and shorter ones as the beginning of grams. Grams say where to look and no more; `contains` tells what is really there.

Rejected: the tokenizers of SQLite and PostgreSQL, which know the words of few languages, find no parts of words, and do not
agree with each other.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final

GRAM: Final = 3
MAX_GRAMS: Final = 8_192  # of one event: with more of them, not all of its words are found
MAX_WORDS: Final = 16  # of one search
# Not a character of words, so that a room's mark is no word's gram.
_MARK: Final = "\u2060"
# Space, punctuation of ASCII, general punctuation, punctuation of Chinese and Japanese.
_SEPARATORS: Final = (
    "\\s\x00-/:-@\\[-`{-\x7f\u0080-\u00bf\u2000-\u206f\u3000-\u303f\ufe10-\ufe1f\ufe30-\ufe4f\ufff0-\uffff"
)
_WORD: Final = re.compile(f"[^{_SEPARATORS}]+")
_ACCENTS: Final = re.compile("[\u0300-\u036f]")

# What is searched: event type -> key of the request.
SEARCHED: Final[Mapping[str, str]] = {
    "m.room.message": "content.body",
    "m.room.name": "content.name",
    "m.room.topic": "content.topic",
}


def searched_text(type_: str, content: Mapping[str, Any]) -> str:
    """The text of an event that searches look at; empty when there is none.

    Spec: client-server-api#search-categories
    """
    if type_ not in SEARCHED:
        return ""
    texts = [content.get(SEARCHED[type_].removeprefix("content."))]
    if type_ == "m.room.topic":
        texts += _plain_topics(content.get("m.topic"))
    return "\n".join(text for text in texts if isinstance(text, str))


def _plain_topics(topic: object) -> list[object]:
    """Spec: client-server-api#mroomtopic"""
    parts = topic.get("m.text") if isinstance(topic, dict) else None
    found = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return [part.get("body") for part in found if part.get("mimetype", "text/plain") == "text/plain"]


def fold(text: str) -> str:
    """The text as it is compared: without case, accents, and differences of width."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFKC", _ACCENTS.sub("", decomposed)).casefold()


def words_of(text: str) -> list[str]:
    """The words of a text, folded, in order."""
    return _WORD.findall(fold(text))


def grams_of(text: str) -> list[str]:
    """What a text is found by: each gram once, in no order, at most MAX_GRAMS."""
    grams = {word[start : start + GRAM] for word in set(words_of(text)) for start in range(len(word))}
    return list(grams) if len(grams) <= MAX_GRAMS else sorted(grams)[:MAX_GRAMS]


def sought_grams(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What texts with all of these words have: whole grams, and beginnings of grams."""
    whole = {word[start : start + GRAM] for word in words for start in range(len(word) - GRAM + 1)}
    return sorted(whole), sorted({word for word in words if len(word) < GRAM})


def room_mark(room_id: str) -> str:
    """Stands beside the grams of the room's events, so that a search looks at the rooms of whoever searches only."""
    return _MARK + hashlib.blake2b(room_id.encode(), digest_size=8).hexdigest()


def contains(text: str, words: Sequence[str]) -> bool:
    """Whether each word is in the text."""
    folded = fold(text)
    return all(word in folded for word in words)


def rank(text: str, words: Sequence[str]) -> float:
    """How well a text that contains the words fits them, above 0 and at most 1: whole words and short texts are best."""
    found = words_of(text)
    if not found or not words:
        return 0.0
    whole = set(found)
    scores = [1.0 if word in whole else 0.6 if _begins(word, whole) else 0.3 for word in words]
    return sum(scores) / len(scores) / (1 + 0.05 * min(len(found), 200))


def _begins(word: str, words: set[str]) -> bool:
    return any(other.startswith(word) for other in words)
