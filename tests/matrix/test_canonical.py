"""Canonical JSON: equal to canonicaljson for every value; decoding refuses what JSON is not."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import canonicaljson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.canonical import canonical_json, check_canonical, decode_json, encode_for_version
from homeserver.matrix.errors import BadJson, NotJson
from homeserver.matrix.limits import MAX_JSON_DEPTH
from homeserver.matrix.versions import V5, V6

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
# Weighted to what the encoders could disagree on: floats, large integers, text that looks like numbers.
ODD_TEXT = st.from_regex(r"[:,\[]-?[0-9]{1,20}[.eE+-]?[0-9]{0,3}", fullmatch=True)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | ODD_TEXT
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT | ODD_TEXT, inner), max_leaves=20
)


@given(VALUES)
def test_encoding_equals_canonicaljson(value: Any) -> None:
    assert canonical_json(value) == canonicaljson.encode_canonical_json(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_encoded_as_canonicaljson_does(value: float) -> None:
    for shape in (value, [value], {"a": value}, [1, value]):
        assert canonical_json(shape) == canonicaljson.encode_canonical_json(shape)


def test_control_characters_and_key_order_equal_canonicaljson() -> None:
    value = {chr(code): chr(code) for code in [*range(0x20), 0x22, 0x5C, 0x7F, 0x2028, 0xFFFF, 0x10000, 0xE000]}
    assert canonical_json(value) == canonicaljson.encode_canonical_json(value)


@given(VALUES)
def test_decoding_equals_the_standard_library(value: Any) -> None:
    data = json.dumps(value).encode()
    assert decode_json(data) == json.loads(data)
    assert canonical_json(decode_json(data)) == canonical_json(value)


@pytest.mark.parametrize(
    ("source", "canonical"),
    [
        ("{}", "{}"),
        ('{ "one": 1, "two": "Two" }', '{"one":1,"two":"Two"}'),
        ('{ "b": "2", "a": "1" }', '{"a":"1","b":"2"}'),
        (
            '{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {"display_name":'
            '"John Doe", "three_pids": [{"medium": "email", "address": "john.doe@example.org"},'
            '{"medium": "msisdn", "address": "123456789"}]}}}',
            '{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":'
            '[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},'
            '"success":true}}',
        ),
        ('{"a": "日本語"}', '{"a":"日本語"}'),
        ('{"本": 2, "日": 1}', '{"日":1,"本":2}'),
        (r'{"a": "\u65E5"}', '{"a":"日"}'),
        ('{"a": null}', '{"a":null}'),
        ('{"a": -0}', '{"a":0}'),
    ],
)
def test_vectors_of_the_specification(source: str, canonical: str) -> None:
    assert canonical_json(decode_json(source.encode())) == canonical.encode()


@pytest.mark.parametrize("value", ["\ud800", {"a": "\udfff"}, {"a": object()}, [1.5, float("inf")]])
def test_what_is_not_encodable_is_bad_json(value: Any) -> None:
    with pytest.raises(BadJson):
        canonical_json(value)


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**64, 1.5, 1e16, 0.0, -0.0, 1e-7])
@pytest.mark.parametrize("place", [lambda n: {"a": n}, lambda n: {"a": [1, n]}, lambda n: {"a": {"b": [{"c": n}]}}])
def test_strict_versions_refuse_a_number_wherever_it_is(number: float, place: Any) -> None:
    with pytest.raises(BadJson):
        encode_for_version(place(number), V6)
    with pytest.raises(BadJson):
        check_canonical(place(number), V6)


@pytest.mark.parametrize(("number", "told"), [(1.5, "Bad JSON value: float"), (2**53, "JSON integer out of range")])
def test_forbidden_number_is_told_with_its_place(number: float, told: str) -> None:
    event = {"type": "m.test", "content": {"a": [1, {"b": number}], "c": "d"}}
    with pytest.raises(BadJson, match=rf"^content\.a\[1\]\.b: {told}$"):
        encode_for_version(event, V6)
    with pytest.raises(BadJson, match=f"^{told}$"):
        check_canonical(number, V6)


@pytest.mark.parametrize("number", [2**53 - 1, -(2**53) + 1, 0, True])
def test_strict_versions_accept_numbers_up_to_the_border(number: int) -> None:
    check_canonical({"a": [number]}, V6)
    assert encode_for_version({"a": [number]}, V6) == canonicaljson.encode_canonical_json({"a": [number]})


@given(VALUES)
def test_fast_check_agrees_with_the_exact_one(value: Any) -> None:
    def is_accepted(check: Any) -> bool:
        try:
            check({"a": value}, V6)
        except BadJson:
            return False
        return True

    assert is_accepted(encode_for_version) == is_accepted(check_canonical)


def test_old_versions_keep_odd_numbers() -> None:
    data = b'{"a":123456789012345678901234567890,"b":1.5}'
    assert encode_for_version(decode_json(data), V5) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"NaN",
        b"[Infinity]",
        b"[-Infinity]",
        b"[1e400]",
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf{}",
        b"{'a':1}",
        b'{"a":1,}',
        b"[01]",
        b'"\n"',
        b"{} {}",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 300 + b"1" + b"}" * 300,
        b"[" + b"1" * 5000 + b"]",
    ],
)
def test_what_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(NotJson):
        decode_json(data)


def test_nesting_is_accepted_up_to_the_border() -> None:
    deepest = b"[" * MAX_JSON_DEPTH + b"1" + b"]" * MAX_JSON_DEPTH
    assert canonical_json(decode_json(deepest)) == deepest
    with pytest.raises(NotJson, match="nested"):
        decode_json(b"[" + deepest + b"]")


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert len(decode_json(b"[" + b",".join([b"{}"] * 1000) + b"]")) == 1000


@given(st.binary(max_size=200))
def test_decoder_answers_or_refuses_any_bytes(data: bytes) -> None:
    with suppress(NotJson):
        decode_json(data)
