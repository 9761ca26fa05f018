"""Invites of this server's users by other servers.

This server signs an invite, and by that says that its user may be told of it. The room is one that it may know nothing of, so
nobody can say whether the inviter is in it: what is checked is that the inviter's server made the event, and that the room's
state that comes with it is of that room.

Spec: server-server-api#inviting-to-a-room
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import define

from federation.resident.access import ServerAccess, is_in_room
from federation.resident.errors import IncompatibleRoomVersion
from federation.resident.ports import EventChecks, OutOfBand, RoomIntake
from federation.resident.shape import check_signed, parse_member_event
from homeserver.matrix.build import add_signature
from homeserver.matrix.errors import (
    Forbidden,
    InvalidParam,
    MatrixError,
    MissingParam,
    NotFound,
    UnsupportedRoomVersion,
)
from homeserver.matrix.format import stripped_state
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, domain_of, is_user_id
from homeserver.matrix.invite_policy import InviteAction
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.signing import SigningKey
from homeserver.matrix.versions import RoomVersion, room_version
from homeserver.rooms.errors import InviteBlocked
from homeserver.rooms.head import RoomHead
from homeserver.rooms.heads import RoomHeads
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import within
from homeserver.runtime.db import Database
from homeserver.store.accounts import load_user
from homeserver.store.invite_policies import load_invite_policy

MAX_ROOM_STATE: Final = 50
# For the keys of whoever made the room's state: the inviter waits meanwhile.
CHECK_TIMEOUT_MS: Final = 15_000
_PDU_FIELDS: Final = frozenset({"auth_events", "prev_events", "hashes", "signatures", "depth"})


@define(eq=False)
class Invites:
    server_name: ServerName
    signing_key: SigningKey
    clock: Clock
    database: Database
    heads: RoomHeads
    access: ServerAccess
    checks: EventChecks
    intake: RoomIntake
    out_of_band: OutOfBand

    async def receive(
        self,
        room_id: RoomId,
        event_id: EventId,
        version_id: str,
        raw: Mapping[str, Any],
        room_state: Sequence[Any],
        origin: ServerName,
    ) -> Pdu:
        """The invite with our signature, when it is stored.

        Raises: IncompatibleRoomVersion, BadJson, InvalidParam, MissingParam, NotFound, Forbidden, InviteBlocked.

        Spec: server-server-api#put_matrixfederationv2inviteroomideventid
        """
        head = (await self.heads.load_many([room_id])).get(room_id)
        version = _room_version(version_id, head)
        pdu = parse_member_event(raw, version, room_id, event_id, "invite")
        if domain_of(pdu.sender) != origin:
            raise InvalidParam("sender", f"must be a user of {origin}")
        target = await self._check_target(pdu)
        if head is not None:
            await self.access.check_acl(head, origin)
        invite = await check_signed(self.checks, pdu)
        policy = await self.database.read(load_invite_policy, target)
        if policy.judge(pdu.sender) is InviteAction.BLOCK:
            raise InviteBlocked
        signed = add_signature(invite, self.signing_key, self.server_name)
        if head is not None and is_in_room(head, self.server_name):
            await self._receive_inside(head, signed)
        else:
            await self.out_of_band.receive_invite(signed, await self._load_stripped(version, room_id, room_state))
        return signed

    async def _check_target(self, pdu: Pdu) -> UserId:
        """Raises: InvalidParam, NotFound."""
        target = pdu.state_key
        if target is None or not is_user_id(target) or domain_of(target) != self.server_name:
            raise InvalidParam("state_key", "must be a user of this server")
        user = await self.database.read(load_user, UserId(target))
        if user is None or user.is_deactivated:
            raise NotFound("There is no such user on this server")
        return UserId(target)

    async def _receive_inside(self, head: RoomHead, invite: Pdu) -> None:
        """Into a room that this server is in. Where the graph before the invite is not here yet, it comes once more with
        the inviter's events. Raises: Forbidden."""
        rooms_of = dict.fromkeys([*invite.prev_events, *invite.auth_events], head.room_id)
        known = await self.access.events.load_many(rooms_of, {head.room_id: head.version})
        if any(event_id not in known for event_id in rooms_of):
            return
        if any(known[event_id].snapshot_before is None for event_id in invite.prev_events):
            return
        await self.intake.receive(invite)
        stored = await self.access.events.load(invite.event_id, head.room_id, head.version)
        if stored is None or stored.rejected is not None or stored.soft_failed:
            raise Forbidden("The room does not allow this invite")

    # -- the room's state ----------------------------------------------------------------------------------------------

    async def _load_stripped(
        self, version: RoomVersion, room_id: RoomId, room_state: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """The entries to show, as stripped state. Raises: InvalidParam, MissingParam.

        Entries are to be whole events since v1.16. Older servers send stripped ones, which prove nothing, and which rooms
        whose id is the hash of their create event need not be content with.
        """
        if len(room_state) > MAX_ROOM_STATE:
            raise InvalidParam("invite_room_state", f"more than {MAX_ROOM_STATE} events")
        entries = [entry for entry in room_state if isinstance(entry, dict)]
        whole = [entry for entry in entries if set(entry) >= _PDU_FIELDS]
        try:
            events = await within(self.clock, CHECK_TIMEOUT_MS, self._check_all(version, room_id, whole))
        except TimeoutError:
            events = []
        if version.room_id_is_create_hash and not any(event.is_create for event in events):
            raise MissingParam("invite_room_state", "invite_room_state: the room's create event is missing")
        shown = [stripped_state(event) for event in events if event.is_state]
        if not version.room_id_is_create_hash:
            shown += [entry for entry in map(_stripped, entries) if entry is not None]
        return list({(entry["type"], entry["state_key"]): entry for entry in reversed(shown)}.values())[::-1]

    async def _check_all(self, version: RoomVersion, room_id: RoomId, raws: Sequence[dict[str, Any]]) -> list[Pdu]:
        """Those that are events of the room, rightly signed."""
        found = []
        for raw in raws:
            try:
                pdu = await self.checks.check(raw, version, room_id=room_id)
            except MatrixError:
                continue
            found.append(pdu)
        return found


def _room_version(version_id: str, head: RoomHead | None) -> RoomVersion:
    """That of a room which is known here is not for others to say: an event must not bring other rules into it.

    The older endpoint can't tell 1 and 2 apart. Raises: IncompatibleRoomVersion, InvalidParam.
    """
    try:
        version = room_version(version_id)
    except UnsupportedRoomVersion:
        raise IncompatibleRoomVersion(version_id) from None
    if head is None or head.version == version:
        return version
    if not (head.version.event_id_on_wire and version.event_id_on_wire):
        raise InvalidParam("room_version", "is not that of the room")
    return head.version


def _stripped(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """An entry of an older server, if it is well-formed and no whole event."""
    fields = {name: entry.get(name) for name in ("type", "state_key", "sender")}
    content = entry.get("content")
    if set(entry) >= _PDU_FIELDS or not isinstance(content, dict):
        return None
    if not all(isinstance(value, str) and len(value) <= 255 for value in fields.values()):
        return None
    return {**fields, "content": content}
