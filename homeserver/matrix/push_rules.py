"""A user's push rules: the rules of the user and what the user changed in the predefined ones.

A RuleSet holds only what differs from the predefined rules. Most users have changed nothing, and all of them
share one digest; push_evaluation makes use of that.

Users' rules stay JSON until they are compiled: clients get back what they stored, and conditions that we do
not know survive until we do.

Spec: client-server-api#push-rules
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

from attrs import evolve, field, frozen

from homeserver.matrix.default_push_rules import MASTER_RULE, OVERRIDE_RULES, POSTCONTENT_RULES, UNDERRIDE_RULES
from homeserver.matrix.errors import InvalidParam, NotFound
from homeserver.matrix.push_conditions import Template

JsonObject = dict[str, Any]
Action = str | JsonObject


class Kind(StrEnum):
    """The kinds of rules, in the order in which they are checked."""

    OVERRIDE = "override"
    CONTENT = "content"
    POSTCONTENT = "postcontent"
    ROOM = "room"
    SENDER = "sender"
    UNDERRIDE = "underride"


def parse_kind(text: str) -> Kind:
    """Raises: InvalidParam."""
    try:
        return Kind(text)
    except ValueError:
        raise InvalidParam("kind", f"unknown kind of push rule {text!r}") from None


# Spec: MSC4306
ALL_KINDS: Final = tuple(Kind)
# Where subscriptions to threads do not count.
USUAL_KINDS: Final = tuple(kind for kind in Kind if kind is not Kind.POSTCONTENT)
WITH_CONDITIONS: Final = frozenset({Kind.OVERRIDE, Kind.POSTCONTENT, Kind.UNDERRIDE})


@frozen(eq=False)
class PushRule:
    """One rule: conditions and actions as the API's JSON, where a predefined one's may hold Templates."""

    rule_id: str
    actions: tuple[Action, ...]
    conditions: tuple[JsonObject, ...] = ()
    pattern: str | None = None
    enabled: bool = True
    is_default: bool = False

    def to_json(self, kind: Kind, user_id: str) -> JsonObject:
        """The rule in the API's format, as this user sees it."""
        rule: JsonObject = {
            "rule_id": self.rule_id,
            "default": self.is_default,
            "enabled": self.enabled,
            "actions": list(self.actions),
        }
        if kind in WITH_CONDITIONS:
            rule["conditions"] = [_personalise(c, user_id) for c in self.conditions]
        if kind is Kind.CONTENT:
            rule["pattern"] = self.pattern
        return rule

    def to_stored(self) -> JsonObject:
        stored: JsonObject = {"rule_id": self.rule_id, "actions": list(self.actions)}
        if self.conditions:
            stored["conditions"] = list(self.conditions)
        if self.pattern is not None:
            stored["pattern"] = self.pattern
        if not self.enabled:
            stored["enabled"] = False
        return stored


def _personalise(condition: JsonObject, user_id: str) -> JsonObject:
    return {name: user_id if value is Template.USER_ID else value for name, value in condition.items()}


def _default_rule(definition: JsonObject) -> PushRule:
    return PushRule(
        rule_id=definition["rule_id"],
        actions=tuple(definition["actions"]),
        conditions=tuple(definition["conditions"]),
        enabled=definition["enabled"],
        is_default=True,
    )


_MASTER: Final = _default_rule(MASTER_RULE)
DEFAULT_RULES: Final[Mapping[Kind, tuple[PushRule, ...]]] = {
    Kind.OVERRIDE: (_MASTER, *map(_default_rule, OVERRIDE_RULES)),
    Kind.POSTCONTENT: tuple(map(_default_rule, POSTCONTENT_RULES)),
    Kind.UNDERRIDE: tuple(map(_default_rule, UNDERRIDE_RULES)),
}


def find_rule(rules: Iterable[PushRule], rule_id: str) -> PushRule | None:
    return next((rule for rule in rules if rule.rule_id == rule_id), None)


@frozen
class DefaultChange:
    """What a user has changed in a predefined rule; None where nothing."""

    enabled: bool | None = None
    actions: tuple[Action, ...] | None = None

    def to_stored(self) -> JsonObject:
        stored: JsonObject = {}
        if self.enabled is not None:
            stored["enabled"] = self.enabled
        if self.actions is not None:
            stored["actions"] = list(self.actions)
        return stored

    def apply(self, rule: PushRule) -> PushRule:
        return evolve(
            rule,
            enabled=rule.enabled if self.enabled is None else self.enabled,
            actions=rule.actions if self.actions is None else self.actions,
        )


@frozen(eq=False)
class RuleSet:
    """A user's rules. A value: every change makes another."""

    own: Mapping[Kind, tuple[PushRule, ...]] = field(factory=dict)
    changes: Mapping[tuple[Kind, str], DefaultChange] = field(factory=dict)

    @cached_property
    def digest(self) -> str:
        """Equal for rule sets that judge alike, whoever's they are."""
        stored = json.dumps(self.to_stored(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(stored.encode()).hexdigest()[:32]

    def own_rules(self, kind: Kind) -> tuple[PushRule, ...]:
        return self.own.get(kind, ())

    def rules(self, kind: Kind) -> tuple[PushRule, ...]:
        """The rules of that kind, own and predefined, the most important first.

        Spec: client-server-api#predefined-rules
        """
        defaults = tuple(self._changed(kind, rule) for rule in DEFAULT_RULES.get(kind, ()))
        if kind is Kind.OVERRIDE:
            return (defaults[0], *self.own_rules(kind), *defaults[1:])
        return self.own_rules(kind) + defaults

    def _changed(self, kind: Kind, rule: PushRule) -> PushRule:
        change = self.changes.get((kind, rule.rule_id)) if self.changes else None
        return change.apply(rule) if change else rule

    def rule(self, kind: Kind, rule_id: str) -> PushRule:
        """Raises: NotFound."""
        found = find_rule(self.rules(kind), rule_id)
        if found is None:
            raise NotFound("The push rule was not found.")
        return found

    def to_json(self, user_id: str, kinds: Collection[Kind] = USUAL_KINDS) -> JsonObject:
        """The content of m.push_rules and of GET /pushrules/.

        Spec: client-server-api#get_matrixclientv3pushrules
        """
        rules = {kind.value: [rule.to_json(kind, user_id) for rule in self.rules(kind)] for kind in kinds}
        return {"global": rules}

    def to_stored(self) -> JsonObject:
        """The own part as JSON, for from_stored."""
        return {
            "rules": {kind.value: [rule.to_stored() for rule in rules] for kind, rules in self.own.items() if rules},
            "changes": {f"{kind}/{rule_id}": change.to_stored() for (kind, rule_id), change in self.changes.items()},
        }

    @classmethod
    def from_stored(cls, stored: JsonObject) -> RuleSet:
        """The rule set that to_stored wrote; {} is the predefined rules alone."""
        own = {
            Kind(kind): tuple(map(_rule_from_stored, rules)) for kind, rules in stored.get("rules", {}).items() if rules
        }
        changes: dict[tuple[Kind, str], DefaultChange] = {}
        for name, change in stored.get("changes", {}).items():
            kind, _, rule_id = name.partition("/")
            actions = change.get("actions")
            changes[Kind(kind), rule_id] = DefaultChange(
                change.get("enabled"), None if actions is None else tuple(actions)
            )
        return cls(own, changes)


def _rule_from_stored(stored: JsonObject) -> PushRule:
    return PushRule(
        rule_id=stored["rule_id"],
        actions=tuple(stored["actions"]),
        conditions=tuple(stored.get("conditions", ())),
        pattern=stored.get("pattern"),
        enabled=stored.get("enabled", True),
    )


DEFAULT_RULE_SET: Final = RuleSet()
