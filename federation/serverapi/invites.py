"""Being invited by other servers.

Spec: server-server-api#inviting-to-a-room
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from federation.authentication import ServerRequester
from federation.resident.invites import Invites
from federation.resident.third_party import ThirdPartyInvites
from homeserver.matrix.errors import InvalidParam, NotFound
from homeserver.matrix.ids import ServerName, domain_of, parse_event_id, parse_room_id, parse_user_id
from homeserver.runtime.http.endpoint import Auth, JsonObject, JsonValue, endpoint

TAG = "Federation: membership"
V1: Final = "/_matrix/federation/v1"
V2: Final = "/_matrix/federation/v2"
MAX_BODY_BYTES: Final = 1024 * 1024


class EventPath(msgspec.Struct, rename="camel", frozen=True):
    room_id: str
    event_id: str


class RoomPath(msgspec.Struct, rename="camel", frozen=True):
    room_id: str


class InviteBody(msgspec.Struct, frozen=True):
    event: JsonObject
    room_version: str
    invite_room_state: list[JsonValue] = []


class BoundBody(msgspec.Struct, frozen=True):
    medium: str
    address: str
    mxid: str
    invites: list[JsonValue]


class InviteEndpoints:
    def __init__(self, server_name: ServerName, invites: Invites, third_party: ThirdPartyInvites) -> None:
        self._server_name = server_name
        self._invites = invites
        self._third_party = third_party

    @endpoint(
        "PUT",
        f"{V2}/invite/{{roomId}}/{{eventId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#put_matrixfederationv2inviteroomideventid",
        max_body_bytes=MAX_BODY_BYTES,
    )
    async def put_invite(self, requester: ServerRequester, path: EventPath, body: InviteBody) -> JsonObject:
        """Sign an invite of a user of this server."""
        return await self._receive(requester, path, body.room_version, body.event, body.invite_room_state)

    @endpoint(
        "PUT",
        f"{V1}/invite/{{roomId}}/{{eventId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#put_matrixfederationv1inviteroomideventid",
        max_body_bytes=MAX_BODY_BYTES,
    )
    async def put_invite_v1(self, requester: ServerRequester, path: EventPath, body: JsonObject) -> JsonValue:
        """Sign an invite to a room of version 1 or 2, which are alike as far as an invite goes."""
        unsigned = body.get("unsigned")
        room_state = unsigned.get("invite_room_state") if isinstance(unsigned, dict) else None
        shown: list[Any] = room_state if isinstance(room_state, list) else []
        return [200, await self._receive(requester, path, "1", body, shown)]

    @endpoint(
        "PUT",
        f"{V1}/exchange_third_party_invite/{{roomId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#put_matrixfederationv1exchange_third_party_inviteroomid",
        max_body_bytes=MAX_BODY_BYTES,
    )
    async def put_exchange(self, requester: ServerRequester, path: RoomPath, body: JsonObject) -> JsonObject:
        """Make a third-party invite a real one."""
        await self._third_party.exchange(parse_room_id(path.room_id), body, requester.server_name)
        return {}

    @endpoint(
        "PUT",
        f"{V1}/3pid/onbind",
        auth=Auth.NONE,
        limit="server_keys",
        resource="federation",
        tag=TAG,
        spec="server-server-api#put_matrixfederationv13pidonbind",
        max_body_bytes=MAX_BODY_BYTES,
    )
    async def put_bound(self, body: BoundBody) -> JsonObject:
        """An identity server says that a user has bound an identifier for which invites wait."""
        user_id = parse_user_id(body.mxid, "mxid")
        if domain_of(user_id) != self._server_name:
            raise NotFound("That is no user of this server")
        await self._third_party.on_bound(body.invites, user_id)
        return {}

    async def _receive(
        self, requester: ServerRequester, path: EventPath, version: str, event: JsonObject, shown: list[Any]
    ) -> JsonObject:
        room_id, event_id = parse_room_id(path.room_id), parse_event_id(path.event_id)
        if len(version) > 32:
            raise InvalidParam("room_version", "too long")
        invite = await self._invites.receive(room_id, event_id, version, event, shown, requester.server_name)
        return {"event": invite.json}
