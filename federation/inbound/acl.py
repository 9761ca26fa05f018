"""Server access control lists: which servers may take part in a room.

The verdict over a server is remembered for as long as the list is the same: a transaction asks for each of its events, and a
list may hold thousands of globs.

Spec: client-server-api#server-access-control-lists-acls-for-rooms
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from federation.bounded import Bounded
from homeserver.folds.events import EventCache
from homeserver.matrix.errors import Forbidden, NotFound
from homeserver.matrix.ids import EventId, RoomId, ServerName
from homeserver.matrix.server_acl import SERVER_ACL, ServerAcl, parse_server_acl
from homeserver.rooms.head import RoomHead
from homeserver.rooms.heads import RoomHeads

VERDICTS_KEPT: Final = 20_000
LISTS_KEPT: Final = 200


@define(eq=False)
class ServerAcls:
    """The lists of the rooms that this server is in."""

    heads: RoomHeads
    events: EventCache
    _verdicts: Bounded[tuple[EventId, ServerName], list[bool]] = field(
        init=False, factory=lambda: Bounded(VERDICTS_KEPT)
    )
    _lists: Bounded[EventId, ServerAcl] = field(init=False, factory=lambda: Bounded(LISTS_KEPT))

    async def check(self, room_id: RoomId, server: ServerName) -> None:
        """Whether the server may take part in the room; of unknown rooms everybody may.

        Raises: Forbidden.
        """
        if not await self.is_allowed(room_id, server):
            raise Forbidden("Server is banned from room")

    async def is_allowed(self, room_id: RoomId, server: ServerName) -> bool:
        try:
            head = self.heads.get(room_id) or await self.heads.load(room_id)
        except NotFound:
            return True
        return await self.is_allowed_by(head, server)

    async def is_allowed_by(self, head: RoomHead, server: ServerName) -> bool:
        """As the room's current state has it."""
        event_id = head.state.get(SERVER_ACL)
        if event_id is None:
            return True
        verdict = self._verdicts.get((event_id, server))
        if verdict is not None:
            return verdict[0]
        acl = self._lists.get(event_id) or await self._load(head, event_id)
        allowed = acl.allows(server)
        self._verdicts.put((event_id, server), [allowed])
        return allowed

    async def _load(self, head: RoomHead, event_id: EventId) -> ServerAcl:
        event = await self.events.load(event_id, head.room_id, head.version)
        acl = parse_server_acl(event.pdu.content if event is not None else {})
        self._lists.put(event_id, acl)
        return acl
