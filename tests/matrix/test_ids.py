"""Identifiers: what is accepted, what is refused, and what an id is taken apart into."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix import ids
from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.ids import ServerName, UserId

SERVER = ServerName("example.org")


@pytest.mark.parametrize(
    ("name", "host", "port", "is_ip"),
    [
        ("matrix.org", "matrix.org", None, False),
        ("matrix.org:8888", "matrix.org", 8888, False),
        ("1.2.3.4", "1.2.3.4", None, True),
        ("1.2.3.4:1234", "1.2.3.4", 1234, True),
        ("[1234:5678::abcd]", "1234:5678::abcd", None, True),
        ("[1234:5678::abcd]:5678", "1234:5678::abcd", 5678, True),
        ("[::ffff:1.2.3.4]", "::ffff:1.2.3.4", None, True),
        ("localhost", "localhost", None, False),
        ("1.2.3.4.example", "1.2.3.4.example", None, False),
        ("example.org.", "example.org.", None, False),
    ],
)
def test_server_name_gives_host_and_port(name: str, host: str, port: int | None, is_ip: bool) -> None:
    assert ids.parse_server_address(name) == ids.ServerAddress(host, port, is_ip)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":80",
        "a b",
        "exa_mple.org",
        "example.org:",
        "example.org:0",
        "example.org:65536",
        "example.org:123456",
        "example.org:8\N{ARABIC-INDIC DIGIT ZERO}",
        "example.org\n",
        "256.1.1.1",
        "[::1",
        "::1",
        "[1:2]",
        "[fe80::1%eth0]",
        "a..b",
        "https://example.org",
        "bücher.example",
        "a" * 256,
    ],
)
def test_bad_server_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidParam):
        ids.parse_server_name(name)
    assert not ids.is_server_name(name)


@given(st.ip_addresses(v=6), st.integers(1, 65535))
def test_any_ipv6_address_is_a_server_name(address: object, port: int) -> None:
    assert ids.parse_server_address(f"[{address}]:{port}") == ids.ServerAddress(str(address), port, True)


@given(st.text())
def test_server_name_parser_answers_or_refuses_any_text(text: str) -> None:
    assert ids.is_server_name(text) in (True, False)


@pytest.mark.parametrize(
    "user_id",
    ["@alice:example.org", "@Alice Ü!:example.org:8448", "@:example.org", "@a:[::1]:8448", "@\x01:a"],
)
def test_historical_user_ids_are_accepted(user_id: str) -> None:
    assert ids.parse_user_id(user_id) == user_id


@pytest.mark.parametrize(
    "user_id",
    ["", "@", "alice:example.org", "@alice", "@alice:", "@a\0:a", "@a\ud800:a", "@a:b:c", "!a:b", "@a:b c"],
)
def test_bad_user_id_is_refused(user_id: str) -> None:
    with pytest.raises(InvalidParam, match="sender"):
        ids.parse_user_id(user_id, "sender")
    assert not ids.is_user_id(user_id)


@pytest.mark.parametrize("value", [None, 1, ["@a:b"], {}])
def test_what_is_no_string_is_no_user_id(value: object) -> None:
    assert not ids.is_user_id(value)


@pytest.mark.parametrize(
    ("sigil", "parse"), [("@", ids.parse_user_id), ("#", ids.parse_room_alias), ("!", ids.parse_room_id)]
)
def test_ids_end_at_255_bytes(sigil: str, parse: object) -> None:
    assert callable(parse)
    parse(f"{sigil}{'é' * 126}:a")
    with pytest.raises(InvalidParam, match="255"):
        parse(f"{sigil}{'é' * 126}x:a")


def test_event_ids_end_at_255_bytes() -> None:
    assert ids.parse_event_id("$" + "x" * 254)
    with pytest.raises(InvalidParam):
        ids.parse_event_id("$" + "x" * 255)


@pytest.mark.parametrize("event_id", ["", "$", "abc", "$a\0", "$a\udfff", "!abc"])
def test_bad_event_id_is_refused(event_id: str) -> None:
    with pytest.raises(InvalidParam):
        ids.parse_event_id(event_id)


@pytest.mark.parametrize("event_id", ["$143:example.org", "$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk"])
def test_event_ids_of_any_version_are_accepted(event_id: str) -> None:
    assert ids.parse_event_id(event_id) == event_id


def test_domain_and_localpart() -> None:
    assert ids.domain_of("@alice:example.org:8448") == "example.org:8448"
    assert ids.domain_of("$hash") == ""
    assert ids.localpart_of("@alice:example.org:8448") == "alice"


@pytest.mark.parametrize("localpart", ["alice", "a", "0", "a.b_c=d-e/f+g"])
def test_new_localparts(localpart: str) -> None:
    ids.check_new_localpart(localpart, SERVER)


@pytest.mark.parametrize("localpart", ["", "Alice", "a b", "ä", "a:b", "a@b", "alice\n", "a" * 243])
def test_bad_new_localpart_is_an_invalid_username(localpart: str) -> None:
    with pytest.raises(InvalidParam) as caught:
        ids.check_new_localpart(localpart, SERVER)
    assert caught.value.errcode == "M_INVALID_USERNAME"


def test_longest_new_localpart_makes_a_user_id_of_255_bytes() -> None:
    ids.check_new_localpart("a" * 242, SERVER)
    assert len(ids.make_user_id("a" * 242, SERVER)) == 255


def test_login_takes_localpart_or_user_id() -> None:
    assert ids.parse_localpart_or_user_id("alice", SERVER) == "@alice:example.org"
    assert ids.parse_localpart_or_user_id("@alice:else.where", SERVER) == "@alice:else.where"


@pytest.mark.parametrize(
    ("user_id", "compliant"), [("@a~!:b", True), ("@:b", False), ("@a b:b", False), ("@é:b", False)]
)
def test_compliant_user_ids(user_id: str, compliant: bool) -> None:
    assert ids.is_compliant_user_id(UserId(user_id)) is compliant


def test_room_ids_have_two_forms() -> None:
    hashed = "!" + "Az09_-" * 7 + "x"
    assert ids.parse_room_id(hashed) == hashed
    assert ids.parse_room_id("!abc:example.org") == "!abc:example.org"
    assert ids.is_hash_room_id(hashed)
    assert not ids.is_hash_room_id(hashed + "x")
    assert not ids.is_hash_room_id("!abc:example.org")


def test_room_id_and_create_event_id_are_each_other() -> None:
    event_id = ids.EventId("$" + "x" * 43)
    assert ids.create_event_id_of(ids.room_id_of_create(event_id)) == event_id


def test_rooms_and_aliases_are_told_apart() -> None:
    assert ids.is_room_alias(ids.parse_room_id_or_alias("#room:example.org"))
    assert not ids.is_room_alias(ids.parse_room_id_or_alias("!room:example.org"))
    with pytest.raises(InvalidParam):
        ids.parse_room_id_or_alias("room")


@pytest.mark.parametrize(
    ("device_id", "ok"), [("ABC", True), ("Ünï 1", True), ("", False), ("a\0", False), ("x" * 256, False)]
)
def test_device_ids(device_id: str, ok: bool) -> None:
    if ok:
        assert ids.parse_device_id(device_id) == device_id
    else:
        with pytest.raises(InvalidParam):
            ids.parse_device_id(device_id)


@pytest.mark.parametrize(
    ("value", "ok"), [("aZ0-._~", True), ("", False), ("a/b", False), ("a\n", False), ("x" * 256, False)]
)
def test_opaque_ids(value: str, ok: bool) -> None:
    assert ids.is_opaque_id(value) is ok
