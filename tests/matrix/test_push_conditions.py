"""Every condition of push rules, with the specification's examples."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.push_conditions import EventContext, Reader
from homeserver.matrix.push_evaluation import compile_rules, evaluate
from homeserver.matrix.push_rules import RuleSet
from tests.matrix.push_events import ALICE, Event, message, room


def holds(
    condition: object,
    event: Event,
    context: EventContext | None = None,
    *,
    display_name: str | None = "Alice",
) -> bool:
    stored = {"rules": {"override": [{"rule_id": "r", "actions": [], "conditions": [condition]}]}}
    rules = compile_rules(RuleSet.from_stored(stored))
    outcome = evaluate(rules, event, context or room(), Reader(ALICE, display_name))
    return outcome.rule_id == "r"


def topic(value: object) -> Event:
    return Event(type="m.room.topic", content={"topic": value}, state_key="")


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("lunc?*", "Lunch plans", True),
        ("lunc?*", "LUNCH", True),
        ("lunc?*", " lunch", False),
        ("lunc?*", "lunc", False),
        ("lunc?*", None, False),
        ("*", None, False),
        ("*", 5, False),
        ("*", "", True),
        ("", "", True),
        ("", "x", False),
        ("a.c", "abc", False),
        ("*b*", "a\nb\nc", True),
    ],
)
def test_event_match(pattern: str, value: object, expected: bool) -> None:
    assert holds({"kind": "event_match", "key": "content.topic", "pattern": pattern}, topic(value)) is expected


@pytest.mark.parametrize(
    ("pattern", "body", "expected"),
    [
        ("ex*ple", "An example event.", True),
        ("ex*ple", "exple", True),
        ("ex*ple", "An exciting triple-whammy", True),
        ("ex*ple", "examples", False),
        ("ex*ple", "an unexample", False),
        ("cake", "CAKE!", True),
        ("cake", "cakes", False),
        ("cake", "my_cake", False),
        ("cake", "écake", True),
        ("@room", "hey@room", True),
        ("c++", "I like C++.", True),
        ("cake", 5, False),
    ],
)
def test_body_is_matched_by_words(pattern: str, body: object, expected: bool) -> None:
    assert holds({"kind": "event_match", "key": "content.body", "pattern": pattern}, message(body)) is expected


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("type", "m.room.topic", True),
        ("sender", "@bob:*", True),
        ("room_id", "!room:example.com", True),
        ("event_id", "$event", True),
        ("state_key", "", True),
        ("redacts", "*", False),
        ("unsigned.age", "*", False),
        ("version", "*", False),
        ("content", "*", False),
        ("content.topic.more", "*", False),
        ("", "*", False),
    ],
)
def test_keys_of_event_match(key: str, value: str, expected: bool) -> None:
    assert holds({"kind": "event_match", "key": key, "pattern": value}, topic("x")) is expected


def test_messages_have_no_state_key() -> None:
    assert not holds({"kind": "event_match", "key": "state_key", "pattern": "*"}, message())


@pytest.mark.parametrize(
    ("expected_value", "value", "expected"),
    [
        (True, True, True),
        (True, "true", False),
        (True, 1, False),
        (1, True, False),
        (1, 1, True),
        (1, 1.0, False),
        ("a", "a", True),
        ("a", "A", False),
        (None, None, True),
        (None, False, False),
        ("a", ["a"], False),
    ],
)
def test_event_property_is(expected_value: object, value: object, expected: bool) -> None:
    condition = {"kind": "event_property_is", "key": r"content.m\.federate", "value": expected_value}
    assert holds(condition, Event(content={"m.federate": value})) is expected


def test_an_absent_property_is_not_null() -> None:
    assert not holds({"kind": "event_property_is", "key": "content.x", "value": None}, message())


@pytest.mark.parametrize(
    ("wanted", "values", "expected"),
    [
        ("#a:x", ["#b:x", "#a:x"], True),
        (":x", ["#a:x"], False),
        (1, [True, 1.0, "1"], False),
        (None, [None], True),
        ("a", "a", False),
        ("a", {"a": 1}, False),
        ("a", [], False),
    ],
)
def test_event_property_contains(wanted: object, values: object, expected: bool) -> None:
    condition = {"kind": "event_property_contains", "key": "content.list", "value": wanted}
    assert holds(condition, Event(content={"list": values})) is expected


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("Alice", "hello ALICE!", True),
        ("Alice", "malice", False),
        ("A*e", "Alice", False),
        ("A*e", "hi a*e", True),
        ("", "Alice", False),
        (" ", "a b", False),
        (None, "Alice", False),
        ("Alice", 5, False),
    ],
)
def test_contains_display_name(name: str | None, body: object, expected: bool) -> None:
    assert holds({"kind": "contains_display_name"}, message(body), display_name=name) is expected


@pytest.mark.parametrize(
    ("wanted", "matching"),
    [
        ("2", {2}),
        ("==2", {2}),
        ("<2", {0, 1}),
        ("<=2", {0, 1, 2}),
        (">2", {3}),
        (">=2", {2, 3}),
        ("=2", set()),
        ("-1", set()),
        ("2 ", set()),
        ("", set()),
        ("²", set()),
        ("9" * 400, set()),
    ],
)
def test_room_member_count(wanted: str, matching: set[int]) -> None:
    condition = {"kind": "room_member_count", "is": wanted}
    assert {n for n in range(4) if holds(condition, message(), room(members=n))} == matching


def test_sender_needs_the_level_of_the_notification() -> None:
    condition = {"kind": "sender_notification_permission", "key": "room"}
    assert [holds(condition, message(), room(power=p, room=20)) for p in (19, 20)] == [False, True]
    assert [holds(condition, message(), room(power=p)) for p in (49, 50)] == [False, True]


WRONG: list[Any] = [
    None,
    "event_match",
    {},
    {"kind": "org.example.unknown"},
    {"kind": ["event_match"]},
    {"kind": "event_match", "key": "type"},
    {"kind": "event_match", "pattern": "*"},
    {"kind": "event_match", "key": 1, "pattern": "*"},
    {"kind": "event_match", "key": "type", "pattern": 1},
    {"kind": "event_property_is", "key": "content.body"},
    {"kind": "event_property_is", "key": "content", "value": {}},
    {"kind": "event_property_is", "key": "origin_server_ts", "value": 2**53},
    {"kind": "event_property_contains", "key": "content.list", "value": ["a"]},
    {"kind": "room_member_count"},
    {"kind": "room_member_count", "is": 5},
    {"kind": "sender_notification_permission"},
]


@pytest.mark.parametrize("condition", WRONG)
def test_unknown_and_malformed_conditions_match_nothing(condition: object) -> None:
    assert not holds(condition, Event(content={"body": "x", "list": [["a"]]}))
