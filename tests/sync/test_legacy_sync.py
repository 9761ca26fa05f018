"""/initialSync, which translates /sync."""

from __future__ import annotations

from homeserver.matrix.ids import DeviceId, UserId
from homeserver.sync.legacy import LegacySync
from tests.sync.world import World

ALICE, BOB = UserId("@alice:test"), UserId("@bob:test")
DEVICE = DeviceId("D")


def _legacy(world: World) -> LegacySync:
    return LegacySync(world.service)


def test_initial_sync_has_rooms_with_current_state_and_invites(world: World) -> None:
    room_id, other = world.create(ALICE, name="one"), world.create(BOB)
    world.member(BOB, other, ALICE, "invite")
    answer = world.run(_legacy(world).load_all(ALICE, DEVICE, 3, archived=False))
    rooms = {room["room_id"]: room for room in answer["rooms"]}
    assert rooms[room_id]["membership"] == "join"
    assert len(rooms[room_id]["messages"]["chunk"]) == 3
    assert {"name": "one"} in [event["content"] for event in rooms[room_id]["state"]]
    assert rooms[other]["invite"]["content"]["membership"] == "invite"
    assert answer["presence"] == []


def test_archived_rooms_are_told_with_what_became_of_the_user(world: World) -> None:
    room_id = world.create(ALICE)
    world.member(BOB, room_id, BOB, "join")
    world.member(ALICE, room_id, BOB, "ban")
    (room,) = world.run(_legacy(world).load_all(BOB, DEVICE, 3, archived=True))["rooms"]
    assert room["membership"] == "ban"
