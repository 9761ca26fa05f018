"""Filters: what of a response a client wants to have.

A filter is checked and compiled once, when it is uploaded or first used, and then asked about every event.
It also knows what it does not do (`matches_all`, `matches_none`, `is_trivial`), so that callers can skip
the asking.

Spec: client-server-api#filtering
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Any, Final, Literal, TypeVar
from weakref import WeakValueDictionary

import msgspec
from attrs import field, frozen
from msgspec import UNSET, UnsetType

from homeserver.matrix.errors import BadJson, InvalidParam
from homeserver.matrix.patterns import TextTest, compile_glob, parse_property_path

JsonObject = dict[str, Any]
_T = TypeVar("_T")
EventFormat = Literal["client", "federation"]

# Deeper paths occur in no event, and pruning goes down a path recursively.
MAX_PATH_LENGTH: Final = 100


# -- the JSON --------------------------------------------------------------------------------------------


class _EventFilterJson(msgspec.Struct):
    """Spec: client-server-api#post_matrixclientv3useruseridfilter"""

    limit: int | UnsetType = UNSET
    senders: list[str] | UnsetType = UNSET
    not_senders: list[str] | UnsetType = UNSET
    types: list[str] | UnsetType = UNSET
    not_types: list[str] | UnsetType = UNSET


class _RoomEventFilterJson(_EventFilterJson):
    rooms: list[str] | UnsetType = UNSET
    not_rooms: list[str] | UnsetType = UNSET
    contains_url: bool | UnsetType = UNSET
    lazy_load_members: bool = False
    include_redundant_members: bool = False
    unread_thread_notifications: bool = False
    # COMPAT(MSC3874, MSC3440): not in the specification, but in use by clients under these names.
    rel_types: list[str] | UnsetType = msgspec.field(name="org.matrix.msc3874.rel_types", default=UNSET)
    not_rel_types: list[str] | UnsetType = msgspec.field(name="org.matrix.msc3874.not_rel_types", default=UNSET)
    related_by_rel_types: list[str] | UnsetType = UNSET
    related_by_senders: list[str] | UnsetType = UNSET


class _RoomFilterJson(msgspec.Struct):
    rooms: list[str] | UnsetType = UNSET
    not_rooms: list[str] | UnsetType = UNSET
    include_leave: bool = False
    ephemeral: _RoomEventFilterJson = msgspec.field(default_factory=_RoomEventFilterJson)
    state: _RoomEventFilterJson = msgspec.field(default_factory=_RoomEventFilterJson)
    timeline: _RoomEventFilterJson = msgspec.field(default_factory=_RoomEventFilterJson)
    account_data: _RoomEventFilterJson = msgspec.field(default_factory=_RoomEventFilterJson)


class _FilterJson(msgspec.Struct):
    event_fields: list[str] | UnsetType = UNSET
    event_format: EventFormat = "client"
    presence: _EventFilterJson = msgspec.field(default_factory=_EventFilterJson)
    account_data: _EventFilterJson = msgspec.field(default_factory=_EventFilterJson)
    room: _RoomFilterJson = msgspec.field(default_factory=_RoomFilterJson)


# -- the parts -------------------------------------------------------------------------------------------


@frozen
class Selection:
    """Some values and not others: the pair of fields `x` and `not_x`. `only` is None if all are included."""

    only: frozenset[str] | None = None
    excluded: frozenset[str] = frozenset()

    @property
    def matches_all(self) -> bool:
        return self.only is None and not self.excluded

    @property
    def matches_none(self) -> bool:
        return self.only is not None and self.only <= self.excluded

    def matches(self, value: str | None) -> bool:
        """Whether the value is selected; an absent one is if nothing in particular is asked for."""
        return (self.only is None or value in self.only) and value not in self.excluded

    def key(self) -> object:
        return [None if self.only is None else sorted(self.only), sorted(self.excluded)]


@frozen
class _TypePatterns:
    """Event types, in which `*` stands for any characters."""

    exact: frozenset[str]
    prefixes: tuple[str, ...]
    globs: tuple[TextTest, ...]

    def match(self, event_type: str) -> bool:
        if event_type in self.exact or event_type.startswith(self.prefixes):
            return True
        return any(matches(event_type) for matches in self.globs)


def _compile_types(patterns: Collection[str]) -> _TypePatterns:
    globs = [pattern for pattern in patterns if "*" in pattern]
    prefixes = tuple(pattern[:-1] for pattern in globs if pattern.index("*") == len(pattern) - 1)
    others = (compile_glob(p, question_mark=False) for p in globs if p[:-1] not in prefixes)
    return _TypePatterns(frozenset(patterns).difference(globs), prefixes, tuple(others))


@frozen
class TypeSelection:
    """As Selection, with `*` as a wildcard."""

    only: frozenset[str] | None = None
    excluded: frozenset[str] = frozenset()

    @cached_property
    def _included_patterns(self) -> _TypePatterns | None:
        return None if self.only is None or "*" in self.only else _compile_types(self.only)

    @cached_property
    def _excluded_patterns(self) -> _TypePatterns | None:
        return _compile_types(self.excluded) if self.excluded else None

    @property
    def matches_all(self) -> bool:
        return (self.only is None or "*" in self.only) and not self.excluded

    @property
    def matches_none(self) -> bool:
        return "*" in self.excluded or (self.only is not None and self.only <= self.excluded)

    def matches(self, event_type: str) -> bool:
        included, excluded = self._included_patterns, self._excluded_patterns
        if excluded is not None and excluded.match(event_type):
            return False
        return included is None or included.match(event_type)

    def key(self) -> object:
        return [None if self.only is None else sorted(self.only), sorted(self.excluded)]


@frozen
class EventFilter:
    """Selects events that belong to no room.

    Spec: client-server-api#post_matrixclientv3useruseridfilter_request_eventfilter
    """

    limit: int | None = None
    senders: Selection = field(factory=Selection)
    types: TypeSelection = field(factory=TypeSelection)

    @cached_property
    def matches_all(self) -> bool:
        return self.senders.matches_all and self.types.matches_all

    @cached_property
    def matches_none(self) -> bool:
        return self.senders.matches_none or self.types.matches_none

    def matches(self, event_type: str, sender: str | None) -> bool:
        return self.matches_all or (self.types.matches(event_type) and self.senders.matches(sender))

    def limit_within(self, default: int, maximum: int) -> int:
        """The limit that the server applies."""
        return default if self.limit is None else min(self.limit, maximum)


@frozen
class RoomEventFilter:
    """Selects events of rooms.

    `related_by_rel_types` and `related_by_senders` need other events than the one at hand: pages of messages
    ask the database for them (rooms/paging.py). `matches` does not look at them, nor does /sync.

    Spec: client-server-api#post_matrixclientv3useruseridfilter_request_roomeventfilter
    """

    limit: int | None = None
    senders: Selection = field(factory=Selection)
    types: TypeSelection = field(factory=TypeSelection)
    rooms: Selection = field(factory=Selection)
    contains_url: bool | None = None
    rel_types: Selection = field(factory=Selection)
    lazy_load_members: bool = False
    include_redundant_members: bool = False
    unread_thread_notifications: bool = False
    related_by_rel_types: frozenset[str] | None = None
    related_by_senders: frozenset[str] | None = None

    @cached_property
    def matches_all(self) -> bool:
        """Whether `matches` is true of every event."""
        return self.rooms.matches_all and self.matches_all_in_room

    @cached_property
    def matches_all_in_room(self) -> bool:
        """Whether `matches` is true of every event in a room that `rooms` includes."""
        return (
            self.types.matches_all
            and self.senders.matches_all
            and self.contains_url is None
            and self.rel_types.matches_all
        )

    @cached_property
    def matches_none(self) -> bool:
        """Whether it is plain that `matches` is true of no event."""
        return (
            self.types.matches_none
            or self.senders.matches_none
            or self.rooms.matches_none
            or self.rel_types.matches_none
        )

    def matches(self, event_type: str, sender: str | None, room_id: str, content: Mapping[str, Any]) -> bool:
        return self.rooms.matches(room_id) and self.matches_in_room(event_type, sender, content)

    def matches_in_room(self, event_type: str, sender: str | None, content: Mapping[str, Any]) -> bool:
        """As `matches`, for events of a room that `rooms` includes."""
        if self.matches_all_in_room:
            return True
        if not (self.types.matches(event_type) and self.senders.matches(sender)):
            return False
        if self.contains_url is not None and ("url" in content) != self.contains_url:
            return False
        return self.rel_types.matches_all or self.rel_types.matches(_relation_type(content))

    def limit_within(self, default: int, maximum: int) -> int:
        """The limit that the server applies."""
        return default if self.limit is None else min(self.limit, maximum)

    def key(self) -> object:
        """What makes a difference to the events of one room, as JSON."""
        return [
            self.limit,
            self.senders.key(),
            self.types.key(),
            self.contains_url,
            self.rel_types.key(),
            self.lazy_load_members,
            self.include_redundant_members,
            _sorted(self.related_by_rel_types),
            _sorted(self.related_by_senders),
        ]


def _sorted(values: frozenset[str] | None) -> list[str] | None:
    return None if values is None else sorted(values)


def _relation_type(content: Mapping[str, Any]) -> str | None:
    relation = content.get("m.relates_to")
    rel_type = relation.get("rel_type") if isinstance(relation, dict) else None
    return rel_type if isinstance(rel_type, str) else None


@frozen
class RoomFilter:
    """Selects rooms, and what to tell about each.

    Spec: client-server-api#post_matrixclientv3useruseridfilter_request_roomfilter
    """

    rooms: Selection = field(factory=Selection)
    include_leave: bool = False
    ephemeral: RoomEventFilter = field(factory=RoomEventFilter)
    state: RoomEventFilter = field(factory=RoomEventFilter)
    timeline: RoomEventFilter = field(factory=RoomEventFilter)
    account_data: RoomEventFilter = field(factory=RoomEventFilter)

    @cached_property
    def matches_all(self) -> bool:
        parts = (self.ephemeral, self.state, self.timeline, self.account_data)
        return self.rooms.matches_all and all(part.matches_all for part in parts)


# Names to keep; below a name either everything (None) or again some names.
FieldTree = dict[str, "FieldTree | None"]


@frozen
class Filter:
    """A filter as clients upload it.

    Spec: client-server-api#post_matrixclientv3useruseridfilter
    """

    event_fields: FieldTree | None = None
    event_format: EventFormat = "client"
    presence: EventFilter = field(factory=EventFilter)
    account_data: EventFilter = field(factory=EventFilter)
    room: RoomFilter = field(factory=RoomFilter)

    @cached_property
    def is_trivial(self) -> bool:
        """Whether it leaves out nothing and changes no event; limits and lazy-loading may still be set."""
        return (
            self.event_fields is None
            and self.event_format == "client"
            and self.presence.matches_all
            and self.account_data.matches_all
            and self.room.matches_all
        )

    @property
    def lazy_load_members(self) -> bool:
        """Spec: client-server-api#lazy-loading-room-members"""
        return self.room.state.lazy_load_members or self.room.timeline.lazy_load_members

    @property
    def include_redundant_members(self) -> bool:
        """Spec: client-server-api#lazy-loading-room-members"""
        return self.room.state.include_redundant_members or self.room.timeline.include_redundant_members

    @property
    def unread_thread_notifications(self) -> bool:
        """Spec: client-server-api#receiving-notifications"""
        return self.room.timeline.unread_thread_notifications

    @cached_property
    def sync_key(self) -> str:
        """Equal for filters that make the same timeline and state of a room which they include."""
        parts = [self.event_fields, self.event_format, self.room.timeline.key(), self.room.state.key()]
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def prune(self, event: JsonObject) -> JsonObject:
        """The event with only the fields that were asked for."""
        return event if self.event_fields is None else prune_fields(event, self.event_fields)


# -- parsing ---------------------------------------------------------------------------------------------


def parse_filter(source: object) -> Filter:
    """The filter of a decoded JSON body.

    Raises: BadJson, InvalidParam; both name the field.
    Spec: client-server-api#post_matrixclientv3useruseridfilter
    """
    parsed = _convert(source, _FilterJson)
    return Filter(
        event_fields=None if parsed.event_fields is UNSET else parse_event_fields(parsed.event_fields),
        event_format=parsed.event_format,
        presence=_event_filter("presence", parsed.presence),
        account_data=_event_filter("account_data", parsed.account_data),
        room=_room_filter(parsed.room),
    )


def parse_room_event_filter(source: object) -> RoomEventFilter:
    """The filter of GET /messages, /context and /search.

    Raises: BadJson, InvalidParam; both name the field.
    Spec: client-server-api#get_matrixclientv3roomsroomidmessages
    """
    return _room_event_filter("filter", _convert(source, _RoomEventFilterJson))


def _convert(source: object, type: type[_T]) -> _T:
    try:
        return msgspec.convert(source, type)
    except msgspec.ValidationError as error:
        raise BadJson(str(error)) from None


# The parts in use, by their JSON.
_PARTS: WeakValueDictionary[tuple[type, bytes], Any] = WeakValueDictionary()


def _shared(parsed: msgspec.Struct, make: Callable[[], _T]) -> _T:
    """PERF(7 KiB for a client that waits with a filter like no other's): most parts of it are like those of others."""
    key = (type(parsed), msgspec.json.encode(parsed))
    part: _T | None = _PARTS.get(key)
    if part is None:
        part = _PARTS[key] = make()
    return part


def _event_filter(where: str, parsed: _EventFilterJson) -> EventFilter:
    return _shared(parsed, lambda: _make_event_filter(where, parsed))


def _make_event_filter(where: str, parsed: _EventFilterJson) -> EventFilter:
    return EventFilter(
        limit=_limit(where, parsed.limit),
        senders=_ids(where, "senders", "@", parsed.senders, parsed.not_senders),
        types=TypeSelection(_set(parsed.types), _set(parsed.not_types) or frozenset()),
    )


def _room_event_filter(where: str, parsed: _RoomEventFilterJson) -> RoomEventFilter:
    return _shared(parsed, lambda: _make_room_event_filter(where, parsed))


def _make_room_event_filter(where: str, parsed: _RoomEventFilterJson) -> RoomEventFilter:
    return RoomEventFilter(
        limit=_limit(where, parsed.limit),
        senders=_ids(where, "senders", "@", parsed.senders, parsed.not_senders),
        types=TypeSelection(_set(parsed.types), _set(parsed.not_types) or frozenset()),
        rooms=_ids(where, "rooms", "!", parsed.rooms, parsed.not_rooms),
        contains_url=None if parsed.contains_url is UNSET else parsed.contains_url,
        rel_types=Selection(_set(parsed.rel_types), _set(parsed.not_rel_types) or frozenset()),
        lazy_load_members=parsed.lazy_load_members,
        include_redundant_members=parsed.include_redundant_members,
        unread_thread_notifications=parsed.unread_thread_notifications,
        related_by_rel_types=_set(parsed.related_by_rel_types),
        related_by_senders=_set(parsed.related_by_senders),
    )


def _room_filter(parsed: _RoomFilterJson) -> RoomFilter:
    return RoomFilter(
        rooms=_ids("room", "rooms", "!", parsed.rooms, parsed.not_rooms),
        include_leave=parsed.include_leave,
        ephemeral=_room_event_filter("room.ephemeral", parsed.ephemeral),
        state=_room_event_filter("room.state", parsed.state),
        timeline=_room_event_filter("room.timeline", parsed.timeline),
        account_data=_room_event_filter("room.account_data", parsed.account_data),
    )


def _set(values: list[str] | UnsetType) -> frozenset[str] | None:
    return None if values is UNSET else frozenset(values)


def _limit(where: str, limit: int | UnsetType) -> int | None:
    if limit is UNSET:
        return None
    # SPEC: 0 ought to be refused, but there is one sensible answer to it: no events.
    if limit < 0:
        raise InvalidParam(f"{where}.limit", "must not be negative")
    return limit


def _ids(where: str, name: str, sigil: str, only: list[str] | UnsetType, excluded: list[str] | UnsetType) -> Selection:
    selection = Selection(_set(only), _set(excluded) or frozenset())
    for field_name, values in ((name, selection.only), (f"not_{name}", selection.excluded)):
        wrong = [value for value in values or () if not value.startswith(sigil)]
        if wrong:
            raise InvalidParam(f"{where}.{field_name}", f"{wrong[0]!r} does not start with {sigil}")
    return selection


def parse_event_fields(paths: Collection[str]) -> FieldTree:
    """The fields to keep, from their dot-separated paths.

    Raises: InvalidParam.
    Spec: appendices#dot-separated-property-paths
    """
    tree: FieldTree = {}
    for path in map(parse_property_path, paths):
        if len(path) > MAX_PATH_LENGTH:
            raise InvalidParam("event_fields", "the path is too long")
        _add_path(tree, path)
    return tree


def _add_path(tree: FieldTree, path: tuple[str, ...]) -> None:
    for name in path[:-1]:
        below = tree.setdefault(name, {})
        if below is None:  # a shorter path keeps everything here
            return
        tree = below
    tree[path[-1]] = None


def prune_fields(event: JsonObject, fields: FieldTree) -> JsonObject:
    """A copy with only these fields; objects of which nothing is left are left out."""
    pruned: JsonObject = {}
    for name, below in fields.items():
        if name not in event:
            continue
        value = event[name]
        if below is None:
            pruned[name] = value
        elif isinstance(value, dict) and (kept := prune_fields(value, below)):
            pruned[name] = kept
    return pruned


EMPTY_FILTER: Final = parse_filter({})
