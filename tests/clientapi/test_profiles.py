"""Spec: client-server-api#profiles"""

from __future__ import annotations

from typing import Any

import pytest

from tests.accounts.harness import V3, AccountsServer, make_server, server

__all__ = ["make_server", "server"]

ALICE = f"{V3}/profile/@alice:test.example"


def test_a_new_user_is_shown_by_name(server: AccountsServer) -> None:
    server.register()
    assert server.get(ALICE).json == {"displayname": "alice"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("displayname", "Alice ☕"),
        ("avatar_url", "mxc://test.example/abc"),
        ("m.tz", "Europe/London"),
        ("org.example.deep-field_1", {"a": [1, None, "\0"]}),
        ("org.example.null", None),
    ],
)
def test_fields_are_set_read_and_deleted(server: AccountsServer, name: str, value: Any) -> None:
    token = server.register()["access_token"]
    server.get(ALICE)
    assert server.put(f"{ALICE}/{name}", {name: value}, token).json == {}
    assert server.get(f"{ALICE}/{name}").json == {name: value}
    assert server.get(ALICE).json[name] == value
    assert server.delete(f"{ALICE}/{name}", None, token).json == {}
    assert server.get(f"{ALICE}/{name}").errcode == "M_NOT_FOUND"


def test_rooms_are_told_of_names_and_avatars_only(server: AccountsServer) -> None:
    token = server.register()["access_token"]
    server.put(f"{ALICE}/displayname", {"displayname": "A"}, token)
    server.put(f"{ALICE}/m.tz", {"m.tz": "UTC"}, token)
    server.put(f"{ALICE}/avatar_url", {"avatar_url": ""}, token)
    user = "@alice:test.example"
    assert server.rooms.propagated == [(user, "displayname", "A"), (user, "avatar_url", None)]


@pytest.mark.parametrize(
    ("name", "body", "errcode"),
    [
        ("displayname", {}, "M_MISSING_PARAM"),
        ("displayname", {"displayname": 3}, "M_BAD_JSON"),
        ("displayname", {"displayname": "x" * 257}, "M_INVALID_PARAM"),
        ("displayname", [], "M_BAD_JSON"),
        ("displayname", b"{", "M_NOT_JSON"),
        ("avatar_url", {"avatar_url": "https://example.org/a.png"}, "M_INVALID_PARAM"),
        ("UPPER", {"UPPER": 1}, "M_INVALID_PARAM"),
        ("a" * 256, {"a" * 256: 1}, "M_KEY_TOO_LARGE"),
        ("org.big", {"org.big": "x" * 65_536}, "M_PROFILE_TOO_LARGE"),
    ],
)
def test_bad_fields(server: AccountsServer, name: str, body: Any, errcode: str) -> None:
    token = server.register()["access_token"]
    answer = server.put(f"{ALICE}/{name}", body, token)
    assert (answer.status, answer.errcode) == (400, errcode)


def test_the_whole_profile_is_bounded(server: AccountsServer) -> None:
    token = server.register()["access_token"]
    assert server.put(f"{ALICE}/org.a", {"org.a": "x" * 40_000}, token).status == 200
    assert server.put(f"{ALICE}/org.b", {"org.b": "x" * 30_000}, token).errcode == "M_PROFILE_TOO_LARGE"
    assert server.put(f"{ALICE}/org.a", {"org.a": "y" * 60_000}, token).status == 200


def test_only_ones_own_profile_may_be_changed(server: AccountsServer) -> None:
    server.register()
    bob = server.register("bob")["access_token"]
    assert server.put(f"{ALICE}/displayname", {"displayname": "x"}, bob).errcode == "M_FORBIDDEN"


def test_guests_may_only_name_themselves(make_server: Any) -> None:
    server = make_server(guests=True)
    guest = server.post(f"{V3}/register?kind=guest", {}).json
    path, token = f"{V3}/profile/{guest['user_id']}", guest["access_token"]
    assert server.put(f"{path}/displayname", {"displayname": "G"}, token).status == 200
    assert server.put(f"{path}/m.tz", {"m.tz": "UTC"}, token).errcode == "M_GUEST_ACCESS_FORBIDDEN"


def test_nobody_has_no_profile(server: AccountsServer) -> None:
    assert server.get(f"{V3}/profile/@nobody:test.example").errcode == "M_NOT_FOUND"
    assert server.get(f"{V3}/profile/@alice:other.example").errcode == "M_NOT_FOUND"
    assert server.get(f"{V3}/profile/alice").errcode == "M_INVALID_PARAM"
