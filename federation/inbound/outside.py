"""What ends an invite or a knock, where this server is not in the room: a kick, a ban, the invite taken back.

Such an event comes in a transaction like any other. Nothing of the room can be judged here, so it counts only where a local user
waits before the room, and only against that invite or knock: it must name it among its auth events. Else a kick of old times,
sent again, would end a newer invite.

Spec: server-server-api#inviting-to-a-room
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final, Protocol

from attrs import define

from federation.inbound.arrivals import Arrivals
from federation.inbound.pdu_checks import PduChecks, Refusal
from homeserver.matrix.errors import MatrixError, NotFound
from homeserver.matrix.ids import RoomId, ServerName, UserId, domain_of, is_user_id
from homeserver.matrix.pdu import Pdu

MEMBER: Final = "m.room.member"
ENDS: Final = frozenset({"leave", "ban"})


class OutsideRooms(Protocol):
    """homeserver/rooms/outside_rooms.py"""

    def load_event(self, user_id: UserId, room_id: RoomId, /) -> Awaitable[Pdu]: ...

    def receive_end(self, event: Pdu, /) -> Awaitable[bool]: ...


@define(eq=False)
class OutsideEnds:
    """Events of rooms that this server is not in."""

    server_name: ServerName
    checks: PduChecks
    outside: OutsideRooms
    arrivals: Arrivals

    async def receive(self, room_id: RoomId, raw: object) -> Pdu | Refusal:
        """The event, if it ended an invite or a knock, now or when it came before."""
        refusal = Refusal(None, f"This server is not in {room_id}")
        user_id = self._target(raw)
        if user_id is None:
            return refusal
        try:
            known = await self.outside.load_event(user_id, room_id)
        except NotFound:
            return refusal
        try:
            event = await self.checks.check(raw, known.version, room_id=room_id)
        except MatrixError as error:
            return Refusal(None, error.error)
        if event.event_id == known.event_id:
            return event
        if known.event_id in event.auth_events and await self.outside.receive_end(event):
            return event
        return Refusal(event.event_id, refusal.error)

    def _target(self, raw: object) -> UserId | None:
        """The local user whose membership somebody else ends."""
        event: dict[Any, Any] = raw if isinstance(raw, dict) else {}
        content, target = event.get("content"), event.get("state_key")
        if event.get("type") != MEMBER or not isinstance(content, dict) or content.get("membership") not in ENDS:
            return None
        if not isinstance(target, str) or "\0" in target or not is_user_id(target):
            return None
        if domain_of(target) != self.server_name:
            return None
        return UserId(target) if event.get("sender") != target else None
