"""Joining, leaving and knocking by way of this server.

Spec: server-server-api#joining-rooms
"""

from __future__ import annotations

from typing import Final

import msgspec

from federation.authentication import ServerRequester
from federation.resident.join_answers import JoinAnswers
from federation.resident.member_events import MemberEvents
from federation.resident.templates import MemberTemplates
from homeserver.matrix.ids import parse_event_id, parse_room_id, parse_user_id
from homeserver.runtime.http.endpoint import Auth, JsonObject, JsonValue, endpoint
from homeserver.runtime.http.response import RawJson

TAG = "Federation: membership"
V1: Final = "/_matrix/federation/v1"
V2: Final = "/_matrix/federation/v2"
MAX_BODY_BYTES: Final = 256 * 1024


class TemplatePath(msgspec.Struct, rename="camel", frozen=True):
    room_id: str
    user_id: str


class VersionsQuery(msgspec.Struct, frozen=True):
    ver: list[str] = []


class TemplateEndpoints:
    def __init__(self, templates: MemberTemplates) -> None:
        self._templates = templates

    @endpoint(
        "GET",
        f"{V1}/make_join/{{roomId}}/{{userId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#get_matrixfederationv1make_joinroomiduserid",
    )
    async def get_make_join(self, requester: ServerRequester, path: TemplatePath, query: VersionsQuery) -> JsonObject:
        """What to sign to join a room."""
        room_id, user_id = parse_room_id(path.room_id), parse_user_id(path.user_id)
        return await self._templates.load_join(room_id, user_id, requester.server_name, query.ver)

    @endpoint(
        "GET",
        f"{V1}/make_leave/{{roomId}}/{{userId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#get_matrixfederationv1make_leaveroomiduserid",
    )
    async def get_make_leave(self, requester: ServerRequester, path: TemplatePath) -> JsonObject:
        """What to sign to leave a room, refuse an invite or take back a knock."""
        room_id, user_id = parse_room_id(path.room_id), parse_user_id(path.user_id)
        return await self._templates.load_leave(room_id, user_id, requester.server_name)

    @endpoint(
        "GET",
        f"{V1}/make_knock/{{roomId}}/{{userId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#get_matrixfederationv1make_knockroomiduserid",
    )
    async def get_make_knock(self, requester: ServerRequester, path: TemplatePath, query: VersionsQuery) -> JsonObject:
        """What to sign to knock on a room."""
        room_id, user_id = parse_room_id(path.room_id), parse_user_id(path.user_id)
        return await self._templates.load_knock(room_id, user_id, requester.server_name, query.ver)


class EventPath(msgspec.Struct, rename="camel", frozen=True):
    room_id: str
    event_id: str


class JoinQuery(msgspec.Struct, frozen=True):
    omit_members: bool = False


class MembershipEndpoints:
    """Version 1 of the paths answers with the status before the answer itself, for servers of long ago."""

    def __init__(self, members: MemberEvents, answers: JoinAnswers) -> None:
        self._members = members
        self._answers = answers

    @endpoint(
        "PUT",
        f"{V2}/send_join/{{roomId}}/{{eventId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#put_matrixfederationv2send_joinroomideventid",
        max_body_bytes=MAX_BODY_BYTES,
    )
    async def put_send_join(
        self, requester: ServerRequester, path: EventPath, query: JoinQuery, body: JsonObject
    ) -> RawJson:
        """Join a room."""
        return RawJson(await self._join(requester, path, body, omit_members=query.omit_members))

    @endpoint(
        "PUT",
        f"{V1}/send_join/{{roomId}}/{{eventId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#joining-rooms",
        max_body_bytes=MAX_BODY_BYTES,
        deprecated=True,
    )
    async def put_send_join_v1(self, requester: ServerRequester, path: EventPath, body: JsonObject) -> RawJson:
        """Join a room."""
        return RawJson(b"[200,%b]" % await self._join(requester, path, body, omit_members=False))

    @endpoint(
        "PUT",
        f"{V2}/send_leave/{{roomId}}/{{eventId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#put_matrixfederationv2send_leaveroomideventid",
        max_body_bytes=MAX_BODY_BYTES,
    )
    async def put_send_leave(self, requester: ServerRequester, path: EventPath, body: JsonObject) -> JsonObject:
        """Leave a room, refuse an invite or take back a knock."""
        room_id, event_id = parse_room_id(path.room_id), parse_event_id(path.event_id)
        await self._members.receive(room_id, event_id, body, requester.server_name, "leave")
        return {}

    @endpoint(
        "PUT",
        f"{V1}/send_leave/{{roomId}}/{{eventId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#leaving-rooms-rejecting-invites",
        max_body_bytes=MAX_BODY_BYTES,
        deprecated=True,
    )
    async def put_send_leave_v1(self, requester: ServerRequester, path: EventPath, body: JsonObject) -> JsonValue:
        """Leave a room, refuse an invite or take back a knock."""
        return [200, await self.put_send_leave(requester, path, body)]

    @endpoint(
        "PUT",
        f"{V1}/send_knock/{{roomId}}/{{eventId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#put_matrixfederationv1send_knockroomideventid",
        max_body_bytes=MAX_BODY_BYTES,
    )
    async def put_send_knock(self, requester: ServerRequester, path: EventPath, body: JsonObject) -> RawJson:
        """Knock on a room."""
        room_id, event_id = parse_room_id(path.room_id), parse_event_id(path.event_id)
        head, _ = await self._members.receive(room_id, event_id, body, requester.server_name, "knock")
        return RawJson(b'{"knock_room_state":%b}' % await self._answers.load_knock_state(head))

    async def _join(
        self, requester: ServerRequester, path: EventPath, body: JsonObject, *, omit_members: bool
    ) -> bytes:
        room_id, event_id = parse_room_id(path.room_id), parse_event_id(path.event_id)
        head, join = await self._members.receive(room_id, event_id, body, requester.server_name, "join")
        return await self._answers.load(head, join, omit_members=omit_members)
