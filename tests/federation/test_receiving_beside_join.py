"""Events that other servers made beside the join by which this server came into the room."""

from __future__ import annotations

from typing import Any

import pytest

from tests.federation.resident import PeerRoom
from tests.kit.client import bodies, timeline
from tests.kit.waiting import until, until_synced

V1 = "/_matrix/federation/v1"


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


def old_prev(old: Any) -> list[Any]:
    return list(old.prev_events)


def history(room: PeerRoom) -> Any:
    """All that there is, whatever is asked for."""
    return {"events": [event.json for event in room.events.values()]}
