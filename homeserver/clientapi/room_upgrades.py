"""Upgrading rooms.

Spec: client-server-api#room-upgrades
"""

from __future__ import annotations

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.matrix.ids import RoomId, parse_room_id
from homeserver.rooms.upgrade import RoomUpgrades
from homeserver.runtime.http.endpoint import Auth, endpoint


class RoomPath(msgspec.Struct, frozen=True):
    room_id: str


class UpgradeBody(msgspec.Struct, frozen=True):
    new_version: str
    additional_creators: list[str] | None = None


class UpgradeResponse(msgspec.Struct, frozen=True):
    replacement_room: RoomId


class RoomUpgradeEndpoints:
    def __init__(self, upgrades: RoomUpgrades) -> None:
        self._upgrades = upgrades

    @endpoint(
        "POST",
        "/_matrix/client/v3/rooms/{room_id}/upgrade",
        auth=Auth.USER,
        limit="room_creation",
        spec="client-server-api#post_matrixclientv3roomsroomidupgrade",
        tag="Room upgrades",
    )
    async def post_upgrade(self, requester: Requester, path: RoomPath, body: UpgradeBody) -> UpgradeResponse:
        """Replace a room by one of another version."""
        room_id = parse_room_id(path.room_id)
        return UpgradeResponse(
            await self._upgrades.upgrade(requester, room_id, body.new_version, body.additional_creators or ())
        )
