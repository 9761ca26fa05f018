"""The levels that the create event and the power levels give together."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.power_levels import INFINITE, PowerLevels, parse_level, power_levels
from homeserver.matrix.state_map import POWER_LEVELS
from homeserver.matrix.versions import ROOM_VERSIONS, V1, V5, V6, V9, V10, V11, V12, RoomVersion
from tests.matrix.event_factory import ALICE, BOB, CHARLIE, Room

every = pytest.mark.parametrize("version", list(ROOM_VERSIONS.values()), ids=repr)


def levels_of(
    version: RoomVersion, content: dict[str, Any] | None, create: dict[str, Any] | None = None
) -> PowerLevels:
    room = Room(version, create)
    if content is not None:
        room.send("levels", "m.room.power_levels", ALICE, content)
    return power_levels(version, room.create, room.auth_state().get(POWER_LEVELS))


@every
def test_without_an_event_the_creator_alone_has_power(version: RoomVersion) -> None:
    levels = levels_of(version, None)
    assert levels.user(ALICE) == (INFINITE if version is V12 else 100)
    assert levels.user(BOB) == 0
    assert (levels.event("m.room.topic", True), levels.event("m.room.message", False)) == (50, 0)
    assert (levels.invite, levels.kick, levels.ban, levels.redact) == (0, 50, 50, 50)


@every
def test_with_an_event_the_creator_of_old_rooms_is_like_anybody(version: RoomVersion) -> None:
    assert levels_of(version, {"users_default": 5}).user(ALICE) == (INFINITE if version is V12 else 5)


def test_infinite_is_above_every_level_there_can_be() -> None:
    assert INFINITE > 2**53


@every
def test_users_and_types_have_their_own_level_or_the_default(version: RoomVersion) -> None:
    content = {
        "users": {BOB: 10},
        "users_default": 1,
        "events": {"a": 2},
        "events_default": 3,
        "state_default": 4,
        "notifications": {"room": 6},
        "invite": 7,
        "kick": 8,
        "ban": 9,
        "redact": 11,
    }
    levels = levels_of(version, content)
    assert (levels.user(BOB), levels.user(CHARLIE)) == (10, 1)
    assert (levels.event("a", True), levels.event("b", False), levels.event("b", True)) == (2, 3, 4)
    assert (levels.notification("room"), levels.notification("x")) == (6, 50)
    assert (levels.invite, levels.kick, levels.ban, levels.redact) == (7, 8, 9, 11)


@every
@pytest.mark.parametrize("junk", [None, 1, "x", [], {BOB: None}, {BOB: []}])
def test_what_is_no_level_reads_as_absent(version: RoomVersion, junk: object) -> None:
    levels = levels_of(version, {"users": junk, "events": junk, "notifications": junk, "ban": junk})
    assert (levels.user(BOB), levels.event(BOB, True), levels.notification(BOB)) == (0, 50, 50)
    assert levels.ban == (1 if junk == 1 else 50)


def test_the_creator_is_read_from_where_the_version_says() -> None:
    create = {"creator": BOB, "additional_creators": [CHARLIE]}
    assert levels_of(V10, None, create).creators == {BOB}
    assert levels_of(V11, None, create).creators == {ALICE}
    assert levels_of(V12, None, create).creators == {ALICE, CHARLIE}
    assert levels_of(V12, {"users": {CHARLIE: 1}}, create).user(CHARLIE) == INFINITE


def test_users_with_power_are_those_above_the_default_and_the_creators() -> None:
    content = {"users": {BOB: 10, CHARLIE: 5}, "users_default": 5}
    assert levels_of(V11, content).users_with_power() == {BOB: 10}
    assert levels_of(V11, content).users_with_power(5) == {BOB: 10, CHARLIE: 5, ALICE: 5}
    assert levels_of(V12, content).users_with_power(11) == {ALICE: INFINITE}


STRINGS = {"50": 50, " 50\n": 50, "+50": 50, "-50": -50, "00050": 50}
NO_LEVELS = ["5.0", "5e1", "", "1_0", "\N{ARABIC-INDIC DIGIT ONE}", "- 5", "0x5", "9" * 5000]


@pytest.mark.parametrize(("value", "level"), [*STRINGS.items(), *((value, None) for value in NO_LEVELS)])
def test_strings_that_hold_an_integer_are_levels_until_v9(value: str, level: int | None) -> None:
    assert parse_level(value, V1) == parse_level(value, V9) == level
    assert parse_level(value, V10) is None


@pytest.mark.parametrize(
    ("value", "level"),
    [(50.57, 50), (-50.57, -50), (5.114698e4, 51146), (float("inf"), None), (float("nan"), None)],
)
def test_floats_are_cut_off_until_v5(value: float, level: int | None) -> None:
    assert parse_level(value, V5) == level
    assert parse_level(value, V6) is None


@every
@pytest.mark.parametrize("value", [True, False, None, [], {}])
def test_other_values_are_never_levels(version: RoomVersion, value: object) -> None:
    assert parse_level(value, version) is None
