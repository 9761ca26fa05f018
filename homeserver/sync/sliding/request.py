"""A sliding sync request, parsed from either of its shapes.

unstable    POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync: as matrix-rust-sdk sends it
stable      POST /_matrix/client/v4/sync: as MSC4186 was accepted
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cached_property
from typing import Any, Final, TypeGuard

from attrs import define, field, frozen

from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.ids import DeviceId, RoomId, UserId
from homeserver.matrix.state_map import StateKey
from homeserver.rooms.head import MEMBER

MAX_LISTS: Final = 100
MAX_SUBSCRIPTIONS: Final = 100
MAX_RANGES: Final = 100
MAX_STATE_ELEMENTS: Final = 200
MAX_TIMELINE_LIMIT: Final = 1_000
MAX_NAME_LENGTH: Final = 255
MAX_TIMEOUT_MS: Final = 10 * 60 * 1000
WILDCARD: Final = "*"
LAZY: Final = "$LAZY"
ME: Final = "$ME"


class Shape(Enum):
    UNSTABLE = "unstable"
    STABLE = "stable"


# (type, state key); None stands for any.
StatePattern = tuple[str | None, str | None]


@frozen
class RequiredState:
    """Which state a client wants. lazy: of the members those that the timeline needs."""

    include: frozenset[StatePattern] = frozenset()
    exclude: frozenset[StatePattern] = frozenset()
    lazy: bool = False

    def matches(self, key: StateKey) -> bool:
        if not _matches(self.include, key):
            return False
        if self.lazy and key[0] == MEMBER and (MEMBER, key[1]) not in self.include:
            return False
        return not (self.exclude and _matches(self.exclude, key))

    @cached_property
    def exact_keys(self) -> list[StateKey] | None:
        """The keys that match, where no pattern has a wildcard; else None."""
        keys = [(type_, key) for type_, key in self.include if type_ is not None and key is not None]
        return [key for key in keys if self.matches(key)] if len(keys) == len(self.include) else None


def _matches(patterns: frozenset[StatePattern], key: StateKey) -> bool:
    type_, state_key = key
    return (
        (type_, state_key) in patterns
        or (type_, None) in patterns
        or (None, state_key) in patterns
        or (None, None) in patterns
    )


@frozen
class RoomConfig:
    """What is wanted of a room. `states`: any of them may ask for a key."""

    timeline_limit: int
    states: frozenset[RequiredState]

    def join(self, other: RoomConfig) -> RoomConfig:
        return RoomConfig(max(self.timeline_limit, other.timeline_limit), self.states | other.states)

    @cached_property
    def is_lazy(self) -> bool:
        return any(state.lazy for state in self.states)

    def wants(self, key: StateKey) -> bool:
        return any(state.matches(key) for state in self.states)


@frozen
class Filters:
    is_dm: bool | None = None
    is_encrypted: bool | None = None
    is_invited: bool | None = None
    room_types: frozenset[str | None] | None = None
    not_room_types: frozenset[str | None] | None = None
    spaces: frozenset[str] | None = None
    tags: frozenset[str] | None = None
    not_tags: frozenset[str] | None = None


@frozen
class ListConfig:
    """ranges: inclusive, ascending, with gaps between them; None for the whole list."""

    ranges: tuple[tuple[int, int], ...] | None
    room: RoomConfig
    filters: Filters


@frozen
class Extension:
    """What a request says of one extension. lists, rooms: None for all that the connection has."""

    enabled: bool = False
    lists: frozenset[str] | None = None
    rooms: frozenset[str] | None = None
    limit: int = 100
    since: str | None = None


THREAD_SUBSCRIPTIONS: Final = ("io.element.msc4308.thread_subscriptions", "thread_subscriptions")
STICKY_EVENTS: Final = "org.matrix.msc4354.sticky_events"
EXTENSIONS: Final = (
    "to_device",
    "e2ee",
    "account_data",
    "receipts",
    "typing",
    STICKY_EVENTS,
    *THREAD_SUBSCRIPTIONS,
)
_OFF: Final = Extension()


@frozen(eq=False)
class Wanted:
    """What a request asks for. Requests share it, so nobody may change it."""

    lists: Mapping[str, ListConfig]
    subscriptions: Mapping[RoomId, RoomConfig]
    extensions: Mapping[str, Extension]


@define(eq=False)
class SlidingRequest:
    user_id: UserId
    device_id: DeviceId
    shape: Shape
    conn_id: str
    pos: str | None
    timeout_ms: int
    txn_id: str | None
    lists: Mapping[str, ListConfig]
    subscriptions: Mapping[RoomId, RoomConfig]
    extensions: Mapping[str, Extension]
    fingerprint: bytes = field(default=b"")
    is_small: bool = False  # enough that what it asks for may be kept in memory

    def extension(self, name: str) -> Extension:
        return self.extensions.get(name, _OFF)


class Parser:
    """Reads the parts of a body; whatever does not fit raises InvalidParam naming the field."""

    def __init__(self, user_id: UserId, shape: Shape) -> None:
        self._user_id = user_id
        self._stable = shape is Shape.STABLE

    def wanted(self, body: Mapping[str, Any]) -> Wanted:
        return Wanted(
            self.lists(body.get("lists")),
            self.subscriptions(body.get("room_subscriptions")),
            self.extensions(body.get("extensions")),
        )

    def lists(self, value: object) -> dict[str, ListConfig]:
        given = _object(value, "lists")
        if len(given) > MAX_LISTS:
            raise InvalidParam("lists", f"at most {MAX_LISTS}")
        return {_name(name, "lists"): self._list(body, f"lists.{name}") for name, body in given.items()}

    def subscriptions(self, value: object) -> dict[RoomId, RoomConfig]:
        given = _object(value, "room_subscriptions")
        if len(given) > MAX_SUBSCRIPTIONS:
            raise InvalidParam("room_subscriptions", f"at most {MAX_SUBSCRIPTIONS}")
        return {
            RoomId(_name(room_id, "room_subscriptions")): self._room(body, f"room_subscriptions.{room_id}")
            for room_id, body in given.items()
        }

    def extensions(self, value: object) -> dict[str, Extension]:
        given = _object(value, "extensions")
        return {
            name: _extension(given[name], f"extensions.{name}") for name in EXTENSIONS if given.get(name) is not None
        }

    def _list(self, value: object, where: str) -> ListConfig:
        body = _object(value, where)
        return ListConfig(self._ranges(body, where), self._room(body, where), self._filters(body.get("filters"), where))

    def _ranges(self, body: Mapping[str, Any], where: str) -> tuple[tuple[int, int], ...] | None:
        if self._stable:
            given = body.get("range")
            return None if given is None else (_range(given, f"{where}.range"),)
        ranges = body.get("ranges")
        if ranges is None:
            return None
        if not isinstance(ranges, list) or len(ranges) > MAX_RANGES:
            raise InvalidParam(f"{where}.ranges", f"must be a list of at most {MAX_RANGES} pairs")
        return merge_ranges([_range(given, f"{where}.ranges") for given in ranges])

    def _room(self, value: object, where: str) -> RoomConfig:
        body = _object(value, where)
        limit = body.get("timeline_limit", 0)
        if not _is_count(limit):
            raise InvalidParam(f"{where}.timeline_limit", "must be a non-negative integer")
        given = body.get("required_state")
        where = f"{where}.required_state"
        if given is None:
            state = RequiredState()
        elif self._stable:
            state = self._state_elements(_object(given, where), where)
        else:
            state = self._state_pairs(given, where)
        return RoomConfig(min(limit, MAX_TIMELINE_LIMIT), frozenset({state}))

    def _state_pairs(self, value: object, where: str) -> RequiredState:
        if not isinstance(value, list) or len(value) > MAX_STATE_ELEMENTS:
            raise InvalidParam(where, f"must be a list of at most {MAX_STATE_ELEMENTS} pairs")
        include: set[StatePattern] = set()
        lazy = False
        for pair in value:
            if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
                raise InvalidParam(where, "must hold [type, state_key] pairs")
            type_, key = pair
            if (type_, key) == (MEMBER, LAZY):
                lazy = True
                continue
            include.add((_pattern(type_), self._user_id if key == ME else _pattern(key)))
        return RequiredState(frozenset(include), lazy=lazy)

    def _state_elements(self, body: Mapping[str, Any], where: str) -> RequiredState:
        lazy = body.get("lazy_members", False)
        if not isinstance(lazy, bool):
            raise InvalidParam(f"{where}.lazy_members", "must be a boolean")
        return RequiredState(
            _elements(body.get("include"), f"{where}.include"), _elements(body.get("exclude"), f"{where}.exclude"), lazy
        )

    def _filters(self, value: object, where: str) -> Filters:
        if value is None:
            return Filters()
        where = f"{where}.filters"
        body = _object(value, where)
        return Filters(
            _flag(body, "is_dm", where),
            _flag(body, "is_encrypted", where),
            _flag(body, "is_invited" if self._stable else "is_invite", where),
            _names(body, "room_types", where, with_null=True),
            _names(body, "not_room_types", where, with_null=True),
            _strings(body, "spaces", where),
            _strings(body, "tags", where),
            _strings(body, "not_tags", where),
        )


def _pattern(text: str) -> str | None:
    return None if text == WILDCARD else text


def _elements(value: object, where: str) -> frozenset[StatePattern]:
    if value is None:
        return frozenset()
    if not isinstance(value, list) or len(value) > MAX_STATE_ELEMENTS:
        raise InvalidParam(where, f"must be a list of at most {MAX_STATE_ELEMENTS} objects")
    found: set[StatePattern] = set()
    for element in value:
        body = _object(element, where)
        type_, key = body.get("type"), body.get("state_key")
        if not isinstance(type_, str | None) or not isinstance(key, str | None):
            raise InvalidParam(where, "type and state_key must be strings")
        found.add((type_, key))
    return frozenset(found)


def _extension(value: object, where: str) -> Extension:
    body = _object(value, where)
    limit = body.get("limit", 100)
    since = body.get("since")
    if not _is_count(limit):
        raise InvalidParam(f"{where}.limit", "must be a non-negative integer")
    if not isinstance(since, str | None):
        raise InvalidParam(f"{where}.since", "must be a string")
    return Extension(
        _flag(body, "enabled", where) or False,
        _strings(body, "lists", where),
        _strings(body, "rooms", where),
        limit,
        since,
    )


def _range(value: object, where: str) -> tuple[int, int]:
    first, last = value if isinstance(value, list) and len(value) == 2 else (None, None)
    if not _is_count(first) or not _is_count(last) or first > last:
        raise InvalidParam(where, "must be pairs [first, last] of non-negative integers, in order")
    return first, last


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _flag(body: Mapping[str, Any], name: str, where: str) -> bool | None:
    value = body.get(name)
    if not isinstance(value, bool | None):
        raise InvalidParam(f"{where}.{name}", "must be a boolean")
    return value


def _strings(body: Mapping[str, Any], name: str, where: str) -> frozenset[str] | None:
    found = _names(body, name, where, with_null=False)
    return None if found is None else frozenset(text for text in found if text is not None)


def _names(body: Mapping[str, Any], name: str, where: str, *, with_null: bool) -> frozenset[str | None] | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) or (with_null and item is None) for item in value):
        raise InvalidParam(f"{where}.{name}", "must be a list of strings")
    return frozenset(value)


def _name(text: str, where: str) -> str:
    if not text or len(text) > MAX_NAME_LENGTH or "\0" in text:
        raise InvalidParam(where, f"names must have 1 to {MAX_NAME_LENGTH} characters")
    return text


def _object(value: object, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidParam(where, "must be an object")
    return value


def merge_ranges(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """As few as cover the same indices, ascending."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return tuple(merged)
