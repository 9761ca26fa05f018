#!/usr/bin/env python3
"""The house checks: what the project promises of its code and no other tool looks at.

One line for each thing that is wrong, `file:line: what`. Exit code 1 if there is any.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import anchors
import layout
import named
import patterns
from source import Finding, Source

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("homeserver", "federation", "media_repo", "synapse_compat", "scripts/checks", "tests")

Check = Callable[[Source], Iterator[Finding]]


def checks() -> list[Check]:
    known = frozenset((ROOT / "docs/spec_anchors.txt").read_text("utf-8").split())
    return [
        layout.check_module_name,
        layout.check_module_docstring,
        layout.check_file_length,
        layout.check_function_lengths,
        patterns.check_sql,
        patterns.check_broad_excepts,
        patterns.check_type_ignores,
        patterns.check_sleeps,
        patterns.check_open_work,
        partial(anchors.check_anchors, known=known),
    ]


def main() -> int:
    found = 0
    all_checks = checks()
    sources = []
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        if "node_modules" in path.parts:
            continue
        try:
            source = Source.load(path, ROOT)
        except (SyntaxError, FileNotFoundError) as error:  # being written at this moment, or gone
            print(f"{path.relative_to(ROOT)}: {error}")
            found += 1
            continue
        sources.append(source)
        found += sum(tell(source.name, check(source)) for check in all_checks)
    return 1 if found + check_pages(sources) else 0


def check_pages(sources: Sequence[Source]) -> int:
    """How much is wrong with the pages that lead through the code."""
    paths, members = [source.name for source in sources], named.members_of(sources)
    pages = [ROOT / "docs/architecture.md", *sorted((ROOT / "docs/flows").glob("*.md"))]
    return sum(tell(page.relative_to(ROOT).as_posix(), named.check_names(page, paths, members)) for page in pages)


def tell(name: str, findings: Iterable[Finding]) -> int:
    """How many there were."""
    lines = [f"{name}:{finding.line}: {finding.text}" for finding in findings]
    print("".join(f"{line}\n" for line in lines), end="")
    return len(lines)


if __name__ == "__main__":
    sys.exit(main())
