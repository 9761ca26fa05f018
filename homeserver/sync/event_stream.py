"""What happens in a user's rooms, event by event: GET /events.

A page is a stretch of the log: the oldest events behind the token, at most PAGE_EVENTS of them, and a token that stands behind
the last. So who was away long gets page after page and misses none, where /sync would leave a gap. Of a room it has what
happened while the user was in it; a single room that is asked for by name, all that they may see, which is how rooms are
looked at from outside.

What is in no timeline (typing, receipts, presence) is taken from /sync, which also waits: of that only the newest counts, so
it is told at once, and receipts perhaps once more with the next page.

Spec: client-server-api#get_matrixclientv3events
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import orjson
from attrs import define, evolve, frozen

from homeserver.folds.memberships import MEMBER, UserRooms
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.filters import Filter, parse_filter
from homeserver.matrix.format import client_event
from homeserver.matrix.ids import DeviceId, EventId, RoomId, UserId
from homeserver.rooms.view import RoomView, RoomViews, is_visible
from homeserver.store.events import StoredEvent
from homeserver.store.memberships import MembershipRow
from homeserver.store.outside_rooms import load_outside_room
from homeserver.store.sync import Place, load_following
from homeserver.sync.request import StateKind, SyncRequest
from homeserver.sync.service import SyncService
from homeserver.sync.tokens import SyncToken, TimelineToken, parse_sync_token
from homeserver.sync.view import Sources, is_live

JsonObject = dict[str, Any]
PAGE_EVENTS: Final = 100
STRETCH: Final = 10_000  # positions of the log
_NOTHING: JsonObject = {"not_types": ["*"]}


@frozen
class EventPage:
    """events: oldest first, each of a room in `views`. others: what is no event of such a room, as JSON objects."""

    start: SyncToken
    end: SyncToken
    views: Mapping[RoomId, RoomView]
    events: Sequence[StoredEvent]
    others: Sequence[JsonObject] = ()

    @property
    def is_empty(self) -> bool:
        return not self.events and not self.others


@frozen
class _Asker:
    """Who asks, and for which room (None: all of theirs)."""

    user_id: UserId
    device_id: DeviceId | None
    room_id: RoomId | None

    def wants(self, room_id: str) -> bool:
        return self.room_id is None or room_id == self.room_id


@define(eq=False)
class EventStream:
    sync: SyncService
    views: RoomViews

    @property
    def _sources(self) -> Sources:
        return self.sync.sources

    async def wait(
        self,
        user_id: UserId,
        device_id: DeviceId | None,
        since: SyncToken | TimelineToken | None,
        timeout_ms: int,
        room_id: RoomId | None,
    ) -> EventPage:
        """The next page behind `since` (None: from now on), as soon as there is anything in it, or after the timeout.

        Raises: Forbidden, for a room that the user may not look into.
        """
        asker = _Asker(user_id, device_id, room_id)
        start = since if isinstance(since, SyncToken) else self._token(since)
        clock = self._sources.clock
        deadline_ms = clock.monotonic_ms() + timeout_ms
        at = start
        while True:
            left_ms = max(0, deadline_ms - clock.monotonic_ms())
            view = await self.views.load(room_id, user_id) if room_id is not None else None
            if view is None or view.head.is_joined(user_id):
                page = await self._follow(asker, view, at, left_ms)
            else:
                page = await self._peek(asker, view, at, left_ms)
            if not page.is_empty or left_ms == 0 or self.sync.notifier.is_draining:
                return evolve(page, start=start)
            at = page.end

    def _token(self, place: TimelineToken | None) -> SyncToken:
        """The token for a place in a timeline, or for now."""
        position = max(0, place.order) if place is not None else self._sources.log_writer.position
        return SyncToken(position, self._sources.typing.serial)

    # -- rooms that the user is in -----------------------------------------------------------------------------------

    async def _follow(self, asker: _Asker, view: RoomView | None, since: SyncToken, timeout_ms: int) -> EventPage:
        """Waits for news, and gives what of them the page has. view: of the only room that is wanted."""
        request = SyncRequest(
            asker.user_id,
            asker.device_id,
            _filter(asker.room_id),
            since,
            timeout_ms,
            state_kind=StateKind.AFTER,
            is_legacy=True,
        )
        answer = orjson.loads(await self.sync.sync(request))
        now = parse_sync_token(answer["next_batch"])
        rooms = await self._sources.memberships.load(asker.user_id)
        walked = [room_id for room_id in await self._followed(asker, rooms, since.position) if asker.wants(room_id)]
        found, upto = await self._scan(walked, since.position, now.position)
        views = await self._load_views(asker, {event.pdu.room_id for event in found})
        events = [
            event
            for event in found
            if (of_room := views.get(event.pdu.room_id)) is not None
            and is_visible(of_room, event)
            and (view is not None or _was_there(of_room, event))
        ]
        told = {event.event_id for event in events}
        others = await self._load_moves(asker, rooms, since.position, upto, told)
        others += _ephemeral(answer, view)
        return EventPage(since, SyncToken(upto, now.ephemeral), views, events, others)

    async def _followed(self, asker: _Asker, rooms: UserRooms, after: int) -> list[RoomId]:
        """The rooms that the user is in, or has been in behind `after`."""
        moved = [row.room_id for row in rooms.values() if row.membership != "join" and row.position > after]
        histories = await self._sources.histories.load_many([(room_id, asker.user_id) for room_id in moved])
        joined = [row.room_id for row in rooms.values() if row.membership == "join"]
        return joined + [
            room_id
            for (room_id, _), history in histories.items()
            if history.membership_at(after) == "join"
            or any(value == "join" and at > after for at, value in history.memberships)
        ]

    async def _load_views(self, asker: _Asker, room_ids: Collection[RoomId]) -> dict[RoomId, RoomView]:
        """The views of the rooms that the user may look into."""
        # So that each is found in memory below.
        await self._sources.heads.load_many(room_ids)
        await self._sources.histories.load_many([(room_id, asker.user_id) for room_id in room_ids])
        views = {}
        for room_id in room_ids:
            try:
                views[room_id] = await self.views.load(room_id, asker.user_id)
            except Forbidden:  # forgotten, or purged, meanwhile
                continue
        return views

    async def _load_moves(
        self, asker: _Asker, rooms: UserRooms, after: int, upto: int, told: Collection[EventId]
    ) -> list[JsonObject]:
        """Invites, and how they or a membership ended, in (after, upto], as far as no event says so."""
        unwanted = await self._sources.ignored.load_unwanted(asker.user_id)
        found = []
        for row in sorted(rooms.values(), key=lambda row: row.position):
            is_new = row.membership != "join" and after < row.position <= upto and row.event_id not in told
            is_unwanted = row.membership == "invite" and unwanted.is_invite_of(row.sender)
            if is_new and not is_unwanted and asker.wants(row.room_id):
                event = await load_member_event(self._sources, row)
                found += [] if event is None else [event]
        return found

    # -- a room that the user is not in ------------------------------------------------------------------------------

    async def _peek(self, asker: _Asker, view: RoomView, since: SyncToken, timeout_ms: int) -> EventPage:
        room_id = view.room_id
        # No await between the look and the waiting.
        if timeout_ms > 0 and self._sources.recent.last_position(room_id) <= since.position:
            await self.sync.notifier.wait_in_room(asker.user_id, room_id, timeout_ms)
            view = await self.views.load(room_id, asker.user_id)
        now = self._token(None)
        found, upto = await self._scan([room_id], since.position, now.position)
        events = [event for event in found if is_visible(view, event)]
        return EventPage(since, evolve(now, position=upto), {room_id: view}, events)

    # -- the log -----------------------------------------------------------------------------------------------------

    async def _scan(self, room_ids: Collection[RoomId], after: int, upto: int) -> tuple[list[StoredEvent], int]:
        """The rooms' oldest events in (after, upto], and up to where these are all."""
        if after >= upto:
            return [], after
        recent = self._sources.recent
        if after < recent.floor:
            return await self._load_following(room_ids, after, upto)
        found = [
            row.event
            for room_id in recent.changed_after(room_ids, after)
            for row in recent.rows_after(room_id, after)
            if row.event is not None and is_live(row) and row.position <= upto
        ]
        found.sort(key=lambda event: event.order)
        page = found[:PAGE_EVENTS]
        return page, (page[-1].order if len(found) > len(page) else upto)

    async def _load_following(
        self, room_ids: Collection[RoomId], after: int, upto: int
    ) -> tuple[list[StoredEvent], int]:
        # A page reads a stretch of the log, however much there is behind it; longer ones where nothing is found.
        length, places, end = STRETCH, list[Place](), after
        while not places and end < upto:
            after, end = end, min(upto, end + length)
            places = await self._sources.database.read(load_following, room_ids, after, end, PAGE_EVENTS + 1)
            length *= 2
        page = places[:PAGE_EVENTS]
        heads = await self._sources.heads.load_many({place.room_id for place in page})
        versions = {room_id: head.version for room_id, head in heads.items()}
        wanted = {place.event_id: place.room_id for place in page if place.room_id in versions}
        events = await self._sources.events.load_many(wanted, versions)
        found = [events[place.event_id] for place in page if place.event_id in events]
        return found, (page[-1].order if len(places) > len(page) else end)


async def load_member_event(sources: Sources, row: MembershipRow) -> JsonObject | None:
    """The event that gave the user this membership, also in a room that this server is not in."""
    unsigned = {"membership": row.membership}
    outside = await sources.database.read(load_outside_room, row.user_id, row.room_id)
    if outside is not None and outside.event.event_id == row.event_id:
        return client_event(outside.event, with_room_id=True, unsigned=unsigned)
    heads = await sources.heads.load_many([row.room_id])
    if row.room_id not in heads:
        return None
    event = await sources.events.load(row.event_id, row.room_id, heads[row.room_id].version)
    return None if event is None else client_event(event.pdu, with_room_id=True, unsigned=unsigned)


def _was_there(view: RoomView, event: StoredEvent) -> bool:
    """The user was in the room at the event, or came or went by it."""
    is_own = event.pdu.is_state and event.pdu.key == (MEMBER, view.history.user_id)
    return is_own or view.history.membership_at(event.order) == "join"


def _ephemeral(answer: JsonObject, view: RoomView | None) -> list[JsonObject]:
    """What /sync tells beside timelines. view: that of the only room that is wanted."""
    of_rooms = answer.get("rooms", {}).get("join", {})
    found = [
        {**event, "room_id": room_id}
        for room_id, room in of_rooms.items()
        for event in room.get("ephemeral", {}).get("events", ())
    ]
    presence = answer.get("presence", {}).get("events", ())
    return [*found, *(event for event in presence if view is None or view.head.is_joined(event["sender"]))]


def _filter(room_id: RoomId | None) -> Filter:
    """It asks for one event of each room, so that there is news when there are any."""
    room: JsonObject = {"timeline": {"limit": 1}, "state": _NOTHING, "account_data": _NOTHING}
    if room_id is not None:
        room["rooms"] = [room_id]
    return parse_filter({"account_data": _NOTHING, "room": room})
