"""JSON in and out: strict decoding, and the canonical encoding that hashes and signatures are made over.

orjson sorts keys by code point and escapes as Canonical JSON wants, much faster than the standard library. It
differs in three places, and each is caught and sent to the slow path, which is canonicaljson's definition:

- floats may be written differently (`1e16` and `1e+16`): seen in the output by a regular expression;
- integers beyond 64 bits are refused when encoding, and decoded as floats: seen in the input by their length;
- NaN is encoded as null: decode_json never yields one, and our own code has no floats in events.

A property test holds the two encoders equal.

Spec: appendices#canonical-json
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import orjson

from homeserver.matrix.errors import BadJson, NotJson
from homeserver.matrix.limits import MAX_JSON_DEPTH, MAX_SAFE_INTEGER
from homeserver.matrix.versions import RoomVersion

# Each may also match inside a string, which only costs the slow path.
_FLOAT = re.compile(rb"[:,\[]-?[0-9]++(?:\.[0-9]++(?:[eE][+-]?[0-9]++)?+|[eE][+-]?[0-9]++)[,\]}]")
_INTEGER_OF_16_DIGITS = re.compile(rb"[:,\[]-?[0-9]{16}")

# PERF(4 us saved per event): with all digits and signs alike, a substring search mostly tells that there is
# nothing to match.
_DIGITS_ALIKE = bytes.maketrans(b"0123456789+-", b"0" * 12)
_SIXTEEN_DIGITS = b"0" * 16
_MAYBE_BEYOND_64_BIT = b"0" * 19


# -- encoding ------------------------------------------------------------------------------------------------


def canonical_json(value: Any) -> bytes:
    """The canonical encoding of a JSON value, byte for byte what canonicaljson yields.

    Floats are tolerated (room versions before 6 have them). Raises: BadJson if it cannot be encoded.

    Spec: appendices#canonical-json
    """
    return _encode(value)[0]


def _encode(value: Any) -> tuple[bytes, bytes]:
    """The encoding, and the same with all digits alike. Raises: BadJson."""
    try:
        encoded = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return _encode_slowly(value)
    digits_alike = encoded.translate(_DIGITS_ALIKE)
    if isinstance(value, float) or _may_hold_float(encoded, digits_alike):
        return _encode_slowly(value)
    return encoded, digits_alike


def _encode_slowly(value: Any) -> tuple[bytes, bytes]:
    encoded = _canonical_json_slowly(value)
    return encoded, encoded.translate(_DIGITS_ALIKE)


def _may_hold_float(encoded: bytes, digits_alike: bytes) -> bool:
    return (b"0.0" in digits_alike or b"0e0" in digits_alike) and _FLOAT.search(encoded) is not None


def _canonical_json_slowly(value: Any) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadJson("Not encodable as canonical JSON") from error


def encode_json(value: Any) -> bytes:
    """Compact JSON in no particular key order, for everything that is not hashed or signed.

    Raises: BadJson if it cannot be encoded.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        return _canonical_json_slowly(value)


# -- strictness ----------------------------------------------------------------------------------------------


def check_canonical(value: Any, version: RoomVersion) -> None:
    """Raises BadJson if a room version that enforces Canonical JSON forbids a number in the value.

    Spec: rooms/v6#canonical-json
    """
    if version.strict_canonical_json:
        check_numbers(value)


def encode_for_version(value: Any, version: RoomVersion) -> bytes:
    """canonical_json and check_canonical in one; the check costs almost nothing for usual values.

    Raises: BadJson.

    Spec: rooms/v6#canonical-json
    """
    encoded, digits_alike = _encode(value)
    if version.strict_canonical_json and _may_hold_unusual_number(encoded, digits_alike):
        check_numbers(value)
    return encoded


def _may_hold_unusual_number(encoded: bytes, digits_alike: bytes) -> bool:
    if _may_hold_float(encoded, digits_alike):
        return True
    return _SIXTEEN_DIGITS in digits_alike and _INTEGER_OF_16_DIGITS.search(encoded) is not None


def check_numbers(value: Any) -> None:
    """Raises BadJson if the value holds a float or an integer outside +-(2^53 - 1).

    Spec: appendices#canonical-json
    """
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, float):
            raise BadJson(f"{_path_to(item, value)}Bad JSON value: float")
        if isinstance(item, int) and not -MAX_SAFE_INTEGER <= item <= MAX_SAFE_INTEGER:
            raise BadJson(f"{_path_to(item, value)}JSON integer out of range")
        pending.extend(_children(item))


def _path_to(wanted: object, value: Any) -> str:
    """`content.a.b[0]: ` for what stands there in the value, "" for the value itself.

    Steps are chained and joined at the end: else long names that hold many others would be copied for each of them.
    """
    pending: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    while pending:
        steps, item = pending.pop()
        if item is wanted:
            return _joined(steps)
        named = item.items() if isinstance(item, dict) else enumerate(_children(item))
        pending.extend(((steps, name), child) for name, child in named)
    return ""


def _joined(steps: tuple[Any, ...]) -> str:
    names: list[str] = []
    while steps:
        steps, name = steps
        names.append(f"[{name}]" if isinstance(name, int) else f".{name}")
    path = "".join(reversed(names)).removeprefix(".")
    return f"{path}: " if path else ""


def _children(item: Any) -> Iterable[Any]:
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list | tuple) else ()


# -- decoding ------------------------------------------------------------------------------------------------


def decode_json(data: bytes) -> Any:
    """The JSON value in the bytes; integers of any size are exact.

    Raises: NotJson for a syntax error, NaN or Infinity (or a float that overflows to it), a lone surrogate,
    invalid UTF-8, a byte order mark, or nesting deeper than MAX_JSON_DEPTH.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise NotJson("Content not JSON.") from error
    # Few brackets cannot be nested deeply: the common case is settled without a walk.
    if data.count(b"[") + data.count(b"{") > MAX_JSON_DEPTH:
        _check_depth(value)
    if _MAYBE_BEYOND_64_BIT in data.translate(_DIGITS_ALIKE):
        return _decode_exactly(data)
    return value


def _check_depth(value: Any) -> None:
    containers = [value]
    for _ in range(MAX_JSON_DEPTH):
        children = (child for item in containers for child in _children(item))
        containers = [child for child in children if isinstance(child, dict | list)]
        if not containers:
            return
    raise NotJson(f"JSON nested deeper than {MAX_JSON_DEPTH} levels")


def _decode_exactly(data: bytes) -> Any:
    """Decode what orjson has accepted already, but with integers beyond 64 bits."""
    try:
        return json.loads(data.decode())
    except ValueError as error:  # An integer of more than 4300 digits
        raise NotJson("JSON number out of range") from error
