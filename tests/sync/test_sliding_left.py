"""Sliding sync of rooms that the user is not in any more, or never was."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kit.client import Client
from tests.sync.test_sliding_sync import STABLE, ask, keys, room_list, texts

WHOLE = {"range": [0, 9], "timeline_limit": 3, "required_state": {"include": [{}]}}


def begin(client: Client, shape: str) -> dict[str, Any]:
    """The rooms of a new connection."""
    if shape == "stable":
        answer = client.post(STABLE, {"lists": {"all": WHOLE}})
    else:
        answer = ask(client, {"lists": {"all": {**WHOLE, "ranges": [[0, 9]], "required_state": [["*", "*"]]}}})
    rooms: dict[str, Any] = answer["rooms"]
    return rooms


@pytest.mark.parametrize("shape", ["unstable", "stable"])
def test_who_was_kicked_begins_with_the_room_as_it_was_then(alice: Any, bob: Any, shape: str) -> None:
    room = alice.create_room(name="Then", preset="public_chat")
    bob.join(room)
    alice.send(room, "Go")
    alice.kick(room, bob.user_id)
    alice.set_state(room, "m.room.name", {"name": "Later"})
    alice.set_state(room, "m.room.topic", {"topic": "Later"})
    alice.send(room, "Among ourselves")
    told = begin(bob, shape)[room]
    assert (told["initial"], told["name"], told["num_live"], told["limited"]) == (True, "Then", 0, True)
    assert texts(told) == ["m.room.member", "Go", "m.room.member"]
    assert told["timeline"][-1]["content"]["membership"] == "leave"
    assert keys(told) >= {("m.room.name", ""), ("m.room.member", bob.user_id), ("m.room.member", alice.user_id)}
    assert ("m.room.topic", "") not in keys(told)
    assert [e["content"]["name"] for e in told["required_state"] if e["type"] == "m.room.name"] == ["Then"]
    earlier = bob.messages(room, **{"from": told["prev_batch"]})["chunk"]
    assert "m.room.name" in [event["type"] for event in earlier]


def test_a_room_without_a_name_has_heroes_of_then(hearth: Any, alice: Any, bob: Any) -> None:
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    alice.kick(room, bob.user_id)
    hearth.register("aaron").join(room)
    told = begin(bob, "unstable")[room]
    assert "name" not in told
    assert told["heroes"] == [{"user_id": alice.user_id, "displayname": "alice"}]


def test_who_is_banned_after_a_kick_has_what_came_before_the_kick(alice: Any, bob: Any) -> None:
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    alice.kick(room, bob.user_id)
    alice.send(room, "Among ourselves")
    alice.ban(room, bob.user_id)
    told = begin(bob, "stable")[room]
    assert told["membership"] == "ban"
    assert "Among ourselves" not in texts(told)
    own = [event for event in told["required_state"] if event["state_key"] == bob.user_id]
    assert [event["content"]["membership"] for event in own] == ["ban"]


@pytest.mark.parametrize("shape", ["unstable", "stable"])
def test_who_was_banned_without_having_been_there_is_not_told(alice: Any, bob: Any, shape: str) -> None:
    room = alice.create_room(preset="public_chat")
    alice.ban(room, bob.user_id)
    assert begin(bob, shape) == {}


def test_who_was_invited_is_told_of_the_ban(alice: Any, bob: Any) -> None:
    room = alice.create_room(invite=[bob.user_id])
    first = ask(bob, room_list())
    assert set(first["rooms"]) == {room}
    alice.ban(room, bob.user_id)
    assert set(ask(bob, room_list(), first["pos"])["rooms"]) == {room}
    assert begin(bob, "unstable") == {}


def test_a_rejected_invite_is_told_by_stripped_state(alice: Any, bob: Any) -> None:
    room = alice.create_room(name="Come in", invite=[bob.user_id])
    body = {"lists": {"all": WHOLE}}
    first = bob.post(STABLE, body)
    bob.leave(room)
    told = bob.post(STABLE, {**body, "pos": first["pos"]})["rooms"][room]
    assert (told["membership"], told["initial"]) == ("leave", False)
    [own] = told["stripped_state"]
    assert (own["state_key"], own["content"]["membership"]) == (bob.user_id, "leave")
    assert "timeline" not in told


def test_a_room_that_is_left_and_forgotten_is_told_once_more(alice: Any, bob: Any) -> None:
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    first = ask(bob, room_list())
    assert set(first["rooms"]) == {room}
    bob.leave(room)
    bob.forget(room)
    for _ in range(2):  # as after a lost answer
        second = ask(bob, room_list(), first["pos"])
        assert [event["content"]["membership"] for event in second["rooms"][room]["timeline"]] == ["leave"]
        assert second["lists"]["all_rooms"]["count"] == 0
    third = ask(bob, room_list(), second["pos"])
    assert third["rooms"] == {}
    bob.join(room)
    assert ask(bob, room_list(), third["pos"])["rooms"][room]["initial"] is True


@pytest.mark.parametrize("shape", ["unstable", "stable"])
def test_a_room_that_was_left_is_told_to_who_subscribes_to_it(alice: Any, bob: Any, shape: str) -> None:
    room, rejected = alice.create_room(preset="public_chat"), alice.create_room(invite=[bob.user_id])
    bob.join(room)
    alice.send(room, "before")
    for left in (room, rejected):
        bob.leave(left)
    alice.send(room, "after")
    state: Any = [["m.room.create", ""]] if shape == "unstable" else {"include": [{"type": "m.room.create"}]}
    subscription = {"timeline_limit": 2, "required_state": state}
    body = {"room_subscriptions": {room: subscription, rejected: subscription}}

    def told(pos: str | None) -> Any:
        if shape == "unstable":
            return ask(bob, body, pos)
        return bob.post(STABLE, {**body, "pos": pos} if pos is not None else body)

    first = told(None)
    assert set(first["rooms"]) == {room}
    assert texts(first["rooms"][room]) == ["before", "m.room.member"]
    assert ("m.room.create", "") in keys(first["rooms"][room])
    assert told(first["pos"])["rooms"] == {}
    bob.forget(room)
    assert told(None)["rooms"] == {}


def test_who_is_kicked_by_somebody_they_ignore_is_told(alice: Any, bob: Any) -> None:
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    bob.put("/user/{}/account_data/m.ignored_user_list", {"ignored_users": {alice.user_id: {}}}, at=[bob.user_id])
    alice.kick(room, bob.user_id)
    assert set(begin(bob, "unstable")) == {room}
