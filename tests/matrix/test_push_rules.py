"""The predefined rule set, storage, and the changes that the API makes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.errors import BadJson, InvalidParam, MatrixError, MissingParam, NotFound
from homeserver.matrix.push_rule_changes import delete_rule, put_rule, set_actions, set_enabled
from homeserver.matrix.push_rules import DEFAULT_RULE_SET, USUAL_KINDS, Kind, RuleSet, parse_kind
from tests.matrix.push_events import ALICE

NOTIFY: dict[str, Any] = {"actions": ["notify"]}


def ids(rules: RuleSet, kind: Kind) -> list[str]:
    return [rule.rule_id for rule in rules.rules(kind)]


def with_rules(*names: str, kind: Kind = Kind.OVERRIDE) -> RuleSet:
    rules = DEFAULT_RULE_SET
    for name in reversed(names):
        rules = put_rule(rules, kind, name, NOTIFY)
    return rules


def own_ids(rules: RuleSet, kind: Kind = Kind.OVERRIDE) -> list[str]:
    return [rule.rule_id for rule in rules.own_rules(kind)]


def test_predefined_rules_in_the_order_of_the_specification() -> None:
    assert ids(DEFAULT_RULE_SET, Kind.OVERRIDE) == [
        ".m.rule.master",
        ".m.rule.suppress_notices",
        ".m.rule.invite_for_me",
        ".m.rule.member_event",
        ".m.rule.is_user_mention",
        ".m.rule.is_room_mention",
        ".m.rule.tombstone",
        ".m.rule.reaction",
        ".m.rule.room.server_acl",
        ".m.rule.suppress_edits",
    ]
    assert ids(DEFAULT_RULE_SET, Kind.UNDERRIDE) == [
        ".m.rule.call",
        ".m.rule.encrypted_room_one_to_one",
        ".m.rule.room_one_to_one",
        ".m.rule.message",
        ".m.rule.encrypted",
    ]
    assert [ids(DEFAULT_RULE_SET, kind) for kind in (Kind.CONTENT, Kind.ROOM, Kind.SENDER)] == [[], [], []]


def test_only_the_master_rule_is_disabled_at_first() -> None:
    disabled = [rule.rule_id for kind in Kind for rule in DEFAULT_RULE_SET.rules(kind) if not rule.enabled]
    assert disabled == [".m.rule.master"]


SOUND = {"set_tweak": "sound", "value": "default"}


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (
            "override",
            {
                "rule_id": ".m.rule.master",
                "default": True,
                "enabled": False,
                "conditions": [],
                "actions": [],
            },
        ),
        (
            "override",
            {
                "rule_id": ".m.rule.invite_for_me",
                "default": True,
                "enabled": True,
                "conditions": [
                    {"key": "type", "kind": "event_match", "pattern": "m.room.member"},
                    {"key": "content.membership", "kind": "event_match", "pattern": "invite"},
                    {"key": "state_key", "kind": "event_match", "pattern": ALICE},
                ],
                "actions": ["notify", SOUND],
            },
        ),
        (
            "override",
            {
                "rule_id": ".m.rule.is_user_mention",
                "default": True,
                "enabled": True,
                "conditions": [
                    {
                        "kind": "event_property_contains",
                        "key": "content.m\\.mentions.user_ids",
                        "value": ALICE,
                    }
                ],
                "actions": ["notify", SOUND, {"set_tweak": "highlight"}],
            },
        ),
        (
            "override",
            {
                "rule_id": ".m.rule.is_room_mention",
                "default": True,
                "enabled": True,
                "conditions": [
                    {"kind": "event_property_is", "key": "content.m\\.mentions.room", "value": True},
                    {"kind": "sender_notification_permission", "key": "room"},
                ],
                "actions": ["notify", {"set_tweak": "highlight"}],
            },
        ),
        (
            "underride",
            {
                "rule_id": ".m.rule.call",
                "default": True,
                "enabled": True,
                "conditions": [{"key": "type", "kind": "event_match", "pattern": "m.call.invite"}],
                "actions": ["notify", {"set_tweak": "sound", "value": "ring"}],
            },
        ),
        (
            "underride",
            {
                "rule_id": ".m.rule.room_one_to_one",
                "default": True,
                "enabled": True,
                "conditions": [
                    {"kind": "room_member_count", "is": "2"},
                    {"kind": "event_match", "key": "type", "pattern": "m.room.message"},
                ],
                "actions": ["notify", SOUND],
            },
        ),
    ],
)
def test_predefined_rules_in_the_format_of_the_api(kind: str, rule: dict[str, Any]) -> None:
    assert rule in DEFAULT_RULE_SET.to_json(ALICE)["global"][kind]


def test_api_format_is_json_with_all_kinds() -> None:
    answer = json.loads(json.dumps(DEFAULT_RULE_SET.to_json(ALICE)))
    assert list(answer["global"]) == ["override", "content", "room", "sender", "underride"]


def test_own_rules_stand_between_master_and_the_other_predefined_ones() -> None:
    rules = put_rule(with_rules("a", "b"), Kind.UNDERRIDE, "u", NOTIFY)
    found = ids(rules, Kind.OVERRIDE)
    assert found[:4] == [".m.rule.master", "a", "b", ".m.rule.suppress_notices"]
    assert ids(rules, Kind.UNDERRIDE)[:2] == ["u", ".m.rule.call"]


def test_content_rules_have_a_pattern_and_no_conditions() -> None:
    body = {"pattern": "cake*lie", "actions": [], "conditions": [{"kind": "x"}]}
    rules = put_rule(DEFAULT_RULE_SET, Kind.CONTENT, "nocake", body)
    assert rules.to_json(ALICE)["global"]["content"] == [
        {"actions": [], "pattern": "cake*lie", "rule_id": "nocake", "enabled": True, "default": False}
    ]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, None, ["new", "a", "b", "c"]),
        ("b", None, ["a", "new", "b", "c"]),
        (None, "b", ["a", "b", "new", "c"]),
        (None, "c", ["a", "b", "c", "new"]),
        ("c", "a", ["a", "b", "new", "c"]),
    ],
)
def test_place_of_a_new_rule(before: str | None, after: str | None, expected: list[str]) -> None:
    rules = put_rule(with_rules("a", "b", "c"), Kind.OVERRIDE, "new", NOTIFY, before=before, after=after)
    assert own_ids(rules) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, None, ["a", "b", "c"]),
        ("a", None, ["b", "a", "c"]),
        (None, "c", ["a", "c", "b"]),
    ],
)
def test_place_of_an_updated_rule(before: str | None, after: str | None, expected: list[str]) -> None:
    rules = put_rule(with_rules("a", "b", "c"), Kind.OVERRIDE, "b", {"actions": []}, before=before, after=after)
    assert own_ids(rules) == expected
    assert rules.rule(Kind.OVERRIDE, "b").actions == ()


@pytest.mark.parametrize("other", ["nowhere", ".m.rule.master", "elsewhere"])
@pytest.mark.parametrize("parameter", ["before", "after"])
def test_place_beside_an_unknown_or_predefined_rule(parameter: str, other: str) -> None:
    rules = put_rule(with_rules("a"), Kind.SENDER, "elsewhere", NOTIFY)
    with pytest.raises(MatrixError, match=f"before/after rule not found: {other}") as error:
        put_rule(rules, Kind.OVERRIDE, "new", NOTIFY, **{parameter: other})
    assert (error.value.status, error.value.errcode) == (400, "M_UNKNOWN")


def test_update_keeps_a_rule_disabled() -> None:
    rules = set_enabled(with_rules("a"), Kind.OVERRIDE, "a", False)
    assert not put_rule(rules, Kind.OVERRIDE, "a", {"actions": []}).rule(Kind.OVERRIDE, "a").enabled


@pytest.mark.parametrize("rule_id", ["", ".", ".mine", ".m.rule.master", "a/b", "a\\b"])
def test_forbidden_rule_ids(rule_id: str) -> None:
    with pytest.raises(InvalidParam, match="ruleId"):
        put_rule(DEFAULT_RULE_SET, Kind.OVERRIDE, rule_id, NOTIFY)


@pytest.mark.parametrize(
    ("kind", "body", "error", "field"),
    [
        (Kind.ROOM, {}, MissingParam, "actions"),
        (Kind.ROOM, {"actions": "notify"}, BadJson, "actions"),
        (Kind.ROOM, {"actions": ["notify", 5]}, BadJson, r"actions\[1\]"),
        (Kind.ROOM, {"actions": [None]}, BadJson, r"actions\[0\]"),
        (Kind.ROOM, {"actions": [{"set_tweak": 5}]}, BadJson, r"actions\[0\].set_tweak"),
        (Kind.CONTENT, {"actions": []}, MissingParam, "pattern"),
        (Kind.CONTENT, {"actions": [], "pattern": 5}, BadJson, "pattern"),
        (Kind.OVERRIDE, {"actions": [], "conditions": {}}, BadJson, "conditions"),
        (Kind.OVERRIDE, {"actions": [], "conditions": None}, BadJson, "conditions"),
        (Kind.OVERRIDE, {"actions": [], "conditions": ["x"]}, BadJson, r"conditions\[0\]"),
        (Kind.OVERRIDE, {"actions": [], "conditions": [{"kind": 1}]}, BadJson, r"conditions\[0\]"),
    ],
)
def test_malformed_rules(kind: Kind, body: dict[str, Any], error: type[MatrixError], field: str) -> None:
    with pytest.raises(error, match=field):
        put_rule(DEFAULT_RULE_SET, kind, "r", body)


@pytest.mark.parametrize(
    ("condition", "field"),
    [
        ({"kind": "event_match", "key": "type"}, "pattern"),
        ({"kind": "event_match", "pattern": "x"}, "key"),
        ({"kind": "event_property_is", "key": "type"}, "value"),
        ({"kind": "event_property_is", "key": "type", "value": []}, "value"),
        ({"kind": "event_property_contains", "key": "type", "value": 2**53}, "value"),
        ({"kind": "event_property_contains", "key": "type", "value": 1.5}, "value"),
        ({"kind": "room_member_count", "is": 2}, "is"),
        ({"kind": "room_member_count", "is": "=2"}, "is"),
        ({"kind": "sender_notification_permission"}, "key"),
    ],
)
def test_malformed_conditions_are_named(condition: dict[str, Any], field: str) -> None:
    body = {"actions": [], "conditions": [{"kind": "contains_display_name"}, condition]}
    with pytest.raises(BadJson, match=rf"conditions\[1\]\.{field}"):
        put_rule(DEFAULT_RULE_SET, Kind.UNDERRIDE, "r", body)


def test_unknown_conditions_and_actions_are_kept() -> None:
    body = {"actions": ["org.example.fly"], "conditions": [{"kind": "org.example.moon", "phase": [1.5]}]}
    rules = put_rule(DEFAULT_RULE_SET, Kind.OVERRIDE, "r", body)
    rule = rules.to_json(ALICE)["global"]["override"][1]
    assert (rule["actions"], rule["conditions"]) == (body["actions"], body["conditions"])


def test_historical_actions_are_kept_for_the_client_that_put_them() -> None:
    rules = put_rule(DEFAULT_RULE_SET, Kind.OVERRIDE, "r", {"actions": ["dont_notify", "coalesce"]})
    assert rules.rule(Kind.OVERRIDE, "r").actions == ("dont_notify", "coalesce")


def test_deleted_rule_is_gone() -> None:
    rules = delete_rule(with_rules("a", "b"), Kind.OVERRIDE, "a")
    assert own_ids(rules) == ["b"]
    with pytest.raises(NotFound):
        rules.rule(Kind.OVERRIDE, "a")


def test_predefined_rules_cannot_be_deleted() -> None:
    with pytest.raises(InvalidParam):
        delete_rule(DEFAULT_RULE_SET, Kind.OVERRIDE, ".m.rule.master")


@pytest.mark.parametrize("rule_id", ["a", ".m.rule.unknown", ".m.rule.call"])
def test_changes_to_unknown_rules(rule_id: str) -> None:
    with pytest.raises(NotFound):
        set_enabled(DEFAULT_RULE_SET, Kind.OVERRIDE, rule_id, True)
    with pytest.raises(NotFound):
        set_actions(DEFAULT_RULE_SET, Kind.OVERRIDE, rule_id, [])
    with pytest.raises(NotFound):
        delete_rule(DEFAULT_RULE_SET, Kind.OVERRIDE, rule_id)


def test_unknown_kind() -> None:
    assert parse_kind("room") is Kind.ROOM
    with pytest.raises(InvalidParam, match="kind"):
        parse_kind("Room")


def test_changes_of_predefined_rules_are_stored() -> None:
    rules = set_enabled(DEFAULT_RULE_SET, Kind.OVERRIDE, ".m.rule.master", True)
    rules = set_actions(rules, Kind.UNDERRIDE, ".m.rule.call", ["notify"])
    restored = RuleSet.from_stored(json.loads(json.dumps(rules.to_stored())))
    assert restored.rule(Kind.OVERRIDE, ".m.rule.master").enabled
    assert restored.rule(Kind.UNDERRIDE, ".m.rule.call").actions == ("notify",)
    assert restored.digest == rules.digest


def test_digest_of_a_change_that_was_taken_back_is_the_common_one() -> None:
    rules = set_enabled(DEFAULT_RULE_SET, Kind.OVERRIDE, ".m.rule.master", True)
    rules = put_rule(rules, Kind.ROOM, "!r:x", NOTIFY)
    assert rules.digest != DEFAULT_RULE_SET.digest
    rules = delete_rule(rules, Kind.ROOM, "!r:x")
    rules = set_enabled(rules, Kind.OVERRIDE, ".m.rule.master", False)
    assert rules.digest == DEFAULT_RULE_SET.digest == RuleSet.from_stored({}).digest


def test_digest_tells_the_order_of_rules() -> None:
    assert with_rules("a", "b").digest != with_rules("b", "a").digest
    assert with_rules("a", "b").digest == with_rules("a", "b").digest


def test_changes_of_rules_that_are_no_longer_predefined_are_ignored() -> None:
    stored = {"changes": {"override/.m.rule.contains_display_name": {"enabled": False}}}
    rules = RuleSet.from_stored(stored)
    assert rules.to_json(ALICE) == DEFAULT_RULE_SET.to_json(ALICE)
    assert rules.to_stored()["changes"] == stored["changes"]


CONDITIONS = st.lists(
    st.fixed_dictionaries({"kind": st.text()}, optional={"key": st.text(), "x": st.integers() | st.floats()}),
    max_size=2,
).filter(lambda conditions: all(c["kind"] not in ("event_match", "room_member_count") for c in conditions))
NAMES = st.text(min_size=1).filter(lambda name: name[0] != "." and not set(name) & set("/\\"))


@given(st.lists(st.tuples(st.sampled_from(USUAL_KINDS), NAMES, CONDITIONS, st.text(), st.booleans()), max_size=5))
def test_stored_form_gives_back_the_rule_set(
    added: list[tuple[Kind, str, list[dict[str, Any]], str, bool]],
) -> None:
    rules = DEFAULT_RULE_SET
    for kind, name, conditions, pattern, enabled in added:
        body = {"actions": ["notify"], "conditions": conditions, "pattern": pattern}
        rules = set_enabled(put_rule(rules, kind, name, body), kind, name, enabled)
    restored = RuleSet.from_stored(json.loads(json.dumps(rules.to_stored())))
    assert json.dumps(restored.to_json(ALICE)) == json.dumps(rules.to_json(ALICE))
    assert restored.digest == rules.digest
