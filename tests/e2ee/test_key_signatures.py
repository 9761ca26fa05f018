"""Uploads of keys where the server checks that the device itself signed them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from homeserver.e2ee.upload_bodies import parse_upload
from homeserver.e2ee.uploads import check_own_signatures
from homeserver.matrix.ids import parse_device_id, parse_user_id
from homeserver.matrix.signing import sign_json
from tests.e2ee.key_maker import V3, Device, fallback_key, make_key, one_time_keys
from tests.kit.client import Client
from tests.kit.reactor import run_in_reactor

UPLOAD = f"{V3}/keys/upload"
DEHYDRATED = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
NO_KEYS = {"signed_curve25519": 0}
Json = dict[str, Any]


@pytest.fixture
def strict(start_local: Callable[..., Any]) -> Any:
    return start_local({"encryption": {"check_key_signatures": True}})


@pytest.fixture
def alice(strict: Any) -> Any:
    return strict.register("alice")


@pytest.fixture
def device(alice: Client) -> Device:
    return Device(alice.user_id, alice.device_id)


def identity_of(client: Client) -> Any:
    found = client.post(f"{V3}/keys/query", {"device_keys": {client.user_id: []}})["device_keys"]
    return found[client.user_id].get(client.device_id)


def refuse(client: Client, body: Json) -> str:
    """The text of the error."""
    error = client.post(UPLOAD, body, expect=400)
    assert error["errcode"] == "M_INVALID_SIGNATURE"
    text: str = error["error"]
    return text


def unsigned(key: Json) -> Json:
    return {name: value for name, value in key.items() if name != "signatures"}


def of_another_key(device: Device) -> Device:
    """A device of the same name, whose key is not the one that anybody knows."""
    return Device(device.user_id, device.device_id)


def by_another_device(device: Device, key: Json) -> Json:
    return sign_json(unsigned(key), device.user_id, make_key("OTHER"))


def by_another_user(device: Device, key: Json) -> Json:
    return sign_json(unsigned(key), "@bob:test.example", device.key)


def test_what_the_device_signed_is_stored(alice: Client, device: Device) -> None:
    body = {"device_keys": device.keys(), "one_time_keys": device.one_time_keys("a", "b")}
    counts = alice.post(UPLOAD, {**body, "fallback_keys": device.fallback_key("f")})["one_time_key_counts"]
    assert counts == {"signed_curve25519": 2}
    assert identity_of(alice)["keys"] == device.keys()["keys"]
    assert alice.sync()["device_unused_fallback_key_types"] == ["signed_curve25519"]
    assert alice.post(UPLOAD, body)["one_time_key_counts"] == counts  # the same again


@pytest.mark.parametrize(
    "make",
    [
        lambda device: {**device.keys(), "algorithms": []},
        lambda device: {**device.keys(), "signatures": {}},
        lambda device: {**device.keys(), "signatures": of_another_key(device).keys()["signatures"]},
        lambda device: by_another_device(device, device.keys()),
        lambda device: by_another_user(device, device.keys()),
        lambda device: device.sign({**unsigned(device.keys()), "keys": {"curve25519:x": "x"}}),
        lambda device: device.sign({**unsigned(device.keys()), "keys": {f"ed25519:{device.device_id}": "x"}}),
    ],
    ids=["changed", "unsigned", "wrong", "other device", "other user", "no key", "no ed25519 key"],
)
def test_identity_keys_that_the_device_did_not_sign_are_refused(
    alice: Client, device: Device, make: Callable[[Device], Json]
) -> None:
    body = {"device_keys": make(device), "one_time_keys": device.one_time_keys("a")}
    assert refuse(alice, body).startswith("device_keys: ")
    assert identity_of(alice) is None
    assert alice.post(UPLOAD, {})["one_time_key_counts"] == NO_KEYS


@pytest.mark.parametrize(
    "make",
    [
        lambda device, key: {**key, "key": "changed"},
        lambda device, key: unsigned(key),
        lambda device, key: of_another_key(device).sign(unsigned(key)),
        by_another_device,
        by_another_user,
        lambda device, key: key["key"],
    ],
    ids=["changed", "unsigned", "wrong", "other device", "other user", "no object"],
)
def test_keys_that_the_device_did_not_sign_are_refused_with_the_whole_upload(
    alice: Client, device: Device, make: Callable[[Device, Json], Any]
) -> None:
    right = {"device_keys": device.keys(), "one_time_keys": device.one_time_keys("a", "AAAA", "z")}
    fallback = device.fallback_key("BBBB")
    name, key = "signed_curve25519:AAAA", right["one_time_keys"]["signed_curve25519:AAAA"]
    wrong: Json = {**right, "one_time_keys": {**right["one_time_keys"], name: make(device, key)}}
    assert refuse(alice, wrong).startswith(f"one_time_keys.{name}: ")
    name, key = "signed_curve25519:BBBB", fallback["signed_curve25519:BBBB"]
    wrong = {**right, "fallback_keys": {name: make(device, key)}}
    assert refuse(alice, wrong).startswith(f"fallback_keys.{name}: ")
    assert identity_of(alice) is None
    assert alice.post(UPLOAD, {})["one_time_key_counts"] == NO_KEYS
    assert alice.sync()["device_unused_fallback_key_types"] == []
    assert alice.post(UPLOAD, {**right, "fallback_keys": fallback})["one_time_key_counts"] == {"signed_curve25519": 3}


def test_keys_that_come_alone_are_checked_by_the_identity_keys_that_are_stored(alice: Client, device: Device) -> None:
    assert refuse(alice, {"one_time_keys": device.one_time_keys("a")}).startswith("one_time_keys.signed_curve25519:a: ")
    assert refuse(alice, {"fallback_keys": device.fallback_key("f")}).startswith("fallback_keys.signed_curve25519:f: ")
    alice.post(UPLOAD, {"device_keys": device.keys()})
    other = of_another_key(device)
    assert refuse(alice, {"one_time_keys": other.one_time_keys("a")}).startswith("one_time_keys.signed_curve25519:a: ")
    right = {"one_time_keys": device.one_time_keys("a"), "fallback_keys": device.fallback_key("f")}
    assert alice.post(UPLOAD, right)["one_time_key_counts"] == {"signed_curve25519": 1}
    # Identity keys that come along are newer than those that are stored.
    new = {"device_keys": other.keys(), "one_time_keys": other.one_time_keys("b")}
    assert alice.post(UPLOAD, new)["one_time_key_counts"] == {"signed_curve25519": 2}


def test_keys_of_an_algorithm_without_signatures_need_none(alice: Client) -> None:
    keys = {"one_time_keys": {"curve25519:AAAA": "a"}, "fallback_keys": {"curve25519:BBBB": "b"}}
    assert alice.post(UPLOAD, keys)["one_time_key_counts"] == {**NO_KEYS, "curve25519": 1}


def test_a_dehydrated_device_signs_its_own_keys(alice: Client, device: Device) -> None:
    alice.post(UPLOAD, {"device_keys": device.keys()})
    box = Device(alice.user_id, "BOX")
    data = {"device_id": "BOX", "device_data": {"algorithm": "m.dehydration.v2"}, "device_keys": box.keys()}
    wrong: list[tuple[str, Json]] = [
        ("device_keys", {"device_keys": {**box.keys(), "signatures": {}}}),
        ("one_time_keys.signed_curve25519:a", {"one_time_keys": device.one_time_keys("a")}),
        ("fallback_keys.signed_curve25519:f", {"fallback_keys": device.fallback_key("f")}),
    ]
    for named, part in wrong:
        error = alice.put(DEHYDRATED, {**data, **part}, expect=400)
        assert (error["errcode"], error["error"].partition(": ")[0]) == ("M_INVALID_SIGNATURE", named)
    alice.get(DEHYDRATED, expect=404)
    right = {"one_time_keys": box.one_time_keys("a"), "fallback_keys": box.fallback_key("f")}
    assert alice.put(DEHYDRATED, {**data, **right}) == {"device_id": "BOX"}


def test_signatures_are_not_checked_unless_the_server_is_told_to(hearth: Any) -> None:
    bob = hearth.register("bob")
    keys = {**Device(bob.user_id, bob.device_id).keys(), "signatures": {}}
    body = {"device_keys": keys, "one_time_keys": one_time_keys("a"), "fallback_keys": fallback_key("f")}
    assert bob.post(UPLOAD, body)["one_time_key_counts"] == {"signed_curve25519": 1}


def test_others_have_their_turn_while_many_signatures_are_checked(strict: Any) -> None:
    user_id, device_id = parse_user_id("@carol:test.example"), parse_device_id("PHONE")
    device = Device(user_id, device_id)
    keys = device.one_time_keys(*map(str, range(100)))
    upload = parse_upload(user_id, device_id, {"device_keys": device.keys(), "one_time_keys": keys})
    database = strict.running.services.core.database

    def start() -> tuple[bool, Deferred[None]]:
        checking = Deferred.fromCoroutine(check_own_signatures(database, user_id, device_id, upload))
        return bool(checking.called), checking

    is_done_at_once, checking = run_in_reactor(start)
    run_in_reactor(lambda: checking)
    assert not is_done_at_once
