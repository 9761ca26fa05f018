"""The fold of unread counts: what memory holds equals what would be read anew, and it is bounded."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.push_evaluation import RoomEvaluation
from homeserver.matrix.push_rule_changes import delete_rule, put_rule
from homeserver.matrix.push_rules import Kind
from homeserver.push.rules import PushRules
from homeserver.rooms.receipts import Receipts
from homeserver.rooms.unread import Counts, Unread
from homeserver.rooms.writer import Draft
from tests.sync.world import World

USERS = tuple(UserId(f"@{name}:test") for name in ("alice", "bob", "carol"))
ALICE, BOB, CAROL = USERS
HIGHLIGHT = ["notify", {"set_tweak": "highlight"}]


class Counting:
    """A world that counts; `cold` counts without memory."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.unread = self.world.writer.push_outcomes = Unread(world.database, world.heads, world.events.peek, 1000)
        self.rules = PushRules(world.database, world.log)
        self.receipts = Receipts(world.database, world.clock, world.views, world.log)
        world.log.follow(self.rules.on_rows)
        world.log.follow(self.unread.on_rows)

    def warm(self, user: UserId, room: RoomId) -> Counts:
        return self.world.run(self.unread.load_counts(user, [room]))[room]

    def cold(self, user: UserId, room: RoomId) -> Counts:
        unread = Unread(self.world.database, self.world.heads, self.world.events.peek, 1000)
        return self.world.run(unread.load_counts(user, [room]))[room]

    def send(self, user: UserId, room: RoomId, content: dict[str, Any], type_: str = "m.room.message") -> EventId:
        return self.world.write(room, Draft(type_, user, content))[0].event_id

    def put_rule(self, user: UserId, kind: Kind, rule_id: str, body: dict[str, Any]) -> None:
        self.world.run(self.rules.change(user, lambda rules: put_rule(rules, kind, rule_id, body)))


@pytest.fixture
def counting(database_url: str) -> Iterator[Counting]:
    world = World(database_url)
    yield Counting(world)
    world.stop()


def act(counting: Counting, room: RoomId, events: list[EventId], choose: random.Random) -> None:
    world = counting.world
    user, target = choose.choice(USERS), choose.choice(events)
    relation = {"rel_type": choose.choice(["m.thread", "m.thread", "m.replace", "m.reference"]), "event_id": target}
    text = {"msgtype": choose.choice(["m.text", "m.text", "m.notice"]), "body": choose.choice(["tea", "cake"])}
    match choose.randrange(10):
        case 0 | 1 | 2:
            events.append(counting.send(user, room, text))
        case 3:
            events.append(counting.send(user, room, {**text, "m.mentions": {"user_ids": [choose.choice(USERS)]}}))
        case 4 | 5:
            events.append(counting.send(user, room, {**text, "m.relates_to": relation}))
        case 6:
            world.redact(ALICE, room, target)
        case 7:
            private = choose.choice(["m.read", "m.read.private"])
            world.run(counting.receipts.set_receipt(user, room, private, target))
        case 8:
            world.account_data(user, "m.ignored_user_list", {"ignored_users": {choose.choice(USERS): {}}})
        case 9 if user != ALICE:
            world.member(user, room, user, "leave")
            world.member(user, room, user, "join", displayname="tea")


@pytest.mark.parametrize("seed", range(6))
def test_counts_in_memory_equal_those_that_are_read_anew(counting: Counting, seed: int) -> None:
    choose = random.Random(seed)
    room = counting.world.create(ALICE)
    for user in (BOB, CAROL):
        counting.world.member(user, room, user, "join")
    if seed % 2:
        counting.put_rule(BOB, Kind.CONTENT, "cake", {"actions": HIGHLIGHT, "pattern": "cake"})
        name = {"actions": HIGHLIGHT, "conditions": [{"kind": "contains_display_name"}]}
        counting.put_rule(CAROL, Kind.OVERRIDE, "name", name)
    events = [counting.send(ALICE, room, {"msgtype": "m.text", "body": "first"})]
    for _ in range(60):
        act(counting, room, events, choose)
        for user in USERS:
            assert counting.warm(user, room) == counting.cold(user, room)


def test_a_changed_rule_judges_what_is_unread_anew(counting: Counting) -> None:
    room = counting.world.create(ALICE)
    counting.world.member(BOB, room, BOB, "join")
    counting.send(ALICE, room, {"msgtype": "m.text", "body": "cake"})
    assert counting.warm(BOB, room) == Counts(1, 0)
    counting.put_rule(BOB, Kind.CONTENT, "cake", {"actions": HIGHLIGHT, "pattern": "cake"})
    assert counting.warm(BOB, room) == Counts(1, 1)
    counting.world.run(counting.rules.change(BOB, lambda rules: delete_rule(rules, Kind.CONTENT, "cake")))
    assert counting.warm(BOB, room) == Counts(1, 0)


def test_an_event_is_evaluated_once_for_all_with_rules_of_their_own(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = counting.world.create(ALICE)
    for user in (BOB, CAROL):
        counting.world.member(user, room, user, "join")
        counting.put_rule(user, Kind.CONTENT, "cake", {"actions": HIGHLIGHT, "pattern": "cake"})
        counting.warm(user, room)
    plans: list[str] = []
    make_plan = RoomEvaluation._make_plan

    def counted(self: RoomEvaluation, rules: Any) -> Any:
        plans.append(rules.digest)
        return make_plan(self, rules)

    monkeypatch.setattr(RoomEvaluation, "_make_plan", counted)
    counting.send(ALICE, room, {"msgtype": "m.text", "body": "cake"})
    assert len(plans) == 2  # the predefined rules, when it was sent; those of both, when it was told
    assert [counting.warm(user, room) for user in (BOB, CAROL)] == [Counts(1, 1)] * 2


def test_memory_is_bounded_with_its_indexes(counting: Counting) -> None:
    world = counting.world
    unread = Unread(world.database, world.heads, world.events.peek, 3)
    world.log.follow(unread.on_rows)
    rooms = [world.create(ALICE) for _ in range(8)]
    for room in rooms:
        world.run(unread.load_counts(ALICE, [room]))
    kept = [room for room in rooms if unread.get_counts(ALICE, room) is not None]
    assert kept == rooms[-3:]
    assert set(unread._users) == set(kept)
    assert unread._rooms == {ALICE: set(kept)}
