#!/usr/bin/env python3
"""Prints docs/coverage.md: which operations of the specification a server of this code answers.

The operations are those of docs/spec_operations.txt (operations.py makes it); what is answered is asked of a server that is
started for it, so that an endpoint which is declared but served by nobody does not count.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
TITLES = {"client-server": "Client-server API", "server-server": "Server-server API"}
INTRODUCTION = """# Coverage of the specification

<!-- Made from the code by scripts/docs; do not edit. -->

Every operation that version 1.19 of the specification has for homeservers, and whether Hearth answers it. A list of what else
Hearth answers, with parameters and answers, is at `/docs` of each running server.
"""
CONFIG = """
server_name = "localhost"
data_dir = "{folder}"
[[listeners]]
port = 0
[log]
level = "error"
[policy_server]
enabled = true
"""

Operation = tuple[str, str, str]


def main() -> None:
    operations = [_parse(line) for line in (CHECKOUT / "docs/spec_operations.txt").read_text().splitlines()]
    print(page(operations, load_served()), end="")


def _parse(line: str) -> Operation:
    api, method, path = line.split()
    return api, method, path


def load_served() -> set[tuple[str, str]]:
    """The method and the shape of the path of all that a server answers."""
    from homeserver.main.process import run_alone
    from homeserver.main.sections import SECTIONS
    from homeserver.main.server import start_server
    from homeserver.runtime.config import parse_config

    with tempfile.TemporaryDirectory() as folder:
        config = parse_config(CONFIG.format(folder=folder), Path(folder) / "hearth.toml", SECTIONS, {})

        async def load(reactor: Any) -> set[tuple[str, str]]:
            running = await start_server(config, reactor)
            try:
                declared = [plan.declaration for plan in running.listeners.app.router.plans]
                return {(each.method, shape(path)) for each in declared for path in each.paths}
            finally:
                await running.services.stop()

        served: Any = run_alone(load)
    return set(served)


def shape(path: str) -> str:
    """The path without the names of its parameters."""
    return re.sub(r"\{[^}]*\}", "{}", path)


def page(operations: Iterable[Operation], served: set[tuple[str, str]]) -> str:
    """The page, in Markdown."""
    parts = [INTRODUCTION]
    listed = list(operations)
    for api, title in TITLES.items():
        rows = [(method, path, (method, shape(path)) in served) for each, method, path in listed if each == api]
        parts.append(section(api, title, rows))
    return "\n".join(parts)


def section(api: str, title: str, rows: list[tuple[str, str, bool]]) -> str:
    ours = [answered for _, _, answered in rows]
    lines = [f"## {title}", "", f"{sum(ours)} of {len(ours)} operations.", ""]
    lines += ["| Operation | Answered |", "| --- | --- |"]
    for method, path, answered in rows:
        word = "yes" if answered else "**no**"
        lines.append(f"| [{method} `{path}`]({link(api, method, path)}) | {word} |")
    return "\n".join([*lines, ""])


def link(api: str, method: str, path: str) -> str:
    """Where the specification describes it."""
    anchor = re.sub(r"[^a-z0-9_-]", "", path.lower())
    page_name = "application-service" if "appservice" in anchor else api
    return f"https://spec.matrix.org/v1.19/{page_name}-api/#{method.lower()}{anchor}"


if __name__ == "__main__":
    sys.path.insert(0, str(CHECKOUT))
    main()
