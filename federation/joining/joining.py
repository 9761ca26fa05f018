"""How local users get into rooms of other servers, and out again.

Joins of one room go one after another: the first brings the room here, the next are events in it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import define, field

from federation.errors import BadAnswer
from federation.joining.join import JoinHandshake
from federation.joining.locks import RoomLocks
from federation.joining.ports import GapFiller, RoomIntake
from homeserver.folds.memberships import Memberships
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, domain_of
from homeserver.matrix.state_map import member_key
from homeserver.rooms.head import RoomHead
from homeserver.rooms.heads import RoomHeads

logger = logging.getLogger(__name__)

MAX_KNOWN_SERVERS: Final = 10


@define(eq=False)
class Joining:
    """Joins through resident servers."""

    server_name: ServerName
    handshake: JoinHandshake
    intake: RoomIntake
    receiver: GapFiller
    heads: RoomHeads
    memberships: Memberships
    _locks: RoomLocks = field(init=False, factory=RoomLocks)

    async def join(
        self, room_id: RoomId, user_id: UserId, content: Mapping[str, Any], via: Sequence[ServerName]
    ) -> EventId:
        """See RemoteServers."""
        async with self._locks.hold(room_id):
            head = (await self.heads.load_many([room_id])).get(room_id)
            if head is not None and head.is_joined(user_id):
                return head.state[member_key(user_id)]
            servers = [*via, *await self._load_servers(room_id, user_id, head)]
            if head is not None and self.server_name in head.joined_servers():
                return await self._join_more(room_id, user_id, content, servers)
            joined = await self.handshake.join(room_id, user_id, content, servers)
            await self.intake.start_room(
                joined.event.version,
                joined.event,
                joined.state,
                joined.auth_chain,
                partial_from=joined.partial_from,
            )
            return joined.event.event_id

    async def _join_more(
        self, room_id: RoomId, user_id: UserId, content: Mapping[str, Any], servers: Sequence[ServerName]
    ) -> EventId:
        """Another user joins a room in which this server is: where it lacks the power, or the state, to judge by itself."""
        joined = await self.handshake.join(room_id, user_id, content, servers)
        event = joined.event
        await self.receiver.receive(event, joined.server)
        head = await self.heads.load(room_id)
        if head.state.get(member_key(user_id)) != event.event_id:
            raise BadAnswer(joined.server, "it let somebody in whom the room does not")
        return event.event_id

    async def _load_servers(self, room_id: RoomId, user_id: UserId, head: RoomHead | None) -> list[ServerName]:
        """Whom to ask beside those that the user names: the inviter's server, and those that are or were in the room."""
        known = (await self.memberships.load(user_id)).get(room_id)
        inviter = [domain_of(known.sender)] if known is not None else []
        residents = head.joined_servers() - {self.server_name} if head is not None else ()
        return [*inviter, domain_of(room_id), *sorted(residents)[:MAX_KNOWN_SERVERS]]
