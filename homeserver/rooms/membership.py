"""Joining, leaving, inviting, kicking, banning, knocking and forgetting.

Every way to change a membership ends in `_write`: a plan over the room's head, which says what the change is now, and
nothing when the membership is already what was asked for. What the authorisation rules forbid they forbid here;
the methods only check what the rules leave open.

Spec: client-server-api#room-membership
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from attrs import define, field
from sqlalchemy import Connection

from homeserver.accounts.requester import Requester
from homeserver.folds.memberships import FORGOTTEN, Memberships
from homeserver.matrix.canonical import canonical_json
from homeserver.matrix.errors import BadJson, Forbidden, MatrixError, MissingParam, NotFound
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, domain_of, parse_user_id
from homeserver.matrix.state_map import member_key
from homeserver.rooms.errors import BadState, GuestsForbidden, UnableToGrantJoin
from homeserver.rooms.head import MEMBER, RoomHead
from homeserver.rooms.invite_keys import InviteKeys
from homeserver.rooms.member_content import AUTHORISED_VIA, BARE_LEAVE, MemberContents
from homeserver.rooms.partial_states import PartialStates
from homeserver.rooms.ports import RemoteServers
from homeserver.rooms.restricted_joins import choose_authoriser, needs_authoriser
from homeserver.rooms.writer import ATTEMPTS, Draft, RoomBusy, RoomWriter
from homeserver.store.log_writer import LogItem
from homeserver.store.memberships import save_forgotten

GUEST_ACCESS = ("m.room.guest_access", "")
_NOT_IN_ROOM = "You are not in this room, or it does not exist"
_NOTHING: Mapping[str, Any] = {}

Drafts = Callable[[RoomHead], Sequence[Draft]]


@define(eq=False)
class RoomMembership:
    """Changes of membership by local users."""

    writer: RoomWriter
    memberships: Memberships
    contents: MemberContents
    remote: RemoteServers
    partial: PartialStates | None = None
    # Awaited with the user and the room of each new join (rooms/succession.py).
    after_join: Callable[[UserId, RoomId], Awaitable[None]] | None = None
    invite_keys: InviteKeys = field(factory=InviteKeys)

    @property
    def server_name(self) -> ServerName:
        return self.contents.server_name

    async def join(
        self,
        requester: Requester,
        room_id: RoomId,
        *,
        via: Sequence[ServerName] = (),
        given: Mapping[str, Any] = _NOTHING,
        third_party_signed: dict[str, Any] | None = None,
    ) -> None:
        """Join; nothing happens if the user is in the room. `given`: more of the event's content, such as reason.

        Raises: Forbidden (and its kinds), UnableToGrantJoin, NotFound.

        Spec: client-server-api#post_matrixclientv3roomsroomidjoin
        """
        head = await self._load_resident(room_id, requester.user_id)
        if head is not None and head.is_joined(requester.user_id):
            return
        await self._join(requester, room_id, via, given, third_party_signed, anew=False)
        if self.after_join is not None:
            await self.after_join(requester.user_id, room_id)

    async def leave(self, requester: Requester, room_id: RoomId, given: Mapping[str, Any] = _NOTHING) -> EventId:
        """Leave, refuse an invite, or take back a knock; nothing happens if the user left before.

        Raises: NotFound, Forbidden.

        Spec: client-server-api#post_matrixclientv3roomsroomidleave
        """
        user_id = requester.user_id
        content = await self.contents.load("leave", user_id, given)
        head = await self._load_resident(room_id, user_id)
        if head is None:
            return await self.remote.leave(room_id, user_id, content)

        def plan(head: RoomHead, content: Mapping[str, Any]) -> Sequence[Draft]:
            was = head.membership(user_id)
            if was == "leave":
                return []
            if was == "ban":
                raise Forbidden("You are banned from this room")
            return [Draft(MEMBER, user_id, dict(content), user_id)]

        return await self._write_leave(room_id, user_id, content, plan)

    async def knock(
        self,
        requester: Requester,
        room_id: RoomId,
        *,
        via: Sequence[ServerName] = (),
        given: Mapping[str, Any] = _NOTHING,
    ) -> EventId:
        """Ask to be let in. Raises: NotFound, Forbidden.

        Spec: client-server-api#post_matrixclientv3knockroomidoralias
        """
        requester.check_not_suspended()
        user_id = requester.user_id
        content = await self.contents.load("knock", user_id, given)
        head = await self._load_resident(room_id, user_id)
        if head is None:
            return await self.remote.knock(room_id, user_id, content, via)
        if not head.version.knock:
            raise Forbidden("Nobody can knock here: the room's version does not know knocking")

        def plan(head: RoomHead) -> Sequence[Draft]:
            return [] if head.membership(user_id) == "knock" else [Draft(MEMBER, user_id, content, user_id)]

        return await self._write(room_id, user_id, plan)

    async def invite(
        self, requester: Requester, room_id: RoomId, target: UserId, given: Mapping[str, Any] = _NOTHING
    ) -> EventId:
        """Invite a user; nothing happens if there is an invite already. Raises: Forbidden, InviteBlocked.

        Spec: client-server-api#post_matrixclientv3roomsroomidinvite
        """
        requester.check_not_suspended()
        sender = requester.user_id
        head = await self._load_joined(room_id, sender, target)
        if head.membership(target) == "join":
            raise Forbidden(f"{target} is in the room already")
        if head.membership(target) == "ban":
            raise Forbidden(f"{target} is banned from the room")
        await self.contents.check_invitable(sender, [target])
        if head.membership(target) == "invite":
            return head.state[member_key(target)]
        content = await self.contents.load("invite", target, given)
        if not self.contents.is_local(target):
            return await self.remote.invite(room_id, sender, target, content)
        return await self._write(room_id, target, lambda _: [Draft(MEMBER, sender, content, target)])

    async def kick(
        self, requester: Requester, room_id: RoomId, target: UserId, given: Mapping[str, Any] = _NOTHING
    ) -> EventId:
        """Make somebody leave who is in the room, invited or knocking. Raises: Forbidden, BadState.

        Spec: client-server-api#post_matrixclientv3roomsroomidkick
        """
        sender = requester.user_id
        await self._load_joined(room_id, sender, target)
        content = await self.contents.load("leave", target, given)

        def plan(head: RoomHead) -> Sequence[Draft]:
            match head.membership(target):
                case "ban":
                    raise BadState(f"{target} is banned from the room")
                case "join" | "invite" | "knock":
                    return [Draft(MEMBER, sender, content, target)]
            raise Forbidden(f"{target} is not in the room")

        return await self._write(room_id, target, plan)

    async def ban(
        self, requester: Requester, room_id: RoomId, target: UserId, given: Mapping[str, Any] = _NOTHING
    ) -> EventId:
        """Ban a user, in the room or not. Banning again only changes the reason, if that.

        Raises: Forbidden.

        Spec: client-server-api#post_matrixclientv3roomsroomidban
        """
        return await self._set(requester, room_id, target, "ban", given)

    async def unban(
        self, requester: Requester, room_id: RoomId, target: UserId, given: Mapping[str, Any] = _NOTHING
    ) -> EventId:
        """Lift a ban. Raises: BadState (not banned), Forbidden.

        Spec: client-server-api#post_matrixclientv3roomsroomidunban
        """
        sender = requester.user_id
        await self._load_joined(room_id, sender, target)
        content = await self.contents.load("leave", target, given)

        def plan(head: RoomHead) -> Sequence[Draft]:
            if head.membership(target) != "ban":
                raise BadState(f"{target} is not banned from the room")
            return [Draft(MEMBER, sender, content, target)]

        return await self._write(room_id, target, plan)

    async def forget(self, requester: Requester, room_id: RoomId) -> None:
        """Hide a room that the user has left from them. Doing it again does no harm.

        Raises: MatrixError (400) for a room that they have not left.

        Spec: client-server-api#post_matrixclientv3roomsroomidforget
        """
        user_id = requester.user_id
        known = (await self.memberships.load(user_id)).get(room_id)
        if known is None or known.membership not in ("leave", "ban"):
            raise MatrixError("You have not left this room")
        if known.forgotten:
            return

        def save(conn: Connection, _position: int) -> None:
            save_forgotten(conn, user_id, room_id)

        await self.writer.log.submit(LogItem(FORGOTTEN, user_id, {"room_id": room_id}, save))

    async def change(
        self,
        requester: Requester,
        room_id: RoomId,
        user_id: str,
        content: Mapping[str, Any],
        *,
        ts_ms: int | None = None,
    ) -> EventId:
        """Set a membership with content of the client's own, as PUT /state/m.room.member does.

        Content that is there already makes no new event.
        Raises: MissingParam, BadJson, InvalidParam (the state key is no user), and as the other methods.

        Spec: client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey
        """
        target = parse_user_id(user_id, "state_key")
        membership = content.get("membership")
        match membership:
            case "join":
                if target != requester.user_id:
                    raise Forbidden("Only users themselves can join")
                return await self._join(requester, room_id, (), content, None, anew=True, ts_ms=ts_ms)
            case "invite":
                return await self.invite(requester, room_id, target, content)
            case "leave" | "ban":
                return await self._set(requester, room_id, target, membership, content, ts_ms)
            case "knock":
                if target != requester.user_id:
                    raise Forbidden("Only users themselves can knock")
                return await self.knock(requester, room_id, given=content)
            case None:
                raise MissingParam("membership")
        raise BadJson("membership: must be one of join, invite, leave, ban, knock")

    # -- the ways in -------------------------------------------------------------------------------------------------

    async def _join(
        self,
        requester: Requester,
        room_id: RoomId,
        via: Sequence[ServerName],
        given: Mapping[str, Any],
        third_party_signed: dict[str, Any] | None,
        *,
        anew: bool,
        ts_ms: int | None = None,
    ) -> EventId:
        """anew: who is in the room already gets a new event if the content is another one."""
        user_id = requester.user_id
        head = await self._load_resident(room_id, user_id)
        if head is not None and head.is_joined(user_id) and not anew:
            return head.state[member_key(user_id)]
        requester.check_not_suspended()
        content = await self.contents.load("join", user_id, given)
        if head is None:
            inviters = await self._exchange_invite(room_id, user_id, third_party_signed)
            return await self._join_afar(requester, room_id, content, [*inviters, *via])
        if requester.is_guest and not head.is_joined(user_id):
            await self.check_guest_access(head)
        before = await self._load_third_party_invite(head, user_id, third_party_signed)
        if before is not None and not self.contents.is_local(before.sender):
            await self._exchange_invite(room_id, user_id, third_party_signed, before.sender)
            return await self.remote.join(room_id, user_id, content, [domain_of(before.sender), *via])
        joined_rooms = await self._load_joined_rooms(user_id) if needs_authoriser(head, user_id) else ()

        def plan(head: RoomHead) -> Sequence[Draft]:
            if head.is_joined(user_id) and (not anew or self._has_content(head, user_id, content)):
                return []
            if before and head.membership(user_id) not in ("invite", "join"):
                return [before, Draft(MEMBER, user_id, content, user_id, ts_ms=ts_ms)]
            joining = content
            if needs_authoriser(head, user_id):
                authoriser = choose_authoriser(head, user_id, joined_rooms, self.server_name)
                joining = {**content, AUTHORISED_VIA: authoriser}
            return [Draft(MEMBER, user_id, joining, user_id, ts_ms=ts_ms)]

        try:
            return await self._write(room_id, user_id, plan)
        except UnableToGrantJoin:  # another server in the room may have somebody who can
            others = (await self.writer.heads.load(room_id)).joined_servers() - {self.server_name}
            if not others:
                raise
        return await self.remote.join(room_id, user_id, content, [*via, *others])

    async def _join_afar(
        self, requester: Requester, room_id: RoomId, content: dict[str, Any], via: Sequence[ServerName]
    ) -> EventId:
        """Join a room that this server is not in; only then it can tell whether guests may."""
        event_id = await self.remote.join(room_id, requester.user_id, content, via)
        if requester.is_guest:
            try:
                await self.check_guest_access(await self.writer.heads.load(room_id))
            except GuestsForbidden:
                await self.leave(requester, room_id)
                raise
        return event_id

    async def _load_joined_rooms(self, user_id: UserId) -> set[RoomId]:
        rooms = await self.memberships.load(user_id)
        return {room_id for room_id, row in rooms.items() if row.membership == "join"}

    async def check_guest_access(self, head: RoomHead) -> None:
        """Spec: client-server-api#guest-access"""
        event_id = head.state.get(GUEST_ACCESS)
        event = await self.writer.events.load(event_id, head.room_id, head.version) if event_id else None
        if event is None or event.pdu.content.get("guest_access") != "can_join":
            raise GuestsForbidden

    async def _load_third_party_invite(
        self, head: RoomHead, user_id: UserId, signed: dict[str, Any] | None
    ) -> Draft | None:
        """The invite that an identity server's signature turns a third-party invite into.

        Raises: Forbidden, IdentityServerFault.

        Spec: client-server-api#third-party-invites
        """
        if signed is None or head.membership(user_id) in ("invite", "join"):
            return None
        event_id = head.state.get(("m.room.third_party_invite", signed["token"]))
        event = await self.writer.events.load(event_id, head.room_id, head.version) if event_id else None
        if event is None:
            raise Forbidden("The room has no third-party invite with this token")
        if self.contents.is_local(event.pdu.sender):
            await self.invite_keys.check(signed, event.pdu.content)
        invite = {"display_name": event.pdu.content.get("display_name", ""), "signed": signed}
        content = {"membership": "invite", "third_party_invite": invite}
        return Draft(MEMBER, event.pdu.sender, content, user_id)

    async def _exchange_invite(
        self, room_id: RoomId, user_id: UserId, signed: dict[str, Any] | None, inviter: UserId | None = None
    ) -> list[ServerName]:
        """Have the inviter's server make an invite of the user out of a third-party invite: only it can sign that. The server,
        which lets the user in then; none where there is nothing to do.

        Spec: server-server-api#cases-where-an-association-doesnt-exist-for-a-third-party-identifier
        """
        known = (await self.memberships.load(user_id)).get(room_id)
        if signed is None or (known is not None and known.membership == "invite"):
            return []
        sender = inviter or parse_user_id(signed["sender"], "third_party_signed.sender")
        if signed["mxid"] != user_id:
            raise Forbidden("The third-party invite is signed for another user")
        if self.contents.is_local(sender):
            raise Forbidden("The inviter is not in the room any more")
        self.remote.check_allowed(domain_of(sender))
        await self.remote.exchange_invite(room_id, sender, user_id, signed)
        return [domain_of(sender)]

    # -- what they share ---------------------------------------------------------------------------------------------

    async def _set(
        self,
        requester: Requester,
        room_id: RoomId,
        target: UserId,
        membership: str,
        given: Mapping[str, Any],
        ts_ms: int | None = None,
    ) -> EventId:
        sender = requester.user_id
        if sender != target:
            requester.check_not_suspended()
            await self._load_joined(room_id, sender, target)
        content = await self.contents.load(membership, target, given)

        def plan(head: RoomHead, content: Mapping[str, Any]) -> Sequence[Draft]:
            if self._has_content(head, target, content):
                return []
            return [Draft(MEMBER, sender, dict(content), target, ts_ms=ts_ms)]

        if sender == target and membership == "leave":
            return await self._write_leave(room_id, target, content, plan)
        return await self._write(room_id, target, lambda head: plan(head, content))

    async def _write_leave(
        self,
        room_id: RoomId,
        user_id: UserId,
        content: Mapping[str, Any],
        plan: Callable[[RoomHead, Mapping[str, Any]], Sequence[Draft]],
    ) -> EventId:
        """Write a user's own leave; without what it says, where the room's policy server does not let that pass."""
        try:
            return await self._write(room_id, user_id, lambda head: plan(head, content))
        except MatrixError:
            if content == BARE_LEAVE:
                raise
        return await self._write(room_id, user_id, lambda head: plan(head, BARE_LEAVE))

    def _has_content(self, head: RoomHead, user_id: UserId, content: Mapping[str, Any]) -> bool:
        """The member event is known to have that very content. An event that memory lacks counts as another one."""
        event_id = head.state.get(member_key(user_id))
        event = self.writer.events.get(event_id) if event_id is not None else None
        if event is None or event.redacted_by is not None:
            return False
        given = {key: value for key, value in event.pdu.content.items() if key != AUTHORISED_VIA}
        return canonical_json(given) == canonical_json(content)

    async def _load_resident(self, room_id: RoomId, user_id: UserId) -> RoomHead | None:
        """The head if this server can write the user's membership by itself, with the right to it.

        That is in a room in which somebody of this server is, or nobody at all any more; and not while the user's
        membership is unknown because the room's members are still on their way.
        """
        try:
            head = self.writer.heads.get(room_id) or await self.writer.heads.load(room_id)
        except NotFound:
            return None
        if head.membership(user_id) is None and self._is_partial(room_id):
            return None
        return head if is_resident(head, self.server_name) else None

    async def _load_joined(self, room_id: RoomId, user_id: UserId, target: UserId) -> RoomHead:
        """The head, which knows the target's membership.

        Raises: Forbidden for those who are not in the room, or when there is none; StateNotFull.
        """
        try:
            head = self.writer.heads.get(room_id) or await self.writer.heads.load(room_id)
        except NotFound:
            raise Forbidden(_NOT_IN_ROOM) from None
        if not head.is_joined(user_id):
            raise Forbidden(_NOT_IN_ROOM)
        if head.membership(target) is None and self.partial is not None and await self.partial.wait_full(room_id):
            head = await self.writer.heads.load(room_id)
        return head

    def _is_partial(self, room_id: RoomId) -> bool:
        return self.partial is not None and self.partial.get(room_id) is not None

    async def _write(self, room_id: RoomId, target: UserId, plan: Drafts) -> EventId:
        """The member event that the plan made, or the one that stands, which is durable then too."""
        key = member_key(target)
        head = await self.writer.heads.load(room_id)
        event_id = head.state.get(key)
        if event_id is not None:  # so that plans can compare contents
            await self.writer.events.load(event_id, room_id, head.version)
        seen: EventId | None = None

        def observed(head: RoomHead) -> Sequence[Draft]:
            nonlocal seen
            seen = head.state.get(key)
            return plan(head)

        for _ in range(ATTEMPTS):
            events = await self.writer.write(room_id, observed)
            if events:
                return events[-1].event_id
            # The plan saw the speculative head: what it found may be on its way to the disk, or fail on it.
            if (await self.writer.heads.load(room_id)).state.get(key) != seen:
                await self.writer.log.flush()
            head = await self.writer.heads.load(room_id)
            if seen is not None and head.state.get(key) == seen:
                return seen
        raise RoomBusy("The room is too busy, try again")


def is_resident(head: RoomHead, server: ServerName) -> bool:
    """Somebody of the server is in the room, or nobody at all any more."""
    return not head.joined or head.is_server_joined(server)
