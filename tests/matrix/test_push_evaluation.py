"""Outcomes of the predefined rules and of users' own."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.push_conditions import EventContext, Reader
from homeserver.matrix.push_evaluation import Outcome, RoomEvaluation, compile_rules, evaluate
from homeserver.matrix.push_rule_changes import put_rule, set_actions, set_enabled
from homeserver.matrix.push_rules import ALL_KINDS, DEFAULT_RULE_SET, Kind, RuleSet
from tests.matrix.push_events import ALICE, BOB, ROOM, Event, message, room

ENCRYPTED = Event(type="m.room.encrypted", content={"ciphertext": "x"})
MENTIONS_ALICE = {"m.mentions": {"user_ids": [ALICE]}}
MENTIONS_ROOM = {"m.mentions": {"room": True}}
SOUND = {"sound": "default"}


def judge(rules: RuleSet, event: Event, context: EventContext | None = None, user_id: str = ALICE) -> Outcome:
    return evaluate(compile_rules(rules), event, context or room(), Reader(user_id, "Alice"))


def member(membership: str, state_key: str) -> Event:
    return Event(type="m.room.member", content={"membership": membership}, state_key=state_key)


CASES: list[tuple[Event, EventContext, str | None, bool, dict[str, Any]]] = [
    (message(), room(), ".m.rule.message", True, {}),
    (message(), room(members=2), ".m.rule.room_one_to_one", True, SOUND),
    (ENCRYPTED, room(), ".m.rule.encrypted", True, {}),
    (ENCRYPTED, room(members=2), ".m.rule.encrypted_room_one_to_one", True, SOUND),
    (message(msgtype="m.notice"), room(), ".m.rule.suppress_notices", False, {}),
    (message(msgtype="m.notice", **MENTIONS_ALICE), room(), ".m.rule.suppress_notices", False, {}),
    (member("invite", ALICE), room(), ".m.rule.invite_for_me", True, SOUND),
    (member("invite", BOB), room(), ".m.rule.member_event", False, {}),
    (member("join", ALICE), room(), ".m.rule.member_event", False, {}),
    (message(**MENTIONS_ALICE), room(), ".m.rule.is_user_mention", True, {**SOUND, "highlight": True}),
    (message(**{"m.mentions": {"user_ids": ALICE}}), room(), ".m.rule.message", True, {}),
    (message(**{"m.mentions": {"user_ids": [BOB]}}), room(), ".m.rule.message", True, {}),
    (message(**{"m.mentions": None}), room(), ".m.rule.message", True, {}),
    (message(**MENTIONS_ROOM), room(power=50), ".m.rule.is_room_mention", True, {"highlight": True}),
    (message(**MENTIONS_ROOM), room(power=49), ".m.rule.message", True, {}),
    (message(**{"m.mentions": {"room": "true"}}), room(power=50), ".m.rule.message", True, {}),
    (message("@room Alice alice"), room(power=50), ".m.rule.message", True, {}),
    (Event(type="m.room.tombstone", state_key=""), room(), ".m.rule.tombstone", True, {"highlight": True}),
    (Event(type="m.room.tombstone", state_key="x"), room(), None, False, {}),
    (Event(type="m.room.tombstone"), room(), None, False, {}),
    (
        Event(type="m.reaction", content=MENTIONS_ALICE),
        room(),
        ".m.rule.is_user_mention",
        True,
        {
            **SOUND,
            "highlight": True,
        },
    ),
    (Event(type="m.reaction"), room(), ".m.rule.reaction", False, {}),
    (Event(type="m.room.server_acl", state_key=""), room(), ".m.rule.room.server_acl", False, {}),
    (message(**{"m.relates_to": {"rel_type": "m.replace"}}), room(), ".m.rule.suppress_edits", False, {}),
    (message(**{"m.relates_to": {"rel_type": "m.thread"}}), room(), ".m.rule.message", True, {}),
    (Event(type="m.call.invite"), room(), ".m.rule.call", True, {"sound": "ring"}),
    (Event(type="org.example.other"), room(), None, False, {}),
]


@pytest.mark.parametrize(("event", "context", "rule_id", "notify", "tweaks"), CASES)
def test_predefined_rules(
    event: Event, context: EventContext, rule_id: str | None, notify: bool, tweaks: dict[str, Any]
) -> None:
    outcome = judge(DEFAULT_RULE_SET, event, context)
    assert (outcome.rule_id, outcome.notify, dict(outcome.tweaks)) == (rule_id, notify, tweaks)
    assert outcome.highlight is ("highlight" in tweaks)


def test_own_events_notify_nobody() -> None:
    own = message(**MENTIONS_ALICE)
    assert not judge(DEFAULT_RULE_SET, own, user_id=BOB).notify


def test_master_rule_silences_even_the_users_own_rules() -> None:
    rules = put_rule(DEFAULT_RULE_SET, Kind.OVERRIDE, "all", {"actions": ["notify"]})
    assert judge(rules, Event(type="org.example.other")).notify
    silenced = set_enabled(rules, Kind.OVERRIDE, ".m.rule.master", True)
    assert judge(silenced, message()).rule_id == ".m.rule.master"
    assert not judge(silenced, message()).notify


def test_kinds_are_checked_in_the_order_of_the_specification() -> None:
    rules, found = DEFAULT_RULE_SET, []
    for kind, rule_id, body in [
        (Kind.UNDERRIDE, "under", {}),
        (Kind.SENDER, BOB, {}),
        (Kind.ROOM, ROOM, {}),
        (Kind.CONTENT, "word", {"pattern": "hello"}),
        (Kind.OVERRIDE, "over", {}),
    ]:
        rules = put_rule(rules, kind, rule_id, {"actions": [], **body})
        found.append(judge(rules, message()).rule_id)
    assert found == ["under", BOB, ROOM, "word", "over"]


def test_room_and_sender_rules_are_for_that_room_and_sender() -> None:
    rules = put_rule(DEFAULT_RULE_SET, Kind.ROOM, "!other:x", {"actions": []})
    rules = put_rule(rules, Kind.SENDER, "@other:x", {"actions": []})
    assert judge(rules, message()).rule_id == ".m.rule.message"


def test_disabled_rules_never_match() -> None:
    rules = put_rule(DEFAULT_RULE_SET, Kind.ROOM, ROOM, {"actions": []})
    rules = set_enabled(rules, Kind.ROOM, ROOM, False)
    rules = set_enabled(rules, Kind.UNDERRIDE, ".m.rule.message", False)
    assert judge(rules, message()).rule_id is None


def test_changed_actions_of_a_predefined_rule() -> None:
    actions = ["notify", {"set_tweak": "highlight"}]
    rules = set_actions(DEFAULT_RULE_SET, Kind.UNDERRIDE, ".m.rule.message", actions)
    assert judge(rules, message()).highlight


@pytest.mark.parametrize(
    ("actions", "notify", "highlight", "tweaks"),
    [
        ([], False, False, {}),
        (["dont_notify"], False, False, {}),
        (["coalesce", "notify"], True, False, {}),
        (["org.example.fly", {"org.example": 1}, "notify"], True, False, {}),
        (["notify", {"set_tweak": "highlight", "value": False}], True, False, {"highlight": False}),
        (["notify", {"set_tweak": "highlight"}], True, True, {"highlight": True}),
        (["notify", {"set_tweak": "org.example.light", "value": 3}], True, False, {"org.example.light": 3}),
        ([{"set_tweak": "highlight"}], False, False, {}),
    ],
)
def test_actions(actions: list[Any], notify: bool, highlight: bool, tweaks: dict[str, Any]) -> None:
    rules = RuleSet.from_stored({"rules": {"override": [{"rule_id": "r", "actions": actions}]}})
    outcome = judge(rules, message())
    assert (outcome.notify, outcome.highlight, dict(outcome.tweaks)) == (notify, highlight, tweaks)


def test_one_evaluation_serves_users_with_different_rules() -> None:
    quiet = compile_rules(put_rule(DEFAULT_RULE_SET, Kind.ROOM, ROOM, {"actions": []}))
    usual = compile_rules(DEFAULT_RULE_SET)
    evaluation = RoomEvaluation(message(**MENTIONS_ALICE), room())
    users = [(usual, ALICE), (usual, "@carol:x"), (quiet, ALICE), (quiet, "@carol:x"), (usual, BOB)]
    found = [evaluation.outcome(rules, Reader(user_id)).rule_id for rules, user_id in users]
    assert found == [".m.rule.is_user_mention", ".m.rule.message", ".m.rule.is_user_mention", ROOM, None]


def test_rules_with_glob_types_are_tried_for_every_type() -> None:
    condition = {"kind": "event_match", "key": "type", "pattern": "M.ROOM.*"}
    rules = put_rule(DEFAULT_RULE_SET, Kind.OVERRIDE, "all", {"actions": [], "conditions": [condition]})
    types = ["m.room.message", "m.room.topic", "m.call.invite"]
    found = [judge(rules, Event(type=type)).rule_id for type in types]
    assert found == ["all", "all", ".m.rule.call"]


def test_shared_conditions_are_asked_once_for_all_users() -> None:
    asked: list[str] = []

    class CountingLevels:
        def notification(self, key: str) -> int:
            asked.append(key)
            return 50

    evaluation = RoomEvaluation(message(**MENTIONS_ROOM), EventContext(5, 50, CountingLevels()))
    rules = compile_rules(DEFAULT_RULE_SET)
    changed = compile_rules(set_enabled(DEFAULT_RULE_SET, Kind.OVERRIDE, ".m.rule.reaction", False))
    assert all(evaluation.outcome(rules, Reader(f"@u{n}:x")).highlight for n in range(10))
    assert evaluation.outcome(changed, Reader(ALICE)).highlight
    assert asked == ["room"]


IN_THREAD = {"m.relates_to": {"rel_type": "m.thread", "event_id": "$root"}}
UNSUBSCRIBED, SUBSCRIBED = (f".io.element.msc4306.rule.{name}_thread" for name in ("unsubscribed", "subscribed"))


@pytest.mark.parametrize(
    ("event", "threads", "rule_id"),
    [
        (message(**IN_THREAD), (), UNSUBSCRIBED),
        (message(**IN_THREAD), ("$other",), UNSUBSCRIBED),
        (message(**IN_THREAD), ("$root",), SUBSCRIBED),
        (Event(type="m.room.encrypted", content=IN_THREAD), ("$root",), SUBSCRIBED),
        (message(**IN_THREAD, **MENTIONS_ALICE), (), ".m.rule.is_user_mention"),
        (message(msgtype="m.notice", **IN_THREAD), ("$root",), ".m.rule.suppress_notices"),
        (message("a keyword", **IN_THREAD), (), "keyword"),
        (message(), ("$root",), ROOM),
        (message(**{"m.relates_to": {"rel_type": "m.reference", "event_id": "$root"}}), ("$root",), ROOM),
        (message(**{"m.relates_to": {"rel_type": "m.thread", "event_id": 5}}), (), ROOM),
    ],
)
def test_threads_notify_as_they_are_subscribed_to(event: Event, threads: tuple[str, ...], rule_id: str) -> None:
    muted = put_rule(DEFAULT_RULE_SET, Kind.ROOM, ROOM, {"actions": []})
    rules = put_rule(muted, Kind.CONTENT, "keyword", {"pattern": "keyword", "actions": ["notify"]})
    reader = Reader(ALICE, "Alice", threads)
    outcome = evaluate(compile_rules(rules, ALL_KINDS), event, room(), reader)
    assert (outcome.rule_id, outcome.notify) == (
        rule_id,
        rule_id not in (ROOM, UNSUBSCRIBED, ".m.rule.suppress_notices"),
    )
    assert evaluate(compile_rules(rules), message(**IN_THREAD), room(), reader).rule_id == ROOM
