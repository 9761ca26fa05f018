"""Keys of devices: uploaded, asked for, claimed, changed."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text

from homeserver.e2ee.cross_signing import CrossSigning, KnownKeys, check_keys
from homeserver.matrix.ids import UserId
from homeserver.matrix.signing import sign_json
from homeserver.store.migrations import m0035_key_uploads
from tests.e2ee.key_maker import V3, Device, SigningKeys, fallback_key, one_time_keys
from tests.kit.client import Client
from tests.kit.databases import transaction

UPLOAD = f"{V3}/keys/upload"
COUNT = "device_one_time_keys_count"
KEYS_ONE_BY_ONE = (
    "CREATE TABLE one_time_keys (user_id TEXT, device_id TEXT, algorithm TEXT, key_id TEXT, position BIGINT, place INTEGER, "
    "json BYTEA, claimed BIGINT)"
)
VALUES = "(:user, :device, 'signed_curve25519', :id, 1, :place, :json, :claimed)"
PASSWORD = "password of the tests"


def upload(client: Client, **more: Any) -> Device:
    device = Device(client.user_id, client.device_id)
    client.post(UPLOAD, {"device_keys": device.keys(), **more})
    return device


def claim(client: Client, owner: Client, algorithm: str = "signed_curve25519") -> Any:
    wanted = {"one_time_keys": {owner.user_id: {owner.device_id: algorithm}}}
    keys = client.post(f"{V3}/keys/claim", wanted)["one_time_keys"]
    return keys.get(owner.user_id, {}).get(owner.device_id)


def test_keys_are_uploaded_and_asked_for(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    alice.put(f"/devices/{alice.device_id}", {"display_name": "Phone"})
    device = upload(alice)
    answer = bob.post(f"{V3}/keys/query", {"device_keys": {alice.user_id: []}})
    found = answer["device_keys"][alice.user_id][alice.device_id]
    assert found == {**device.keys(), "unsigned": {"device_display_name": "Phone"}}
    assert answer["failures"] == {}
    named = bob.post(f"{V3}/keys/query", {"device_keys": {alice.user_id: ["OTHER"], bob.user_id: []}})
    assert named["device_keys"] == {alice.user_id: {}, bob.user_id: {}}


def test_one_time_keys_are_handed_out_once_and_in_upload_order(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    first, second = one_time_keys("b", "a"), one_time_keys("0")
    assert alice.post(UPLOAD, {"one_time_keys": first})["one_time_key_counts"] == {"signed_curve25519": 2}
    assert alice.post(UPLOAD, {"one_time_keys": second})["one_time_key_counts"] == {"signed_curve25519": 3}
    given = [claim(bob, alice) for _ in range(4)]
    assert given == [{name: key} for name, key in {**first, **second}.items()] + [None]
    assert alice.post(UPLOAD, {})["one_time_key_counts"] == {"signed_curve25519": 0}


def test_keys_are_counted_in_answers_that_have_nothing_else_to_say(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    alice.post(UPLOAD, {"one_time_keys": one_time_keys("a", "b"), "fallback_keys": fallback_key("f")})
    since = alice.sync()["next_batch"]
    for timeout in (0, 100):
        idle = alice.sync(since=since, timeout=timeout)
        assert idle.keys() >= {"next_batch", COUNT, "device_unused_fallback_key_types"}
        assert "rooms" not in idle
        assert idle[COUNT] == {"signed_curve25519": 2}
        assert idle["device_unused_fallback_key_types"] == ["signed_curve25519"]
    claim(bob, alice)
    after = alice.sync(since=since)
    assert alice.sync(since=after["next_batch"])[COUNT] == after[COUNT] == {"signed_curve25519": 1}


def test_a_fallback_key_is_given_when_all_are_gone(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    fallback = fallback_key("f")
    alice.post(UPLOAD, {"one_time_keys": one_time_keys("a"), "fallback_keys": fallback})
    since = alice.sync()
    assert since["device_unused_fallback_key_types"] == ["signed_curve25519"]
    assert since[COUNT] == {"signed_curve25519": 1}
    assert "signed_curve25519:a" in claim(bob, alice)
    assert claim(bob, alice) == claim(bob, alice) == fallback
    after = alice.sync(since=since["next_batch"])
    assert after["device_unused_fallback_key_types"] == []
    assert after[COUNT] == {"signed_curve25519": 0}
    again = {name: dict(reversed(key.items())) for name, key in fallback.items()}
    alice.post(UPLOAD, {"fallback_keys": again})  # the same key again is used as before
    assert alice.sync()["device_unused_fallback_key_types"] == []
    alice.post(UPLOAD, {"fallback_keys": fallback_key("g")})
    assert alice.sync()["device_unused_fallback_key_types"] == ["signed_curve25519"]


def test_an_id_that_stands_for_another_key_is_refused(hearth: Any) -> None:
    alice = hearth.register("alice")
    keys = one_time_keys("a")
    alice.post(UPLOAD, {"one_time_keys": keys})
    assert alice.post(UPLOAD, {"one_time_keys": keys})["one_time_key_counts"] == {"signed_curve25519": 1}
    error = alice.post(UPLOAD, {"one_time_keys": one_time_keys("a")}, expect=400)
    assert "signed_curve25519:a" in error["error"]


def test_an_upload_that_is_repeated_brings_no_claimed_key_back(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    keys = one_time_keys("a", "b")
    alice.post(UPLOAD, {"one_time_keys": keys})
    assert claim(bob, alice) == {"signed_curve25519:a": keys["signed_curve25519:a"]}
    again = alice.post(UPLOAD, {"one_time_keys": {**keys, **one_time_keys("c")}})  # its answer was lost, so it says
    assert again["one_time_key_counts"] == {"signed_curve25519": 2}
    assert [list(claim(bob, alice) or ()) for _ in range(3)] == [["signed_curve25519:b"], ["signed_curve25519:c"], []]
    assert alice.post(UPLOAD, {"one_time_keys": keys})["one_time_key_counts"] == {"signed_curve25519": 0}
    assert claim(bob, alice) is None


def test_the_id_of_a_claimed_key_may_stand_for_another_key(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    first, second = one_time_keys("a"), one_time_keys("a")
    alice.post(UPLOAD, {"one_time_keys": first})
    assert claim(bob, alice) == first
    assert alice.post(UPLOAD, {"one_time_keys": second})["one_time_key_counts"] == {"signed_curve25519": 1}
    alice.post(UPLOAD, {"one_time_keys": first}, expect=400)
    assert claim(bob, alice) == second
    assert claim(bob, alice) is None


def test_a_claimed_key_signed_anew_is_the_same_key(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    keys, other = one_time_keys("a"), one_time_keys("a")
    alice.post(UPLOAD, {"one_time_keys": keys})
    claim(bob, alice)
    other["signed_curve25519:a"]["key"] = keys["signed_curve25519:a"]["key"]
    alice.post(UPLOAD, {"one_time_keys": other})
    assert claim(bob, alice) is None


def test_of_the_claimed_keys_the_newest_are_remembered(hearth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeserver.store.device_keys.KEPT_CLAIMED", 2)
    alice, bob = hearth.register("alice"), hearth.register("bob")
    keys = one_time_keys("a", "b", "c", "d")
    for name, key in keys.items():
        alice.post(UPLOAD, {"one_time_keys": {name: key}})
        claim(bob, alice)
    assert alice.post(UPLOAD, {"one_time_keys": keys})["one_time_key_counts"] == {"signed_curve25519": 1}
    assert [list(claim(bob, alice) or ()) for _ in range(2)] == [["signed_curve25519:a"], []]


def test_all_keys_of_the_newest_upload_are_remembered(hearth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeserver.store.device_keys.KEPT_CLAIMED", 3)
    monkeypatch.setattr("homeserver.store.device_keys.KEYS_IN_A_ROW", 2)
    alice, bob = hearth.register("alice"), hearth.register("bob")
    keys = one_time_keys("b", "a", "c")
    for brought in (one_time_keys("z"), keys):
        alice.post(UPLOAD, {"one_time_keys": brought})
    assert [next(iter(claim(bob, alice)))[-1] for _ in range(4)] == ["z", "b", "a", "c"]
    assert alice.post(UPLOAD, {"one_time_keys": keys})["one_time_key_counts"] == {"signed_curve25519": 0}
    assert claim(bob, alice) is None


def test_keys_that_were_stored_one_by_one_are_handed_out_in_their_order(hearth: Any, database_url: str) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    keys = one_time_keys("c", "b", "a")
    hearth.stop()
    with transaction(database_url) as connection:
        connection.exec_driver_sql("DROP TABLE one_time_key_uploads")
        connection.exec_driver_sql(KEYS_ONE_BY_ONE)
        for place, (name, key) in enumerate(keys.items()):
            names = {"user": alice.user_id, "device": alice.device_id, "id": name.partition(":")[2]}
            values = {**names, "place": place, "json": json.dumps(key).encode(), "claimed": int(place == 0)}
            connection.execute(text(f"INSERT INTO one_time_keys VALUES {VALUES}"), values)
        m0035_key_uploads.upgrade(connection)
    hearth.start()
    for client in (alice, bob):
        client.base_url = hearth.url
    assert alice.post(UPLOAD, {"one_time_keys": keys})["one_time_key_counts"] == {"signed_curve25519": 2}
    given = [claim(bob, alice) for _ in range(3)]
    assert given == [{name: key} for name, key in list(keys.items())[1:]] + [None]


def test_what_was_claimed_of_a_device_is_forgotten_with_it(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    keys = one_time_keys("a")
    alice.post(UPLOAD, {"one_time_keys": keys})
    claim(bob, alice)
    device_id = alice.device_id
    alice.logout()
    alice.login("alice", PASSWORD, device_id=device_id)
    assert alice.post(UPLOAD, {"one_time_keys": keys})["one_time_key_counts"] == {"signed_curve25519": 1}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"device_keys": []}, "device_keys"),
        ({"device_keys": {"user_id": "@bob:test.example"}}, "device_keys.user_id"),
        ({"one_time_keys": {"noseparator": {"key": "x"}}}, "one_time_keys"),
        ({"one_time_keys": {"signed_curve25519:a": 7}}, "one_time_keys.signed_curve25519:a"),
        ({"one_time_keys": {"signed_curve25519:a": {"key": 7}}}, "one_time_keys.signed_curve25519:a.key"),
        ({"one_time_keys": {"signed_curve25519:a": {"key": "x", "signatures": 1}}}, "signatures"),
        ({"fallback_keys": {"a:1": {"key": "x"}, "a:2": {"key": "x"}}}, "fallback_keys"),
    ],
)
def test_malformed_uploads_name_the_field(hearth: Any, body: Any, named: str) -> None:
    alice = hearth.register("alice")
    error = alice.post(UPLOAD, body, expect=400)
    assert error["errcode"] == "M_INVALID_PARAM"
    assert named in error["error"]


def test_queried_devices_are_a_list(hearth: Any) -> None:
    alice = hearth.register("alice")
    error = alice.post(f"{V3}/keys/query", {"device_keys": {alice.user_id: {"ONE": True}}}, expect=400)
    assert error["errcode"] == "M_BAD_JSON"
    assert error["error"] == f"device_keys.{alice.user_id}: must be a list of device IDs"
    assert alice.user_id in alice.post(f"{V3}/keys/query", {"device_keys": {alice.user_id: {}}})["device_keys"]


def test_long_names_are_not_quoted_whole(hearth: Any) -> None:
    error = hearth.register("alice").post(f"{V3}/keys/query", {"device_keys": {"@" + "a" * 50_000: 1}}, expect=400)
    assert error["error"].startswith("device_keys.@aaa")
    assert error["error"].endswith("a: must be a list of device IDs")
    assert len(error["error"]) <= 300


def test_requests_for_too_many_keys_are_refused(hearth: Any) -> None:
    alice = hearth.register("alice")
    for path, field, entries, at_most in (
        ("query", "device_keys", [""] * 50_001, 50_000),
        ("claim", "one_time_keys", {f"D{n}": 1 for n in range(10_001)}, 10_000),
    ):
        error = alice.post(f"{V3}/keys/{path}", {field: {"not looked at": entries}}, expect=413)
        assert error["errcode"] == "M_TOO_LARGE"
        assert error["error"] == f"{field}: {at_most + 1} entries, of at most {at_most}"
    many: dict[str, Any] = {f"@{n}:x": {} for n in range(10_001)}
    assert alice.post(f"{V3}/keys/claim", {"one_time_keys": many}, expect=413)["errcode"] == "M_TOO_LARGE"


@pytest.mark.parametrize("body", [{"bob": {}}, {"@bob:test.example": 1}])
def test_signatures_that_are_malformed_name_their_entry(hearth: Any, body: Any) -> None:
    error = hearth.register("alice").post(f"{V3}/keys/signatures/upload", body, expect=400)
    assert error["errcode"] == "M_INVALID_PARAM"
    assert error["error"].startswith(f"{next(iter(body))}: must ")


def test_huge_uploads_are_refused(hearth: Any) -> None:
    alice = hearth.register("alice")
    many = {"one_time_keys": one_time_keys(*map(str, range(1001)))}
    assert alice.post(UPLOAD, many, expect=413)["errcode"] == "M_TOO_LARGE"
    large = {"one_time_keys": {"signed_curve25519:a": {"key": "x" * 4000, "more": "y" * 4000}}}
    assert alice.post(UPLOAD, large, expect=413)["errcode"] == "M_TOO_LARGE"


def test_a_device_that_logs_out_takes_its_keys_along(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    other = hearth.client()
    other.login("alice", PASSWORD)
    upload(other, one_time_keys=one_time_keys("a"))
    other.logout()
    assert bob.post(f"{V3}/keys/query", {"device_keys": {alice.user_id: []}})["device_keys"] == {alice.user_id: {}}
    assert claim(bob, other) is None


# -- changes ---------------------------------------------------------------------------------------------------------


def encrypted_room(alice: Client, bob: Client) -> str:
    room = alice.create_room(
        invite=[bob.user_id],
        initial_state=[
            {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
        ],
    )
    bob.join(room)
    return room


def changes(client: Client, since: str, to: str) -> Any:
    return client.get(f"{V3}/keys/changes", query={"from": since, "to": to})


def test_those_who_share_a_room_hear_of_changed_devices(hearth: Any) -> None:
    alice, bob, carol = (hearth.register(name) for name in ("alice", "bob", "carol"))
    encrypted_room(alice, bob)
    since, stranger = bob.sync()["next_batch"], carol.sync()["next_batch"]
    upload(alice)
    found = bob.sync(since=since)
    assert found["device_lists"] == {"changed": [alice.user_id], "left": []}
    assert "device_lists" not in carol.sync(since=stranger)
    assert changes(bob, since, found["next_batch"])["changed"] == [alice.user_id]
    assert changes(carol, since, found["next_batch"])["changed"] == []
    again = bob.sync(since=found["next_batch"])
    assert "device_lists" not in again


def test_a_waiting_client_is_woken_by_changed_devices(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    encrypted_room(alice, bob)
    since = bob.sync()["next_batch"]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(bob.sync, since=since, timeout=60_000)
        upload(alice)
        assert waiting.result(120)["device_lists"]["changed"] == [alice.user_id]


def test_who_joins_an_encrypted_room_has_changed_and_who_leaves_has_left(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    upload(alice)
    upload(bob)
    before_a, before_b = alice.sync()["next_batch"], bob.sync()["next_batch"]
    room = encrypted_room(alice, bob)
    after_a, after_b = alice.sync(since=before_a), bob.sync(since=before_b)
    assert bob.user_id in after_a["device_lists"]["changed"]
    assert alice.user_id in after_b["device_lists"]["changed"]
    assert bob.user_id in changes(alice, before_a, after_a["next_batch"])["changed"]
    bob.put(f"{V3}/profile/{bob.user_id}/displayname", {"displayname": "Bobby"})
    renamed = alice.sync(since=after_a["next_batch"])
    assert "device_lists" not in renamed
    bob.leave(room)
    left = alice.sync(since=renamed["next_batch"])
    assert left["device_lists"] == {"changed": [], "left": [bob.user_id]}
    assert bob.sync(since=after_b["next_batch"])["device_lists"]["left"] == [alice.user_id]
    assert changes(alice, renamed["next_batch"], left["next_batch"])["left"] == [bob.user_id]


def test_who_joins_any_room_has_changed_once(start_local: Any) -> None:
    hearth = start_local()
    alice, bob = hearth.register("alice"), hearth.register("bob")
    since_a, since_b = alice.sync()["next_batch"], bob.sync()["next_batch"]
    room = alice.create_room(preset="public_chat")
    created = alice.sync(since=since_a)
    assert "device_lists" not in created  # nobody else is there
    bob.join(room)
    alone, joined = alice.sync(since=created["next_batch"]), bob.sync(since=since_b)
    assert alone["device_lists"] == {"changed": [bob.user_id], "left": []}
    assert sorted(joined["device_lists"]["changed"]) == [alice.user_id, bob.user_id]  # bob's other devices hear of it
    for renamed in (alice, bob):
        renamed.put(f"{V3}/profile/{renamed.user_id}/displayname", {"displayname": "Somebody"})
    assert "device_lists" not in bob.sync(since=joined["next_batch"])
    hearth.restart()
    for client in (alice, bob):
        client.base_url = hearth.url
    assert sorted(bob.sync(since=since_b)["device_lists"]["changed"]) == [alice.user_id, bob.user_id]
    assert alice.sync(since=created["next_batch"])["device_lists"] == {"changed": [bob.user_id], "left": []}


def test_devices_of_those_who_are_invited_are_told(start_local: Any) -> None:
    hearth = start_local()
    alice, bob = hearth.register("alice"), hearth.register("bob")
    room = alice.create_room()
    since = alice.sync()["next_batch"]
    alice.invite(room, bob.user_id)
    invited = alice.sync(since=since)
    assert invited["device_lists"] == {"changed": [bob.user_id], "left": []}
    upload(bob)
    uploaded = alice.sync(since=invited["next_batch"])
    assert uploaded["device_lists"] == {"changed": [bob.user_id], "left": []}
    assert changes(alice, since, invited["next_batch"])["changed"] == [bob.user_id]
    hearth.restart()
    alice.base_url = bob.base_url = hearth.url
    assert alice.sync(since=invited["next_batch"])["device_lists"] == {"changed": [bob.user_id], "left": []}
    bob.leave(room)
    assert alice.sync(since=uploaded["next_batch"])["device_lists"] == {"changed": [], "left": [bob.user_id]}


def test_members_of_a_room_that_becomes_encrypted_have_changed(start_local: Any) -> None:
    hearth = start_local()
    alice, bob = hearth.register("alice"), hearth.register("bob")
    room = alice.create_room(invite=[bob.user_id])
    bob.join(room)
    since = bob.sync()["next_batch"]
    alice.set_state(room, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    then = bob.sync(since=since)
    assert then["device_lists"] == {"changed": [alice.user_id], "left": []}
    alice.set_state(room, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 10})
    after = bob.sync(since=then["next_batch"])
    assert "device_lists" not in after
    assert changes(bob, since, then["next_batch"])["changed"] == [alice.user_id]
    assert changes(bob, then["next_batch"], after["next_batch"])["changed"] == []
    hearth.restart()
    bob.base_url = hearth.url
    assert bob.sync(since=since)["device_lists"]["changed"] == [alice.user_id]


def test_changes_outlive_a_restart(start_local: Any) -> None:
    hearth = start_local()
    alice, bob = hearth.register("alice"), hearth.register("bob")
    encrypted_room(alice, bob)
    since = bob.sync()["next_batch"]
    upload(alice)
    hearth.restart()
    bob.base_url = hearth.url
    assert bob.sync(since=since)["device_lists"]["changed"] == [alice.user_id]


# -- cross-signing ---------------------------------------------------------------------------------------------------

SIGNING = f"{V3}/keys/device_signing/upload"


def query(client: Client, user_id: str) -> Any:
    return client.post(f"{V3}/keys/query", {"device_keys": {user_id: []}})


def test_the_first_upload_of_signing_keys_needs_no_password_and_another_does(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    keys, others = SigningKeys(alice.user_id), SigningKeys(alice.user_id)
    alice.post(SIGNING, keys.upload())
    alice.post(SIGNING, keys.upload())  # nothing new
    seen = query(bob, alice.user_id)
    assert seen["master_keys"][alice.user_id] == keys.upload()["master_key"]
    assert "user_signing_keys" not in seen or alice.user_id not in seen["user_signing_keys"]
    assert alice.user_id in query(alice, alice.user_id)["user_signing_keys"]
    session = alice.post(SIGNING, others.upload(), expect=401)["session"]
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": alice.user_id},
        "password": PASSWORD,
        "session": session,
    }
    alice.post(SIGNING, {**others.upload(), "auth": auth})
    assert query(bob, alice.user_id)["master_keys"][alice.user_id] == others.upload()["master_key"]


def test_no_device_is_called_like_a_signing_key(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    keys = SigningKeys(alice.user_id)
    alice.post(SIGNING, keys.upload())
    name = keys.master.verify_key.to_base64()
    login = {"type": "m.login.password", "password": PASSWORD, "device_id": name}
    as_alice = {"type": "m.id.user", "user": alice.user_id}
    assert alice.post("/login", {**login, "identifier": as_alice}, expect=403)["errcode"] == "M_FORBIDDEN"
    as_bob = {"type": "m.id.user", "user": bob.user_id}
    assert bob.post("/login", {**login, "identifier": as_bob})["device_id"] == name
    named_bob = SigningKeys(bob.user_id)
    named_bob.master = keys.master
    assert bob.post(SIGNING, named_bob.upload(), expect=403)["errcode"] == "M_FORBIDDEN"


@pytest.fixture
def come_between(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Bodies of uploads that are done while another one looks at the user's keys."""
    bodies: list[dict[str, Any]] = []
    load_keys = CrossSigning.load_keys

    async def load(service: CrossSigning, user_id: UserId) -> KnownKeys:
        known = await load_keys(service, user_id)
        if bodies:
            await service.upload(user_id, check_keys(user_id, bodies.pop(), known), known)
        return known

    monkeypatch.setattr(CrossSigning, "load_keys", load)
    return bodies


def test_of_two_first_uploads_of_signing_keys_one_is_a_replacement(
    hearth: Any, come_between: list[dict[str, Any]]
) -> None:
    alice = hearth.register("alice")
    keys, others = SigningKeys(alice.user_id), SigningKeys(alice.user_id)
    come_between.append(keys.upload())
    alice.post(SIGNING, others.upload(), expect=401)
    assert query(alice, alice.user_id)["master_keys"][alice.user_id] == keys.upload()["master_key"]


def test_the_same_first_upload_of_signing_keys_twice_at_once_is_one(
    hearth: Any, come_between: list[dict[str, Any]]
) -> None:
    alice = hearth.register("alice")
    keys = SigningKeys(alice.user_id)
    come_between.append(keys.upload())
    alice.post(SIGNING, keys.upload())
    assert query(alice, alice.user_id)["master_keys"][alice.user_id] == keys.upload()["master_key"]


def test_who_is_authenticated_replaces_keys_that_changed_meanwhile(
    hearth: Any, come_between: list[dict[str, Any]]
) -> None:
    alice = hearth.register("alice")
    keys, others, newest = (SigningKeys(alice.user_id) for _ in range(3))
    alice.post(SIGNING, keys.upload())
    session = alice.post(SIGNING, newest.upload(), expect=401)["session"]
    come_between.append(others.upload())
    identifier = {"type": "m.id.user", "user": alice.user_id}
    auth = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD, "session": session}
    alice.post(SIGNING, {**newest.upload(), "auth": auth})
    assert query(alice, alice.user_id)["master_keys"][alice.user_id] == newest.upload()["master_key"]


def test_a_key_signed_by_a_master_key_that_went_meanwhile_is_refused(
    hearth: Any, come_between: list[dict[str, Any]]
) -> None:
    alice = hearth.register("alice")
    keys, others = SigningKeys(alice.user_id), SigningKeys(alice.user_id)
    alice.post(SIGNING, {"master_key": keys.upload()["master_key"]})
    session = alice.post(SIGNING, {"self_signing_key": keys.upload()["self_signing_key"]}, expect=401)["session"]
    come_between.append(others.upload())
    identifier = {"type": "m.id.user", "user": alice.user_id}
    auth = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD, "session": session}
    body = {"self_signing_key": keys.upload()["self_signing_key"], "auth": auth}
    assert alice.post(SIGNING, body, expect=400)["errcode"] == "M_INVALID_SIGNATURE"


def test_wrongly_signed_signing_keys_are_refused(hearth: Any) -> None:
    alice = hearth.register("alice")
    keys, others = SigningKeys(alice.user_id), SigningKeys(alice.user_id)
    wrong = {**keys.upload(), "self_signing_key": others.upload()["self_signing_key"]}
    assert alice.post(SIGNING, wrong, expect=400)["errcode"] == "M_INVALID_SIGNATURE"
    alone = {"self_signing_key": keys.upload()["self_signing_key"]}
    assert alice.post(SIGNING, alone, expect=400)["errcode"] == "M_MISSING_PARAM"
    foreign = SigningKeys("@bob:test.example").upload()
    assert "user_id" in alice.post(SIGNING, foreign, expect=400)["error"]


def test_signatures_are_seen_by_those_whom_they_concern(hearth: Any) -> None:
    alice, bob, carol = (hearth.register(name) for name in ("alice", "bob", "carol"))
    encrypted_room(alice, bob)
    device, keys, theirs = upload(alice), SigningKeys(alice.user_id), SigningKeys(bob.user_id)
    alice.post(SIGNING, keys.upload())
    bob.post(SIGNING, theirs.upload())
    since_a, since_b = alice.sync()["next_batch"], bob.sync()["next_batch"]
    signed_device = sign_json(device.keys(), alice.user_id, keys.self_signing)
    signed_bob = sign_json(theirs.upload()["master_key"], alice.user_id, keys.user_signing)
    body = {
        alice.user_id: {alice.device_id: signed_device},
        bob.user_id: {theirs.master.verify_key.to_base64(): signed_bob},
    }
    assert alice.post(f"{V3}/keys/signatures/upload", body) == {"failures": {}}
    assert query(carol, alice.user_id)["device_keys"][alice.user_id][alice.device_id]["signatures"][
        alice.user_id
    ].keys() == {
        f"ed25519:{alice.device_id}",
        str(keys.self_signing.key_id),
    }
    assert alice.user_id in query(alice, bob.user_id)["master_keys"][bob.user_id]["signatures"]
    assert alice.user_id not in query(carol, bob.user_id)["master_keys"][bob.user_id].get("signatures", {})
    assert alice.sync(since=since_a)["device_lists"]["changed"] == [alice.user_id, bob.user_id]
    assert bob.sync(since=since_b)["device_lists"]["changed"] == [alice.user_id]


def test_forged_signatures_fail_one_by_one(hearth: Any) -> None:
    alice = hearth.register("alice")
    device, keys = upload(alice), SigningKeys(alice.user_id)
    alice.post(SIGNING, keys.upload())
    forged = sign_json(device.keys(), alice.user_id, SigningKeys(alice.user_id).self_signing)
    other = sign_json(device.keys(more="other"), alice.user_id, keys.self_signing)
    body = {alice.user_id: {alice.device_id: forged, "NONE": other}}
    failures = alice.post(f"{V3}/keys/signatures/upload", body)["failures"][alice.user_id]
    assert failures[alice.device_id]["errcode"] == "M_INVALID_SIGNATURE"
    assert failures["NONE"]["errcode"] == "M_NOT_FOUND"
