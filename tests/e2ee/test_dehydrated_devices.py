"""Dehydrated devices: at most one of each user, whole or not at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from homeserver.e2ee import dehydrated_devices
from tests.e2ee.key_maker import V3, Device, one_time_keys
from tests.kit.client import Client

PASSWORD = "password of the tests"
DEHYDRATED = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"


def body_of(owner: Client, device_id: str, **data: Any) -> dict[str, Any]:
    return {
        "device_id": device_id,
        "device_data": {"algorithm": "m.dehydration.v2", **data},
        "device_keys": Device(owner.user_id, device_id).keys(dehydrated=True),
        "one_time_keys": one_time_keys("a"),
    }


def devices_of(client: Client) -> set[str]:
    return {device["device_id"] for device in client.get("/devices")["devices"]}


def keys_of(client: Client, device_id: str) -> Any:
    found = client.post(f"{V3}/keys/query", {"device_keys": {client.user_id: []}})["device_keys"][client.user_id]
    return found.get(device_id, {}).get("keys")


def claim(client: Client, device_id: str) -> Any:
    wanted = {"one_time_keys": {client.user_id: {device_id: "signed_curve25519"}}}
    return client.post(f"{V3}/keys/claim", wanted)["one_time_keys"].get(client.user_id)


def test_of_many_at_once_one_is_left_with_its_keys(hearth: Any) -> None:
    alice = hearth.register("alice")
    bodies = {f"BOX{n}": body_of(alice, f"BOX{n}") for n in range(4)}
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda body: alice.put(DEHYDRATED, body), bodies.values()))
    left = alice.get(DEHYDRATED)["device_id"]
    assert devices_of(alice) == {alice.device_id, left}
    assert keys_of(alice, left) == bodies[left]["device_keys"]["keys"]
    assert claim(alice, left) == {left: bodies[left]["one_time_keys"]}


def test_one_whose_keys_can_not_be_saved_leaves_the_one_before(hearth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = hearth.register("alice")
    first = body_of(alice, "FIRST")
    alice.put(DEHYDRATED, first)

    def fail(*_: Any) -> None:
        raise RuntimeError("the disk is gone")

    with monkeypatch.context() as broken:
        broken.setattr("homeserver.store.device_keys.save_device_keys", fail)
        alice.put(DEHYDRATED, body_of(alice, "SECOND"), expect=500)
    assert alice.get(DEHYDRATED)["device_id"] == "FIRST"
    assert devices_of(alice) == {alice.device_id, "FIRST"}
    assert keys_of(alice, "FIRST") == first["device_keys"]["keys"]


def test_one_takes_the_place_of_one_of_the_same_id(hearth: Any) -> None:
    alice = hearth.register("alice")
    for n in range(2):
        body = body_of(alice, "BOX", n=n)
        alice.put(DEHYDRATED, body)
        assert alice.get(DEHYDRATED)["device_data"]["n"] == n
        assert keys_of(alice, "BOX") == body["device_keys"]["keys"]
        assert claim(alice, "BOX") == {"BOX": body["one_time_keys"]}
        assert claim(alice, "BOX") is None
    assert devices_of(alice) == {alice.device_id, "BOX"}


def test_the_id_of_a_device_that_logged_in_meanwhile_is_refused(hearth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = hearth.register("alice")
    check_id = dehydrated_devices._check_id
    looks: list[str] = []

    def look(conn: Any, user_id: Any, device_id: Any) -> Any:
        looks.append(device_id)
        return None if len(looks) == 1 else check_id(conn, user_id, device_id)

    monkeypatch.setattr(dehydrated_devices, "_check_id", look)
    error = alice.put(DEHYDRATED, body_of(alice, alice.device_id), expect=403)
    assert error["errcode"] == "M_FORBIDDEN"
    alice.get(DEHYDRATED, expect=404)
    assert keys_of(alice, alice.device_id) is None


@pytest.mark.parametrize("is_replaced", [True, False])
def test_who_logged_in_by_the_id_of_one_is_logged_out_with_it(hearth: Any, is_replaced: bool) -> None:
    alice = hearth.register("alice")
    alice.put(DEHYDRATED, body_of(alice, "BOX"))
    other = hearth.client()
    other.login("alice", PASSWORD, device_id="BOX")
    if is_replaced:
        alice.put(DEHYDRATED, body_of(alice, "NEW"))
    else:
        alice.delete(DEHYDRATED)
    assert "BOX" not in devices_of(alice)
    assert other.get("/account/whoami", expect=401)["errcode"] == "M_UNKNOWN_TOKEN"
