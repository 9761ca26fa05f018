"""What end-to-end encryption needs of two servers: keys of the other side, one-time keys, device lists and to-device messages."""

from __future__ import annotations

import os
from typing import Any

from homeserver.matrix.signing import SigningKey
from tests.kit.client import Client, Json
from tests.kit.peers import Pair
from tests.kit.waiting import until, until_synced
from tests.scenarios.federated_rooms import SharedRoom, both_ways, make_shared_room

ALGORITHM = "signed_curve25519"


def upload_keys(client: Client, one_time: int = 3) -> Json:
    """Keys of the client's device; what only clients check (signatures) is made up. The device keys."""
    keys: Json = {
        "user_id": client.user_id,
        "device_id": client.device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {f"curve25519:{client.device_id}": "curve", f"ed25519:{client.device_id}": "ed"},
        "signatures": {client.user_id: {f"ed25519:{client.device_id}": "signature"}},
    }
    signed = {"signatures": keys["signatures"]}
    one_time_keys = {f"{ALGORITHM}:{number}": {"key": f"one-time {number}", **signed} for number in range(one_time)}
    client.post("/keys/upload", {"device_keys": keys, "one_time_keys": one_time_keys})
    return keys


def query(client: Client, user: Client) -> Any:
    """The user's devices, as the client is told."""
    return client.post("/keys/query", {"device_keys": {user.user_id: []}})["device_keys"].get(user.user_id, {})


def changed(user: Client) -> Any:
    """What to look for in /sync: the user's devices are news."""
    return lambda sync: user.user_id in sync.get("device_lists", {}).get("changed", [])


def pairs_of(room: SharedRoom) -> tuple[tuple[Client, Client], ...]:
    return ((room.bob, room.alice), (room.alice, room.bob))


@both_ways
def test_device_keys_of_the_other_side_are_found_and_followed(pair: Pair) -> None:
    room = make_shared_room(pair, initial_state=[ENCRYPTED])
    for owner, reader in pairs_of(room):
        reader.sync()
        keys = upload_keys(owner)
        until_synced(reader, changed(owner))
        told = until(reader, lambda: query(reader, owner))  # noqa: B023  called in this round
        assert told[owner.device_id]["keys"] == keys["keys"]
        # A new device of theirs is news as well.
        second = owner.another_device()
        second.login(owner.user_id, "password of the tests")
        upload_keys(second)
        until_synced(reader, changed(owner))
        until(reader, lambda: set(query(reader, owner)) == {owner.device_id, second.device_id})  # noqa: B023  as above
        second.logout()
        until_synced(reader, changed(owner))
        until(reader, lambda: set(query(reader, owner)) == {owner.device_id})  # noqa: B023  as above


@both_ways
def test_one_time_keys_of_the_other_side_are_claimed_once(pair: Pair) -> None:
    room = make_shared_room(pair)
    for owner, reader in pairs_of(room):
        upload_keys(owner, one_time=2)
        wanted = {"one_time_keys": {owner.user_id: {owner.device_id: ALGORITHM}}}
        claimed = [reader.post("/keys/claim", wanted)["one_time_keys"] for _ in range(3)]
        got = [answer.get(owner.user_id, {}).get(owner.device_id, {}) for answer in claimed]
        assert sorted(name for keys in got for name in keys) == [f"{ALGORITHM}:0", f"{ALGORITHM}:1"]


@both_ways
def test_messages_to_devices_arrive_once_and_in_order(pair: Pair) -> None:
    room = make_shared_room(pair)
    for sender, reader in pairs_of(room):
        reader.sync()
        contents = [{"algorithm": "m.olm.v1.curve25519-aes-sha2", "ciphertext": {"n": str(n)}} for n in range(30)]
        for number, content in enumerate(contents):
            messages = {"messages": {reader.user_id: {reader.device_id: content}}}
            sender.put("/sendToDevice/{}/{}", messages, at=("m.room.encrypted", f"to{number}"))
        found: list[Json] = []
        until_synced(reader, lambda sync: _collect(found, sync) >= len(contents))  # noqa: B023  called in this round
        assert [event["content"] for event in found] == contents
        assert {event["sender"] for event in found} == {sender.user_id}
        assert reader.sync().get("to_device", {}).get("events", []) == []


@both_ways
def test_messages_to_devices_wait_for_a_server_that_is_away(pair: Pair) -> None:
    room = make_shared_room(pair)
    room.bob.sync()
    pair.cut()
    for number in range(5):
        messages = {"messages": {room.bob.user_id: {room.bob.device_id: {"n": number}}}}
        room.alice.put("/sendToDevice/{}/{}", messages, at=("m.room.encrypted", f"away{number}"))
    pair.heal()
    room.alice.send(room.id, "are you there?")
    found: list[Json] = []
    until_synced(room.bob, lambda sync: _collect(found, sync) >= 5)
    assert [event["content"]["n"] for event in found] == [0, 1, 2, 3, 4]


def _collect(found: list[Json], sync: Json) -> int:
    found += sync.get("to_device", {}).get("events", [])
    return len(found)


@both_ways
def test_cross_signing_keys_are_told_to_the_other_side(pair: Pair) -> None:
    room = make_shared_room(pair, initial_state=[ENCRYPTED])
    for owner, reader in pairs_of(room):
        upload_keys(owner)
        until(reader, lambda: query(reader, owner))  # noqa: B023  called in this round
        reader.sync()
        public = SigningKey("master", os.urandom(32)).verify_key.to_base64()
        master = {"user_id": owner.user_id, "usage": ["master"], "keys": {f"ed25519:{public}": public}}
        owner.post("/keys/device_signing/upload", {"master_key": master})
        until_synced(reader, changed(owner))
        until(reader, lambda: _master_key(reader, owner) == master["keys"])  # noqa: B023  called in this round


def _master_key(client: Client, user: Client) -> Any:
    answer = client.post("/keys/query", {"device_keys": {user.user_id: []}})
    return answer.get("master_keys", {}).get(user.user_id, {}).get("keys")


ENCRYPTED = {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
