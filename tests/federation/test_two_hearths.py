"""Two Hearths share a room: what one's users do, the other's see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import frozen

from tests.e2ee.key_maker import V3, Device, SigningKeys, one_time_keys
from tests.kit.client import Client, bodies, timeline
from tests.kit.waiting import until, until_equal, until_synced

SETTINGS = {"presence": {"enabled": True}}


@frozen
class Pair:
    here: Any
    there: Any
    alice: Client
    bob: Client
    room_id: str


@pytest.fixture
def pair(start_federated: Callable[..., Any]) -> Pair:
    """Alice's room here, which Bob joined from there."""
    here, there = start_federated("here", SETTINGS), start_federated("there", SETTINGS)
    alice, bob = here.register("alice"), there.register("bob")
    room_id = alice.create_room(preset="public_chat", room_alias_name="room")
    bob.join(f"#room:{here.server_name}")
    return Pair(here, there, alice, bob, room_id)


def says(client: Client, room_id: str, text: str, to: Client) -> None:
    client.send(room_id, text)
    until_synced(to, lambda sync: text in bodies(timeline(sync, room_id)))


def ephemeral(sync: Any, room_id: str, type_: str) -> Any:
    events = sync.get("rooms", {}).get("join", {}).get(room_id, {}).get("ephemeral", {}).get("events", [])
    return next((event["content"] for event in events if event["type"] == type_), None)


def test_messages_go_both_ways(pair: Pair) -> None:
    for n in range(3):
        says(pair.alice, pair.room_id, f"from here {n}", pair.bob)
        says(pair.bob, pair.room_id, f"from there {n}", pair.alice)


@pytest.fixture(params=["to there", "to here"])
def ways(request: pytest.FixtureRequest, pair: Pair) -> tuple[Client, Client]:
    """Who does something, and who sees it."""
    return (pair.alice, pair.bob) if request.param == "to there" else (pair.bob, pair.alice)


def test_typing_and_receipts_are_seen(pair: Pair, ways: tuple[Client, Client]) -> None:
    one, other = ways
    says(pair.alice, pair.room_id, "first", pair.bob)
    one.put("/rooms/{}/typing/{}", {"typing": True, "timeout": 30_000}, at=(pair.room_id, one.user_id))
    typing = until_synced(other, lambda sync: ephemeral(sync, pair.room_id, "m.typing"))
    assert typing["user_ids"] == [one.user_id]
    event_id = other.send(pair.room_id, "read this")
    until_synced(one, lambda sync: event_id in {event["event_id"] for event in timeline(sync, pair.room_id)})
    one.post("/rooms/{}/receipt/m.read/{}", at=(pair.room_id, event_id))
    receipts = until_synced(other, lambda sync: (ephemeral(sync, pair.room_id, "m.receipt") or {}).get(event_id))
    assert one.user_id in receipts["m.read"]


def test_presence_and_profiles_are_seen(pair: Pair, ways: tuple[Client, Client]) -> None:
    one, other = ways
    one.put("/presence/{}/status", {"presence": "online", "status_msg": "hello"}, at=[one.user_id])
    until(other, lambda: other.get("/presence/{}/status", at=[one.user_id]).get("status_msg") == "hello")
    one.put("/profile/{}/displayname", {"displayname": "New"}, at=[one.user_id])
    until(other, lambda: other.get_state(pair.room_id, "m.room.member", one.user_id).get("displayname") == "New")


def test_encryption_works_across_servers(pair: Pair) -> None:
    alice, bob = pair.alice, pair.bob
    says(alice, pair.room_id, "first", bob)
    alice.set_state(pair.room_id, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    until(bob, lambda: bob.get_state(pair.room_id, "m.room.encryption"))
    alice.sync()
    device, signing = Device(bob.user_id, bob.device_id), SigningKeys(bob.user_id).upload()
    bob.post(f"{V3}/keys/upload", {"device_keys": device.keys(), "one_time_keys": one_time_keys("A")})
    until_synced(alice, lambda sync: bob.user_id in sync.get("device_lists", {}).get("changed", []))

    def known() -> Any:
        return alice.post(f"{V3}/keys/query", {"device_keys": {bob.user_id: []}})

    assert known()["device_keys"][bob.user_id][bob.device_id]["keys"] == device.keys()["keys"]
    bob.post(f"{V3}/keys/device_signing/upload", signing)
    until(alice, lambda: bob.user_id in known().get("master_keys", {}))
    assert known()["master_keys"][bob.user_id]["keys"] == signing["master_key"]["keys"]
    second = pair.there.client()
    second.login("bob", "password of the tests")
    second.post(f"{V3}/keys/upload", {"device_keys": Device(bob.user_id, second.device_id).keys()})
    until(alice, lambda: second.device_id in known()["device_keys"][bob.user_id])
    second.logout()
    until(alice, lambda: set(known()["device_keys"][bob.user_id]) == {bob.device_id})
    wanted = {"one_time_keys": {bob.user_id: {bob.device_id: "signed_curve25519"}}}
    assert alice.post(f"{V3}/keys/claim", wanted)["one_time_keys"][bob.user_id]
    for n in range(3):
        body = {"messages": {bob.user_id: {bob.device_id: {"n": n}}}}
        alice.put("/sendToDevice/{}/{}", body, at=("m.room.encrypted", str(n)))
    got: list[int] = []

    def all_came(sync: Any) -> bool:
        got.extend(event["content"]["n"] for event in sync.get("to_device", {}).get("events", []))
        return len(got) >= 3

    until_synced(bob, all_came)
    assert got == [0, 1, 2]


def test_what_was_missed_comes_when_the_server_is_back(pair: Pair) -> None:
    says(pair.alice, pair.room_id, "before", pair.bob)
    pair.there.stop()
    for n in range(60):
        pair.alice.send(pair.room_id, f"missed {n}")
    pair.alice.put("/sendToDevice/{}/{}", {"messages": {pair.bob.user_id: {"*": {"n": 1}}}}, at=("m.test", "1"))
    pair.there.start()
    pair.bob.base_url = pair.there.url
    pair.bob.send(pair.room_id, "back")  # its call says that it is there
    seen: list[str] = []
    messages: list[Any] = []

    def all_came(sync: Any) -> bool:
        seen.extend(bodies(timeline(sync, pair.room_id)))
        messages.extend(sync.get("to_device", {}).get("events", []))
        return "missed 59" in seen and bool(messages)

    until_synced(pair.bob, all_came)
    history = bodies(pair.bob.messages(pair.room_id, limit=100)["chunk"])
    assert {f"missed {n}" for n in range(60)} <= set(history)


def test_receipt_comes_though_both_servers_were_away_in_turn(pair: Pair) -> None:
    says(pair.bob, pair.room_id, "read this", pair.alice)
    event_id = pair.bob.send(pair.room_id, "and this")
    until_synced(pair.alice, lambda sync: "and this" in bodies(timeline(sync, pair.room_id)))
    pair.there.stop()
    pair.alice.post("/rooms/{}/receipt/m.read/{}", at=(pair.room_id, event_id))
    pair.here.stop()
    pair.there.start()
    pair.here.start()
    pair.bob.base_url, pair.alice.base_url = pair.there.url, pair.here.url
    receipts = until_synced(pair.bob, lambda sync: (ephemeral(sync, pair.room_id, "m.receipt") or {}).get(event_id))
    assert pair.alice.user_id in receipts["m.read"]


# -- the user directory --------------------------------------------------------------------------------------------------

SEARCH = "/user_directory/search"


def search(client: Client, term: str) -> list[Any]:
    found: list[Any] = client.post(SEARCH, {"search_term": term})["results"]
    return found


def test_users_of_other_servers_are_found_by_the_name_that_a_shared_room_knows_them_by(start_federated: Any) -> None:
    one, two = start_federated("one"), start_federated("two")
    alice, dave = one.register("alice"), one.register("dave")
    bob, carol = two.register("bob"), two.register("carol")
    bob.put("/profile/{}/displayname", {"displayname": "Zoë Quinn"}, at=[bob.user_id])
    bob.put("/profile/{}/avatar_url", {"avatar_url": "mxc://two/a"}, at=[bob.user_id])
    carol.put("/profile/{}/displayname", {"displayname": "100% Carol_"}, at=[carol.user_id])
    room_id = bob.create_room(preset="private_chat", invite=[carol.user_id, alice.user_id])
    carol.join(room_id)
    until_synced(alice, lambda answer: answer.get("rooms", {}).get("invite", {}).get(room_id))
    alice.join(room_id)
    named = {"user_id": bob.user_id, "display_name": "Zoë Quinn", "avatar_url": "mxc://two/a"}
    for term in ("zoË", "quinn zo", "uin", "bob", bob.user_id):
        assert search(alice, term) == [named]
    assert [user["user_id"] for user in search(alice, "0% carol_")] == [carol.user_id]
    assert search(alice, "0_% carol") == search(alice, "nobody") == search(dave, "quinn") == []
    # In another room, which dave is in, too, bob has another name.
    other = alice.create_room(preset="private_chat", invite=[bob.user_id, dave.user_id])
    dave.join(other)
    until_synced(bob, lambda answer: answer.get("rooms", {}).get("invite", {}).get(other))
    bob.join(other)
    bob.set_state(other, "m.room.member", {"membership": "join", "displayname": "Robert"}, bob.user_id)
    until_equal(dave, lambda: [user["display_name"] for user in search(dave, "robert")], ["Robert"])
    assert search(dave, "quinn") == []
    member = alice.get("/rooms/{}/state/m.room.member/{}", at=(other, bob.user_id), query={"format": "event"})
    alice.redact(other, member["event_id"])
    assert search(dave, "robert") == []
    assert search(dave, "bob") == [{"user_id": bob.user_id}]
    bob.leave(room_id)
    until_equal(alice, lambda: search(alice, "quinn"), [])
