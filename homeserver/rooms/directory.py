"""Publishing rooms in the server's directory.

Log rows made here: "directory" {is_public}, keyed by room id.

Spec: client-server-api#published-room-directory
"""

from __future__ import annotations

from attrs import define
from sqlalchemy import Connection

from homeserver.accounts.requester import Requester
from homeserver.matrix.errors import Forbidden, NotFound
from homeserver.matrix.ids import RoomId
from homeserver.rooms.aliases import may_set_canonical_alias
from homeserver.rooms.config import RoomsConfig
from homeserver.rooms.heads import RoomHeads
from homeserver.runtime.db import Database
from homeserver.store.log_writer import LogItem, LogWriter
from homeserver.store.public_rooms import load_is_public, save_is_public

DIRECTORY = "directory"


@define(eq=False)
class RoomDirectory:
    """Whether a room is published."""

    config: RoomsConfig
    database: Database
    heads: RoomHeads
    log: LogWriter

    async def load_is_public(self, room_id: RoomId) -> bool:
        """Raises: NotFound.

        Spec: client-server-api#get_matrixclientv3directorylistroomroomid
        """
        found = await self.database.read(load_is_public, room_id)
        if found is None:
            raise NotFound("Room not found")
        return found

    async def set_is_public(self, requester: Requester, room_id: RoomId, is_public: bool) -> None:
        """Raises: NotFound, Forbidden.

        Spec: client-server-api#put_matrixclientv3directorylistroomroomid
        """
        requester.check_not_suspended()
        head = await self.heads.load(room_id)
        allowed = requester.is_admin or not self.config.publish_requires_membership
        if not allowed and not may_set_canonical_alias(head, requester.user_id):
            raise Forbidden("Only members with the power to set the room's main alias may do this")
        if await self.load_is_public(room_id) == is_public:
            return

        def save(conn: Connection, _position: int) -> None:
            save_is_public(conn, room_id, is_public)

        await self.log.submit(LogItem(DIRECTORY, room_id, {"is_public": is_public}, save))
