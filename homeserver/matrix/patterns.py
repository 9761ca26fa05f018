"""Glob-style patterns and dot-separated property paths: the two small languages of push rules and filters.

Patterns come from users and are matched against text from other users, so a match must cost at most pattern x
text. A glob needs no backtracking over its stars: once a piece between two stars has been found at its first
place, a later place never helps. Atomic groups tell that to `re`; a naive `.*` translation is what makes
`*a*a*a*a*a` a denial of service.

Spec: appendices#glob-style-matching
"""

from __future__ import annotations

import re
from collections.abc import Callable

TextTest = Callable[[str], bool]

# SPEC: any character outside A-Z, a-z, 0-9 and _ is a word boundary, on whichever side of the pattern's edge
# it stands, so "@room" is found in "hey@room" too. The sentence also allows the stricter reading.
_BOUNDARY = r"(?:(?<![A-Za-z0-9_])|(?![A-Za-z0-9_]))"


def fold(text: str) -> str:
    """The text for caseless comparison, of the same length so that `?` stays one character."""
    if text.isascii():
        return text.lower()
    folded = text.casefold()
    return folded if len(folded) == len(text) else "".join(map(_fold_character, text))


def _fold_character(character: str) -> str:
    for folded in (character.casefold(), character.lower()):
        if len(folded) == 1:
            return folded
    return character


def compile_glob(pattern: str, *, question_mark: bool = True) -> TextTest:
    """A test for whether the whole text matches; the caller folds both sides if case shall not matter.

    With `question_mark` false only `*` is special, as in filters.
    Spec: appendices#glob-style-matching
    """
    if "*" not in pattern and not (question_mark and "?" in pattern):
        return pattern.__eq__
    first, *rest = (_piece(piece, question_mark) for piece in pattern.split("*"))
    if not rest:
        return _matcher(first + r"\Z")
    middle = "".join(f"(?>.*?{piece})" for piece in rest[:-1] if piece)
    return _matcher(f"{first}{middle}.*{rest[-1]}\\Z")


def compile_word_glob(pattern: str) -> TextTest:
    """A test for whether any part of the text that starts and ends at a word boundary matches.

    Spec: client-server-api#conditions-1
    """
    pieces = [_piece(piece, True) for piece in pattern.split("*")]
    if len(pieces) == 1:
        found = _searcher(f"{_BOUNDARY}{pieces[0]}{_BOUNDARY}")
    else:
        middle = "".join(f"(?>.*?{piece})" for piece in pieces[1:-1] if piece)
        found = _matcher(f"(?>.*?{_BOUNDARY}{pieces[0]}){middle}.*?{pieces[-1]}{_BOUNDARY}")
    # PERF: most messages contain no keyword at all; a substring test tells that in 0.2 us, `re` in 9 us.
    needle = max(re.split(r"[*?]", pattern), key=len)
    return (lambda text: needle in text and found(text)) if needle else found


def compile_word(word: str) -> TextTest:
    """As compile_word_glob, with nothing special in the word.

    Spec: client-server-api#conditions-1
    """
    found = _searcher(f"{_BOUNDARY}{re.escape(word)}{_BOUNDARY}")
    return lambda text: word in text and found(text)


def _piece(piece: str, question_mark: bool) -> str:
    escaped = re.escape(piece)
    return escaped.replace(r"\?", ".") if question_mark else escaped


def _matcher(expression: str) -> TextTest:
    match = re.compile(expression, re.DOTALL).match
    return lambda text: match(text) is not None


def _searcher(expression: str) -> TextTest:
    search = re.compile(expression, re.DOTALL).search
    return lambda text: search(text) is not None


def parse_property_path(path: str) -> tuple[str, ...]:
    r"""The property names of a path: `content.m\.relates_to` is `content`, `m.relates_to`.

    Spec: appendices#dot-separated-property-paths
    """
    if "\\" not in path:
        return tuple(path.split("."))
    names = [""]
    position = 0
    while position < len(path):
        character = path[position]
        if character == "\\" and path[position + 1 : position + 2] in (".", "\\"):
            position += 1
            names[-1] += path[position]
        elif character == ".":
            names.append("")
        else:
            names[-1] += character
        position += 1
    return tuple(names)
