"""Room membership: joining, inviting, knocking, leaving, forgetting, kicking, banning.

Spec: client-server-api#room-membership
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.folds.memberships import Memberships
from homeserver.matrix.errors import MissingParam
from homeserver.matrix.ids import RoomId, ServerName, UserId, parse_room_id, parse_server_name, parse_user_id
from homeserver.rooms.address_invites import AddressInvites
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.identity_servers import Address, parse_address
from homeserver.rooms.membership import RoomMembership
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

_TAG = "Room membership"


class RoomPath(msgspec.Struct, frozen=True):
    room_id: str

    def parse(self) -> RoomId:
        return parse_room_id(self.room_id)


class RoomOrAliasPath(msgspec.Struct, frozen=True):
    room_id_or_alias: str


class ViaQuery(msgspec.Struct, frozen=True):
    """server_name is what `via` was called before v1.12."""

    via: list[str] = []
    server_name: list[str] = []

    def parse(self) -> Sequence[ServerName]:
        return [parse_server_name(name) for name in dict.fromkeys([*self.via, *self.server_name])]


class ReasonBody(msgspec.Struct, frozen=True):
    reason: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        return {"reason": self.reason} if self.reason is not None else {}


class UserBody(msgspec.Struct, frozen=True):
    user_id: str
    reason: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        return {"reason": self.reason} if self.reason is not None else {}


class ThirdPartySigned(msgspec.Struct, frozen=True):
    sender: str
    mxid: str
    token: str
    signatures: dict[str, dict[str, str]]


class JoinBody(msgspec.Struct, frozen=True):
    reason: str | None = None
    third_party_signed: ThirdPartySigned | None = None

    @property
    def given(self) -> dict[str, Any]:
        return {"reason": self.reason} if self.reason is not None else {}

    @property
    def signed(self) -> dict[str, Any] | None:
        return msgspec.to_builtins(self.third_party_signed) if self.third_party_signed is not None else None


class InviteBody(msgspec.Struct, frozen=True):
    """A user, or somebody known by an address only."""

    user_id: str | None = None
    reason: str | None = None
    id_server: str | None = None
    id_access_token: str | None = None
    medium: str | None = None
    address: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        return {"reason": self.reason} if self.reason is not None else {}

    def parse(self) -> UserId | Address:
        """Whom to invite. Raises: MissingParam, InvalidParam."""
        if self.user_id is not None:
            return parse_user_id(self.user_id)
        if all(value is None for value in (self.id_server, self.id_access_token, self.medium, self.address)):
            raise MissingParam("user_id")
        server, token = _required(self.id_server, "id_server"), _required(self.id_access_token, "id_access_token")
        return parse_address(server, token, _required(self.medium, "medium"), _required(self.address, "address"))


def _required(value: str | None, name: str) -> str:
    if value is None:
        raise MissingParam(name)
    return value


class JoinedRoomsResponse(msgspec.Struct, frozen=True):
    joined_rooms: list[RoomId]


class RoomIdResponse(msgspec.Struct, frozen=True):
    room_id: RoomId


class RoomMembershipEndpoints:
    def __init__(
        self, membership: RoomMembership, addresses: AddressInvites, aliases: Aliases, memberships: Memberships
    ) -> None:
        self._membership = membership
        self._addresses = addresses
        self._aliases = aliases
        self._memberships = memberships

    @endpoint(
        "GET",
        "/_matrix/client/v3/joined_rooms",
        auth=Auth.GUEST_OK,
        spec="client-server-api#get_matrixclientv3joined_rooms",
        tag=_TAG,
    )
    async def get_joined_rooms(self, requester: Requester) -> JoinedRoomsResponse:
        """The rooms that the requester is in."""
        rooms = await self._memberships.load(requester.user_id)
        return JoinedRoomsResponse([room_id for room_id, row in rooms.items() if row.membership == "join"])

    @endpoint(
        "POST",
        "/_matrix/client/v3/rooms/{room_id}/invite",
        auth=Auth.USER,
        limit="invite",
        spec="client-server-api#post_matrixclientv3roomsroomidinvite",
        tag=_TAG,
    )
    async def post_invite(self, requester: Requester, path: RoomPath, body: InviteBody) -> JsonObject:
        """Invite a user, or somebody by an address of theirs."""
        room_id, target = path.parse(), body.parse()
        if isinstance(target, Address):
            await self._addresses.invite(requester, room_id, target, body.given)
        else:
            await self._membership.invite(requester, room_id, target, body.given)
        return {}

    @endpoint(
        "POST",
        "/_matrix/client/v3/join/{room_id_or_alias}",
        auth=Auth.GUEST_OK,
        limit="join",
        spec="client-server-api#post_matrixclientv3joinroomidoralias",
        tag=_TAG,
        optional_body=True,
    )
    async def post_join_by_alias(
        self, requester: Requester, path: RoomOrAliasPath, query: ViaQuery, body: JoinBody
    ) -> RoomIdResponse:
        """Join a room that is named by its id or an alias."""
        room_id, via = await self._aliases.resolve_room(path.room_id_or_alias, query.parse())
        await self._membership.join(requester, room_id, via=via, given=body.given, third_party_signed=body.signed)
        return RoomIdResponse(room_id)

    @endpoint(
        "POST",
        "/_matrix/client/v3/rooms/{room_id}/join",
        auth=Auth.GUEST_OK,
        limit="join",
        spec="client-server-api#post_matrixclientv3roomsroomidjoin",
        tag=_TAG,
        optional_body=True,
    )
    async def post_join(self, requester: Requester, path: RoomPath, body: JoinBody) -> RoomIdResponse:
        """Join a room."""
        room_id = path.parse()
        await self._membership.join(requester, room_id, given=body.given, third_party_signed=body.signed)
        return RoomIdResponse(room_id)

    @endpoint(
        "POST",
        "/_matrix/client/v3/knock/{room_id_or_alias}",
        auth=Auth.USER,
        limit="join",
        spec="client-server-api#post_matrixclientv3knockroomidoralias",
        tag=_TAG,
        optional_body=True,
    )
    async def post_knock(
        self, requester: Requester, path: RoomOrAliasPath, query: ViaQuery, body: ReasonBody
    ) -> RoomIdResponse:
        """Ask to be let into a room."""
        room_id, via = await self._aliases.resolve_room(path.room_id_or_alias, query.parse())
        await self._membership.knock(requester, room_id, via=via, given=body.given)
        return RoomIdResponse(room_id)

    @endpoint(
        "POST",
        "/_matrix/client/v3/rooms/{room_id}/leave",
        auth=Auth.GUEST_OK,
        limit="other",
        spec="client-server-api#post_matrixclientv3roomsroomidleave",
        tag=_TAG,
        optional_body=True,
    )
    async def post_leave(self, requester: Requester, path: RoomPath, body: ReasonBody) -> JsonObject:
        """Leave a room, refuse an invite, or take back a knock."""
        await self._membership.leave(requester, path.parse(), body.given)
        return {}

    @endpoint(
        "POST",
        "/_matrix/client/v3/rooms/{room_id}/forget",
        auth=Auth.USER,
        limit="other",
        spec="client-server-api#post_matrixclientv3roomsroomidforget",
        tag=_TAG,
        optional_body=True,
    )
    async def post_forget(self, requester: Requester, path: RoomPath) -> JsonObject:
        """Forget a room that was left."""
        await self._membership.forget(requester, path.parse())
        return {}

    @endpoint(
        "POST",
        "/_matrix/client/v3/rooms/{room_id}/kick",
        auth=Auth.USER,
        spec="client-server-api#post_matrixclientv3roomsroomidkick",
        tag=_TAG,
    )
    async def post_kick(self, requester: Requester, path: RoomPath, body: UserBody) -> JsonObject:
        """Make a user leave."""
        await self._membership.kick(requester, path.parse(), parse_user_id(body.user_id), body.given)
        return {}

    @endpoint(
        "POST",
        "/_matrix/client/v3/rooms/{room_id}/ban",
        auth=Auth.USER,
        spec="client-server-api#post_matrixclientv3roomsroomidban",
        tag=_TAG,
    )
    async def post_ban(self, requester: Requester, path: RoomPath, body: UserBody) -> JsonObject:
        """Ban a user."""
        await self._membership.ban(requester, path.parse(), parse_user_id(body.user_id), body.given)
        return {}

    @endpoint(
        "POST",
        "/_matrix/client/v3/rooms/{room_id}/unban",
        auth=Auth.USER,
        spec="client-server-api#post_matrixclientv3roomsroomidunban",
        tag=_TAG,
    )
    async def post_unban(self, requester: Requester, path: RoomPath, body: UserBody) -> JsonObject:
        """Lift a ban."""
        await self._membership.unban(requester, path.parse(), parse_user_id(body.user_id), body.given)
        return {}
