"""What other servers tell beside events, and what they may not."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import UserId
from tests.e2ee.key_maker import V3, Device
from tests.federation.outbox import PEER, Outbox

OTHER = "other.example"
BOB = f"@bob:{PEER}"
MALLORY = f"@mallory:{OTHER}"


@pytest.fixture
def outbox_config() -> dict[str, Any]:
    return {"presence": {"enabled": True}}


def ephemeral(outbox: Outbox, type_: str) -> Any:
    """The newest content of the room's ephemeral events of a type."""
    room = outbox.alice.sync(since=None)["rooms"]["join"][outbox.room_id]
    return next((event["content"] for event in room["ephemeral"]["events"] if event["type"] == type_), None)


def test_typing_of_users_elsewhere_is_shown(outbox: Outbox) -> None:
    said = {"room_id": outbox.room_id, "user_id": BOB}
    outbox.receive("m.typing", {**said, "typing": True})
    assert ephemeral(outbox, "m.typing") == {"user_ids": [BOB]}
    outbox.receive("m.typing", {**said, "typing": False})
    assert not (ephemeral(outbox, "m.typing") or {}).get("user_ids")


def test_typing_is_passed_over_unless_the_user_is_the_origin_s_and_in_the_room(outbox: Outbox) -> None:
    said = {"room_id": outbox.room_id, "user_id": BOB, "typing": True}
    outbox.receive("m.typing", said, OTHER)
    outbox.receive("m.typing", {**said, "user_id": MALLORY}, OTHER)
    for wrong in (
        {"room_id": "!none:peer.example"},
        {"room_id": 7},
        {"user_id": None},
        {"user_id": "bob"},
        {"typing": 1},
    ):
        outbox.receive("m.typing", {**said, **wrong})
    outbox.receive("m.typing", {})
    assert ephemeral(outbox, "m.typing") is None


@pytest.mark.parametrize("localpart", ["bøb", ""])
def test_of_impossible_users_clients_are_told_by_events_only(outbox: Outbox, localpart: str) -> None:
    odd = UserId(f"@{localpart}:{PEER}")
    outbox.join(odd)
    event_id = outbox.alice.send(outbox.room_id, "one")
    outbox.receive("m.typing", {"room_id": outbox.room_id, "user_id": odd, "typing": True})
    outbox.receive("m.receipt", {outbox.room_id: receipt(event_id, odd)})
    outbox.receive("m.presence", {"push": [{"user_id": odd, "presence": "online", "last_active_ago": 5}]})
    assert ephemeral(outbox, "m.typing") is None
    assert ephemeral(outbox, "m.receipt") is None
    assert odd not in {event["sender"] for event in outbox.alice.sync(since=None)["presence"]["events"]}
    outbox.alice.set_state(outbox.room_id, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    outbox.alice.sync()
    update = {"user_id": odd, "device_id": "PHONE", "stream_id": 5, "prev_id": []}
    outbox.receive("m.device_list_update", update)
    assert outbox.alice.sync().get("device_lists", {}).get("changed", []) == []


def receipt(event_id: str, user_id: str = BOB, **about: Any) -> dict[str, Any]:
    return {"m.read": {user_id: {"event_ids": [event_id], "data": {"ts": 1_234, **about}}}}


def test_receipts_of_users_elsewhere_are_shown(outbox: Outbox) -> None:
    first, second, third = (outbox.alice.send(outbox.room_id, text) for text in ("one", "two", "three"))
    outbox.receive("m.receipt", {outbox.room_id: receipt(second)})
    assert ephemeral(outbox, "m.receipt") == {second: {"m.read": {BOB: {"ts": 1_234}}}}
    outbox.receive("m.receipt", {outbox.room_id: receipt(first)})
    assert ephemeral(outbox, "m.receipt") == {second: {"m.read": {BOB: {"ts": 1_234}}}}
    outbox.receive("m.receipt", {outbox.room_id: receipt(third, thread_id="main")})
    shown = ephemeral(outbox, "m.receipt")[third]["m.read"][BOB]
    assert shown == {"ts": 1_234, "thread_id": "main"}


def test_receipts_are_passed_over_unless_the_user_is_the_origin_s_and_in_the_room(outbox: Outbox) -> None:
    event_id = outbox.alice.send(outbox.room_id, "one")
    outbox.receive("m.receipt", {outbox.room_id: receipt(event_id)}, OTHER)
    outbox.receive("m.receipt", {outbox.room_id: receipt(event_id, MALLORY)}, OTHER)
    outbox.receive("m.receipt", {outbox.room_id: receipt(event_id, thread_id=7)})
    outbox.receive("m.receipt", {outbox.room_id: {"m.read.private": receipt(event_id)["m.read"]}})
    for malformed in ([], {"m.read": []}, {"m.read": {BOB: 7}}, {"m.read": {BOB: {"event_ids": "x"}}}):
        outbox.receive("m.receipt", {outbox.room_id: malformed, "!none:peer.example": receipt(event_id)})
    outbox.receive("m.receipt", {outbox.room_id: {"m.read": {BOB: {"event_ids": [7, {}], "data": {"ts": "x"}}}}})
    assert ephemeral(outbox, "m.receipt") is None


def test_presence_of_users_elsewhere_is_shown(outbox: Outbox) -> None:
    update = {"user_id": BOB, "presence": "online", "last_active_ago": 50, "status_msg": "hi", "currently_active": True}
    outbox.receive("m.presence", {"push": [update]})
    shown = outbox.alice.get("/presence/{}/status", at=[BOB])
    assert (shown["presence"], shown["status_msg"], shown["currently_active"]) == ("online", "hi", True)
    events = outbox.alice.sync(since=None)["presence"]["events"]
    assert BOB in {event["sender"] for event in events}


def test_presence_is_passed_over_unless_the_user_is_the_origin_s_and_known(outbox: Outbox) -> None:
    good = {"user_id": BOB, "presence": "online", "last_active_ago": 5}
    outbox.receive("m.presence", {"push": [good, {"user_id": MALLORY, "presence": "online"}]}, OTHER)
    outbox.receive("m.presence", {"push": [7, {}, {**good, "presence": "dancing"}, {**good, "status_msg": 7}]})
    with pytest.raises(MatrixError):
        outbox.receive("m.presence", {"push": {}})
    presence = outbox.server.running.services.sync.presence
    assert {presence.get(user).presence for user in (BOB, MALLORY)} == {"offline"}
    assert MALLORY not in presence._users


def test_devices_of_users_elsewhere_change_for_clients(outbox: Outbox) -> None:
    outbox.alice.set_state(outbox.room_id, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    outbox.alice.sync()
    update = {"user_id": BOB, "device_id": "PHONE", "stream_id": 5, "prev_id": [], "keys": Device(BOB, "PHONE").keys()}
    outbox.receive("m.device_list_update", update, OTHER)
    assert outbox.alice.sync().get("device_lists", {}).get("changed", []) == []
    outbox.receive("m.device_list_update", update)
    assert outbox.alice.sync()["device_lists"]["changed"] == [BOB]


def test_signing_keys_of_strangers_are_not_kept(outbox: Outbox) -> None:
    key = {"user_id": MALLORY, "usage": ["master"], "keys": {"ed25519:abc": "abc"}}
    outbox.receive("m.signing_key_update", {"user_id": MALLORY, "master_key": key}, OTHER)
    found = outbox.alice.post(f"{V3}/keys/query", {"device_keys": {MALLORY: []}})
    assert MALLORY not in found.get("master_keys", {})


def test_messages_to_devices_come_once(outbox: Outbox) -> None:
    alice = outbox.alice
    content = {
        "sender": BOB,
        "type": "m.test",
        "message_id": "1",
        "messages": {alice.user_id: {alice.device_id: {"n": 1}}},
    }
    for origin in (PEER, PEER, OTHER):
        outbox.receive("m.direct_to_device", content, origin)
    assert alice.sync(since=None)["to_device"]["events"] == [{"type": "m.test", "sender": BOB, "content": {"n": 1}}]
