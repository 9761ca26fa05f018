"""A Python file as the checks see it."""

from __future__ import annotations

import ast
import io
import tokenize
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, at a line (1 is the first)."""

    line: int
    text: str


@dataclass(frozen=True)
class Source:
    """`name` is the path from the checkout, with slashes; `nodes` are all of the syntax tree's."""

    name: str
    text: str
    nodes: list[ast.AST]

    @classmethod
    def load(cls, path: Path, root: Path) -> Source:
        """Raises: SyntaxError."""
        text = path.read_text("utf-8")
        return cls(path.relative_to(root).as_posix(), text, list(ast.walk(ast.parse(text))))

    @property
    def package(self) -> str:
        return self.name.partition("/")[0]

    @cached_property
    def comments(self) -> dict[int, str]:
        """Line -> the comment's text without #. PERF: ten times as long as all the rest, so only where it matters."""
        if not any(word in self.text for word in ("type: ignore", "# long: ", "TODO", "FIXME", "XXX")):
            return {}
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
