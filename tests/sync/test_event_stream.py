"""GET /events, over HTTP: no event is passed over. Spec: client-server-api#get_matrixclientv3events"""

from __future__ import annotations

from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest

from homeserver.matrix.ids import RoomId
from homeserver.rooms.writer import Draft
from tests.kit.client import bodies
from tests.kit.reactor import run_in_reactor

LATER_MS = 60_000


@pytest.fixture
def room(alice: Any, bob: Any) -> str:
    """Alice's room, which bob has joined."""
    room_id: str = alice.create_room(preset="public_chat")
    bob.join(room_id)
    return room_id


def events(client: Any, since: str | None, timeout_ms: int = 0, **query: Any) -> Any:
    return client.get("/events", query={"from": since, "timeout": timeout_ms, **query})


def pages(client: Any, since: str, **query: Any) -> Iterator[Any]:
    """Until nothing is left."""
    while True:
        page = events(client, since, **query)
        assert page["start"] == since
        if page["end"] == since:
            return
        yield page
        since = page["end"]


def texts(client: Any, since: str, **query: Any) -> list[str]:
    return bodies(event for page in pages(client, since, **query) for event in page["chunk"])


def types(page: Any) -> list[str]:
    return [event["type"] for event in page["chunk"]]


def in_background(call: Any) -> Any:
    """Begins the call; what is given waits for its answer."""
    answers: list[Any] = []
    thread = Thread(target=lambda: answers.append(call()))
    thread.start()

    def wait() -> Any:
        thread.join()
        return answers[0]

    return wait


def until_waiting(hearth: Any) -> None:
    while not run_in_reactor(hearth.running.services.sync.notifier.count_waiting):
        pass


def write_many(hearth: Any, client: Any, room: str, count: int) -> list[str]:
    """Messages that are sent faster than a client could."""
    writer = hearth.running.services.core.writer
    drafts = [Draft("m.room.message", client.user_id, {"msgtype": "m.text", "body": f"{n}"}) for n in range(count)]
    run_in_reactor(lambda: writer.write(RoomId(room), lambda head: drafts))
    return [f"{n}" for n in range(count)]


def test_who_was_away_long_gets_every_event_in_pages(hearth: Any, alice: Any, bob: Any) -> None:
    one, two = alice.create_room(preset="public_chat"), alice.create_room(preset="public_chat")
    bob.join(one)
    bob.join(two)
    since = bob.get("/initialSync")["end"]
    sent = write_many(hearth, alice, one, 230)
    alice.send(two, "in another room")
    got = list(pages(bob, since))
    assert [len(page["chunk"]) for page in got] == [100, 100, 31]
    assert texts(bob, since) == [*sent, "in another room"]
    ids = [event["event_id"] for page in got for event in page["chunk"] if "event_id" in event]
    assert len(ids) == len(set(ids)) == 231


def test_a_restart_changes_nothing_about_the_pages(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    since = bob.get("/initialSync")["end"]
    sent = write_many(hearth, alice, room, 130)
    first = events(bob, since)
    hearth.restart()
    alice.base_url = bob.base_url = hearth.url
    alice.send(room, "after the restart")
    assert bodies(first["chunk"]) + texts(bob, first["end"]) == [*sent, "after the restart"]


def test_a_long_log_is_read_in_stretches(
    hearth: Any, alice: Any, bob: Any, room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.sync.event_stream.STRETCH", 3)
    since = bob.get("/initialSync")["end"]
    write_many(hearth, alice, alice.create_room(), 20)
    sent = write_many(hearth, alice, room, 8)
    hearth.restart()
    bob.base_url = hearth.url
    assert texts(bob, since) == sent


def test_what_happened_while_the_user_was_there_is_told_and_nothing_else(alice: Any, bob: Any, room: str) -> None:
    since = bob.get("/initialSync")["end"]
    alice.send(room, "before")
    bob.leave(room)
    alice.send(room, "meanwhile")
    bob.join(room)
    alice.send(room, "after")
    alice.kick(room, bob.user_id)
    alice.send(room, "too late")
    chunk = [event for page in pages(bob, since) for event in page["chunk"]]
    assert bodies(chunk) == ["before", "after"]
    own = [event["content"]["membership"] for event in chunk if event.get("state_key") == bob.user_id]
    assert own == ["leave", "join", "leave"]


def test_events_say_what_the_reader_was_and_bear_the_transaction_id(alice: Any, bob: Any, room: str) -> None:
    since = bob.get("/initialSync")["end"]
    bob.send(room, "mine", txn_id="txn")
    bob.leave(room)
    told = [event["unsigned"] for event in events(bob, since)["chunk"] if "unsigned" in event]
    assert [unsigned["membership"] for unsigned in told] == ["join", "leave"]
    assert told[0]["transaction_id"] == "txn"


def test_invitations_and_their_end_are_told(alice: Any, bob: Any) -> None:
    since = bob.get("/initialSync")["end"]
    room = alice.create_room()
    alice.invite(room, bob.user_id)
    page = events(bob, since)
    told = [(event["room_id"], event["content"]["membership"]) for event in page["chunk"]]
    assert told == [(room, "invite")]
    assert page["chunk"][0]["unsigned"]["membership"] == "invite"
    alice.kick(room, bob.user_id)
    later = events(bob, page["end"])
    assert [event["content"]["membership"] for event in later["chunk"]] == ["leave"]


def test_presence_typing_and_receipts_are_told(start_local: Any) -> None:
    hearth = start_local({"presence": {"enabled": True}})
    alice, bob, carol = (hearth.register(name) for name in ("alice", "bob", "carol"))
    room, other = alice.create_room(preset="public_chat"), carol.create_room(preset="public_chat")
    bob.join(room)
    bob.join(other)
    event_id = alice.send(room, "hello")
    since = bob.get("/initialSync")["end"]
    alice.put("/presence/{}/status", {"presence": "unavailable", "status_msg": "away"}, at=[alice.user_id])
    alice.put("/rooms/{}/typing/{}", {"typing": True, "timeout": 30_000}, at=(room, alice.user_id))
    alice.post("/rooms/{}/receipt/m.read/{}", {}, at=(room, event_id))
    assert "m.presence" not in types(events(bob, since, room_id=other))
    assert "m.presence" in types(events(bob, since, room_id=room))
    page = events(bob, since)
    told = {event["type"]: event for event in page["chunk"]}
    assert told.keys() == {"m.presence", "m.typing", "m.receipt"}
    assert told["m.presence"]["sender"] == alice.user_id
    assert told["m.presence"]["content"]["status_msg"] == "away"
    assert (told["m.typing"]["room_id"], told["m.receipt"]["room_id"]) == (room, room)
    assert events(bob, page["end"])["chunk"] == []


def test_the_answer_waits_for_an_event_and_not_for_what_is_none(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    since = bob.get("/initialSync")["end"]
    answer = in_background(lambda: events(bob, since, LATER_MS))
    until_waiting(hearth)
    bob.another_device().put("/user/{}/account_data/com.example", {"a": 1}, at=[bob.user_id])
    alice.send(room, "hello")
    assert bodies(answer()["chunk"]) == ["hello"]


def test_events_of_one_room_leave_out_the_others(alice: Any) -> None:
    one, two = alice.create_room(), alice.create_room()
    since = alice.get("/initialSync")["end"]
    alice.send(one, "x")
    alice.send(two, "y")
    assert texts(alice, since, room_id=two) == ["y"]


@pytest.fixture
def shown(alice: Any) -> str:
    """A room that anybody may look into."""
    visibility = {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}
    room_id: str = alice.create_room(preset="public_chat", initial_state=[visibility])
    return room_id


def test_a_world_readable_room_is_followed_from_outside(hearth: Any, alice: Any, bob: Any, shown: str) -> None:
    """Spec: client-server-api#room-previews"""
    end = bob.get("/rooms/{}/initialSync", at=[shown])["messages"]["end"]
    answer = in_background(lambda: events(bob, end, LATER_MS, room_id=shown))
    until_waiting(hearth)
    alice.send(shown, "hello")
    page = answer()
    assert bodies(page["chunk"]) == ["hello"]
    assert page["chunk"][0]["unsigned"]["membership"] == "leave"
    sent = write_many(hearth, alice, shown, 120)
    assert texts(bob, page["end"], room_id=shown) == sent
    assert run_in_reactor(hearth.running.services.sync.notifier.count_waiting) == 0


def test_what_is_hidden_from_outside_is_not_told(hearth: Any, alice: Any, bob: Any, shown: str) -> None:
    guest = hearth.client()
    guest.register_guest()
    end = guest.get("/rooms/{}/initialSync", at=[shown])["messages"]["end"]
    alice.send(shown, "open")
    alice.set_state(shown, "m.room.history_visibility", {"history_visibility": "joined"})
    alice.send(shown, "hidden")
    guest.get("/events", query={"from": end, "room_id": shown}, expect=403)
    alice.set_state(shown, "m.room.history_visibility", {"history_visibility": "world_readable"})
    alice.send(shown, "open again")
    assert texts(guest, end, room_id=shown) == ["open", "open again"]
    private = alice.create_room()
    guest.get("/events", query={"room_id": private}, expect=403)
    guest.get("/events", query={"from": "nonsense"}, expect=400)
