"""Third-party invites: somebody was invited by an e-mail address or the like, and has bound it to a user ID since.

The user's server hears of it first (`/3pid/onbind`) and asks the inviter's server for a real invite
(`/exchange_third_party_invite`), which only that one can sign. What proves the user's right to it is the identity server's
signature, with a key that stands in the room's state: the authorisation rules check it. That the key still holds is checked
here, before the invite is made.

Spec: server-server-api#third-party-invites
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import define, frozen

from federation.resident.access import ServerAccess
from federation.resident.ports import Inviter
from homeserver.matrix.auth_types import third_party_token
from homeserver.matrix.errors import Forbidden, InvalidParam, MatrixError
from homeserver.matrix.ids import RoomId, ServerName, UserId, domain_of, is_user_id, parse_room_id, parse_user_id
from homeserver.rooms.head import MEMBER, RoomHead
from homeserver.rooms.invite_keys import InviteKeys
from homeserver.rooms.writer import Draft, RoomWriter

logger = logging.getLogger(__name__)

THIRD_PARTY_INVITE: Final = "m.room.third_party_invite"
MAX_INVITES: Final = 20


@frozen
class BoundInvite:
    """A pending invite of a third-party identifier that was bound to `user_id`; `signed` is the identity server's."""

    room_id: RoomId
    sender: UserId
    user_id: UserId
    signed: Mapping[str, Any]

    @property
    def content(self) -> dict[str, Any]:
        return {"membership": "invite", "third_party_invite": {"display_name": "", "signed": dict(self.signed)}}


@define(eq=False)
class ThirdPartyInvites:
    server_name: ServerName
    access: ServerAccess
    writer: RoomWriter
    inviter: Inviter
    keys: InviteKeys

    async def exchange(self, room_id: RoomId, event: Mapping[str, Any], origin: ServerName) -> None:
        """Make the invite that another server's user has a right to.

        Raises: NotFound, Forbidden, InvalidParam, IdentityServerFault, and what the invited user's server answers.

        Spec: server-server-api#put_matrixfederationv1exchange_third_party_inviteroomid
        """
        head = await self.access.load_head(room_id, origin)
        target = parse_user_id(_text(event, "state_key"), "state_key")
        if domain_of(target) != origin:
            raise InvalidParam("state_key", f"must be a user of {origin}")
        if event.get("type") != MEMBER or event.get("room_id", room_id) != room_id:
            raise InvalidParam("type", f"must be {MEMBER}, in the room of the path")
        signed = _signed(event.get("content"))
        if signed.get("mxid") != target:
            raise InvalidParam("content.third_party_invite.signed.mxid", "must be the state key")
        sender = parse_user_id(_text(event, "sender"), "sender")
        await self._invite(head, BoundInvite(room_id, sender, target, signed))

    async def on_bound(self, invites: Sequence[Any], user_id: UserId) -> None:
        """Have a local user invited to the rooms that wait for them. What can't be had is passed over.

        Spec: server-server-api#put_matrixfederationv13pidonbind
        """
        for raw in invites[:MAX_INVITES]:
            try:
                await self._redeem(_parse_bound(raw, user_id))
            except MatrixError as error:
                logger.info("A third-party invite of %s comes to nothing: %s", user_id, error.error)

    async def _redeem(self, invite: BoundInvite) -> None:
        if domain_of(invite.sender) == self.server_name:
            head = await self.writer.heads.load(invite.room_id)
            await self._invite(head, invite)
            return
        await self.inviter.exchange_invite(invite.room_id, invite.sender, invite.user_id, invite.signed)

    async def _invite(self, head: RoomHead, invite: BoundInvite) -> None:
        """Raises: Forbidden, NotFound, IdentityServerFault."""
        token = third_party_token(invite.content) or ""
        event_id = head.state.get((THIRD_PARTY_INVITE, token))
        event = await self.writer.events.load(event_id, head.room_id, head.version) if event_id else None
        if event is None:
            raise Forbidden("The room has no third-party invite with this token")
        sender = event.pdu.sender
        if sender != invite.sender or domain_of(sender) != self.server_name:
            raise Forbidden("The third-party invite is not of a user of this server")
        if head.membership(invite.user_id) in ("join", "invite"):
            return
        await self.keys.check(invite.signed, event.pdu.content)
        name = event.pdu.content.get("display_name")
        content = invite.content
        content["third_party_invite"]["display_name"] = name if isinstance(name, str) else ""
        if domain_of(invite.user_id) != self.server_name:
            await self.inviter.invite(head.room_id, sender, invite.user_id, content)
            return
        draft = Draft(MEMBER, sender, content, invite.user_id)
        await self.writer.write(head.room_id, lambda _: [draft])


def _parse_bound(raw: object, user_id: UserId) -> BoundInvite:
    """Raises: InvalidParam."""
    if not isinstance(raw, dict) or raw.get("mxid") != user_id:
        raise InvalidParam("invites", "must be invites of the user")
    signed = raw.get("signed")
    if not isinstance(signed, dict) or signed.get("mxid") != user_id:
        raise InvalidParam("invites.signed", "must be signed for the user")
    return BoundInvite(
        parse_room_id(_text(raw, "room_id")), parse_user_id(_text(raw, "sender"), "sender"), user_id, signed
    )


def _signed(content: object) -> Mapping[str, Any]:
    """Raises: InvalidParam."""
    invite = content.get("third_party_invite") if isinstance(content, dict) else None
    signed = invite.get("signed") if isinstance(invite, dict) else None
    if not isinstance(content, dict) or content.get("membership") != "invite" or not isinstance(signed, dict):
        raise InvalidParam("content", "must be an invite with third_party_invite.signed")
    if not isinstance(signed.get("token"), str) or not is_user_id(signed.get("mxid")):
        raise InvalidParam("content.third_party_invite.signed", "must have token and mxid")
    return signed


def _text(json: Mapping[str, Any], field: str) -> str:
    value = json.get(field)
    if not isinstance(value, str):
        raise InvalidParam(field, "must be a string")
    return value
