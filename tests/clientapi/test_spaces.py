"""Spaces and mutual rooms."""

from __future__ import annotations

import re
from typing import Any

import pytest

HIERARCHY = "/_matrix/client/v1/rooms/{}/hierarchy"
SUMMARY = "/_matrix/client/v1/room_summary/{}"
# Room versions, each with a join rule that it knows or is too old for.
KNOCK_RULES = (("6", "knock"), ("7", "knock"), ("9", "knock_restricted"), ("10", "knock_restricted"))
MUTUAL = "/_matrix/client/v1/mutual_rooms"


def make_space(client: Any, **more: Any) -> str:
    space: str = client.create_room(creation_content={"type": "m.space"}, preset="public_chat", **more)
    return space


def add(client: Any, space: str, room: str, **content: Any) -> None:
    client.set_state(space, "m.space.child", {"via": ["test.example"], **content}, room)


def ids(answer: Any) -> list[str]:
    return [room["room_id"] for room in answer["rooms"]]


def test_a_space_is_walked_in_order_and_in_pages(hearth: Any) -> None:
    alice = hearth.register("alice")
    top, inner = make_space(alice, name="Top"), make_space(alice)
    last, first, deep = (alice.create_room(preset="public_chat") for _ in range(3))
    add(alice, top, last)
    add(alice, top, first, order="a", suggested=True)
    add(alice, top, inner, order="b")
    add(alice, inner, deep)
    add(alice, inner, top)  # a loop
    whole = alice.get(HIERARCHY, at=[top])
    assert ids(whole) == [top, first, inner, deep, last]
    assert whole["rooms"][0]["name"] == "Top"
    children = whole["rooms"][0]["children_state"]
    assert [child["state_key"] for child in children] == [first, inner, last]
    assert children[0]["content"] == {"via": ["test.example"], "order": "a", "suggested": True}
    page = alice.get(HIERARCHY, at=[top], query={"limit": 2})
    assert ids(page) == [top, first]
    rest = alice.get(HIERARCHY, at=[top], query={"limit": 9, "from": page["next_batch"]})
    assert ids(rest) == [inner, deep, last]
    assert "next_batch" not in rest
    assert ids(alice.get(HIERARCHY, at=[top], query={"max_depth": 1})) == [top, first, inner, last]
    assert ids(alice.get(HIERARCHY, at=[top], query={"suggested_only": True})) == [top, first]
    wrong = {"from": page["next_batch"], "max_depth": 1}
    assert alice.get(HIERARCHY, at=[top], query=wrong, expect=400)["errcode"] == "M_INVALID_PARAM"
    assert alice.get(HIERARCHY, at=[top], query={"from": "x"}, expect=400)["errcode"] == "M_INVALID_PARAM"


def test_rooms_that_one_may_not_see_are_left_out(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    space = make_space(alice)
    hidden, shown, gone = alice.create_room(), alice.create_room(preset="public_chat"), alice.create_room()
    restricted = alice.create_room(
        initial_state=[
            {
                "type": "m.room.join_rules",
                "content": {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": space}]},
            }
        ]
    )
    for room in (hidden, shown, restricted, gone):
        add(alice, space, room)
    alice.set_state(space, "m.space.child", {}, gone)  # taken out of the space
    assert ids(bob.get(HIERARCHY, at=[space])) == [space, shown]
    bob.join(space)
    found = bob.get(HIERARCHY, at=[space])
    assert ids(found) == [space, shown, restricted]
    assert found["rooms"][2]["allowed_room_ids"] == [space]
    assert bob.get(HIERARCHY, at=[hidden], expect=403)["errcode"] == "M_FORBIDDEN"


def test_rules_that_the_room_s_version_does_not_know_open_nothing(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    space = make_space(alice)
    rules = {version: [{"type": "m.room.join_rules", "content": {"join_rule": rule}}] for version, rule in KNOCK_RULES}
    rooms = [alice.create_room(room_version=version, initial_state=state) for version, state in rules.items()]
    for room in rooms:
        add(alice, space, room)
    knockable = [room for (version, _), room in zip(KNOCK_RULES, rooms, strict=True) if version in ("7", "10")]
    assert ids(bob.get(HIERARCHY, at=[space])) == [space, *knockable]
    for room in rooms:
        bob.get(SUMMARY, at=[room], expect=200 if room in knockable else 404)


def test_summaries_have_their_former_path_and_names_too(hearth: Any) -> None:
    alice = hearth.register("alice")
    room = alice.create_room(preset="public_chat", room_version="11")
    alice.set_state(room, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    summary = alice.get(SUMMARY, at=[room])
    prefixed = {f"im.nheko.summary.{name}": summary[name] for name in ("room_version", "encryption")}
    assert prefixed == {
        "im.nheko.summary.room_version": "11",
        "im.nheko.summary.encryption": "m.megolm.v1.aes-sha2",
    }
    for path in ("summary/{}", "rooms/{}/summary"):
        former = alice.get(f"/_matrix/client/unstable/im.nheko.summary/{path}", at=[room])
        assert former == {**summary, **prefixed}


def test_mutual_rooms(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    shared = {alice.create_room(preset="public_chat") for _ in range(2)}
    alice.create_room()
    for room in shared:
        bob.join(room)
    for path in (MUTUAL, "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"):
        found = alice.get(path, query={"user_id": bob.user_id})
        assert (set(found["joined"]), len(found["joined"]), found["count"]) == (shared, 2, 2)
    assert alice.get(MUTUAL, query={"user_id": "@nobody:test.example"}) == {"joined": [], "count": 0}
    # Spec: appendices#historical-user-ids
    for refused in (alice.user_id, "@bøb:test.example", "@:test.example"):
        assert alice.get(MUTUAL, query={"user_id": refused}, expect=400)["errcode"] == "M_INVALID_PARAM"
    features = alice.get("/_matrix/client/versions")["unstable_features"]
    assert features["uk.half-shot.msc2666.query_mutual_rooms"]
    assert features["uk.half-shot.msc2666.query_mutual_rooms.stable"]


def test_mutual_rooms_come_in_pages(hearth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeserver.clientapi.spaces.MUTUAL_PAGE", 2)
    alice, bob = hearth.register("alice"), hearth.register("bob")
    shared = {alice.create_room(preset="public_chat") for _ in range(5)}
    for room in shared:
        bob.join(room)
    told: list[str] = []
    token: dict[str, str] = {}
    for left in (3, 1, 0):
        page = alice.get(MUTUAL, query={"user_id": bob.user_id, **token})
        told += page["joined"]
        assert (page["count"], len(told), "next_batch" in page) == (5, 5 - left, left > 0)
        if left:
            # Spec: appendices#opaque-identifiers
            assert re.fullmatch("[0-9a-zA-Z._~-]{1,255}", page["next_batch"])
            token = {"from": page["next_batch"]}
    assert set(told) == shared
    former = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"
    first = alice.get(former, query={"user_id": bob.user_id})
    assert first["joined"] == told[:2]
    second = alice.get(former, query={"user_id": bob.user_id, "batch_token": first["next_batch_token"]})
    assert second["joined"] == told[2:4]
    wrong = alice.get(MUTUAL, query={"user_id": bob.user_id, "from": "!x:test.example"}, expect=400)
    assert wrong["errcode"] == "M_INVALID_PARAM"
