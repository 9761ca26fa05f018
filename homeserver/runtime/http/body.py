"""Untrusted bytes become typed values: query strings, path segments, bodies; misfits become Matrix errors.

Three things that msgspec lets through are refused here for every endpoint at once, since behind it they end
as database errors: NUL in strings (PostgreSQL has no place for it), integers beyond 2^53 - 1 (no JSON integer
of Matrix is larger), and JSON nested deeper than any encoder of ours follows.

Spec: client-server-api#standard-error-response
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import unquote_to_bytes

import msgspec
from attrs import frozen
from msgspec.structs import FieldInfo, fields

from homeserver.matrix.canonical import decode_json
from homeserver.matrix.errors import BadJson, InvalidParam, MatrixError, MissingParam
from homeserver.runtime.http.endpoint import DEFAULT_MAX_BODY_BYTES, JsonObject

MAX_INT: Final = 2**53 - 1
SPOOL_BYTES: Final = 256 * 1024

_AT = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")
_MISSING = re.compile(r"^Object missing required field `([^`]*)`")
_LONG_NUMBER = re.compile(rb"[0-9]{16}")
_ENCODED = re.compile(rb"[^!-$&-*,-~]")  # percent, plus, and what is no printable ASCII


@frozen
class Spooling:
    """How large a SpooledBody may be, and where it is put; None: where the system has temporary files."""

    max_bytes: int = DEFAULT_MAX_BODY_BYTES
    folder: Path | None = None


class SpooledBody:
    """A body of any type, in memory while small and in a temporary file when not; annotate `body` with it.

    The handler owns `file`, which is at its start, and closes it.
    """

    __slots__ = ("file", "size_bytes")

    def __init__(self, folder: Path | None = None) -> None:
        place = None if folder is None else str(folder)
        self.file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES, dir=place)  # noqa: SIM115 see above
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.size_bytes += len(data)


class JsonBytes(bytes):
    """JSON as it came, for handlers that decode it by themselves; annotate `body` with it."""


def error_of(error: msgspec.ValidationError, *, in_body: bool) -> MatrixError:
    """The Matrix error for a value that does not fit its struct, naming the field."""
    text = str(error)
    at = _AT.search(text)
    where = at.group(1) if at else ""
    what = text[: at.start()] if at else text
    missing = _MISSING.match(text)
    if missing:
        return MissingParam(f"{where}.{missing.group(1)}" if where else missing.group(1))
    if not in_body:
        return InvalidParam(where, what)
    return BadJson(f"{where}: {what}" if where else what)


def parse_body(content: bytes, optional: bool) -> Any:
    """The JSON value of a body.

    Raises: NotJson.
    """
    if not content and optional:
        return {}
    return decode_json(content)


def parse_object(content: bytes, optional: bool) -> JsonObject:
    """The JSON object of a body.

    Raises: NotJson, BadJson when it is JSON of another kind.
    """
    value = parse_body(content, optional)
    if type(value) is not dict:
        raise BadJson("The body must be a JSON object")
    return value


def body_parser(body_type: Any) -> Callable[[bytes, bool], Any]:
    """The function from a body's bytes to an instance of `body_type`."""
    convert = msgspec.convert

    def parse(content: bytes, optional: bool) -> Any:
        value = parse_body(content, optional)
        try:
            typed = convert(value, body_type)
        except msgspec.ValidationError as error:
            raise error_of(error, in_body=True) from None
        if b"\\u0000" in content or _LONG_NUMBER.search(content):
            check_storable(typed, "")
        return typed

    return parse


def check_storable(value: object, where: str) -> None:
    """Refuses NUL and huge integers in what a struct declares; free-form JSON below it is left alone.

    Raises: BadJson naming the field.
    """
    if isinstance(value, str) and "\0" in value:
        raise BadJson(f"{where}: NUL is not allowed here")
    if isinstance(value, int) and abs(value) > MAX_INT:
        raise BadJson(f"{where}: beyond the integers of JSON, 2^53 - 1")
    if isinstance(value, msgspec.Struct):
        for name, shown in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True):
            check_storable(getattr(value, name), f"{where}.{shown}" if where else shown)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_storable(item, f"{where}[{index}]")


def unquote(segment: str, field: str) -> str:
    """Percent-decodes one path segment.

    Raises: InvalidParam when that gives no UTF-8, or a NUL.
    """
    try:
        text = unquote_to_bytes(segment).decode("utf-8") if "%" in segment else segment
    except UnicodeDecodeError:
        raise InvalidParam(field, "not UTF-8") from None
    if "\0" in text:
        raise InvalidParam(field, "NUL is not allowed here")
    return text


def path_parser(path_type: type[msgspec.Struct]) -> Callable[[dict[str, str]], Any]:
    """The function from named path segments to an instance of `path_type`."""
    return _struct_parser(path_type)


def _struct_parser(struct: type[msgspec.Struct]) -> Callable[[dict[str, Any]], Any]:
    ints = tuple(field.name for field in fields(struct) if _mentions(field.type, int))
    convert = msgspec.convert

    def parse(values: dict[str, Any]) -> Any:
        try:
            typed = convert(values, struct, strict=False)
        except msgspec.ValidationError as error:
            raise error_of(error, in_body=False) from None
        if ints:
            _check_ints(typed, ints)
        return typed

    return parse


def _check_ints(typed: msgspec.Struct, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(typed, name)
        if isinstance(value, int) and abs(value) > MAX_INT:
            raise InvalidParam(name, "beyond the integers of JSON, 2^53 - 1")


def _mentions(annotation: Any, wanted: type) -> bool:
    if annotation is wanted:
        return True
    return any(_mentions(argument, wanted) for argument in getattr(annotation, "__args__", ()))


def query_parser(query_type: type[msgspec.Struct]) -> Callable[[bytes], Any]:
    """The function from a raw query string to an instance of `query_type`.

    Unknown parameters are ignored. A parameter given twice is the first one, unless its field is a list.
    Raises: InvalidParam, MissingParam.
    """
    infos = fields(query_type)
    lists = {field.encode_name for field in infos if _is_list(field)}
    names = {field.encode_name for field in infos}
    parse_struct = _struct_parser(query_type)
    shared = query_type() if not any(field.required for field in infos) and _is_frozen(query_type) else None

    def parse(query: bytes) -> Any:
        if not query and shared is not None:
            return shared
        values: dict[str, Any] = {}
        for name, value in parse_pairs(query, names):
            if name in lists:
                values.setdefault(name, []).append(value)
            else:
                values.setdefault(name, value)
        return parse_struct(values)

    return parse


def _is_list(field: FieldInfo) -> bool:
    return _mentions(field.type, list) or any(
        getattr(part, "__origin__", None) is list for part in (field.type, *getattr(field.type, "__args__", ()))
    )


def _is_frozen(struct: type[msgspec.Struct]) -> bool:
    return bool(struct.__struct_config__.frozen)


def parse_pairs(query: bytes, names: set[str] | None = None) -> Iterable[tuple[str, str]]:
    """The pairs of a query string or form, in order; with `names`, only those.

    Raises: InvalidParam for what is no UTF-8 or holds a NUL.
    """
    if _ENCODED.search(query) is None:
        # PERF: most queries need no decoding; 2 us against 6.
        plain = [part.partition("=") for part in query.decode("ascii").split("&")]
        return [(name, value) for name, _, value in plain if name and (names is None or name in names)]
    pairs = []
    for part in query.split(b"&"):
        raw_name, _, raw_value = part.partition(b"=")
        name = _unquote_plus(raw_name, "query")
        if name and (names is None or name in names):
            pairs.append((name, _unquote_plus(raw_value, name)))
    return pairs


def _unquote_plus(raw: bytes, field: str) -> str:
    if b"+" in raw:
        raw = raw.replace(b"+", b" ")
    try:
        text = (unquote_to_bytes(raw) if b"%" in raw else raw).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidParam(field, "not UTF-8") from None
    if "\0" in text:
        raise InvalidParam(field, "NUL is not allowed here")
    return text
