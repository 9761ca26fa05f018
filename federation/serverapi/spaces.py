"""The rooms of spaces, for other servers.

Spec: server-server-api#spaces
"""

from __future__ import annotations

import msgspec

from federation.authentication import ServerRequester
from federation.resident.spaces import SpaceReader
from homeserver.matrix.ids import parse_room_id
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint


class RoomPath(msgspec.Struct, rename="camel", frozen=True):
    room_id: str


class HierarchyQuery(msgspec.Struct, frozen=True):
    suggested_only: bool = False


class HierarchyEndpoint:
    def __init__(self, spaces: SpaceReader) -> None:
        self._spaces = spaces

    @endpoint(
        "GET",
        "/_matrix/federation/v1/hierarchy/{roomId}",
        auth=Auth.SERVER,
        resource="federation",
        tag="Federation: spaces",
        spec="server-server-api#get_matrixfederationv1hierarchyroomid",
    )
    async def get_hierarchy(self, requester: ServerRequester, path: RoomPath, query: HierarchyQuery) -> JsonObject:
        """A space and the rooms in it."""
        room_id = parse_room_id(path.room_id)
        return await self._spaces.load(room_id, requester.server_name, suggested_only=query.suggested_only)
