"""Account data, tags, filters, and the documents without an account.

Spec: client-server-api#client-config
"""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.store.account_data import load_account_data_between
from tests.accounts.harness import V3, AccountsServer, in_path, make_server, server

__all__ = ["make_server", "server"]

ME = f"{V3}/user/@alice:test.example"
ROOM = in_path("!room:test.example")


def test_account_data_is_kept_globally_and_per_room(server: AccountsServer) -> None:
    token = server.register()["access_token"]
    for place in (f"{ME}/account_data/m.x", f"{ME}/rooms/{ROOM}/account_data/m.x"):
        assert server.get(place, token).errcode == "M_NOT_FOUND"
        assert server.put(place, {"at": place, "nul": "\0"}, token).json == {}
        assert server.get(place, token).json == {"at": place, "nul": "\0"}


def test_changes_are_found_by_position(server: AccountsServer) -> None:
    token = server.register()["access_token"]
    for n in (1, 2):
        server.put(f"{ME}/account_data/m.x", {"n": n}, token)
    server.put(f"{ME}/rooms/{ROOM}/account_data/m.y", {}, token)
    last = server.rows[-1]
    assert (last.kind, last.data) == ("account_data", {"room_id": "!room:test.example", "type": "m.y"})
    changed = server.wait(
        server.database.read(load_account_data_between, "@alice:test.example", last.position - 2, last.position)
    )
    assert [(row.room_id, row.type, row.content) for row in changed] == [
        ("", "m.x", b'{"n":2}'),
        ("!room:test.example", "m.y", b"{}"),
    ]


@pytest.mark.parametrize("type_", ["m.fully_read", "m.push_rules"])
def test_what_the_server_manages_is_refused(server: AccountsServer, type_: str) -> None:
    token = server.register()["access_token"]
    for place in (f"{ME}/account_data", f"{ME}/rooms/{ROOM}/account_data"):
        answer = server.put(f"{place}/{type_}", {}, token)
        assert (answer.status, answer.errcode) == (405, "M_BAD_JSON")


@pytest.mark.parametrize(
    ("path", "body", "status", "errcode"),
    [
        ("rooms/nonsense/account_data/m.x", {}, 400, "M_INVALID_PARAM"),
        ("account_data/m.x", [], 400, "M_BAD_JSON"),
        ("account_data/" + "x" * 256, {}, 400, "M_INVALID_PARAM"),
        ("account_data/%00", {}, 400, "M_INVALID_PARAM"),
    ],
)
def test_bad_account_data(server: AccountsServer, path: str, body: Any, status: int, errcode: str) -> None:
    token = server.register()["access_token"]
    answer = server.put(f"{ME}/{path}", body, token)
    assert (answer.status, answer.errcode) == (status, errcode)


def test_others_have_no_access(server: AccountsServer) -> None:
    server.register()
    bob = server.register("bob")["access_token"]
    for path in ("account_data/m.x", f"rooms/{ROOM}/tags", "filter/x"):
        assert server.get(f"{ME}/{path}", bob).errcode == "M_FORBIDDEN"


def test_tags_come_and_go_and_are_account_data(server: AccountsServer) -> None:
    token = server.register()["access_token"]
    tags = f"{ME}/rooms/{ROOM}/tags"
    assert server.get(tags, token).json == {"tags": {}}
    server.put(f"{tags}/u.work", {"order": 0.5}, token)
    server.put(f"{tags}/m.favourite", {}, token)
    assert server.get(tags, token).json == {"tags": {"u.work": {"order": 0.5}, "m.favourite": {}}}
    server.delete(f"{tags}/u.work", None, token)
    server.delete(f"{tags}/u.never", None, token)
    assert server.get(f"{ME}/rooms/{ROOM}/account_data/m.tag", token).json == {"tags": {"m.favourite": {}}}


@pytest.mark.parametrize(("order", "errcode"), [("first", "M_BAD_JSON"), (True, "M_BAD_JSON"), (2, "M_INVALID_PARAM")])
def test_a_tags_order_is_a_number_from_0_to_1(server: AccountsServer, order: Any, errcode: str) -> None:
    token = server.register()["access_token"]
    assert server.put(f"{ME}/rooms/{ROOM}/tags/u.x", {"order": order}, token).errcode == errcode


def test_filters_are_given_back_and_equal_ones_are_one(server: AccountsServer) -> None:
    token = server.register()["access_token"]
    definition = {"room": {"timeline": {"limit": 7}}, "org.example.unknown": 1}
    filter_id = server.post(f"{ME}/filter", definition, token).json["filter_id"]
    assert server.post(f"{ME}/filter", definition, token).json["filter_id"] == filter_id
    assert server.get(f"{ME}/filter/{filter_id}", token).json == definition
    server.filters._cache.clear()
    assert server.get(f"{ME}/filter/{filter_id}", token).json == definition
    assert server.get(f"{ME}/filter/none", token).errcode == "M_NOT_FOUND"
    assert server.post(f"{ME}/filter", {"room": 3}, token).errcode == "M_BAD_JSON"


def test_a_filter_is_known_to_those_only_who_made_it(server: AccountsServer) -> None:
    alice, bob = (server.register(name)["access_token"] for name in ("alice", "bob"))
    definition = {"room": {"timeline": {"limit": 7}}}
    filter_id = server.post(f"{ME}/filter", definition, alice).json["filter_id"]
    of_bob = f"{V3}/user/@bob:test.example/filter"
    assert server.get(f"{of_bob}/{filter_id}", bob).errcode == "M_NOT_FOUND"
    assert server.post(of_bob, definition, bob).json["filter_id"] == filter_id
    assert server.get(f"{of_bob}/{filter_id}", bob).json == definition


def test_documents_without_an_account(server: AccountsServer) -> None:
    versions = server.get("/_matrix/client/versions").json
    assert versions["versions"][0] == "v1.1" and versions["versions"][-1] == "v1.19"
    assert versions["unstable_features"] == {"org.example.works": True}
    client = server.get("/.well-known/matrix/client").json
    assert client == {"m.homeserver": {"base_url": "https://test.example"}}
    assert server.get("/.well-known/matrix/support").json["contacts"][0]["matrix_id"] == "@admin:test.example"
    assert server.get("/.well-known/matrix/server").errcode == "M_NOT_FOUND"
    assert server.get("/_matrix/client/v1/auth_metadata").errcode == "M_UNRECOGNIZED"


def test_capabilities(server: AccountsServer) -> None:
    token = server.register()["access_token"]
    capabilities = server.get(f"{V3}/capabilities", token).json["capabilities"]
    assert capabilities["m.room_versions"]["default"] == "12"
    assert set(capabilities["m.room_versions"]["available"]) == {str(n) for n in range(1, 13)}
    assert capabilities["m.profile_fields"] == {"enabled": True}
    assert "m.account_moderation" not in capabilities


def test_what_was_set_before_joining_is_told_with_the_join(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    room = alice.create_room(preset="public_chat")
    bob.put("/user/{}/rooms/{}/account_data/x.y", {"n": 1}, at=(bob.user_id, room))
    bob.sync()
    bob.join(room)
    told = bob.sync()["rooms"]["join"][room]
    assert told["account_data"]["events"] == [{"type": "x.y", "content": {"n": 1}}]
