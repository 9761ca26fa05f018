"""A user's view of a room's history, in memory: visibility and membership over time.

Positions are those of the timeline. Where the state before an event was not that of the room at its place in the timeline
(a fork, fetched history), the event says itself what it was (StoredEvent.sight).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import orjson
from attrs import frozen
from sqlalchemy import Connection

from homeserver.folds.fold import Fold
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.visibility import Sight, can_see, parse_visibility
from homeserver.runtime.db import Database
from homeserver.store.events import StoredEvent
from homeserver.store.history import load_moments
from homeserver.store.log import LogRow

_VISIBILITY = "m.room.history_visibility"
_MEMBER = "m.room.member"
# Before and behind all of a timeline.
_FIRST, _END = -(2**62), 2**62

HistoryKey = tuple[RoomId, UserId]
# (position, value from then on), ascending.
Changes = tuple[tuple[int, str], ...]


@frozen
class UserHistory:
    """Who the user was to the room, and how visible the room was, at each position."""

    user_id: UserId
    visibilities: Changes
    memberships: Changes

    @property
    def sees_all(self) -> bool:
        """The user is joined, and no part of the history was ever hidden from those who joined later, but for events that
        say otherwise (StoredEvent.sight)."""
        return (
            bool(self.memberships)
            and self.memberships[-1][1] == "join"
            and all(value in ("shared", "world_readable") for _, value in self.visibilities)
        )

    @property
    def joined_at(self) -> int | None:
        """Where the user came into the room; None while they are not in it."""
        found = None
        for position, membership in reversed(self.memberships):
            if membership != "join":
                break
            found = position
        return found

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Where in the timeline the user sees the events that don't say otherwise: each from a place up to before another,
        ascending. The changes themselves count to what follows them."""
        edges = sorted({_FIRST, _END, *(position for position, _ in (*self.visibilities, *self.memberships))})
        last_join = max((position for position, value in self.memberships if value == "join"), default=_FIRST)
        found: list[tuple[int, int]] = []
        for low, high in pairwise(edges):
            if not can_see(self._sight(low), joined_later=last_join > low):
                continue
            begin = found.pop()[0] if found and found[-1][1] == low else low
            found.append((begin, high))
        return found

    @property
    def was_joined(self) -> bool:
        """The user is or was in the room."""
        return any(value == "join" for _, value in self.memberships)

    def membership_at(self, position: int) -> str | None:
        """The membership after the event at that position."""
        return _value_at(self.memberships, position)

    def membership_around(self, event: StoredEvent) -> str:
        """The membership at any stored event; "leave" where the user had nothing to do with the room, or it isn't known."""
        return "leave" if event.timeline_order is None else self.membership_at(event.timeline_order) or "leave"

    def can_see(self, event: StoredEvent) -> bool:
        """Spec: client-server-api#room-history-visibility"""
        position = event.order
        before, after = self._sight(position - 1), self._sight(position)
        if event.sight is not None:
            before, after = self._sight_aside(event, event.sight, before)
        joined_later = any(value == "join" for at, value in self.memberships if at >= position)
        own = event.pdu.type == _MEMBER and event.pdu.state_key == self.user_id
        changed = after if after != before else None
        return can_see(before, changed, joined_later=joined_later, own_membership=own)

    def hidden_before(self, events: Collection[StoredEvent], replaced: Mapping[EventId, StoredEvent]) -> set[EventId]:
        """Of the state that those events replaced, what is not for the user: they see neither that event, nor was it the
        room's state while they were there.

        Spec: client-server-api#definition-clientevent_unsigneddata
        """
        found = set()
        for event in events:
            before = replaced.get(event.replaces) if event.replaces is not None else None
            if before is None or (self.sees_all and before.sight is None):
                continue
            place = event.timeline_order
            was_there = place is not None and self.membership_at(place - 1) == "join"
            if not was_there and not (before.timeline_order is not None and self.can_see(before)):
                found.add(before.event_id)
        return found

    def _sight_aside(self, event: StoredEvent, told: str, here: Sight) -> tuple[Sight, Sight]:
        """Before and after an event that stands aside. `here` is what the timeline says."""
        noted = orjson.loads(told)
        is_whole = noted.get("whole", False)
        visibility = noted.get("visibility", here.visibility)
        membership = noted["members"].get(self.user_id, None if is_whole else here.membership)
        before = Sight(visibility, membership)
        if (event.pdu.type, event.pdu.state_key) == (_VISIBILITY, ""):
            return before, Sight(parse_visibility(event.pdu.content), membership)
        if (event.pdu.type, event.pdu.state_key) == (_MEMBER, self.user_id):
            return before, Sight(visibility, _value(_MEMBER, event.pdu.content))
        return before, before

    def _sight(self, position: int) -> Sight:
        visibility = _value_at(self.visibilities, position) or "shared"
        return Sight(visibility, _value_at(self.memberships, position))


def _value_at(changes: Changes, position: int) -> str | None:
    index = bisect_right(changes, position, key=_position)
    return changes[index - 1][1] if index else None


def _position(change: tuple[int, str]) -> int:
    return change[0]


class Histories:
    """Fold: (room, user) -> UserHistory."""

    def __init__(self, database: Database, max_entries: int) -> None:
        self._fold: Fold[HistoryKey, UserHistory] = Fold(
            database,
            load=_load,
            keys_of=self._keys_of,
            apply=_apply,
            max_entries=max_entries,
            on_gone=self._on_gone,
        )
        self._by_room: dict[RoomId, set[UserId]] = {}
        self.get = self._fold.get
        self.on_rows = self._fold.on_rows

    async def load(self, room_id: RoomId, user_id: UserId) -> UserHistory:
        return (await self.load_many([(room_id, user_id)]))[(room_id, user_id)]

    async def load_many(self, keys: Sequence[HistoryKey]) -> dict[HistoryKey, UserHistory]:
        for room_id, user_id in keys:
            self._by_room.setdefault(room_id, set()).add(user_id)
        return await self._fold.load_many(keys)

    def drop_room(self, room_id: RoomId) -> None:
        """Its history is stored no more."""
        self._fold.drop_where(lambda key: key[0] == room_id)

    def _on_gone(self, key: HistoryKey) -> None:
        room_id, user_id = key
        users = self._by_room.get(room_id, set())
        users.discard(user_id)
        if not users:
            self._by_room.pop(room_id, None)

    def _keys_of(self, row: LogRow) -> Iterable[HistoryKey]:
        room_id = RoomId(row.key)
        for delta in row.deltas:
            if delta.key[0] == _MEMBER:
                yield (room_id, UserId(delta.key[1]))
            elif delta.key == (_VISIBILITY, ""):
                yield from [(room_id, user_id) for user_id in tuple(self._by_room.get(room_id, ()))]


def _load(conn: Connection, keys: Sequence[HistoryKey]) -> dict[HistoryKey, UserHistory]:
    wanted: list[tuple[RoomId, str, str]] = [(room_id, _MEMBER, user_id) for room_id, user_id in keys]
    wanted += [(room_id, _VISIBILITY, "") for room_id in {room_id for room_id, _ in keys}]
    changes: dict[tuple[str, str, str], list[tuple[int, str]]] = {}
    for moment in load_moments(conn, wanted):
        key = (moment.room_id, moment.type, moment.state_key)
        changes.setdefault(key, []).append((moment.position, _value(moment.type, moment.content)))
    return {
        (room_id, user_id): UserHistory(
            user_id,
            tuple(changes.get((room_id, _VISIBILITY, ""), ())),
            tuple(changes.get((room_id, _MEMBER, user_id), ())),
        )
        for room_id, user_id in keys
    }


def _value(type_: str, content: dict[str, Any] | None) -> str:
    if type_ == _VISIBILITY:
        return parse_visibility(content)
    membership = content.get("membership") if content is not None else None
    return membership if isinstance(membership, str) else "leave"


def _apply(key: HistoryKey, history: UserHistory, row: LogRow) -> UserHistory | None:
    _, user_id = key
    visibilities, memberships = history.visibilities, history.memberships
    for delta in row.deltas:
        if delta.key not in ((_VISIBILITY, ""), (_MEMBER, user_id)):
            continue
        if row.event is None or delta.event_id not in (None, row.event.event_id):
            return None  # an older event came back (state resolution): its content is not in the row
        content = row.event.pdu.content if delta.event_id is not None else None
        change = (row.position, _value(delta.key[0], content))
        if delta.key[0] == _MEMBER:
            memberships = (*memberships, change)
        else:
            visibilities = (*visibilities, change)
    return UserHistory(user_id, visibilities, memberships)
