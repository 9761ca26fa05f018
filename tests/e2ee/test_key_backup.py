"""Key backups and dehydrated devices."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import text

from homeserver.e2ee import key_backups
from homeserver.matrix.ids import UserId
from tests.e2ee.key_maker import V3, Device, one_time_keys
from tests.kit.client import Client
from tests.kit.reactor import run_in_reactor

VERSION = f"{V3}/room_keys/version"
KEYS = f"{V3}/room_keys/keys"
ROOM, SESSION = "!room:test.example", "session+/1"
AUTH_DATA = {"public_key": "abc", "signatures": {}}
DEHYDRATED = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"


def create(client: Client) -> str:
    body = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": AUTH_DATA}
    version: str = client.post(VERSION, body)["version"]
    return version


def session(index: int = 0, forwarded: int = 0, verified: bool = False, data: str = "x") -> dict[str, Any]:
    return {
        "first_message_index": index,
        "forwarded_count": forwarded,
        "is_verified": verified,
        "session_data": {"ciphertext": data, "ephemeral": "e", "mac": "m"},
    }


def put(client: Client, version: str, value: Any, **about: Any) -> Any:
    return client.put(KEYS + "/{}/{}", value, at=(ROOM, SESSION), query={"version": version}, **about)


def get(client: Client, version: str, **about: Any) -> Any:
    return client.get(KEYS + "/{}/{}", at=(ROOM, SESSION), query={"version": version}, **about)


def test_a_backup_is_made_filled_restored_and_deleted(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    assert alice.get(VERSION, expect=404)["errcode"] == "M_NOT_FOUND"
    version = create(alice)
    empty = alice.get(VERSION)
    assert (empty["version"], empty["count"], empty["auth_data"]) == (version, 0, AUTH_DATA)
    rooms = {ROOM: {"sessions": {SESSION: session(), "other": session(3)}}, "!b:x": {"sessions": {"s": session(1)}}}
    saved = alice.put(KEYS, {"rooms": rooms}, query={"version": version})
    assert saved["count"] == 3
    assert saved["etag"] != empty["etag"]
    assert alice.get(KEYS, query={"version": version}) == {"rooms": rooms}
    assert alice.get(KEYS + "/{}", at=(ROOM,), query={"version": version}) == rooms[ROOM]
    assert get(alice, version) == session()
    assert bob.get(KEYS, query={"version": version}, expect=404)["errcode"] == "M_NOT_FOUND"
    deleted = alice.delete(KEYS + "/{}/{}", at=(ROOM, "other"), query={"version": version})
    assert deleted["count"] == 2
    assert deleted["etag"] != saved["etag"]
    assert alice.delete(KEYS, query={"version": version})["count"] == 0
    assert alice.get(KEYS, query={"version": version}) == {"rooms": {}}
    assert alice.get(KEYS + "/{}", at=(ROOM,), query={"version": version}) == {"sessions": {}}
    assert get(alice, version, expect=404)["errcode"] == "M_NOT_FOUND"
    alice.delete(f"{VERSION}/{version}")
    alice.get(f"{VERSION}/{version}", expect=404)
    alice.delete(f"{VERSION}/{version}", expect=404)
    assert create(alice) != version


@pytest.mark.parametrize("count", [2, 3, 4, 6, 7])
def test_a_large_backup_is_restored_in_parts(hearth: Any, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(key_backups, "PAGE_SESSIONS", 3)
    alice = hearth.register("alice")
    version = create(alice)
    rooms = {
        f"!{room}:x": {"sessions": {f'{n}"': session(n) for n in range(number)}}
        for room, number in (("a", count), ("b", 1), ("c", 3), ("d", 2))
    }
    alice.put(KEYS, {"rooms": rooms}, query={"version": version})
    assert alice.get(KEYS, query={"version": version}) == {"rooms": rooms}
    alice.put(KEYS, {"rooms": {"!a:x": rooms["!a:x"]}}, query={"version": create(alice)})
    newest = alice.get(VERSION)["version"]
    assert alice.get(KEYS, query={"version": newest}) == {"rooms": {"!a:x": rooms["!a:x"]}}


@pytest.mark.parametrize("count", [2, 3, 4, 6, 7])
def test_the_keys_of_one_large_room_are_restored_in_parts(
    hearth: Any, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(key_backups, "PAGE_SESSIONS", 3)
    alice = hearth.register("alice")
    version = create(alice)
    room = {"sessions": {f'{n}"': session(n) for n in range(count)}}
    rooms = {"!a:x": {"sessions": {"before": session()}}, ROOM: room, "!z:x": {"sessions": {"after": session()}}}
    alice.put(KEYS, {"rooms": rooms}, query={"version": version})
    assert alice.get(KEYS + "/{}", at=(ROOM,), query={"version": version}) == room
    response = alice.send_raw("GET", f"{KEYS}/{quote(ROOM)}", query={"version": version})
    assert response.json() == room
    assert response.headers["Content-Type"] == "application/json"
    assert ("Content-Length" in response.headers) is (count < 3)


def test_the_keys_of_one_room_are_put_and_deleted_together(hearth: Any) -> None:
    alice = hearth.register("alice")
    version = create(alice)
    assert alice.get(f"{VERSION}/{version}")["count"] == 0
    for room in (ROOM, "!b:x"):
        sessions = {SESSION: session(), "other": session(3)}
        saved = alice.put(KEYS + "/{}", {"sessions": sessions}, at=(room,), query={"version": version})
    assert saved["count"] == 4
    assert alice.delete(KEYS + "/{}", at=(ROOM,), query={"version": version})["count"] == 2
    assert alice.get(KEYS, query={"version": version}) == {"rooms": {"!b:x": {"sessions": sessions}}}
    assert alice.get(f"{VERSION}/{version}")["count"] == 2


def test_only_a_better_session_replaces_another(hearth: Any) -> None:
    alice = hearth.register("alice")
    version = create(alice)
    kept = session(5, 2, data="kept")
    etag = put(alice, version, kept)["etag"]
    for worse in (session(6), session(5, 2, data="same"), session(5, 3)):
        assert put(alice, version, worse)["etag"] == etag
        assert get(alice, version) == kept
    for better in (session(5, 1), session(4, 9), session(9, 9, verified=True)):
        put(alice, version, better)
        assert get(alice, version) == better
    assert put(alice, version, session(0, 0))["count"] == 1
    assert get(alice, version) == session(9, 9, verified=True)


def test_keys_go_to_the_newest_version_only(hearth: Any) -> None:
    alice = hearth.register("alice")
    old, new = create(alice), create(alice)
    error = put(alice, old, session(), expect=403)
    assert (error["errcode"], error["current_version"]) == ("M_WRONG_ROOM_KEYS_VERSION", new)
    assert put(alice, "99", session(), expect=404)["errcode"] == "M_NOT_FOUND"
    assert put(alice, "x", session(), expect=404)["errcode"] == "M_NOT_FOUND"


def test_backups_that_are_made_at_once_are_versions_of_their_own(hearth: Any) -> None:
    alice = hearth.register("alice")
    with ThreadPoolExecutor(8) as threads:
        made = [*threads.map(create, [alice.another_device() for _ in range(24)])]
    assert sorted(map(int, made)) == [*range(1, 25)]
    assert alice.get(VERSION)["version"] == "24"


def test_auth_data_is_replaced_and_the_algorithm_is_not(hearth: Any) -> None:
    alice = hearth.register("alice")
    version = create(alice)
    algorithm = "m.megolm_backup.v1.curve25519-aes-sha2"
    alice.put(f"{VERSION}/{version}", {"algorithm": algorithm, "auth_data": {"n": 2}, "version": version})
    assert alice.get(VERSION)["auth_data"] == {"n": 2}
    wrong = {"algorithm": "other", "auth_data": {}}
    assert alice.put(f"{VERSION}/{version}", wrong, expect=400)["errcode"] == "M_INVALID_PARAM"
    other = {"algorithm": algorithm, "auth_data": {}, "version": "77"}
    assert alice.put(f"{VERSION}/{version}", other, expect=400)["errcode"] == "M_INVALID_PARAM"


def test_auth_data_of_a_version_that_is_deleted_meanwhile_is_not_kept(
    hearth: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = hearth.register("alice")
    version = create(alice)
    load_version = key_backups.KeyBackups.load_version

    async def load_and_delete(backups: Any, user_id: UserId, of: str | None) -> Any:
        found = await load_version(backups, user_id, of)
        await backups.delete(user_id, version)
        return found

    monkeypatch.setattr(key_backups.KeyBackups, "load_version", load_and_delete)
    body = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"n": 2}}
    assert alice.put(f"{VERSION}/{version}", body, expect=404)["errcode"] == "M_NOT_FOUND"
    database = hearth.running.services.core.database
    kept = run_in_reactor(database.read, lambda conn: conn.execute(text("SELECT auth_data FROM key_backups")).all())
    assert [bytes(row[0]) for row in kept] == [b"{}"]


def test_malformed_sessions_name_the_field(hearth: Any) -> None:
    alice = hearth.register("alice")
    version = create(alice)
    for change, named in (
        ({"first_message_index": "0"}, "first_message_index"),
        ({"forwarded_count": -1}, "forwarded_count"),
        ({"is_verified": 1}, "is_verified"),
        ({"session_data": "x"}, "session_data"),
    ):
        error = put(alice, version, {**session(), **change}, expect=400)
        assert error["errcode"] == "M_INVALID_PARAM"
        assert named in error["error"]
    assert put(alice, version, session(data="x" * 70_000), expect=413)["errcode"] == "M_TOO_LARGE"


def test_a_dehydrated_device_collects_keys(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    alice.get(DEHYDRATED, expect=404)
    device = Device(alice.user_id, "DEHYDRATED")
    data = {"algorithm": "m.dehydration.v2", "device_pickle": "x"}
    body = {
        "device_id": "DEHYDRATED",
        "device_data": data,
        "initial_device_display_name": "In the box",
        "device_keys": device.keys(dehydrated=True),
        "one_time_keys": one_time_keys("a"),
    }
    alice.put(DEHYDRATED, body)
    assert alice.get(DEHYDRATED) == {"device_id": "DEHYDRATED", "device_data": data}
    found = bob.post(f"{V3}/keys/query", {"device_keys": {alice.user_id: []}})["device_keys"][alice.user_id]
    assert found["DEHYDRATED"]["dehydrated"] is True
    bob.put("/sendToDevice/m.room.encrypted/1", {"messages": {alice.user_id: {"DEHYDRATED": {"n": 1}}}})
    events = alice.post(f"{DEHYDRATED}/DEHYDRATED/events")
    assert [event["content"] for event in events["events"]] == [{"n": 1}]
    assert alice.post(f"{DEHYDRATED}/DEHYDRATED/events", {"next_batch": "d999999"}) == events  # not told by this log
    after = alice.post(f"{DEHYDRATED}/DEHYDRATED/events", {"next_batch": events["next_batch"]})
    assert after["events"] == []
    alice.put(DEHYDRATED, {**body, "device_id": "SECOND", "device_keys": Device(alice.user_id, "SECOND").keys()})
    devices = [device["device_id"] for device in alice.get("/devices")["devices"]]
    assert "SECOND" in devices
    assert "DEHYDRATED" not in devices
    assert alice.delete(DEHYDRATED) == {"device_id": "SECOND"}
    alice.get(DEHYDRATED, expect=404)
    taken = {**body, "device_id": alice.device_id, "device_keys": Device(alice.user_id, alice.device_id).keys()}
    assert alice.put(DEHYDRATED, taken, expect=403)["errcode"] == "M_FORBIDDEN"
