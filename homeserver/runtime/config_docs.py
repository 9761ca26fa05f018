"""The example file and the documentation page, made from the sections themselves."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import attrs

from homeserver.runtime.config import (
    REQUIRED,
    ServerConfig,
    Setting,
    describe_allowed,
    environment_name,
    fields_of,
    section_name,
    type_hints,
)

_WIDTH: Final = 100


def write_example(sections: Iterable[type], values: Mapping[str, object] | None = None) -> str:
    """A commented hearth.toml in which every setting stands at its default, commented out.

    `values` are set instead: {"server_name": "example.org", "registration.enabled": True}.
    """
    lines = ["# Configuration of Hearth. Settings that are commented out stand at their defaults.", ""]
    for cls in _ordered(sections):
        lines += _section_lines(cls, values or {})
    return "\n".join(lines).rstrip() + "\n"


def markdown(sections: Iterable[type]) -> str:
    """The page of all settings."""
    lines = [
        "# Configuration",
        "",
        "<!-- Made from the code by scripts/docs; do not edit. -->",
        "",
        "Hearth reads one file, `hearth.toml`. Every setting may be given in the environment instead,",
        "and has a default unless it says that it is required. Paths are relative to `data_dir` unless absolute.",
        "A variable that is named nearly like a setting's, or in a section that has no such setting, is told in the log.",
        "",
    ]
    for cls in _ordered(sections):
        lines += _section_page(cls, is_continued=cls is not ServerConfig)
    return "\n".join(lines).rstrip() + "\n"


def _ordered(sections: Iterable[type]) -> list[type]:
    """The top level first: in TOML it must precede every table. Then its arrays of tables, then the rest."""
    classes = list(dict.fromkeys([ServerConfig, *sections]))
    return sorted(classes, key=lambda cls: section_name(cls) != "")


def _section_lines(cls: type, values: Mapping[str, object]) -> Iterator[str]:
    yield from _comment(_about(cls))
    name = section_name(cls)
    yield from [f"[{name}]"] if name else []
    tables = []
    for field, hint in _fields(cls):
        if _is_table(hint):
            tables.append((field, hint))
            continue
        if name:
            yield ""
        yield from _comment(field.metadata[Setting].help)
        dotted = f"{name}.{field.name}" if name else field.name
        if dotted in values:
            yield f"{field.name} = {_toml(values[dotted])}"
        elif field.default is REQUIRED:
            yield f"{field.name} = {_toml('')}"
        else:
            yield f"# {field.name} = {_toml(_default_of(field))}"
    yield ""
    for field, hint in tables:
        yield from _table_lines(name, field, hint)


def _table_lines(section: str, field: attrs.Attribute[Any], hint: Any) -> Iterator[str]:
    path = f"{section}.{field.name}" if section else field.name
    default = _default_of(field)
    is_array = isinstance(default, list)
    yield from _comment(field.metadata[Setting].help)
    yield f"# [[{path}]]" if is_array else f"# [{path}]"
    for instance in default if is_array else [default]:
        for inner, _ in _fields(type(instance)):
            if is_array:
                yield from _comment("  " + inner.metadata[Setting].help)
            value = getattr(instance, inner.name)
            yield f"# {inner.name} = {_toml(value)}"
    yield ""


def _section_page(cls: type, is_continued: bool) -> Iterator[str]:
    name = section_name(cls)
    if name or not is_continued:
        yield from [f"## [{name}]" if name else "## Top level", ""]
    yield from [_about(cls), ""]
    yield from _rows(cls, tuple(name.split(".")) if name else (), cls)


def _rows(cls: type, at: tuple[str, ...], shown: object) -> Iterator[str]:
    tables = [(field, hint) for field, hint in _fields(cls) if _is_table(hint)]
    plain = [(field, hint) for field, hint in _fields(cls) if not _is_table(hint)]
    if plain:
        yield from ["| Setting | Allowed | Default | Environment | |", "| --- | --- | --- | --- | --- |"]
    for field, hint in plain:
        default = getattr(shown, field.name) if isinstance(shown, cls) else _default_of(field)
        shown_default = "required" if default is REQUIRED else f"`{_toml(default)}`"
        variable = f"`{environment_name((*at, field.name))}`" if at != ("listeners",) else ""
        allowed = describe_allowed(hint, field)
        about = field.metadata[Setting].help
        yield f"| `{field.name}` | {allowed} | {shown_default} | {variable} | {about} |"
    yield ""
    for field, hint in tables:
        yield from _table_page(at, field, hint)


def _table_page(at: tuple[str, ...], field: attrs.Attribute[Any], hint: Any) -> Iterator[str]:
    path = (*at, field.name)
    default = _default_of(field)
    is_array = isinstance(default, list)
    cls = get_args(hint)[0] if is_array else hint
    dotted = ".".join(path)
    yield from [f"### [[{dotted}]]" if is_array else f"### [{dotted}]", "", field.metadata[Setting].help, ""]
    yield from _rows(cls, path, None if is_array else default)


def _fields(cls: type) -> list[tuple[attrs.Attribute[Any], Any]]:
    hints = type_hints(cls)
    return [(field, hints[field.name]) for field in fields_of(cls)]


def _is_table(hint: Any) -> bool:
    return attrs.has(hint) or (get_origin(hint) is list and attrs.has(get_args(hint)[0]))


def _default_of(field: attrs.Attribute[Any]) -> Any:
    default: Any = field.default
    return default.factory() if hasattr(default, "factory") else default


def _about(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split())


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH - 2)]


def _toml(value: object) -> str:
    if value is None:
        return '""'
    return json.dumps(str(value) if isinstance(value, Path) else value)
