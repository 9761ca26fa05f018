"""Bodies of key uploads: the usual ones are read at once, and come to what is read part by part."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.e2ee.upload_bodies import KeyUpload, parse_upload, read_upload
from homeserver.matrix.canonical import decode_json
from homeserver.matrix.errors import MatrixError, NotJson
from homeserver.matrix.ids import parse_device_id, parse_user_id
from tests.e2ee.key_maker import Device, fallback_key, one_time_keys

USER, DEVICE = parse_user_id("@a:b.example"), parse_device_id("D")

TEXTS = st.sampled_from(["a", "", "\0", "\\u0000", "\n", '"', "ü" * 70, "x" * 2_000, "y" * 4_200, "\u2028", "😀"])
SIGNATURES = st.dictionaries(TEXTS, st.dictionaries(TEXTS, TEXTS | st.none(), max_size=2), max_size=2)
SIGNED = st.fixed_dictionaries({"key": TEXTS, "signatures": SIGNATURES})
KEYS = SIGNED | st.fixed_dictionaries({"key": TEXTS}, optional={"fallback": st.booleans()}) | TEXTS | st.integers()
NAMES = st.builds("".join, st.lists(TEXTS | st.just(":"), min_size=1, max_size=4)) | st.sampled_from(
    ["signed_curve25519:A", "signed_curve25519:B", "curve25519:A", "signed_curve25519:"]
)
ONE_TIME = st.dictionaries(NAMES, KEYS | SIGNED, max_size=4)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "one_time_keys": ONE_TIME | st.none(),
        "fallback_keys": ONE_TIME | st.none(),
        "org.matrix.msc2732.fallback_keys": ONE_TIME,
        "device_keys": st.just(Device(USER, DEVICE).keys()) | st.none() | st.just({"user_id": USER}),
        "more": TEXTS,
    },
)


def shown(upload: KeyUpload) -> Any:
    """With JSON decoded: in which order the parts of a key come does not matter. That of the keys does."""
    device_keys = None if upload.device_keys is None else decode_json(upload.device_keys)
    kinds = (upload.one_time_keys, upload.fallback_keys)
    return device_keys, *(
        [(algorithm, key_id, decode_json(key)) for algorithm, of_it in keys.items() for key_id, key in of_it.items()]
        for keys in kinds
    )


def outcome(content: bytes, *, at_once: bool) -> Any:
    try:
        if at_once:
            return shown(read_upload(USER, DEVICE, content))
        return shown(parse_upload(USER, DEVICE, decode_json(content)))
    except MatrixError as error:
        return type(error), error.error


@given(BODIES, st.booleans())
def test_a_body_comes_to_the_same_however_it_is_read(body: dict[str, Any], is_ascii: bool) -> None:
    content = json.dumps(body, ensure_ascii=is_ascii).encode()
    assert outcome(content, at_once=True) == outcome(content, at_once=False)


def test_what_a_usual_body_brings() -> None:
    keys, fallback = one_time_keys("b", "a"), fallback_key("f")
    device = Device(USER, DEVICE)
    body = {"device_keys": device.keys(), "one_time_keys": keys, "fallback_keys": fallback}
    upload = read_upload(USER, DEVICE, json.dumps(body, indent=1).encode())
    by_id = [("signed_curve25519", name.partition(":")[2], key) for name, key in (keys | fallback).items()]
    assert shown(upload) == (device.keys(), by_id[:2], by_id[2:])
    assert b"\n" not in b"".join(upload.one_time_keys["signed_curve25519"].values())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"one_time_keys": {}} x',
        b"\xef\xbb\xbf{}",
        b'{"one_time_keys": {"signed_curve25519:A": {"key": "\xff", "signatures": {}}}}',
        b'{"one_time_keys": {"signed_curve25519:A": {"key": "\\ud800", "signatures": {}}}}',
        b'{"device_keys": {"user_id": "\\ud800"}}',
        b'{"device_keys": {"user_id": NaN}}',
        b'{"fallback_keys": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"more": "\xff"}',
    ],
)
def test_what_is_no_json_is_refused(content: bytes) -> None:
    with pytest.raises(NotJson):
        read_upload(USER, DEVICE, content)


@pytest.mark.parametrize("content", [b"[]", b'"text"', b"null", b"1"])
def test_a_body_that_is_no_object_is_refused(content: bytes) -> None:
    with pytest.raises(MatrixError) as caught:
        read_upload(USER, DEVICE, content)
    assert caught.value.errcode == "M_BAD_JSON"
