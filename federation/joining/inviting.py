"""Invites from this server's users to users of others.

Spec: server-server-api#inviting-to-a-room
"""

from __future__ import annotations

from typing import Any, Final

from attrs import define

from federation.joining.invite import InviteHandshake
from federation.joining.ports import RoomIntake
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.state_map import member_key
from homeserver.rooms.head import MEMBER, RoomHead
from homeserver.rooms.writer import Draft, RoomWriter

# Spec: client-server-api#stripped-state
_SHOWN: Final = (
    "m.room.create",
    "m.room.join_rules",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.canonical_alias",
    "m.room.encryption",
)


@define(eq=False)
class Inviting:
    writer: RoomWriter
    handshake: InviteHandshake
    intake: RoomIntake

    async def invite(self, room_id: RoomId, sender: UserId, target: UserId, content: dict[str, Any]) -> EventId:
        """See RemoteServers.

        The room goes on while the other server is asked, so the invite is one more branch of its graph, and it counts if
        the room's state still allows it.
        """
        pdu = await self.writer.build(room_id, Draft(MEMBER, sender, content, target))
        head = await self.writer.heads.load(room_id)
        signed = await self.handshake.sign(pdu, await self._load_room_state(head, sender))
        await self.intake.receive(signed)
        head = await self.writer.heads.load(room_id)
        if head.state.get(member_key(target)) != signed.event_id and head.membership(target) != "join":
            raise Forbidden("The room changed, and the invite is not allowed any more")
        return signed.event_id

    async def _load_room_state(self, head: RoomHead, sender: UserId) -> list[Pdu]:
        """What the invited user is shown of the room."""
        keys = [*((type_, "") for type_ in _SHOWN), member_key(sender)]
        ids = [event_id for key in keys if (event_id := head.state.get(key)) is not None]
        found = await self.writer.events.load_many(dict.fromkeys(ids, head.room_id), {head.room_id: head.version})
        return [found[event_id].pdu for event_id in ids if event_id in found]
