"""The older ways to follow what happens: GET /events and a single event by its id alone. Deprecated, still in
use.

Spec: client-server-api#get_matrixclientv3events
"""

from __future__ import annotations

import msgspec
import orjson

from homeserver.accounts.requester import Requester
from homeserver.clientapi.event_json import EventJson, array
from homeserver.clientapi.sync import MAX_TIMEOUT_MS
from homeserver.matrix.errors import MatrixError, NotFound
from homeserver.matrix.ids import parse_event_id, parse_room_id
from homeserver.rooms.view import RoomViews
from homeserver.runtime.db import Database
from homeserver.runtime.http.endpoint import Auth, endpoint
from homeserver.runtime.http.response import RawJson
from homeserver.store.events import load_rooms_of
from homeserver.sync.event_stream import EventStream
from homeserver.sync.tokens import parse_stream_token

TAG = "Room participation"


class EventsQuery(msgspec.Struct):
    from_: str = msgspec.field(name="from", default="")
    timeout: int = 0
    room_id: str = ""


class EventPath(msgspec.Struct):
    event_id: str


class EventsEndpoints:
    def __init__(self, stream: EventStream, views: RoomViews, database: Database, json: EventJson) -> None:
        self._stream = stream
        self._views = views
        self._database = database
        self._json = json

    @endpoint(
        "GET",
        "/_matrix/client/v3/events",
        auth=Auth.GUEST_OK,
        tag=TAG,
        long_poll=True,
        deprecated=True,
        spec="client-server-api#get_matrixclientv3events",
    )
    async def get_events(self, requester: Requester, query: EventsQuery) -> RawJson:
        """With a room_id, of that room, which the user may look at from outside.

        Spec: client-server-api#peeking_get_matrixclientv3events
        """
        since = parse_stream_token(query.from_, "from") if query.from_ else None
        room_id = parse_room_id(query.room_id) if query.room_id else None
        timeout_ms = max(0, min(query.timeout, MAX_TIMEOUT_MS))
        page = await self._stream.wait(requester.user_id, requester.device_id, since, timeout_ms, room_id)
        events = await self._json.encode_in(page.views, page.events, requester)
        chunk = array([*events, *map(orjson.dumps, page.others)])
        start, end = str(page.start).encode(), str(page.end).encode()
        return RawJson(b'{"start":"%b","end":"%b","chunk":%b}' % (start, end, chunk))

    @endpoint(
        "GET",
        "/_matrix/client/v3/events/{event_id}",
        auth=Auth.GUEST_OK,
        tag=TAG,
        deprecated=True,
        spec="client-server-api#get_matrixclientv3eventseventid",
    )
    async def get_event(self, requester: Requester, path: EventPath) -> RawJson:
        event_id = parse_event_id(path.event_id)
        rooms = await self._database.read(load_rooms_of, [event_id])
        if event_id not in rooms:
            raise NotFound("Event not found")
        try:
            view = await self._views.load(rooms[event_id], requester.user_id)
        except MatrixError:  # that the event exists is nobody's business who may not see it
            raise NotFound("Event not found") from None
        event = await self._views.load_event(view, event_id)
        return RawJson((await self._json.encode(view, [event], requester))[0])
