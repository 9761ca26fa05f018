"""Sending events to a room, and redactions.

Spec: client-server-api#sending-events-to-a-room
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.clientapi.delayed_events import DelayAnswer
from homeserver.matrix.ids import parse_event_id, parse_room_id
from homeserver.matrix.sticky import MAX_STICKY_MS
from homeserver.rooms.delayed_events import DelayedEvents
from homeserver.rooms.sending import Sending
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

TAG = "Room participation"


class SendPath(msgspec.Struct):
    room_id: str
    event_type: str
    txn_id: str


class StatePath(msgspec.Struct):
    room_id: str
    event_type: str
    state_key: str


class StateTypePath(msgspec.Struct):
    room_id: str
    event_type: str


class RedactPath(msgspec.Struct):
    room_id: str
    event_id: str
    txn_id: str


class SendAnswer(msgspec.Struct):
    event_id: str


class SendQuery(msgspec.Struct, frozen=True):
    delay_ms: int | None = msgspec.field(name="org.matrix.msc4140.delay", default=None)
    sticky_ms: Annotated[int, msgspec.Meta(ge=0, le=MAX_STICKY_MS)] | None = msgspec.field(
        name="org.matrix.msc4354.sticky_duration_ms", default=None
    )


class RoomSending:
    def __init__(self, sending: Sending, delayed: DelayedEvents) -> None:
        self._sending = sending
        self._delayed = delayed

    @endpoint(
        "PUT",
        "/_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}",
        auth=Auth.GUEST_OK,
        limit="message",
        tag=TAG,
        spec="client-server-api#put_matrixclientv3roomsroomidsendeventtypetxnid",
    )
    async def put_send(
        self, requester: Requester, path: SendPath, query: SendQuery, body: JsonObject
    ) -> SendAnswer | DelayAnswer:
        room_id, type_, sticky_ms = parse_room_id(path.room_id), path.event_type, query.sticky_ms
        if query.delay_ms is not None:
            schedule = self._delayed.schedule
            delay_id = await schedule(
                requester, room_id, type_, None, body, query.delay_ms, txn_id=path.txn_id, sticky_ms=sticky_ms
            )
            return DelayAnswer(delay_id)
        return SendAnswer(await self._sending.send(requester, room_id, type_, body, path.txn_id, sticky_ms))

    @endpoint(
        "PUT",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/{state_key}",
        auth=Auth.GUEST_OK,
        limit="message",
        tag=TAG,
        spec="client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey",
    )
    async def put_state(
        self, requester: Requester, path: StatePath, query: SendQuery, body: JsonObject
    ) -> SendAnswer | DelayAnswer:
        room_id, type_, key, sticky_ms = parse_room_id(path.room_id), path.event_type, path.state_key, query.sticky_ms
        if query.delay_ms is not None:
            schedule = self._delayed.schedule
            delay_id = await schedule(requester, room_id, type_, key, body, query.delay_ms, sticky_ms=sticky_ms)
            return DelayAnswer(delay_id)
        return SendAnswer(await self._sending.set_state(requester, room_id, type_, key, body, sticky_ms=sticky_ms))

    @endpoint(
        "PUT",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}",
        auth=Auth.GUEST_OK,
        limit="message",
        tag=TAG,
    )
    async def put_state_without_key(
        self, requester: Requester, path: StateTypePath, query: SendQuery, body: JsonObject
    ) -> SendAnswer | DelayAnswer:
        """The same for an empty state key."""
        return await self.put_state(requester, StatePath(path.room_id, path.event_type, ""), query, body)

    @endpoint(
        "PUT",
        "/_matrix/client/v3/rooms/{room_id}/redact/{event_id}/{txn_id}",
        auth=Auth.GUEST_OK,
        limit="message",
        optional_body=True,
        tag=TAG,
        spec="client-server-api#put_matrixclientv3roomsroomidredacteventidtxnid",
    )
    async def put_redact(self, requester: Requester, path: RedactPath, body: JsonObject) -> SendAnswer:
        room_id, event_id = parse_room_id(path.room_id), parse_event_id(path.event_id)
        return SendAnswer(await self._sending.redact(requester, room_id, event_id, body, path.txn_id))
