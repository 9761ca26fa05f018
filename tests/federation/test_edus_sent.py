"""What other servers are told beside events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select

from federation.edus.presence import GATHER_MS, LOOK_MS, REPEAT_MS, PresenceSender
from homeserver.folds.room_servers import RemoteMembers
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.presence.presence import Presence
from homeserver.runtime.background import Background
from homeserver.runtime.clock import ManualClock
from homeserver.runtime.serial import Serial
from homeserver.store.memberships import MembershipRow
from homeserver.store.tables.log import log
from homeserver.store.tables.outbound import outbound_backlogs
from tests.e2ee.key_maker import V3, Device, SigningKeys
from tests.federation.outbox import PEER, Outbox
from tests.kit.reactor import run_in_reactor

OTHER = "other.example"
BOB = f"@bob:{PEER}"
PASSWORD = "password of the tests"


@pytest.fixture
def outbox_config() -> dict[str, Any]:
    return {"presence": {"enabled": True}}


def types(outbox: Outbox, typing: bool) -> None:
    body = {"typing": True, "timeout": 30_000} if typing else {"typing": False}
    outbox.alice.put("/rooms/{}/typing/{}", body, at=(outbox.room_id, outbox.alice.user_id))


# -- typing, receipts, presence ------------------------------------------------------------------------------------------


def test_typing_is_told_to_the_room_s_servers(outbox: Outbox) -> None:
    outbox.make_room([OTHER])
    types(outbox, True)
    outbox.peers.wait_for(lambda: outbox.peers.contents("m.typing"))
    types(outbox, False)
    outbox.peers.wait_for(lambda: len(outbox.peers.contents("m.typing")) == 2)
    said = {"room_id": outbox.room_id, "user_id": outbox.alice.user_id}
    assert outbox.peers.contents("m.typing") == [{**said, "typing": True}, {**said, "typing": False}]
    assert outbox.peers.contents("m.typing", OTHER) == []


def test_typing_is_not_for_servers_that_are_away(outbox: Outbox) -> None:
    outbox.peers.away.add(PEER)
    outbox.say("one")
    outbox.peers.wait_for(lambda: PEER in outbox.peers.backing_off)
    types(outbox, True)
    outbox.wake()
    outbox.expect(["one"])
    outbox.say("two")
    outbox.expect(["one", "two"])
    assert outbox.peers.contents("m.typing") == []


def test_typing_waits_for_a_server_that_is_asked_again_before_long(outbox: Outbox, monkeypatch: Any) -> None:
    monkeypatch.setattr("federation.outbound.sender.FIRST_RETRY_MS", 10)
    refused: list[Any] = []

    def refuse(body: dict[str, Any]) -> int | None:
        refused.append(body["edus"])
        return 502 if len(refused) < 3 else None

    outbox.peers.refusing[PEER] = refuse
    types(outbox, True)
    outbox.peers.wait_for(lambda: outbox.peers.contents("m.typing"))
    assert refused[0] == refused[2]


def test_public_receipts_are_told_and_private_ones_are_not(outbox: Outbox) -> None:
    first, second = (outbox.alice.send(outbox.room_id, text) for text in ("one", "two"))
    outbox.alice.post("/rooms/{}/receipt/m.read.private/{}", at=(outbox.room_id, second))
    outbox.alice.post("/rooms/{}/receipt/m.read/{}", at=(outbox.room_id, first))
    outbox.alice.post("/rooms/{}/receipt/m.read/{}", {"thread_id": "main"}, at=(outbox.room_id, second))
    outbox.peers.wait_for(lambda: sum(map(len, outbox.peers.contents("m.receipt"))) == 2)
    receipts = [
        content[outbox.room_id]["m.read"][outbox.alice.user_id] for content in outbox.peers.contents("m.receipt")
    ]
    assert [receipt["event_ids"] for receipt in receipts] == [[first], [second]]
    assert [receipt["data"].get("thread_id") for receipt in receipts] == [None, "main"]
    assert all(set(content[outbox.room_id]) == {"m.read"} for content in outbox.peers.contents("m.receipt"))


def test_receipts_wait_for_a_server_that_is_away(outbox: Outbox) -> None:
    event_id = outbox.alice.send(outbox.room_id, "one")
    outbox.expect(["one"])
    outbox.peers.away.add(PEER)
    outbox.alice.post("/rooms/{}/receipt/m.read/{}", at=(outbox.room_id, event_id))
    outbox.peers.wait_for(lambda: PEER in outbox.peers.backing_off)
    outbox.wake()
    outbox.peers.wait_for(lambda: outbox.peers.contents("m.receipt"))


def test_presence_is_told_to_servers_one_shares_a_room_with(outbox: Outbox) -> None:
    body = {"presence": "online", "status_msg": "here"}
    outbox.alice.put("/presence/{}/status", body, at=[outbox.alice.user_id])
    outbox.peers.wait_for(lambda: outbox.peers.contents("m.presence"))
    (told,) = outbox.peers.contents("m.presence")[-1]["push"]
    assert (told["user_id"], told["presence"], told["status_msg"]) == (outbox.alice.user_id, "online", "here")
    assert told["last_active_ago"] >= 0
    outbox.join(UserId(f"@carol:{OTHER}"))
    outbox.peers.wait_for(lambda: outbox.peers.contents("m.presence", OTHER))


def test_who_stays_present_is_told_of_again() -> None:
    alice, room_id, clock = UserId("@alice:test.example"), RoomId("!room:test.example"), ManualClock()
    presence = Presence("test.example", clock, Serial(clock))  # type: ignore[arg-type]
    told: list[str] = []

    class Known:
        """One room, with a user of another server."""

        async def load_many(self, keys: Any) -> Any:
            if room_id in keys:
                return {room_id: RemoteMembers(None, {PEER: {UserId(BOB)}})}
            return {
                key: {room_id: MembershipRow(alice, room_id, "join", EventId("$x"), alice, 1, False)} for key in keys
            }

        def send_ephemeral(self, servers: Any, key: Any, edu: Any, lifetime_ms: int, *, is_urgent: bool) -> None:
            assert servers == {PEER}
            told.append(edu["content"]["push"][0]["presence"])

    known: Any = Known()
    sender = PresenceSender("test.example", clock, presence, known, known, known, known, Background())  # type: ignore[arg-type]
    presence.follow(sender.on_presence)
    presence.begin_sync(alice, "PHONE", "online")
    clock.advance(GATHER_MS)
    assert told == ["online"]
    for _ in range(REPEAT_MS // LOOK_MS + 2):
        clock.advance(LOOK_MS)
    assert told[1:] and set(told[1:]) <= {"online", "unavailable"}
    presence.end_sync(alice, "PHONE", "online")
    for _ in range(4 * REPEAT_MS // LOOK_MS):
        clock.advance(LOOK_MS)
    assert told[-1] == "offline" and told.count("offline") == 1
    sender.stop()


# -- to-device -----------------------------------------------------------------------------------------------------------


def send_to_bob(outbox: Outbox, txn_id: str, n: int) -> None:
    body = {"messages": {BOB: {"PHONE": {"n": n}}}}
    outbox.alice.put("/sendToDevice/{}/{}", body, at=("m.test", txn_id))


def numbers_told(outbox: Outbox) -> list[int]:
    contents = outbox.peers.contents("m.direct_to_device")
    return [content["messages"][BOB]["PHONE"]["n"] for content in contents]


def test_messages_to_devices_go_once_for_each_transaction(outbox: Outbox) -> None:
    for txn_id, n in (("1", 1), ("1", 1), ("2", 2)):
        send_to_bob(outbox, txn_id, n)
    outbox.peers.wait_for(lambda: len(numbers_told(outbox)) == 2)
    outbox.say("end")
    outbox.expect(["end"])
    assert numbers_told(outbox) == [1, 2]
    first, second = outbox.peers.contents("m.direct_to_device")
    assert (first["sender"], first["type"]) == (outbox.alice.user_id, "m.test")
    assert first["message_id"] != second["message_id"]


def test_many_messages_to_devices_go_in_parts(outbox: Outbox) -> None:
    filler = "x" * 20_000
    sent = {f"@user{n}:{PEER}": {f"D{n}": {"n": n, "filler": filler}, "*": {"filler": filler}} for n in range(10)}
    other = {f"@bob:{OTHER}": {"PHONE": {"n": 1}}}
    outbox.alice.put("/sendToDevice/{}/{}", {"messages": {**sent, **other}}, at=("m.test", "1"))
    outbox.say("end")
    outbox.expect(["end"])
    outbox.peers.wait_for(lambda: outbox.peers.contents("m.direct_to_device", OTHER))
    parts = outbox.peers.contents("m.direct_to_device")
    assert [len(json.dumps(part)) < 70_000 for part in parts] == [True] * 7
    assert len({part["message_id"] for part in parts}) == len(parts)
    told = [(user, device) for part in parts for user, devices in part["messages"].items() for device in devices]
    assert told == [(user, device) for user, devices in sent.items() for device in devices]
    assert outbox.peers.contents("m.direct_to_device", OTHER)[0]["messages"] == other


def test_a_message_to_devices_is_bounded(outbox: Outbox) -> None:
    body = {"messages": {BOB: {"PHONE": {"n": 1}, "LAPTOP": {"filler": "x" * 70_000}}}}
    error = outbox.alice.put("/sendToDevice/{}/{}", body, at=("m.test", "1"), expect=413)
    assert error["errcode"] == "M_TOO_LARGE"
    send_to_bob(outbox, "1", 2)
    outbox.peers.wait_for(lambda: numbers_told(outbox) == [2])


def test_each_message_to_devices_outlasts_outages_and_crashes_in_order(outbox: Outbox) -> None:
    outbox.peers.away.add(PEER)
    for n in range(150):
        send_to_bob(outbox, str(n), n)
    outbox.peers.wait_for(lambda: PEER in outbox.peers.backing_off)
    outbox.flush()
    send_to_bob(outbox, "unsaved", 150)
    outbox.crash()
    outbox.peers.away.clear()
    outbox.peers.backing_off.clear()
    outbox.start()
    outbox.peers.wait_for(lambda: len(set(numbers_told(outbox))) == 151)
    # What was not saved before the crash may come ahead of the backlog, and once more with it; the rest is in order.
    assert list(dict.fromkeys(n for n in numbers_told(outbox) if n != 150)) == list(range(150))
    assert all(len(body["edus"]) <= 100 for _, body in outbox.peers.transactions[PEER])


def message_rows(outbox: Outbox) -> tuple[int, list[int]]:
    """How many messages wait for servers, and the numbers in those that the log still holds."""

    def load(conn: Any) -> tuple[int, list[int]]:
        waiting = conn.execute(select(outbound_backlogs).where(outbound_backlogs.c.kind == "edu")).all()
        rows = conn.execute(select(log.c.data).where(log.c.kind == "edu").order_by(log.c.position)).scalars()
        held = [json.loads(row) for row in rows]
        return len(waiting), [row["content"]["messages"][BOB]["PHONE"]["n"] for row in held if row]

    outbox.flush()
    return run_in_reactor(outbox.server.running.services.core.database.read, load)


def test_messages_for_a_server_that_is_gone_are_bounded(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    upkeep = outbox.outbound.upkeep
    monkeypatch.setattr("federation.outbound.upkeep.ROWS_AT_ONCE", 4)
    outbox.peers.away.add(PEER)
    for n in range(30):
        send_to_bob(outbox, str(n), n)
    outbox.peers.wait_for(lambda: PEER in outbox.peers.backing_off)
    run_in_reactor(upkeep.run)
    assert message_rows(outbox) == (30, list(range(30)))
    monkeypatch.setattr("federation.outbound.upkeep.MAX_MESSAGES", 20)
    run_in_reactor(upkeep.run)
    assert message_rows(outbox) == (20, list(range(10, 30)))
    monkeypatch.setattr("federation.outbound.upkeep.MAX_AGE_MS", -60_000)
    run_in_reactor(upkeep.run)
    assert message_rows(outbox) == (0, [])
    send_to_bob(outbox, "30", 30)
    outbox.wake()
    outbox.peers.wait_for(lambda: numbers_told(outbox) == [30])


def test_message_that_is_delivered_is_not_kept(outbox: Outbox) -> None:
    """Whether it went at once, or waited in a backlog."""
    send_to_bob(outbox, "at once", 0)
    outbox.peers.wait_for(lambda: numbers_told(outbox) == [0])
    outbox.peers.away.add(PEER)
    for n in range(1, 4):
        send_to_bob(outbox, str(n), n)
    outbox.peers.wait_for(lambda: PEER in outbox.peers.backing_off)
    outbox.flush()
    run_in_reactor(outbox.outbound.upkeep.run)
    assert message_rows(outbox) == (3, [1, 2, 3])
    outbox.wake()
    outbox.peers.wait_for(lambda: numbers_told(outbox) == [0, 1, 2, 3])
    outbox.say("end")
    outbox.expect(["end"])
    assert message_rows(outbox) == (0, [])


# -- devices and keys ----------------------------------------------------------------------------------------------------


def upload(client: Any) -> Device:
    device = Device(client.user_id, client.device_id)
    client.post(f"{V3}/keys/upload", {"device_keys": device.keys()})
    return device


def login(outbox: Outbox) -> Any:
    client = outbox.server.client()
    client.login("alice", PASSWORD)
    return client


def device_updates(outbox: Outbox, count: int, server: str = PEER) -> list[dict[str, Any]]:
    outbox.peers.wait_for(lambda: len(outbox.peers.contents("m.device_list_update", server)) >= count)
    updates = outbox.peers.contents("m.device_list_update", server)
    assert len(updates) == count
    return updates


def test_changes_of_devices_are_a_chain(outbox: Outbox) -> None:
    device = upload(outbox.alice)
    second = login(outbox)
    upload(second)
    outbox.alice.put("/devices/{}", {"display_name": "renamed"}, at=[second.device_id])
    device_updates(outbox, 3)
    second.logout()
    new, other, renamed, gone = device_updates(outbox, 4)
    assert new["keys"] == device.keys() and new["prev_id"] == []
    assert (other["device_id"], renamed["device_id"], gone["device_id"]) == (second.device_id,) * 3
    assert [each["prev_id"] for each in (other, renamed, gone)] == [
        [each["stream_id"]] for each in (new, other, renamed)
    ]
    assert renamed["device_display_name"] == "renamed" and "unsigned" not in renamed["keys"]
    assert gone["deleted"] is True and "keys" not in gone


def test_many_devices_at_once_make_the_other_server_ask(outbox: Outbox) -> None:
    for client in [login(outbox) for _ in range(6)]:
        upload(client)
    before = device_updates(outbox, 6)
    outbox.alice.post("/logout/all")
    updates = device_updates(outbox, 9)[6:]
    assert {tuple(update["prev_id"]) for update in updates} == {()}
    assert all(update["stream_id"] > before[-1]["stream_id"] for update in updates)


def test_signing_keys_are_told(outbox: Outbox) -> None:
    keys = SigningKeys(outbox.alice.user_id).upload()
    outbox.alice.post(f"{V3}/keys/device_signing/upload", keys)
    outbox.peers.wait_for(lambda: outbox.peers.contents("m.signing_key_update"))
    (content,) = outbox.peers.contents("m.signing_key_update")
    assert content == {
        "user_id": outbox.alice.user_id,
        "master_key": keys["master_key"],
        "self_signing_key": keys["self_signing_key"],
    }


def test_a_signature_on_the_master_key_is_told_with_it(outbox: Outbox) -> None:
    alice, device, signing = outbox.alice, upload(outbox.alice), SigningKeys(outbox.alice.user_id)
    keys = signing.upload()
    alice.post(f"{V3}/keys/device_signing/upload", keys)
    signed = device.sign(keys["master_key"])
    target = signing.master.verify_key.to_base64()
    alice.post(f"{V3}/keys/signatures/upload", {alice.user_id: {target: signed}})
    outbox.peers.wait_for(lambda: len(outbox.peers.contents("m.signing_key_update")) == 2)
    assert outbox.peers.contents("m.signing_key_update")[1]["master_key"] == signed
    device_updates(outbox, 1)


def test_after_an_outage_the_newest_update_is_enough(outbox: Outbox) -> None:
    upload(outbox.alice)
    (known,) = device_updates(outbox, 1)
    outbox.peers.away.add(PEER)
    for name in ("one", "two", "three"):
        outbox.alice.put("/devices/{}", {"display_name": name}, at=[outbox.alice.device_id])
    outbox.peers.wait_for(lambda: PEER in outbox.peers.backing_off)
    outbox.stop()
    outbox.crash()
    outbox.peers.away.clear()
    outbox.peers.backing_off.clear()
    outbox.start()
    update = device_updates(outbox, 2)[1]
    assert update["device_display_name"] == "three"
    assert update["prev_id"] != [known["stream_id"]]  # so the peer sees that it missed something


def test_after_an_outage_signing_keys_do_not_hide_a_new_device(outbox: Outbox) -> None:
    upload(outbox.alice)
    (known,) = device_updates(outbox, 1)
    outbox.peers.away.add(PEER)
    second = login(outbox)
    keys = SigningKeys(outbox.alice.user_id).upload()
    device = upload(second)
    outbox.alice.post(f"{V3}/keys/device_signing/upload", keys)
    outbox.peers.wait_for(lambda: PEER in outbox.peers.backing_off)
    outbox.stop()
    outbox.crash()
    outbox.peers.away.clear()
    outbox.peers.backing_off.clear()
    outbox.start()
    outbox.peers.wait_for(lambda: outbox.peers.contents("m.signing_key_update"))
    update = device_updates(outbox, 2)[1]
    assert (update["device_id"], update["keys"]) == (second.device_id, device.keys())
    assert update["prev_id"] == [known["stream_id"]]
    assert [each["master_key"] for each in outbox.peers.contents("m.signing_key_update")] == [keys["master_key"]]


def test_who_comes_into_a_room_is_introduced_to_its_new_servers(outbox: Outbox) -> None:
    carol = outbox.server.register("carol")
    upload(carol)
    carol.join(outbox.room_id)
    (update,) = device_updates(outbox, 1)
    assert (update["user_id"], update["device_id"], update["prev_id"]) == (carol.user_id, carol.device_id, [])
    second = outbox.make_room([PEER, OTHER])
    carol.join(second)
    device_updates(outbox, 1, OTHER)
    carol.put("/profile/{}/displayname", {"displayname": "Carol"}, at=[carol.user_id])
    outbox.say("end", room_id=second)
    outbox.expect(["end"], OTHER)
    device_updates(outbox, 1)
    device_updates(outbox, 1, OTHER)


def test_deactivated_user_s_devices_are_gone(outbox: Outbox) -> None:
    upload(outbox.alice)
    device_updates(outbox, 1)
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD}
    outbox.alice.post("/account/deactivate", {"auth": auth})
    assert device_updates(outbox, 2)[1]["deleted"] is True


def test_devices_concern_nobody_who_shares_no_room(outbox: Outbox) -> None:
    upload(outbox.server.register("hermit"))
    outbox.say("end")
    outbox.expect(["end"])
    assert outbox.peers.edus() == []
