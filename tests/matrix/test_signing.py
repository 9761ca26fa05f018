"""Keys and signatures: the specification's vectors, and signedjson as the oracle."""

from __future__ import annotations

from typing import Any

import pytest
import signedjson.key
import signedjson.sign
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix import signing
from homeserver.matrix.errors import BadSignature
from homeserver.matrix.hashing import content_hash, decode_base64, encode_base64, encode_base64_urlsafe
from homeserver.matrix.ids import ServerName
from homeserver.matrix.signing import KeyFileError, SigningKey, VerifyKey
from homeserver.matrix.versions import V1, V4, V5, V8, V11

SEED = decode_base64("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
KEY = SigningKey("1", SEED)
ORACLE_KEY = signedjson.key.decode_signing_key_base64("ed25519", "1", encode_base64(SEED))
DOMAIN = ServerName("domain")

MINIMAL_EVENT: dict[str, Any] = {
    "room_id": "!x:domain",
    "sender": "@a:domain",
    "origin": "domain",
    "origin_server_ts": 1000000,
    "signatures": {},
    "hashes": {},
    "type": "X",
    "content": {},
    "prev_events": [],
    "auth_events": [],
    "depth": 3,
    "unsigned": {"age_ts": 1000000},
}
MESSAGE_EVENT: dict[str, Any] = {
    "content": {"body": "Here is the message content"},
    "event_id": "$0:domain",
    "origin": "domain",
    "origin_server_ts": 1000000,
    "type": "m.room.message",
    "room_id": "!r:domain",
    "sender": "@u:domain",
    "signatures": {},
    "unsigned": {"age_ts": 1000000},
}


# -- the specification's vectors -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("json", "signature"),
    [
        ({}, "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"),
        (
            {"one": 1, "two": "Two"},
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
        ),
    ],
)
def test_json_signing_vectors(json: dict[str, Any], signature: str) -> None:
    signed = signing.sign_json(json, "domain", KEY)
    assert signed == {**json, "signatures": {"domain": {"ed25519:1": signature}}}


@pytest.mark.parametrize(
    ("event", "sha256", "signature"),
    [
        (
            MINIMAL_EVENT,
            "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
            "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
        ),
        (
            MESSAGE_EVENT,
            "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
            "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
        ),
    ],
)
def test_event_signing_vectors(event: dict[str, Any], sha256: str, signature: str) -> None:
    hashed = {**event, "hashes": {"sha256": encode_base64(content_hash(event))}}
    signed = signing.sign_event(hashed, V1, DOMAIN, KEY)
    assert signed["hashes"] == {"sha256": sha256}
    assert signed["signatures"] == {"domain": {"ed25519:1": signature}}
    signing.verify_event_signature(signed, V1, "domain", KEY.verify_key)


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b"", ""), (b"f", "Zg"), (b"fo", "Zm8"), (b"foo", "Zm9v"), (b"foob", "Zm9vYg"), (b"foobar", "Zm9vYmFy")],
)
def test_base64_vectors(raw: bytes, text: str) -> None:
    assert encode_base64(raw) == text
    assert decode_base64(text) == raw


@given(st.binary())
def test_base64_is_read_in_every_spelling(raw: bytes) -> None:
    text = encode_base64(raw)
    padded = text + "=" * (-len(text) % 4)
    assert decode_base64(text) == decode_base64(padded) == decode_base64(encode_base64_urlsafe(raw)) == raw


@pytest.mark.parametrize("text", ["a", "ab!c", "ab c", "é", "ab=c", "abc\n"])
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        decode_base64(text)


# -- signedjson ----------------------------------------------------------------------------------------------

JSON_OBJECTS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"])), st.integers() | st.booleans() | st.text("aé\n\x01")
).map(lambda json: {key: value for key, value in json.items() if key not in ("signatures", "unsigned")})


@given(JSON_OBJECTS)
def test_signedjson_agrees(json: dict[str, Any]) -> None:
    ours = signing.sign_json({**json, "unsigned": {"a": 1}}, "domain", KEY)
    assert ours == signedjson.sign.sign_json({**json, "unsigned": {"a": 1}}, "domain", ORACLE_KEY)
    signedjson.sign.verify_signed_json(ours, "domain", signedjson.key.get_verify_key(ORACLE_KEY))
    signing.verify_json(ours, "domain", KEY.verify_key)


def test_signatures_that_are_there_stay() -> None:
    other = SigningKey("2", b"x" * 32)
    signed = signing.sign_json(signing.sign_json({"a": 1}, "domain", KEY), "domain", other)
    signed = signing.sign_json(signed, "elsewhere", KEY)
    assert signing.signature_key_ids(signed, "domain") == ["ed25519:1", "ed25519:2"]
    signing.verify_json(signed, "domain", KEY.verify_key)
    signing.verify_json(signed, "domain", other.verify_key)
    signing.verify_json(signed, "elsewhere", KEY.verify_key)


@pytest.mark.parametrize(
    "signatures",
    [
        None,
        [],
        {},
        {"domain": None},
        {"domain": {}},
        {"domain": {"ed25519:1": 5}},
        {"domain": {"ed25519:1": None}},
        {"domain": {"ed25519:1": "!"}},
        {"domain": {"ed25519:1": "é"}},
        {"domain": {"ed25519:1": "Zm9v"}},
        {"domain": {"ed25519:1": "A" * 86}},
    ],
)
def test_bad_signatures_are_refused(signatures: object) -> None:
    with pytest.raises(BadSignature):
        signing.verify_json({"a": 1, "signatures": signatures}, "domain", KEY.verify_key)


def test_changed_object_is_refused() -> None:
    signed = signing.sign_json({"a": 1}, "domain", KEY)
    with pytest.raises(BadSignature, match="Wrong"):
        signing.verify_json({**signed, "a": 2}, "domain", KEY.verify_key)


def test_key_ids_of_other_algorithms_are_passed_over() -> None:
    json = {"signatures": {"domain": {"rsa:1": "x", "ed25519:a": "x"}, "odd": 5}}
    assert signing.signature_key_ids(json, "domain") == ["ed25519:a"]
    assert signing.signature_key_ids(json, "odd") == []
    assert signing.signature_key_ids({"signatures": 1}, "domain") == []


# -- keys ----------------------------------------------------------------------------------------------------


def test_key_file_is_signedjsons() -> None:
    key = signedjson.key.generate_signing_key("a_xyz")
    line = f"ed25519 a_xyz {signedjson.key.encode_signing_key_base64(key)}\n"
    (ours,) = signing.parse_signing_keys(line)
    assert ours.key_id == "ed25519:a_xyz"
    assert ours.sign(b"x") == key.sign(b"x").signature
    assert signing.format_signing_keys([ours]) == line


def test_key_file_may_hold_comments_and_several_keys() -> None:
    text = "# ours\n\n" + signing.format_signing_keys([KEY, SigningKey("2", b"x" * 32)])
    assert [key.version for key in signing.parse_signing_keys(text)] == ["1", "2"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no key"),
        ("# nothing", "no key"),
        ("\nrsa 1 AAAA", "line 2"),
        ("ed25519 1", "line 1"),
        ("ed25519 a-b " + "A" * 43, "version"),
        ("ed25519 a !!!", "base64"),
        ("ed25519 a AAAA", "3 bytes"),
    ],
)
def test_bad_key_file_says_where(text: str, problem: str) -> None:
    with pytest.raises(KeyFileError, match=problem):
        signing.parse_signing_keys(text)


def test_a_signing_key_does_not_show_its_seed() -> None:
    assert repr(KEY) == "SigningKey('ed25519:1')"


def test_verify_key_round_trip() -> None:
    assert VerifyKey.from_base64("ed25519:1", KEY.verify_key.to_base64()) == KEY.verify_key
    for key_id, text in [("rsa:1", KEY.verify_key.to_base64()), ("ed25519:1", "AAAA"), ("ed25519:1", "!")]:
        with pytest.raises(ValueError):
            VerifyKey.from_base64(key_id, text)


DAY_MS = 24 * 3600 * 1000


@pytest.mark.parametrize(
    ("ts", "until", "valid"),
    [
        (0, 0, True),
        (1, 0, False),
        (7 * DAY_MS, 9 * DAY_MS, True),
        (7 * DAY_MS + 1, 9 * DAY_MS, False),
    ],
)
def test_keys_are_valid_to_their_end_and_at_most_seven_days_ahead(ts: int, until: int, valid: bool) -> None:
    def is_valid(version: Any) -> bool:
        return signing.is_key_valid_for(version, origin_server_ts_ms=ts, valid_until_ts_ms=until, now_ms=0)

    assert is_valid(V5) is valid
    assert is_valid(V4)


# -- who has to sign -----------------------------------------------------------------------------------------


def member(membership: str, **content: Any) -> dict[str, Any]:
    content["membership"] = membership
    return {"type": "m.room.member", "sender": "@a:one", "event_id": "$x:two", "content": content}


def test_senders_server_signs_and_in_v1_the_event_ids_too() -> None:
    assert signing.required_signers(member("join"), V11) == {"one"}
    assert signing.required_signers(member("join"), V1) == {"one", "two"}


def test_third_party_invite_needs_no_signature_of_the_sender() -> None:
    invite = member("invite", third_party_invite={"signed": {}})
    assert signing.required_signers(invite, V11) == set()
    assert signing.required_signers(invite, V1) == {"two"}
    assert signing.required_signers(member("invite", third_party_invite={}), V11) == {"one"}


def test_authorising_server_signs_restricted_joins_from_v8() -> None:
    join = member("join", join_authorised_via_users_server="@b:three")
    assert signing.required_signers(join, V8) == {"one", "three"}
    assert signing.required_signers(join, V5) == {"one"}
    leave = member("leave", join_authorised_via_users_server="@b:three")
    assert signing.required_signers(leave, V8) == {"one"}
