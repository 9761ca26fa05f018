"""Checks responses against the specification's own OpenAPI descriptions of the client-server and server-server APIs.

It is looked for in $HEARTH_SPEC, else in ../shared/spec/openapi beside the checkout; where there is none, nothing is checked and
the run's summary says so.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
# Answers that any endpoint may give, whatever its section lists.
_ERROR = {"type": "object", "required": ["errcode"], "properties": {"errcode": {"type": "string"}}}
EPHEMERAL = ["m.presence", "m.typing", "m.receipt"]
_PARAMETER = re.compile(r"\\\{[^}]*\\\}")
# Some operations with user-interactive authentication do not list its challenge among their responses.
_CHALLENGE = {"anyOf": [_ERROR, {"type": "object", "required": ["flows", "session"]}]}


class NotAsSpecified(AssertionError):
    """A response does not fit its schema."""


class Specification:
    """An API's responses; validators are made once, when they are first needed."""

    def __init__(self, name: str = "client-server") -> None:
        folder = Path(os.environ.get("HEARTH_SPEC") or CHECKOUT.parent / "shared" / "spec" / "openapi")
        self.file = folder / f"{name}.json"
        self.checked = 0
        self.operations_checked: set[str] = set()
        self._validators: dict[tuple[str, str, int], Any] = {}
        self._operation_of: dict[tuple[str, str], str | None] = {}

    @property
    def is_present(self) -> bool:
        return self.file.exists()

    def check_response(self, method: str, path: str, status: int, body: Any) -> None:
        """Raises: NotAsSpecified, naming the place. Operations outside the specification pass."""
        if not self.is_present:
            return
        template = self._find(method.lower(), path)
        if template is None:
            return
        self.checked += 1
        self.operations_checked.add(f"{method} {template}")
        self._validate(method.lower(), template, status, body)

    @property
    def seen(self) -> dict[str, Any]:
        """What was checked, for another process to `add`."""
        return {"checked": self.checked, "operations": sorted(self.operations_checked)}

    def add(self, seen: Mapping[str, Any]) -> None:
        """Count what another process checked."""
        self.checked += seen["checked"]
        self.operations_checked.update(seen["operations"])

    def summary(self) -> str:
        """One line for the end of the run."""
        if not self.is_present:
            return f"Responses were NOT validated against the specification: {self.file} is absent"
        operations = len(self.operations_checked)
        return f"{self.checked} responses of {operations} operations validated against the specification"

    def _validate(self, method: str, template: str, status: int, body: Any) -> None:
        validator = self._validator(method, template, status)
        errors = [] if validator is None else list(validator.iter_errors(body))
        if errors:
            error = min(errors, key=lambda found: len(found.absolute_path))
            place = "/".join(str(part) for part in error.absolute_path)
            raise NotAsSpecified(f"{method.upper()} {template}: {status}: at '{place}': {error.message[:500]}")

    def _validator(self, method: str, template: str, status: int) -> Any:
        key = (method, template, status)
        if key not in self._validators:
            self._validators[key] = self._build_validator(*key)
        return self._validators[key]

    def _build_validator(self, method: str, template: str, status: int) -> Any:
        from jsonschema import Draft202012Validator

        responses = self._document["paths"][template][method]["responses"]
        response = responses.get(str(status))
        if response is None:
            return Draft202012Validator(_CHALLENGE if status == 401 else _ERROR) if status >= 400 else None
        schema = response.get("content", {}).get("application/json", {}).get("schema")
        return None if schema is None else Draft202012Validator(_with_any_of(schema))

    def _find(self, method: str, path: str) -> str | None:
        path = path.replace("/_matrix/client/r0/", "/_matrix/client/v3/")
        shape = (method, path)
        if shape not in self._operation_of:
            self._operation_of[shape] = next(
                (
                    template
                    for pattern, template, methods in self._templates
                    if method in methods and pattern.fullmatch(path)
                ),
                None,
            )
        return self._operation_of[shape]

    @cached_property
    def _templates(self) -> list[tuple[re.Pattern[str], str, set[str]]]:
        """Fewest parameters first, so that a literal path wins over a template that it fits as well."""
        templates = sorted(self._document["paths"], key=lambda path: path.count("{"))
        return [(_pattern(path), path, set(self._document["paths"][path])) for path in templates]

    @cached_property
    def _document(self) -> Any:
        document = json.loads(self.file.read_text("utf-8"))
        _forget_origin(document)
        _allow_ephemeral(document)
        return document


def _forget_origin(schema: Any) -> None:
    """Where events are described beside the room versions, they still have an `origin`, which these have no more."""
    values = schema if isinstance(schema, list) else list(schema.values()) if isinstance(schema, dict) else []
    required = schema.get("required") if isinstance(schema, dict) else None
    if isinstance(required, list) and {"origin", "sender"} <= set(required):
        required.remove("origin")
    for value in values:
        _forget_origin(value)


def _allow_ephemeral(document: Any) -> None:
    """The chunk of GET /events is described as events of rooms. Who follows what happens by it is told of presence, typing and
    receipts too, in the form that the description of /initialSync has for presence.
    """
    events = document["paths"].get("/_matrix/client/v3/events")
    if events is not None:
        answer = events["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        chunk = answer["properties"]["chunk"]
        told = {"required": ["type", "content"], "properties": {"type": {"enum": EPHEMERAL}}}
        chunk["items"] = {"if": {"required": ["event_id"]}, "then": chunk["items"], "else": told}


def _with_any_of(schema: Any) -> Any:
    """The description of GET /state has "one of: any object, an event", which no event can fulfil: any of them will do."""
    options = schema.get("oneOf", ())
    if {"type": "object"} in options:
        return {"anyOf": options}
    return schema


def _pattern(template: str) -> re.Pattern[str]:
    # The state key may be empty, the rest not.
    pattern = _PARAMETER.sub("[^/]+", re.escape(template).replace(r"\{stateKey\}", "[^/]*"))
    return re.compile(pattern)


SPECIFICATION = Specification()
FEDERATION = Specification("server-server")
