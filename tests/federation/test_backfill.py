"""History from before this server knew a room, fetched when somebody reads back so far."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.federation.resident import MEMBER, V1, PeerRoom
from tests.federation.test_receiving_faults import Fault
from tests.kit.client import Client, bodies
from tests.kit.federation import Answer
from tests.kit.reactor import run_in_reactor


def join(client: Client, room: PeerRoom) -> None:
    client.post("/join/{}", {}, at=[room.room_id], query={"via": [room.peer.server_name]})


def read_back(client: Client, room: PeerRoom, limit: int = 50, from_: str | None = None) -> list[dict[str, Any]]:
    """Everything from a token on, or from now, to the beginning."""
    found: list[dict[str, Any]] = []
    for _ in range(100):
        query = {"limit": limit, **({"from_": from_} if from_ else {})}
        page = client.messages(room.room_id, **query)
        found += page["chunk"]
        if "end" not in page:
            return found
        from_ = page["end"]
    raise AssertionError("the history has no end")


def refusal(client: Client, room: PeerRoom, from_: str) -> Any:
    """Why there is no page now, though it is not the end."""
    return client.get("/rooms/{}/messages", at=[room.room_id], query={"dir": "b", "from": from_}, expect=502)


@pytest.mark.parametrize("version", ["1", "6", "10", "11", "12"])
def test_all_history_is_read_back_in_order(start_federated: Any, start_peer: Any, version: str) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer, version).serve()
    for number in range(250):
        room.say(f"message {number}")
    join(alice, room)
    events = read_back(alice, room)
    assert [event["event_id"] for event in events] == list(reversed(room.events))
    assert events[-1]["type"] == "m.room.create"
    asked = len(peer.received(f"{V1}/backfill/"))
    assert [event["event_id"] for event in read_back(alice, room)] == [event["event_id"] for event in events]
    assert len(peer.received(f"{V1}/backfill/")) == asked


def test_history_before_the_first_sync_is_reached_by_its_token(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    room.say("before")
    join(alice, room)
    token = alice.sync()["rooms"]["join"][room.room_id]["timeline"]["prev_batch"]
    assert bodies(read_back(alice, room, from_=token)) == ["before"]


def test_history_is_fetched_once_for_all_who_read(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    for number in range(30):
        room.say(f"message {number}")
    join(alice, room)
    peer.answer("GET", f"{V1}/backfill/", lambda received: Answer(room.on_backfill(received), delay_s=0.5))
    readers = [alice.another_device() for _ in range(5)]
    with ThreadPoolExecutor() as threads:
        pages = list(threads.map(lambda reader: reader.messages(room.room_id, limit=5)["chunk"], readers))
    newest = list(reversed(room.events))[:5]
    assert [[event["event_id"] for event in page] for page in pages] == [newest] * 5
    assert len(peer.received(f"{V1}/backfill/")) == 1


def test_state_before_messages_is_asked_of_nobody(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    for number in range(10):
        room.say(f"old {number}")
    room.send("m.room.topic", {"topic": "news"}, "")
    for number in range(250):
        room.say(f"new {number}")
    join(alice, room)
    alice.get("/rooms/{}/joined_members", at=[room.room_id])  # waits for the whole state
    asked = len(peer.received(f"{V1}/state_ids/"))
    page = alice.messages(room.room_id, limit=100)
    assert len(alice.messages(room.room_id, limit=100, from_=page["end"])["chunk"]) == 100
    assert len(peer.received(f"{V1}/backfill/")) == 2
    assert len(peer.received(f"{V1}/state_ids/")) == asked
    events = read_back(alice, room)
    assert [event["event_id"] for event in events] == list(reversed(room.events))
    old = next(event for event in events if event["content"].get("body") == "old 9")
    context = alice.get("/rooms/{}/context/{}", at=[room.room_id, old["event_id"]], query={"limit": 0})
    assert "m.room.topic" not in {event["type"] for event in context["state"]}


def test_slow_server_holds_up_no_reader_for_long(start_federated: Any, start_peer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("federation.backfill.BUDGET_MS", 300)
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    room.say("before")
    join(alice, room)
    peer.answer("GET", f"{V1}/backfill/", Answer({"pdus": []}, delay_s=30))
    page = alice.messages(room.room_id)
    assert [event["type"] for event in page["chunk"]] == [MEMBER]
    assert refusal(alice, room, page["end"])["errcode"] == "M_UNKNOWN"


@pytest.mark.parametrize(
    "answer",
    [
        Answer({"errcode": "M_FORBIDDEN", "error": "no"}, 403),
        {"pdus": []},
        {"pdus": "all"},
        {"pdus": [{"type": "m.room.message"}, 7]},
        [1],
    ],
)
def test_server_without_history_is_left_alone_for_a_while(start_federated: Any, start_peer: Any, answer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    room.say("before")
    join(alice, room)
    peer.answer("GET", f"{V1}/backfill/", answer)
    assert [event["type"] for event in read_back(alice, room)] == [MEMBER]
    assert [event["type"] for event in read_back(alice, room)] == [MEMBER]
    assert len(peer.received(f"{V1}/backfill/")) == 1


@pytest.mark.parametrize("answer", [Answer(b"{"), Answer({"errcode": "M_UNKNOWN", "error": "not now"}, 503)])
def test_history_is_no_shorter_for_an_outage(
    start_federated: Any, start_peer: Any, monkeypatch: Any, answer: Any
) -> None:
    monkeypatch.setattr("federation.backfill.UNREACHED_MS", 0)
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    room.say("before")
    join(alice, room)
    peer.answer("GET", f"{V1}/backfill/", answer)
    page = alice.messages(room.room_id)
    assert [event["type"] for event in page["chunk"]] == [MEMBER]
    assert refusal(alice, room, page["end"])["errcode"] == "M_UNKNOWN"
    assert alice.get("/rooms/{}/context/{}", at=(room.room_id, page["chunk"][0]["event_id"]))["events_before"] == []
    room.serve()
    run_in_reactor(lambda: hearth.federation.destinations.note_alive(peer.server_name))
    assert bodies(read_back(alice, room, from_=page["end"])) == ["before"]


def test_history_is_no_shorter_for_a_database_that_fails(
    start_federated: Any, start_peer: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("federation.backfill.UNREACHED_MS", 0)
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    room.say("before")
    join(alice, room)
    fault = Fault(monkeypatch, "write_batch")
    page = alice.messages(room.room_id)
    assert refusal(alice, room, page["end"])["errcode"] == "M_UNKNOWN"
    fault.mend()
    assert bodies(read_back(alice, room, from_=page["end"])) == ["before"]


def test_forged_history_is_left_out(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    room.say("true")
    stranger = room.user("stranger")
    forged = room.build("m.room.message", {"body": "forged", "msgtype": "m.text"}, None, stranger, prev=list(room.tips))
    room.add(forged)
    room.say("last")
    join(alice, room)
    assert bodies(read_back(alice, room)) == ["last", "true"]


def test_events_that_were_not_asked_for_are_left_out(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    room.say("before")
    fork = list(room.tips)
    join(alice, room)
    other = room.build("m.room.message", {"body": "elsewhere", "msgtype": "m.text"}, None, room.creator, prev=fork)

    def with_more(received: Any) -> Any:
        answer = room.on_backfill(received)
        return {**answer, "pdus": [other.json, *answer["pdus"]]}

    peer.answer("GET", f"{V1}/backfill/", with_more)
    assert bodies(read_back(alice, room)) == ["before"]


def test_context_of_the_first_event_has_what_was_before(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    room.say("before")
    join(alice, room)
    joined = room.state[(MEMBER, alice.user_id)]
    context = alice.get("/rooms/{}/context/{}", at=[room.room_id, joined], query={"limit": 4})
    assert bodies(context["events_before"]) == ["before"]


@pytest.mark.parametrize("direction", ["b", "f"])
def test_moment_before_the_join_is_found(start_federated: Any, start_peer: Any, direction: str) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    said = [room.say(f"message {number}") for number in range(150)]
    join(alice, room)
    wanted = said[20]
    query = {"ts": wanted.origin_server_ts, "dir": direction}
    found = alice.get("/_matrix/client/v1/rooms/{}/timestamp_to_event", at=[room.room_id], query=query)
    assert found == {"event_id": wanted.event_id, "origin_server_ts": wanted.origin_server_ts}
    context = alice.get("/rooms/{}/context/{}", at=[room.room_id, wanted.event_id], query={"limit": 2})
    assert bodies(context["events_before"] + context["events_after"]) == ["message 19", "message 21"]


def test_hidden_history_stays_hidden(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    room.say("for all")
    room.send("m.room.history_visibility", {"history_visibility": "joined"}, "")
    room.say("for members")
    join(alice, room)
    assert bodies(read_back(alice, room)) == ["for all"]


def test_what_was_missed_between_two_stays_is_read_where_it_belongs(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    room.say("first")
    join(alice, room)
    assert bodies(read_back(alice, room)) == ["first"]
    alice.leave(room.room_id)
    room.send(MEMBER, {"membership": "leave"}, alice.user_id)
    for number in range(3):
        room.say(f"missed {number}")
    join(alice, room)
    assert bodies(read_back(alice, room)) == ["missed 2", "missed 1", "missed 0", "first"]


def test_what_was_missed_is_not_put_before_an_older_gap(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    room.say("first")
    join(alice, room)
    alice.send(room.room_id, "of the first stay")
    alice.leave(room.room_id)
    room.send(MEMBER, {"membership": "leave"}, alice.user_id)
    elsewhere = alice.create_room()
    for _ in range(10):
        alice.send(elsewhere, "time goes by")
    for number in range(3):
        room.say(f"missed {number}")
    join(alice, room)
    assert bodies(read_back(alice, room)) == ["missed 2", "missed 1", "missed 0", "of the first stay", "first"]


def get_event(client: Client, room: PeerRoom, event_id: str, **about: Any) -> Any:
    return client.get("/rooms/{}/event/{}", at=[room.room_id, event_id], **about)


def test_event_of_the_past_is_fetched_when_it_is_asked_for(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    said = [room.say(f"message {number}").event_id for number in range(150)]
    join(alice, room)
    assert get_event(alice, room, said[20])["content"]["body"] == "message 20"
    context = alice.get("/rooms/{}/context/{}", at=[room.room_id, said[10]], query={"limit": 4})
    assert context["event"]["event_id"] == said[10]
    assert bodies(context["events_before"]) == ["message 9", "message 8"]
    assert bodies(context["events_after"]) == ["message 11", "message 12"]


def test_event_that_nobody_has_is_not_found_and_asked_for_once(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    room.say("before")
    join(alice, room)
    for _ in range(3):
        get_event(alice, room, "$" + "a" * 43, expect=404)
    alice.get("/rooms/{}/context/{}", at=[room.room_id, "$" + "a" * 43], expect=404)
    assert len(peer.received(f"{V1}/event/")) == 1
    assert peer.received(f"{V1}/backfill/") == []


def test_event_of_another_room_or_with_a_wrong_signature_is_not_taken(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    said = room.say("before")
    other = PeerRoom.create(peer, "12").say("elsewhere")
    join(alice, room)
    peer.answer("GET", f"{V1}/event/", {"pdus": [other.json]})
    get_event(alice, room, other.event_id, expect=404)
    peer.answer("GET", f"{V1}/event/", {"pdus": [{**said.json, "signatures": {}}]})
    get_event(alice, room, said.event_id, expect=404)
    assert peer.received(f"{V1}/backfill/") == []


def test_event_that_the_user_may_not_see_stays_hidden(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    room.send("m.room.history_visibility", {"history_visibility": "joined"}, "")
    secret = room.say("secret")
    join(alice, room)
    get_event(alice, room, secret.event_id, expect=404)


def test_room_without_a_gap_asks_nobody(start_federated: Any) -> None:
    alice = start_federated().register("alice")
    room_id = alice.create_room()
    alice.get("/rooms/{}/event/{}", at=[room_id, "$" + "a" * 43], expect=404)
