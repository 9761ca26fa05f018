"""What reading endpoints answer at their edges."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kit.client import bodies, timeline


def test_event_of_a_room_that_one_is_not_in_is_not_found(alice: Any, bob: Any) -> None:
    room_id = alice.create_room()
    event_id = alice.send(room_id, "hello")
    bob.get("/rooms/{}/event/{}", at=(room_id, event_id), expect="M_NOT_FOUND")
    bob.get("/rooms/{}/event/{}", at=("!none:test.example", event_id), expect="M_NOT_FOUND")


@pytest.mark.parametrize("rooms", [{"not_rooms": ["{}"]}, {"rooms": ["!other:test.example"]}])
def test_filter_that_leaves_the_room_out_leaves_nothing(alice: Any, rooms: dict[str, list[str]]) -> None:
    room_id = alice.create_room()
    event_id = alice.send(room_id, "hello")
    wanted = {name: [value.format(room_id) for value in values] for name, values in rooms.items()}
    assert alice.messages(room_id, filter=wanted)["chunk"] == []
    around = alice.get("/rooms/{}/context/{}", at=(room_id, event_id), query={"filter": wanted})
    assert around["events_before"] == []


def test_limit_of_a_filter_bounds_a_page(alice: Any) -> None:
    room_id = alice.create_room()
    assert len(alice.messages(room_id, filter={"limit": 2})["chunk"]) == 2
    assert len(alice.messages(room_id, filter={"limit": 5}, limit=3)["chunk"]) == 3


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"related_by_rel_types": ["m.thread"]}, ["root"]),
        ({"related_by_senders": ["@bob:test.example"]}, ["liked"]),
        ({"related_by_rel_types": ["m.thread"], "related_by_senders": ["@bob:test.example"]}, []),
        (
            {"related_by_rel_types": ["m.thread", "m.annotation"], "not_senders": ["@bob:test.example"]},
            ["liked", "root"],
        ),
    ],
)
def test_filter_may_ask_for_what_others_relate_to(
    alice: Any, bob: Any, wanted: dict[str, Any], found: list[str]
) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.join(room_id)
    root, liked = alice.send(room_id, "root"), alice.send(room_id, "liked")
    thread = {"rel_type": "m.thread", "event_id": root}
    alice.send(room_id, {"msgtype": "m.text", "body": "in it", "m.relates_to": thread})
    reaction = {"rel_type": "m.annotation", "event_id": liked, "key": "!"}
    bob.send(room_id, {"m.relates_to": reaction}, "m.reaction")
    assert bodies(alice.messages(room_id, limit=50, filter=wanted)["chunk"]) == found


def test_profile_that_the_rooms_show_already_makes_no_event(alice: Any, bob: Any) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.join(room_id)
    alice.put("/profile/{}/displayname", {"displayname": "Alice"}, at=[alice.user_id])
    bob.sync()
    alice.put("/profile/{}/displayname", {"displayname": "Alice"}, at=[alice.user_id])
    alice.send(room_id, "hello")
    assert bodies(timeline(bob.sync(), room_id)) == ["hello"]
    alice.delete("/profile/{}/displayname", at=[alice.user_id])
    [renamed] = timeline(bob.sync(), room_id)
    assert renamed["content"] == {"membership": "join"}


def test_members_of_a_world_readable_room_are_for_everybody(alice: Any, bob: Any) -> None:
    visibility = {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}
    shown = alice.create_room(preset="public_chat", initial_state=[visibility])
    hidden = alice.create_room(preset="public_chat")
    assert bob.get("/rooms/{}/joined_members", at=[shown])["joined"].keys() == {alice.user_id}
    bob.get("/rooms/{}/joined_members", at=[hidden], expect="M_FORBIDDEN")
    bob.join(hidden)
    bob.leave(hidden)
    bob.get("/rooms/{}/joined_members", at=[hidden], expect="M_FORBIDDEN")


def test_erased_user_has_no_profile(hearth: Any, alice: Any, bob: Any) -> None:
    password = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "bob"}}
    bob.post("/account/deactivate", {"erase": True, "auth": {**password, "password": "password of the tests"}})
    alice.get("/profile/{}", at=[bob.user_id], expect="M_NOT_FOUND")
    alice.get("/profile/{}/displayname", at=[bob.user_id], expect="M_NOT_FOUND")


def test_state_of_another_value_is_another_event(alice: Any) -> None:
    room_id = alice.create_room()
    one = alice.set_state(room_id, "org.example.flag", {"value": 1})
    assert alice.set_state(room_id, "org.example.flag", {"value": 1}) == one
    assert alice.set_state(room_id, "org.example.flag", {"value": True}) != one
    assert alice.get_state(room_id, "org.example.flag")["value"] is True


@pytest.mark.parametrize("version", ["11", "12"])
def test_state_that_no_room_can_have_is_bad_input(alice: Any, version: str) -> None:
    room_id = alice.create_room(room_version=version)
    alice.set_state(room_id, "m.room.create", {"room_version": version, "more": 1}, expect=400)
    is_refused = version == "12"  # there creators have no level
    levels = {"users": {alice.user_id: 100}, "ban": 60}
    alice.set_state(room_id, "m.room.power_levels", levels, expect="M_INVALID_PARAM" if is_refused else 200)


@pytest.mark.parametrize(
    "content", [{"users": []}, {"users": {"@a:b.c": "x"}}, {"ban": "50"}, {"events": {"a": None}}, {"notifications": 5}]
)
def test_power_levels_of_wrong_types_are_bad_json(alice: Any, content: dict[str, Any]) -> None:
    room_id = alice.create_room()
    alice.set_state(room_id, "m.room.power_levels", content, expect="M_BAD_JSON")
