"""Sending and reading a room: /send, /state, /redact, /event, /messages, /context, /members."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kit.reactor import run_in_reactor


def test_same_transaction_gives_same_event(alice: Any, room: str) -> None:
    assert alice.send(room, "hello", txn_id="one") == alice.send(room, "something else", txn_id="one")
    assert alice.send(room, "hello", txn_id="two") != alice.send(room, "hello", txn_id="one")


def test_same_transaction_gives_same_event_after_a_restart(hearth: Any, alice: Any, room: str) -> None:
    first = alice.send(room, "hello", txn_id="one")
    hearth.restart()
    alice.base_url = hearth.url
    assert alice.send(room, "hello", txn_id="one") == first
    bodies = [event["content"].get("body") for event in alice.messages(room)["chunk"]]
    assert bodies.count("hello") == 1


def again(client: Any, hearth: Any, *path: str) -> Any:
    """The answer to a PUT that is repeated, once the server has been started anew."""
    hearth.restart()
    client.base_url = hearth.url
    return client.put("/rooms/{}/{}/{}/{}", {"body": "x"}, at=path).get("event_id")


def lose_the_right(hearth: Any, alice: Any, bob: Any, room: str, how: str) -> None:
    """Bob may not send to alice's room any more."""
    if how == "leaves":
        bob.leave(room)
    elif how == "is kicked":
        alice.kick(room, bob.user_id)
    elif how == "is banned":
        alice.ban(room, bob.user_id)
    elif how == "lacks the power":
        levels = alice.get_state(room, "m.room.power_levels")
        alice.set_state(room, "m.room.power_levels", {**levels, "events_default": 50, "events": {}})
    else:
        run_in_reactor(hearth.running.services.accounts.accounts.set_suspended, bob.user_id, True)


LOSSES = ["leaves", "is kicked", "is banned", "lacks the power", "is suspended"]


@pytest.mark.parametrize("how", LOSSES)
def test_a_transaction_keeps_its_answer_when_the_sender_lost_the_right_to_send(
    hearth: Any, alice: Any, bob: Any, room: str, how: str
) -> None:
    first = bob.send(room, "hello", txn_id="one")
    redaction = bob.put("/rooms/{}/redact/{}/{}", {}, at=(room, first, "two"))["event_id"]
    third = bob.send(room, {"redacts": first}, "m.room.redaction", txn_id="three")
    lose_the_right(hearth, alice, bob, room, how)
    assert again(bob, hearth, room, "send", "m.room.message", "one") == first
    assert again(bob, hearth, room, "redact", first, "two") == redaction
    assert again(bob, hearth, room, "send", "m.room.redaction", "three") == third
    assert bob.send(room, "hello", txn_id="four", expect=403) == ""
    assert bob.send(room, "hello", "com.example.other", txn_id="one", expect=403) == ""


def test_a_transaction_keeps_its_answer_when_the_redacted_event_is_out_of_reach(
    hearth: Any, alice: Any, bob: Any, room: str
) -> None:
    event_id = alice.send(room, "hello")
    levels = alice.get_state(room, "m.room.power_levels")
    alice.set_state(room, "m.room.power_levels", {**levels, "users": {**levels["users"], bob.user_id: 50}})
    redaction = bob.put("/rooms/{}/redact/{}/{}", {}, at=(room, event_id, "one"))["event_id"]
    alice.set_state(room, "m.room.power_levels", levels)
    assert again(bob, hearth, room, "redact", event_id, "one") == redaction


def test_the_database_is_asked_about_refused_transactions_only(
    alice: Any, bob: Any, room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("asked")

    monkeypatch.setattr("homeserver.rooms.transactions.load_transactions", fail)
    first = bob.send(room, "hello", txn_id="one")
    assert bob.send(room, "hello", txn_id="one") == first
    alice.kick(room, bob.user_id)
    assert bob.send(room, "hello", txn_id="one") == first
    bob.send(room, "hello", txn_id="two", expect=500)


def test_what_a_transaction_was_refused_may_be_done_later(alice: Any, bob: Any, room: str) -> None:
    bob.leave(room)
    bob.send(room, "hello", txn_id="one", expect=403)
    bob.join(room)
    assert bob.send(room, "hello", txn_id="one") != ""


def test_transaction_id_is_told_to_the_sending_device_alone(alice: Any, bob: Any, room: str) -> None:
    event_id = alice.send(room, "hello", txn_id="mine")
    at = (room, event_id)
    assert alice.get("/rooms/{}/event/{}", at=at)["unsigned"]["transaction_id"] == "mine"
    assert "transaction_id" not in bob.get("/rooms/{}/event/{}", at=at)["unsigned"]


def test_stranger_neither_sends_nor_reads(hearth: Any, alice: Any, room: str) -> None:
    mallory = hearth.register("mallory")
    event_id = alice.send(room, "secret")
    mallory.send(room, "hi", expect="M_FORBIDDEN")
    mallory.get("/rooms/{}/messages", at=[room], query={"dir": "b"}, expect="M_FORBIDDEN")
    mallory.get("/rooms/{}/event/{}", at=(room, event_id), expect="M_NOT_FOUND")
    mallory.get("/rooms/{}/state", at=[room], expect="M_FORBIDDEN")
    mallory.send("!nothing:test.example", "hi", expect="M_FORBIDDEN")


def test_state_that_is_set_already_makes_no_new_event(alice: Any, room: str) -> None:
    first = alice.set_state(room, "m.room.topic", {"topic": "bees"})
    assert alice.set_state(room, "m.room.topic", {"topic": "bees"}) == first
    assert alice.set_state(room, "m.room.topic", {"topic": "wasps"}) != first


def test_state_is_read_as_content_and_as_event(alice: Any, room: str) -> None:
    event_id = alice.set_state(room, "com.example.thing", {"a": 1}, "key")
    at = (room, "com.example.thing", "key")
    assert alice.get("/rooms/{}/state/{}/{}", at=at) == {"a": 1}
    event = alice.get("/rooms/{}/state/{}/{}", at=at, query={"format": "event"})
    assert (event["event_id"], event["state_key"], event["content"]) == (event_id, "key", {"a": 1})
    alice.get("/rooms/{}/state/{}/{}", at=(room, "com.example.thing", "other"), expect="M_NOT_FOUND")


def test_replaced_state_names_what_it_replaced(alice: Any, room: str) -> None:
    first = alice.set_state(room, "m.room.topic", {"topic": "bees"})
    second = alice.set_state(room, "m.room.topic", {"topic": "wasps"})
    unsigned = alice.get("/rooms/{}/event/{}", at=(room, second))["unsigned"]
    assert unsigned["replaces_state"] == first
    assert unsigned["prev_content"] == {"topic": "bees"}


def test_power_decides_who_sets_state(bob: Any, room: str) -> None:
    bob.set_state(room, "m.room.name", {"name": "mine"}, expect="M_FORBIDDEN")


def test_redacted_event_has_no_content_and_says_why(alice: Any, bob: Any, room: str) -> None:
    event_id = bob.send(room, "oops")
    redaction = alice.redact(room, event_id, "rude")
    event = bob.get("/rooms/{}/event/{}", at=(room, event_id))
    assert event["content"] == {}
    because = event["unsigned"]["redacted_because"]
    assert (because["event_id"], because["content"]["reason"]) == (redaction, "rude")


def test_redaction_survives_a_restart(hearth: Any, alice: Any, room: str) -> None:
    event_id = alice.send(room, "oops")
    alice.redact(room, event_id)
    hearth.restart()
    alice.base_url = hearth.url
    assert alice.get("/rooms/{}/event/{}", at=(room, event_id))["content"] == {}


def test_others_events_are_redacted_with_power_only(alice: Any, bob: Any, room: str) -> None:
    event_id = alice.send(room, "mine")
    bob.redact(room, event_id, expect="M_FORBIDDEN")
    bob.redact(room, "$nothing", expect="M_NOT_FOUND")
    assert alice.get("/rooms/{}/event/{}", at=(room, event_id))["content"]["body"] == "mine"


def test_redaction_through_send(alice: Any, room: str) -> None:
    event_id = alice.send(room, "oops")
    alice.send(room, {"redacts": event_id}, "m.room.redaction")
    assert alice.get("/rooms/{}/event/{}", at=(room, event_id))["content"] == {}


@pytest.mark.parametrize("version", [str(number) for number in range(1, 13)])
def test_every_room_version_works(alice: Any, bob: Any, version: str) -> None:
    room = alice.create_room(preset="public_chat", room_version=version)
    bob.join(room)
    event_id = bob.send(room, "hello")
    alice.redact(room, event_id)
    alice.set_state(room, "m.room.topic", {"topic": version})
    event = bob.get("/rooms/{}/event/{}", at=(room, event_id))
    assert (event["content"], bob.get_state(room, "m.room.topic")) == ({}, {"topic": version})
    redaction = event["unsigned"]["redacted_because"]
    assert redaction["redacts"] == redaction["content"]["redacts"] == event_id


def test_reading_forwards_goes_on_from_the_end_of_what_there_is(alice: Any, bob: Any, room: str) -> None:
    first = alice.send(room, "first")
    context = alice.get("/rooms/{}/context/{}", at=(room, first))
    assert alice.messages(room, "f", from_=context["end"]).keys() == {"chunk", "start"}
    second = alice.send(room, "second")
    page = alice.messages(room, "f", from_=context["end"])
    assert [event["event_id"] for event in page["chunk"]] == [second]
    third = alice.send(room, "third")
    page = alice.messages(room, "f", from_=page["end"])
    assert [event["event_id"] for event in page["chunk"]] == [third]
    bob.leave(room)
    assert "end" not in bob.messages(room, "f", from_=context["end"])  # they get no more of it


def test_messages_page_backwards_and_forwards_over_everything_once(alice: Any, room: str) -> None:
    sent = [alice.send(room, f"message {number}") for number in range(25)]
    backwards = _page_through(alice, room, "b")
    assert [event_id for event_id in reversed(backwards) if event_id in sent] == sent
    assert _page_through(alice, room, "f") == list(reversed(backwards))


def _page_through(client: Any, room: str, direction: str) -> list[str]:
    found: list[str] = []
    token = None
    while True:
        page = client.messages(room, direction, limit=7, from_=token)
        found += [event["event_id"] for event in page["chunk"]]
        token = page.get("end")
        if token is None:
            return found


def test_messages_filter_and_lazy_members(alice: Any, bob: Any, room: str) -> None:
    bob.send(room, "hello")
    alice.send(room, {"x": 1}, "com.example.noise")
    page = alice.messages(room, filter='{"types": ["m.room.message"], "lazy_load_members": true}')
    assert [event["type"] for event in page["chunk"]] == ["m.room.message"]
    assert [event["state_key"] for event in page["state"]] == [bob.user_id]


@pytest.mark.parametrize(
    ("query", "errcode"),
    [
        ({"dir": "x"}, "M_INVALID_PARAM"),
        ({}, "M_MISSING_PARAM"),
        ({"dir": "b", "from": "nonsense"}, "M_INVALID_PARAM"),
        ({"dir": "b", "limit": "many"}, "M_INVALID_PARAM"),
        ({"dir": "b", "filter": "{"}, "M_INVALID_PARAM"),
    ],
)
def test_messages_bad_input(alice: Any, room: str, query: dict[str, str], errcode: str) -> None:
    alice.get("/rooms/{}/messages", at=[room], query=query, expect=errcode)


def test_context_has_what_is_around_the_event(alice: Any, room: str) -> None:
    sent = [alice.send(room, f"message {number}") for number in range(5)]
    context = alice.get("/rooms/{}/context/{}", at=(room, sent[2]), query={"limit": 4})
    assert context["event"]["event_id"] == sent[2]
    assert [event["event_id"] for event in context["events_before"]] == [sent[1], sent[0]]
    assert [event["event_id"] for event in context["events_after"]] == [sent[3], sent[4]]
    after = alice.messages(room, "f", from_=context["end"])
    assert after["chunk"] == []


def test_timestamp_to_event_finds_both_neighbours(alice: Any, room: str) -> None:
    event_id = alice.send(room, "hello")
    ts = alice.get("/rooms/{}/event/{}", at=(room, event_id))["origin_server_ts"]
    path = "/_matrix/client/v1/rooms/{}/timestamp_to_event"
    found = alice.get(path, at=[room], query={"ts": ts + 100_000, "dir": "b"})
    assert found["event_id"] == event_id
    alice.get(path, at=[room], query={"ts": ts + 100_000, "dir": "f"}, expect="M_NOT_FOUND")
    alice.get(path, at=[room], query={"ts": ts + 100_000}, expect="M_MISSING_PARAM")
    alice.get(path, at=[room], query={"dir": "b"}, expect="M_MISSING_PARAM")
    alice.get(path, at=[room], query={"ts": ts + 100_000, "dir": "x"}, expect="M_INVALID_PARAM")


def test_members_by_membership_and_at_an_earlier_time(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    before = alice.messages(room)["start"]
    carol = hearth.register("carol")
    carol.join(room)
    bob.leave(room)
    joined = alice.get("/rooms/{}/members", at=[room], query={"membership": "join"})["chunk"]
    assert {event["state_key"] for event in joined} == {alice.user_id, carol.user_id}
    earlier = alice.get("/rooms/{}/members", at=[room], query={"at": before, "membership": "join"})["chunk"]
    assert {event["state_key"] for event in earlier} == {alice.user_id, bob.user_id}
    assert set(alice.get("/rooms/{}/joined_members", at=[room])["joined"]) == {alice.user_id, carol.user_id}


def test_who_left_sees_the_room_as_it_was(alice: Any, bob: Any, room: str) -> None:
    alice.set_state(room, "m.room.topic", {"topic": "old"})
    bob.leave(room)
    alice.set_state(room, "m.room.topic", {"topic": "new"})
    alice.send(room, "behind your back")
    assert bob.get_state(room, "m.room.topic") == {"topic": "old"}
    newest = bob.messages(room)["chunk"][0]
    assert (newest["type"], newest["content"]["membership"]) == ("m.room.member", "leave")


def test_history_before_the_join_is_hidden_where_the_room_says_so(hearth: Any, alice: Any) -> None:
    hidden = {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "joined"}}
    room = alice.create_room(preset="public_chat", initial_state=[hidden])
    secret = alice.send(room, "before")
    dave = hearth.register("dave")
    dave.join(room)
    shown = alice.send(room, "after")
    seen = [event["event_id"] for event in dave.messages(room, limit=50)["chunk"]]
    assert shown in seen and secret not in seen
    dave.get("/rooms/{}/event/{}", at=(room, secret), expect="M_NOT_FOUND")


def test_too_large_event_is_refused_with_its_errcode(alice: Any, room: str) -> None:
    alice.send(room, "x" * 70_000, expect="M_TOO_LARGE")
    alice.send(room, {"n": 2**60}, expect="M_BAD_JSON")
    alice.put("/rooms/{}/send/{}/{}", {}, at=(room, "a\0b", "t"), expect="M_INVALID_PARAM")
