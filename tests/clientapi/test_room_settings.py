"""What happens to members when a room closes to guests, or is replaced."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.kit.waiting import until_synced

GUEST_ACCESS = "m.room.guest_access"


def test_guests_leave_a_room_that_closes_to_them(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    room = alice.create_room(preset="public_chat")
    alice.set_state(room, GUEST_ACCESS, {"guest_access": "can_join"})
    guest = hearth.client()
    guest.register_guest()
    guest.join(room)
    bob.join(room)
    guest.sync()
    alice.set_state(room, GUEST_ACCESS, {"guest_access": "forbidden"})
    left = until_synced(guest, lambda sync: sync.get("rooms", {}).get("leave", {}).get(room))
    assert left["timeline"]["events"][-1]["content"]["membership"] == "leave"
    assert alice.get("/rooms/{}/joined_members", at=[room])["joined"].keys() == {alice.user_id, bob.user_id}


@pytest.mark.parametrize("by_hand", [False, True])
def test_what_was_set_for_a_room_goes_along_to_its_successor(hearth: Any, by_hand: bool) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    for client, other in ((alice, bob), (bob, alice)):
        client.put("/user/{}/rooms/{}/tags/{}", {"order": 0.5}, at=(client.user_id, room, "m.favourite"))
        client.put("/user/{}/account_data/m.direct", {other.user_id: [room]}, at=[client.user_id])
        client.put("/pushrules/global/room/{}", {"actions": []}, at=[room])
    if by_hand:
        new = alice.create_room(preset="public_chat", creation_content={"predecessor": {"room_id": room}})
    else:
        new = alice.post("/rooms/{}/upgrade", {"new_version": "11"}, at=[room])["replacement_room"]
    bob.join(new)
    for client, other in ((alice, bob), (bob, alice)):
        tags = client.get("/user/{}/rooms/{}/tags", at=(client.user_id, new))["tags"]
        assert tags == {"m.favourite": {"order": 0.5}}
        direct = client.get("/user/{}/account_data/m.direct", at=[client.user_id])
        assert direct == {other.user_id: [room, new]}
        assert client.get("/pushrules/global/room/{}", at=[new])["actions"] == []
    stranger = hearth.register("carol")
    stranger.join(new)
    assert stranger.get("/user/{}/rooms/{}/tags", at=(stranger.user_id, new))["tags"] == {}


def test_events_of_erased_users_are_redacted_for_those_who_were_not_there(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    event_id = bob.send(room, "forget this")
    erase(bob)
    carol = hearth.register("carol")
    carol.join(room)
    for _ in range(2):
        assert _contents(alice, room, event_id) == [{"msgtype": "m.text", "body": "forget this"}] * 4
        assert _contents(carol, room, event_id) == [{}] * 4
        hearth.restart()
        alice.base_url = carol.base_url = hearth.url


def test_nothing_quotes_an_erased_user_to_those_who_were_not_there(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    room = alice.create_room(preset="public_chat", power_level_content_override={"state_default": 0})
    bob.join(room)
    secret = "sunflower"
    bob.put("/profile/{}/displayname", {"displayname": secret}, at=[bob.user_id])
    root = alice.send(room, "root")
    bob.set_state(room, "m.room.topic", {"topic": secret})
    alice.set_state(room, "m.room.topic", {"topic": "another"})
    message = bob.send(room, secret)
    edit = {"m.new_content": {"msgtype": "m.text", "body": secret}, "m.relates_to": relation("m.replace", message)}
    bob.send(room, {"msgtype": "m.text", "body": secret, **edit})
    bob.send(room, {"msgtype": "m.text", "body": secret, "m.relates_to": relation("m.thread", root)})
    erase(bob)
    carol = hearth.register("carol")
    carol.join(room)
    listed = {"ranges": [[0, 5]], "timeline_limit": 100, "required_state": [["*", "*"]]}
    for shown in (
        carol.messages(room, limit=100),
        carol.sync(since=None, filter={"room": {"timeline": {"limit": 100}}}),
        carol.get("/_matrix/client/v1/rooms/{}/threads", at=[room]),
        carol.get("/_matrix/client/v1/rooms/{}/relations/{}", at=(room, root)),
        carol.get("/rooms/{}/event/{}", at=(room, message)),
        carol.post("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", {"lists": {"all": listed}}),
    ):
        assert secret not in json.dumps(shown)
    assert json.dumps(alice.messages(room, limit=100)).count(secret) >= 4


def erase(client: Any) -> None:
    identifier = {"type": "m.id.user", "user": client.user_id}
    auth = {"type": "m.login.password", "identifier": identifier, "password": "password of the tests"}
    session = client.post("/account/deactivate", {"erase": True}, expect=401)["session"]
    client.post("/account/deactivate", {"erase": True, "auth": {**auth, "session": session}})


def relation(rel_type: str, target: str) -> dict[str, str]:
    return {"rel_type": rel_type, "event_id": target}


def _contents(client: Any, room: str, event_id: str) -> list[Any]:
    """The event's content in each place that serves it."""
    found = [client.get("/rooms/{}/event/{}", at=(room, event_id))]
    found.append(client.get("/rooms/{}/context/{}", at=(room, event_id))["event"])
    found += [event for event in client.messages(room, limit=50)["chunk"] if event["event_id"] == event_id]
    synced = client.sync(since=None, filter={"room": {"timeline": {"limit": 50}}})
    timeline = synced["rooms"]["join"][room]["timeline"]["events"]
    found += [event for event in timeline if event["event_id"] == event_id]
    return [event["content"] for event in found]


def test_what_ignored_users_say_is_nowhere_to_be_read(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    event_id = bob.send(room, "listen")
    ignored = {"ignored_users": {bob.user_id: {}}}
    alice.put("/user/{}/account_data/m.ignored_user_list", ignored, at=[alice.user_id])
    assert "m.room.message" not in {event["type"] for event in alice.messages(room, limit=50)["chunk"]}
    assert alice.get("/rooms/{}/event/{}", at=(room, event_id), expect=404)["errcode"] == "M_NOT_FOUND"
    assert alice.get("/rooms/{}/context/{}", at=(room, event_id), expect=404)["errcode"] == "M_NOT_FOUND"
    assert bob.get("/rooms/{}/event/{}", at=(room, event_id))["content"]["body"] == "listen"
    alice.put("/user/{}/account_data/m.ignored_user_list", {"ignored_users": {}}, at=[alice.user_id])
    assert alice.get("/rooms/{}/event/{}", at=(room, event_id))["content"]["body"] == "listen"


def test_replaced_state_is_quoted_only_to_those_who_may_see_it(hearth: Any) -> None:
    alice, bob, carol = (hearth.register(name) for name in ("alice", "bob", "carol"))
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    since = carol.sync(since=None)["next_batch"]
    alice.set_state(room, "m.room.history_visibility", {"history_visibility": "joined"})
    alice.set_state(room, "m.room.topic", {"topic": "sunflower"})
    alice.set_state(room, "m.room.history_visibility", {"history_visibility": "shared"})
    replacing = alice.set_state(room, "m.room.topic", {"topic": "tulip"})
    carol.join(room)
    alice.set_state(room, "m.room.topic", {"topic": "rose"})
    listed = {"ranges": [[0, 5]], "timeline_limit": 100, "required_state": []}
    for client, quoted in ((carol, ["tulip"]), (bob, ["sunflower", "tulip"])):
        for answer in (
            client.messages(room, limit=100),
            client.sync(since=None, filter={"room": {"timeline": {"limit": 100}}}),
            client.sync(since=since, filter={"room": {"timeline": {"limit": 100}}}),
            client.get("/rooms/{}/context/{}", at=(room, replacing), query={"limit": 100}),
            client.post("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", {"lists": {"all": listed}}),
        ):
            assert sorted(set(_quoted(answer))) == quoted
        for _ in range(2):
            unsigned = client.get("/rooms/{}/event/{}", at=(room, replacing))["unsigned"]
            assert ("prev_content" in unsigned) == (len(quoted) == 2)
            assert "replaces_state" in unsigned


def _quoted(answer: Any) -> list[str]:
    """The topics in `prev_content`, wherever."""
    if isinstance(answer, list):
        return [found for item in answer for found in _quoted(item)]
    if not isinstance(answer, dict):
        return []
    own = [answer["prev_content"]["topic"]] if "topic" in answer.get("prev_content", {}) else []
    return own + [found for value in answer.values() for found in _quoted(value)]
