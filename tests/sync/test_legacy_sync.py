"""/events and /initialSync, which translate /sync."""

from __future__ import annotations

from homeserver.matrix.ids import DeviceId, UserId
from homeserver.sync.legacy import LegacySync
from homeserver.sync.tokens import parse_sync_token
from tests.sync.world import World

ALICE, BOB = UserId("@alice:test"), UserId("@bob:test")
DEVICE = DeviceId("D")


def _legacy(world: World) -> LegacySync:
    return LegacySync(world.service, world.heads, world.events, world.memberships)


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


def test_events_follow_from_where_initial_sync_ended(world: World) -> None:
    room_id = world.create(ALICE)
    legacy = _legacy(world)
    end = world.run(legacy.load_all(ALICE, DEVICE, 3, archived=False))["end"]
    waiting = world.start(legacy.wait_events(ALICE, DEVICE, parse_sync_token(end), 9000, None))
    event_id = world.send(ALICE, room_id, "hello")
    world.settle()
    answer = world.wait(waiting)
    assert answer["start"] == end
    assert [(event["event_id"], event["room_id"]) for event in answer["chunk"]] == [(event_id, room_id)]


def test_events_of_one_room_leave_out_the_others(world: World) -> None:
    one, two = world.create(ALICE), world.create(ALICE)
    since = parse_sync_token(world.sync(ALICE)["next_batch"])
    world.send(ALICE, one, "x")
    world.send(ALICE, two, "y")
    answer = world.run(_legacy(world).wait_events(ALICE, DEVICE, since, 0, two))
    assert [event["content"]["body"] for event in answer["chunk"]] == ["y"]
