"""The authorisation rules one by one, each with an event that passes and one that fails. Membership:
test_auth_membership."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from homeserver.matrix.auth_rules import check_auth, check_auth_events
from homeserver.matrix.errors import AuthRejected
from homeserver.matrix.ids import EventId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.state_map import CREATE, POWER_LEVELS
from homeserver.matrix.versions import (
    ROOM_VERSIONS,
    V1,
    V2,
    V3,
    V5,
    V6,
    V9,
    V10,
    V11,
    V12,
    RoomVersion,
)
from tests.matrix.event_factory import ALICE, BOB, CHARLIE, ZARA, Room, make_event, padded_id

ALL = list(ROOM_VERSIONS.values())
every = pytest.mark.parametrize("version", ALL, ids=repr)


def is_allowed(event: Pdu, room: Room) -> bool:
    try:
        check_auth(event, room.auth_state())
    except AuthRejected:
        return False
    return True


def attempt(
    room: Room, type: str, sender: str, content: dict[str, Any], state_key: str | None = "", **kwargs: Any
) -> bool:
    """Whether such an event would be allowed now."""
    event = room.send(f"try-{room.clock}", type, sender, content, state_key, state=room.state, **kwargs)
    return is_allowed(event, room)


def room_with_bob(version: RoomVersion, bob: int = 50, **levels: Any) -> Room:
    """Alice 100 (or creator), Bob as given, Charlie a plain member."""
    room = Room(version).opened()
    room.join(BOB)
    room.join(CHARLIE)
    room.levels("levels-bob", ALICE, {ALICE: 100, BOB: bob}, **levels)
    return room


def create_event(version: RoomVersion, content: dict[str, Any], **kwargs: Any) -> Pdu:
    room_id = None if version.room_id_is_create_hash else "!room:a.org"
    kwargs = {"prev_events": (), "room_id": room_id, "event_id": padded_id("c"), "state_key": "", **kwargs}
    return make_event(version, "m.room.create", ALICE, content, **kwargs)


def create_is_allowed(version: RoomVersion, content: dict[str, Any], **kwargs: Any) -> bool:
    try:
        check_auth(create_event(version, content, **kwargs), {})
    except AuthRejected:
        return False
    return True


# -- 1. create -----------------------------------------------------------------------------------------------


@every
def test_1_create_is_allowed(version: RoomVersion) -> None:
    assert create_is_allowed(version, {"creator": ALICE, "room_version": version.identifier})


@every
def test_1_1_create_has_no_prev_events(version: RoomVersion) -> None:
    assert not create_is_allowed(version, {"creator": ALICE}, prev_events=("$x:a.org",))


@pytest.mark.parametrize("version", ALL[:11], ids=repr)
def test_1_2_create_is_of_the_server_in_the_room_id(version: RoomVersion) -> None:
    assert not create_is_allowed(version, {"creator": ALICE}, room_id="!room:b.org")


def test_1_2_create_has_no_room_id_in_v12() -> None:
    # A create event with another state key gets through the format checks with a room id.
    assert not create_is_allowed(V12, {}, room_id="!" + "x" * 43, state_key="x")


@every
@pytest.mark.parametrize("value", ["none-such", 12, None, ["1"]])
def test_1_3_create_names_a_version_that_is_known(version: RoomVersion, value: object) -> None:
    assert not create_is_allowed(version, {"creator": ALICE, "room_version": value})


@every
def test_v1_1_4_create_names_the_creator_until_v10(version: RoomVersion) -> None:
    assert create_is_allowed(version, {}) == (int(version.identifier) >= 11)


@pytest.mark.parametrize("value", [[], [BOB], [BOB, CHARLIE], ["@HISTORICAL user:b.org"]])
def test_1_4_additional_creators_may_be_user_ids(value: object) -> None:
    assert create_is_allowed(V12, {"additional_creators": value})


@pytest.mark.parametrize("value", [BOB, {BOB: 1}, None, [1], ["bob:b.org"], [BOB, "@"], ["@bob"], [[BOB]]])
def test_1_4_additional_creators_are_nothing_else(value: object) -> None:
    assert not create_is_allowed(V12, {"additional_creators": value})
    assert create_is_allowed(V11, {"additional_creators": value})


# -- 2, 4. the room ------------------------------------------------------------------------------------------


@every
def test_2_an_event_needs_a_create_event(version: RoomVersion) -> None:
    room = room_with_bob(version)
    message = room.send("m", "m.room.message", BOB, {}, None)
    state = room.auth_state()
    del state[CREATE]
    with pytest.raises(AuthRejected):
        check_auth(message, state)


def test_2_the_room_id_names_the_create_event_in_v12() -> None:
    room = room_with_bob(V12)
    message = room.send("m", "m.room.message", BOB, {}, None)
    state = {**room.auth_state(), CREATE: create_event(V12, {})}
    with pytest.raises(AuthRejected):
        check_auth(message, state)


@every
@pytest.mark.parametrize("federate", [True, False])
def test_4_a_room_that_does_not_federate_is_for_one_server(version: RoomVersion, federate: bool) -> None:
    room = Room(version, {"m.federate": federate}).opened()
    for user_id in (BOB, "@anna:a.org"):
        room.join(user_id, f"join-{user_id[1:4]}")
    assert attempt(room, "m.room.message", BOB, {}, None) == federate
    assert attempt(room, "m.room.message", "@anna:a.org", {}, None)


@pytest.mark.parametrize("version", [V1, V5], ids=repr)
def test_v1_4_aliases_are_set_by_their_server_even_from_outside_the_room(version: RoomVersion) -> None:
    room = room_with_bob(version)
    assert attempt(room, "m.room.aliases", ZARA, {}, "z.org")
    assert not attempt(room, "m.room.aliases", ZARA, {}, "b.org")
    assert not attempt(room, "m.room.aliases", ALICE, {}, None)


@pytest.mark.parametrize("version", [V6, V12], ids=repr)
def test_aliases_are_like_any_state_since_v6(version: RoomVersion) -> None:
    room = room_with_bob(version, 0)
    assert not attempt(room, "m.room.aliases", BOB, {}, "b.org")
    assert attempt(room, "m.room.aliases", ALICE, {}, "b.org")


# -- 6 to 9 --------------------------------------------------------------------------------------------------


@every
def test_6_the_sender_is_in_the_room(version: RoomVersion) -> None:
    room = room_with_bob(version)
    assert attempt(room, "m.room.message", CHARLIE, {}, None)
    assert not attempt(room, "m.room.message", ZARA, {}, None)


@every
def test_7_a_third_party_invite_needs_the_invite_level_only(version: RoomVersion) -> None:
    room = room_with_bob(version, invite=50, state_default=90)
    assert attempt(room, "m.room.third_party_invite", BOB, {}, "token")
    assert not attempt(room, "m.room.third_party_invite", CHARLIE, {}, "token")


@every
def test_8_the_sender_has_the_required_level(version: RoomVersion) -> None:
    room = room_with_bob(version, events={"m.sticker": 50, "m.room.topic": 51}, events_default=0)
    assert attempt(room, "m.sticker", BOB, {}, None)
    assert not attempt(room, "m.sticker", CHARLIE, {}, None)
    assert not attempt(room, "m.room.topic", BOB, {})
    assert attempt(room, "m.room.name", BOB, {})
    assert not attempt(room, "m.room.name", CHARLIE, {})


@every
def test_9_a_state_key_that_is_a_user_belongs_to_that_user(version: RoomVersion) -> None:
    room = room_with_bob(version)
    assert attempt(room, "org.thing", BOB, {}, BOB)
    assert not attempt(room, "org.thing", BOB, {}, CHARLIE)
    assert not attempt(room, "org.thing", BOB, {}, BOB + "_suffix")
    assert attempt(room, "org.thing", BOB, {}, "_" + CHARLIE)


# -- 10. power levels ----------------------------------------------------------------------------------------


def levels_allowed(room: Room, sender: str, content: dict[str, Any]) -> bool:
    return attempt(room, "m.room.power_levels", sender, content)


def base_levels(room: Room) -> dict[str, Any]:
    return room.events[room.state[POWER_LEVELS]].content


@every
@pytest.mark.parametrize(
    "name", ["users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"]
)
@pytest.mark.parametrize("value", ["7", 7.5, True, None, [], {}])
def test_10_1_levels_are_integers_since_v10(version: RoomVersion, name: str, value: object) -> None:
    if isinstance(value, float) and version.strict_canonical_json:
        return  # Such an event can't be made.
    room = room_with_bob(version)
    is_tolerated = (isinstance(value, str) or value is None) and version.string_power_levels
    expected = is_tolerated or (isinstance(value, float) and version.float_power_levels)
    assert levels_allowed(room, ALICE, {**base_levels(room), name: value}) == expected
    assert levels_allowed(room, ALICE, {**base_levels(room), name: 7})


@pytest.mark.parametrize("version", [V10, V11, V12], ids=repr)
@pytest.mark.parametrize("table", ["events", "notifications"])
@pytest.mark.parametrize("value", [[], None, "x", {"a": "1"}, {"a": None}, {"a": True}])
def test_10_2_tables_are_objects_with_integers_since_v10(version: RoomVersion, table: str, value: object) -> None:
    room = room_with_bob(version)
    assert not levels_allowed(room, ALICE, {**base_levels(room), table: value})
    assert levels_allowed(room, ALICE, {**base_levels(room), table: {"a": 1}})


@every
@pytest.mark.parametrize("users", [[], None, 5, {"bob": 1}, {BOB: "x"}, {BOB: None}, {BOB: True}, {BOB: "1.5"}])
def test_10_3_users_are_user_ids_with_levels(version: RoomVersion, users: object) -> None:
    room = Room(version)
    room.first_join()
    assert not levels_allowed(room, ALICE, {"users": users})
    assert levels_allowed(room, ALICE, {"users": {BOB: 1}})


@every
def test_10_3_users_may_have_stringy_levels_until_v9(version: RoomVersion) -> None:
    room = Room(version)
    room.first_join()
    assert levels_allowed(room, ALICE, {"users": {BOB: " +050 "}}) == (int(version.identifier) <= 9)


def test_10_4_creators_are_not_among_the_users_in_v12() -> None:
    room = Room(V12, {"additional_creators": [BOB]}).opened()
    assert not levels_allowed(room, ALICE, {"users": {ALICE: 100}})
    assert not levels_allowed(room, ALICE, {"users": {BOB: 100}})
    assert levels_allowed(room, ALICE, {"users": {CHARLIE: 2**53 - 1}})
    assert levels_allowed(Room(V11).opened(), ALICE, {"users": {ALICE: 100}})


@every
def test_10_5_the_first_power_levels_may_be_any(version: RoomVersion) -> None:
    room = Room(version)
    room.first_join()
    assert levels_allowed(room, ALICE, {"users": {BOB: 1000}, "ban": 2000, "events": {"x": 3000}})


@every
@pytest.mark.parametrize(
    "name", ["users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"]
)
def test_10_6_single_levels_change_up_to_the_senders_own(version: RoomVersion, name: str) -> None:
    room = room_with_bob(version, **{name: 40}) if name != "state_default" else room_with_bob(version, state_default=40)
    assert levels_allowed(room, BOB, {**base_levels(room), name: 50})
    assert not levels_allowed(room, BOB, {**base_levels(room), name: 51})
    removed = {key: value for key, value in base_levels(room).items() if key != name}
    assert levels_allowed(room, BOB, removed)


@every
def test_10_6_1_a_level_above_the_sender_may_not_change(version: RoomVersion) -> None:
    room = room_with_bob(version, ban=51)
    without = {key: value for key, value in base_levels(room).items() if key != "ban"}
    assert not levels_allowed(room, BOB, {**base_levels(room), "ban": 50})
    assert not levels_allowed(room, BOB, without)
    assert levels_allowed(room, BOB, base_levels(room))


@every
def test_10_7_10_8_levels_of_event_types_change_up_to_the_senders_own(version: RoomVersion) -> None:
    room = room_with_bob(version, events={"low": 10, "high": 60})
    base = base_levels(room)
    assert levels_allowed(room, BOB, {**base, "events": {"low": 50, "high": 60}})
    assert levels_allowed(room, BOB, {**base, "events": {"high": 60, "new": 50}})
    assert not levels_allowed(room, BOB, {**base, "events": {"low": 51, "high": 60}})
    assert not levels_allowed(room, BOB, {**base, "events": {"low": 10, "high": 50}})
    assert not levels_allowed(room, BOB, {**base, "events": {"low": 10}})
    assert not levels_allowed(room, BOB, {key: value for key, value in base.items() if key != "events"})


@every
def test_10_7_10_8_levels_of_notifications_count_since_v6(version: RoomVersion) -> None:
    room = room_with_bob(version, notifications={"room": 60})
    lowered = {**base_levels(room), "notifications": {"room": 20}}
    assert levels_allowed(room, BOB, lowered) == (int(version.identifier) < 6)
    assert levels_allowed(room, ALICE, lowered)


@every
def test_10_9_equals_are_not_touched_but_everyone_may_step_down(version: RoomVersion) -> None:
    room = room_with_bob(version)
    room.levels("levels-both", ALICE, {ALICE: 100, BOB: 50, CHARLIE: 50, ZARA: 49})
    base = base_levels(room)
    users = base["users"]
    assert not levels_allowed(room, BOB, {**base, "users": {**users, CHARLIE: 10}})
    assert not levels_allowed(room, BOB, {**base, "users": {k: v for k, v in users.items() if k != CHARLIE}})
    assert levels_allowed(room, BOB, {**base, "users": {**users, ZARA: 10}})
    assert levels_allowed(room, BOB, {**base, "users": {**users, BOB: 10}})
    assert levels_allowed(room, BOB, {**base, "users": {k: v for k, v in users.items() if k != BOB}})


@every
def test_10_10_nobody_gives_more_than_they_have(version: RoomVersion) -> None:
    room = room_with_bob(version)
    base = base_levels(room)
    assert levels_allowed(room, BOB, {**base, "users": {**base["users"], CHARLIE: 50}})
    assert not levels_allowed(room, BOB, {**base, "users": {**base["users"], CHARLIE: 51}})
    assert not levels_allowed(room, BOB, {**base, "users": {**base["users"], BOB: 51}})


def test_an_equal_level_in_another_notation_is_no_change() -> None:
    room = room_with_bob(V9, ban="60")
    assert levels_allowed(room, BOB, {**base_levels(room), "ban": 60})
    assert not levels_allowed(room, BOB, {**base_levels(room), "ban": "50"})


def test_a_level_that_is_no_number_can_be_kept_but_not_brought_in() -> None:
    room = room_with_bob(V2)
    room.send("odd", "m.room.power_levels", ALICE, {**base_levels(room), "ban": "many"})
    assert levels_allowed(room, BOB, base_levels(room))
    assert not levels_allowed(room, ALICE, {**base_levels(room), "kick": "many"})


def test_10_a_creator_stands_above_all_levels_in_v12() -> None:
    room = Room(V12, {"additional_creators": [BOB]}).opened()
    room.join(BOB)
    room.levels("high", ALICE, {CHARLIE: 2**53 - 1}, ban=2**53 - 1, events={"m.room.message": 2**53 - 1})
    assert levels_allowed(room, BOB, {"users": {}})
    assert attempt(room, "m.room.message", BOB, {}, None)


# -- (v1: 11) redactions -------------------------------------------------------------------------------------


def redaction_allowed(room: Room, sender: str, target: str) -> bool:
    content = {"redacts": target} if room.version.redacts_in_content else {}
    event = make_event(
        room.version,
        "m.room.redaction",
        sender,
        content,
        event_id="$redaction:" + sender.partition(":")[2],
        room_id=room.room_id,
        redacts=None if room.version.redacts_in_content else target,
    )
    return is_allowed(event, room)


@pytest.mark.parametrize("version", [V1, V2], ids=repr)
def test_v1_11_redactions_need_the_level_or_the_same_server(version: RoomVersion) -> None:
    room = room_with_bob(version)
    assert redaction_allowed(room, BOB, "$x:a.org")
    assert redaction_allowed(room, CHARLIE, "$x:c.org")
    assert not redaction_allowed(room, CHARLIE, "$x:a.org")
    assert not redaction_allowed(room, CHARLIE, "$x")


@pytest.mark.parametrize("version", [V3, V12], ids=repr)
def test_redactions_are_like_any_event_since_v3(version: RoomVersion) -> None:
    assert redaction_allowed(room_with_bob(version), CHARLIE, "$x:a.org")
    strict = room_with_bob(version, events={"m.room.redaction": 50})
    assert redaction_allowed(strict, BOB, "$x:a.org")
    assert not redaction_allowed(strict, CHARLIE, "$x:a.org")


# -- 3. auth_events ------------------------------------------------------------------------------------------


@attrs.frozen
class Named:
    """A message of Bob's and the events it names, which are right."""

    room: Room
    message: Pdu
    auth_events: list[Pdu]

    def is_allowed(self, auth_events: list[Pdu], rejected: frozenset[str] = frozenset()) -> bool:
        try:
            check_auth_events(self.message, auth_events, rejected)
        except AuthRejected:
            return False
        return True


def named(version: RoomVersion) -> Named:
    room = room_with_bob(version)
    message = room.send("m", "m.room.message", BOB, {}, None)
    return Named(room, message, [room.events[event_id] for event_id in message.auth_events])


@every
def test_3_the_selected_auth_events_pass(version: RoomVersion) -> None:
    case = named(version)
    assert case.is_allowed(case.auth_events)


@every
def test_3_1_no_two_entries_for_one_key(version: RoomVersion) -> None:
    case = named(version)
    older = case.room.events[EventId("$levels:a.org")]
    assert not case.is_allowed([*case.auth_events, older])


@every
def test_3_2_no_entries_that_the_selection_does_not_pick(version: RoomVersion) -> None:
    case = named(version)
    join_rules = case.room.events[EventId("$rule-public:a.org")]
    assert not case.is_allowed([*case.auth_events, join_rules])
    other_message = case.room.send("m2", "m.room.message", BOB, {}, None)
    assert not case.is_allowed([*case.auth_events, other_message])


@every
def test_3_3_no_rejected_entries(version: RoomVersion) -> None:
    case = named(version)
    assert not case.is_allowed(case.auth_events, frozenset({case.auth_events[0].event_id}))


@every
def test_3_2_v1_2_4_the_create_event_is_there_until_v11_and_not_there_since_v12(version: RoomVersion) -> None:
    case = named(version)
    without = [event for event in case.auth_events if event.key != CREATE]
    assert case.is_allowed(without) == (version is V12)
    assert case.is_allowed([*without, case.room.create]) == (version is not V12)


@every
def test_3_5_entries_are_of_this_room(version: RoomVersion) -> None:
    case = named(version)
    elsewhere = make_event(
        version,
        "m.room.power_levels",
        ALICE,
        {},
        event_id="$elsewhere:a.org",
        room_id="!" + "x" * 43 if version is V12 else "!other:a.org",
        state_key="",
    )
    others = [event for event in case.auth_events if event.key != POWER_LEVELS]
    assert case.is_allowed(others)
    assert not case.is_allowed([*others, elsewhere])


@every
def test_3_create_events_are_not_asked_for_auth_events(version: RoomVersion) -> None:
    check_auth_events(Room(version).create, [])
