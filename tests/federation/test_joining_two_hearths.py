"""Two Hearths: users of one come into rooms of the other, and out again."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.versions import ROOM_VERSIONS
from tests.federation.resident import MEMBER
from tests.kit.client import Client, bodies, timeline
from tests.kit.waiting import until_equal, until_synced

GUEST_ACCESS = "m.room.guest_access"


def join(client: Client, room_id: str, server: Any, **about: Any) -> Any:
    return client.post("/join/{}", {}, at=[room_id], query={"via": [server.server_name]}, **about)


def wait_for(client: Client, room_id: str, event_id: str) -> None:
    """Until the event is shown to the user."""
    for _ in range(20):
        if any(event["event_id"] == event_id for event in timeline(client.sync(timeout=10_000), room_id)):
            return
    raise AssertionError("the event does not come")


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_room_is_joined_and_its_history_read(start_federated: Any, version: str) -> None:
    one, two = start_federated("one"), start_federated("two")
    alice, bob = one.register("alice"), two.register("bob")
    room_id = alice.create_room(room_version=version, preset="public_chat", name="Shared")
    alice.send(room_id, "before")
    join(bob, room_id, one)
    assert bob.get_state(room_id, "m.room.name") == {"name": "Shared"}
    members = bob.get("/rooms/{}/joined_members", at=[room_id])["joined"]
    assert set(members) == {alice.user_id, bob.user_id}
    assert alice.get_state(room_id, MEMBER, bob.user_id)["membership"] == "join"
    assert bodies(bob.messages(room_id, limit=100)["chunk"]) == ["before"]


def test_invite_is_accepted_across_servers(start_federated: Any) -> None:
    one, two = start_federated("one"), start_federated("two")
    alice, bob = one.register("alice"), two.register("bob")
    room_id = alice.create_room(preset="private_chat", name="Private")
    join(bob, room_id, one, expect=403)
    alice.invite(room_id, bob.user_id)
    assert room_id in bob.sync()["rooms"]["invite"]
    bob.join(room_id)
    assert alice.get_state(room_id, MEMBER, bob.user_id)["membership"] == "join"


def test_guest_stays_in_a_room_of_another_server_that_admits_guests(start_federated: Any) -> None:
    one, two = start_federated("one"), start_federated("two", {"registration": {"guests": True}})
    alice, guest = one.register("alice"), two.client()
    guest.register_guest()
    room_id = alice.create_room(preset="public_chat")
    alice.set_state(room_id, GUEST_ACCESS, {"guest_access": "can_join"})
    join(guest, room_id, one)
    alice.send(room_id, "welcome")
    until_synced(guest, lambda sync: "welcome" in bodies(timeline(sync, room_id)))
    assert alice.get_state(room_id, MEMBER, guest.user_id)["membership"] == "join"
    alice.set_state(room_id, GUEST_ACCESS, {"guest_access": "forbidden"})
    until_equal(alice, lambda: alice.get_state(room_id, MEMBER, guest.user_id)["membership"], "leave")


def test_invite_is_refused_across_servers(start_federated: Any) -> None:
    one, two = start_federated("one"), start_federated("two")
    alice, bob = one.register("alice"), two.register("bob")
    room_id = alice.create_room(preset="private_chat")
    alice.invite(room_id, bob.user_id)
    bob.leave(room_id)
    assert alice.get_state(room_id, MEMBER, bob.user_id)["membership"] == "leave"


def test_knock_is_made_and_taken_back_across_servers(start_federated: Any) -> None:
    one, two = start_federated("one"), start_federated("two")
    alice, bob = one.register("alice"), two.register("bob")
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room_id = alice.create_room(initial_state=[rules])
    bob.post("/knock/{}", {"reason": "please"}, at=[room_id], query={"via": [one.server_name]})
    assert alice.get_state(room_id, MEMBER, bob.user_id)["reason"] == "please"
    bob.leave(room_id)
    assert alice.get_state(room_id, MEMBER, bob.user_id)["membership"] == "leave"


def test_restricted_room_lets_members_of_another_room_in(start_federated: Any) -> None:
    one, two = start_federated("one"), start_federated("two")
    alice, bob, carol = one.register("alice"), two.register("bob"), two.register("carol")
    lobby = alice.create_room(preset="public_chat")
    allow = [{"type": "m.room_membership", "room_id": lobby}]
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "restricted", "allow": allow}}
    room_id = alice.create_room(initial_state=[rules])
    join(carol, room_id, one, expect=403)
    for client in (bob, carol):
        join(client, lobby, one)
    join(bob, room_id, one)
    assert alice.get_state(room_id, MEMBER, bob.user_id)["join_authorised_via_users_server"] == alice.user_id
    # Nobody of Carol's server may invite, so Alice's is asked although Bob's is in the room.
    levels = alice.get_state(room_id, "m.room.power_levels")
    changed = alice.set_state(room_id, "m.room.power_levels", {**levels, "invite": 50})
    wait_for(bob, room_id, changed)
    join(carol, room_id, one)
    assert alice.get_state(room_id, MEMBER, carol.user_id)["membership"] == "join"


def test_space_alias_directory_and_profile_of_another_server(start_federated: Any) -> None:
    one, two = start_federated("one"), start_federated("two")
    alice, bob = one.register("alice"), two.register("bob")
    space = alice.create_room(
        preset="public_chat", room_alias_name="space", visibility="public", creation_content={"type": "m.space"}
    )
    room_id = alice.create_room(preset="public_chat", name="In it")
    alice.set_state(space, "m.space.child", {"via": [one.server_name]}, room_id)
    listed = bob.post("/publicRooms", {}, query={"server": one.server_name})["chunk"]
    assert [room["room_id"] for room in listed] == [space]
    alias = f"#space:{one.server_name}"
    assert bob.get("/directory/room/{}", at=[alias])["room_id"] == space
    summary = bob.get("/_matrix/client/v1/room_summary/{}", at=[alias])
    assert (summary["room_id"], summary["membership"]) == (space, "leave")
    bob.join(alias)
    rooms = bob.get("/_matrix/client/v1/rooms/{}/hierarchy", at=[space])["rooms"]
    assert [room["room_id"] for room in rooms] == [space, room_id]
    assert bob.get("/profile/{}", at=[alice.user_id])["displayname"] == "alice"
