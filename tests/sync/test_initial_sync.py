"""GET /initialSync and that of one room, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kit.client import bodies

ROOM = "/rooms/{}/initialSync"
ON = {"presence": {"enabled": True}}


@pytest.fixture
def room(alice: Any, bob: Any) -> str:
    """Alice's published room, which bob has joined."""
    room_id: str = alice.create_room(preset="public_chat", visibility="public", name="a room")
    bob.join(room_id)
    return room_id


def rooms(client: Any, **query: Any) -> Any:
    return {room["room_id"]: room for room in client.get("/initialSync", query=query)["rooms"]}


def test_a_room_says_whether_it_is_published(alice: Any, bob: Any, room: str) -> None:
    private, invited = alice.create_room(), alice.create_room(visibility="public")
    alice.invite(private, bob.user_id)
    alice.invite(invited, bob.user_id)
    seen = {room_id: told["visibility"] for room_id, told in rooms(bob).items()}
    assert seen == {room: "public", private: "private", invited: "public"}
    assert alice.get(ROOM, at=[room])["visibility"] == "public"
    assert alice.get(ROOM, at=[private])["visibility"] == "private"


def test_a_room_has_state_messages_and_account_data(alice: Any, bob: Any, room: str) -> None:
    for n in range(5):
        alice.send(room, f"{n}")
    at = (bob.user_id, room)
    bob.put("/user/{}/rooms/{}/account_data/com.example", {"a": 1}, at=at)
    bob.put("/user/{}/account_data/com.example.all", {"b": 1}, at=[bob.user_id])
    of_all = bob.get("/initialSync", query={"limit": 2})
    for told in (of_all["rooms"][0], bob.get(ROOM, at=[room], query={"limit": 2})):
        assert told["membership"] == "join"
        assert bodies(told["messages"]["chunk"]) == ["3", "4"]
        assert "m.room.name" in {event["type"] for event in told["state"]}
        assert {"type": "com.example", "content": {"a": 1}} in told["account_data"]
        earlier = bob.messages(room, from_=told["messages"]["start"])
        assert bodies(earlier["chunk"]) == ["2", "1", "0"]
    assert {"type": "com.example.all", "content": {"b": 1}} in of_all["account_data"]


def test_no_start_is_named_where_nothing_is_earlier(alice: Any) -> None:
    room = alice.create_room()
    assert "start" not in alice.get(ROOM, at=[room], query={"limit": 100})["messages"]
    none = alice.get(ROOM, at=[room], query={"limit": 0})["messages"]
    assert none["chunk"] == []
    assert alice.messages(room, from_=none["start"])["chunk"] != []


def test_an_invite_is_told_by_its_event(alice: Any, bob: Any) -> None:
    room = alice.create_room()
    alice.invite(room, bob.user_id)
    told = rooms(bob)[room]
    assert told["membership"] == "invite"
    assert (told["invite"]["state_key"], told["invite"]["content"]["membership"]) == (bob.user_id, "invite")
    assert told["invite"]["unsigned"] == {"membership": "invite"}


def test_rooms_that_were_left_are_told_to_who_asks(alice: Any, bob: Any, room: str) -> None:
    alice.send(room, "before")
    bob.leave(room)
    alice.send(room, "after")
    alice.set_state(room, "m.room.name", {"name": "another name"})
    assert rooms(bob) == {}
    for told in (rooms(bob, archived=True)[room], bob.get(ROOM, at=[room])):
        assert told["membership"] == "leave"
        assert told["visibility"] == "public"
        assert bodies(told["messages"]["chunk"]) == ["before"]
        assert {"name": "a room"} in [event["content"] for event in told["state"]]
        assert bodies(bob.messages(room, "f", from_=told["messages"]["end"])["chunk"]) == []


def test_a_knock_has_no_word_there(alice: Any, bob: Any) -> None:
    knockable = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room = alice.create_room(initial_state=[knockable])
    bob.post("/knock/{}", {}, at=[room])
    assert rooms(bob) == {}


def test_presence_and_receipts_of_members_are_told(start_local: Any) -> None:
    hearth = start_local(ON)
    alice, bob, carol = (hearth.register(name) for name in ("alice", "bob", "carol"))
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    carol.create_room()
    for client in (alice, carol):
        client.put("/presence/{}/status", {"presence": "online"}, at=[client.user_id])
    event_id = alice.send(room, "hello")
    alice.post("/rooms/{}/receipt/m.read/{}", {}, at=(room, event_id))
    alice.post("/rooms/{}/receipt/m.read.private/{}", {}, at=(room, event_id))
    for told in (bob.get("/initialSync"), bob.get(ROOM, at=[room])):
        assert [event["sender"] for event in told["presence"]] == [alice.user_id]
        (receipts,) = told["receipts"]
        assert receipts["content"][event_id].keys() == {"m.read"}
    assert carol.get(ROOM, at=[room], expect=403)["errcode"] == "M_FORBIDDEN"


def test_who_looks_from_outside_is_told_of_nobodys_presence(start_local: Any) -> None:
    hearth = start_local(ON)
    alice, bob = hearth.register("alice"), hearth.register("bob")
    visibility = {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}
    room = alice.create_room(preset="public_chat", initial_state=[visibility])
    alice.put("/presence/{}/status", {"presence": "online"}, at=[alice.user_id])
    event_id = alice.send(room, "hello")
    alice.post("/rooms/{}/receipt/m.read/{}", {}, at=(room, event_id))
    told = bob.get(ROOM, at=[room])
    assert bodies(told["messages"]["chunk"]) == ["hello"]
    assert (told["presence"], told["receipts"]) == ([], [])
    assert "membership" not in told
