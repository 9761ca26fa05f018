"""Finds the line of a setting in a TOML file, for error messages; tomllib doesn't tell."""

from __future__ import annotations

import re
from typing import Final

_ARRAY: Final = re.compile(r"\s*\[\[\s*([^\]]+?)\s*\]\]")
_TABLE: Final = re.compile(r"\s*\[\s*([^\]]+?)\s*\]")
_KEY: Final = re.compile(r"""\s*([A-Za-z0-9_.\-"' ]+?)\s*=""")


def find_line(text: str, at: tuple[str | int, ...]) -> int | None:
    """The line of a key (its table's line if the key is not found), counted from 1; None if neither is there.

    `at` is as in ("listeners", 0, "port"). Inline tables are found by their key.
    """
    wanted = list(at)
    while wanted:
        line = _find_exactly(text, tuple(wanted))
        if line is not None:
            return line
        wanted.pop()
    return None


def _find_exactly(text: str, at: tuple[str | int, ...]) -> int | None:
    table: tuple[str | int, ...] = ()
    counts: dict[tuple[str | int, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        found = _ARRAY.match(line)
        if found:
            name = _parts(found[1])
            table = (*name, counts.get(name, 0))
            counts[name] = counts.get(name, 0) + 1
        elif found := _TABLE.match(line):
            table = _parts(found[1])
        elif found := _KEY.match(line):
            if (*table, *_parts(found[1])) == at:
                return number
            continue
        if table == at or table[:-1] == at:
            return number
    return None


def _parts(dotted: str) -> tuple[str | int, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
