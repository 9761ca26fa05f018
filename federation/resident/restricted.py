"""Restricted joins of other servers' users: whether a condition is met, and who of ours vouches for it.

Spec: server-server-api#restricted-rooms
"""

from __future__ import annotations

from attrs import define

from federation.resident.access import is_in_room
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.ids import ServerName, UserId, domain_of
from homeserver.rooms.errors import UnableToAuthoriseJoin
from homeserver.rooms.head import RoomHead
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.partial_states import PartialStates
from homeserver.rooms.restricted_joins import allowed_rooms, choose_authoriser, needs_authoriser


@define(eq=False)
class JoinConditions:
    server_name: ServerName
    heads: RoomHeads
    partial: PartialStates

    async def load_authoriser(self, head: RoomHead, user_id: UserId) -> UserId | None:
        """Our user who vouches for the join; None where the user needs nobody.

        Raises: Forbidden, UnableToAuthoriseJoin, UnableToGrantJoin.
        """
        if not needs_authoriser(head, user_id):
            return None
        if head.membership(user_id) == "ban":
            raise Forbidden(f"{user_id} is banned from this room")
        wanted = allowed_rooms(head)
        known = await self.heads.load_many(wanted)
        # Where nobody of ours is, what is known of the members may be old; where a join has left them out, not all are known.
        current = {room_id: room for room_id, room in known.items() if is_in_room(room, self.server_name)}
        joined = {room_id for room_id, room in current.items() if room.is_joined(user_id)}
        whole = [room_id for room_id in current if self.partial.get(room_id) is None]
        if not joined and len(whole) < len(wanted):
            raise UnableToAuthoriseJoin(
                "This server does not know the members of all of the rooms whose members may join"
            )
        return choose_authoriser(head, user_id, joined, self.server_name)

    async def check_vouched(self, head: RoomHead, user_id: UserId, authoriser: UserId) -> None:
        """Whether this server may sign that the user may join, on the word of `authoriser`.

        Raises: Forbidden, UnableToAuthoriseJoin, UnableToGrantJoin.
        """
        if domain_of(authoriser) != self.server_name:
            raise Forbidden(f"{authoriser} is no user of this server")
        levels = head.power_levels
        if not head.is_joined(authoriser) or levels.user(authoriser) < levels.invite:
            raise Forbidden(f"{authoriser} can't let anybody in")
        await self.load_authoriser(head, user_id)
