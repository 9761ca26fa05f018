"""What sliding sync tells of sticky events.

Spec: MSC4354, MSC4480
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from homeserver.folds.memberships import UserRooms
from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.ids import RoomId
from homeserver.rooms.client_events import Reader, encode
from homeserver.store.events import StoredEvent
from homeserver.sync.sliding.connections import ConnectionState
from homeserver.sync.sliding.request import STICKY_EVENTS, SlidingRequest
from homeserver.sync.sliding.rooms import RoomPart
from homeserver.sync.view import View

MAX_EVENTS: Final = 1_000


def tell_sticky_events(
    view: View,
    request: SlidingRequest,
    state: ConnectionState | None,
    rooms: UserRooms,
    parts: Mapping[RoomId, RoomPart],
    ignored: frozenset[str],
) -> tuple[Any, bool]:
    """Those behind the extension's own `since`, the oldest first, but for those that the timelines of the response have."""
    since = sticky_since(request)
    found = _unseen(view, rooms, since)
    limit = max(1, min(request.extension(STICKY_EVENTS).limit, MAX_EVENTS))
    told, upto = found[:limit], found[limit - 1].nid if len(found) > limit else view.now
    shown = {event.event_id for part in parts.values() for event in part.timeline}
    reader = Reader(request.user_id, request.device_id)
    by_room: dict[str, dict[str, list[orjson.Fragment]]] = {}
    for event in told:
        if event.event_id not in shown and event.pdu.sender not in ignored:
            events = by_room.setdefault(event.pdu.room_id, {"events": []})["events"]
            events.append(orjson.Fragment(encode(event, reader, view.now_ms)))
    if not told and state is not None:
        return None, False
    return {"next_batch": str(upto), **({"rooms": by_room} if by_room else {})}, bool(by_room)


def _unseen(view: View, rooms: UserRooms, since: int) -> list[StoredEvent]:
    """Of the rooms that the user joined since, all."""
    found = [
        one.event
        for room_id, row in rooms.items()
        if row.membership == "join"
        for one in view.sources.sticky.get(room_id, 0 if row.position > since else since)
    ]
    return sorted(found, key=lambda event: event.nid)


def sticky_since(request: SlidingRequest) -> int:
    """Raises: InvalidParam."""
    since = request.extension(STICKY_EVENTS).since
    if since is None:
        return 0
    if not since.isascii() or not since.isdigit() or len(since) > 18:
        raise InvalidParam(f"extensions.{STICKY_EVENTS}.since", "not a token of this server")
    return int(since)
