"""The directory of published rooms, for other servers.

Spec: server-server-api#published-room-directory
"""

from __future__ import annotations

import msgspec

from homeserver.matrix.errors import Forbidden
from homeserver.rooms.public_rooms import PublicRooms, Search
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

TAG = "Federation: room discovery"
PATH = "/_matrix/federation/v1/publicRooms"


class PublicRoomsQuery(msgspec.Struct, frozen=True):
    limit: int | None = None
    since: str | None = None
    include_all_networks: bool = False
    third_party_instance_id: str | None = None


class PublicRoomsFilter(msgspec.Struct, frozen=True):
    generic_search_term: str | None = None
    room_types: list[str | None] | None = None


class PublicRoomsBody(msgspec.Struct, frozen=True):
    limit: int | None = None
    since: str | None = None
    filter: PublicRoomsFilter | None = None
    include_all_networks: bool = False
    third_party_instance_id: str | None = None


class PublicRoomsEndpoints:
    def __init__(self, public_rooms: PublicRooms, *, enabled: bool) -> None:
        self._public_rooms = public_rooms
        self._enabled = enabled

    @endpoint(
        "GET",
        PATH,
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#get_matrixfederationv1publicrooms",
    )
    async def get_public_rooms(self, query: PublicRoomsQuery) -> JsonObject:
        """List published rooms."""
        network = None if query.include_all_networks else query.third_party_instance_id
        return await self._list(Search(network=network), query.limit, query.since)

    @endpoint(
        "POST",
        PATH,
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#post_matrixfederationv1publicrooms",
        cancellable=True,
    )
    async def post_public_rooms(self, body: PublicRoomsBody) -> JsonObject:
        """Search published rooms."""
        wanted = body.filter or PublicRoomsFilter()
        network = None if body.include_all_networks else body.third_party_instance_id
        search = Search(wanted.generic_search_term, wanted.room_types, network)
        return await self._list(search, body.limit, body.since)

    async def _list(self, search: Search, limit: int | None, since: str | None) -> JsonObject:
        if not self._enabled:
            raise Forbidden("This server does not show its published rooms to other servers")
        page = await self._public_rooms.load_page(search, limit, since)
        tokens = {"next_batch": page.next_batch, "prev_batch": page.prev_batch}
        return {
            "chunk": list(page.chunk),
            "total_room_count_estimate": page.total,
            **{name: token for name, token in tokens.items() if token is not None},
        }
