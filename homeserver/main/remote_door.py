"""RemoteServers for rooms, which are built before federation is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field

from homeserver.matrix.ids import EventId, RoomAlias, RoomId, ServerName, UserId
from homeserver.rooms.ports import NoFederation, RemoteRoom, RemoteServers, ResolvedAlias


@define(eq=False)
class RemoteDoor:
    """RemoteServers that passes everything on to `behind`, which federation puts there when it is built."""

    behind: RemoteServers = field(factory=NoFederation)

    def check_allowed(self, server: ServerName, /) -> None:
        self.behind.check_allowed(server)

    async def fetch_alias(self, alias: RoomAlias, /) -> ResolvedAlias:
        return await self.behind.fetch_alias(alias)

    async def fetch_public_rooms(self, server: ServerName, query: Mapping[str, Any], /) -> dict[str, Any]:
        return await self.behind.fetch_public_rooms(server, query)

    async def fetch_room(self, room_id: RoomId, via: Sequence[ServerName], /) -> RemoteRoom:
        return await self.behind.fetch_room(room_id, via)

    async def join(
        self, room_id: RoomId, user_id: UserId, content: dict[str, Any], via: Sequence[ServerName], /
    ) -> EventId:
        return await self.behind.join(room_id, user_id, content, via)

    async def knock(
        self, room_id: RoomId, user_id: UserId, content: dict[str, Any], via: Sequence[ServerName], /
    ) -> EventId:
        return await self.behind.knock(room_id, user_id, content, via)

    async def leave(self, room_id: RoomId, user_id: UserId, content: dict[str, Any], /) -> EventId:
        return await self.behind.leave(room_id, user_id, content)

    async def invite(self, room_id: RoomId, sender: UserId, target: UserId, content: dict[str, Any], /) -> EventId:
        return await self.behind.invite(room_id, sender, target, content)

    async def exchange_invite(
        self, room_id: RoomId, sender: UserId, user_id: UserId, signed: Mapping[str, Any], /
    ) -> None:
        await self.behind.exchange_invite(room_id, sender, user_id, signed)
