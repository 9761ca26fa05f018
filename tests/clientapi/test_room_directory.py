"""Aliases, the directory, summaries, upgrades, reports.

Spec: client-server-api#published-room-directory
"""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.store.reports import load_reports
from tests.rooms.fixtures import server
from tests.rooms.harness import ALICE, BOB, CAROL, GUEST, V3, RoomsServer, in_path

__all__ = ["server"]

PLACE = "#place:test.example"
ALIAS_PATH = f"/directory/room/{in_path(PLACE)}"


def names(answer: Any) -> list[str]:
    return [room.get("name") for room in answer.json["chunk"]]


def public_rooms(server: RoomsServer, count: int) -> list[str]:
    return [server.create(visibility="public", name=f"room {n}") for n in range(count)]


def test_an_alias_from_birth_to_death(server: RoomsServer) -> None:
    room = server.create()
    assert server.put(ALIAS_PATH, {"room_id": room}).status == 200
    assert server.get(V3 + ALIAS_PATH, None).json == {"room_id": room, "servers": ["test.example"]}
    assert server.get(f"{V3}/rooms/{in_path(room)}/aliases").json == {"aliases": [PLACE]}
    assert server.get(f"{V3}/rooms/{in_path(room)}/aliases", BOB).errcode == "M_FORBIDDEN"
    assert server.put(ALIAS_PATH, {"room_id": room}).status == 409
    assert server.delete(ALIAS_PATH, BOB).errcode == "M_FORBIDDEN"
    assert server.delete(ALIAS_PATH).status == 200
    assert server.delete(ALIAS_PATH).errcode == "M_NOT_FOUND"
    assert server.get(V3 + ALIAS_PATH).errcode == "M_NOT_FOUND"


@pytest.mark.parametrize(
    ("alias", "body", "status", "errcode"),
    [
        ("place", {"room_id": "!x:test.example"}, 400, "M_INVALID_PARAM"),
        ("#place:else.example", {"room_id": "!x:test.example"}, 400, "M_INVALID_PARAM"),
        (PLACE, {"room_id": "x"}, 400, "M_INVALID_PARAM"),
        (PLACE, {}, 400, "M_MISSING_PARAM"),
        (PLACE, {"room_id": "!x:test.example"}, 404, "M_NOT_FOUND"),
    ],
)
def test_bad_aliases(server: RoomsServer, alias: str, body: dict[str, Any], status: int, errcode: str) -> None:
    answer = server.put(f"/directory/room/{in_path(alias)}", body)
    assert (answer.status, answer.errcode) == (status, errcode)


def test_only_members_give_aliases(server: RoomsServer) -> None:
    assert server.put(ALIAS_PATH, {"room_id": server.create()}, BOB).errcode == "M_FORBIDDEN"


def test_a_deleted_alias_is_no_main_alias(server: RoomsServer) -> None:
    room = server.create(room_alias_name="place")
    server.delete(ALIAS_PATH)
    assert server.state(room, "m.room.canonical_alias") == {}


@pytest.mark.parametrize(
    ("content", "errcode"),
    [
        ({"alias": "#no:test.example"}, "M_BAD_ALIAS"),
        ({"alt_aliases": ["#other:test.example"]}, "M_BAD_ALIAS"),
        ({"alias": "place"}, "M_INVALID_PARAM"),
        ({"alias": 1}, "M_BAD_JSON"),
        ({"alt_aliases": PLACE}, "M_BAD_JSON"),
    ],
)
def test_canonical_aliases_lead_to_the_room(server: RoomsServer, content: dict[str, Any], errcode: str) -> None:
    room = server.create(room_alias_name="place")
    server.create(room_alias_name="other")
    requester = server.site_requester(ALICE)
    check = server.policy.check_state_event
    with pytest.raises(Exception) as raised:
        server.wait(check(requester, room, "m.room.canonical_alias", "", content))
    assert raised.value.errcode == errcode  # type: ignore[attr-defined]
    server.wait(check(requester, room, "m.room.canonical_alias", "", {"alias": PLACE, "alt_aliases": [PLACE]}))


def test_publishing(server: RoomsServer) -> None:
    room = server.create(room_version="11", preset="public_chat")
    path = f"/directory/list/room/{in_path(room)}"
    server.do("join", room, BOB)
    assert server.put(path, {}, BOB).errcode == "M_FORBIDDEN"
    assert server.put(path, {}).status == 200
    assert server.get(V3 + path, None).json == {"visibility": "public"}
    assert server.put(path, {"visibility": "secret"}).errcode == "M_BAD_JSON"
    assert server.put(path, {"visibility": "private"}).status == 200
    assert server.get(V3 + path, None).json == {"visibility": "private"}
    assert server.get(f"{V3}/directory/list/room/!no%3Atest.example").errcode == "M_NOT_FOUND"


def test_the_list_is_true_at_once(server: RoomsServer) -> None:
    assert server.get(f"{V3}/publicRooms", None).json == {"chunk": [], "total_room_count_estimate": 0}
    room = server.create(visibility="public", name="Place", topic="Talk", room_alias_name="place")
    listed = server.get(f"{V3}/publicRooms", None).json["chunk"]
    assert listed == [
        {
            "room_id": room,
            "num_joined_members": 1,
            "world_readable": False,
            "guest_can_join": False,
            "name": "Place",
            "topic": "Talk",
            "canonical_alias": PLACE,
            "join_rule": "public",
        }
    ]
    server.do("join", room, BOB)
    server.send_state(room, "m.room.name", {"name": "Other"})
    server.send_state(room, "m.room.history_visibility", {"history_visibility": "world_readable"})
    changed = server.get(f"{V3}/publicRooms", None).json["chunk"][0]
    assert (changed["name"], changed["num_joined_members"], changed["world_readable"]) == ("Other", 2, True)
    for user_id in (ALICE, BOB):
        server.do("leave", room, user_id)
    assert server.get(f"{V3}/publicRooms", None).json["chunk"] == []


def test_paging_through_the_list(server: RoomsServer) -> None:
    rooms = public_rooms(server, 5)
    server.do("join", rooms[3], BOB)
    first = server.get(f"{V3}/publicRooms?limit=2", None).json
    second = server.get(f"{V3}/publicRooms?limit=2&since={first['next_batch']}", None).json
    third = server.get(f"{V3}/publicRooms?limit=2&since={second['next_batch']}", None).json
    pages = [[room["room_id"] for room in page["chunk"]] for page in (first, second, third)]
    assert pages[0][0] == rooms[3]
    assert sorted(room for page in pages for room in page) == sorted(rooms)
    assert "prev_batch" not in first
    assert "next_batch" not in third
    back = server.get(f"{V3}/publicRooms?limit=2&since={third['prev_batch']}", None).json
    assert [room["room_id"] for room in back["chunk"]] == pages[1]


def test_searching_the_list(server: RoomsServer) -> None:
    server.create(visibility="public", name="Cats", creation_content={"type": "m.space"})
    server.create(visibility="public", name="Dogs", topic="no CATS here")
    server.create(visibility="public", name="Birds")

    def search(**body: Any) -> list[str]:
        return sorted(names(server.post("/publicRooms", body)))

    assert search(filter={"generic_search_term": "cat"}) == ["Cats", "Dogs"]
    assert search(filter={"room_types": ["m.space"]}) == ["Cats"]
    assert search(filter={"room_types": [None]}) == ["Birds", "Dogs"]
    assert search(third_party_instance_id="irc") == []
    assert len(search(third_party_instance_id="irc", include_all_networks=True)) == 3


@pytest.mark.parametrize(
    ("query", "status", "errcode"),
    [
        ("limit=-1", 400, "M_INVALID_PARAM"),
        ("limit=x", 400, "M_INVALID_PARAM"),
        ("since=abc", 400, "M_INVALID_PARAM"),
        ("since=W10", 400, "M_INVALID_PARAM"),
        ("server=else.example", 404, "M_NOT_FOUND"),
        ("server=%20", 400, "M_INVALID_PARAM"),
    ],
)
def test_bad_listings(server: RoomsServer, query: str, status: int, errcode: str) -> None:
    answer = server.get(f"{V3}/publicRooms?{query}", None)
    assert (answer.status, answer.errcode) == (status, errcode)


def test_a_summary(server: RoomsServer) -> None:
    room = server.create(preset="public_chat", room_alias_name="place", topic="Talk")
    server.send_state(room, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    path = f"/_matrix/client/v1/room_summary/{in_path(PLACE)}"
    assert server.get(path, None).json == {
        "room_id": room,
        "num_joined_members": 1,
        "world_readable": False,
        "guest_can_join": False,
        "topic": "Talk",
        "canonical_alias": PLACE,
        "join_rule": "public",
        "room_version": "12",
        "encryption": "m.megolm.v1.aes-sha2",
    }
    assert server.get(path, ALICE).json["membership"] == "join"


def test_summaries_of_private_rooms(server: RoomsServer) -> None:
    room = server.create(invite=[BOB])
    path = f"/_matrix/client/v1/room_summary/{in_path(room)}"
    assert server.get(path, BOB).json["membership"] == "invite"
    assert server.get(path, CAROL).errcode == "M_NOT_FOUND"
    assert server.get(path, None).errcode == "M_NOT_FOUND"
    rules = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": "!p:x.example"}]}
    server.send_state(room, "m.room.join_rules", rules)
    assert server.get(path, BOB).json["allowed_room_ids"] == ["!p:x.example"]


@pytest.mark.parametrize(("old_version", "new_version"), [("9", "11"), ("11", "12"), ("12", "12"), ("12", "10")])
def test_an_upgrade(server: RoomsServer, old_version: str, new_version: str) -> None:
    old = server.create(
        room_version=old_version,
        visibility="public",
        name="Name",
        topic="Topic",
        room_alias_name="place",
        creation_content={"type": "m.space", "m.federate": True},
        power_level_content_override={"users": {**({} if old_version == "12" else {ALICE: 100}), CAROL: 75}},
    )
    server.act("ban", old, BOB, reason="spam")
    answer = server.post(f"/rooms/{in_path(old)}/upgrade", {"new_version": new_version})
    assert answer.status == 200, answer
    new = answer.json["replacement_room"]
    create = server.state(new, "m.room.create")
    assert create is not None
    assert (create["type"], create["room_version"], create["predecessor"]["room_id"]) == (
        "m.space",
        new_version,
        old,
    )
    assert server.state(new, "m.room.name") == {"name": "Name"}
    assert server.state(new, "m.room.join_rules") == {"join_rule": "public"}
    assert server.member(new, BOB) == {"membership": "ban", "reason": "spam"}
    tombstone = server.state(old, "m.room.tombstone")
    assert tombstone is not None
    assert tombstone["replacement_room"] == new
    assert server.get(V3 + ALIAS_PATH, None).json["room_id"] == new
    assert server.state(new, "m.room.canonical_alias") == {"alias": PLACE}
    assert [room["room_id"] for room in server.get(f"{V3}/publicRooms", None).json["chunk"]] == [new]
    levels = server.state(old, "m.room.power_levels")
    assert levels is not None
    assert (levels["events_default"], levels["invite"]) == (50, 50)
    new_levels = server.wait(server.heads.load(new)).power_levels
    assert new_levels.user(CAROL) == 75
    assert new_levels.user(ALICE) >= 100


def test_an_upgrade_by_somebody_with_little_power(server: RoomsServer) -> None:
    override = {"users": {ALICE: 100, BOB: 50}, "events": {"m.room.tombstone": 50}}
    old = server.create(room_version="10", preset="public_chat", power_level_content_override=override)
    server.do("join", old, BOB)
    new = server.post(f"/rooms/{in_path(old)}/upgrade", {"new_version": "11"}, BOB).json["replacement_room"]
    levels = server.state(new, "m.room.power_levels")
    assert levels is not None
    assert levels["users"] == {ALICE: 100, BOB: 50}


def test_an_upgrade_names_additional_creators(server: RoomsServer) -> None:
    old = server.create(room_version="11")
    body = {"new_version": "12", "additional_creators": [BOB]}
    new = server.post(f"/rooms/{in_path(old)}/upgrade", body).json["replacement_room"]
    create = server.state(new, "m.room.create")
    assert create is not None
    assert create["additional_creators"] == [BOB]


@pytest.mark.parametrize(
    ("body", "user_id", "status", "errcode"),
    [
        ({}, ALICE, 400, "M_MISSING_PARAM"),
        ({"new_version": "99"}, ALICE, 400, "M_UNSUPPORTED_ROOM_VERSION"),
        ({"new_version": "12", "additional_creators": ["bob"]}, ALICE, 400, "M_INVALID_PARAM"),
        ({"new_version": "11"}, BOB, 403, "M_FORBIDDEN"),
    ],
)
def test_bad_upgrades(server: RoomsServer, body: dict[str, Any], user_id: str, status: int, errcode: str) -> None:
    room = server.create(preset="public_chat")
    server.do("join", room, BOB)
    answer = server.post(f"/rooms/{in_path(room)}/upgrade", body, user_id)
    assert (answer.status, answer.errcode) == (status, errcode)
    assert server.state(room, "m.room.tombstone") is None


def test_reports_are_kept(server: RoomsServer) -> None:
    room = server.create()
    event_id = server.timeline(room)[0].event_id
    assert server.post(f"/rooms/{in_path(room)}/report", {"reason": "bad"}, BOB).status == 200
    assert server.post(f"/rooms/{in_path(room)}/report/{in_path(event_id)}", {"score": -5}).status == 200
    assert server.post(f"/users/{in_path(BOB)}/report", {"reason": ""}).status == 200
    reports = [report for _, report in server.wait(server.database.read(load_reports, 0, 10))]
    assert [(x.reporter, x.room_id, x.event_id, x.user_id, x.reason) for x in reports] == [
        (BOB, room, None, None, "bad"),
        (ALICE, room, event_id, None, None),
        (ALICE, None, None, BOB, ""),
    ]


def test_reports_of_what_is_not_there(server: RoomsServer) -> None:
    room = server.create()
    event_id = server.timeline(room)[0].event_id
    assert server.post("/rooms/!no%3Atest.example/report", {"reason": ""}).errcode == "M_NOT_FOUND"
    assert server.post(f"/rooms/{in_path(room)}/report").errcode == "M_MISSING_PARAM"
    assert server.post(f"/rooms/{in_path(room)}/report/{in_path(event_id)}", {}, BOB).errcode == "M_NOT_FOUND"
    assert server.post(f"/rooms/{in_path(room)}/report/$no", {}).errcode == "M_NOT_FOUND"
    assert server.post(f"/users/{in_path(BOB)}/report", {"reason": "x" * 5000}).errcode == "M_INVALID_PARAM"
    assert server.post(f"/users/{in_path(BOB)}/report", {"reason": "x"}, GUEST).status == 403
