"""What the extensions of sliding sync tell of rooms that were out of the window, and of people whom the user ignores."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2ee.key_maker import Device
from tests.kit.client import Client
from tests.sync.test_sliding_sync import ENCRYPTION, ask, room_list

FIRST = room_list(last=0)
TYPING = "/rooms/{}/typing/{}"


def ignore(client: Client, *others: Client) -> None:
    ignored = {other.user_id: {} for other in others}
    client.put("/user/{}/account_data/m.ignored_user_list", {"ignored_users": ignored}, at=[client.user_id])


def set_data(client: Client, room: str, type_: str, content: Any) -> None:
    client.put("/user/{}/rooms/{}/account_data/{}", content, at=(client.user_id, room, type_))


def type_in(client: Client, room: str, *, typing: bool = True) -> None:
    client.put(TYPING, {"typing": typing, "timeout": 60_000}, at=(room, client.user_id))


def extension(answer: Any, name: str, room: str) -> Any:
    """What an extension tells of a room; None where it tells nothing."""
    return answer["extensions"].get(name, {}).get("rooms", {}).get(room)


def types(events: Any) -> list[str]:
    return [event["type"] for event in events or ()]


def test_account_data_set_while_a_room_is_out_of_the_window_comes_with_it(alice: Any) -> None:
    room = alice.create_room()
    seen = alice.send(room, "seen")
    set_data(alice, room, "m.old", {})
    first = ask(alice, FIRST)
    other = alice.create_room()
    second = ask(alice, FIRST, first["pos"])
    assert set(second["rooms"]) == {other}
    set_data(alice, room, "m.x", {"x": 1})
    alice.put("/user/{}/rooms/{}/tags/m.favourite", {}, at=(alice.user_id, room))
    alice.post("/rooms/{}/read_markers", {"m.fully_read": seen}, at=[room])
    set_data(alice, other, "m.y", {})
    third = ask(alice, FIRST, second["pos"])
    assert extension(third, "account_data", room) is None
    assert types(extension(third, "account_data", other)) == ["m.y"]
    alice.send(room, "back into the window")
    fourth = ask(alice, FIRST, third["pos"])
    assert types(extension(fourth, "account_data", room)) == ["m.x", "m.tag", "m.fully_read"]
    alice.send(room, "and again")
    assert extension(ask(alice, FIRST, fourth["pos"]), "account_data", room) is None


def test_a_subscription_that_is_taken_up_again_tells_what_was_missed(alice: Any, bob: Any, room: str) -> None:
    without = {"conn_id": "c", "extensions": FIRST["extensions"]}
    body = {**without, "room_subscriptions": {room: {"timeline_limit": 1, "required_state": []}}}
    type_in(bob, room)
    first = ask(alice, body)
    assert extension(first, "typing", room)["content"]["user_ids"] == [bob.user_id]
    second = ask(alice, without, first["pos"])
    set_data(alice, room, "m.x", {})
    type_in(bob, room, typing=False)
    third = ask(alice, without, second["pos"])
    fourth = ask(alice, body, third["pos"])
    assert types(extension(fourth, "account_data", room)) == ["m.x"]
    assert extension(fourth, "typing", room)["content"]["user_ids"] == []
    assert ask(alice, body, fourth["pos"])["extensions"] == {}


def test_who_stopped_typing_while_the_room_was_out_of_the_window_is_told(alice: Any, bob: Any, room: str) -> None:
    type_in(bob, room)
    first = ask(alice, FIRST)
    assert extension(first, "typing", room)["content"]["user_ids"] == [bob.user_id]
    alice.create_room()
    second = ask(alice, FIRST, first["pos"])
    type_in(bob, room, typing=False)
    third = ask(alice, FIRST, second["pos"])
    assert extension(third, "typing", room) is None
    alice.send(room, "back into the window")
    fourth = ask(alice, FIRST, third["pos"])
    assert extension(fourth, "typing", room)["content"]["user_ids"] == []
    assert extension(ask(alice, FIRST, fourth["pos"]), "typing", room) is None


def test_who_was_removed_hears_no_more_who_reads_and_types(alice: Any, bob: Any, room: str) -> None:
    body = room_list()
    first = ask(bob, body)
    alice.kick(room, bob.user_id)
    second = ask(bob, body, first["pos"])
    assert set(second["rooms"]) == {room}
    type_in(alice, room)
    alice.post("/rooms/{}/receipt/m.read/{}", at=(room, alice.send(room, "among ourselves")))
    third = ask(bob, body, second["pos"])
    assert third["extensions"] == {}
    assert ask(bob, body, third["pos"])["extensions"] == {}


def test_receipts_of_a_room_come_when_the_invite_to_it_is_accepted(alice: Any, bob: Any) -> None:
    room = alice.create_room(invite=[bob.user_id])
    event_id = alice.send(room, "read before anybody else came")
    alice.post("/rooms/{}/receipt/m.read/{}", at=(room, event_id))
    body = room_list(limit=10)
    invited = ask(bob, body)
    assert extension(invited, "receipts", room) is None
    bob.join(room)
    assert event_id in extension(ask(bob, body, invited["pos"]), "receipts", room)["content"]


def test_ignored_users_neither_invite_nor_type(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    carol = hearth.register("carol")
    body = room_list()
    ignore(alice, bob)
    first = ask(alice, body)
    alice.sync()
    invited, withdrawn = (bob.create_room(invite=[alice.user_id]) for _ in range(2))
    bob.kick(withdrawn, alice.user_id)
    type_in(bob, room)
    second = ask(alice, {**body, "room_subscriptions": {invited: {"timeline_limit": 1}}}, first["pos"])
    assert second["rooms"] == {}
    assert second["lists"]["all_rooms"]["count"] == 1
    assert extension(second, "typing", room)["content"]["user_ids"] == []
    assert "invite" not in alice.sync().get("rooms", {})
    carol.join(room)
    type_in(carol, room)
    third = ask(alice, body, second["pos"])
    assert extension(third, "typing", room)["content"]["user_ids"] == [carol.user_id]
    ignore(alice)
    assert set(ask(alice, body, third["pos"])["rooms"]) == {invited, withdrawn}


def turned(on: tuple[str, ...], *, last: int = 9) -> dict[str, Any]:
    """The body with only these extensions."""
    return {**room_list(last=last), "extensions": {name: {"enabled": True} for name in on}}


ROOM_KINDS = ("account_data", "receipts", "typing")
THREADS = "io.element.msc4308.thread_subscriptions"


def test_an_extension_that_is_turned_on_later_tells_what_there_is(alice: Any, bob: Any, room: str) -> None:
    seen = bob.send(room, "seen")
    alice.put("/user/{}/account_data/{}", {"a": 1}, at=(alice.user_id, "m.a"))
    set_data(alice, room, "m.x", {})
    bob.post("/rooms/{}/receipt/m.read/{}", at=(room, seen))
    alice.post("/rooms/{}/receipt/m.read.private/{}", at=(room, seen))
    alice.put("/_matrix/client/unstable/io.element.msc4306/rooms/{}/thread/{}/subscription", {}, at=(room, seen))
    type_in(bob, room)
    first = ask(alice, turned(()))
    assert first["extensions"] == {}
    second = ask(alice, turned((*ROOM_KINDS, THREADS)), first["pos"])
    assert {"m.a", "m.push_rules"} <= set(types(second["extensions"]["account_data"]["global"]))
    assert types(extension(second, "account_data", room)) == ["m.x"]
    assert set(extension(second, "receipts", room)["content"][seen]) == {"m.read", "m.read.private"}
    assert extension(second, "typing", room)["content"]["user_ids"] == [bob.user_id]
    assert set(second["extensions"][THREADS]["subscribed"]) == {room}
    third = ask(alice, turned((*ROOM_KINDS, THREADS)), second["pos"])
    assert third["extensions"] == {}
    alice.send(room, "more")
    assert ask(alice, turned((*ROOM_KINDS, THREADS)), third["pos"])["extensions"] == {}


def test_an_extension_that_was_off_for_a_while_tells_what_changed_meanwhile(alice: Any, bob: Any, room: str) -> None:
    alice.put("/user/{}/account_data/{}", {}, at=(alice.user_id, "m.before"))
    outside = alice.create_room()
    alice.send(room, "into the window")
    first = ask(alice, turned(ROOM_KINDS, last=0))
    second = ask(alice, turned((), last=0), first["pos"])
    alice.put("/user/{}/account_data/{}", {}, at=(alice.user_id, "m.meanwhile"))
    for each in (room, outside):
        set_data(alice, each, "m.x", {})
    read = bob.send(room, "read")
    bob.post("/rooms/{}/receipt/m.read/{}", at=(room, read))
    third = ask(alice, turned(()), second["pos"])
    assert set(third["rooms"]) == {room, outside}
    fourth = ask(alice, turned(ROOM_KINDS, last=0), third["pos"])
    assert types(fourth["extensions"]["account_data"]["global"]) == ["m.meanwhile"]
    assert types(extension(fourth, "account_data", room)) == ["m.x"]
    assert read in extension(fourth, "receipts", room)["content"]
    assert extension(fourth, "account_data", outside) is None
    fifth = ask(alice, turned(ROOM_KINDS), fourth["pos"])
    assert fifth["extensions"] == {
        "account_data": {"global": [], "rooms": {outside: fifth["extensions"]["account_data"]["rooms"][outside]}}
    }
    assert ask(alice, turned(ROOM_KINDS), fifth["pos"])["extensions"] == {}


def test_an_extension_that_is_asked_about_more_rooms_tells_what_these_have(alice: Any) -> None:
    one, two = alice.create_room(), alice.create_room()
    for each in (one, two):
        set_data(alice, each, "m.x", {})
    body = room_list()
    body["lists"] = {}
    body["room_subscriptions"] = {each: {"timeline_limit": 1, "required_state": []} for each in (one, two)}
    first = ask(alice, {**body, "extensions": {"account_data": {"enabled": True, "rooms": [one]}}})
    assert set(first["extensions"]["account_data"]["rooms"]) == {one}
    alice.put("/user/{}/account_data/{}", {}, at=(alice.user_id, "m.later"))
    second = ask(alice, {**body, "extensions": {"account_data": {"enabled": True, "rooms": ["*"]}}}, first["pos"])
    assert two in second["extensions"]["account_data"]["rooms"]
    assert types(second["extensions"]["account_data"]["global"]) == ["m.later"]


def lists_of_one_and_all(*extensions: str) -> dict[str, Any]:
    """Extensions that are asked about the newest room alone."""
    listed = {"timeline_limit": 1, "required_state": []}
    lists = {"newest": {"ranges": [[0, 0]], **listed}, "all": {"ranges": [[0, 9]], **listed}}
    return {"lists": lists, "extensions": {name: {"enabled": True, "lists": ["newest"]} for name in extensions}}


@pytest.mark.parametrize("name", ["account_data", "receipts", "typing"])
def test_a_room_that_comes_into_a_list_of_an_extension_is_told_by_it(
    alice: Any, bob: Any, room: str, name: str
) -> None:
    body = lists_of_one_and_all(name)
    set_data(alice, room, "m.x", {})
    alice.post("/rooms/{}/receipt/m.read/{}", at=(room, bob.send(room, "read")))
    type_in(bob, room)
    other = alice.create_room()
    first = ask(alice, body)
    assert set(first["rooms"]) == {room, other}
    assert extension(first, name, room) is None
    bob.send(room, "now the newest")
    for _ in range(2):  # as after a lost answer
        second = ask(alice, body, first["pos"])
        assert extension(second, name, room) is not None
    bob.send(room, "and still")
    assert extension(ask(alice, body, second["pos"]), name, room) is None


def test_what_changes_while_a_room_is_in_no_list_of_an_extension_is_told_later(alice: Any, bob: Any, room: str) -> None:
    body = lists_of_one_and_all("account_data", "typing")
    type_in(bob, room)
    first = ask(alice, body)
    assert extension(first, "typing", room)["content"]["user_ids"] == [bob.user_id]
    alice.create_room()
    second = ask(alice, body, first["pos"])
    type_in(bob, room, typing=False)
    set_data(alice, room, "m.x", {})
    third = ask(alice, body, second["pos"])
    assert extension(third, "typing", room) is None
    bob.send(room, "now the newest")
    fourth = ask(alice, body, third["pos"])
    assert extension(fourth, "typing", room)["content"]["user_ids"] == []
    assert types(extension(fourth, "account_data", room)) == ["m.x"]


def test_changes_of_devices_while_encryption_was_off_are_told(alice: Any, bob: Any, room: str) -> None:
    first = ask(alice, {"conn_id": "c", "extensions": {}})
    bob.post("/keys/upload", {"device_keys": Device(bob.user_id, bob.device_id).keys()})
    second = ask(alice, {"conn_id": "c", "extensions": {}}, first["pos"])
    body = {**ENCRYPTION, "conn_id": "c"}
    third = ask(alice, body, second["pos"])
    assert third["extensions"]["e2ee"]["device_lists"]["changed"] == [bob.user_id]
    assert third["extensions"]["to_device"]["events"] == []
    assert "device_lists" not in ask(alice, body, third["pos"])["extensions"]["e2ee"]


@pytest.fixture
def room(alice: Any, bob: Any) -> str:
    """A public room, made by alice, which bob has joined."""
    room_id: str = alice.create_room(preset="public_chat", name="a room")
    bob.join(room_id)
    return room_id
