"""Member events that other servers made of our templates, on their way into the room.

The event is the other server's: it is trusted in nothing. It must be what was asked for (shape.py), bear the signatures
that it needs, come after events that this server knows, and pass the authorisation rules of the room as it is now, before it
is stored at all: whoever is banned leaves no trace. Where the room has a policy server, it is asked last.

Spec: server-server-api#joining-rooms
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define

from federation.resident.access import ServerAccess
from federation.resident.ports import EventChecks, Relay, RoomIntake
from federation.resident.restricted import JoinConditions
from federation.resident.shape import check_signed, parse_member_event
from homeserver.folds.events import EventCache
from homeserver.matrix.auth_rules import check_auth
from homeserver.matrix.auth_types import auth_types_for
from homeserver.matrix.build import add_signature
from homeserver.matrix.errors import Forbidden, InvalidParam
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, domain_of, is_user_id
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.signing import SigningKey
from homeserver.matrix.state_map import CREATE
from homeserver.rooms.head import MEMBER, RoomHead
from homeserver.rooms.member_content import AUTHORISED_VIA
from homeserver.rooms.ports import EventReviewer
from homeserver.store.events import StoredEvent


@define(eq=False)
class MemberEvents:
    server_name: ServerName
    signing_key: SigningKey
    access: ServerAccess
    events: EventCache
    checks: EventChecks
    conditions: JoinConditions
    reviewer: EventReviewer
    intake: RoomIntake
    relay: Relay

    async def receive(
        self, room_id: RoomId, event_id: EventId, raw: Mapping[str, Any], origin: ServerName, membership: str
    ) -> tuple[RoomHead, StoredEvent]:
        """Take the event into the room, and have the other servers told. The head is that of before.

        Raises: NotFound, Forbidden, BadJson, InvalidParam, UnableToAuthoriseJoin, UnableToGrantJoin.
        """
        head = await self.access.load_head(room_id, origin)
        self.access.check_whole(head)
        pdu = parse_member_event(raw, head.version, room_id, event_id, membership)
        if pdu.state_key != pdu.sender:
            raise InvalidParam("state_key", "must be the sender")
        if domain_of(pdu.sender) != origin:
            raise InvalidParam("sender", f"must be a user of {origin}")
        pdu = await check_signed(self.checks, await self._sign_vouched(head, pdu))
        await self._check_references(head, pdu)
        await self._check_allowed(head, pdu)
        pdu = await self.reviewer.review(pdu)
        await self.intake.receive(pdu)
        stored = (await self._load(head, [pdu.event_id])).get(pdu.event_id)
        if stored is None or stored.soft_failed:
            raise Forbidden("The room does not take this event")
        await self.relay.relay(room_id, pdu.event_id, origin)
        return head, stored

    async def _sign_vouched(self, head: RoomHead, pdu: Pdu) -> Pdu:
        """With our signature too, where the join rests on the word of a user of ours.

        Spec: server-server-api#restricted-rooms
        """
        authoriser = pdu.content.get(AUTHORISED_VIA)
        if pdu.membership != "join" or not head.version.restricted_join or not isinstance(authoriser, str):
            return pdu
        if not is_user_id(authoriser) or domain_of(authoriser) != self.server_name:
            return pdu
        await self.conditions.check_vouched(head, pdu.sender, UserId(authoriser))
        return add_signature(pdu, self.signing_key, self.server_name)

    async def _check_references(self, head: RoomHead, pdu: Pdu) -> None:
        """Templates name events of ours; whoever names others has not used one. Raises: InvalidParam."""
        before = await self._load(head, pdu.prev_events)
        if not before or any(event_id not in before for event_id in pdu.prev_events):
            raise InvalidParam("prev_events", "must be events of the room that this server knows")
        if any(event.snapshot_before is None for event in before.values()):
            raise InvalidParam("prev_events", "must be events whose state this server knows")
        auth = await self._load(head, pdu.auth_events)
        if any(event_id not in auth for event_id in pdu.auth_events):
            raise InvalidParam("auth_events", "must be events of the room that this server knows")

    async def _check_allowed(self, head: RoomHead, pdu: Pdu) -> None:
        """By the room's current state. Raises: AuthRejected."""
        if head.state.get(pdu.key) == pdu.event_id:  # the same request again
            return
        keys = auth_types_for(pdu.version, MEMBER, pdu.sender, pdu.state_key, pdu.content)
        named = [head.state[key] for key in keys if key in head.state]
        found = await self._load(head, named)
        state = {event.pdu.key: event.pdu for event in found.values()}
        state.setdefault(CREATE, head.create)
        check_auth(pdu, state)

    async def _load(self, head: RoomHead, event_ids: Any) -> dict[EventId, StoredEvent]:
        """Those that are stored, of this room, and accepted."""
        found = await self.events.load_many(dict.fromkeys(event_ids, head.room_id), {head.room_id: head.version})
        return {
            event_id: event
            for event_id, event in found.items()
            if event.rejected is None and event.pdu.room_id == head.room_id
        }
