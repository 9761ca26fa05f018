"""Knocking on a room, and leaving one that no user of this server is in: refusing an invite, taking back a knock.

Spec: server-server-api#knocking-rooms
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import define, frozen

from federation.client import V1, V2, FederationClient, quote_path
from federation.errors import RemoteRefused
from federation.joining.residents import Residents, is_unknown_endpoint
from federation.joining.templates import Templates
from homeserver.matrix.ids import RoomId, ServerName, UserId
from homeserver.matrix.pdu import Pdu

SEND_TIMEOUT_MS: Final = 60_000
MAX_ANSWER_BYTES: Final = 2 * 1024 * 1024
MAX_STRIPPED: Final = 100


@frozen
class Knock:
    """A knock that a server accepted, and what it tells of the room (stripped state, or whole events). `server` took it."""

    event: Pdu
    room_state: Sequence[dict[str, Any]]
    server: ServerName


@define(eq=False)
class DoorHandshake:
    """make_knock and send_knock, make_leave and send_leave."""

    client: FederationClient
    residents: Residents
    templates: Templates

    async def knock(
        self, room_id: RoomId, user_id: UserId, content: Mapping[str, Any], servers: Sequence[ServerName]
    ) -> Knock:
        """Raises: as JoinHandshake.join."""

        async def ask(server: ServerName) -> Knock:
            event = await self.templates.fetch_event(server, room_id, user_id, "knock", content)
            answer = await self._put(server, quote_path(f"{V1}/send_knock", room_id, event.event_id), event)
            state = answer.get("knock_room_state") if isinstance(answer, dict) else None
            listed = state[:MAX_STRIPPED] if isinstance(state, list) else []
            return Knock(event, [each for each in listed if isinstance(each, dict)], server)

        return await self.residents.ask(servers, ask)

    async def leave(
        self, room_id: RoomId, user_id: UserId, content: Mapping[str, Any], servers: Sequence[ServerName]
    ) -> Pdu:
        """The leave event that a server accepted. Raises: as JoinHandshake.join.

        Spec: server-server-api#leaving-rooms-rejecting-invites
        """

        async def ask(server: ServerName) -> Pdu:
            event = await self.templates.fetch_event(server, room_id, user_id, "leave", content)
            await self._send_leave(server, event)
            return event

        return await self.residents.ask(servers, ask)

    async def _send_leave(self, server: ServerName, event: Pdu) -> None:
        try:
            await self._put(server, quote_path(f"{V2}/send_leave", event.room_id, event.event_id), event)
        except RemoteRefused as error:
            if not is_unknown_endpoint(error):
                raise
            await self._put(server, quote_path(f"{V1}/send_leave", event.room_id, event.event_id), event)

    async def _put(self, server: ServerName, path: str, event: Pdu) -> Any:
        return await self.client.put(
            server, path, event.json, timeout_ms=SEND_TIMEOUT_MS, max_bytes=MAX_ANSWER_BYTES, patient=True
        )
