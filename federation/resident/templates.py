"""Templates of member events: what another server signs, and sends back, so that its user joins, leaves or knocks.

A template is a whole event of ours with the proofs taken off: it is authorised as any event is, so that whoever may not do it
hears so now and not after the handshake.

Spec: server-server-api#joining-rooms
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from attrs import define

from federation.resident.access import ServerAccess
from federation.resident.errors import IncompatibleRoomVersion
from federation.resident.restricted import JoinConditions
from homeserver.folds.events import EventCache
from homeserver.matrix.auth_rules import check_auth
from homeserver.matrix.auth_types import auth_types_for
from homeserver.matrix.build import build_pdu
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.hashing import encode_base64, reference_hash
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, domain_of
from homeserver.matrix.signing import SigningKey
from homeserver.matrix.state_map import CREATE
from homeserver.rooms.head import MAX_PREV_EVENTS, MEMBER, RoomHead
from homeserver.rooms.member_content import AUTHORISED_VIA
from homeserver.runtime.clock import Clock
from homeserver.store.events import StoredEvent

_PROOFS = ("event_id", "hashes", "signatures")


@define(eq=False)
class MemberTemplates:
    server_name: ServerName
    signing_key: SigningKey
    clock: Clock
    access: ServerAccess
    events: EventCache
    conditions: JoinConditions

    async def load_join(
        self, room_id: RoomId, user_id: UserId, origin: ServerName, versions: Collection[str]
    ) -> dict[str, Any]:
        """Raises: NotFound, Forbidden, IncompatibleRoomVersion, UnableToAuthoriseJoin, UnableToGrantJoin.

        Spec: server-server-api#get_matrixfederationv1make_joinroomiduserid
        """
        check_origin(user_id, origin)
        head = await self.access.load_head(room_id, origin)
        self.access.check_whole(head)
        check_version(head, versions)
        content = {"membership": "join"}
        authoriser = await self.conditions.load_authoriser(head, user_id)
        if authoriser is not None:
            content[AUTHORISED_VIA] = authoriser
        return await self._build(head, user_id, content)

    async def load_leave(self, room_id: RoomId, user_id: UserId, origin: ServerName) -> dict[str, Any]:
        """Raises: NotFound, Forbidden.

        Spec: server-server-api#get_matrixfederationv1make_leaveroomiduserid
        """
        check_origin(user_id, origin)
        head = await self.access.load_head(room_id, origin)
        self.access.check_whole(head)
        return await self._build(head, user_id, {"membership": "leave"})

    async def load_knock(
        self, room_id: RoomId, user_id: UserId, origin: ServerName, versions: Collection[str]
    ) -> dict[str, Any]:
        """Raises: NotFound, Forbidden, IncompatibleRoomVersion.

        Spec: server-server-api#get_matrixfederationv1make_knockroomiduserid
        """
        check_origin(user_id, origin)
        head = await self.access.load_head(room_id, origin)
        self.access.check_whole(head)
        check_version(head, versions)
        if not head.version.knock:
            raise Forbidden("Nobody can knock here: the room's version does not know knocking")
        return await self._build(head, user_id, {"membership": "knock"})

    async def _build(self, head: RoomHead, user_id: UserId, content: dict[str, Any]) -> dict[str, Any]:
        """The answer. Raises: AuthRejected."""
        version = head.version
        keys = auth_types_for(version, MEMBER, user_id, user_id, content)
        prev_events = head.extremities[:MAX_PREV_EVENTS]
        named = {key: head.state[key] for key in keys if key in head.state}
        known = await self._load(head, {*named.values(), *prev_events})
        auth_events = {key: known[event_id] for key, event_id in named.items()}
        pdu = build_pdu(
            version,
            type=MEMBER,
            sender=user_id,
            room_id=head.room_id,
            content=content,
            state_key=user_id,
            prev_events=prev_events,
            auth_events=[event.event_id for event in auth_events.values()],
            depth=head.next_depth(),
            origin_server_ts=self.clock.time_ms(),
            signing_key=self.signing_key,
            server_name=self.server_name,
            event_id=EventId(f"$template:{self.server_name}") if version.event_id_on_wire else None,
            hashes_of=_hashes(known) if version.references_carry_hashes else None,
        )
        state = {key: event.pdu for key, event in auth_events.items()}
        state.setdefault(CREATE, head.create)
        check_auth(pdu, state)
        event = {key: value for key, value in pdu.json.items() if key not in _PROOFS}
        return {"room_version": version.identifier, "event": {**event, "origin": self.server_name}}

    async def _load(self, head: RoomHead, event_ids: Collection[EventId]) -> Mapping[EventId, StoredEvent]:
        return await self.events.load_many(dict.fromkeys(event_ids, head.room_id), {head.room_id: head.version})


def check_origin(user_id: UserId, origin: ServerName) -> None:
    """A server acts for its own users only. Raises: Forbidden."""
    if domain_of(user_id) != origin:
        raise Forbidden(f"{user_id} is not a user of {origin}")


def check_version(head: RoomHead, versions: Sequence[str] | Collection[str]) -> None:
    """Raises: IncompatibleRoomVersion."""
    if head.version.identifier not in (versions or ("1",)):
        raise IncompatibleRoomVersion(head.version.identifier)


def _hashes(known: Mapping[EventId, StoredEvent]) -> Any:
    def hash_of(event_id: EventId) -> str:
        pdu = known[event_id].pdu
        return encode_base64(reference_hash(pdu.json, pdu.version))

    return hash_of
