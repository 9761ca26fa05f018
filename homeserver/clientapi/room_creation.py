"""Creating rooms.

Spec: client-server-api#creation
"""

from __future__ import annotations

from typing import Literal

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.matrix.ids import RoomId, parse_user_id
from homeserver.matrix.state_map import StateKey
from homeserver.rooms.creation import NewRoomRequest, RoomCreation
from homeserver.rooms.identity_servers import parse_address
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint


class InitialState(msgspec.Struct, frozen=True):
    type: str
    content: JsonObject
    state_key: str = ""


class ThirdPartyInvite(msgspec.Struct, frozen=True):
    id_server: str
    id_access_token: str
    medium: str
    address: str


class CreateRoomBody(msgspec.Struct, frozen=True):
    visibility: Literal["public", "private"] | None = None
    room_alias_name: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: list[str] | None = None
    invite_3pid: list[ThirdPartyInvite] | None = None
    room_version: str | None = None
    creation_content: JsonObject | None = None
    initial_state: list[InitialState] | None = None
    preset: Literal["private_chat", "public_chat", "trusted_private_chat"] | None = None
    is_direct: bool | None = None
    power_level_content_override: JsonObject | None = None

    def to_request(self) -> NewRoomRequest:
        """Raises: InvalidParam."""
        initial: dict[StateKey, JsonObject] = {}
        for event in self.initial_state or ():
            initial.pop((event.type, event.state_key), None)  # of two with one key the later one counts, in its place
            initial[(event.type, event.state_key)] = event.content
        return NewRoomRequest(
            version=self.room_version,
            preset=self.preset,
            is_public=self.visibility == "public",
            alias_localpart=self.room_alias_name,
            name=self.name,
            topic=self.topic,
            invite=[parse_user_id(user_id, "invite") for user_id in self.invite or ()],
            invite_addresses=[
                parse_address(each.id_server, each.id_access_token, each.medium, each.address)
                for each in self.invite_3pid or ()
            ],
            is_direct=bool(self.is_direct),
            creation_content=self.creation_content or {},
            initial_state=initial,
            power_levels_override=self.power_level_content_override or {},
        )


class CreateRoomResponse(msgspec.Struct, frozen=True):
    room_id: RoomId


class RoomCreationEndpoints:
    def __init__(self, creation: RoomCreation) -> None:
        self._creation = creation

    @endpoint(
        "POST",
        "/_matrix/client/v3/createRoom",
        auth=Auth.USER,
        limit="room_creation",
        spec="client-server-api#post_matrixclientv3createroom",
        tag="Room creation",
    )
    async def post_create_room(self, requester: Requester, body: CreateRoomBody) -> CreateRoomResponse:
        """Create a room."""
        return CreateRoomResponse(await self._creation.create(requester, body.to_request()))
