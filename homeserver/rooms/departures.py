"""Taking a user out of everything, when the account is deactivated."""

from __future__ import annotations

import logging

from attrs import define

from homeserver.accounts.requester import Requester
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import UserId
from homeserver.rooms.membership import RoomMembership

logger = logging.getLogger(__name__)


@define(eq=False)
class RoomDepartures:
    """Implements accounts' RoomDeparture."""

    membership: RoomMembership

    async def leave_all_rooms(self, user_id: UserId, /) -> None:
        """Leave every room, refuse every invite, take back every knock. A room that can't be left is logged."""
        rooms = await self.membership.memberships.load(user_id)
        for room_id, row in rooms.items():
            if row.membership not in ("join", "invite", "knock"):
                continue
            try:
                await self.membership.leave(Requester(user_id), room_id)
            except MatrixError as error:
                logger.warning("%s can't leave %s: %s", user_id, room_id, error)
