"""The directory of published rooms.

Spec: client-server-api#published-room-directory
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.matrix.errors import MissingToken
from homeserver.matrix.ids import ServerName, parse_room_id, parse_server_name
from homeserver.rooms.config import RoomsConfig
from homeserver.rooms.directory import RoomDirectory
from homeserver.rooms.ports import RemoteServers
from homeserver.rooms.public_rooms import PublicRooms, Search
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

_TAG = "Room discovery"


class RoomPath(msgspec.Struct, frozen=True):
    room_id: str


class VisibilityBody(msgspec.Struct, frozen=True):
    visibility: Literal["public", "private"] = "public"


class VisibilityResponse(msgspec.Struct, frozen=True):
    visibility: Literal["public", "private"]


class ServerQuery(msgspec.Struct, frozen=True):
    server: str | None = None


class PublicRoomsQuery(msgspec.Struct, frozen=True):
    limit: int | None = None
    since: str | None = None
    server: str | None = None


class PublicRoomsFilter(msgspec.Struct, frozen=True, omit_defaults=True):
    generic_search_term: str | None = None
    room_types: list[str | None] | None = None


class PublicRoomsBody(msgspec.Struct, frozen=True, omit_defaults=True):
    limit: int | None = None
    since: str | None = None
    filter: PublicRoomsFilter | None = None
    include_all_networks: bool | None = None
    third_party_instance_id: str | None = None

    def to_search(self) -> Search:
        wanted = self.filter or PublicRoomsFilter()
        network = None if self.include_all_networks else self.third_party_instance_id
        return Search(wanted.generic_search_term, wanted.room_types, network)


class RoomDirectoryEndpoints:
    def __init__(
        self,
        config: RoomsConfig,
        server_name: ServerName,
        directory: RoomDirectory,
        public_rooms: PublicRooms,
        remote: RemoteServers,
    ) -> None:
        self._config = config
        self._server_name = server_name
        self._directory = directory
        self._public_rooms = public_rooms
        self._remote = remote

    @endpoint(
        "GET",
        "/_matrix/client/v3/directory/list/room/{room_id}",
        auth=Auth.NONE,
        spec="client-server-api#get_matrixclientv3directorylistroomroomid",
        tag=_TAG,
    )
    async def get_visibility(self, path: RoomPath) -> VisibilityResponse:
        """Whether a room is published."""
        is_public = await self._directory.load_is_public(parse_room_id(path.room_id))
        return VisibilityResponse("public" if is_public else "private")

    @endpoint(
        "PUT",
        "/_matrix/client/v3/directory/list/room/{room_id}",
        auth=Auth.USER,
        spec="client-server-api#put_matrixclientv3directorylistroomroomid",
        tag=_TAG,
        optional_body=True,
    )
    async def put_visibility(self, requester: Requester, path: RoomPath, body: VisibilityBody) -> JsonObject:
        """Publish a room, or withdraw it."""
        is_public = body.visibility == "public"
        await self._directory.set_is_public(requester, parse_room_id(path.room_id), is_public)
        return {}

    @endpoint(
        "GET",
        "/_matrix/client/v3/publicRooms",
        auth=Auth.OPTIONAL,
        limit="search",
        spec="client-server-api#get_matrixclientv3publicrooms",
        tag=_TAG,
    )
    async def get_public_rooms(self, requester: Requester | None, query: PublicRoomsQuery) -> JsonObject:
        """List published rooms."""
        if requester is None and self._config.directory_requires_auth:
            raise MissingToken
        body = PublicRoomsBody(limit=query.limit, since=query.since)
        return await self._list(query.server, body)

    @endpoint(
        "POST",
        "/_matrix/client/v3/publicRooms",
        auth=Auth.GUEST_OK,
        limit="search",
        spec="client-server-api#post_matrixclientv3publicrooms",
        tag=_TAG,
        optional_body=True,
    )
    async def post_public_rooms(self, requester: Requester, query: ServerQuery, body: PublicRoomsBody) -> JsonObject:
        """Search published rooms."""
        return await self._list(query.server, body)

    async def _list(self, server: str | None, body: PublicRoomsBody) -> JsonObject:
        if server and server != self._server_name:
            query: dict[str, Any] = msgspec.to_builtins(body)
            return await self._remote.fetch_public_rooms(parse_server_name(server), query)
        page = await self._public_rooms.load_page(body.to_search(), body.limit, body.since)
        answer: JsonObject = {"chunk": list(page.chunk), "total_room_count_estimate": page.total}
        if page.next_batch is not None:
            answer["next_batch"] = page.next_batch
        if page.prev_batch is not None:
            answer["prev_batch"] = page.prev_batch
        return answer
