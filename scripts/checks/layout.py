"""Names of modules, what they say of themselves, and how long files and functions are."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from source import Finding, Source

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60
# What a module with such a name holds can't be known from it.
EMPTY_NAMES = frozenset({"utils", "util", "helpers", "helper", "misc", "manager", "managers", "common"})

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def check_module_name(source: Source) -> Iterator[Finding]:
    for part in source.name.removesuffix(".py").split("/"):
        if part in EMPTY_NAMES:
            yield Finding(1, f"a module is a noun that says what it holds, not '{part}'")


def check_module_docstring(source: Source) -> Iterator[Finding]:
    module = source.nodes[0]
    is_silent = isinstance(module, ast.Module) and ast.get_docstring(module) is None
    if is_silent and source.text.strip() and source.package != "tests":
        yield Finding(1, "a module says what it is")


def check_file_length(source: Source) -> Iterator[Finding]:
    lines = source.text.count("\n")
    if lines > MAX_FILE_LINES:
        yield Finding(1, f"{lines} lines, at most {MAX_FILE_LINES}")


def check_function_lengths(source: Source) -> Iterator[Finding]:
    """A longer one says why in a comment `# long: …` in its first lines or above it."""
    for node in source.nodes:
        if isinstance(node, _Function) and _length(node) > MAX_FUNCTION_LINES and not _excused(source, node):
            text = f"{node.name} has {_length(node)} lines, at most {MAX_FUNCTION_LINES} unless '# long: why'"
            yield Finding(node.lineno, text)


def _length(node: _Function) -> int:
    """Lines of the function without its docstring and decorators."""
    whole = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is not None:
        whole -= (first.end_lineno or first.lineno) - first.lineno + 1
    return whole


def _excused(source: Source, node: _Function) -> bool:
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    end = node.body[0].end_lineno or node.lineno
    return any(source.comments.get(line, "").startswith("long: ") for line in range(start - 1, end + 2))
