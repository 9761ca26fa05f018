"""Invites and knocks in rooms that this server is not in, as /sync tells them."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.ids import UserId
from homeserver.matrix.pdu import Pdu
from homeserver.rooms.outside_rooms import OutsideRooms
from homeserver.runtime.turns import Turns
from tests.rooms.remote_room import RemoteRoom
from tests.sync.world import SERVER, World

ALICE = UserId("@alice:test")
ZOE = "@zoe:remote.example"
NAME = {"type": "m.room.name", "state_key": "", "sender": ZOE, "content": {"name": "Far away"}}


@pytest.fixture
def outside(world: World) -> OutsideRooms:
    return OutsideRooms(SERVER, world.database, world.memberships, world.log, Turns())


def make_invite() -> tuple[RemoteRoom, Pdu]:
    room = RemoteRoom(ZOE).open(ZOE, join_rule="knock")
    return room, room.member(ZOE, ALICE, "invite")


def rooms(answer: dict[str, Any], section: str) -> dict[str, Any]:
    found: dict[str, Any] = answer.get("rooms", {}).get(section, {})
    return found


def test_invite_is_shown_with_its_stripped_state_and_again_after_a_restart(world: World, outside: OutsideRooms) -> None:
    since = world.sync(ALICE)["next_batch"]
    room, invite = make_invite()
    world.run(outside.receive_invite(invite, [NAME]))
    told = rooms(world.sync(ALICE, since), "invite")[invite.room_id]["invite_state"]["events"]
    assert told[0] == NAME
    assert told[1] == {
        "type": "m.room.member",
        "state_key": ALICE,
        "sender": ZOE,
        "content": {"membership": "invite"},
    }
    assert len(told) == 2
    world.restart()
    assert room.room_id in rooms(world.sync(ALICE, since), "invite")
    assert room.room_id in rooms(world.sync(ALICE), "invite")


def test_waiting_client_is_woken_by_the_invite(world: World, outside: OutsideRooms) -> None:
    since = world.sync(ALICE)["next_batch"]
    waiting = world.start(world.service.sync(world.request(ALICE, since, timeout_ms=30_000)))
    _, invite = make_invite()
    world.run(outside.receive_invite(invite, [NAME]))
    world.settle()
    assert invite.room_id.encode() in world.wait(waiting)


def test_invite_is_withdrawn_by_the_server_that_sent_it_and_by_no_other(world: World, outside: OutsideRooms) -> None:
    room, invite = make_invite()
    world.run(outside.receive_invite(invite, [NAME]))
    since = world.sync(ALICE)["next_batch"]
    forged = room.member("@mallory:evil.example", ALICE, "leave", after=[invite])
    assert world.run(outside.receive_end(forged)) is False
    assert rooms(world.sync(ALICE, since), "leave") == {}
    kick = room.member(ZOE, ALICE, "leave", after=[invite])
    assert world.run(outside.receive_end(kick)) is True
    told = rooms(world.sync(ALICE, since), "leave")[invite.room_id]["timeline"]
    assert [event["event_id"] for event in told["events"]] == [kick.event_id]
    assert rooms(world.sync(ALICE), "invite") == {}
    assert world.run(outside.receive_end(kick)) is False


def test_refused_invite_is_told_once_and_a_new_one_shows_the_room_again(world: World, outside: OutsideRooms) -> None:
    room, invite = make_invite()
    world.run(outside.receive_invite(invite, [NAME]))
    since = world.sync(ALICE)["next_batch"]
    refusal = room.member(ALICE, ALICE, "leave", after=[invite])
    world.run(outside.store(refusal, (), ()))
    answer = world.sync(ALICE, since)
    assert invite.room_id in rooms(answer, "leave")
    assert "rooms" not in world.sync(ALICE, answer["next_batch"])
    assert world.run(outside.load_servers(ALICE, invite.room_id)) == ["remote.example"]
    again = room.member(ZOE, ALICE, "invite", after=[refusal])
    world.run(outside.receive_invite(again, [NAME]))
    assert invite.room_id in rooms(world.sync(ALICE, answer["next_batch"]), "invite")


def test_knock_is_shown_and_ended_by_a_server_of_the_room(world: World, outside: OutsideRooms) -> None:
    room = RemoteRoom(ZOE).open(ZOE, join_rule="knock")
    knock = room.member(ALICE, ALICE, "knock")
    world.run(outside.store(knock, [NAME], ["remote.example"]))
    answer = world.sync(ALICE)
    assert rooms(answer, "knock")[knock.room_id]["knock_state"]["events"][0] == NAME
    assert world.run(outside.receive_end(room.member(ZOE, ALICE, "ban", after=[knock]))) is True
    assert knock.room_id in rooms(world.sync(ALICE, answer["next_batch"]), "leave")
