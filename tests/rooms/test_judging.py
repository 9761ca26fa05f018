"""Rules of one's own: what of them matters in a room, and that equal ones are asked once."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.ids import RoomId
from homeserver.matrix.push_rule_changes import put_rule, set_enabled
from homeserver.matrix.push_rules import DEFAULT_RULE_SET, Kind
from homeserver.rooms.judging import RuleBook, RulesByRoom, is_predefined

HERE, THERE = RoomId("!here:x"), RoomId("!there:x")


def condition(pattern: str, key: str = "room_id") -> dict[str, Any]:
    return {"kind": "event_match", "key": key, "pattern": pattern}


def override(*conditions: dict[str, Any]) -> dict[str, Any]:
    return {"actions": [], "conditions": list(conditions)}


@pytest.mark.parametrize(
    ("kind", "rule_id", "body"),
    [
        (Kind.ROOM, THERE, {"actions": []}),
        (Kind.OVERRIDE, "mute", override(condition(THERE))),
        (Kind.UNDERRIDE, "mute", override(condition("m.room.message", "type"), condition("!THERE:x"))),
    ],
)
def test_a_rule_for_one_room_changes_nothing_in_others(kind: Kind, rule_id: str, body: dict[str, Any]) -> None:
    rules = RulesByRoom(put_rule(DEFAULT_RULE_SET, kind, rule_id, body))
    assert is_predefined(rules.rules(HERE))
    assert [rule.rule_id for rule in rules.rules(THERE).own_rules(kind)] == [rule_id]


@pytest.mark.parametrize(
    ("kind", "rule_id", "body"),
    [
        (Kind.SENDER, "@alice:x", {"actions": []}),
        (Kind.CONTENT, "cake", {"actions": ["notify"], "pattern": "cake"}),
        (Kind.OVERRIDE, "glob", override(condition("!*:x"))),
        (Kind.OVERRIDE, "type", override(condition("m.room.message", "type"))),
        (Kind.OVERRIDE, "all", override()),
    ],
)
def test_other_rules_matter_everywhere(kind: Kind, rule_id: str, body: dict[str, Any]) -> None:
    rules = RulesByRoom(put_rule(DEFAULT_RULE_SET, kind, rule_id, body))
    assert not is_predefined(rules.rules(HERE))


def test_a_disabled_rule_of_ones_own_matters_nowhere() -> None:
    own = put_rule(DEFAULT_RULE_SET, Kind.CONTENT, "cake", {"actions": ["notify"], "pattern": "cake"})
    assert is_predefined(RulesByRoom(set_enabled(own, Kind.CONTENT, "cake", False)).rules(HERE))


def test_a_changed_predefined_rule_matters_everywhere() -> None:
    changed = set_enabled(DEFAULT_RULE_SET, Kind.UNDERRIDE, ".m.rule.message", False)
    assert not is_predefined(RulesByRoom(changed).rules(HERE))


def test_equal_rules_are_compiled_once() -> None:
    book = RuleBook()
    body = {"actions": ["notify"], "pattern": "cake"}
    one, other = (put_rule(DEFAULT_RULE_SET, Kind.CONTENT, "cake", body) for _ in range(2))
    assert one is not other
    assert book.compile(one) is book.compile(other)
