"""What sliding sync tells of sticky events.

A client that is told all up to a position lacks what came behind it, and everything in rooms that its user joined behind it:
events that may be older than the position. So a page ends at a place within a stretch of the log, and the stretch keeps its
end until all of it is told; what comes meanwhile, joins as well, is of the next one. Were the place alone the client's token,
a page of old events would lead back to where it came from.

Only rooms that the connection's lists and subscriptions are about are told of, in their windows or not. A room that comes to
them later is told whole at once.

Spec: MSC4354, MSC4480
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import orjson
from attrs import evolve, frozen

from homeserver.folds.memberships import UserRooms
from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.ids import EventId, RoomId
from homeserver.rooms.client_events import Reader, encode
from homeserver.store.events import StoredEvent
from homeserver.store.memberships import MembershipRow
from homeserver.sync.sliding.connections import ConnectionState
from homeserver.sync.sliding.request import STICKY_EVENTS, SlidingRequest
from homeserver.sync.sliding.rooms import RoomPart
from homeserver.sync.view import View

MAX_EVENTS: Final = 1_000
_MAX_DIGITS: Final = 18


@frozen
class StickySince:
    """The client has all up to `since`. Of what there is to tell up to `upto`, it has the events up to `told`."""

    since: int
    upto: int
    told: int = 0

    def __str__(self) -> str:
        return str(self.since) if self.since == self.upto else f"{self.since}_{self.upto}_{self.told}"

    def stretches(self, now: int) -> Iterator[StickySince]:
        """What is left of this one, and all behind it."""
        if self.since < self.upto:
            yield self
        yield StickySince(self.upto, max(self.upto, now))


def tell_sticky_events(
    view: View,
    request: SlidingRequest,
    state: ConnectionState | None,
    rooms: UserRooms,
    matched: frozenset[RoomId],
    parts: Mapping[RoomId, RoomPart],
    ignored: frozenset[str],
) -> tuple[Any, bool]:
    """Those behind the extension's own `since`, the oldest first, but for those that the timelines of the response have."""
    since = parse_sticky_since(request)
    about = [row for room_id, row in rooms.items() if room_id in matched and row.membership == "join"]
    found = [
        (event, evolve(stretch, told=event.order))
        for stretch in since.stretches(view.now)
        for event in _unseen(view, about, stretch)
    ]
    earlier = _of_new_rooms(view, state, about, {event.event_id for event, _ in found})
    if not view.is_complete or (not found and not earlier and state is not None):
        return None, False
    limit = max(1, min(request.extension(STICKY_EVENTS).limit, MAX_EVENTS))
    shown = {event.event_id for part in parts.values() for event in part.timeline}
    told: list[StoredEvent] = []
    upto = since
    for event, behind in found:
        if event.event_id not in shown and event.pdu.sender not in ignored:
            if len(told) == limit:
                break
            told.append(event)
        upto = behind
    else:
        upto = StickySince(view.now, view.now)
    earlier = [event for event in earlier if event.event_id not in shown and event.pdu.sender not in ignored]
    by_room = _encode(view, [*earlier, *told], Reader(request.user_id, request.device_id))
    return {"next_batch": str(upto), **({"rooms": by_room} if by_room else {})}, bool(by_room)


def _encode(view: View, events: list[StoredEvent], reader: Reader) -> dict[str, dict[str, list[orjson.Fragment]]]:
    by_room: dict[str, dict[str, list[orjson.Fragment]]] = {}
    for event in events:
        of_room = by_room.setdefault(event.pdu.room_id, {"events": []})
        of_room["events"].append(orjson.Fragment(encode(event, reader, view.now_ms)))
    return by_room


def _of_new_rooms(
    view: View, state: ConnectionState | None, rooms: Collection[MembershipRow], found: Collection[EventId]
) -> list[StoredEvent]:
    """Those of rooms that the connection was not about until now, but for what is found anyway."""
    if state is None or state.told_upto(STICKY_EVENTS) is None:
        return []
    new = [row.room_id for row in rooms if row.room_id not in state.matched]
    return [
        one.event for room_id in new for one in view.sources.sticky.get(room_id, 0) if one.event.event_id not in found
    ]


def _unseen(view: View, rooms: Collection[MembershipRow], stretch: StickySince) -> list[StoredEvent]:
    """What the client lacks of a stretch, in order: of the rooms that the user joined in it, all events. (Rooms joined behind
    it are of the next one.)"""
    found: list[StoredEvent] = []
    for row in rooms:
        events = view.sources.sticky.get(row.room_id, stretch.told)
        joined_at = _joined_at(view, row, stretch) if events else None
        if joined_at is not None and joined_at <= stretch.upto:
            after = stretch.since if joined_at <= stretch.since else 0
            found += [one.event for one in events if after < one.event.order <= stretch.upto]
    return sorted(found, key=lambda event: event.order)


def _joined_at(view: View, row: MembershipRow, stretch: StickySince) -> int | None:
    """Where the user came into the room; None where the view notes a need.

    The row's position is that of the newest of their member events: another name is no join.
    """
    if row.position <= (stretch.since or stretch.upto):
        return row.position
    history = view.get_history(row.room_id)
    return None if history is None else history.joined_at or row.position


def parse_sticky_since(request: SlidingRequest) -> StickySince:
    """Raises: InvalidParam."""
    since = request.extension(STICKY_EVENTS).since
    if since is None:
        return StickySince(0, 0)
    numbers = [int(part) for part in since.split("_") if part.isascii() and part.isdigit() and len(part) <= _MAX_DIGITS]
    match numbers if len(numbers) == since.count("_") + 1 else []:
        case [at]:
            return StickySince(at, at)
        case [after, upto, told] if after < upto:
            return StickySince(after, upto, told)
    raise InvalidParam(f"extensions.{STICKY_EVENTS}.since", "not a token of this server")
