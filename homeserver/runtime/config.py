"""Configuration: one TOML file, one frozen class per section, beside the code that uses it.

    @section("presence")
    class PresenceConfig:
        \"\"\"Who is online.\"\"\"
        enabled: bool = setting(True, help="Whether presence is kept and sent.")

    config = load_config(Path("hearth.toml"), [ServerConfig, PresenceConfig])
    config.section(PresenceConfig).enabled

A value comes from the environment (HEARTH_PRESENCE_ENABLED), else from the file, else from the default.
Whatever is wrong is one line: `hearth.toml:12: [presence] enabled: found "yes", allowed: true or false`.

A field may be bool, int, float, str, Path, list[str], one of these or None, a class made by @group (a table
within the section) or a list of such (an array of tables). A Path is relative to data_dir, data_dir to the
file's folder.
"""

from __future__ import annotations

import json
import os
import tomllib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

import attrs
from attrs import frozen

from homeserver.runtime.config_forms import HTTP_URL, SERVER_NAME, Form
from homeserver.runtime.config_lines import find_line

_SECTION: Final = "__hearth_section__"
_ENVIRONMENT: Final = "HEARTH"
_ALIKE: Final = 0.85  # as difflib measures it, of two variables' names
DEFAULT_DATA_DIR: Final = "hearth-data"
_T = TypeVar("_T")


class ConfigError(Exception):
    """The configuration can't be used; the text is one line for the admin."""


@frozen
class Setting:
    """What is known of a setting beside its type and default."""

    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    form: Form | None = None
    needs: str | None = None


REQUIRED: Final[Any] = attrs.NOTHING


def setting(
    default: Any = REQUIRED,
    *,
    help: str,  # the word that argparse uses, too
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Iterable[str] | None = None,
    form: Form | None = None,
    needs: str | None = None,
) -> Any:
    """A setting of a section; without a default it must be set. `form` is that of a string, or of each in a list; `needs`
    is another setting beside it that must be set, too, where this one is."""
    about = Setting(help, minimum, maximum, None if choices is None else tuple(choices), form, needs)
    metadata = {Setting: about}
    if isinstance(default, list | dict):
        return attrs.field(factory=lambda: type(default)(default), metadata=metadata)
    return attrs.field(default=default, metadata=metadata)


# `setting` is left out of field_specifiers: mypy would see its positional default as none.
@dataclass_transform(frozen_default=True, kw_only_default=True)
def section(name: str) -> Callable[[type[_T]], type[_T]]:
    """Makes a class the table `[name]`; a dotted name is a table within a table, "" the top level."""

    def decorate(cls: type[_T]) -> type[_T]:
        made = group(cls)
        setattr(made, _SECTION, name)
        return made

    return decorate


@dataclass_transform(frozen_default=True, kw_only_default=True)
def group(cls: type[_T]) -> type[_T]:
    """Makes a class of settings that can be the type of a setting."""
    return frozen(kw_only=True, slots=True)(cls)


def section_name(cls: type) -> str:
    name: str = getattr(cls, _SECTION)
    return name


@section("")
class ServerConfig:
    """The server itself."""

    server_name: str = setting(
        help="The name in user IDs (@user:server_name). It can't be changed later.", form=SERVER_NAME
    )
    public_base_url: str = setting(
        "",
        form=HTTP_URL,
        help="Where clients reach this server, as https://matrix.example.org. "
        "Empty: http://localhost and the port of the first listener.",
    )
    data_dir: Path = setting(Path(DEFAULT_DATA_DIR), help="Folder for all data; relative to this file.")
    signing_key_file: Path = setting(
        Path("signing.key"), help="The key that signs events; made at the first start. Keep a copy of it."
    )


class Config:
    """The sections of a loaded configuration.

    warnings: lines for the admin on what was not read.
    """

    def __init__(self, path: Path, data_dir: Path, sections: dict[type, Any], warnings: Sequence[str]) -> None:
        self.path = path
        self.warnings = warnings
        self.data_dir = data_dir
        self._sections = sections

    def section(self, cls: type[_T]) -> _T:
        """The values of a section that was given to load_config."""
        loaded: _T = self._sections[cls]
        return loaded

    def resolve(self, path: str | Path) -> Path:
        """A path as settings mean it: relative to data_dir unless absolute."""
        return self.data_dir / path


def load_config(path: Path, sections: Iterable[type], environment: Mapping[str, str] | None = None) -> Config:
    """Reads the file and the environment.

    Raises: ConfigError, for the first thing that is wrong.
    """
    text = _load_text(path)
    return parse_config(text, path, sections, os.environ if environment is None else environment)


def parse_config(text: str, path: Path, sections: Iterable[type], environment: Mapping[str, str]) -> Config:
    """As load_config, from the file's text. ServerConfig is always among the sections."""
    classes = list(dict.fromkeys([ServerConfig, *sections]))
    reader = _Reader(path.name, text, environment, classes)
    data_dir = reader.data_dir(path)
    read: dict[type, Any] = {cls: reader.read_section(cls) for cls in classes}
    return Config(path, data_dir, read, list(_unread_variables(classes, environment)))


def _unread_variables(classes: Sequence[type], environment: Mapping[str, str]) -> Iterator[str]:
    """A line for each variable that is meant as a setting and is none.

    Not all that begin with HEARTH_ are: a cluster sets HEARTH_PORT for its service of that name, and the tests and measurements
    have some. Told are those in a section, and those that are nearly a setting.
    """
    tables, known = set(), set()
    for cls in classes:
        name = section_name(cls)
        tables |= {environment_name((name,))} if name else _arrays(cls)
        known |= _variables(cls, (name,) if name else ())
    for variable in sorted(environment):
        if variable in known or not variable.startswith(f"{_ENVIRONMENT}_"):
            continue
        alike = get_close_matches(variable, known, 1, _ALIKE)
        if alike:
            yield f"environment: {variable}: no such setting, did you mean {alike[0]}?"
        elif any(variable.startswith(f"{table}_") for table in tables):
            yield f"environment: {variable}: no such setting"


def _arrays(cls: type) -> set[str]:
    return {environment_name((name,)) for name, hint in type_hints(cls).items() if _group_item(hint)}


def _variables(cls: type, at: tuple[str, ...]) -> set[str]:
    """Those by which the settings of a section or group can be given, which arrays of tables can't."""
    found: set[str] = set()
    for name, hint in type_hints(cls).items():
        if attrs.has(hint):
            found |= _variables(hint, (*at, name))
        elif _group_item(hint) is None:
            found.add(environment_name((*at, name)))
    return found


def _load_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


class _Reader:
    """Reads sections from one file and the environment."""

    def __init__(self, file_name: str, text: str, environment: Mapping[str, str], classes: Sequence[type]) -> None:
        self._file_name = file_name
        self._text = text
        self._environment = environment
        self._known: dict[str, set[str]] = {}
        for cls in classes:
            names = {field.name for field in fields_of(cls)}
            self._known.setdefault(section_name(cls), set()).update(names)
        self._data_dir = Path()
        try:
            self._tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(_toml_error(file_name, error)) from None

    def data_dir(self, path: Path) -> Path:
        value = self._environment.get(f"{_ENVIRONMENT}_DATA_DIR", self._tables.get("data_dir"))
        chosen = value if isinstance(value, str) else DEFAULT_DATA_DIR
        self._data_dir = path.absolute().parent / chosen
        return self._data_dir

    def read_section(self, cls: type[_T]) -> _T:
        name = section_name(cls)
        at = tuple(name.split(".")) if name else ()
        table: Any = self._tables
        for part in at:
            table = table.get(part, {})
            if not isinstance(table, dict):
                raise self._error(at, table, "a table")
        return self._read_group(cls, table, at, self._known[name])

    def _read_group(
        self,
        cls: type[_T],
        table: Mapping[str, Any],
        at: tuple[str | int, ...],
        known: set[str] | None = None,
    ) -> _T:
        hints = type_hints(cls)
        fields = {field.name: field for field in fields_of(cls)}
        self._check_known(table, at, known or set(fields))
        values: dict[str, Any] = {}
        for name, field in fields.items():
            value = self._read_field(hints[name], field, table, (*at, name))
            if value is not REQUIRED:
                values[name] = value
        made = cls(**values)
        for name, field in fields.items():
            needs = field.metadata[Setting].needs
            if needs is not None and getattr(made, name) and not getattr(made, needs):
                raise ConfigError(f"{self._where((*at, needs))}: missing, as {name} is set")
        return made

    def _check_known(self, table: Mapping[str, Any], at: tuple[str | int, ...], known: set[str]) -> None:
        for key in table:
            dotted = ".".join(str(part) for part in (*at, key))
            if key in known or any(name == dotted or name.startswith(dotted + ".") for name in self._known):
                continue
            allowed = sorted(known if at else {*known, *(name for name in self._known if name)})
            raise ConfigError(f"{self._where((*at, key))}: unknown key, allowed: {', '.join(allowed)}")

    def _read_field(self, hint: Any, field: attrs.Attribute[Any], table: Mapping[str, Any], at: Any) -> Any:
        if attrs.has(hint):
            return self._read_subgroup(hint, field, table.get(field.name, {}), at)
        variable = environment_name(at)
        if variable in self._environment and not any(isinstance(part, int) for part in at):
            return self._from_environment(hint, field, variable)
        if field.name in table:
            return self._checked(hint, field.metadata[Setting], table[field.name], at)
        if field.default is REQUIRED:
            raise ConfigError(f"{self._file_name}: {_dotted(at)}: missing, allowed: {describe_allowed(hint, field)}")
        if isinstance(field.default, Path):
            return self._data_dir / field.default
        return REQUIRED

    def _read_subgroup(self, hint: type, field: attrs.Attribute[Any], table: Any, at: Any) -> Any:
        """The table's values over those of the default instance."""
        if not isinstance(table, dict):
            raise self._error(at, table, "a table")
        if isinstance(field.default, hint):
            table = {**{inner.name: getattr(field.default, inner.name) for inner in fields_of(hint)}, **table}
        return self._read_group(hint, table, at)

    def _from_environment(self, hint: Any, field: attrs.Attribute[Any], variable: str) -> Any:
        text = self._environment[variable]
        allowed = describe_allowed(hint, field)
        try:
            value = _convert_text(hint, text)
        except ValueError:
            raise ConfigError(f"environment: {variable}: found {_shown(text)}, allowed: {allowed}") from None
        about = field.metadata[Setting]
        if not _fits(hint, about, value):
            raise ConfigError(f"environment: {variable}: found {_shown(text)}, allowed: {allowed}")
        if (wrong := _misformed(about, value)) is not None:
            raise ConfigError(f"environment: {variable}: found {_shown(wrong)}, allowed: {allowed}")
        return self._resolved(hint, value)

    def _checked(self, hint: Any, about: Setting, value: Any, at: tuple[str | int, ...]) -> Any:
        item = _group_item(hint)
        if item is not None:
            if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
                raise self._error(at, value, "an array of tables")
            return [self._read_group(item, table, (*at, index)) for index, table in enumerate(value)]
        if not _fits(hint, about, value):
            raise self._error(at, value, _describe(hint, about))
        if (wrong := _misformed(about, value)) is not None:
            raise self._error(at, wrong, _describe(hint, about))
        return self._resolved(hint, value)

    def _resolved(self, hint: Any, value: Any) -> Any:
        if _plain(hint) is Path:
            is_unset = value == "" and hint is not Path
            return None if is_unset else self._data_dir / value
        if hint is float:
            return float(value)
        return value

    def _where(self, at: tuple[str | int, ...]) -> str:
        line = find_line(self._text, at)
        return f"{self._file_name}:{line}: {_dotted(at)}" if line else f"{self._file_name}: {_dotted(at)}"

    def _error(self, at: tuple[str | int, ...], value: object, allowed: str) -> ConfigError:
        return ConfigError(f"{self._where(at)}: found {_shown(value)}, allowed: {allowed}")


def environment_name(at: Iterable[str | int]) -> str:
    """The variable that overrides a setting, as HEARTH_LOG_LEVEL."""
    return "_".join([_ENVIRONMENT, *(str(part).upper().replace(".", "_") for part in at)])


def fields_of(cls: type) -> tuple[attrs.Attribute[Any], ...]:
    """The settings of a section or group."""
    fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(cls)
    return fields


def type_hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def describe_allowed(hint: Any, field: attrs.Attribute[Any]) -> str:
    """The values that a setting may have, in words."""
    return _describe(hint, field.metadata[Setting])


def _describe(hint: Any, about: Setting) -> str:
    if about.choices is not None:
        words = " or ".join(json.dumps(choice) for choice in about.choices)
        return f"a list of {words}" if get_origin(hint) is list else words
    kind = _plain(hint)
    if about.form is not None:
        return f"a list, each {about.form.words}" if get_origin(kind) is list else about.form.words
    if kind is bool:
        return "true or false"
    if kind in (int, float):
        return _describe_number("a whole number" if kind is int else "a number", about)
    if get_origin(kind) is list:
        return "an array of tables" if _group_item(kind) else "a list of strings"
    return "a path" if kind is Path else "a string"


def _describe_number(words: str, about: Setting) -> str:
    if about.minimum is not None and about.maximum is not None:
        return f"{words} from {_digits(about.minimum)} to {_digits(about.maximum)}"
    if about.minimum is not None:
        return f"{words} from {_digits(about.minimum)}"
    return f"{words} up to {_digits(about.maximum)}" if about.maximum is not None else words


def _digits(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def _plain(hint: Any) -> Any:
    """X for `X | None`."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint


def _group_item(hint: Any) -> type | None:
    if get_origin(hint) is list and attrs.has(get_args(hint)[0]):
        item: type = get_args(hint)[0]
        return item
    return None


def _fits(hint: Any, about: Setting, value: object) -> bool:
    kind = _plain(hint)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(
            isinstance(item, str) and (about.choices is None or item in about.choices) for item in value
        )
    if kind in (int, float):
        numbers = (int, float) if kind is float else int
        return isinstance(value, numbers) and not isinstance(value, bool) and _in_range(about, value)
    if kind is bool:
        return isinstance(value, bool)
    return isinstance(value, str) and (about.choices is None or value in about.choices)


def _misformed(about: Setting, value: object) -> str | None:
    """The first string of a fitting value that has not the form it should; empty ones stand for none."""
    if about.form is None:
        return None
    texts: list[str] = value if isinstance(value, list) else [str(value)] if value else []
    return next((text for text in texts if not about.form.accepts(text)), None)


def _in_range(about: Setting, value: float) -> bool:
    if about.minimum is not None and not value >= about.minimum:
        return False
    return about.maximum is None or value <= about.maximum


def _convert_text(hint: Any, text: str) -> object:
    """A variable's text as the type of its setting.

    Raises: ValueError.
    """
    kind = _plain(hint)
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind in (int, float):
        return kind(text)
    if get_origin(kind) is list:
        if _group_item(kind):
            raise ValueError(text)
        return [item.strip() for item in text.split(",") if item.strip()]
    return text


def _dotted(at: tuple[str | int, ...]) -> str:
    """`[section.sub] key`; the index of an array's table is counted from 1, as people do."""
    tables = "".join(f"#{part + 1}" if isinstance(part, int) else f".{part}" for part in at[:-1]).lstrip(".")
    return f"[{tables}] {at[-1]}" if tables else str(at[-1])


def _shown(value: object) -> str:
    """A value as TOML would have it, near enough, and not too long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _toml_error(file_name: str, error: tomllib.TOMLDecodeError) -> str:
    text = str(error)
    message, _, place = text.partition(" (at line ")
    if place:
        return f"{file_name}:{place.partition(',')[0]}: not TOML: {message}"
    return f"{file_name}: not TOML: {text}"
