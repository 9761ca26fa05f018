"""GET /sync over HTTP, where its parameters pass through authentication."""

from __future__ import annotations

from typing import Any


def test_the_first_sync_after_a_restart_goes_on_from_its_token(hearth: Any) -> None:
    """The token is not in memory then, so the request waits for the database before its query is read."""
    bob = hearth.register("bob")
    room = bob.create_room()
    since = bob.sync()["next_batch"]
    bob.send(room, "while away")
    hearth.restart()
    bob.base_url = hearth.url
    answer = bob.sync(since=since)
    assert [event["content"] for event in answer["rooms"]["join"][room]["timeline"]["events"]] == [
        {"msgtype": "m.text", "body": "while away"}
    ]
    hearth.restart()
    bob.base_url = hearth.url
    error = bob.get("/sync", query={"since": "garbage"}, expect=400)
    assert error["errcode"] == "M_INVALID_PARAM"


def test_events_in_the_form_of_federation_have_the_same_unsigned(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    room = alice.create_room(preset="public_chat", name="one")
    root = alice.send(room, "root", txn_id="mine")
    redacted = alice.send(room, "redacted")
    alice.set_state(room, "m.room.name", {"name": "two"})
    alice.redact(room, redacted, "because")
    bob.join(room)
    relation = {"rel_type": "m.thread", "event_id": root}
    bob.send(room, {"msgtype": "m.text", "body": "x", "m.relates_to": relation})
    for reader in (alice, bob):
        unsigned = {}
        for form in ("client", "federation"):
            # Told anew, so that relations are bundled.
            wanted = {"event_format": form, "room": {"timeline": {"limit": 50}}}
            answer = reader.send_raw("GET", "/_matrix/client/v3/sync", query={"filter": wanted}).json()
            events = answer["rooms"]["join"][room]["timeline"]["events"]
            assert all(("hashes" in event) is (form == "federation") for event in events)
            unsigned[form] = {event["event_id"]: comparable(event["unsigned"]) for event in events}
        assert unsigned["federation"] == unsigned["client"]
        told = unsigned["federation"]
        assert told[root]["membership"] == ("join" if reader is alice else "leave")
        assert told[root].get("transaction_id") == ("mine" if reader is alice else None)
        assert told[root]["m.relations"]["m.thread"]["count"] == 1
        assert told[redacted]["redacted_because"]["content"]["reason"] == "because"
        assert {"name": "one"} in [each.get("prev_content") for each in told.values()]


def comparable(unsigned: Any) -> Any:
    """Without what passes with time, and the room's id, which only the other form has in the events that are quoted."""
    if not isinstance(unsigned, dict):
        return unsigned
    return {key: comparable(value) for key, value in unsigned.items() if key not in ("age", "room_id")}


def test_state_beside_a_timeline_says_what_the_reader_was_and_why_it_is_redacted(alice: Any, bob: Any) -> None:
    room = alice.create_room(preset="public_chat")
    redacted = alice.set_state(room, "m.room.topic", {"topic": "bad"})
    alice.redact(room, redacted, "because")
    bob.join(room)
    later = alice.set_state(room, "m.room.name", {"name": "later"})
    alice.send(room, "enough to keep the state out of the timeline")
    required = {"lists": {"l": {"ranges": [[0, 9]], "timeline_limit": 1, "required_state": [["*", "*"]]}}}
    few = {"room": {"timeline": {"limit": 1}}}
    sliding = bob.post("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", required)
    places = [
        bob.get("/rooms/{}/state", at=[room]),
        bob.sync(filter=few)["rooms"]["join"][room]["state"]["events"],
        bob.sync(filter=few, full_state=True, use_state_after=True)["rooms"]["join"][room]["state_after"]["events"],
        sliding["rooms"][room]["required_state"],
    ]
    for events in places:
        told = {event["event_id"]: event["unsigned"] for event in events}
        assert (told[redacted]["membership"], told[later]["membership"]) == ("leave", "join")
        assert told[redacted]["redacted_because"]["content"]["reason"] == "because"
    bob.leave(room)
    assert {unsigned["membership"] for unsigned in left_state(bob, room)} == {"leave", "join"}


def left_state(client: Any, room: str) -> list[Any]:
    answer = client.sync(since=None, filter={"room": {"include_leave": True, "timeline": {"limit": 1}}})
    return [event["unsigned"] for event in answer["rooms"]["leave"][room]["state"]["events"]]
