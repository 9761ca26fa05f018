"""Whether what the pages of the documentation name in the code is there: files, classes, and methods of classes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from source import Finding, Source

_QUOTED = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"[\w/]+\.py")
_MEMBER = re.compile(r"([A-Z]\w*[a-z]\w*)(?:\.(\w+))?")

Members = Mapping[str, frozenset[str]]


def check_names(page: Path, paths: Sequence[str], members: Members) -> Iterator[Finding]:
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        for quoted in _QUOTED.findall(line):
            if not _is_there(quoted, paths, members):
                yield Finding(number, f"there is no {quoted}")


def _is_there(quoted: str, paths: Sequence[str], members: Members) -> bool:
    if _FILE.fullmatch(quoted):
        return any(f"/{path}".endswith(f"/{quoted}") for path in paths)
    named = _MEMBER.fullmatch(quoted)
    if named is None:
        return True  # no name of the code's
    return named[1] in members and (named[2] is None or named[2] in members[named[1]])


def members_of(sources: Sequence[Source]) -> Members:
    """What each class has, under its name; classes of one name are taken together."""
    found: dict[str, set[str]] = {}
    for source in sources:
        for node in source.nodes:
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).update(_names_in(node))
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found.setdefault(node.targets[0].id, set())  # an alias of a type
    return {name: frozenset(members) for name, members in found.items()}


def _names_in(node: ast.ClassDef) -> Iterator[str]:
    for each in node.body:
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            yield each.name
        elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            yield each.target.id
