"""Local users before the door of a room that this server is not in: knocking, taking a knock back, refusing an invite.

Spec: server-server-api#leaving-rooms-rejecting-invites
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from secrets import token_urlsafe
from typing import Any, Final

from attrs import define

from federation.joining.knock import DoorHandshake
from federation.joining.leaving import Leaving, may_help_later
from federation.joining.ports import OutsideRooms
from homeserver.folds.memberships import Memberships
from homeserver.matrix.build import build_pdu
from homeserver.matrix.errors import Forbidden, MatrixError, NotFound
from homeserver.matrix.hashing import encode_base64, reference_hash
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, domain_of
from homeserver.matrix.pdu import Pdu
from homeserver.runtime.coroutine import within
from homeserver.store.memberships import MembershipRow

logger = logging.getLogger(__name__)

# Who refuses an invite does not wait longer for a server that is down: the invite is gone for them anyway.
LEAVE_BUDGET_MS: Final = 5_000


@define(eq=False)
class Doors:
    handshake: DoorHandshake
    outside: OutsideRooms
    memberships: Memberships
    leaving: Leaving

    async def knock(
        self, room_id: RoomId, user_id: UserId, content: Mapping[str, Any], via: Sequence[ServerName]
    ) -> EventId:
        """See RemoteServers. Who knocks again is heard again: not every server tells of a knock that was refused."""
        known = (await self.memberships.load(user_id)).get(room_id)
        told = await self.outside.load_servers(user_id, room_id)
        servers = [*via, *([domain_of(known.sender)] if known is not None else ()), *told, domain_of(room_id)]
        knock = await self.handshake.knock(room_id, user_id, content, servers)
        await self.outside.store(knock.event, knock.room_state, [knock.server])
        return knock.event.event_id

    async def leave(self, room_id: RoomId, user_id: UserId, content: Mapping[str, Any]) -> EventId:
        """See RemoteServers. The user is out for this server even when no other one can be told now: then it is told later."""
        known = (await self.memberships.load(user_id)).get(room_id)
        if known is None:
            raise NotFound("You are not in this room, or it does not exist")
        if known.membership == "leave":
            return known.event_id
        if known.membership == "ban":
            raise Forbidden("You are banned from this room")
        server = domain_of(known.sender) if known.membership == "invite" else await self._door_of(known)
        try:
            sending = self.leaving.send(room_id, user_id, content, server)
            event = await within(self.handshake.templates.clock, LEAVE_BUDGET_MS, sending)
        except (MatrixError, TimeoutError) as error:
            logger.info("No server takes the leave of %s from %s: %s", user_id, room_id, error)
            event = await self._build_leave(known, content)
            await self.outside.store(event, (), ())
            if may_help_later(error):
                await self.leaving.send_later(event, server)
        else:
            await self.outside.store(event, (), ())
        return event.event_id

    async def _door_of(self, known: MembershipRow) -> ServerName:
        """The server that took the user's knock."""
        told = await self.outside.load_servers(known.user_id, known.room_id)
        return next(iter(told), domain_of(known.room_id))

    async def _build_leave(self, known: MembershipRow, content: Mapping[str, Any]) -> Pdu:
        """A leave that follows the invite or knock; it stays on this server."""
        templates = self.handshake.templates
        before = await self.outside.load_event(known.user_id, known.room_id)
        version = before.version
        server_name = templates.client.server_name
        hash_ = encode_base64(reference_hash(before.json, version))
        return build_pdu(
            version,
            type="m.room.member",
            sender=known.user_id,
            room_id=known.room_id,
            content=dict(content),
            state_key=known.user_id,
            prev_events=[before.event_id],
            auth_events=[before.event_id],
            depth=before.depth + 1,
            origin_server_ts=templates.clock.time_ms(),
            signing_key=templates.signing_key,
            server_name=server_name,
            event_id=EventId(f"${token_urlsafe(18)}:{server_name}") if version.event_id_on_wire else None,
            hashes_of=(lambda _: hash_) if version.references_carry_hashes else None,
        )
