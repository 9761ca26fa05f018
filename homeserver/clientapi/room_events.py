"""Getting events of a room: single events, state, members.

Spec: client-server-api#getting-events-for-a-room
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.clientapi.event_json import EventJson, array
from homeserver.matrix.canonical import encode_json
from homeserver.matrix.errors import Forbidden, NotFound
from homeserver.matrix.ids import parse_event_id, parse_room_id
from homeserver.matrix.state_map import member_key
from homeserver.rooms.head import MEMBER
from homeserver.rooms.paging import Paging
from homeserver.rooms.view import RoomView, RoomViews
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.runtime.http.response import RawJson
from homeserver.store.events import StoredEvent
from homeserver.sync.tokens import parse_timeline_token

TAG = "Room participation"
Membership = Literal["join", "invite", "knock", "leave", "ban"]


class RoomPath(msgspec.Struct):
    room_id: str


class EventPath(msgspec.Struct):
    room_id: str
    event_id: str


class StatePath(msgspec.Struct):
    room_id: str
    event_type: str
    state_key: str


class StateTypePath(msgspec.Struct):
    room_id: str
    event_type: str


class StateQuery(msgspec.Struct):
    format: Literal["content", "event"] = "content"


class MembersQuery(msgspec.Struct):
    at: str | None = None
    membership: Membership | None = None
    not_membership: Membership | None = None


class RoomEvents:
    def __init__(self, views: RoomViews, paging: Paging, json: EventJson) -> None:
        self._views = views
        self._paging = paging
        self._json = json

    @endpoint(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/event/{event_id}",
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3roomsroomideventeventid",
    )
    async def get_event(self, requester: Requester, path: EventPath) -> RawJson:
        room_id, event_id = parse_room_id(path.room_id), parse_event_id(path.event_id)
        try:
            view = await self._views.load(room_id, requester.user_id)
        except Forbidden:  # the specification knows no other answer than 404 here
            raise NotFound("Event not found") from None
        event = await self._paging.load_event(view, event_id)
        return RawJson((await self._json.encode(view, [event], requester))[0])

    @endpoint(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/joined_members",
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3roomsroomidjoined_members",
    )
    async def get_joined_members(self, requester: Requester, path: RoomPath) -> JsonObject:
        view = await self._views.load_full(parse_room_id(path.room_id), requester.user_id)
        if view.until is not None:
            raise Forbidden("You are not in this room")
        head = view.head
        with_ignored = RoomView(head, view.history, None)
        ids = [head.state[member_key(user)] for user in head.joined_users()]
        events = await self._views.load_events(with_ignored, ids)
        return {"joined": {event.pdu.state_key: _profile(event) for event in events}}

    @endpoint(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/members",
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3roomsroomidmembers",
    )
    async def get_members(self, requester: Requester, path: RoomPath, query: MembersQuery) -> RawJson:
        view = await self._views.load_full(parse_room_id(path.room_id), requester.user_id)
        at = parse_timeline_token(query.at, "at").order if query.at is not None else None
        state = await self._views.load_state(view, at)
        ids = [event_id for key, event_id in state.items() if key[0] == MEMBER]
        events = await self._views.load_events(view, ids)
        wanted = [event for event in events if _is_wanted(event, query)]
        return RawJson(b'{"chunk":%b}' % array(await self._json.encode(view, wanted, requester)))

    @endpoint(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/state",
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3roomsroomidstate",
    )
    async def get_state(self, requester: Requester, path: RoomPath) -> RawJson:
        view = await self._views.load_full(parse_room_id(path.room_id), requester.user_id)
        state = await self._views.load_state(view)
        events = await self._views.load_events(view, list(state.values()))
        return RawJson(array(await self._json.encode(view, events, requester)))

    @endpoint(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/{state_key}",
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3roomsroomidstateeventtypestatekey",
    )
    async def get_state_event(self, requester: Requester, path: StatePath, query: StateQuery) -> RawJson:
        view = await self._views.load(parse_room_id(path.room_id), requester.user_id)
        event = await self._load_state_event(view, path)
        if query.format == "content":
            return RawJson(encode_json(event.pdu.content))
        return RawJson((await self._json.encode(view, [event], requester))[0])

    @endpoint(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}",
        auth=Auth.GUEST_OK,
        tag=TAG,
    )
    async def get_state_event_without_key(
        self, requester: Requester, path: StateTypePath, query: StateQuery
    ) -> RawJson:
        """The same for an empty state key."""
        return await self.get_state_event(requester, StatePath(path.room_id, path.event_type, ""), query)

    async def _load_state_event(self, view: RoomView, path: StatePath) -> StoredEvent:
        key = (path.event_type, path.state_key)
        state = view.head.state if view.until is None else await self._views.load_state(view)
        event_id = state.get(key)
        events = await self._views.load_events(view, [event_id]) if event_id is not None else []
        if not events:
            raise NotFound("No state of that type and key in this room")
        return events[0]


def _profile(event: StoredEvent) -> dict[str, Any]:
    """Spec: client-server-api#get_matrixclientv3roomsroomidjoined_members names the display name so."""
    content = event.pdu.content
    profile = {"display_name": content.get("displayname"), "avatar_url": content.get("avatar_url")}
    return {key: value for key, value in profile.items() if isinstance(value, str)}


def _is_wanted(event: StoredEvent, query: MembersQuery) -> bool:
    membership = event.pdu.membership
    if query.membership is not None and membership == query.membership:
        return True
    if query.not_membership is not None and membership != query.not_membership:
        return True
    return query.membership is None and query.not_membership is None
