"""The changes that the API makes to push rules; each takes a rule set and returns the new one.

Spec: client-server-api#push-rules-api
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from attrs import evolve

from homeserver.matrix.errors import BadJson, InvalidParam, MatrixError, MissingParam
from homeserver.matrix.push_conditions import RELATED_EVENT, THREAD_SUBSCRIPTION, is_comparable, parse_member_count
from homeserver.matrix.push_rules import (
    DEFAULT_RULES,
    WITH_CONDITIONS,
    Action,
    DefaultChange,
    JsonObject,
    Kind,
    PushRule,
    RuleSet,
    find_rule,
)


def put_rule(
    rules: RuleSet,
    kind: Kind,
    rule_id: str,
    body: JsonObject,
    *,
    before: str | None = None,
    after: str | None = None,
) -> RuleSet:
    """Adds a rule, or replaces it and keeps whether it is enabled.

    Raises: BadJson, MissingParam; InvalidParam, also for a kind that has predefined rules only; M_UNKNOWN if `before` or
    `after` is not an own rule of that kind.
    Spec: client-server-api#put_matrixclientv3pushrulesglobalkindruleid
    """
    if kind is Kind.POSTCONTENT:
        raise InvalidParam("kind", "there are no rules of one's own of this kind")
    _check_own_rule_id(rule_id)
    rule = _parse_rule(kind, rule_id, body)
    old = rules.own_rules(kind)
    existing = find_rule(old, rule_id)
    if existing is not None:
        rule = evolve(rule, enabled=existing.enabled)
        if before is None and after is None:
            return _with_own(rules, kind, tuple(rule if r is existing else r for r in old))
    others = [r for r in old if r is not existing]
    others.insert(_place(others, before, after), rule)
    return _with_own(rules, kind, tuple(others))


def delete_rule(rules: RuleSet, kind: Kind, rule_id: str) -> RuleSet:
    """Raises: NotFound; InvalidParam for a predefined rule.

    Spec: client-server-api#delete_matrixclientv3pushrulesglobalkindruleid
    """
    if rules.rule(kind, rule_id).is_default:
        raise InvalidParam("ruleId", "predefined rules can be disabled but not deleted")
    return _with_own(rules, kind, tuple(r for r in rules.own_rules(kind) if r.rule_id != rule_id))


def set_enabled(rules: RuleSet, kind: Kind, rule_id: str, enabled: bool) -> RuleSet:
    """Raises: NotFound.

    Spec: client-server-api#put_matrixclientv3pushrulesglobalkindruleidenabled
    """
    return _with_changed(rules, kind, evolve(rules.rule(kind, rule_id), enabled=enabled))


def set_actions(rules: RuleSet, kind: Kind, rule_id: str, actions: object) -> RuleSet:
    """Raises: NotFound, BadJson.

    Spec: client-server-api#put_matrixclientv3pushrulesglobalkindruleidactions
    """
    return _with_changed(rules, kind, evolve(rules.rule(kind, rule_id), actions=parse_actions(actions)))


def copy_room_rules(rules: RuleSet, old_room: str, new_room: str) -> RuleSet:
    """Rules named after the old room hold for the new one too, unless it has one of that kind; else `rules` itself.

    Those are the room's own rule, and the overrides by which clients mute a room.
    """
    changed = rules
    for kind in (Kind.ROOM, *sorted(WITH_CONDITIONS)):
        own = rules.own_rules(kind)
        rule = find_rule(own, old_room)
        if rule is not None and find_rule(own, new_room) is None:
            conditions = tuple(_of_room(condition, old_room, new_room) for condition in rule.conditions)
            changed = _with_own(changed, kind, (evolve(rule, rule_id=new_room, conditions=conditions), *own))
    return changed


def _of_room(condition: JsonObject, old_room: str, new_room: str) -> JsonObject:
    names_old = condition.get("key") == "room_id" and condition.get("pattern") == old_room
    return {**condition, "pattern": new_room} if names_old else condition


def _with_own(rules: RuleSet, kind: Kind, own: tuple[PushRule, ...]) -> RuleSet:
    return RuleSet({**rules.own, kind: own}, rules.changes)


def _with_changed(rules: RuleSet, kind: Kind, rule: PushRule) -> RuleSet:
    if not rule.is_default:
        own = tuple(rule if r.rule_id == rule.rule_id else r for r in rules.own_rules(kind))
        return _with_own(rules, kind, own)
    predefined = find_rule(DEFAULT_RULES[kind], rule.rule_id)
    assert predefined is not None
    # A change back to what is predefined is no change: the digest is then the one that everybody shares.
    change = DefaultChange(
        enabled=None if rule.enabled == predefined.enabled else rule.enabled,
        actions=None if rule.actions == predefined.actions else rule.actions,
    )
    changes = {key: old for key, old in rules.changes.items() if key != (kind, rule.rule_id)}
    if change != DefaultChange():
        changes[kind, rule.rule_id] = change
    return RuleSet(rules.own, changes)


def _place(rules: Sequence[PushRule], before: str | None, after: str | None) -> int:
    ids = [rule.rule_id for rule in rules]
    for other in (before, after):
        if other is not None and other not in ids:
            raise MatrixError(f"before/after rule not found: {other}")
    # If both are given, `before` decides.
    if before is not None:
        return ids.index(before)
    return ids.index(after) + 1 if after is not None else 0


def _check_own_rule_id(rule_id: str) -> None:
    if not rule_id:
        raise InvalidParam("ruleId", "must not be empty")
    if rule_id.startswith("."):
        raise InvalidParam("ruleId", "ids that start with a dot are reserved for predefined rules")
    if "/" in rule_id or "\\" in rule_id:
        raise InvalidParam("ruleId", "must not contain slashes or backslashes")


def _parse_rule(kind: Kind, rule_id: str, body: JsonObject) -> PushRule:
    if "actions" not in body:
        raise MissingParam("actions")
    rule = PushRule(rule_id, parse_actions(body["actions"]))
    if kind in WITH_CONDITIONS:
        return evolve(rule, conditions=parse_conditions(body.get("conditions", [])))
    if kind is Kind.CONTENT:
        if "pattern" not in body:
            raise MissingParam("pattern")
        if not isinstance(body["pattern"], str):
            raise BadJson("pattern: must be a string")
        return evolve(rule, pattern=body["pattern"])
    return rule


def parse_actions(actions: object) -> tuple[Action, ...]:
    """Actions fit to be stored: historical and unknown ones are kept as they are, and ignored.

    Raises: BadJson.
    Spec: client-server-api#actions
    """
    if not isinstance(actions, list):
        raise BadJson("actions: must be an array")
    for index, action in enumerate(actions):
        if not isinstance(action, str | dict):
            raise BadJson(f"actions[{index}]: must be a string or an object")
        if isinstance(action, dict) and not isinstance(action.get("set_tweak", ""), str):
            raise BadJson(f"actions[{index}].set_tweak: must be a string")
    return tuple(actions)


# What the fields of known conditions must be. Unknown conditions are stored as they are, and match nothing.
_STRING_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "event_match": ("key", "pattern"),
    RELATED_EVENT: ("rel_type",),
    "event_property_is": ("key",),
    "event_property_contains": ("key",),
    "room_member_count": ("is",),
    "sender_notification_permission": ("key",),
}


def parse_conditions(conditions: object) -> tuple[JsonObject, ...]:
    """Conditions fit to be stored.

    Raises: BadJson.
    Spec: client-server-api#conditions-1
    """
    if not isinstance(conditions, list):
        raise BadJson("conditions: must be an array")
    for index, condition in enumerate(conditions):
        _check_condition(f"conditions[{index}]", condition)
    return tuple(conditions)


def _check_condition(where: str, condition: object) -> None:
    if not isinstance(condition, dict) or not isinstance(condition.get("kind"), str):
        raise BadJson(f"{where}: must be an object with a string `kind`")
    kind = condition["kind"]
    for name in _STRING_FIELDS.get(kind, ()):
        if not isinstance(condition.get(name), str):
            raise BadJson(f"{where}.{name}: must be a string")
    if kind == "room_member_count" and parse_member_count(condition["is"]) is None:
        raise BadJson(f"{where}.is: must be a decimal integer, optionally after ==, <, >, >= or <=")
    if kind == THREAD_SUBSCRIPTION and not isinstance(condition.get("subscribed"), bool):
        raise BadJson(f"{where}.subscribed: must be a boolean")
    if kind == RELATED_EVENT and ("key" in condition or "pattern" in condition):
        for name in ("key", "pattern"):
            if not isinstance(condition.get(name), str):
                raise BadJson(f"{where}.{name}: must be a string, where there is the other")
    has_value = kind in ("event_property_is", "event_property_contains")
    if has_value and not ("value" in condition and is_comparable(condition["value"])):
        raise BadJson(f"{where}.value: must be a string, integer, boolean or null")
