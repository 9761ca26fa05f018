"""Which rooms a request is about: filtered, ordered and cut to windows.

Spec: MSC4186
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import orjson
from attrs import define, field, frozen

from homeserver.accounts.ignored_users import Unwanted
from homeserver.folds.memberships import UserRooms
from homeserver.folds.room_activity import RoomActivity
from homeserver.matrix.ids import RoomId
from homeserver.matrix.state_map import CREATE
from homeserver.store.memberships import MembershipRow
from homeserver.sync.sliding.connections import ConnectionState
from homeserver.sync.sliding.request import STICKY_EVENTS, Filters, ListConfig, RoomConfig, SlidingRequest
from homeserver.sync.view import Lookup, View

ENCRYPTION = ("m.room.encryption", "")
_LISTED = frozenset({"join", "invite", "knock"})
_LEFT = frozenset({"leave", "ban"})


@define
class Windows:
    """The rooms of a request, the newest first. lists: names of the lists in whose windows a room is.

    matched: all that a list is about, in its windows or not, or that is subscribed to; empty unless an extension asks for it.
    """

    configs: dict[RoomId, RoomConfig] = field(factory=dict)
    lists: dict[RoomId, list[str]] = field(factory=dict)
    counts: dict[str, int] = field(factory=dict)
    subscribed: set[RoomId] = field(factory=set)
    matched: frozenset[RoomId] = frozenset()

    def add(self, room_ids: Iterable[RoomId], config: RoomConfig) -> None:
        """The configuration is wanted of the rooms, too."""
        # PERF: rooms of the same lists share what is joined for them: 5 ms for 100 lists of 60 rooms, not 20.
        joined: dict[RoomConfig, RoomConfig] = {}
        for room_id in room_ids:
            known = self.configs.get(room_id)
            if known is None:
                self.configs[room_id] = config
                continue
            if known not in joined:
                joined[known] = known.join(config)
            self.configs[room_id] = joined[known]


@define(eq=False)
class _Marks:
    """What the user's account data says of their rooms, read once for all lists. Empty while the view notes a need."""

    view: View

    @cached_property
    def direct(self) -> set[str]:
        return direct_rooms(self.view)

    @cached_property
    def tags(self) -> dict[str, frozenset[str]]:
        return _tags(self.view)


@define(eq=False)
class RoomLists:
    activity: RoomActivity

    def pick(
        self,
        view: View,
        request: SlidingRequest,
        rooms: UserRooms,
        unwanted: Unwanted,
        state: ConnectionState | None,
    ) -> Windows | None:
        """None where the view notes needs."""
        known = {
            room_id: row
            for room_id, row in rooms.items()
            if (row.membership == "join" and not row.forgotten) or _is_listed(view, row, unwanted, state)
        }
        found = Windows()
        if request.lists:
            ordered = self._order(view, known)
            if ordered is None:
                return None
            marks = _Marks(view)
            forgotten = {room_id for room_id, row in known.items() if row.forgotten}
            for name, config in request.lists.items():
                wanted = ordered if config.filters == Filters() else _filtered(marks, known, ordered, config.filters)
                _cut(wanted, name, config, found)
                found.counts[name] = len(wanted) - len(forgotten.intersection(wanted) if forgotten else ())
                if request.extension(STICKY_EVENTS).enabled:
                    found.matched |= frozenset(wanted)
        for room_id, room in request.subscriptions.items():
            if room_id in known or _was_joined(view, rooms.get(room_id)):
                found.add([room_id], room)
                found.subscribed.add(room_id)
        if request.extension(STICKY_EVENTS).enabled:
            found.matched |= found.subscribed
        return found if view.is_complete else None

    def bump_stamp(self, room_id: RoomId, membership: MembershipRow) -> int:
        activity = self.activity.get(room_id)
        if membership.membership != "join" or activity is None:
            return membership.position
        return activity.bump

    def _order(self, view: View, known: Mapping[RoomId, MembershipRow]) -> Sequence[RoomId] | None:
        """By the newest event; of rooms that the user is not in, by the user's membership."""
        joined = [room_id for room_id, row in known.items() if row.membership == "join"]
        activities = self.activity.get_many(joined)
        missing = [room_id for room_id in joined if room_id not in activities] if len(activities) < len(joined) else []
        if missing:
            loaded = view.get_value(
                Lookup("activity", view.user_id, tuple(missing), lambda: self.activity.load_many(missing))
            )
            if loaded is None:
                return None
            activities |= loaded
        stamps = {room_id: activity.last for room_id, activity in activities.items()}
        if len(stamps) < len(known):
            stamps |= {room_id: row.position for room_id, row in known.items() if row.membership != "join"}
        return sorted(stamps, key=stamps.__getitem__, reverse=True)


def _cut(wanted: Sequence[RoomId], name: str, config: ListConfig, found: Windows) -> None:
    cut = wanted
    if config.ranges is not None:
        cut = [room_id for first, last in config.ranges for room_id in wanted[first : last + 1]]
    found.add(cut, config.room)
    for room_id in cut:
        found.lists.setdefault(room_id, []).append(name)


def _is_listed(view: View, row: MembershipRow, unwanted: Unwanted, state: ConnectionState | None) -> bool:
    """Rooms that the user left are told of only where the client has them; from which others removed the user, too, but not
    those from which they are banned without having been there. A room that is forgotten is told of until the client knows
    that it was left.

    Neither an invite that the user does not want is told, nor its end.
    Spec: client-server-api#ignoring-users
    """
    sent = state.rooms.get(row.room_id) if state is not None else None
    if row.forgotten:
        return sent is not None and sent.position < row.position
    if row.membership in _LISTED:
        return not (row.membership == "invite" and unwanted.is_invite_of(row.sender))
    if sent is not None:
        return True
    if row.membership not in _LEFT or row.sender == row.user_id:
        return False
    if row.membership == "leave" and not unwanted.is_invite_of(row.sender):
        return True
    return _was_joined(view, row)


def _was_joined(view: View, row: MembershipRow | None) -> bool:
    """The user was in a room that they have left, and not forgotten. False also where the view notes a need."""
    if row is None or row.forgotten or row.membership not in _LEFT:
        return False
    history = view.get_history(row.room_id)
    return history is not None and history.was_joined


def _filtered(
    marks: _Marks, known: Mapping[RoomId, MembershipRow], room_ids: Sequence[RoomId], filters: Filters
) -> list[RoomId]:
    view = marks.view
    if filters.is_invited is not None:
        room_ids = [room for room in room_ids if (known[room].membership == "invite") == filters.is_invited]
    if filters.is_dm is not None:
        room_ids = [room for room in room_ids if (room in marks.direct) == filters.is_dm]
    if filters.tags is not None or filters.not_tags is not None:
        room_ids = [room for room in room_ids if _has_tags(marks.tags.get(room, frozenset()), filters)]
    if filters.spaces is not None:
        children = _children(view, known, filters.spaces)
        room_ids = [room for room in room_ids if room in children]
    wants_state = (filters.is_encrypted, filters.room_types, filters.not_room_types) != (None, None, None)
    if wants_state:
        kinds = {room: _kind_of(view, known[room]) for room in room_ids}
        room_ids = [room for room in room_ids if _fits(kinds[room], filters)]
    return list(room_ids)


@frozen
class _Kind:
    """What filters ask of a room's state."""

    is_encrypted: bool
    room_type: str | None


def _kind_of(view: View, row: MembershipRow) -> _Kind | None:
    """Of a room that this server is not in, as the invite or the knock tells it. None where that is not known, or is needed."""
    outside = view.get_outside_room(row) if row.membership != "join" else None
    if outside is not None:
        contents = {(entry["type"], entry["state_key"]): entry["content"] for entry in outside.state}
        return _Kind(ENCRYPTION in contents, _type_of(contents.get(CREATE, {})))
    head = view.get_head(row.room_id)
    return None if head is None else _Kind(ENCRYPTION in head.state, _type_of(head.create.content))


def _type_of(create: Mapping[str, Any]) -> str | None:
    room_type = create.get("type")
    return room_type if isinstance(room_type, str) else None


def _fits(kind: _Kind | None, filters: Filters) -> bool:
    if kind is None:
        return filters.room_types is None and not filters.is_encrypted
    if filters.is_encrypted is not None and kind.is_encrypted != filters.is_encrypted:
        return False
    if filters.not_room_types is not None and kind.room_type in filters.not_room_types:
        return False
    return filters.room_types is None or kind.room_type in filters.room_types


def _has_tags(tags: frozenset[str], filters: Filters) -> bool:
    if filters.not_tags is not None and tags & filters.not_tags:
        return False
    return filters.tags is None or bool(tags & filters.tags)


def direct_rooms(view: View) -> set[str]:
    """The rooms in the user's m.direct; empty while the view notes a need."""
    for row in view.get_account_data(0) or ():
        if row.type == "m.direct" and not row.room_id:
            content = orjson.loads(row.content)
            return {
                room for rooms in content.values() if isinstance(rooms, list) for room in rooms if isinstance(room, str)
            }
    return set()


def _tags(view: View) -> dict[str, frozenset[str]]:
    found = {}
    for row in view.get_account_data(0) or ():
        if row.type == "m.tag" and row.room_id:
            tags = orjson.loads(row.content).get("tags")
            found[row.room_id] = frozenset(tags) if isinstance(tags, dict) else frozenset()
    return found


def _children(view: View, known: Mapping[RoomId, MembershipRow], spaces: frozenset[str]) -> set[str]:
    """The rooms that the spaces, where the user is in them, name as theirs."""
    found: set[str] = set()
    for space in spaces:
        row = known.get(RoomId(space))
        head = view.get_head(RoomId(space)) if row is not None and row.membership == "join" else None
        if head is None:
            continue
        for (type_, key), event_id in head.state.items():
            if type_ == "m.space.child":
                event = view.get_event(event_id, head)
                if event is not None and isinstance(event.pdu.content.get("via"), list):
                    found.add(key)
    return found
