"""Spec: client-server-api#post_matrixclientv3createroom"""

from __future__ import annotations

from typing import Any

import pytest

from tests.rooms.fixtures import server
from tests.rooms.harness import ALICE, BOB, CAROL, V3, RoomsServer, in_path

__all__ = ["server"]

ALL_VERSIONS = [str(number) for number in range(1, 13)]


def test_a_private_room_by_default(server: RoomsServer) -> None:
    room = server.create()
    assert server.state(room, "m.room.create") == {"room_version": "12"}
    assert server.state(room, "m.room.join_rules") == {"join_rule": "invite"}
    assert server.state(room, "m.room.history_visibility") == {"history_visibility": "shared"}
    assert server.state(room, "m.room.guest_access") == {"guest_access": "can_join"}
    assert ":" not in room


def test_public_visibility_means_the_public_preset(server: RoomsServer) -> None:
    room = server.create(visibility="public")
    assert server.state(room, "m.room.join_rules") == {"join_rule": "public"}
    assert server.state(room, "m.room.guest_access") == {"guest_access": "forbidden"}
    assert server.get(f"{V3}/directory/list/room/{in_path(room)}", None).json == {"visibility": "public"}


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_every_room_version(server: RoomsServer, version: str) -> None:
    room = server.create(
        room_version=version, name="n", invite=[BOB], room_alias_name="x", preset="trusted_private_chat"
    )
    create = server.state(room, "m.room.create")
    assert create is not None
    assert create["room_version"] == version
    assert create.get("creator") == (ALICE if int(version) < 11 else None)
    assert server.do("join", room, BOB).status == 200
    levels = server.wait(server.heads.load(room)).power_levels
    assert levels.user(BOB) == levels.user(ALICE) >= 100


def test_the_order_of_events(server: RoomsServer) -> None:
    room = server.create(
        room_alias_name="place",
        name="Name",
        topic="Topic",
        invite=[BOB, CAROL],
        initial_state=[
            {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}},
            {"type": "m.room.guest_access", "content": {"guest_access": "forbidden"}},
        ],
    )
    assert [event.pdu.type.removeprefix("m.room.") for event in server.timeline(room)] == [
        "create",
        "member",
        "power_levels",
        "canonical_alias",
        "join_rules",
        "history_visibility",
        "encryption",
        "guest_access",
        "name",
        "topic",
        "member",
        "member",
    ]
    assert server.state(room, "m.room.canonical_alias") == {"alias": "#place:test.example"}
    assert server.state(room, "m.room.guest_access") == {"guest_access": "forbidden"}


def test_all_events_come_in_one_write(server: RoomsServer) -> None:
    room = server.create(invite=[BOB])
    assert server.wait(server.heads.load(room)).number == 1


def test_a_topic_is_also_rich(server: RoomsServer) -> None:
    room = server.create(topic="Hello")
    assert server.state(room, "m.room.topic") == {
        "topic": "Hello",
        "m.topic": {"m.text": [{"body": "Hello", "mimetype": "text/plain"}]},
    }


def test_power_levels_before_version_12(server: RoomsServer) -> None:
    levels = server.state(server.create(room_version="11"), "m.room.power_levels")
    assert levels is not None
    assert levels["users"] == {ALICE: 100}
    assert levels["events"]["m.room.tombstone"] == 100
    assert levels["events"]["org.matrix.msc3401.call.member"] == 0


def test_power_levels_of_version_12_leave_the_creator_out(server: RoomsServer) -> None:
    levels = server.state(server.create(power_level_content_override={"ban": 70}), "m.room.power_levels")
    assert levels is not None
    assert levels["users"] == {}
    assert levels["events"]["m.room.tombstone"] == 150
    assert levels["ban"] == 70


def test_trusted_private_chat_makes_invitees_creators(server: RoomsServer) -> None:
    room = server.create(
        preset="trusted_private_chat",
        invite=[BOB],
        is_direct=True,
        creation_content={
            "additional_creators": [CAROL, BOB],
            "creator": "@eve:test.example",
            "m.federate": False,
        },
    )
    assert server.state(room, "m.room.create") == {
        "room_version": "12",
        "m.federate": False,
        "additional_creators": [CAROL, BOB],
    }
    assert server.member(room, BOB) == {"membership": "invite", "is_direct": True}


def test_profiles_are_in_the_member_events(server: RoomsServer) -> None:
    server.profiles.known[ALICE] = {"displayname": "Alice", "m.tz": "UTC"}
    server.profiles.known[BOB] = {"displayname": "Bob", "avatar_url": "mxc://test.example/bob"}
    room = server.create(invite=[BOB])
    assert server.member(room, ALICE) == {"membership": "join", "displayname": "Alice"}
    assert server.member(room, BOB) == {
        "membership": "invite",
        "displayname": "Bob",
        "avatar_url": "mxc://test.example/bob",
    }


@pytest.mark.parametrize(
    ("body", "status", "errcode", "named"),
    [
        ({"room_version": "99"}, 400, "M_UNSUPPORTED_ROOM_VERSION", "99"),
        ({"preset": "secret"}, 400, "M_BAD_JSON", "preset"),
        ({"invite": ["bob"]}, 400, "M_INVALID_PARAM", "invite"),
        ({"invite": ["@bob:elsewhere.example"]}, 403, "M_FORBIDDEN", "elsewhere.example"),
        ({"room_alias_name": "a b"}, 400, "M_INVALID_PARAM", "room_alias_name"),
        ({"room_alias_name": "x" * 300}, 400, "M_INVALID_PARAM", "room_alias_name"),
        (
            {"creation_content": {"additional_creators": ["bob"]}},
            400,
            "M_INVALID_PARAM",
            "additional_creators",
        ),
        ({"creation_content": {"additional_creators": BOB}}, 400, "M_BAD_JSON", "additional_creators"),
        ({"creation_content": {"m.federate": 1}}, 400, "M_BAD_JSON", "m.federate"),
        ({"initial_state": [{"content": {}}]}, 400, "M_MISSING_PARAM", "type"),
        (
            {"initial_state": [{"type": "m.room.member", "content": {}}]},
            400,
            "M_INVALID_PARAM",
            "initial_state",
        ),
        ({"power_level_content_override": {"users": {ALICE: 100}}}, 400, "M_INVALID_ROOM_STATE", "creator"),
        ({"power_level_content_override": {"ban": "50"}}, 400, "M_BAD_JSON", "ban"),
        ({"power_level_content_override": {"users": []}}, 400, "M_BAD_JSON", "users"),
        (
            {"room_version": "11", "power_level_content_override": {"users": {}}},
            400,
            "M_INVALID_ROOM_STATE",
            "",
        ),
        ({"name": "x" * 70_000}, 413, "M_TOO_LARGE", ""),
        (
            {"invite_3pid": [{"id_server": "i", "id_access_token": "t", "medium": "email", "address": "a@b.example"}]},
            403,
            "M_SERVER_NOT_TRUSTED",
            "",
        ),
        ({"invite_3pid": [{"medium": "email"}]}, 400, "M_MISSING_PARAM", "id_server"),
    ],
)
def test_bad_requests(server: RoomsServer, body: dict[str, Any], status: int, errcode: str, named: str) -> None:
    answer = server.post("/createRoom", body)
    assert (answer.status, answer.errcode) == (status, errcode), answer
    assert named in answer.json["error"]
    assert server.rows == []


def test_an_alias_that_is_taken(server: RoomsServer) -> None:
    server.create(room_alias_name="place")
    answer = server.post("/createRoom", {"room_alias_name": "place"}, BOB)
    assert (answer.status, answer.errcode) == (400, "M_ROOM_IN_USE")


def test_a_suspended_user_makes_no_room(server: RoomsServer) -> None:
    answer = server.post("/createRoom", {}, "@suspended:test.example")
    assert (answer.status, answer.errcode) == (403, "M_USER_SUSPENDED")


def test_like_rooms_of_one_millisecond_are_two(server: RoomsServer) -> None:
    assert len({server.create(name="same") for _ in range(3)}) == 3
