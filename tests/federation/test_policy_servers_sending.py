"""What users here send in rooms with a policy server: it is asked first, and what it refuses is not sent."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from homeserver.matrix.ids import UserId
from tests.federation.peer_room import V1, PeerRoom, message
from tests.federation.quiet import Log, log
from tests.federation.test_policy_servers import KEY, OTHER_KEY, SIGN, recommend, use_policy_server
from tests.kit.client import Client, Unexpected
from tests.kit.federation import Answer, Received

__all__ = ["log"]


@pytest.fixture
def room(start_federated: Any, start_peer: Any) -> PeerRoom:
    """The peer is its policy server, and recommends all that it is asked for."""
    room = PeerRoom.open(start_federated(), start_peer(), initial_state=[])
    use_policy_server(room)
    recommend(room)
    return room


def asked(room: PeerRoom) -> list[tuple[str, str | None]]:
    """Types and state keys of the events for which it was asked."""
    return [(each.json["type"], each.json.get("state_key")) for each in room.peer.received(SIGN)]


def signatures(room: PeerRoom, event_id: str) -> dict[str, Any]:
    answer = room.peer.get(room.hearth, f"{V1}/event/{event_id}").json()
    found: dict[str, Any] = answer["pdus"][0]["signatures"]
    return found


def send(room: PeerRoom, text: str, txn_id: str, **about: Any) -> Any:
    return room.alice.put("/rooms/{}/send/m.room.message/{}", message(text), at=[room.room_id, txn_id], **about)


def test_event_is_signed_before_it_is_sent(room: PeerRoom) -> None:
    event_id = send(room, "good", "1")["event_id"]
    assert room.sees(event_id)
    assert asked(room) == [("m.room.message", None)]
    found = signatures(room, event_id)
    assert set(found) == {room.hearth.server_name, room.peer.server_name}
    assert set(found[room.peer.server_name]) == {KEY.key_id}
    assert send(room, "good", "1")["event_id"] == event_id
    assert len(asked(room)) == 1


def test_every_kind_of_event_but_the_policy_itself_is_asked_for(room: PeerRoom) -> None:
    alice, room_id = room.alice, room.room_id
    carol = room.hearth.register("carol")
    said = alice.send(room_id, "hello")
    alice.set_state(room_id, "m.room.topic", {"topic": "Policies"})
    alice.set_state(room_id, "m.room.policy", {"via": "x"}, "not empty")
    alice.put("/rooms/{}/redact/{}/{}", {}, at=[room_id, said, "r1"])
    carol.join(room_id)
    alice.kick(room_id, carol.user_id)
    alice.set_state(room_id, "m.room.policy", {})
    alice.send(room_id, "free")
    assert asked(room) == [
        ("m.room.message", None),
        ("m.room.topic", ""),
        ("m.room.policy", "not empty"),
        ("m.room.redaction", None),
        ("m.room.member", carol.user_id),
        ("m.room.member", carol.user_id),
    ]


def test_refusal_is_told_as_it_is_and_nothing_enters_the_room(room: PeerRoom, log: Log) -> None:
    before = room.head().extremities
    room.peer.answer("POST", SIGN, {"errcode": "M_FORBIDDEN", "error": "This looks like spam"}, status=400)
    error = send(room, "spam", "1", expect=400)
    assert error == {"errcode": "M_FORBIDDEN", "error": "This looks like spam"}
    room.alice.set_state(room.room_id, "m.room.topic", {"topic": "spam"}, expect=400)
    assert room.head().extremities == before
    recommend(room)
    assert room.sees(send(room, "spam", "1")["event_id"])
    assert log.faults() == []


def test_limit_is_told_with_its_time(room: PeerRoom) -> None:
    limited = {"errcode": "M_LIMIT_EXCEEDED", "error": "Slowly", "retry_after_ms": 1234}
    room.peer.answer("POST", SIGN, limited, status=429)
    assert send(room, "fast", "1", expect=429) == limited


@pytest.mark.parametrize(
    "answer",
    [
        Answer({"errcode": "M_UNKNOWN_TOKEN", "error": "x"}, 401),
        Answer({"errcode": "M_MISSING_TOKEN", "error": "x"}, 403),
        Answer({"errcode": "M_UNRECOGNIZED", "error": "x"}, 404),
        Answer(b"<html>", 500),
    ],
    ids=["token", "missing token", "no policy server", "error"],
)
def test_other_errors_are_not_taken_for_the_clients(room: PeerRoom, log: Log, answer: Answer) -> None:
    room.peer.answer("POST", SIGN, answer)
    assert send(room, "x", "1", expect=502)["errcode"] == "M_UNKNOWN"
    assert log.faults() == []


@pytest.mark.parametrize("answer", [{}, [], {"localhost:1": {KEY.key_id: "A" * 86}}], ids=["empty", "list", "another"])
def test_event_without_a_signature_is_refused(room: PeerRoom, answer: Any) -> None:
    room.peer.answer("POST", SIGN, answer)
    assert send(room, "x", "1", expect=403)["errcode"] == "M_FORBIDDEN"
    recommend(room, OTHER_KEY)
    assert send(room, "x", "2", expect=403)["errcode"] == "M_FORBIDDEN"


def test_nothing_is_sent_while_it_is_down(room: PeerRoom) -> None:
    room.peer.answer_raw("POST", SIGN, lambda handler: None)
    send(room, "x", "1", expect="M_UNKNOWN")
    assert next(event["type"] for event in room.alice.messages(room.room_id)["chunk"]) == "m.room.policy"


@pytest.mark.parametrize(
    "answer",
    [
        Answer({"errcode": "M_FORBIDDEN", "error": "Stay"}, 400),
        Answer({"errcode": "M_LIMIT_EXCEEDED", "error": "Slowly"}, 429),
        Answer(b"<html>", 500),
        Answer({}),
        None,
    ],
    ids=["refused", "limited", "broken", "unsigned", "down"],
)
def test_nobody_is_kept_in_the_room(room: PeerRoom, log: Log, answer: Answer | None) -> None:
    """Only what else the leave says is lost."""
    room_id, leaving = room.room_id, [room.hearth.register(name) for name in ("carol", "dave", "erin")]
    for user in leaving[:2]:
        user.join(room_id)
    room.alice.invite(room_id, leaving[2].user_id)
    if answer is None:
        room.peer.answer_raw("POST", SIGN, lambda handler: None)
    else:
        room.peer.answer("POST", SIGN, answer)
    carol, dave, erin = leaving
    carol.post("/rooms/{}/leave", {"reason": "Buy cheap pills"}, at=[room_id])
    dave.set_state(room_id, "m.room.member", {"membership": "leave", "reason": "Pills"}, dave.user_id)
    erin.leave(room_id)
    head = room.head()
    for user in leaving:
        assert head.membership(UserId(user.user_id)) == "leave"
        found = room.peer.get(room.hearth, f"{V1}/event/{head.state['m.room.member', user.user_id]}").json()
        assert found["pdus"][0]["content"] == {"membership": "leave"}
    with pytest.raises(Unexpected):
        room.alice.kick(room_id, room.bob)
    assert room.head().membership(room.bob) == "join"
    assert log.faults() == []


def test_leave_that_is_recommended_keeps_its_reason(room: PeerRoom) -> None:
    carol = room.hearth.register("carol")
    carol.join(room.room_id)
    carol.post("/rooms/{}/leave", {"reason": "Too late for me"}, at=[room.room_id])
    event_id = room.head().state["m.room.member", carol.user_id]
    answer = room.peer.get(room.hearth, f"{V1}/event/{event_id}").json()["pdus"][0]
    assert answer["content"]["reason"] == "Too late for me"
    assert KEY.key_id in answer["signatures"][room.peer.server_name]


def test_events_of_both_sides_at_once_all_enter(room: PeerRoom) -> None:
    """The room moves on while it is asked."""
    sent = threading.Event()

    def sign(received: Received) -> Any:
        if not sent.is_set():
            sent.set()
            room.send(*[room.build("m.room.message", message(f"bob {n}"), key=room.peer.key) for n in range(3)])
        return reply(received)

    recommend(room)
    reply = room.peer._rules[0][2]
    room.peer.answer("POST", SIGN, sign)
    room.catch_up()
    with ThreadPoolExecutor(8) as pool:
        event_ids = list(pool.map(lambda n: send(room, f"alice {n}", str(n))["event_id"], range(16)))
    room.wait_until_idle()
    texts = [event["content"].get("body") for event in room.alice.messages(room.room_id, limit=100)["chunk"]]
    assert sorted(texts.count(f"alice {n}") for n in range(16)) == [1] * 16
    assert all(texts.count(f"bob {n}") == 1 for n in range(3))
    for event_id in event_ids:
        assert KEY.key_id in signatures(room, event_id)[room.peer.server_name]


def test_join_of_another_servers_user_is_asked_for_too(room: PeerRoom) -> None:
    dora = UserId(f"@dora:{room.peer.server_name}")
    join = room.build("m.room.member", {"membership": "join"}, sender=dora, state_key=dora)
    path = f"/_matrix/federation/v2/send_join/{room.room_id}/{join.event_id}"
    room.peer.answer("POST", SIGN, {"errcode": "M_FORBIDDEN", "error": "Not you"}, status=400)
    refused = room.peer.put(room.hearth, path, join.json)
    assert (refused.status_code, refused.json()["error"]) == (400, "Not you")
    assert room.head().membership(dora) is None
    recommend(room)
    assert room.peer.put(room.hearth, path, join.json).status_code == 200
    assert room.head().membership(dora) == "join"


def test_room_without_a_policy_server_asks_nobody(start_federated: Any, start_peer: Any) -> None:
    room = PeerRoom.open(start_federated(), start_peer())
    use_policy_server(room, via="elsewhere.example")
    recommend(room)
    alice: Client = room.alice
    assert room.sees(alice.send(room.room_id, "hello"))
    assert asked(room) == []
