"""State resolution: what happens in scenes that can be told, for each of the three algorithms."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import attrs
import pytest

from homeserver.matrix.ids import EventId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.state_map import JOIN_RULES, POWER_LEVELS, StateKey, member_key
from homeserver.matrix.state_res import resolve
from homeserver.matrix.versions import V1, V2, V11, V12, RoomVersion, StateResolution
from tests.matrix.event_factory import ALICE, BOB, CHARLIE, EVE, ZARA, Room

V11_WITH_V2_1 = attrs.evolve(V11, identifier="11 with v2.1", state_resolution=StateResolution.V2_1)
TOPIC: StateKey = ("m.room.topic", "")
State = dict[StateKey, EventId]

both_v2 = pytest.mark.parametrize("version", [V2, V11, V11_WITH_V2_1, V12], ids=repr)
every = pytest.mark.parametrize("version", [V1, V2, V11, V11_WITH_V2_1, V12], ids=repr)


def resolve_room(room: Room, *states: State, rejected: set[EventId] | None = None) -> State:
    return resolve(room.version, states, room.load, room_id=room.room_id, rejected=rejected or set())


def fork(room: Room) -> State:
    return dict(room.state)


def back_to(room: Room, state: State) -> None:
    room.state = dict(state)


# -- all algorithms ------------------------------------------------------------------------------------------


@every
def test_resolving_nothing_gives_nothing(version: RoomVersion) -> None:
    assert resolve_room(Room(version)) == {}


@every
def test_one_state_is_its_own_resolution(version: RoomVersion) -> None:
    room = Room(version).opened()
    assert resolve_room(room, room.state) == room.state


@every
def test_equal_states_load_no_event(version: RoomVersion) -> None:
    room = Room(version).opened()
    states = [dict(room.state), dict(room.state)]

    def refuse(event_ids: Collection[EventId]) -> dict[EventId, Pdu]:
        raise AssertionError(f"loaded {event_ids}")

    assert resolve(version, states, refuse, room_id=room.room_id) == room.state


@every
def test_forks_that_touch_different_keys_are_merged(version: RoomVersion) -> None:
    room = Room(version).opened()
    start = fork(room)
    bob = room.join(BOB)
    left = fork(room)
    back_to(room, start)
    charlie = room.join(CHARLIE)
    resolved = resolve_room(room, left, room.state)
    assert resolved == {**start, bob.key: bob.event_id, charlie.key: charlie.event_id}


@every
def test_power_levels_of_a_user_demoted_meanwhile_are_dropped(version: RoomVersion) -> None:
    room = Room(version).opened()
    room.join(BOB)
    room.levels("bob-50", ALICE, {ALICE: 100, BOB: 50})
    start = fork(room)
    demotion = room.levels("bob-0", ALICE, {ALICE: 100, BOB: 0})
    left = fork(room)
    back_to(room, start)
    room.levels("bob-raises-zara", BOB, {ALICE: 100, BOB: 50, ZARA: 40})
    assert resolve_room(room, left, room.state)[POWER_LEVELS] == demotion.event_id


# -- version 1 -----------------------------------------------------------------------------------------------


def test_v1_takes_the_deepest_allowed_event() -> None:
    room = Room(V1).opened()
    start = fork(room)
    room.send("topic-1", "m.room.topic", ALICE, {"topic": "1"})
    left = fork(room)
    back_to(room, start)
    deeper = room.send("topic-2", "m.room.topic", ALICE, {"topic": "2"})
    assert resolve_room(room, left, room.state)[TOPIC] == resolve_room(room, room.state, left)[TOPIC]
    assert resolve_room(room, left, room.state)[TOPIC] == deeper.event_id


def test_v1_passes_over_a_deeper_event_that_is_not_allowed() -> None:
    room = Room(V1).opened()
    room.join(BOB)
    start = fork(room)
    by_alice = room.send("topic-alice", "m.room.topic", ALICE, {"topic": "1"})
    left = fork(room)
    back_to(room, start)
    room.send("topic-bob", "m.room.topic", BOB, {"topic": "2"})
    assert resolve_room(room, left, room.state)[TOPIC] == by_alice.event_id


def test_v1_keeps_the_shallowest_event_if_none_is_allowed() -> None:
    room = Room(V1).opened()
    room.join(BOB)
    start = fork(room)
    first = room.send("topic-bob-1", "m.room.topic", BOB, {"topic": "1"})
    left = fork(room)
    back_to(room, start)
    room.send("topic-bob-2", "m.room.topic", BOB, {"topic": "2"})
    assert resolve_room(room, left, room.state)[TOPIC] == first.event_id


def test_v1_breaks_ties_of_depth_by_the_lowest_sha1() -> None:
    room = Room(V1).opened()
    start = fork(room)
    depth = room.clock
    room.send("topic-1", "m.room.topic", ALICE, {"topic": "1"})
    left = fork(room)
    back_to(room, start)
    room.clock = depth
    room.send("topic-2", "m.room.topic", ALICE, {"topic": "2"})
    lowest = min((left[TOPIC], room.state[TOPIC]), key=lambda id: hashlib.sha1(id.encode()).hexdigest())
    assert resolve_room(room, left, room.state)[TOPIC] == lowest


def test_v1_replays_members_under_the_resolved_join_rules() -> None:
    room = Room(V1).opened()
    room.join(BOB)
    room.member(BOB, BOB, "leave", "bob-leaves")
    start = fork(room)
    room.join_rule("rule-invite", "invite")
    left = fork(room)
    back_to(room, start)
    room.join(BOB, "bob-again")
    # Left has the older "leave", right the join that came under the public rule: no longer allowed.
    resolved = resolve_room(room, left, room.state)
    assert resolved[JOIN_RULES] == "$rule-invite:a.org"
    assert resolved[member_key(BOB)] == "$bob-leaves:a.org"


def test_v1_has_no_conflict_over_a_key_that_one_state_lacks() -> None:
    room = Room(V1).opened()
    room.join(BOB)
    start = fork(room)
    topic = room.send("topic-bob", "m.room.topic", BOB, {"topic": "not allowed, and not looked at"})
    assert resolve_room(room, start, room.state)[TOPIC] == topic.event_id


# -- versions 2 to 12 ----------------------------------------------------------------------------------------


@both_v2
def test_a_ban_undoes_what_the_banned_user_did_meanwhile(version: RoomVersion) -> None:
    room = Room(version).opened()
    room.join(BOB)
    room.levels("bob-50", ALICE, {ALICE: 100, BOB: 50})
    start = fork(room)
    ban = room.member(ALICE, BOB, "ban", "ban-bob")
    left = fork(room)
    back_to(room, start)
    room.send("topic-bob", "m.room.topic", BOB, {"topic": "mine"})
    resolved = resolve_room(room, left, room.state)
    assert resolved[member_key(BOB)] == ban.event_id
    assert TOPIC not in resolved


@both_v2
def test_who_joins_while_the_room_is_closed_is_not_in(version: RoomVersion) -> None:
    room = Room(version).opened()
    start = fork(room)
    closed = room.join_rule("rule-invite", "invite")
    left = fork(room)
    back_to(room, start)
    room.join(BOB)
    resolved = resolve_room(room, left, room.state)
    assert resolved[JOIN_RULES] == closed.event_id
    assert member_key(BOB) not in resolved


@both_v2
def test_of_two_bans_at_once_that_of_the_more_powerful_counts(version: RoomVersion) -> None:
    room = Room(version).opened()
    room.join(BOB)
    room.join(CHARLIE)
    room.levels("both", ALICE, {ALICE: 100, BOB: 60, CHARLIE: 50})
    start = fork(room)
    ban = room.member(BOB, CHARLIE, "ban", "bob-bans-charlie")
    left = fork(room)
    back_to(room, start)
    room.join_rule("charlie-closes", "invite", sender=CHARLIE, ts=0)
    resolved = resolve_room(room, left, room.state)
    assert resolved[member_key(CHARLIE)] == ban.event_id
    assert resolved[JOIN_RULES] == start[JOIN_RULES]


@both_v2
def test_an_event_under_later_power_levels_wins_over_a_later_clock(version: RoomVersion) -> None:
    room = Room(version).opened()
    start = fork(room)
    room.send("topic-old-levels", "m.room.topic", ALICE, {"topic": "1"}, ts=10_000)
    left = fork(room)
    back_to(room, start)
    room.levels("levels-2", ALICE, {ALICE: 100, BOB: 10})
    newer = room.send("topic-new-levels", "m.room.topic", ALICE, {"topic": "2"}, ts=50)
    assert resolve_room(room, left, room.state)[TOPIC] == newer.event_id


@both_v2
def test_under_the_same_power_levels_the_later_clock_wins_then_the_larger_id(version: RoomVersion) -> None:
    room = Room(version).opened()
    start = fork(room)
    states = []
    for name, ts in (("topic-b", 70), ("topic-a", 70), ("topic-c", 60)):
        back_to(room, start)
        room.send(name, "m.room.topic", ALICE, {"topic": name}, ts=ts)
        states.append(fork(room))
    assert resolve_room(room, *states)[TOPIC] == "$topic-b:a.org"


@both_v2
def test_a_rejected_auth_event_authorises_nothing(version: RoomVersion) -> None:
    room = Room(version).opened()
    start = fork(room)
    bob = room.join(BOB)
    named = room.member(BOB, BOB, "join", "bob-renamed", content={"displayname": "B"})
    # The join is in no state any more, so it could only come in as an auth event.
    room.join_rule("rule-invite", "invite")
    right = {**room.state, named.key: named.event_id}
    assert resolve_room(room, start, right)[named.key] == named.event_id
    assert named.key not in resolve_room(room, start, right, rejected={bob.event_id})


@both_v2
def test_an_event_that_the_loader_does_not_know_is_no_candidate(version: RoomVersion) -> None:
    room = Room(version).opened()
    topic = room.send("topic", "m.room.topic", ALICE, {"topic": "1"})
    left = fork(room)
    right = {**left, TOPIC: EventId("$unknown:a.org")}
    assert resolve_room(room, left, right)[TOPIC] == topic.event_id


def test_a_forged_cycle_of_auth_events_ends() -> None:
    room = Room(V2).opened()
    start = fork(room)
    one = {**start, POWER_LEVELS: EventId("$cycle-2:a.org")}
    two = {**start, POWER_LEVELS: EventId("$cycle-1:a.org")}
    first = room.send("cycle-1", "m.room.power_levels", ALICE, {"users": {ALICE: 100}}, state=one)
    room.send("cycle-2", "m.room.power_levels", ALICE, {"users": {ALICE: 100}}, state=two)
    topic = room.send("topic", "m.room.topic", ALICE, {"topic": "1"}, state=two)
    resolved = resolve_room(room, start, {**start, POWER_LEVELS: first.event_id, TOPIC: topic.event_id})
    assert resolved[POWER_LEVELS] == start[POWER_LEVELS]


# -- MSC4297: the state resets that v2.1 is there for --------------------------------------------------------


def _outdated_join_rules(version: RoomVersion) -> tuple[Room, State, State]:
    """Problem A: Charlie's side has an old join rule; Alice, who set both rules, has left."""
    room = Room(version).opened()
    room.join(BOB)
    room.join(CHARLIE)
    old = fork(room)
    room.join_rule("rule-invite", "invite")
    room.member(ALICE, ALICE, "leave", "alice-leaves")
    start = fork(room)
    room.member(BOB, BOB, "join", "bob-renamed", content={"displayname": "B"})
    left = fork(room)
    back_to(room, start)
    room.member(CHARLIE, CHARLIE, "join", "charlie-renamed", content={"displayname": "C"})
    return room, left, {**room.state, JOIN_RULES: old[JOIN_RULES]}


def test_v2_loses_the_join_rules_if_their_sender_left() -> None:
    room, left, right = _outdated_join_rules(V11)
    assert JOIN_RULES not in resolve_room(room, left, right)


@pytest.mark.parametrize("version", [V11_WITH_V2_1, V12], ids=repr)
def test_v2_1_keeps_the_newer_join_rules_although_their_sender_left(version: RoomVersion) -> None:
    room, left, right = _outdated_join_rules(version)
    resolved = resolve_room(room, left, right)
    assert resolved[JOIN_RULES] == "$rule-invite:a.org"
    assert resolved[member_key(ALICE)] == "$alice-leaves:a.org"
    assert resolved[member_key(BOB)] == "$bob-renamed:a.org"
    assert resolved[member_key(CHARLIE)] == "$charlie-renamed:a.org"


def _outdated_power_levels(version: RoomVersion) -> tuple[Room, State, State]:
    """Problem B: Eve's side has the first power levels again; both auth chains have the later ones."""
    room = Room(version).opened()
    room.join(BOB)
    room.join(CHARLIE)
    first_levels = room.state[POWER_LEVELS]
    room.levels("alice-raises-bob", ALICE, {ALICE: 100, BOB: 50})
    room.levels("bob-raises-charlie", BOB, {ALICE: 100, BOB: 50, CHARLIE: 50})
    start = fork(room)
    room.join(EVE)
    room.member(EVE, EVE, "join", "eve-renamed", content={"displayname": "E"})
    left = {**room.state, POWER_LEVELS: first_levels}
    back_to(room, start)
    room.join(ZARA)
    return room, left, fork(room)


def test_v2_resets_the_power_levels_to_the_first() -> None:
    room, left, right = _outdated_power_levels(V11)
    assert resolve_room(room, left, right)[POWER_LEVELS] == "$levels:a.org"


@pytest.mark.parametrize("version", [V11_WITH_V2_1, V12], ids=repr)
def test_v2_1_keeps_the_last_power_levels(version: RoomVersion) -> None:
    room, left, right = _outdated_power_levels(version)
    resolved = resolve_room(room, left, right)
    assert resolved[POWER_LEVELS] == "$bob-raises-charlie:a.org"
    assert resolved[member_key(EVE)] == "$eve-renamed:a.org"
    assert resolved[member_key(ZARA)] == "$join-zara:a.org"


def test_the_creator_of_a_v12_room_outranks_a_user_with_the_highest_level() -> None:
    room = Room(V12).opened()
    room.join(BOB)
    room.levels("bob-max", ALICE, {BOB: 2**53 - 1})
    start = fork(room)
    ban = room.member(ALICE, BOB, "ban", "ban-bob", ts=900)
    left = fork(room)
    back_to(room, start)
    room.levels("bob-closes", BOB, {BOB: 2**53 - 1}, events_default=100, ts=1)
    resolved = resolve_room(room, left, room.state)
    assert resolved[member_key(BOB)] == ban.event_id
    assert resolved[POWER_LEVELS] == start[POWER_LEVELS]
