"""What users ask of other servers: aliases, profiles, directories, summaries, spaces."""

from __future__ import annotations

from typing import Any

import pytest

from tests.federation.resident import V1
from tests.kit.federation import Answer

ROOM = "!" + "a" * 43
CHILD = "!" + "b" * 43
HIDDEN = "!" + "c" * 43


def entry(room_id: str, **more: Any) -> dict[str, Any]:
    return {"room_id": room_id, "num_joined_members": 3, "world_readable": False, "guest_can_join": False, **more}


def child(room_id: str, via: str) -> dict[str, Any]:
    return {
        "type": "m.space.child",
        "state_key": room_id,
        "sender": f"@bob:{via}",
        "content": {"via": [via]},
        "origin_server_ts": 1_700_000_000_000,
    }


@pytest.fixture
def hearth(start_federated: Any) -> Any:
    return start_federated()


@pytest.fixture
def peer(start_peer: Any) -> Any:
    return start_peer()


def test_profile_of_a_remote_user(alice: Any, peer: Any) -> None:
    peer.answer("GET", f"{V1}/query/profile", {"displayname": "Bob", "avatar_url": 5, "org.example.mood": {"x": 1}})
    profile = alice.get("/profile/{}", at=[f"@bob:{peer.server_name}"])
    assert profile == {"displayname": "Bob", "org.example.mood": {"x": 1}}
    assert peer.requests[-1].query == f"user_id=%40bob%3A{peer.server_name.replace(':', '%3A')}"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer({"errcode": "M_NOT_FOUND", "error": "no"}, 404), 404),
        (Answer({"errcode": "M_FORBIDDEN", "error": "no"}, 403), 404),
        (Answer({"errcode": "M_UNKNOWN_TOKEN", "error": "no"}, 401), 502),
        ([1], 502),
        (Answer(b"{"), 502),
    ],
)
def test_profile_that_is_not_to_be_had(alice: Any, peer: Any, answer: Any, told: int) -> None:
    peer.answer("GET", f"{V1}/query/profile", answer)
    alice.get("/profile/{}", at=[f"@bob:{peer.server_name}"], expect=told)


def test_alias_of_another_server(alice: Any, peer: Any) -> None:
    servers = ["one.example.org", "not a name", 7, peer.server_name, "one.example.org"]
    peer.answer("GET", f"{V1}/query/directory", {"room_id": ROOM, "servers": servers})
    found = alice.get("/directory/room/{}", at=[f"#a:{peer.server_name}"])
    assert found == {"room_id": ROOM, "servers": ["one.example.org", peer.server_name]}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer({"errcode": "M_NOT_FOUND", "error": "no"}, 404), "M_NOT_FOUND"),
        ({"servers": []}, 502),
        ({"room_id": "nonsense", "servers": []}, 502),
        ({"room_id": 7}, 502),
    ],
)
def test_alias_that_leads_nowhere(alice: Any, peer: Any, answer: Any, told: Any) -> None:
    peer.answer("GET", f"{V1}/query/directory", answer)
    alice.get("/directory/room/{}", at=[f"#a:{peer.server_name}"], expect=told)


def test_directory_of_another_server(alice: Any, peer: Any) -> None:
    page = {
        "chunk": [entry(ROOM, name="A room"), {"room_id": 1}, "x"],
        "next_batch": "n",
        "total_room_count_estimate": 9,
    }
    peer.answer("POST", f"{V1}/publicRooms", page)
    body = {"limit": 2, "filter": {"generic_search_term": "room"}}
    found = alice.post("/publicRooms", body, query={"server": peer.server_name})
    assert found == {"chunk": [entry(ROOM, name="A room")], "next_batch": "n", "total_room_count_estimate": 9}
    assert peer.requests[-1].json == body


def test_directory_that_is_closed_or_broken(alice: Any, peer: Any) -> None:
    peer.answer("POST", f"{V1}/publicRooms", {"errcode": "M_FORBIDDEN", "error": "no"}, status=403)
    alice.get("/publicRooms", query={"server": peer.server_name}, expect=403)
    peer.answer("POST", f"{V1}/publicRooms", {"chunk": 5})
    alice.get("/publicRooms", query={"server": peer.server_name}, expect=502)


def summary(client: Any, peer: Any, **about: Any) -> Any:
    path = "/_matrix/client/v1/room_summary/{}"
    return client.get(path, at=[ROOM], query={"via": [peer.server_name]}, **about)


def test_summary_of_a_remote_room(alice: Any, peer: Any) -> None:
    room = entry(ROOM, name="A room", join_rule="public", children_state=[])
    peer.answer("GET", f"{V1}/hierarchy/", {"room": room, "children": [], "inaccessible_children": []})
    expected = entry(ROOM, name="A room", join_rule="public", membership="leave")
    assert summary(alice, peer) == expected
    assert summary(alice, peer) == expected
    assert len(peer.received(f"{V1}/hierarchy/")) == 1


def test_a_room_that_was_refused_is_asked_for_again(alice: Any, peer: Any) -> None:
    summary(alice, peer, expect=404)
    room = entry(ROOM, name="A room", join_rule="public", children_state=[])
    peer.answer("GET", f"{V1}/hierarchy/", {"room": room, "children": [], "inaccessible_children": []})
    assert summary(alice, peer)["name"] == "A room"


@pytest.mark.parametrize(
    "room",
    [
        entry(ROOM, join_rule="invite"),
        entry(ROOM, join_rule="restricted", allowed_room_ids=[CHILD]),
        entry(CHILD, join_rule="public"),
        {"room_id": ROOM},
        "a room",
    ],
)
def test_summary_of_a_remote_room_that_is_not_for_the_user(alice: Any, peer: Any, room: Any) -> None:
    peer.answer("GET", f"{V1}/hierarchy/", {"room": room, "children": [], "inaccessible_children": []})
    summary(alice, peer, expect=404)


def test_summary_of_a_restricted_room_for_a_member_of_an_allowed_room(alice: Any, peer: Any) -> None:
    allowed = alice.create_room()
    room = entry(ROOM, join_rule="restricted", allowed_room_ids=[allowed], children_state=[])
    peer.answer("GET", f"{V1}/hierarchy/", {"room": room, "children": [], "inaccessible_children": []})
    assert summary(alice, peer)["allowed_room_ids"] == [allowed]


def test_space_is_walked_into_other_servers(alice: Any, peer: Any) -> None:
    space = alice.create_room(creation_content={"type": "m.space"}, preset="public_chat")
    alice.set_state(space, "m.space.child", {"via": [peer.server_name]}, ROOM)
    told = [child(CHILD, peer.server_name), child(HIDDEN, peer.server_name), {"type": "m.room.name"}, 7]
    remote = entry(ROOM, room_type="m.space", join_rule="public", children_state=told)
    answer = {
        "room": remote,
        "children": [entry(CHILD, name="A room in it", join_rule="public", children_state=[])],
        "inaccessible_children": [HIDDEN],
    }
    peer.answer("GET", f"{V1}/hierarchy/", answer)
    rooms = alice.get("/_matrix/client/v1/rooms/{}/hierarchy", at=[space])["rooms"]
    assert [room["room_id"] for room in rooms] == [space, ROOM, CHILD]
    assert [event["state_key"] for event in rooms[1]["children_state"]] == [CHILD, HIDDEN]
    assert len(peer.received(f"{V1}/hierarchy/")) == 1


@pytest.mark.parametrize("told", ["false", "hidden"])
def test_server_of_a_space_says_nothing_of_rooms_that_others_are_asked_about(
    alice: Any, peer: Any, start_peer: Any, told: str
) -> None:
    """Of the rooms in its space it may say what it likes, to those who look at the space."""
    other = start_peer()
    space = entry(ROOM, room_type="m.space", join_rule="public", children_state=[child(CHILD, peer.server_name)])
    false = [entry(CHILD, name="Give me your password", join_rule="public", children_state=[])]
    about = {"children": false if told == "false" else [], "inaccessible_children": [CHILD] if told == "hidden" else []}
    peer.answer("GET", f"{V1}/hierarchy/", {"room": space, **about})
    true = entry(CHILD, name="A room", join_rule="public", children_state=[])
    other.answer("GET", f"{V1}/hierarchy/", {"room": true, "children": [], "inaccessible_children": []})
    summary(alice, peer)
    path = "/_matrix/client/v1/room_summary/{}"
    assert alice.get(path, at=[CHILD], query={"via": [other.server_name]})["name"] == "A room"
