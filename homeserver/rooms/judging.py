"""Judging events by the rules of users who have rules of their own.

Rules that hold for one other room only say nothing of this one. Without them most users' rules are the predefined ones,
which were asked when the event was sent; the others are compiled, and asked, once for all who have the same.

Spec: client-server-api#push-rules
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from attrs import define, field, frozen

from homeserver.matrix.ids import EventId, RoomId
from homeserver.matrix.patterns import fold
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.power_levels import PowerLevels
from homeserver.matrix.push_conditions import IN_REPLY_TO, EventContext, GetRelated, Reader, get_none, related_event_id
from homeserver.matrix.push_evaluation import CompiledRules, Outcome, RoomEvaluation, compile_rules
from homeserver.matrix.push_rules import (
    DEFAULT_RULE_SET,
    USUAL_KINDS,
    WITH_CONDITIONS,
    JsonObject,
    Kind,
    PushRule,
    RuleSet,
)
from homeserver.matrix.relations import relation_of
from homeserver.rooms.head import RoomHead
from homeserver.store.events import Peek, StoredEvent

MAX_COMPILED = 2_000


@frozen
class Judge:
    """A user in a room for which their rules are not the predefined ones."""

    rules: CompiledRules
    reader: Reader

    def outcome(self, evaluation: RoomEvaluation) -> Outcome:
        return evaluation.outcome(self.rules, self.reader)


def evaluate(
    event: StoredEvent, joined: int, levels: PowerLevels, get_related: GetRelated = get_none
) -> RoomEvaluation:
    """The evaluation of an event in a room with so many joined members."""
    return RoomEvaluation(event.pdu, EventContext(joined, levels.user(event.pdu.sender), levels), get_related)


def related_ids(event: StoredEvent) -> set[EventId]:
    """The events to which the event relates, in any way that a rule may ask for."""
    content = event.pdu.content
    if "m.relates_to" not in content:
        return set()
    relation, reply = relation_of(content), related_event_id(content, IN_REPLY_TO, include_fallbacks=True)
    return {
        EventId(target) for target in (relation.target if relation else None, reply) if target and "\0" not in target
    }


def related_of(events: Iterable[StoredEvent]) -> GetRelated:
    """Looks among those events."""
    by_id: Mapping[str, Pdu] = {event.event_id: event.pdu for event in events}
    return by_id.get


@define(eq=False)
class Evaluations:
    """The evaluation of the newest event, shared by all who judge it. `peek`: the events in memory."""

    peek: Peek
    _newest: tuple[EventId, RoomEvaluation] | None = field(default=None, init=False)

    def of(self, event: StoredEvent, head: RoomHead) -> RoomEvaluation:
        if self._newest is None or self._newest[0] != event.event_id:
            self._newest = event.event_id, evaluate(event, head.joined, head.power_levels, self._get_related)
        return self._newest[1]

    def lacks_related(self, rules: CompiledRules, event: StoredEvent) -> bool:
        """The rules may look at an event that is not in memory."""
        return rules.asks_related and any(self.peek(target) is None for target in related_ids(event))

    def _get_related(self, event_id: str) -> Pdu | None:
        related = self.peek(EventId(event_id))
        return related.pdu if related is not None else None


@define(eq=False)
class RuleBook:
    """Rule sets compiled for some kinds, by digest: those of equal users are one. Used by threads, too: its steps are atomic."""

    kinds: Collection[Kind] = USUAL_KINDS
    _known: dict[str, CompiledRules] = field(factory=dict, init=False)

    def compile(self, rules: RuleSet) -> CompiledRules:
        known = self._known.get(rules.digest)
        if known is None:
            known = compile_rules(rules, self.kinds)
            if len(self._known) >= MAX_COMPILED:
                self._known.clear()
            self._known[rules.digest] = known
        return known


class RulesByRoom:
    """A user's rules, and what of them can match in each room."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._rooms = {
            (kind, rule.rule_id): room
            for kind, own in rules.own.items()
            for rule in own
            if (room := _only_room(kind, rule)) is not None
        }
        self._named = frozenset(self._rooms.values())
        self._elsewhere = self._without_rooms_but(None)

    def rules(self, room_id: RoomId) -> RuleSet:
        """What judges there as the whole rule set does."""
        folded = fold(room_id)
        return self._without_rooms_but(folded) if folded in self._named else self._elsewhere

    def _without_rooms_but(self, folded: str | None) -> RuleSet:
        own = {
            kind: tuple(
                rule for rule in rules if rule.enabled and self._rooms.get((kind, rule.rule_id), folded) == folded
            )
            for kind, rules in self._rules.own.items()
        }
        return RuleSet({kind: rules for kind, rules in own.items() if rules}, self._rules.changes)


def is_predefined(rules: RuleSet) -> bool:
    return rules.digest == DEFAULT_RULE_SET.digest


def _only_room(kind: Kind, rule: PushRule) -> str | None:
    """The folded id of the one room in which the rule can match, if there is one."""
    if kind is Kind.ROOM:
        return fold(rule.rule_id)
    if kind not in WITH_CONDITIONS:
        return None
    return next((room for condition in rule.conditions if (room := _named_room(condition)) is not None), None)


def _named_room(condition: JsonObject) -> str | None:
    match condition:
        case {"kind": "event_match", "key": "room_id", "pattern": str(pattern)}:
            return None if "*" in pattern or "?" in pattern else fold(pattern)
    return None
