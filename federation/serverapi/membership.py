"""Joining, leaving and knocking by way of this server.

Spec: server-server-api#joining-rooms
"""

from __future__ import annotations

from typing import Final

import msgspec

from federation.authentication import ServerRequester
from federation.resident.templates import MemberTemplates
from homeserver.matrix.ids import parse_room_id, parse_user_id
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

TAG = "Federation: membership"
V1: Final = "/_matrix/federation/v1"


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
