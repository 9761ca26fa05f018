"""Every way into and out of a room whose server is another one, in the room versions that differ in it.

alice's server has the room; bob's is the other one. What happened is looked at on both sides.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.kit.client import Client
from tests.kit.peers import Pair
from tests.kit.waiting import until
from tests.scenarios.federated_rooms import both_ways, every_version, get_membership, join, via

KNOCKING = ("10", "11", "12")

knocking_versions = pytest.mark.parametrize("version", KNOCKING)

EVERYTHING = {"room": {"include_leave": True, "timeline": {"limit": 1}}, "presence": {"types": []}}


def standing(client: Client, room: str) -> str | None:
    """Which part of a first /sync the room is in: "join", "invite", "knock", "leave" or none."""
    rooms = client.another_device().sync(filter=EVERYTHING).get("rooms", {})
    return next((part for part in ("join", "invite", "knock", "leave") if room in rooms.get(part, {})), None)


def comes_to(client: Client, room: str, wanted: str) -> None:
    """The user sees themselves so."""
    until(client, lambda: standing(client, room) == wanted)


def sees(client: Client, room: str, user: Client, wanted: str) -> None:
    """The client sees another's membership so."""
    until(client, lambda: get_membership(client, room, user) == wanted)


def knock(client: Client, room: str, pair: Pair) -> None:
    client.post("/knock/{}", {"reason": "please"}, at=[room], query=via(pair))


def set_rule(alice: Client, room: str, rule: str, **more: Any) -> None:
    alice.set_state(room, "m.room.join_rules", {"join_rule": rule, **more})


@both_ways
@every_version
def test_invited_user_joins_leaves_and_joins_again(pair: Pair, version: str) -> None:
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    room = alice.create_room(room_version=version, name="The room")
    join(bob, room, pair, expect=403)
    alice.invite(room, bob.user_id)
    comes_to(bob, room, "invite")
    bob.join(room)
    comes_to(bob, room, "join")
    sees(alice, room, bob, "join")
    assert bob.get_state(room, "m.room.name") == {"name": "The room"}
    assert bob.get_state(room, "m.room.create").get("room_version", "1") == version

    bob.leave(room)
    sees(alice, room, bob, "leave")
    comes_to(bob, room, "leave")
    alice.invite(room, bob.user_id)
    comes_to(bob, room, "invite")
    bob.join(room)
    sees(alice, room, bob, "join")


@both_ways
@every_version
def test_invite_is_rejected(pair: Pair, version: str) -> None:
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    room = alice.create_room(room_version=version)
    alice.invite(room, bob.user_id)
    comes_to(bob, room, "invite")
    bob.leave(room)
    sees(alice, room, bob, "leave")
    assert standing(bob, room) in ("leave", None)
    join(bob, room, pair, expect=403)


@both_ways
@every_version
def test_invite_is_taken_back(pair: Pair, version: str) -> None:
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    room = alice.create_room(room_version=version)
    alice.invite(room, bob.user_id)
    comes_to(bob, room, "invite")
    alice.kick(room, bob.user_id)
    until(bob, lambda: standing(bob, room) in ("leave", None))
    join(bob, room, pair, expect=403)


@both_ways
@every_version
def test_public_room_is_joined_by_its_alias(pair: Pair, version: str) -> None:
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    name = f"lobby{alice.user_id.partition(':')[0][1:]}"
    room = alice.create_room(room_version=version, preset="public_chat", room_alias_name=name)
    assert bob.post("/join/{}", {}, at=[f"#{name}:{pair.near.name}"]) == {"room_id": room}
    sees(alice, room, bob, "join")
    sees(bob, room, alice, "join")
    bob.leave(room)
    sees(alice, room, bob, "leave")
    join(bob, room, pair)
    sees(alice, room, bob, "join")


@both_ways
@every_version
def test_kick_ban_and_unban_by_the_room_s_server(pair: Pair, version: str) -> None:
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    room = alice.create_room(room_version=version, preset="public_chat")
    join(bob, room, pair)
    # With the room's whole state, which a server that is removed before it came is not given any more.
    comes_to(bob, room, "join")
    alice.kick(room, bob.user_id)
    comes_to(bob, room, "leave")
    join(bob, room, pair)
    comes_to(bob, room, "join")
    alice.ban(room, bob.user_id)
    comes_to(bob, room, "leave")
    join(bob, room, pair, expect=403)
    alice.unban(room, bob.user_id)
    sees(alice, room, bob, "leave")
    join(bob, room, pair)
    sees(alice, room, bob, "join")


@both_ways
@every_version
def test_members_of_the_other_server_invite_kick_ban_and_unban(pair: Pair, version: str) -> None:
    alice, carol, bob = pair.near.person("alice"), pair.near.person("carol"), pair.far.person("bob")
    room = alice.create_room(room_version=version)
    alice.invite(room, bob.user_id)
    comes_to(bob, room, "invite")
    bob.join(room)
    sees(alice, room, bob, "join")
    levels = alice.get_state(room, "m.room.power_levels")
    alice.set_state(room, "m.room.power_levels", {**levels, "users": {**levels.get("users", {}), bob.user_id: 60}})
    until(bob, lambda: bob.get_state(room, "m.room.power_levels")["users"].get(bob.user_id) == 60)

    bob.invite(room, carol.user_id)
    comes_to(carol, room, "invite")
    carol.join(room)
    sees(bob, room, carol, "join")
    bob.kick(room, carol.user_id)
    comes_to(carol, room, "leave")
    sees(alice, room, carol, "leave")
    bob.ban(room, carol.user_id)
    sees(alice, room, carol, "ban")
    bob.unban(room, carol.user_id)
    sees(alice, room, carol, "leave")
    alice.leave(room)
    sees(bob, room, alice, "leave")


@both_ways
@knocking_versions
def test_knock_is_accepted(pair: Pair, version: str) -> None:
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    room = alice.create_room(room_version=version, name="Knock, knock")
    set_rule(alice, room, "knock")
    knock(bob, room, pair)
    sees(alice, room, bob, "knock")
    comes_to(bob, room, "knock")
    alice.invite(room, bob.user_id)
    comes_to(bob, room, "invite")
    bob.join(room)
    sees(alice, room, bob, "join")
    comes_to(bob, room, "join")


@both_ways
@knocking_versions
def test_knock_is_taken_back(pair: Pair, version: str) -> None:
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    room = alice.create_room(room_version=version)
    set_rule(alice, room, "knock")
    knock(bob, room, pair)
    sees(alice, room, bob, "knock")
    bob.leave(room)
    assert standing(bob, room) in ("leave", None)
    if pair.far.make == "hearth":  # Synapse tells nobody.
        sees(alice, room, bob, "leave")


@both_ways
@knocking_versions
def test_knock_is_refused_and_one_may_knock_again(pair: Pair, version: str) -> None:
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    room = alice.create_room(room_version=version)
    set_rule(alice, room, "knock")
    knock(bob, room, pair)
    sees(alice, room, bob, "knock")
    alice.kick(room, bob.user_id)
    if pair.near.make == pair.far.make == "hearth":
        # Synapse tells nobody of a refused knock, and does not listen to it.
        until(bob, lambda: standing(bob, room) in ("leave", None))
    knock(bob, room, pair)
    sees(alice, room, bob, "knock")
    alice.invite(room, bob.user_id)
    comes_to(bob, room, "invite")


@both_ways
@knocking_versions
def test_restricted_room_takes_members_of_another(pair: Pair, version: str) -> None:
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    space = alice.create_room(room_version=version, preset="public_chat", creation_content={"type": "m.space"})
    room = alice.create_room(room_version=version)
    set_rule(alice, room, "restricted", allow=[{"type": "m.room_membership", "room_id": space}])
    join(bob, room, pair, expect=403)
    join(bob, space, pair)
    sees(alice, space, bob, "join")
    join(bob, room, pair)
    sees(alice, room, bob, "join")
    member = alice.get_state(room, "m.room.member", bob.user_id)
    assert member["join_authorised_via_users_server"] == alice.user_id


@both_ways
@knocking_versions
def test_knock_restricted_room_takes_members_and_knocks(pair: Pair, version: str) -> None:
    alice, bob, dora = pair.near.person("alice"), pair.far.person("bob"), pair.far.person("dora")
    space = alice.create_room(room_version=version, preset="public_chat", creation_content={"type": "m.space"})
    room = alice.create_room(room_version=version)
    set_rule(alice, room, "knock_restricted", allow=[{"type": "m.room_membership", "room_id": space}])
    join(bob, space, pair)
    sees(alice, space, bob, "join")
    knock(dora, room, pair)
    sees(alice, room, dora, "knock")
    join(bob, room, pair)
    sees(alice, room, bob, "join")
    # A member of the other server now lets in one of theirs who knocked: that is theirs to do.
    levels = alice.get_state(room, "m.room.power_levels")
    alice.set_state(room, "m.room.power_levels", {**levels, "users": {**levels.get("users", {}), bob.user_id: 60}})
    until(bob, lambda: bob.get_state(room, "m.room.power_levels")["users"].get(bob.user_id) == 60)
    bob.invite(room, dora.user_id)
    comes_to(dora, room, "invite")
    dora.join(room)
    sees(alice, room, dora, "join")
