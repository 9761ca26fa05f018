"""What sync tells of presence: that of users with whom a room is shared.

Spec: client-server-api#presence
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence

import orjson
from attrs import define

from homeserver.folds.memberships import UserRooms
from homeserver.matrix.ids import UserId
from homeserver.presence.presence import Presence
from homeserver.sync.ports import NO_PARTS, Parts
from homeserver.sync.request import SyncRequest
from homeserver.sync.view import View

TYPE = "m.presence"


@define(eq=False)
class PresenceExtension:
    """A SyncExtension."""

    presence: Presence

    def acknowledge(self, request: SyncRequest) -> Awaitable[None] | None:
        return None

    def get_parts(self, view: View, request: SyncRequest, rooms: UserRooms) -> Parts | None:
        wanted = request.filter.presence
        if wanted.matches_none:
            return NO_PARTS
        ignored = view.get_ignored() or ()
        events = [
            encode_presence(self.presence, user_id, view.now_ms)
            for user_id in self._candidates(view, request, rooms)
            if user_id not in ignored and wanted.matches(TYPE, user_id) and _shares_room(view, rooms, user_id)
        ]
        if not view.is_complete:
            return None
        return Parts([b'"presence":{"events":[%b]}' % b",".join(events)] if events else [])

    def get_quiet(self, request: SyncRequest) -> Sequence[bytes]:
        return ()

    def _candidates(self, view: View, request: SyncRequest, rooms: UserRooms) -> Iterable[UserId]:
        if request.since is None or _has_joined_since(view, rooms, request.since.position):
            return self.presence.present_users()
        return self.presence.changed_since(request.since.ephemeral)


def encode_presence(presence: Presence, user_id: UserId, now_ms: int) -> bytes:
    """Spec: client-server-api#mpresence"""
    return orjson.dumps({"type": TYPE, "sender": user_id, "content": presence.get(user_id).content(now_ms)})


def _has_joined_since(view: View, rooms: UserRooms, position: int) -> bool:
    """The view's user has come into a room, whose members are all news then."""
    return any(row.membership == "join" and row.position > position for row in rooms.values())


def _shares_room(view: View, rooms: UserRooms, user_id: UserId) -> bool:
    if user_id == view.user_id:
        return True
    theirs = view.get_rooms_of(user_id)
    return theirs is not None and shares_room(rooms, theirs)


def shares_room(ours: UserRooms, theirs: UserRooms) -> bool:
    """Both users are joined to one room at least."""
    few, many = (ours, theirs) if len(ours) < len(theirs) else (theirs, ours)
    return any(
        row.membership == "join" and (other := many.get(room_id)) is not None and other.membership == "join"
        for room_id, row in few.items()
    )
