"""Making rooms.

All of a room's first events, invitations included, its alias and its place in the directory go into one transaction:
there is the whole room, or none.

Spec: client-server-api#creation
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from secrets import choice, token_urlsafe
from string import ascii_letters
from typing import Any, Final

from attrs import define, evolve, field, frozen
from sqlalchemy import Connection

from homeserver.accounts.requester import Requester
from homeserver.matrix.errors import AuthRejected, BadJson, InvalidParam, MatrixError
from homeserver.matrix.ids import RoomAlias, RoomId, UserId, is_user_id, parse_room_alias
from homeserver.matrix.state_map import StateKey
from homeserver.matrix.versions import RoomVersion, room_version
from homeserver.rooms.address_invites import AddressInvites
from homeserver.rooms.config import RoomsConfig
from homeserver.rooms.defaults import check_power_levels, default_power_levels, preset_state, topic_content
from homeserver.rooms.errors import BadAlias, InvalidRoomState, RoomInUse
from homeserver.rooms.head import MEMBER
from homeserver.rooms.identity_servers import Address
from homeserver.rooms.member_content import MemberContents
from homeserver.rooms.writer import Draft, RoomBusy, RoomWriter
from homeserver.runtime.coroutine import gather
from homeserver.store.aliases import AliasRow, load_alias, save_alias
from homeserver.store.log_writer import LostCompare

logger = logging.getLogger(__name__)

# Each invitation is a signed event of the one write that makes the room.
MAX_INVITES: Final = 200
# Each is three requests to an identity server.
MAX_ADDRESSES: Final = 20
MAX_INITIAL_STATE: Final = 500
CREATE_ATTEMPTS: Final = 3
NONCE: Final = "hearth.nonce"

_POWER_LEVELS: Final[StateKey] = ("m.room.power_levels", "")
_ALIAS: Final[StateKey] = ("m.room.canonical_alias", "")
_NAME: Final[StateKey] = ("m.room.name", "")
_TOPIC: Final[StateKey] = ("m.room.topic", "")
_ROOM_ID_LENGTH = 18

State = Mapping[StateKey, dict[str, Any]]


@frozen(kw_only=True)
class NewRoomRequest:
    """What POST /createRoom may say; None where it says nothing."""

    version: str | None = None
    preset: str | None = None
    is_public: bool = False
    alias_localpart: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: Sequence[UserId] = ()
    invite_addresses: Sequence[Address] = ()
    is_direct: bool = False
    creation_content: Mapping[str, Any] = field(factory=dict)
    initial_state: State = field(factory=dict)
    power_levels_override: Mapping[str, Any] = field(factory=dict)


@frozen
class _Plan:
    """The request, read for one room version."""

    version: RoomVersion
    creator: UserId
    preset: str
    invitees: Sequence[UserId]
    alias: RoomAlias | None
    request: NewRoomRequest

    @property
    def trusted(self) -> Sequence[UserId]:
        """The invitees who get the creator's power."""
        return self.invitees if self.preset == "trusted_private_chat" else ()


@define(eq=False)
class RoomCreation:
    """Makes rooms for local users."""

    config: RoomsConfig
    writer: RoomWriter
    contents: MemberContents
    addresses: AddressInvites
    # Awaited with the creator and the room where it replaces another (rooms/succession.py).
    after_join: Callable[[UserId, RoomId], Awaitable[None]] | None = None

    async def create(self, requester: Requester, request: NewRoomRequest) -> RoomId:
        """The new room.

        Raises: UnsupportedRoomVersion, RoomInUse, BadJson, InvalidParam, InvalidRoomState, Forbidden, InviteBlocked.

        Spec: client-server-api#post_matrixclientv3createroom
        """
        requester.check_not_suspended()
        self._read(requester.user_id, request)  # before anybody is asked
        request, unknown = await self._find_users(request)
        plan = self._read(requester.user_id, request)
        if plan.alias is not None:
            await self._check_free(plan.alias)
        await self.contents.check_invitable(requester.user_id, list(plan.invitees))
        drafts = await self._draft(plan)
        room_id = await self.write(plan.version, drafts, is_public=request.is_public, save=self._alias_saver(plan))
        for target in plan.invitees:  # the others are in the room's first write
            if not self.contents.is_local(target):
                await self._invite_remote(room_id, plan, target)
        for address in unknown:
            await self._invite_unknown(requester, room_id, plan, address)
        return room_id

    async def _find_users(self, request: NewRoomRequest) -> tuple[NewRoomRequest, list[Address]]:
        """The request with the users whose addresses it names among the invited, and the addresses that are nobody's."""
        if not request.invite_addresses:
            return request, []
        addresses = list(dict.fromkeys(request.invite_addresses))
        found = await gather(self.addresses.find_user(address) for address in addresses)
        users = [user_id for user_id in found if user_id is not None]
        unknown = [address for address, user_id in zip(addresses, found, strict=True) if user_id is None]
        return evolve(request, invite=[*request.invite, *users], invite_addresses=()), unknown

    async def _check_free(self, alias: RoomAlias) -> None:
        taken = await self.contents.database.read(load_alias, alias)
        if taken is not None:
            raise RoomInUse(f"Room alias {alias} is taken")

    async def write(
        self,
        version: RoomVersion,
        drafts: Sequence[Draft],
        *,
        is_public: bool,
        save: Callable[[RoomId, Connection, int], None] | None = None,
    ) -> RoomId:
        """Write the drafts as a room.

        Raises: InvalidRoomState where the authorisation rules refuse one of them, TooLarge, what `save` raises.
        """
        for _ in range(CREATE_ATTEMPTS):
            try:
                events = await self.writer.create(
                    version, self._new_room_id(version), drafts, is_public=is_public, save=save
                )
            except AuthRejected as error:
                raise InvalidRoomState(error.error) from None
            except LostCompare:
                # From version 12 on the create event's hash is the room id: a user who makes two like rooms within
                # a millisecond gets the same one twice. Something random makes the second another one.
                distinct = {**drafts[0].content, NONCE: token_urlsafe(12)}
                drafts = [evolve(drafts[0], content=distinct), *drafts[1:]]
            else:
                room_id = events[0].pdu.room_id
                if self.after_join is not None and "predecessor" in drafts[0].content:
                    await self.after_join(drafts[0].sender, room_id)
                return room_id
        raise RoomBusy("The room could not be made, try again")

    def _new_room_id(self, version: RoomVersion) -> RoomId | None:
        """A random id; None in versions whose room ids are made from the create event."""
        if version.room_id_is_create_hash:
            return None
        opaque = "".join(choice(ascii_letters) for _ in range(_ROOM_ID_LENGTH))
        return RoomId(f"!{opaque}:{self.writer.server_name}")

    def _alias_saver(self, plan: _Plan) -> Callable[[RoomId, Connection, int], None] | None:
        """What makes the alias together with the room."""
        alias = plan.alias
        if alias is None:
            return None

        def save(room_id: RoomId, conn: Connection, _position: int) -> None:
            now_ms = self.writer.clock.time_ms()
            if not save_alias(conn, AliasRow(alias, room_id, plan.creator, now_ms)):
                raise RoomInUse(f"Room alias {alias} is taken")

        return save

    def _read(self, creator: UserId, request: NewRoomRequest) -> _Plan:
        """Check what can be checked without waiting."""
        version = room_version(request.version or self.config.default_version)
        if len(request.invite_addresses) > MAX_ADDRESSES:
            raise InvalidParam("invite_3pid", f"more than {MAX_ADDRESSES} people")
        for address in request.invite_addresses:
            self.addresses.check_allowed(address)
        _check_creation_content(request.creation_content, version)
        check_power_levels(request.power_levels_override, version, "power_level_content_override")
        preset = request.preset or ("public_chat" if request.is_public else "private_chat")
        invitees = [user_id for user_id in dict.fromkeys(request.invite) if user_id != creator]
        if len(invitees) > MAX_INVITES:
            raise InvalidParam("invite", f"more than {MAX_INVITES} users")
        alias = self._read_alias(request.alias_localpart)
        _check_initial_state(request.initial_state, alias)
        return _Plan(version, creator, preset, invitees, alias, request)

    def _read_alias(self, localpart: str | None) -> RoomAlias | None:
        if localpart is None:
            return None
        if not localpart or any(character.isspace() for character in localpart) or ":" in localpart:
            raise InvalidParam("room_alias_name", "must be text without spaces and colons")
        return parse_room_alias(f"#{localpart}:{self.writer.server_name}", "room_alias_name")

    # -- the events --------------------------------------------------------------------------------------------------

    async def _draft(self, plan: _Plan) -> list[Draft]:
        """The room's first events, in the order that the specification demands."""
        request, creator = plan.request, plan.creator
        state = {
            _POWER_LEVELS: _power_levels(plan),
            **({_ALIAS: {"alias": plan.alias}} if plan.alias is not None else {}),
            **{key: content for key, content in preset_state(plan.preset).items() if key not in request.initial_state},
        }
        initial = {key: content for key, content in request.initial_state.items() if key != _POWER_LEVELS}
        for key, content in ((_NAME, _name(request)), (_TOPIC, _topic(request))):
            if content is not None:
                initial.pop(key, None)
                initial[key] = content
        create = creation_content(plan.version, creator, request.creation_content, plan.trusted)
        return [
            Draft("m.room.create", creator, create, ""),
            Draft(MEMBER, creator, await self.contents.load("join", creator, {}), creator),
            *(Draft(key[0], creator, content, key[1]) for key, content in state.items()),
            *(Draft(key[0], creator, content, key[1]) for key, content in initial.items()),
            *[await self._invitation(plan, target) for target in plan.invitees if self.contents.is_local(target)],
        ]

    async def _invitation(self, plan: _Plan, target: UserId) -> Draft:
        given = {"is_direct": True} if plan.request.is_direct else {}
        return Draft(MEMBER, plan.creator, await self.contents.load("invite", target, given), target)

    async def _invite_remote(self, room_id: RoomId, plan: _Plan, target: UserId) -> None:
        """The room is made: that an invitee's server is down is no reason to say that it is not."""
        draft = await self._invitation(plan, target)
        try:
            await self.contents.remote.invite(room_id, plan.creator, target, draft.content)
        except MatrixError as error:
            logger.info("%s could not be invited to the new room %s: %s", target, room_id, error)

    async def _invite_unknown(self, requester: Requester, room_id: RoomId, plan: _Plan, address: Address) -> None:
        """As _invite_remote, with the identity server in the place of the invitee's."""
        try:
            user_id = await self.addresses.invite_unknown(requester, room_id, address)
            if user_id is not None:  # since the look-up
                given = {"is_direct": True} if plan.request.is_direct else {}
                await self.addresses.membership.invite(requester, room_id, user_id, given)
        except MatrixError as error:
            logger.info("Somebody could not be invited to the new room %s by an address: %s", room_id, error)


def creation_content(
    version: RoomVersion, creator: UserId, given: Mapping[str, Any], trusted: Sequence[UserId] = ()
) -> dict[str, Any]:
    """The content of m.room.create: what the client gave, with what only the server says."""
    content = {key: value for key, value in given.items() if key not in ("creator", "room_version")}
    content["room_version"] = version.identifier
    if not version.creator_is_sender:
        content["creator"] = creator
    if version.additional_creators:
        named = dict.fromkeys([*content.pop("additional_creators", ()), *trusted])
        if others := [user_id for user_id in named if user_id != creator]:
            content["additional_creators"] = others
    return content


def _check_creation_content(content: Mapping[str, Any], version: RoomVersion) -> None:
    if not isinstance(content.get("m.federate", True), bool):
        raise BadJson("creation_content.m.federate: must be a boolean")
    if not isinstance(content.get("type", ""), str):
        raise BadJson("creation_content.type: must be a string")
    if version.additional_creators:
        check_additional_creators(content.get("additional_creators", []), "creation_content.additional_creators")


def check_additional_creators(value: object, field: str) -> None:
    """Raises: BadJson, InvalidParam."""
    if not isinstance(value, list):
        raise BadJson(f"{field}: must be a list")
    if not all(is_user_id(user_id) for user_id in value):
        raise InvalidParam(field, "must hold user IDs")


def _check_initial_state(state: State, alias: RoomAlias | None) -> None:
    if len(state) > MAX_INITIAL_STATE:
        raise InvalidParam("initial_state", f"more than {MAX_INITIAL_STATE} events")
    if any(event_type in ("m.room.create", MEMBER) for event_type, _ in state):
        raise InvalidParam("initial_state", "creation_content and invite are for these events")
    named = state.get(_ALIAS)
    if named is None:
        return
    alternatives = named.get("alt_aliases")
    others = alternatives if isinstance(alternatives, list) else []
    if any(other and other != alias for other in (named.get("alias"), *others)):
        raise BadAlias("initial_state: m.room.canonical_alias names an alias that is not of this room")


def _power_levels(plan: _Plan) -> dict[str, Any]:
    given = plan.request.initial_state.get(_POWER_LEVELS)
    default = default_power_levels(plan.version, plan.creator, plan.preset, plan.trusted)
    return {**(default if given is None else given), **plan.request.power_levels_override}


def _name(request: NewRoomRequest) -> dict[str, Any] | None:
    return {"name": request.name} if request.name is not None else None


def _topic(request: NewRoomRequest) -> dict[str, Any] | None:
    return topic_content(request.topic) if request.topic is not None else None
