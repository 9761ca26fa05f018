"""EDUs that lie about others' users, or hold what no database, log or memory should."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.federation.peer_room import PeerRoom
from tests.federation.quiet import Log, log
from tests.kit.reactor import run_in_reactor

__all__ = ["log"]

LONG = "x" * 70_000
HOSTILE = ["\0", "a\0b", LONG, "", 5, None, [], {}, 10**30, 1.5, True, "@", "!", "$"]


@pytest.fixture
def room(start_federated: Any, start_peer: Any) -> PeerRoom:
    return PeerRoom.open(start_federated(), start_peer())


def edus(room: PeerRoom) -> list[dict[str, Any]]:
    """One of each kind, well-formed."""
    receipt = {"data": {"ts": 1, "thread_id": "main"}, "event_ids": [room.tips[0]]}
    keys = {"user_id": room.bob, "device_id": "D", "algorithms": [], "keys": {"ed25519:D": "k"}, "signatures": {}}
    contents: dict[str, Any] = {
        "m.typing": {"room_id": room.room_id, "user_id": room.bob, "typing": True},
        "m.receipt": {room.room_id: {"m.read": {room.bob: receipt}}},
        "m.presence": {"push": [{"user_id": room.bob, "presence": "online", "last_active_ago": 1, "status_msg": "hi"}]},
        "m.direct_to_device": {
            "sender": room.bob,
            "type": "org.example.x",
            "message_id": "1",
            "messages": {room.alice.user_id: {room.alice.device_id: {"a": "b"}}},
        },
        "m.device_list_update": {
            "user_id": room.bob,
            "device_id": "D",
            "stream_id": 5,
            "prev_id": [4],
            "device_display_name": "name",
            "keys": keys,
            "deleted": False,
        },
        "m.signing_key_update": {
            "user_id": room.bob,
            "master_key": {"user_id": room.bob, "usage": ["master"], "keys": {"ed25519:k": "k"}},
            "self_signing_key": {"user_id": room.bob, "usage": ["self_signing"], "keys": {"ed25519:k": "k"}},
        },
    }
    return [{"edu_type": kind, "content": content} for kind, content in contents.items()]


def spoilt(value: Any, hostile: list[Any]) -> list[Any]:
    """The value with each of its parts, and each of its keys, replaced by each hostile value."""
    found: list[Any] = list(hostile)
    if isinstance(value, dict):
        for key, inner in value.items():
            rest = {other: each for other, each in value.items() if other != key}
            found += [{**rest, key: each} for each in spoilt(inner, hostile)]
            found += [{**rest, name: inner} for name in hostile if isinstance(name, str)]
    elif isinstance(value, list):
        found += [[each] for inner in value for each in spoilt(inner, hostile)]
    return found


@pytest.mark.parametrize("number", range(6))
def test_no_part_of_an_edu_is_trusted(room: PeerRoom, log: Log, number: int) -> None:
    good = edus(room)[number]
    servers = (room.peer.server_name, room.hearth.server_name)
    hostile = [*HOSTILE, *(f"@{name}:{server}" for server in servers for name in ("\0", LONG))]
    bad = [{**good, "content": content} for content in spoilt(good["content"], hostile)]
    batch: list[Any] = []
    for edu in [*bad, None]:
        if edu is None or len(batch) == 50 or len(json.dumps([*batch, edu])) > 8_000_000:
            assert room.send(edus=batch).status_code == 200
            batch = []
        batch += [edu] if edu else []
    answer = room.alice.send_raw("GET", "/_matrix/client/v3/sync")
    assert answer.status_code == 200
    assert len(answer.content) < 300_000
    assert log.faults() == []
    assert all(len(line) < 2_000 for line in log.lines())


def test_receipts_for_events_that_never_come_take_little_memory(room: PeerRoom) -> None:
    def edu(number: int) -> dict[str, Any]:
        receipt = {"data": {"ts": 1, "thread_id": LONG}, "event_ids": [f"${number}{LONG}"]}
        return {"edu_type": "m.receipt", "content": {room.room_id: {"m.read": {room.bob: receipt}}}}

    for first in range(0, 10, 5):
        assert room.send(edus=[edu(first + each) for each in range(4)]).status_code == 200
    early = room.hearth.running.services.outbound.receipts.early
    assert sum(len(event_id) for event_id in run_in_reactor(lambda: list(early._of_event))) < 1_000


def test_nobody_speaks_for_users_of_another_server(room: PeerRoom, start_peer: Any, log: Log) -> None:
    room.alice.get("/sync")
    other = start_peer()
    for edu in edus(room):
        assert other.put(room.hearth, f"/_matrix/federation/v1/send/{edu['edu_type']}", {"edus": [edu]}).ok
    synced = room.alice.get("/sync")
    assert "to_device" not in synced or synced["to_device"]["events"] == []
    ephemeral = synced["rooms"]["join"][room.room_id]["ephemeral"]["events"]
    assert [each for each in ephemeral if room.bob in json.dumps(each)] == []
    assert [each for each in synced.get("presence", {}).get("events", ()) if each["sender"] == room.bob] == []
    assert log.faults() == []
