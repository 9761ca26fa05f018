"""House checks: what the style page asks for and no linter knows. One line a finding; exit code 1 if there are any."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("homeserver", "federation", "media_repo", "synapse_compat")
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 600
VAGUE_NAMES = {"utils", "helpers", "misc", "manager", "common"}
# Only these may speak SQL: the store, and the file that opens databases.
SQL_HOMES = ("homeserver/store/", "homeserver/runtime/db.py", "homeserver/main/database.py")
_IGNORE = re.compile(r"# type: ignore(?!\[[\w, -]+\])")


def main() -> int:
    findings = [
        *(finding for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")) for finding in check(path)),
        *(finding for path in sorted((ROOT / "tests").rglob("*.py")) for finding in check_test(path)),
    ]
    for finding in findings:
        print(finding)
    return 1 if findings else 0


def check(path: Path) -> Iterator[str]:
    name = path.relative_to(ROOT).as_posix()
    text = path.read_text()
    lines = text.splitlines()
    if len(lines) > MAX_FILE_LINES:
        yield f"{name}:1: {len(lines)} lines, more than {MAX_FILE_LINES}"
    if path.stem in VAGUE_NAMES:
        yield f"{name}:1: a module is named after what it holds"
    for number, line in enumerate(lines, 1):
        if _IGNORE.search(line):
            yield f"{name}:{number}: a type: ignore carries its code"
        if "TODO" in line or "FIXME" in line:
            yield f"{name}:{number}: open work belongs into an issue"
    tree = ast.parse(text)
    if ast.get_docstring(tree) is None and text.strip():
        yield f"{name}:1: a module says what it is"
    yield from check_functions(name, lines, tree)
    if not name.startswith(SQL_HOMES):
        yield from check_imports(name, tree)


def check_functions(name: str, lines: list[str], tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0]
        docstring = ast.get_docstring(node) is not None
        begin = first.end_lineno if docstring else node.lineno
        length = (node.end_lineno or 0) - (begin or 0)
        if length > MAX_FUNCTION_LINES and "# long:" not in lines[node.lineno - 2]:
            yield f"{name}:{node.lineno}: {node.name} has {length} lines, more than {MAX_FUNCTION_LINES}"


def check_imports(name: str, tree: ast.Module) -> Iterator[str]:
    """Outside the store only the types of transactions may be named."""
    allowed = {"Connection", "Engine", "SQLAlchemyError", "DBAPIError", "IntegrityError"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy"):
            for alias in node.names:
                if alias.name not in allowed:
                    yield f"{name}:{node.lineno}: SQL only in homeserver/store ({alias.name})"


def check_test(path: Path) -> Iterator[str]:
    name = path.relative_to(ROOT).as_posix()
    if "/node_modules/" in name:
        return
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if re.search(r"\btime\.sleep\(", line) and "# poll:" not in line:
            yield f"{name}:{number}: no sleeps in tests"


if __name__ == "__main__":
    sys.exit(main())
