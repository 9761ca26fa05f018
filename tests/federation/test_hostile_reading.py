"""A server that wants to know of rooms what it must not: of those that it is not in, was in, or is in beside another."""

from __future__ import annotations

from typing import Any

import pytest

from tests.federation.visitor import Visitor, create_room

SECRET = "the secret"


def everything_about(visitor: Visitor, room_id: str, events: list[str], expect: Any) -> str:
    """The answers to all questions about a room, as text."""
    answers = []
    for event_id in events:
        for path in ("/v1/state/{}", "/v1/state_ids/{}"):
            answers.append(visitor.get(path, at=[room_id], query={"event_id": event_id}, expect=expect))
        answers.append(visitor.get("/v1/event_auth/{}/{}", at=[room_id, event_id], expect=expect))
        answers.append(visitor.get("/v1/backfill/{}", at=[room_id], query={"v": event_id, "limit": 10}, expect=expect))
        missing = {"earliest_events": [], "latest_events": [event_id], "limit": 10}
        answers.append(visitor.post("/v1/get_missing_events/{}", missing, at=[room_id], expect=expect))
    about = {"ts": 1, "dir": "f"}
    answers.append(visitor.get("/v1/timestamp_to_event/{}", at=[room_id], query=about, expect=expect))
    return str(answers)


@pytest.fixture
def rooms(visitor: Visitor) -> tuple[Any, str, list[str]]:
    """alice, her private room, and events of it: a state event, a message, and the newest."""
    alice = visitor.hearth.register("alice")
    private = alice.create_room(name=SECRET, preset="private_chat")
    name = next(each for each in alice.get("/rooms/{}/state", at=[private]) if each["type"] == "m.room.name")
    return alice, private, [name["event_id"], alice.send(private, SECRET), alice.send(private, "newest")]


def test_server_outside_learns_nothing(visitor: Visitor, rooms: tuple[Any, str, list[str]]) -> None:
    _, private, events = rooms
    assert SECRET not in everything_about(visitor, private, events, (403, 404))
    for event_id in events:
        visitor.get("/v1/event/{}", at=[event_id], expect=(403, 404))
    for what in ("join", "leave", "knock"):
        visitor.make(what, private, visitor.user("bob"), expect=(403, 404))
    visitor.get("/v1/hierarchy/{}", at=[private], expect=404)


def test_being_in_one_room_opens_no_other(visitor: Visitor, rooms: tuple[Any, str, list[str]]) -> None:
    """Events of the private room, asked for by way of a room that the server is in."""
    alice, private, events = rooms
    public = create_room(alice)
    visitor.join(public, visitor.user("bob"))
    told = everything_about(visitor, public, events, (200, 403, 404))
    assert SECRET not in told
    assert private not in told
    assert not any(event_id in told for event_id in events)


def test_event_of_another_room_is_no_place_to_join_at(visitor: Visitor, rooms: tuple[Any, str, list[str]]) -> None:
    """A join whose prev_events, or auth_events, are of another room would bring that room's state with it."""
    alice, _, events = rooms
    public = create_room(alice)
    template = visitor.make("join", public, visitor.user("bob"))
    for changes in ({"prev_events": [events[2]]}, {"auth_events": [*template["event"]["auth_events"][:2], events[0]]}):
        join = visitor.sign(template, **changes)
        answer = visitor.submit("join", public, join, expect=(400, 403))
        assert SECRET not in str(answer)


def test_server_that_left_sees_nothing_of_later(visitor: Visitor) -> None:
    alice = visitor.hearth.register("alice")
    room = create_room(alice)
    visitor.join(room, visitor.user("bob"))
    visitor.leave(room, visitor.user("bob"))
    alice.set_state(room, "m.room.topic", {"topic": SECRET})
    later = alice.send(room, SECRET)
    assert SECRET not in everything_about(visitor, room, [later], (403, 404))
    visitor.get("/v1/event/{}", at=[later], expect=(403, 404))
