"""What a client is told of a room's name, and who is named in its stead, when the name is removed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sync.test_sliding_sync import STABLE, ask, room_list

REMOVED = [{}, {"name": ""}, {"name": None}, {"name": ["a name"]}]


@pytest.fixture
def room(alice: Any, bob: Any) -> str:
    """A public room with a name, made by alice, which bob has joined."""
    room_id: str = alice.create_room(preset="public_chat", name="a room")
    bob.join(room_id)
    return room_id


def heroes(told: Any) -> Any:
    return [hero["user_id"] for hero in told["heroes"]] if "heroes" in told else None


def summary(answer: Any, room: str) -> Any:
    return answer["rooms"]["join"][room]["summary"].get("m.heroes")


@pytest.mark.parametrize("content", REMOVED, ids=str)
def test_sliding_sync_says_that_a_name_is_removed_and_names_members(
    alice: Any, bob: Any, room: str, content: Any
) -> None:
    first = ask(alice, room_list())
    assert (first["rooms"][room]["name"], heroes(first["rooms"][room])) == ("a room", None)
    # Unchecked: not all of these are valid, but rooms have them.
    alice.send_raw("PUT", f"/_matrix/client/v3/rooms/{room}/state/m.room.name/", content)
    told = ask(alice, room_list(), first["pos"])["rooms"][room]
    assert told["name"] is None
    assert heroes(told) == [bob.user_id]
    anew = ask(alice, room_list())["rooms"][room]
    assert "name" not in anew
    assert heroes(anew) == [bob.user_id]


def test_the_stable_shape_says_null_once(alice: Any, bob: Any, room: str) -> None:
    body = {"lists": {"all": {"range": [0, 9], "timeline_limit": 1}}}
    first = alice.post(STABLE, body)
    alice.set_state(room, "m.room.name", {})
    second = alice.post(STABLE, {**body, "pos": first["pos"]})
    assert second["rooms"][room]["name"] is None
    bob.send(room, "hello")
    third = alice.post(STABLE, {**body, "pos": second["pos"]})
    assert "name" not in third["rooms"][room]
    alice.set_state(room, "m.room.name", {"name": "another"})
    told = alice.post(STABLE, {**body, "pos": third["pos"]})["rooms"][room]
    assert (told["name"], heroes(told)) == ("another", None)


def test_a_redacted_name_is_removed(alice: Any, bob: Any, room: str) -> None:
    named = alice.set_state(room, "m.room.name", {"name": "regretted"})
    alice.set_state(room, "m.room.avatar", {"url": "mxc://test.example/picture"})
    first, since = ask(alice, room_list()), alice.get("/sync")["next_batch"]
    alice.redact(room, named)
    told = ask(alice, room_list(), first["pos"])["rooms"][room]
    assert (told["name"], told["avatar"]) == (None, "mxc://test.example/picture")
    assert heroes(told) == [bob.user_id]
    assert summary(alice.get("/sync", query={"since": since}), room) == [bob.user_id]


@pytest.mark.parametrize("content", REMOVED, ids=str)
def test_sync_names_members_when_the_name_is_removed(alice: Any, bob: Any, room: str, content: Any) -> None:
    first = alice.get("/sync")
    assert summary(first, room) is None
    alice.send_raw("PUT", f"/_matrix/client/v3/rooms/{room}/state/m.room.name/", content)
    assert summary(alice.get("/sync", query={"since": first["next_batch"]}), room) == [bob.user_id]
    lazy = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}
    anew = alice.get("/sync", query={"filter": lazy})
    assert summary(anew, room) == [bob.user_id]
    state = anew["rooms"]["join"][room]["state"]["events"]
    assert bob.user_id in {event["state_key"] for event in state if event["type"] == "m.room.member"}


def test_an_alias_names_a_room_until_it_is_removed(alice: Any, bob: Any) -> None:
    room = alice.create_room(preset="public_chat", room_alias_name="named")
    bob.join(room)
    first = alice.get("/sync")
    assert summary(first, room) is None
    alice.set_state(room, "m.room.canonical_alias", {})
    assert summary(alice.get("/sync", query={"since": first["next_batch"]}), room) == [bob.user_id]
    assert heroes(ask(alice, room_list())["rooms"][room]) == [bob.user_id]


def test_names_are_read_where_memory_has_them_no_more(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    removed = alice.create_room(preset="public_chat", name="to be removed")
    bob.join(removed)
    alice.set_state(removed, "m.room.name", {})
    hearth.restart()
    alice.base_url = hearth.url
    without_state = {"room": {"state": {"types": []}, "timeline": {"limit": 1}}}
    answer = alice.get("/sync", query={"filter": without_state})
    assert (summary(answer, room), summary(answer, removed)) == (None, [bob.user_id])
    rooms = ask(alice, room_list())["rooms"]
    assert (rooms[room]["name"], heroes(rooms[room])) == ("a room", None)
    assert ("name" in rooms[removed], heroes(rooms[removed])) == (False, [bob.user_id])
