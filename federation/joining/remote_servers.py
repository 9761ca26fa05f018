"""RemoteServers of homeserver/rooms/ports.py: what rooms get from other servers, in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define

from federation.allowed import AllowedServers
from federation.joining.doors import Doors
from federation.joining.inviting import Inviting
from federation.joining.joining import Joining
from federation.joining.queries import Queries
from federation.joining.spaces import RemoteSpaces
from federation.joining.third_party import InviteExchange
from homeserver.matrix.ids import EventId, RoomAlias, RoomId, ServerName, UserId
from homeserver.rooms.ports import RemoteRoom, ResolvedAlias


@define(eq=False)
class FederatedServers:
    allowed: AllowedServers
    joining: Joining
    doors: Doors
    inviting: Inviting
    queries: Queries
    spaces: RemoteSpaces
    exchange: InviteExchange

    def check_allowed(self, server: ServerName, /) -> None:
        self.allowed.check(server)

    async def fetch_alias(self, alias: RoomAlias, /) -> ResolvedAlias:
        return await self.queries.fetch_alias(alias)

    async def fetch_public_rooms(self, server: ServerName, query: Mapping[str, Any], /) -> dict[str, Any]:
        return await self.queries.fetch_public_rooms(server, query)

    async def fetch_room(self, room_id: RoomId, via: Sequence[ServerName], /) -> RemoteRoom:
        return await self.spaces.fetch(room_id, via)

    async def join(
        self, room_id: RoomId, user_id: UserId, content: dict[str, Any], via: Sequence[ServerName], /
    ) -> EventId:
        return await self.joining.join(room_id, user_id, content, via)

    async def knock(
        self, room_id: RoomId, user_id: UserId, content: dict[str, Any], via: Sequence[ServerName], /
    ) -> EventId:
        return await self.doors.knock(room_id, user_id, content, via)

    async def leave(self, room_id: RoomId, user_id: UserId, content: dict[str, Any], /) -> EventId:
        return await self.doors.leave(room_id, user_id, content)

    async def invite(self, room_id: RoomId, sender: UserId, target: UserId, content: dict[str, Any], /) -> EventId:
        return await self.inviting.invite(room_id, sender, target, content)

    async def exchange_invite(
        self, room_id: RoomId, sender: UserId, user_id: UserId, signed: Mapping[str, Any], /
    ) -> None:
        await self.exchange.exchange(room_id, sender, user_id, signed)
