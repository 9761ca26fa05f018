"""Which state events an event names as its auth events."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.auth_types import auth_types_for
from homeserver.matrix.state_map import CREATE, JOIN_RULES, POWER_LEVELS, member_key
from homeserver.matrix.versions import ROOM_VERSIONS, V7, V8, V11, V12, RoomVersion
from tests.matrix.event_factory import ALICE, BOB, CHARLIE

every = pytest.mark.parametrize("version", list(ROOM_VERSIONS.values()), ids=repr)


def member_types(version: RoomVersion, sender: str, target: str, content: dict[str, Any]) -> set[tuple[str, str]]:
    keys = auth_types_for(version, "m.room.member", sender, target, content)
    assert len(keys) == len(set(keys))
    return set(keys) - {CREATE, POWER_LEVELS}


@every
def test_the_create_event_names_none(version: RoomVersion) -> None:
    assert auth_types_for(version, "m.room.create", ALICE, "", {}) == []


def test_a_message_names_create_levels_and_its_sender() -> None:
    found = auth_types_for(V11, "m.room.message", ALICE, None, {})
    assert sorted(found) == sorted([CREATE, POWER_LEVELS, member_key(ALICE)])


def test_since_v12_the_create_event_is_not_named() -> None:
    assert sorted(auth_types_for(V12, "m.room.message", ALICE, None, {})) == sorted([POWER_LEVELS, member_key(ALICE)])


@every
@pytest.mark.parametrize("membership", ["join", "invite", "knock"])
def test_coming_in_depends_on_the_join_rules(version: RoomVersion, membership: str) -> None:
    found = member_types(version, ALICE, BOB, {"membership": membership})
    assert found == {member_key(ALICE), member_key(BOB), JOIN_RULES}


@every
@pytest.mark.parametrize("membership", ["leave", "ban", None, 7, ["join"]])
def test_going_out_does_not(version: RoomVersion, membership: object) -> None:
    assert member_types(version, ALICE, BOB, {"membership": membership}) == {
        member_key(ALICE),
        member_key(BOB),
    }


def test_a_third_party_invite_names_its_token() -> None:
    content = {"membership": "invite", "third_party_invite": {"signed": {"token": "t"}}}
    assert ("m.room.third_party_invite", "t") in member_types(V11, ALICE, BOB, content)


@pytest.mark.parametrize("broken", [None, 1, {}, {"signed": 1}, {"signed": {"token": 1}}, {"signed": {"token": []}}])
def test_a_broken_third_party_invite_names_no_token(broken: object) -> None:
    content = {"membership": "invite", "third_party_invite": broken}
    assert member_types(V11, ALICE, BOB, content) == {member_key(ALICE), member_key(BOB), JOIN_RULES}


@pytest.mark.parametrize(("version", "expected"), [(V7, False), (V8, True), (V12, True)])
def test_a_restricted_join_names_who_vouches_since_v8(version: RoomVersion, expected: bool) -> None:
    content = {"membership": "join", "join_authorised_via_users_server": CHARLIE}
    assert (member_key(CHARLIE) in member_types(version, BOB, BOB, content)) == expected


@pytest.mark.parametrize("value", [BOB, 1, None, [CHARLIE]])
def test_who_vouches_is_named_once_and_only_if_a_string(value: object) -> None:
    content = {"membership": "join", "join_authorised_via_users_server": value}
    assert member_types(V11, BOB, BOB, content) == {member_key(BOB), JOIN_RULES}
