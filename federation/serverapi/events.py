"""Events, history and state of rooms, for the servers in them.

Spec: server-server-api#retrieving-events
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from federation.authentication import ServerRequester
from federation.resident.access import ServerAccess
from federation.resident.graph import RoomGraph
from federation.resident.state import RoomStates, encode_list
from homeserver.matrix.canonical import encode_json
from homeserver.matrix.errors import InvalidParam, NotFound
from homeserver.matrix.ids import EventId, RoomId, ServerName, parse_event_id, parse_room_id
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.runtime.http.response import RawJson
from homeserver.store.events import load_event_near, load_rooms_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from homeserver.matrix.pdu import Pdu

TAG = "Federation: events"
V1: Final = "/_matrix/federation/v1"
MAX_EVENTS: Final = 100
MAX_START_EVENTS: Final = 50
DEFAULT_MISSING: Final = 10
MAX_BODY_BYTES: Final = 64 * 1024


class RoomPath(msgspec.Struct, rename="camel", frozen=True):
    room_id: str


class EventPath(msgspec.Struct, rename="camel", frozen=True):
    event_id: str


class RoomEventPath(msgspec.Struct, rename="camel", frozen=True):
    room_id: str
    event_id: str


class StateQuery(msgspec.Struct, frozen=True):
    event_id: str


class BackfillQuery(msgspec.Struct, frozen=True):
    v: list[str]
    limit: int


class MissingBody(msgspec.Struct, frozen=True):
    earliest_events: list[str]
    latest_events: list[str]
    limit: int = DEFAULT_MISSING
    min_depth: int = 0


class NearQuery(msgspec.Struct, frozen=True):
    ts: int
    dir: Literal["f", "b"]


class EventEndpoints:
    def __init__(
        self,
        server_name: ServerName,
        clock: Clock,
        database: Database,
        access: ServerAccess,
        graph: RoomGraph,
        states: RoomStates,
    ) -> None:
        self._server_name = server_name
        self._clock = clock
        self._database = database
        self._access = access
        self._graph = graph
        self._states = states

    @endpoint(
        "GET",
        f"{V1}/event/{{eventId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#get_matrixfederationv1eventeventid",
    )
    async def get_event(self, requester: ServerRequester, path: EventPath) -> RawJson:
        """A single event."""
        event_id, origin = parse_event_id(path.event_id), requester.server_name
        room_id = (await self._database.read(load_rooms_of, [event_id])).get(event_id)
        if room_id is None:
            raise NotFound("This server does not know that event")
        head = await self._access.load_head(room_id, origin)
        event = await self._access.load_event_for(head, event_id, origin)
        return self._transaction(await self._access.load_shown(head, [event], origin))

    @endpoint(
        "GET",
        f"{V1}/state/{{roomId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#get_matrixfederationv1stateroomid",
    )
    async def get_state(self, requester: ServerRequester, path: RoomPath, query: StateQuery) -> RawJson:
        """The state of a room before an event."""
        head = await self._access.load_head(parse_room_id(path.room_id), requester.server_name)
        event = await self._access.load_event_for(head, parse_event_id(query.event_id), requester.server_name)
        self._access.check_whole(head)
        state = (await self._states.load_before(head, event)).values()
        chain = await self._states.load_auth_chain(head, state)
        parts = await self._states.load_bytes(head, state), await self._states.load_bytes(head, chain)
        return RawJson(b'{"pdus":%b,"auth_chain":%b}' % parts)

    @endpoint(
        "GET",
        f"{V1}/state_ids/{{roomId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#get_matrixfederationv1state_idsroomid",
    )
    async def get_state_ids(self, requester: ServerRequester, path: RoomPath, query: StateQuery) -> JsonObject:
        """The ids of the events of the state of a room before an event."""
        head = await self._access.load_head(parse_room_id(path.room_id), requester.server_name)
        event = await self._access.load_event_for(head, parse_event_id(query.event_id), requester.server_name)
        self._access.check_whole(head)
        state = (await self._states.load_before(head, event)).values()
        chain = await self._states.load_auth_chain(head, state)
        return {"pdu_ids": list(state), "auth_chain_ids": sorted(chain)}

    @endpoint(
        "GET",
        f"{V1}/event_auth/{{roomId}}/{{eventId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#get_matrixfederationv1event_authroomideventid",
    )
    async def get_event_auth(self, requester: ServerRequester, path: RoomEventPath) -> RawJson:
        """The auth chain of an event."""
        head = await self._access.load_head(parse_room_id(path.room_id), requester.server_name)
        event = await self._access.load_event_for(head, parse_event_id(path.event_id), requester.server_name)
        chain = await self._states.load_auth_chain(head, [event.event_id])
        return RawJson(b'{"auth_chain":%b}' % await self._states.load_bytes(head, chain))

    @endpoint(
        "GET",
        f"{V1}/backfill/{{roomId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#get_matrixfederationv1backfillroomid",
    )
    async def get_backfill(self, requester: ServerRequester, path: RoomPath, query: BackfillQuery) -> RawJson:
        """Events, and what came before them."""
        limit = _limit(query.limit)
        start = _event_ids(query.v, "v")
        head = await self._access.load_head_inside(parse_room_id(path.room_id), requester.server_name)
        events = await self._graph.load_before(head, start, limit)
        return self._transaction(await self._access.load_shown(head, events, requester.server_name))

    @endpoint(
        "POST",
        f"{V1}/get_missing_events/{{roomId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#post_matrixfederationv1get_missing_eventsroomid",
        max_body_bytes=MAX_BODY_BYTES,
        cancellable=True,
    )
    async def post_missing(self, requester: ServerRequester, path: RoomPath, body: MissingBody) -> RawJson:
        """The events between those that the other server has and those that it got."""
        limit = _limit(body.limit)
        earliest = _event_ids(body.earliest_events, "earliest_events")
        latest = _event_ids(body.latest_events, "latest_events")
        head = await self._access.load_head_inside(parse_room_id(path.room_id), requester.server_name)
        events = await self._graph.load_missing(head, earliest, latest, limit, body.min_depth)
        shown = await self._access.load_shown(head, events, requester.server_name)
        return RawJson(b'{"events":%b}' % encode_list(pdu.json_bytes for pdu in shown))

    @endpoint(
        "GET",
        f"{V1}/timestamp_to_event/{{roomId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#get_matrixfederationv1timestamp_to_eventroomid",
    )
    async def get_near(self, requester: ServerRequester, path: RoomPath, query: NearQuery) -> JsonObject:
        """The event closest to a time."""
        room_id: RoomId = parse_room_id(path.room_id)
        await self._access.load_head_inside(room_id, requester.server_name)
        found = await self._database.read(load_event_near, room_id, _ts(query.ts), query.dir == "f")
        if found is None:
            raise NotFound("This server knows no event in that direction")
        return {"event_id": found[0], "origin_server_ts": found[1]}

    def _transaction(self, pdus: Iterable[Pdu]) -> RawJson:
        about: dict[str, Any] = {"origin": self._server_name, "origin_server_ts": self._clock.time_ms()}
        return RawJson(b'%b,"pdus":%b}' % (encode_json(about)[:-1], encode_list(pdu.json_bytes for pdu in pdus)))


def _limit(limit: int) -> int:
    """Raises: InvalidParam."""
    if limit < 0:
        raise InvalidParam("limit", "must not be negative")
    return min(limit, MAX_EVENTS)


def _event_ids(event_ids: list[str], field: str) -> list[EventId]:
    """Raises: InvalidParam."""
    if len(event_ids) > MAX_START_EVENTS:
        raise InvalidParam(field, f"more than {MAX_START_EVENTS} events")
    return [parse_event_id(event_id, field) for event_id in event_ids]


def _ts(ts_ms: int) -> int:
    """A time that the database can compare."""
    return max(-(1 << 62), min(ts_ms, 1 << 62))
