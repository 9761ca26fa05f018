"""Events that other servers made beside the join by which this server came into the room."""

from __future__ import annotations

from typing import Any

import pytest

from tests.federation.resident import PeerRoom
from tests.kit.client import bodies, timeline
from tests.kit.federation import Answer
from tests.kit.waiting import until, until_synced

V1 = "/_matrix/federation/v1"
V2 = "/_matrix/federation/v2"


@pytest.mark.parametrize("version", ["1", "11", "12"])
def test_event_beside_the_join_is_taken_in_and_history_is_no_news(
    start_federated: Any, start_peer: Any, version: str
) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer, version).serve()
    asked: list[Any] = []
    peer.answer("POST", f"{V1}/get_missing_events/", lambda received: asked.append(received.json) or history(room))
    old = room.say("long ago")
    alice.post("/join/{}", {}, at=[room.room_id], query={"via": peer.server_name})
    join_depth = max(event.depth for event in room.events.values())
    alice.sync()
    older = room.build(
        "m.room.message", {"msgtype": "m.text", "body": "never sent"}, None, room.creator, prev=old_prev(old)
    )
    room.add(older)
    beside = room.send("m.room.message", {"msgtype": "m.text", "body": "beside"}, prev=[old.event_id, older.event_id])
    body = {"origin": peer.server_name, "origin_server_ts": room.ts_ms, "pdus": [beside.json], "edus": []}
    assert peer.put(hearth, f"{V1}/send/1", body).json()["pdus"][beside.event_id] == {}
    texts = until_synced(alice, lambda sync: bodies(timeline(sync, room.room_id)))
    assert texts == ["beside"]
    assert [each["min_depth"] for each in asked] == [join_depth]
    until(alice, lambda: alice.get("/rooms/{}/event/{}", at=(room.room_id, beside.event_id)))


def test_event_that_comes_before_the_answer_to_the_join_is_taken_in_after_it(
    start_federated: Any, start_peer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The checks wait for the join, and the join for the answer.
    monkeypatch.setattr("federation.inbound.room_parts.CHECKS_MOMENT_MS", 300)
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    answers: list[Any] = []

    def let_in(received: Any) -> Any:
        answer = room.on_send_join(received)
        answers.append(say(room, hearth, "welcome"))
        return answer

    peer.answer("PUT", f"{V2}/send_join/", let_in)
    alice.sync()
    alice.post("/join/{}", {}, at=[room.room_id], query={"via": peer.server_name})
    texts: list[str] = []
    until_synced(alice, lambda sync: texts.extend(bodies(timeline(sync, room.room_id))) or "welcome" in texts)
    # It could not be judged yet, and the answer did not wait for the join.
    assert answers == [{"pdus": {}}]


def test_event_that_comes_beside_a_join_that_is_refused_is_dropped(
    start_federated: Any, start_peer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The checks wait for the join, and the join for the answer.
    monkeypatch.setattr("federation.inbound.room_parts.CHECKS_MOMENT_MS", 300)
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer).serve()
    answers: list[Any] = []

    def refuse(_received: Any) -> Any:
        answers.append(say(room, hearth, "to nobody there"))
        return Answer({"errcode": "M_FORBIDDEN", "error": "No"}, 403)

    peer.answer("PUT", f"{V2}/send_join/", refuse)
    alice.post("/join/{}", {}, at=[room.room_id], query={"via": peer.server_name}, expect=403)
    assert answers == [{"pdus": {}}]
    assert alice.get("/joined_rooms")["joined_rooms"] == []
    # What comes now is answered at once.
    assert list(say(room, hearth, "still nobody")["pdus"].values()) == []


def say(room: PeerRoom, hearth: Any, body: str) -> Any:
    """In a transaction of its own; the answer."""
    pdu = room.say(body)
    sent = {"origin": room.peer.server_name, "origin_server_ts": room.ts_ms, "pdus": [pdu.json], "edus": []}
    return room.peer.put(hearth, f"{V1}/send/{pdu.depth}", sent).json()


def old_prev(old: Any) -> list[Any]:
    return list(old.prev_events)


def history(room: PeerRoom) -> Any:
    """All that there is, whatever is asked for."""
    return {"events": [event.json for event in room.events.values()]}
