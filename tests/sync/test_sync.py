"""What GET /sync says, fact by fact; the model-based test says that it all adds up."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.ids import UserId
from homeserver.sync.request import StateKind
from homeserver.sync.segments import Segment, SegmentKey, Segments
from homeserver.sync.tokens import SyncToken, TimelineToken, parse_sync_token, parse_timeline_token
from tests.sync.world import World

ALICE, BOB, CAROL = "@alice:test", "@bob:test", "@carol:test"
LAZY = {"room": {"timeline": {"limit": 1}, "state": {"lazy_load_members": True}}}


def joined(answer: dict[str, Any], room_id: str) -> dict[str, Any]:
    room: dict[str, Any] = answer["rooms"]["join"][room_id]
    return room


def bodies(room: dict[str, Any]) -> list[str]:
    return [event["content"].get("body", event["type"]) for event in room["timeline"]["events"]]


def state_keys(room: dict[str, Any], name: str = "state") -> set[tuple[str, str]]:
    return {(event["type"], event["state_key"]) for event in room[name]["events"]}


# -- tokens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "s1", "s1_", "s-1_2", "t1", "s1_2 ", "s1_2x", "S1_2", "s²_1", "s1_" + "9" * 40])
def test_bad_sync_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidParam):
        parse_sync_token(text)


def test_tokens_survive_being_written() -> None:
    assert parse_sync_token(str(SyncToken(5, 7))) == SyncToken(5, 7)
    assert parse_timeline_token(str(TimelineToken(-5))) == TimelineToken(-5)
    assert parse_timeline_token(str(SyncToken(5, 7))) == TimelineToken(5)
    with pytest.raises(InvalidParam):
        parse_timeline_token("t" + "9" * 19)


# -- joined rooms --------------------------------------------------------------------------------------------


def test_first_sync_has_timeline_and_the_state_before_it(world: World) -> None:
    room_id = world.create(ALICE, name="old")
    world.state(ALICE, room_id, "m.room.name", {"name": "new"})
    room = joined(world.sync(ALICE, filter={"room": {"timeline": {"limit": 1}}}), room_id)
    assert [event["content"] for event in room["timeline"]["events"]] == [{"name": "new"}]
    names = [event["content"] for event in room["state"]["events"] if event["type"] == "m.room.name"]
    assert names == [{"name": "old"}]
    assert room["timeline"]["limited"] is True


def test_gap_tells_state_changes_before_the_timeline(world: World) -> None:
    room_id = world.create(ALICE)
    since = world.sync(ALICE)["next_batch"]
    world.state(ALICE, room_id, "m.room.topic", {"topic": "x"})
    world.send(ALICE, room_id, "one")
    world.send(ALICE, room_id, "two")
    room = joined(world.sync(ALICE, since, filter={"room": {"timeline": {"limit": 1}}}), room_id)
    assert bodies(room) == ["two"]
    assert room["timeline"]["limited"] is True
    assert state_keys(room) == {("m.room.topic", "")}


def test_gap_is_read_from_the_database_after_a_restart(world: World) -> None:
    room_id = world.create(ALICE)
    since = world.sync(ALICE)["next_batch"]
    world.state(ALICE, room_id, "m.room.topic", {"topic": "x"})
    for number in range(40):
        world.send(ALICE, room_id, str(number))
    world.restart()
    room = joined(world.sync(ALICE, since), room_id)
    assert bodies(room) == [str(number) for number in range(30, 40)]
    assert state_keys(room) == {("m.room.topic", "")}


@pytest.mark.parametrize("kind", [StateKind.AFTER, StateKind.UNSTABLE_AFTER])
def test_state_after_holds_what_the_timeline_changed(world: World, kind: StateKind) -> None:
    room_id = world.create(ALICE)
    since = world.sync(ALICE, kind=kind)["next_batch"]
    world.state(ALICE, room_id, "m.room.topic", {"topic": "x"})
    room = joined(world.sync(ALICE, since, kind=kind), room_id)
    assert state_keys(room, kind.value.decode()) == {("m.room.topic", "")}
    assert "state" not in room


def test_full_state_is_told_to_a_client_that_is_up_to_date(world: World) -> None:
    room_id = world.create(ALICE)
    since = world.sync(ALICE)["next_batch"]
    room = joined(world.sync(ALICE, since, full_state=True), room_id)
    assert ("m.room.create", "") in state_keys(room)
    assert room["timeline"]["events"] == []


def test_transaction_id_is_for_the_sending_device_alone(world: World) -> None:
    room_id = world.create(ALICE)
    since = world.sync(ALICE)["next_batch"]
    world.send(ALICE, room_id, "one", device="D", txn="t1")

    def unsigned(device: str) -> dict[str, Any]:
        room = joined(world.sync(ALICE, since, device=device), room_id)
        found: dict[str, Any] = room["timeline"]["events"][0]["unsigned"]
        return found

    assert "transaction_id" not in unsigned("OTHER")
    assert unsigned("D")["transaction_id"] == "t1"


def test_membership_at_the_event_is_told(world: World) -> None:
    room_id = world.create(ALICE)
    world.send(ALICE, room_id, "before")
    world.member(BOB, room_id, BOB, "join")
    room = joined(world.sync(BOB), room_id)
    told = [event["unsigned"]["membership"] for event in room["timeline"]["events"][-2:]]
    assert told == ["leave", "join"]


def test_hidden_history_is_left_out_and_its_state_told(world: World) -> None:
    room_id = world.create(ALICE, visibility="joined")
    world.state(ALICE, room_id, "m.room.topic", {"topic": "x"})
    world.send(ALICE, room_id, "secret")
    since = world.sync(BOB)["next_batch"]
    world.member(BOB, room_id, BOB, "join")
    room = joined(world.sync(BOB, since), room_id)
    assert "secret" not in bodies(room)
    assert ("m.room.topic", "") in state_keys(room)


def test_summary_is_told_when_members_change_only(world: World) -> None:
    room_id = world.create(ALICE)
    first = world.sync(ALICE)
    assert joined(first, room_id)["summary"]["m.joined_member_count"] == 1
    world.member(BOB, room_id, BOB, "join")
    second = world.sync(ALICE, first["next_batch"])
    assert joined(second, room_id)["summary"] == {
        "m.heroes": [BOB],
        "m.invited_member_count": 0,
        "m.joined_member_count": 2,
    }
    world.send(BOB, room_id, "hi")
    assert "summary" not in joined(world.sync(ALICE, second["next_batch"]), room_id)


# -- filters -------------------------------------------------------------------------------------------------


def test_timeline_filter_finds_matching_events_beyond_the_limit(world: World) -> None:
    room_id = world.create(ALICE)
    world.send(ALICE, room_id, "wanted")
    for number in range(60):
        world.state(ALICE, room_id, "m.room.topic", {"topic": str(number)})
    filter = {"room": {"timeline": {"limit": 5, "types": ["m.room.message"]}}}
    for _ in range(2):
        assert bodies(joined(world.sync(ALICE, filter=filter), room_id)) == ["wanted"]
        world.restart()


def test_rooms_that_the_filter_excludes_do_not_wake(world: World) -> None:
    room_id = world.create(ALICE)
    filter = {"room": {"not_rooms": [room_id]}}
    since = world.sync(ALICE, filter=filter)["next_batch"]
    waiting = world.start(world.service.sync(world.request(ALICE, since, filter=filter, timeout_ms=1000)))
    world.send(ALICE, room_id, "x")
    world.settle()
    assert not waiting.called
    world.clock.advance(1200)
    assert set(orjson.loads(world.wait(waiting))) == {"next_batch"}


def test_event_fields_and_federation_format(world: World) -> None:
    room_id = world.create(ALICE)
    world.send(ALICE, room_id, "x")
    fields = {"event_fields": ["content.body"], "room": {"timeline": {"limit": 1}}}
    assert joined(world.sync(ALICE, filter=fields), room_id)["timeline"]["events"] == [{"content": {"body": "x"}}]
    federation = {"event_format": "federation", "room": {"timeline": {"limit": 1}}}
    (event,) = joined(world.sync(ALICE, filter=federation), room_id)["timeline"]["events"]
    assert {"hashes", "signatures", "auth_events", "event_id"} <= event.keys()


def test_a_room_whose_timeline_one_client_does_not_want_is_told_to_others(world: World) -> None:
    room_id = world.create(ALICE)
    world.member(BOB, room_id, BOB, "join")
    since = {user: world.sync(user)["next_batch"] for user in (ALICE, BOB)}
    world.send(ALICE, room_id, "hello")
    without = {"room": {"timeline": {"not_rooms": [room_id]}}}
    assert "rooms" not in world.sync(ALICE, since[ALICE], filter=without)
    assert bodies(joined(world.sync(BOB, since[BOB]), room_id)) == ["hello"]
    assert "rooms" not in world.sync(ALICE, since[ALICE], filter=without)


# -- lazily loaded members -----------------------------------------------------------------------------------


def test_lazy_members_are_those_of_the_timeline_and_sent_once(world: World) -> None:
    room_id = world.create(ALICE)
    for user in (BOB, CAROL):
        world.member(user, room_id, user, "join")
    world.send(BOB, room_id, "one")
    first = world.sync(ALICE, filter=LAZY)
    members = {key[1] for key in state_keys(joined(first, room_id)) if key[0] == "m.room.member"}
    assert members >= {ALICE, BOB}
    world.send(CAROL, room_id, "two")
    second = world.sync(ALICE, first["next_batch"], filter=LAZY)
    world.send(CAROL, room_id, "three")
    third = world.sync(ALICE, second["next_batch"], filter=LAZY)
    assert state_keys(joined(third, room_id)) == set()


def test_lazy_members_are_sent_again_when_the_answer_was_lost(world: World) -> None:
    room_id = world.create(ALICE, name="so that there are no heroes")
    world.member(BOB, room_id, BOB, "join")
    world.send(ALICE, room_id, "zero")
    since = world.sync(ALICE, filter=LAZY)["next_batch"]
    world.send(BOB, room_id, "one")
    for _ in range(2):
        answer = world.sync(ALICE, since, filter=LAZY)
        assert state_keys(joined(answer, room_id)) == {("m.room.member", BOB)}


def members_told(room: dict[str, Any], name: str = "state") -> set[tuple[str, str]]:
    return {(event["state_key"], event["content"]["membership"]) for event in room[name]["events"]}


@pytest.mark.parametrize("is_remembered", [True, False])
def test_lazy_members_who_come_and_go_in_a_gap_are_told(world: World, is_remembered: bool) -> None:
    room_id = world.create(ALICE, name="so that there are no heroes")
    world.member(BOB, room_id, BOB, "join")
    world.send(ALICE, room_id, "zero")
    since = world.sync(ALICE, filter=LAZY)["next_batch"]
    world.member(BOB, room_id, BOB, "leave")
    world.member(CAROL, room_id, CAROL, "join")
    for body in ("one", "two"):
        world.send(ALICE, room_id, body)
    if not is_remembered:
        world.restart()
    room = joined(world.sync(ALICE, since, filter=LAZY), room_id)
    assert room["timeline"]["limited"] is True
    assert members_told(room) >= {(BOB, "leave"), (CAROL, "join")}


@pytest.mark.parametrize("is_remembered", [True, False])
def test_state_after_tells_what_becomes_of_lazy_members(world: World, is_remembered: bool) -> None:
    room_id = world.create(ALICE, name="so that there are no heroes")
    world.member(BOB, room_id, BOB, "join")
    world.send(ALICE, room_id, "zero")
    since = world.sync(ALICE, filter=LAZY, kind=StateKind.AFTER)["next_batch"]
    world.member(ALICE, room_id, BOB, "leave")
    world.member(ALICE, room_id, CAROL, "invite")
    if not is_remembered:
        world.restart()
    wide = {"room": {"state": {"lazy_load_members": True}}}
    room = joined(world.sync(ALICE, since, filter=wide, kind=StateKind.AFTER), room_id)
    assert room["timeline"]["limited"] is False
    assert members_told(room, "state_after") >= {(BOB, "leave"), (CAROL, "invite")}


@pytest.mark.parametrize("is_remembered", [True, False])
def test_who_comes_back_is_told_which_lazy_members_went(world: World, is_remembered: bool) -> None:
    room_id = world.create(ALICE, name="so that there are no heroes")
    for user in (BOB, CAROL):
        world.member(user, room_id, user, "join")
    since = world.sync(BOB, filter=LAZY)["next_batch"]
    world.member(BOB, room_id, BOB, "leave")
    since = world.sync(BOB, since, filter=LAZY)["next_batch"]
    world.member(CAROL, room_id, CAROL, "leave")
    world.member(BOB, room_id, BOB, "join")
    if not is_remembered:
        world.restart()
    told = state_keys(joined(world.sync(BOB, since, filter=LAZY), room_id))
    assert {("m.room.member", CAROL), ("m.room.name", "")} <= told
    assert ("m.room.member", ALICE) not in told


def test_lazy_members_that_a_filter_left_out_are_not_taken_for_sent(world: World) -> None:
    room_id = world.create(ALICE, name="so that there are no heroes")
    world.member(BOB, room_id, BOB, "join")
    world.send(ALICE, room_id, "zero")
    since = world.sync(ALICE, filter=LAZY)["next_batch"]
    world.send(BOB, room_id, "one")
    names = {"room": {"state": {"lazy_load_members": True, "types": ["m.room.name"]}}}
    since = world.sync(ALICE, since, filter=names)["next_batch"]
    world.send(BOB, room_id, "two")
    assert state_keys(joined(world.sync(ALICE, since, filter=LAZY), room_id)) == {("m.room.member", BOB)}


def test_redundant_members_are_sent_each_time_if_asked_for(world: World) -> None:
    room_id = world.create(ALICE)
    filter = {"room": {"state": {"lazy_load_members": True, "include_redundant_members": True}}}
    since = world.sync(ALICE, filter=filter)["next_batch"]
    world.send(ALICE, room_id, "x")
    assert state_keys(joined(world.sync(ALICE, since, filter=filter), room_id)) == {("m.room.member", ALICE)}


# -- invites, knocks, rooms left -----------------------------------------------------------------------------


def test_invite_has_stripped_state_with_the_create_event(world: World) -> None:
    room_id = world.create(ALICE, name="hello")
    since = world.sync(BOB)["next_batch"]
    world.member(ALICE, room_id, BOB, "invite")
    answer = world.sync(BOB, since)
    events = answer["rooms"]["invite"][room_id]["invite_state"]["events"]
    assert {"m.room.create", "m.room.join_rules", "m.room.name", "m.room.member"} == {e["type"] for e in events}
    assert all(event.keys() == {"type", "state_key", "sender", "content"} for event in events)
    assert set(world.sync(BOB, answer["next_batch"])) == {"next_batch"}
    assert room_id in world.sync(BOB)["rooms"]["invite"]


def test_refused_invite_is_told_to_other_devices(world: World) -> None:
    room_id = world.create(ALICE)
    world.member(ALICE, room_id, BOB, "invite")
    since = world.sync(BOB)["next_batch"]
    world.member(BOB, room_id, BOB, "leave")
    left = world.sync(BOB, since)["rooms"]["leave"][room_id]
    assert [event["content"]["membership"] for event in left["timeline"]["events"]] == ["leave"]
    assert left["state"]["events"] == []


def test_knock_has_stripped_state(world: World) -> None:
    room_id = world.create(ALICE, join_rule="knock")
    since = world.sync(BOB)["next_batch"]
    world.member(BOB, room_id, BOB, "knock")
    events = world.sync(BOB, since)["rooms"]["knock"][room_id]["knock_state"]["events"]
    assert "m.room.create" in {event["type"] for event in events}


def test_left_room_is_told_up_to_the_leave(world: World) -> None:
    room_id = world.create(ALICE)
    world.member(BOB, room_id, BOB, "join")
    since = world.sync(BOB)["next_batch"]
    world.send(ALICE, room_id, "seen")
    world.member(ALICE, room_id, BOB, "leave")
    world.send(ALICE, room_id, "unseen")
    answer = world.sync(BOB, since)
    assert bodies(answer["rooms"]["leave"][room_id]) == ["seen", "m.room.member"]
    assert set(world.sync(BOB, answer["next_batch"])) == {"next_batch"}


def test_archived_rooms_are_told_when_asked_for_until_forgotten(world: World) -> None:
    room_id = world.create(ALICE)
    world.state(ALICE, room_id, "m.room.topic", {"topic": "then"})
    world.member(BOB, room_id, BOB, "join")
    world.member(BOB, room_id, BOB, "leave")
    world.state(ALICE, room_id, "m.room.topic", {"topic": "now"})
    filter = {"room": {"include_leave": True, "timeline": {"limit": 1}}}
    assert "rooms" not in world.sync(BOB)
    left = world.sync(BOB, filter=filter)["rooms"]["leave"][room_id]
    topics = [event["content"] for event in left["state"]["events"] if event["type"] == "m.room.topic"]
    assert topics == [{"topic": "then"}]
    world.forget(BOB, room_id)
    assert "rooms" not in world.sync(BOB, filter=filter)


# -- receipts, typing, account data --------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
def test_private_receipts_are_for_their_owner(world: World, restart: bool) -> None:
    room_id = world.create(ALICE)
    world.member(BOB, room_id, BOB, "join")
    event_id = world.send(ALICE, room_id, "x")
    alice, bob = world.sync(ALICE)["next_batch"], world.sync(BOB)["next_batch"]
    world.receipt(BOB, room_id, event_id, "m.read.private")
    if restart:
        world.restart()
    (receipt,) = joined(world.sync(BOB, bob), room_id)["ephemeral"]["events"]
    assert BOB in receipt["content"][event_id]["m.read.private"]
    assert "rooms" not in world.sync(ALICE, alice)


def test_first_sync_has_all_receipts(world: World) -> None:
    room_id = world.create(ALICE)
    event_id = world.send(ALICE, room_id, "x")
    world.receipt(ALICE, room_id, event_id)
    (receipt,) = joined(world.sync(ALICE), room_id)["ephemeral"]["events"]
    assert receipt == {"type": "m.receipt", "content": {event_id: {"m.read": {ALICE: {"ts": 1}}}}}


def test_typing_wakes_and_its_end_is_told(world: World) -> None:
    room_id = world.create(ALICE)
    since = world.sync(ALICE)["next_batch"]
    for users in ({BOB}, set()):
        waiting = world.start(world.service.sync(world.request(ALICE, since, timeout_ms=1000)))
        world.typing.set(room_id, users)  # type: ignore[arg-type]
        world.notifier.on_ephemeral([room_id])
        world.settle()
        answer = orjson.loads(world.wait(waiting))
        (typing,) = joined(answer, room_id)["ephemeral"]["events"]
        assert typing == {"type": "m.typing", "content": {"user_ids": sorted(users)}}
        since = answer["next_batch"]


def test_the_end_of_typing_is_told_with_the_full_state(world: World) -> None:
    room_id = world.create(ALICE)
    world.typing.set(room_id, {UserId(BOB)})
    first = world.sync(ALICE)
    assert joined(first, room_id)["ephemeral"]["events"][0]["content"]["user_ids"] == [BOB]
    world.typing.set(room_id, set())
    second = world.sync(ALICE, first["next_batch"], full_state=True)
    assert joined(second, room_id)["ephemeral"]["events"] == [{"type": "m.typing", "content": {"user_ids": []}}]


def test_account_data_is_told_once(world: World) -> None:
    room_id = world.create(ALICE)
    since = world.sync(ALICE)["next_batch"]
    world.account_data(ALICE, "org.global", {"a": 1})
    world.account_data(ALICE, "m.fully_read", {"event_id": "$x"}, room_id)
    answer = world.sync(ALICE, since)
    assert answer["account_data"]["events"] == [{"type": "org.global", "content": {"a": 1}}]
    assert joined(answer, room_id)["account_data"]["events"] == [
        {"type": "m.fully_read", "content": {"event_id": "$x"}}
    ]
    assert set(world.sync(ALICE, answer["next_batch"])) == {"next_batch"}


def test_first_sync_has_push_rules(world: World) -> None:
    types = [event["type"] for event in world.sync(ALICE)["account_data"]["events"]]
    assert types == ["m.push_rules"]


def test_ignored_users_are_not_heard(world: World) -> None:
    room_id = world.create(ALICE)
    world.member(BOB, room_id, BOB, "join")
    world.account_data(ALICE, "m.ignored_user_list", {"ignored_users": {BOB: {}}})
    since = world.sync(ALICE)["next_batch"]
    world.send(BOB, room_id, "spam")
    world.state(BOB, room_id, "m.room.member", {"membership": "join", "displayname": "B"}, BOB)
    other = world.create(BOB)
    world.member(BOB, other, ALICE, "invite")
    answer = world.sync(ALICE, since)
    assert bodies(joined(answer, room_id)) == ["m.room.member"]
    assert "invite" not in answer["rooms"]


# -- waiting -------------------------------------------------------------------------------------------------


def test_a_message_wakes_those_in_the_room_only(world: World) -> None:
    room_id, other = world.create(ALICE), world.create(BOB)
    tokens = {user: world.sync(user)["next_batch"] for user in (ALICE, BOB)}
    waits = {
        user: world.start(world.service.sync(world.request(user, since, timeout_ms=30_000)))
        for user, since in tokens.items()
    }
    world.send(ALICE, room_id, "hello")
    world.settle()
    assert bodies(joined(orjson.loads(world.wait(waits[ALICE])), room_id)) == ["hello"]
    assert not waits[BOB].called
    world.notifier.drain()
    assert set(orjson.loads(world.wait(waits[BOB]))) == {"next_batch"}
    assert world.notifier.count_waiting() == 0
    assert other


def test_a_new_room_wakes_its_members_from_then_on(world: World) -> None:
    room_id = world.create(ALICE)
    since = world.sync(BOB)["next_batch"]
    waiting = world.start(world.service.sync(world.request(BOB, since, timeout_ms=30_000)))
    world.member(ALICE, room_id, BOB, "invite")
    world.settle()
    since = orjson.loads(world.wait(waiting))["next_batch"]
    world.member(BOB, room_id, BOB, "join")
    since = world.sync(BOB, since)["next_batch"]
    waiting = world.start(world.service.sync(world.request(BOB, since, timeout_ms=30_000)))
    world.send(ALICE, room_id, "hello")
    world.settle()
    assert bodies(joined(orjson.loads(world.wait(waiting)), room_id)) == ["hello"]


def test_a_client_that_goes_away_leaves_no_waiter(world: World) -> None:
    world.create(ALICE)
    since = world.sync(ALICE)["next_batch"]
    waiting = world.start(world.service.sync(world.request(ALICE, since, timeout_ms=30_000)))
    waiting.addErrback(lambda _: None)
    assert world.notifier.count_waiting() == 1
    waiting.cancel()
    assert world.notifier.count_waiting() == 0


def test_waiters_of_one_room_share_the_work(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    room_id = world.create(ALICE)
    users = [f"@user{number}:test" for number in range(5)]
    for user in users:
        world.member(user, room_id, user, "join")
    requests = [world.request(user, world.sync(user)["next_batch"], timeout_ms=9000) for user in users]
    waits = [world.start(world.service.sync(request)) for request in requests]
    made: list[SegmentKey] = []
    put = Segments.put

    def count(segments: Segments, key: SegmentKey, segment: Segment) -> None:
        made.append(key)
        put(segments, key, segment)

    monkeypatch.setattr(Segments, "put", count)
    world.send(ALICE, room_id, "hello")
    world.settle()
    assert all(bodies(joined(orjson.loads(world.wait(wait)), room_id)) == ["hello"] for wait in waits)
    assert len(made) == 1
