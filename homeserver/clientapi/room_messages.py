"""Scrolling back and forth: /messages, /context, /timestamp_to_event.

Spec: client-server-api#getting-events-for-a-room
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import orjson

from homeserver.accounts.requester import Requester
from homeserver.clientapi.event_json import EventJson, array
from homeserver.matrix.canonical import decode_json
from homeserver.matrix.errors import InvalidParam, NotFound, NotJson
from homeserver.matrix.filters import RoomEventFilter, parse_room_event_filter
from homeserver.matrix.ids import EventId, parse_event_id, parse_room_id
from homeserver.matrix.state_map import member_key
from homeserver.rooms.errors import HistoryUnreachable
from homeserver.rooms.paging import BEGINNING, Page, Paging
from homeserver.rooms.view import RoomView, RoomViews
from homeserver.runtime.http.endpoint import Auth, endpoint
from homeserver.runtime.http.response import RawJson
from homeserver.store.events import StoredEvent
from homeserver.store.log_writer import LogWriter
from homeserver.sync.tokens import TimelineToken, parse_timeline_token

TAG = "Room participation"
DEFAULT_LIMIT = 10
MAX_LIMIT = 1000


class RoomPath(msgspec.Struct):
    room_id: str


class EventPath(msgspec.Struct):
    room_id: str
    event_id: str


class MessagesQuery(msgspec.Struct):
    dir: Literal["b", "f"]
    from_: str | None = msgspec.field(name="from", default=None)
    to: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=0)] = DEFAULT_LIMIT
    filter: str | None = None


class ContextQuery(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=0)] = DEFAULT_LIMIT
    filter: str | None = None


class TimestampQuery(msgspec.Struct):
    ts: int
    dir: Literal["b", "f"]


class TimestampAnswer(msgspec.Struct):
    event_id: str
    origin_server_ts: int


class RoomMessages:
    def __init__(self, views: RoomViews, paging: Paging, json: EventJson, log: LogWriter) -> None:
        self._views = views
        self._paging = paging
        self._json = json
        self._log = log

    @endpoint(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/messages",
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3roomsroomidmessages",
    )
    async def get_messages(self, requester: Requester, path: RoomPath, query: MessagesQuery) -> RawJson:
        filter = _parse_filter(query.filter)
        backwards = query.dir == "b"
        start = self._start(query.from_, backwards)
        stop = parse_timeline_token(query.to, "to").order if query.to is not None else None
        view = await self._views.load(parse_room_id(path.room_id), requester.user_id)
        limit = max(1, _limit(query.limit, filter))
        page = await self._paging.load_page(view, start, limit, backwards=backwards, stop=stop, filter=filter)
        if page.is_cut and not page.events:
            raise HistoryUnreachable
        return RawJson(await self._encode_page(requester, view, page, filter))

    @endpoint(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/context/{event_id}",
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3roomsroomidcontexteventid",
    )
    async def get_context(self, requester: Requester, path: EventPath, query: ContextQuery) -> RawJson:
        room_id, event_id = parse_room_id(path.room_id), parse_event_id(path.event_id)
        filter = _parse_filter(query.filter)
        view = await self._views.load(room_id, requester.user_id)
        event = await self._paging.load_event(view, event_id)
        limit = _limit(query.limit, filter)
        before, after = await self._paging.load_around(view, event, limit, filter)
        return RawJson(await self._encode_context(requester, view, event, before, after, filter))

    @endpoint(
        "GET",
        "/_matrix/client/v1/rooms/{room_id}/timestamp_to_event",
        auth=Auth.GUEST_OK,
        limit="other",
        tag=TAG,
        spec="client-server-api#get_matrixclientv1roomsroomidtimestamp_to_event",
    )
    async def get_timestamp_to_event(
        self, requester: Requester, path: RoomPath, query: TimestampQuery
    ) -> TimestampAnswer:
        if not 0 <= query.ts < 2**53:
            raise InvalidParam("ts", "out of range")
        view = await self._views.load(parse_room_id(path.room_id), requester.user_id)
        found = await self._paging.load_nearest(view, query.ts, forwards=query.dir == "f")
        if found is None:
            raise NotFound("No event in that direction")
        return TimestampAnswer(*found)

    def _start(self, token: str | None, backwards: bool) -> int:
        if token is not None:
            return parse_timeline_token(token).order
        return self._log.position if backwards else BEGINNING

    async def _encode_page(
        self, requester: Requester, view: RoomView, page: Page, filter: RoomEventFilter | None
    ) -> bytes:
        chunk = await self._json.encode(view, page.events, requester, page.bundles)
        parts = b'{"chunk":%b,"start":%b' % (array(chunk), _token(page.start))
        if page.end is not None:
            parts += b',"end":%b' % _token(page.end)
        if filter is not None and filter.lazy_load_members:
            parts += b',"state":%b' % array(await self._encode_senders(requester, view, page.events))
        return parts + b"}"

    async def _encode_context(
        self,
        requester: Requester,
        view: RoomView,
        event: StoredEvent,
        before: Page,
        after: Page,
        filter: RoomEventFilter | None,
    ) -> bytes:
        encoded = await self._json.encode(view, [event, *before.events, *after.events], requester)
        split = 1 + len(before.events)
        last = after.events[-1].order if after.events else event.order
        state = await self._views.load_state(view, last)
        ids = _wanted_state(state, [event, *before.events, *after.events], filter)
        events = await self._json.encode(view, await self._views.load_events(view, ids), requester)
        first = before.events[-1].order if before.events else event.order
        return b'{"event":%b,"events_before":%b,"events_after":%b,"state":%b,"start":%b,"end":%b}' % (
            encoded[0],
            array(encoded[1:split]),
            array(encoded[split:]),
            array(events),
            _token(first - 1),
            _token(last),
        )

    async def _encode_senders(self, requester: Requester, view: RoomView, events: Sequence[StoredEvent]) -> list[bytes]:
        senders = dict.fromkeys(event.pdu.sender for event in events)
        ids = [event_id for sender in senders if (event_id := view.head.state.get(member_key(sender)))]
        return await self._json.encode(view, await self._views.load_events(view, ids), requester)


def _wanted_state(
    state: dict[tuple[str, str], EventId], events: list[StoredEvent], filter: RoomEventFilter | None
) -> list[EventId]:
    if filter is None or not filter.lazy_load_members:
        return list(state.values())
    senders = {event.pdu.sender for event in events}
    return [event_id for key, event_id in state.items() if key[0] != "m.room.member" or key[1] in senders]


def _token(order: int) -> bytes:
    return orjson.dumps(str(TimelineToken(order)))


def _limit(wanted: int, filter: RoomEventFilter | None) -> int:
    """The least of what the query, the filter and this server allow."""
    limit = min(wanted, MAX_LIMIT)
    return limit if filter is None else filter.limit_within(limit, limit)


def _parse_filter(text: str | None) -> RoomEventFilter | None:
    if text is None:
        return None
    try:
        return parse_room_event_filter(decode_json(text.encode("utf-8", "surrogatepass")))
    except NotJson:
        raise InvalidParam("filter", "not JSON") from None
