"""Inviting people of whom only an address is known, by e-mail mostly.

An identity server says whose the address is: then that user is invited. Else it writes to the address, and a token in the room's
state waits for whoever proves to have it (federation/resident/third_party.py goes on from there). The address itself never
enters the room.

Spec: client-server-api#third-party-invites
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import define

from homeserver.accounts.requester import Requester
from homeserver.matrix.errors import Forbidden, NotFound
from homeserver.matrix.ids import RoomId, UserId
from homeserver.matrix.state_map import member_key
from homeserver.rooms.errors import IdentityServerNotTrusted
from homeserver.rooms.head import RoomHead
from homeserver.rooms.identity_servers import Address, AddressInUse, IdentityServers
from homeserver.rooms.membership import RoomMembership
from homeserver.rooms.writer import Draft, RoomWriter

THIRD_PARTY_INVITE: Final = "m.room.third_party_invite"

# What the letter may say of the room: the state's type, the field of its content, and what it is called there.
_TOLD: Final = (
    ("m.room.canonical_alias", "alias", "room_alias"),
    ("m.room.avatar", "url", "room_avatar_url"),
    ("m.room.join_rules", "join_rule", "room_join_rules"),
    ("m.room.name", "name", "room_name"),
    ("m.room.create", "type", "room_type"),
)
_TOLD_OF_SENDER: Final = (("displayname", "sender_display_name"), ("avatar_url", "sender_avatar_url"))


@define(eq=False)
class AddressInvites:
    """Invites by local users."""

    writer: RoomWriter
    membership: RoomMembership
    # Set when there is a way to ask them.
    identity: IdentityServers | None = None

    def check_allowed(self, address: Address) -> None:
        """Raises: IdentityServerNotTrusted."""
        self._identity_for(address)

    async def find_user(self, address: Address) -> UserId | None:
        """The user who has the address. Raises: as IdentityServers.find_user."""
        return await self._identity_for(address).find_user(address)

    async def invite(
        self, requester: Requester, room_id: RoomId, address: Address, given: Mapping[str, Any] | None = None
    ) -> None:
        """Invite whoever has the address, or will prove to; `given` as for RoomMembership.invite.

        Raises: Forbidden and its kinds, what identity servers make of it (identity_servers.py).
        """
        requester.check_not_suspended()
        await self._load_head(room_id, requester.user_id)  # before anybody is told anything
        user_id = await self.find_user(address)
        if user_id is None:
            user_id = await self.invite_unknown(requester, room_id, address)
        if user_id is not None:
            await self.membership.invite(requester, room_id, user_id, given or {})

    async def invite_unknown(self, requester: Requester, room_id: RoomId, address: Address) -> UserId | None:
        """Invite whoever will prove to have the address; the user, where it is somebody's by now, and nothing is done.

        Raises: as invite.
        """
        sender = requester.user_id
        head = await self._load_head(room_id, sender)
        try:
            stored = await self._identity_for(address).store_invite(address, await self._load_about(head, sender))
        except AddressInUse as error:
            return error.user_id
        await self.writer.write(room_id, lambda _: [Draft(THIRD_PARTY_INVITE, sender, stored.content, stored.token)])
        return None

    def _identity_for(self, address: Address) -> IdentityServers:
        if self.identity is None:
            raise IdentityServerNotTrusted(address.server)
        self.identity.check_allowed(address.server)
        return self.identity

    async def _load_head(self, room_id: RoomId, sender: UserId) -> RoomHead:
        """Raises: Forbidden for those who may not invite."""
        try:
            head = self.writer.heads.get(room_id) or await self.writer.heads.load(room_id)
        except NotFound:
            raise Forbidden("You are not in this room, or it does not exist") from None
        if not head.is_joined(sender):
            raise Forbidden("You are not in this room, or it does not exist")
        if head.power_levels.user(sender) < head.power_levels.invite:
            raise Forbidden("You may not invite people to this room")
        return head

    async def _load_about(self, head: RoomHead, sender: UserId) -> dict[str, str]:
        """What the identity server is told of the room and the inviter.

        Spec: identity-service-api#post_matrixidentityv2store-invite
        """
        keys = [*((type_, "") for type_, _, _ in _TOLD), member_key(sender)]
        ids = {key: event_id for key in keys if (event_id := head.state.get(key)) is not None}
        found = await self.writer.events.load_many(
            dict.fromkeys(ids.values(), head.room_id), {head.room_id: head.version}
        )
        content = {key: found[event_id].pdu.content for key, event_id in ids.items() if event_id in found}
        fields = [(content.get((type_, ""), {}).get(field), name) for type_, field, name in _TOLD]
        fields += [(content.get(member_key(sender), {}).get(field), name) for field, name in _TOLD_OF_SENDER]
        told = {name: value for value, name in fields if isinstance(value, str) and value}
        return {**told, "room_id": head.room_id, "sender": sender}
