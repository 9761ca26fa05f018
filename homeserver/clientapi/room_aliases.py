"""Room aliases.

Spec: client-server-api#room-aliases
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.matrix.ids import RoomAlias, RoomId, ServerName, parse_room_alias, parse_room_id
from homeserver.rooms.aliases import Aliases
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

_ALIAS_PATH = "/_matrix/client/v3/directory/room/{room_alias}"


class AliasPath(msgspec.Struct, frozen=True):
    room_alias: str

    def parse(self) -> RoomAlias:
        return parse_room_alias(self.room_alias)


class RoomPath(msgspec.Struct, frozen=True):
    room_id: str


class AliasBody(msgspec.Struct, frozen=True):
    room_id: str


class AliasResponse(msgspec.Struct, frozen=True):
    room_id: RoomId
    servers: Sequence[ServerName]


class AliasesResponse(msgspec.Struct, frozen=True):
    aliases: list[RoomAlias]


class RoomAliasEndpoints:
    def __init__(self, aliases: Aliases) -> None:
        self._aliases = aliases

    @endpoint(
        "GET",
        _ALIAS_PATH,
        auth=Auth.NONE,
        spec="client-server-api#get_matrixclientv3directoryroomroomalias",
        tag="Room directory",
    )
    async def get_alias(self, path: AliasPath) -> AliasResponse:
        """The room of an alias."""
        resolved = await self._aliases.resolve(path.parse())
        return AliasResponse(resolved.room_id, resolved.servers)

    @endpoint(
        "PUT",
        _ALIAS_PATH,
        auth=Auth.USER,
        spec="client-server-api#put_matrixclientv3directoryroomroomalias",
        tag="Room directory",
    )
    async def put_alias(self, requester: Requester, path: AliasPath, body: AliasBody) -> JsonObject:
        """Give a room an alias."""
        await self._aliases.create(requester, path.parse(), parse_room_id(body.room_id))
        return {}

    @endpoint(
        "DELETE",
        _ALIAS_PATH,
        auth=Auth.USER,
        spec="client-server-api#delete_matrixclientv3directoryroomroomalias",
        tag="Room directory",
    )
    async def delete_alias(self, requester: Requester, path: AliasPath) -> JsonObject:
        """Remove an alias."""
        await self._aliases.delete(requester, path.parse())
        return {}

    @endpoint(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/aliases",
        auth=Auth.USER,
        limit="other",
        spec="client-server-api#get_matrixclientv3roomsroomidaliases",
        tag="Room directory",
    )
    async def get_room_aliases(self, requester: Requester, path: RoomPath) -> AliasesResponse:
        """A room's aliases on this server."""
        return AliasesResponse(await self._aliases.load_of_room(requester, parse_room_id(path.room_id)))
