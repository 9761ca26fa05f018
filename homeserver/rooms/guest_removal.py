"""Guests leave a room that closes to them.

Spec: client-server-api#guest-access
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from attrs import define

from homeserver.accounts.requester import Requester
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import RoomId, domain_of
from homeserver.rooms.errors import GuestsForbidden
from homeserver.rooms.head import RoomHead
from homeserver.rooms.membership import GUEST_ACCESS, RoomMembership
from homeserver.runtime.background import Background
from homeserver.runtime.db import Database
from homeserver.store.accounts import load_users
from homeserver.store.log import LogRow

logger = logging.getLogger(__name__)

_REASON = {"reason": "The room is closed to guests"}


@define(eq=False)
class GuestRemoval:
    """Follows the log. What the room says of guests is read from its state: the row that changes it may be that of another event,
    as when a join from afar brings the whole state, or a resolution puts another event in its place.
    """

    database: Database
    membership: RoomMembership
    background: Background

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        for row in rows:
            if any(delta.key == GUEST_ACCESS for delta in row.deltas):
                self.background.run(self._remove(RoomId(row.key)), f"The guests of {row.key} could not be removed")

    async def _remove(self, room_id: RoomId) -> None:
        try:
            head = await self.membership.writer.heads.load(room_id)
            if await self._admits_guests(head):
                return
            local = [user for user in head.joined_users() if domain_of(user) == self.membership.server_name]
            users = await self.database.read(load_users, local)
            for user_id in [user_id for user_id, user in users.items() if user.is_guest]:
                await self.membership.leave(Requester(user_id), room_id, _REASON)
        except MatrixError as error:
            logger.warning("The guests of %s could not be removed: %s", room_id, error.error)

    async def _admits_guests(self, head: RoomHead) -> bool:
        try:
            await self.membership.check_guest_access(head)
        except GuestsForbidden:
            return False
        return True
