#!/usr/bin/env python3
"""Writes docs/spec_anchors.txt: every place of the specification that a `Spec:` line may point at.

    git clone https://github.com/matrix-org/matrix-spec
    scripts/checks/spec_anchors.py matrix-spec > docs/spec_anchors.txt

The specification is built by Hugo, whose rules are followed here: a heading's anchor is its text in small letters
without punctuation, spaces as hyphens, the second of the same text with -1; shortcodes are expanded in place, because
the numbers follow the order on the page. Operations, events and definitions have anchors made from their path, type or
title.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

PAGES = (
    "client-server-api",
    "server-server-api",
    "application-service-api",
    "identity-service-api",
    "push-gateway-api",
    "appendices",
    "rooms",
    *(f"rooms/v{number}" for number in range(1, 13)),
)
METHODS = ("get", "post", "put", "delete")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*\s*$")
EXPLICIT_ID = re.compile(r"\s*\{(?:#|id=\")([^}\"]+)\"?\}$")
HTML_ID = re.compile(r"<\w+ [^>]*\bid=\"([^\"]+)\"")
SHORTCODE = re.compile(r"\{\{[%<]\s*([\w/-]+)((?:\s+\w+=\"[^\"]*\")*)")
PARAMETER = re.compile(r"(\w+)=\"([^\"]*)\"")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def anchorize(text: str) -> str:
    """Hugo's anchor for a text."""
    kept = "".join(char for char in text.strip().lower() if char.isalnum() or char in "-_ ")
    return kept.replace(" ", "-")


class Specification:
    """A checkout of matrix-spec."""

    def __init__(self, root: Path) -> None:
        self._content = root / "content"
        self._data = root / "data"
        self._documents: dict[Path, Any] = {}

    def page_anchors(self, page: str) -> Iterator[str]:
        """The anchors of a page in their order; "" first, which is the page itself."""
        yield ""
        path = self._content / f"{page}.md"
        if not path.exists():
            path = self._content / page / "_index.md"
        seen: dict[str, int] = {}
        for kind, text in self._pieces(path):
            if kind == "id":
                yield text
                continue
            count = seen[text] = seen.get(text, -1) + 1
            yield f"{text}-{count}" if count else text

    def _pieces(self, path: Path) -> Iterator[tuple[str, str]]:
        """("heading", anchor without its number) or ("id", anchor)."""
        in_code = False
        for line in path.read_text("utf-8").splitlines():
            if line.lstrip().startswith(("```", "~~~")):
                in_code = not in_code
            if in_code:
                continue
            if heading := HEADING.match(line):
                yield heading_anchor(heading[1])
            for found in HTML_ID.findall(line):
                yield "id", found
            for name, arguments in SHORTCODE.findall(line):
                yield from self._expand(name, dict(PARAMETER.findall(arguments)))

    def _expand(self, name: str, arguments: dict[str, str]) -> Iterator[tuple[str, str]]:
        if name == "cs-module":
            yield from self._pieces(self._content / "client-server-api/modules" / f"{arguments['filename']}.md")
        elif name == "rver-fragment":
            yield from self._pieces(self._content / "rooms/fragments" / f"{arguments['name']}.md")
        elif name == "http-api":
            path = self._data / "api" / arguments["spec"] / f"{arguments['api']}.yaml"
            yield from self._operations(path, arguments.get("anchor_base", ""))
        elif name == "event":
            yield "id", anchorize(arguments["event"])
        elif name == "event-group":
            yield from self._events(arguments["group_name"])
        elif name == "msgtypes":
            yield from self._message_types()
        elif name == "definition":
            path = self._data / f"{arguments['path']}.yaml"
            base = f"definition-{anchorize(self._title(self._load(path), path))}"
            yield "id", base
            yield from self._objects(self._load(path), path, base)

    def _operations(self, path: Path, prefix: str) -> Iterator[tuple[str, str]]:
        document = self._load(path)
        base = document["servers"][0]["variables"]["basePath"]["default"]
        for endpoint, methods in document["paths"].items():
            for method in METHODS:
                if method not in methods:
                    continue
                anchor = f"{prefix}_" * bool(prefix) + method + anchorize(base + endpoint)
                yield "id", anchor
                yield from self._bodies(methods[method], path, anchor)

    def _bodies(self, operation: dict[str, Any], path: Path, anchor: str) -> Iterator[tuple[str, str]]:
        bodies = {"request": operation.get("requestBody", {})}
        bodies |= {f"response-{status}": answer for status, answer in operation["responses"].items()}
        for name, body in bodies.items():
            schema = body.get("content", {}).get("application/json", {}).get("schema")
            if schema is not None:
                yield from self._objects(schema, path, f"{anchor}_{name}")

    def _objects(self, schema: Any, path: Path, base: str, above: tuple[Any, ...] = ()) -> Iterator[tuple[str, str]]:
        """Each titled object within a schema has a table, and its anchor."""
        schema, path = self._resolved(schema, path)
        if not isinstance(schema, dict) or id(schema) in above:
            return
        if "title" in schema:
            yield "id", f"{base}_{anchorize(str(schema['title']))}"
        inner = [schema.get("items"), schema.get("additionalProperties"), schema.get("requestBody")]
        for key in ("properties", "patternProperties"):
            inner += schema.get(key, {}).values()
        for key in ("allOf", "anyOf", "oneOf"):
            inner += schema.get(key, [])
        for part in inner:
            yield from self._objects(part, path, base, (*above, id(schema)))

    def _title(self, schema: Any, path: Path) -> str:
        """A schema's title, which may come from what it is made of."""
        schema, path = self._resolved(schema, path)
        if "title" in schema:
            return str(schema["title"])
        titles = (self._title(part, path) for part in schema.get("allOf", ()))
        return next((title for title in titles if title), "")

    def _resolved(self, schema: Any, path: Path) -> tuple[Any, Path]:
        while isinstance(schema, dict) and "$ref" in schema:
            reference, _, pointer = schema["$ref"].partition("#")
            path = (path.parent / reference).resolve() if reference else path
            schema = self._load(path)
            for part in pointer.strip("/").split("/") if pointer.strip("/") else ():
                schema = schema[part]
        return schema, path

    def _events(self, prefix: str) -> Iterator[tuple[str, str]]:
        for path in sorted((self._data / "event-schemas/schema").glob(f"{prefix}*.yaml")):
            yield "id", anchorize(path.stem)

    def _message_types(self) -> Iterator[tuple[str, str]]:
        for path in sorted((self._data / "event-schemas/schema").glob("m.room.message$*.yaml")):
            yield "id", anchorize(path.stem.partition("$")[2])

    def _load(self, path: Path) -> Any:
        path = path.resolve()
        if path not in self._documents:
            self._documents[path] = yaml.safe_load(path.read_text("utf-8"))
        return self._documents[path]


def heading_anchor(text: str) -> tuple[str, str]:
    if explicit := EXPLICIT_ID.search(text):
        return "id", explicit[1]
    text = re.sub(r"\{\{[%<].*?[%>]\}\}", "", LINK.sub(r"\1", text))
    return "heading", anchorize(re.sub(r"<[^>]*>|[`*\\]", "", text))


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    specification = Specification(Path(arguments[0]))
    for page in PAGES:
        for anchor in dict.fromkeys(specification.page_anchors(page)):
            print(f"{page}#{anchor}" if anchor else page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
