"""The conditions of push rules: parsed once, then asked about events.

An event in a room is judged for every local member, so conditions come in two sorts. A shared one depends on
the event and the room only and is answered once. A personal one names "this user"; it first says whether the
event could match anyone at all (`possible`), which is nearly always no, and only then is it asked user by
user.

Spec: client-server-api#conditions-1
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping
from enum import Enum
from typing import Any, Final, Protocol

from attrs import frozen

from homeserver.matrix.patterns import (
    TextTest,
    compile_glob,
    compile_word,
    compile_word_glob,
    fold,
    parse_property_path,
)

BODY: Final = ("content", "body")
TYPE: Final = ("type",)
RELATION: Final = ("content", "m.relates_to")
THREAD_SUBSCRIPTION: Final = "io.element.msc4306.thread_subscription"
RELATED_EVENT: Final = "im.nheko.msc3664.related_event_match"
IN_REPLY_TO: Final = "m.in_reply_to"
MAX_INTEGER: Final = 2**53 - 1

_COUNT = re.compile(r"(==|<=|>=|<|>)?([0-9]{1,15})")
_COMPARISONS: Final[Mapping[str, Callable[[int, int], bool]]] = {
    "": operator.eq,
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Absent(Enum):
    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT


class Template(Enum):
    """A value in a predefined rule that every user sees as their own. Never an element of stored JSON."""

    USER_ID = "user_id"


class PushableEvent(Protocol):
    """What push rules see of an event; a Pdu is one."""

    @property
    def event_id(self) -> str: ...
    @property
    def room_id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def state_key(self) -> str | None: ...
    @property
    def sender(self) -> str: ...
    @property
    def origin_server_ts(self) -> int: ...
    @property
    def redacts(self) -> str | None: ...
    @property
    def content(self) -> Mapping[str, Any]: ...


class NotificationLevels(Protocol):
    """What push rules see of the room's power levels; a PowerLevels is one."""

    def notification(self, key: str) -> int: ...


@frozen
class EventContext:
    """What the rules ask about the room, as of the event."""

    room_member_count: int
    sender_power_level: int
    levels: NotificationLevels


GetRelated = Callable[[str], PushableEvent | None]


def get_none(_event_id: str) -> None:
    """Related events are not asked for."""


class EventFacts:
    """An event and its room with what has been looked up in them so far. get_related: the events that it relates to."""

    __slots__ = ("_folded", "_values", "context", "event", "get_related")

    def __init__(self, event: PushableEvent, context: EventContext, get_related: GetRelated = get_none) -> None:
        self.event = event
        self.context = context
        self.get_related = get_related
        self._values: dict[tuple[str, ...], Any] = {}
        self._folded: dict[tuple[str, ...], str | None] = {}

    def value(self, path: tuple[str, ...]) -> Any:
        """The property of the event in the clients' format, or ABSENT."""
        value = self._values.get(path)
        if value is None and path not in self._values:
            value = self._values[path] = self._look_up(path)
        return value

    def folded(self, path: tuple[str, ...]) -> str | None:
        """The property for caseless comparison, or None unless it is a string."""
        text = self._folded.get(path)
        if text is None and path not in self._folded:
            value = self.value(path)
            text = self._folded[path] = fold(value) if isinstance(value, str) else None
        return text

    @property
    def thread_root(self) -> str | None:
        """The root of the thread that the event is part of."""
        relation = self.value(RELATION)
        if not isinstance(relation, dict) or relation.get("rel_type") != "m.thread":
            return None
        root = relation.get("event_id")
        return root if isinstance(root, str) else None

    def _look_up(self, path: tuple[str, ...]) -> Any:
        value: Any = self._top_level(path[0])
        for name in path[1:]:
            if not isinstance(value, dict) or name not in value:
                return ABSENT
            value = value[name]
        return value

    def _top_level(self, name: str) -> Any:
        if name not in _TOP_LEVEL:
            return ABSENT
        value = getattr(self.event, name)
        return ABSENT if value is None else value


_TOP_LEVEL: Final = frozenset(
    {"content", "event_id", "origin_server_ts", "redacts", "room_id", "sender", "state_key", "type"}
)


@frozen
class EventMatch:
    """A caseless glob on a property, or on words of it if that is content.body.

    Spec: client-server-api#conditions-1
    """

    path: tuple[str, ...]
    test: TextTest
    event_type: str | None = None
    """The one event type that can match, folded, if the condition is of that sort."""

    def holds(self, facts: EventFacts) -> bool:
        text = facts.folded(self.path)
        return text is not None and self.test(text)


def event_match(key: str, pattern: str) -> EventMatch:
    path = parse_property_path(key)
    pattern = fold(pattern)
    compile_test = compile_word_glob if path == BODY else compile_glob
    names_type = path == TYPE and not ("*" in pattern or "?" in pattern)
    return EventMatch(path, compile_test(pattern), pattern if names_type else None)


@frozen
class RelatedEventMatch:
    """The event has a relation of that type, and the event that it relates to matches, if there is something to match.

    Spec: MSC3664
    """

    rel_type: str
    include_fallbacks: bool
    match: EventMatch | None

    def holds(self, facts: EventFacts) -> bool:
        target = related_event_id(facts.event.content, self.rel_type, include_fallbacks=self.include_fallbacks)
        if target is None or self.match is None:
            return target is not None
        related = facts.get_related(target)
        if related is None or related.room_id != facts.event.room_id:
            return False
        return self.match.holds(EventFacts(related, facts.context))


def related_event_id(content: Mapping[str, Any], rel_type: str, *, include_fallbacks: bool) -> str | None:
    """What an event relates to in that way; a rich reply counts as a relation of the type m.in_reply_to."""
    relates_to = content.get("m.relates_to")
    if not isinstance(relates_to, dict):
        return None
    if rel_type != IN_REPLY_TO:
        found = relates_to.get("event_id") if relates_to.get("rel_type") == rel_type else None
    elif relates_to.get("is_falling_back") is True and not include_fallbacks:
        found = None
    else:
        reply = relates_to.get(IN_REPLY_TO)
        found = reply.get("event_id") if isinstance(reply, dict) else None
    return found if isinstance(found, str) else None


@frozen
class EventPropertyIs:
    """Spec: client-server-api#conditions-1"""

    path: tuple[str, ...]
    expected: str | int | bool | None

    def holds(self, facts: EventFacts) -> bool:
        return _is_same(facts.value(self.path), self.expected)


@frozen
class EventPropertyContains:
    """Spec: client-server-api#conditions-1"""

    path: tuple[str, ...]
    expected: str | int | bool | None

    def holds(self, facts: EventFacts) -> bool:
        values = facts.value(self.path)
        return isinstance(values, list) and any(_is_same(value, self.expected) for value in values)


def _is_same(value: object, expected: object) -> bool:
    # In Python True == 1 == 1.0; in JSON they differ.
    return type(value) is type(expected) and value == expected


@frozen
class RoomMemberCount:
    """Spec: client-server-api#conditions-1"""

    compare: Callable[[int, int], bool]
    count: int

    def holds(self, facts: EventFacts) -> bool:
        return self.compare(facts.context.room_member_count, self.count)


def parse_member_count(text: str) -> RoomMemberCount | None:
    """The condition for an `is` such as "2" or "<=10", or None if it is malformed."""
    found = _COUNT.fullmatch(text)
    return RoomMemberCount(_COMPARISONS[found[1] or ""], int(found[2])) if found else None


@frozen
class SenderNotificationPermission:
    """Spec: client-server-api#conditions-1"""

    key: str

    def holds(self, facts: EventFacts) -> bool:
        context = facts.context
        return context.sender_power_level >= context.levels.notification(self.key)


@frozen
class Never:
    """A condition that is unknown or malformed.

    Spec: client-server-api#conditions-1
    """

    def holds(self, facts: EventFacts) -> bool:
        return False


@frozen
class Reader:
    """Whom an event is judged for. threads: the roots of those that they are subscribed to."""

    user_id: str
    display_name: str | None = None
    threads: Collection[str] = ()


@frozen
class OwnIdIs:
    """The property is the user's own id. Not a glob: ids are text."""

    path: tuple[str, ...]

    def possible(self, facts: EventFacts) -> bool:
        return isinstance(facts.value(self.path), str)

    def holds_for(self, facts: EventFacts, reader: Reader) -> bool:
        return bool(facts.value(self.path) == reader.user_id)


@frozen
class OwnIdContained:
    """The property is a list with the user's own id in it."""

    path: tuple[str, ...]

    def possible(self, facts: EventFacts) -> bool:
        values = facts.value(self.path)
        return isinstance(values, list) and bool(values)

    def holds_for(self, facts: EventFacts, reader: Reader) -> bool:
        return reader.user_id in facts.value(self.path)


@frozen
class ContainsDisplayName:
    """Spec: client-server-api#conditions-1"""

    def possible(self, facts: EventFacts) -> bool:
        return bool(facts.folded(BODY))

    def holds_for(self, facts: EventFacts, reader: Reader) -> bool:
        if not reader.display_name or reader.display_name.isspace():
            return False
        body, name = facts.folded(BODY), fold(reader.display_name)
        # PERF: the expression is compiled only for the few whose name occurs at all.
        return body is not None and name in body and compile_word(name)(body)


@frozen
class ThreadSubscribed:
    """The event is part of a thread that the user is subscribed to, or is not.

    Spec: MSC4306
    """

    subscribed: bool

    def possible(self, facts: EventFacts) -> bool:
        return facts.thread_root is not None

    def holds_for(self, facts: EventFacts, reader: Reader) -> bool:
        return (facts.thread_root in reader.threads) is self.subscribed


# The same answer for everyone in the room: holds(facts).
SharedCondition = (
    EventMatch
    | RelatedEventMatch
    | EventPropertyIs
    | EventPropertyContains
    | RoomMemberCount
    | SenderNotificationPermission
    | Never
)

# About who the user is: possible(facts) tells whether it can hold for anyone, holds_for(facts, reader) whether
# it holds for this user, given that it is possible.
PersonalCondition = OwnIdIs | OwnIdContained | ContainsDisplayName | ThreadSubscribed

Condition = SharedCondition | PersonalCondition


def parse_condition(condition: object) -> Condition:
    """The condition of the API's JSON, or of a predefined rule with Templates; a wrong one is Never.

    Spec: client-server-api#conditions-1
    """
    if not isinstance(condition, dict):
        return Never()
    kind = condition.get("kind")
    parse = _PARSERS.get(kind) if isinstance(kind, str) else None
    return (parse(condition) if parse else None) or Never()


def _parse_event_match(condition: Mapping[str, Any]) -> Condition | None:
    match condition:
        case {"key": str(key), "pattern": Template.USER_ID}:
            return OwnIdIs(parse_property_path(key))
        case {"key": str(key), "pattern": str(pattern)}:
            return event_match(key, pattern)
    return None


def _parse_property_is(condition: Mapping[str, Any]) -> Condition | None:
    key, value = condition.get("key"), condition.get("value", ABSENT)
    if not isinstance(key, str) or not is_comparable(value):
        return None
    return EventPropertyIs(parse_property_path(key), value)


def _parse_property_contains(condition: Mapping[str, Any]) -> Condition | None:
    key, value = condition.get("key"), condition.get("value", ABSENT)
    if not isinstance(key, str):
        return None
    path = parse_property_path(key)
    if value is Template.USER_ID:
        return OwnIdContained(path)
    return EventPropertyContains(path, value) if is_comparable(value) else None


def is_comparable(value: object) -> bool:
    """Whether it is a value of canonical JSON that is neither object nor array."""
    if isinstance(value, int):
        return -MAX_INTEGER <= value <= MAX_INTEGER
    return value is None or isinstance(value, str)


def _parse_member_count(condition: Mapping[str, Any]) -> Condition | None:
    wanted = condition.get("is")
    return parse_member_count(wanted) if isinstance(wanted, str) else None


def _parse_permission(condition: Mapping[str, Any]) -> Condition | None:
    key = condition.get("key")
    return SenderNotificationPermission(key) if isinstance(key, str) else None


def _parse_thread_subscription(condition: Mapping[str, Any]) -> Condition | None:
    subscribed = condition.get("subscribed")
    return ThreadSubscribed(subscribed) if isinstance(subscribed, bool) else None


def _parse_related_event(condition: Mapping[str, Any]) -> Condition | None:
    rel_type, falls_back = condition.get("rel_type"), condition.get("include_fallbacks") is True
    if not isinstance(rel_type, str):
        return None
    match condition:
        case {"key": str(key), "pattern": str(pattern)}:
            matched = event_match(key, pattern)
            # SPEC(MSC3664 has the content matched, too): who asks may not have been there when the related event was sent, and
            # would learn by its patterns what it says.
            return RelatedEventMatch(rel_type, falls_back, matched) if matched.path[0] != "content" else None
        case {"key": _} | {"pattern": _}:
            return None
    return RelatedEventMatch(rel_type, falls_back, None)


_PARSERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Condition | None]]] = {
    "event_match": _parse_event_match,
    "event_property_is": _parse_property_is,
    "event_property_contains": _parse_property_contains,
    "contains_display_name": lambda condition: ContainsDisplayName(),
    "room_member_count": _parse_member_count,
    "sender_notification_permission": _parse_permission,
    THREAD_SUBSCRIPTION: _parse_thread_subscription,
    RELATED_EVENT: _parse_related_event,
}
