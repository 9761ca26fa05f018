"""What this server tells others of its aliases, profiles, published rooms, spaces, and its users' devices and keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.federation.visitor import Visitor, create_room
from tests.kit.client import Client


@pytest.fixture
def alice(visitor: Visitor) -> Client:
    return visitor.hearth.register("alice")


def test_alias_of_this_server_is_found(visitor: Visitor, alice: Client) -> None:
    room_id = create_room(alice, room_alias_name="lobby")
    found = visitor.get("/v1/query/directory", query={"room_alias": f"#lobby:{visitor.hearth.server_name}"})
    assert found == {"room_id": room_id, "servers": [visitor.hearth.server_name]}


def test_other_servers_aliases_are_not_asked_for(visitor: Visitor) -> None:
    """Whoever resolved them for others would be a proxy, and could be sent in circles."""
    for alias in (f"#lobby:{visitor.name}", f"#nothing:{visitor.hearth.server_name}"):
        visitor.get("/v1/query/directory", query={"room_alias": alias}, expect="M_NOT_FOUND")
    visitor.get("/v1/query/directory", query={"room_alias": "lobby"}, expect="M_INVALID_PARAM")
    visitor.get("/v1/query/directory", expect="M_MISSING_PARAM")
    assert visitor.peer.received("/_matrix/federation/v1/query/") == []


def test_profile_with_any_field(visitor: Visitor, alice: Client) -> None:
    alice.put("/profile/{}/displayname", {"displayname": "Alice"}, at=[alice.user_id])
    alice.put("/profile/{}/org.example.colour", {"org.example.colour": {"r": 1}}, at=[alice.user_id])
    asked = {"user_id": alice.user_id}
    whole = visitor.get("/v1/query/profile", query=asked)
    assert whole == {"displayname": "Alice", "org.example.colour": {"r": 1}}
    one = visitor.get("/v1/query/profile", query={**asked, "field": "org.example.colour"})
    assert one == {"org.example.colour": {"r": 1}}
    assert visitor.get("/v1/query/profile", query={**asked, "field": "avatar_url"}) == {}
    visitor.get("/v1/query/profile", query={**asked, "field": "Not A Name"}, expect="M_INVALID_PARAM")


def test_profiles_of_nobody_and_of_others(visitor: Visitor, alice: Client) -> None:
    for user_id in (f"@nobody:{visitor.hearth.server_name}", visitor.user("bob")):
        visitor.get("/v1/query/profile", query={"user_id": user_id}, expect="M_NOT_FOUND")


def test_unknown_kind_of_query(visitor: Visitor) -> None:
    visitor.get("/v1/query/weather", expect="M_UNRECOGNIZED")


def test_published_rooms(visitor: Visitor, alice: Client) -> None:
    names = [f"room {number}" for number in range(3)]
    for name in names:
        create_room(alice, name=name, visibility="public")
    create_room(alice, name="room hidden")
    first = visitor.get("/v1/publicRooms", query={"limit": 2})
    assert first["total_room_count_estimate"] == 3
    second = visitor.get("/v1/publicRooms", query={"limit": 2, "since": first["next_batch"]})
    assert sorted(room["name"] for room in [*first["chunk"], *second["chunk"]]) == names
    found = visitor.post("/v1/publicRooms", {"filter": {"generic_search_term": "ROOM 1"}})
    assert [room["name"] for room in found["chunk"]] == ["room 1"]
    visitor.get("/v1/publicRooms", query={"since": "x"}, expect="M_INVALID_PARAM")
    visitor.post("/v1/publicRooms", {"limit": -1}, expect="M_INVALID_PARAM")


def test_published_rooms_are_hidden_where_the_admin_says_so(
    start_federated: Callable[..., Any], start_peer: Callable[..., Any]
) -> None:
    visitor = Visitor(start_peer(), start_federated("a", {"federation": {"public_rooms": False}}))
    visitor.get("/v1/publicRooms", expect="M_FORBIDDEN")
    visitor.post("/v1/publicRooms", {}, expect="M_FORBIDDEN")


def test_space_is_shown_as_far_as_the_server_could_get_in(visitor: Visitor, alice: Client) -> None:
    space = create_room(alice, creation_content={"type": "m.space"}, name="The space")
    public = create_room(alice, name="Public")
    private = create_room(alice, name="Private", preset="private_chat")
    for room in (public, private, "!unknown:elsewhere.example"):
        alice.set_state(space, "m.space.child", {"via": ["a.example"]}, room)
    found = visitor.get("/v1/hierarchy/{}", at=[space])
    assert found["room"]["name"] == "The space"
    assert len(found["room"]["children_state"]) == 3
    assert [room["room_id"] for room in found["children"]] == [public]
    assert found["inaccessible_children"] == [private]
    suggested = visitor.get("/v1/hierarchy/{}", at=[space], query={"suggested_only": "true"})
    assert suggested["children"] == [] and suggested["room"]["children_state"] == []


def test_hierarchy_of_a_private_or_forbidden_room_is_not_found(visitor: Visitor, alice: Client) -> None:
    visitor.get("/v1/hierarchy/{}", at=[create_room(alice, preset="private_chat")], expect="M_NOT_FOUND")
    visitor.get("/v1/hierarchy/{}", at=["!nothing:elsewhere.example"], expect="M_NOT_FOUND")
    room_id = create_room(alice)
    alice.set_state(room_id, "m.room.server_acl", {"allow": ["*.example"]})
    visitor.get("/v1/hierarchy/{}", at=[room_id], expect="M_NOT_FOUND")


def _upload(client: Client) -> dict[str, object]:
    keys = {
        "user_id": client.user_id,
        "device_id": client.device_id,
        "algorithms": ["m.megolm.v1.aes-sha2"],
        "keys": {f"ed25519:{client.device_id}": "key"},
        "signatures": {client.user_id: {f"ed25519:{client.device_id}": "signature"}},
    }
    one_time = {f"signed_curve25519:{name}": {"key": name, "signatures": {}} for name in ("AAAA", "AAAB")}
    client.post("/keys/upload", {"device_keys": keys, "one_time_keys": one_time})
    return keys


def test_devices_and_keys_of_local_users(visitor: Visitor, alice: Client) -> None:
    keys = _upload(alice)
    devices = visitor.get("/v1/user/devices/{}", at=[alice.user_id])
    assert [device["keys"] for device in devices["devices"]] == [keys]
    assert devices["user_id"] == alice.user_id and devices["stream_id"] > 0
    wanted = {alice.user_id: [], visitor.user("bob"): [], f"@nobody:{visitor.hearth.server_name}": []}
    found = visitor.post("/v1/user/keys/query", {"device_keys": wanted})
    assert found["device_keys"][alice.user_id][alice.device_id]["keys"] == keys["keys"]
    assert visitor.user("bob") not in found["device_keys"]


def test_devices_of_others_users_are_not_found(visitor: Visitor) -> None:
    for user_id in (visitor.user("bob"), f"@nobody:{visitor.hearth.server_name}"):
        visitor.get("/v1/user/devices/{}", at=[user_id], expect="M_NOT_FOUND")


def test_one_time_key_is_handed_out_once(visitor: Visitor, alice: Client) -> None:
    _upload(alice)
    claim = {"one_time_keys": {alice.user_id: {alice.device_id: "signed_curve25519"}}}
    claimed = [visitor.post("/v1/user/keys/claim", claim)["one_time_keys"] for _ in range(3)]
    names = [list(answer[alice.user_id][alice.device_id]) for answer in claimed[:2]]
    assert sorted(names) == [["signed_curve25519:AAAA"], ["signed_curve25519:AAAB"]]
    assert claimed[2] == {}
    other = {"one_time_keys": {visitor.user("bob"): {"DEVICE": "signed_curve25519"}}}
    assert visitor.post("/v1/user/keys/claim", other) == {"one_time_keys": {}}
    visitor.post("/v1/user/keys/claim", {"one_time_keys": {alice.user_id: []}}, expect=400)
    visitor.post("/v1/user/keys/query", {"device_keys": {alice.user_id: 1}}, expect="M_BAD_JSON")


def test_nothing_is_told_to_those_who_do_not_sign(visitor: Visitor, alice: Client) -> None:
    room_id = create_room(alice)
    for path in (
        f"/_matrix/federation/v1/query/profile?user_id={alice.user_id}",
        f"/_matrix/federation/v1/user/devices/{alice.user_id}",
        f"/_matrix/federation/v1/make_join/{room_id}/{alice.user_id}",
        f"/_matrix/federation/v1/backfill/{room_id}?v=$x&limit=1",
        f"/_matrix/federation/v1/state/{room_id}?event_id=$x",
        "/_matrix/federation/v1/event/$x",
        "/_matrix/federation/v1/publicRooms",
    ):
        response = visitor.hearth.ask("GET", path)
        assert (response.status_code, response.json()["errcode"]) == (401, "M_UNAUTHORIZED"), path


@pytest.mark.parametrize("presence", [True, False])
def test_kinds_of_ephemeral_data(start_federated: Callable[..., Any], presence: bool) -> None:
    hearth = start_federated("a", {"presence": {"enabled": presence}})
    answer = hearth.ask("GET", "/_matrix/federation/unstable/io.fsky.vel/edutypes").json()
    assert answer == {"m.presence": presence, "m.receipt": True, "m.typing": True}
