"""What a device keeps as its notification settings in its user's account data goes with the device (MSC3890)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.kit.client import Client
from tests.sync.test_sliding_sync import ask, room_list

PREFIXES = ("m.local_notification_settings.", "org.matrix.msc3890.local_notification_settings.")
PATH = "/user/{}/account_data/{}"
SILENT = {"is_silenced": True}
PASSWORD = "password of the tests"
AUTH = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD}


def log_in(client: Client) -> Client:
    """Another device of the user."""
    other = client.another_device()
    other.login("alice", PASSWORD)
    return other


def own_types(client: Client) -> list[str]:
    return [prefix + client.device_id for prefix in PREFIXES]


def set_own(client: Client) -> None:
    for type_ in own_types(client):
        client.put(PATH, SILENT, at=(client.user_id, type_))


def told(events: list[dict[str, Any]]) -> dict[str, Any]:
    return {event["type"]: event["content"] for event in events if "local_notification" in event["type"]}


def synced(client: Client, since: str | None, **query: Any) -> dict[str, Any]:
    return told(client.sync(since=since, **query).get("account_data", {}).get("events", []))


def slid(client: Client, pos: str | None = None) -> tuple[str, dict[str, Any]]:
    answer = ask(client, room_list(), pos)
    return answer["pos"], told(answer["extensions"].get("account_data", {}).get("global", []))


def log_out(client: Client, other: Client) -> None:
    other.logout()


def delete(client: Client, other: Client) -> None:
    client.post("/delete_devices", {"devices": [other.device_id, "NONE"], "auth": AUTH})


def change_password(client: Client, other: Client) -> None:
    client.post("/account/password", {"new_password": "a new one", "auth": AUTH})


@pytest.mark.parametrize("end", [log_out, delete, change_password])
@pytest.mark.usefixtures("room")
def test_the_settings_of_a_device_that_goes_are_removed(alice: Client, end: Callable[[Client, Client], None]) -> None:
    other = log_in(alice)
    set_own(alice)
    set_own(other)
    both = dict.fromkeys([*own_types(alice), *own_types(other)], SILENT)
    since, (pos, before) = alice.sync(since=None)["next_batch"], slid(alice)
    assert before == both
    end(alice, other)
    for type_ in own_types(other):
        answer = alice.get(PATH, at=(alice.user_id, type_), expect=404)
        assert answer["errcode"] == "M_NOT_FOUND"
    gone = {type_: {} for type_ in own_types(other)}
    assert synced(alice, since) == slid(alice, pos)[1] == gone
    kept = dict.fromkeys(own_types(alice), SILENT)
    assert synced(alice, None) == slid(alice)[1] == kept
    assert synced(alice, alice.next_batch) == {}
    assert alice.get(PATH, at=(alice.user_id, own_types(alice)[0])) == SILENT


def test_what_was_removed_can_be_set_again(hearth: Any, alice: Client) -> None:
    other = log_in(alice)
    set_own(other)
    since = alice.sync(since=None)["next_batch"]
    other.logout()
    hearth.restart()
    alice.base_url = hearth.url
    assert synced(alice, since) == {type_: {} for type_ in own_types(other)}
    assert synced(alice, None) == {}
    alice.put(PATH, {"is_silenced": False}, at=(alice.user_id, own_types(other)[0]))
    assert synced(alice, since) == {own_types(other)[0]: {"is_silenced": False}, own_types(other)[1]: {}}
    assert synced(alice, None) == {own_types(other)[0]: {"is_silenced": False}}


def test_a_device_without_settings_leaves_nothing_to_tell(alice: Client, bob: Client) -> None:
    other = log_in(alice)
    bob.put(PATH, SILENT, at=(bob.user_id, own_types(other)[0]))
    since = alice.sync(since=None)["next_batch"]
    other.logout()
    assert synced(alice, since) == {}
    assert bob.get(PATH, at=(bob.user_id, own_types(other)[0])) == SILENT


def test_settings_that_are_empty_are_there(alice: Client) -> None:
    alice.put(PATH, {}, at=(alice.user_id, own_types(alice)[0]))
    assert alice.get(PATH, at=(alice.user_id, own_types(alice)[0])) == {}
    assert synced(alice, None) == {own_types(alice)[0]: {}}
