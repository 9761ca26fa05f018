"""What people of two servers say and show each other: events, what belongs to them, and what is gone a moment later."""

from __future__ import annotations

from typing import Any

from tests.kit.client import Client, Json, timeline
from tests.kit.peers import Pair
from tests.kit.waiting import get_texts, until, until_synced
from tests.scenarios.federated_rooms import SharedRoom, both_ways, every_version, join, make_shared_room, via


def gets_event(client: Client, room: SharedRoom, event_id: str) -> Json:
    """The event, once it is there."""
    return until(client, lambda: client.get("/rooms/{}/event/{}", at=(room.id, event_id)))


def edit_of(event_id: str, text: str) -> Json:
    return {
        "msgtype": "m.text",
        "body": f"* {text}",
        "m.new_content": {"msgtype": "m.text", "body": text},
        "m.relates_to": {"rel_type": "m.replace", "event_id": event_id},
    }


def ephemeral(sync: Json, room: str, event_type: str) -> Any:
    """The content of a joined room's ephemeral event, or None."""
    events = sync.get("rooms", {}).get("join", {}).get(room, {}).get("ephemeral", {}).get("events", [])
    return next((event["content"] for event in events if event["type"] == event_type), None)


@both_ways
@every_version
def test_messages_edits_reactions_and_redactions_go_both_ways(pair: Pair, version: str) -> None:
    room = make_shared_room(pair, room_version=version)
    for sender, reader in ((room.alice, room.bob), (room.bob, room.alice)):
        event_id = sender.send(room.id, "helo")
        assert gets_event(reader, room, event_id)["content"]["body"] == "helo"
        sender.send(room.id, edit_of(event_id, "hello"))
        until(reader, lambda: _relations(reader, room, event_id)["m.replace"]["content"]["m.new_content"]["body"])  # noqa: B023  called in this round
        relation = {"m.relates_to": {"rel_type": "m.annotation", "event_id": event_id, "key": "👍"}}
        reaction_id = reader.send(room.id, relation, "m.reaction")
        assert gets_event(sender, room, reaction_id)["content"] == relation
        reader.redact(room.id, reaction_id)
        until(sender, lambda: gets_event(sender, room, reaction_id)["content"] == {})  # noqa: B023  called in this round
        redaction_id = sender.redact(room.id, event_id, "no longer")
        until(reader, lambda: gets_event(reader, room, event_id)["content"] == {})  # noqa: B023  called in this round
        because = gets_event(reader, room, event_id)["unsigned"]["redacted_because"]
        assert (because["event_id"], because["content"]["reason"]) == (redaction_id, "no longer")


def _relations(client: Client, room: SharedRoom, event_id: str) -> Any:
    relations = gets_event(client, room, event_id).get("unsigned", {}).get("m.relations", {})
    return {"m.replace": {"content": {"m.new_content": {"body": ""}}}, **relations}


@both_ways
def test_a_quick_conversation_has_the_same_order_on_both_sides(pair: Pair) -> None:
    room = make_shared_room(pair)
    for number in range(10):
        event_id = room.alice.send(room.id, f"ping {number}")
        gets_event(room.bob, room, event_id)
        event_id = room.bob.send(room.id, f"pong {number}")
        gets_event(room.alice, room, event_id)
    said = [f"{word} {number}" for number in range(10) for word in ("ping", "pong")]
    assert get_texts(room.alice, room.id) == get_texts(room.bob, room.id) == said


@both_ways
def test_timeline_of_sync_has_what_the_other_side_says(pair: Pair) -> None:
    room = make_shared_room(pair)
    for sender, reader in ((room.alice, room.bob), (room.bob, room.alice)):
        reader.sync()
        event_id = sender.send(room.id, "hello")
        found = until_synced(
            reader,
            lambda sync: [event for event in timeline(sync, room.id) if event["event_id"] == event_id],  # noqa: B023  called in this round
        )
        assert (found[0]["sender"], found[0]["content"]["body"]) == (sender.user_id, "hello")


@both_ways
def test_receipts_and_typing_are_shown_on_the_other_side(pair: Pair) -> None:
    room = make_shared_room(pair)
    event_id = room.alice.send(room.id, "read me")
    gets_event(room.bob, room, event_id)
    for actor, reader in ((room.bob, room.alice), (room.alice, room.bob)):
        reader.sync()
        actor.post("/rooms/{}/receipt/{}/{}", {}, at=(room.id, "m.read", event_id))
        receipt = until_synced(reader, lambda sync: ephemeral(sync, room.id, "m.receipt"))
        assert actor.user_id in receipt[event_id]["m.read"]
        actor.put("/rooms/{}/typing/{}", {"typing": True, "timeout": 30_000}, at=(room.id, actor.user_id))
        typing = until_synced(reader, lambda sync: ephemeral(sync, room.id, "m.typing"))
        assert typing["user_ids"] == [actor.user_id]
        actor.put("/rooms/{}/typing/{}", {"typing": False}, at=(room.id, actor.user_id))
        until_synced(reader, lambda sync: ephemeral(sync, room.id, "m.typing") == {"user_ids": []})


@both_ways
def test_private_receipts_stay_at_home(pair: Pair) -> None:
    room = make_shared_room(pair)
    event_id = room.alice.send(room.id, "read me")
    gets_event(room.bob, room, event_id)
    room.alice.sync()
    room.bob.post("/rooms/{}/receipt/{}/{}", {}, at=(room.id, "m.read.private", event_id))
    # What is sent after it shows that it would have come by now.
    later = room.bob.send(room.id, "later")
    gets_event(room.alice, room, later)
    room.bob.post("/rooms/{}/receipt/{}/{}", {}, at=(room.id, "m.read", later))
    found = []
    until_synced(
        room.alice, lambda sync: found.append(ephemeral(sync, room.id, "m.receipt")) or _has_receipt(found, later)
    )
    assert all(event_id not in (receipt or {}) for receipt in found)


def _has_receipt(found: list[Any], event_id: str) -> bool:
    return any(event_id in (receipt or {}) for receipt in found)


@both_ways
def test_profile_changes_are_seen_in_rooms_and_when_asked_for(pair: Pair) -> None:
    room = make_shared_room(pair)
    for actor, reader in ((room.bob, room.alice), (room.alice, room.bob)):
        actor.put("/profile/{}/displayname", {"displayname": "Somebody"}, at=[actor.user_id])
        actor.put("/profile/{}/avatar_url", {"avatar_url": "mxc://localhost/face"}, at=[actor.user_id])
        wanted = {"membership": "join", "displayname": "Somebody", "avatar_url": "mxc://localhost/face"}
        until(reader, lambda: reader.get_state(room.id, "m.room.member", actor.user_id) == wanted)  # noqa: B023  called in this round
        profile = reader.get("/profile/{}", at=[actor.user_id])
        assert (profile["displayname"], profile["avatar_url"]) == ("Somebody", "mxc://localhost/face")
        assert reader.get("/profile/{}/displayname", at=[actor.user_id]) == {"displayname": "Somebody"}


@both_ways
def test_presence_is_shown_to_those_who_share_a_room(pair: Pair) -> None:
    room = make_shared_room(pair)
    for actor, reader in ((room.bob, room.alice), (room.alice, room.bob)):
        actor.put("/presence/{}/status", {"presence": "unavailable", "status_msg": "at lunch"}, at=[actor.user_id])
        found = until_synced(reader, lambda sync: _presence(sync, actor))  # noqa: B023  called in this round
        assert found["presence"] in ("unavailable", "online")


def _presence(sync: Json, user: Client) -> Any:
    """That which says where they are."""
    events = sync.get("presence", {}).get("events", [])
    of_user = [event["content"] for event in events if event["sender"] == user.user_id]
    return next((content for content in of_user if content.get("status_msg") == "at lunch"), None)


@both_ways
def test_rooms_are_found_on_the_other_server(pair: Pair) -> None:
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    name = f"Cellar of {alice.user_id}"
    alias = f"#cellar-{alice.user_id[1:].partition(':')[0]}:{pair.near.name}"
    room = alice.create_room(
        preset="public_chat", visibility="public", name=name, room_alias_name=alias[1:].partition(":")[0]
    )
    assert until(bob, lambda: _find_listed(bob, pair, name)) == [room]
    found = bob.get("/directory/room/{}", at=[alias])
    assert found["room_id"] == room
    assert pair.near.name in found["servers"]


def _find_listed(client: Client, pair: Pair, name: str) -> list[str]:
    """The rooms of that name in the near server's list."""
    wanted = {"filter": {"generic_search_term": name}}
    listed = client.post("/publicRooms", wanted, query={"server": pair.near.name})["chunk"]
    return [entry["room_id"] for entry in listed]


@both_ways
def test_space_of_the_other_server_is_walked(pair: Pair) -> None:
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    space = alice.create_room(preset="public_chat", name="Space", creation_content={"type": "m.space"})
    child = alice.create_room(preset="public_chat", name="Child")
    alice.set_state(space, "m.space.child", {"via": [pair.near.name]}, child)
    join(bob, space, pair)
    rooms = until(bob, lambda: _walk(bob, space, 2))
    assert {entry["room_id"]: entry["name"] for entry in rooms} == {space: "Space", child: "Child"}


def _walk(client: Client, space: str, count: int) -> Any:
    rooms = client.get("/_matrix/client/v1/rooms/{}/hierarchy", at=[space])["rooms"]
    return len(rooms) == count and rooms


@both_ways
def test_summary_of_a_room_one_is_not_in(pair: Pair) -> None:
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    room = alice.create_room(preset="public_chat", name="Shop window")
    summary = bob.get("/_matrix/client/v1/room_summary/{}", at=[room], query=via(pair))
    assert (summary["room_id"], summary["name"], summary["num_joined_members"]) == (room, "Shop window", 1)
