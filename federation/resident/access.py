"""What another server may ask and see of a room: the door that every request about a room goes through.

A server is in a room while one of its users is. It sees of the history what one of its users could see, and the rest as
redacted events, so that it can go on with the graph. What is judged is the state before each event itself (and after it,
where the event changes what the server may see), not the order in which events came here: a fork gives nothing away.

Spec: server-server-api#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import define, evolve, field

from federation.inbound.acl import ServerAcls
from federation.resident.joined_servers import JoinedServers
from homeserver.folds.erased_users import ErasedUsers
from homeserver.folds.events import EventCache
from homeserver.matrix.errors import Forbidden, NotFound
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, domain_of
from homeserver.matrix.pdu import Pdu, redact_pdu
from homeserver.matrix.visibility import Sight, can_see, parse_visibility
from homeserver.rooms.head import HISTORY_VISIBILITY, MEMBER, RoomHead
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.partial_states import PartialStates
from homeserver.runtime.db import Database
from homeserver.store.events import StoredEvent
from homeserver.store.server_sight import ServerSight, load_server_sights

_NOBODY: Final = ServerSight(None, {})


@define(eq=False)
class ServerAccess:
    server_name: ServerName
    database: Database
    heads: RoomHeads
    events: EventCache
    acls: ServerAcls
    erased: ErasedUsers
    partial: PartialStates
    _joined: JoinedServers = field(init=False, factory=JoinedServers)

    # -- rooms ---------------------------------------------------------------------------------------------------------

    async def load_head(self, room_id: RoomId, origin: ServerName) -> RoomHead:
        """A room that this server is in, and whose ACL lets the other server ask.

        Raises: NotFound, Forbidden.

        Spec: server-server-api#server-access-control-lists-acls
        """
        head = self.heads.get(room_id) or await self.heads.load(room_id)
        if self.server_name not in self._joined.get(head):
            raise NotFound("This server is not in that room")
        await self.check_acl(head, origin)
        return head

    async def load_head_inside(self, room_id: RoomId, origin: ServerName) -> RoomHead:
        """As load_head, for a server that is in the room now. Raises: NotFound, Forbidden."""
        head = await self.load_head(room_id, origin)
        if not self.is_inside(head, origin):
            raise _not_in_room(origin)
        return head

    def check_whole(self, head: RoomHead) -> None:
        """Whether all of the room's state is here. Raises: NotFound, so that the other server asks another one."""
        if self.partial.get(head.room_id) is not None:
            raise NotFound("This server does not know all of that room yet")

    def is_inside(self, head: RoomHead, origin: ServerName) -> bool:
        """The server is in the room: as far as is known, where the members have not all come yet."""
        partial = self.partial.get(head.room_id)
        return origin in self._joined.get(head) or (partial is not None and origin in partial.servers)

    async def check_acl(self, head: RoomHead, origin: ServerName) -> None:
        """Raises: Forbidden."""
        if not await self.acls.is_allowed_by(head, origin):
            raise Forbidden(f"{origin} is shut out of this room by its server ACL")

    # -- events --------------------------------------------------------------------------------------------------------

    async def load_shown(self, head: RoomHead, events: Sequence[StoredEvent], origin: ServerName) -> list[Pdu]:
        """The events as the server may see them: those that are hidden from it in their redacted form."""
        sights = await self._load_sights(head, events, origin)
        inside = self.is_inside(head, origin)
        return [self._shown(event, sights, origin, inside) for event in events]

    async def load_event(self, head: RoomHead, event_id: EventId) -> StoredEvent:
        """An accepted event of the room. Raises: NotFound."""
        event = await self.events.load(event_id, head.room_id, head.version)
        if event is None or event.rejected is not None:
            raise NotFound("This server does not know that event")
        return event

    async def load_event_for(self, head: RoomHead, event_id: EventId, origin: ServerName) -> StoredEvent:
        """An accepted event, for a server that is in the room or was so when the event came.

        Raises: NotFound, Forbidden.
        """
        inside = self.is_inside(head, origin)
        try:
            event = await self.load_event(head, event_id)
        except NotFound:
            if inside:
                raise
            raise _not_in_room(origin) from None
        if inside:
            return event
        sights = await self._load_sights(head, [event], origin)
        before = _sight_before(event, sights)
        if "join" not in (before.closest, _after(event, before, origin).closest):
            raise _not_in_room(origin)
        return event

    async def _load_sights(
        self, head: RoomHead, events: Sequence[StoredEvent], origin: ServerName
    ) -> dict[int, ServerSight]:
        snapshots = {event.snapshot_before for event in events if event.snapshot_before is not None}
        if not snapshots:
            return {}
        return await self.database.read(load_server_sights, head.room_id, snapshots, origin)

    def _shown(self, event: StoredEvent, sights: dict[int, ServerSight], origin: ServerName, inside: bool) -> Pdu:
        if not _is_visible(event, sights, origin, inside):
            return redact_pdu(event.pdu)
        membership = _after(event, _sight_before(event, sights), origin).closest or "leave"
        return self.erased.shown(event, membership if event.snapshot_before is not None else None).pdu


def is_in_room(head: RoomHead, server: ServerName) -> bool:
    """A user of the server is joined."""
    return any(membership == "join" and domain_of(user_id) == server for user_id, membership in head.members.items())


def _not_in_room(server: ServerName) -> Forbidden:
    return Forbidden(f"{server} is not in that room")


def _is_visible(event: StoredEvent, sights: dict[int, ServerSight], origin: ServerName, inside: bool) -> bool:
    if domain_of(event.pdu.sender) == origin:
        return True
    if event.snapshot_before is None:
        # An outlier: what it was sent into is not known. State is what others must know to authorise events.
        return event.pdu.is_state and inside
    before = _sight_before(event, sights)
    after = _after(event, before, origin)
    own = event.pdu.type == MEMBER and after.memberships is not before.memberships
    changed = None if after is before else _as_sight(after)
    return can_see(_as_sight(before), changed, joined_later=inside, own_membership=own)


def _sight_before(event: StoredEvent, sights: dict[int, ServerSight]) -> ServerSight:
    return sights.get(event.snapshot_before, _NOBODY) if event.snapshot_before is not None else _NOBODY


def _after(event: StoredEvent, before: ServerSight, origin: ServerName) -> ServerSight:
    """The sight after the event: `before` itself unless the event concerns it."""
    pdu = event.pdu
    if pdu.state_key is None:
        return before
    if pdu.key == HISTORY_VISIBILITY:
        return evolve(before, visibility=pdu.content)
    if pdu.membership is not None and domain_of(pdu.state_key) == origin:
        return evolve(before, memberships={**before.memberships, UserId(pdu.state_key): pdu.membership})
    return before


def _as_sight(sight: ServerSight) -> Sight:
    return Sight(parse_visibility(sight.visibility), sight.closest)
