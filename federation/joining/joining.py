"""How local users get into rooms of other servers, and out again.

Joins of one room go one after another: the first brings the room here, the next are events in it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Final

from attrs import define, field

from federation.inbound.arrivals import Arrivals
from federation.joining.join import JoinHandshake
from federation.joining.join_answer import CheckedJoin
from federation.joining.partial_state import StateCompletion
from federation.joining.ports import GapFiller, OutsideRooms, RoomIntake
from homeserver.folds.memberships import Memberships
from homeserver.matrix.errors import AuthRejected
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, domain_of
from homeserver.matrix.state_map import member_key
from homeserver.rooms.head import RoomHead
from homeserver.rooms.heads import RoomHeads
from homeserver.runtime.clock import Clock
from homeserver.runtime.turns import Turns

logger = logging.getLogger(__name__)

MAX_KNOWN_SERVERS: Final = 10
# A join whose servers don't answer holds up the next one of the room no longer.
OTHERS_WAIT_MS: Final = 20_000


@define(eq=False)
class Entry:
    """Takes joins that other servers took into the rooms here. Raises: AuthRejected, where a room does not allow it."""

    heads: RoomHeads
    intake: RoomIntake
    receiver: GapFiller
    completion: StateCompletion

    async def enter(self, joined: CheckedJoin) -> None:
        """The first join of a room."""
        event = joined.event
        await self.intake.start_room(
            event.version, event, joined.state, joined.auth_chain, partial_from=joined.partial_from
        )
        self.completion.start()

    async def receive(self, joined: CheckedJoin) -> None:
        """A join of a room in which this server is."""
        event = joined.event
        await self.receiver.receive_after_gap(event, joined.server)
        head = await self.heads.load(event.room_id)
        if head.state.get(member_key(event.sender)) != event.event_id:
            raise AuthRejected("The room does not let the user in")


@define(eq=False)
class Joining:
    """Joins through resident servers."""

    server_name: ServerName
    handshake: JoinHandshake
    entry: Entry
    memberships: Memberships
    outside: OutsideRooms
    arrivals: Arrivals
    clock: Clock
    _turns: Turns[RoomId] = field(init=False, factory=Turns)
    _entering: Turns[RoomId] = field(init=False, factory=Turns)

    async def join(
        self, room_id: RoomId, user_id: UserId, content: Mapping[str, Any], via: Sequence[ServerName]
    ) -> EventId:
        """See RemoteServers.

        This server may be in the room already: where it lacks the power, or the state, to judge by itself. Joins of one room go
        one after another, for the state of a room is big; but whoever asks a server that does not answer holds up nobody long.
        """
        async with self._turns.take_for(room_id, self.clock, OTHERS_WAIT_MS):
            head = (await self.entry.heads.load_many([room_id])).get(room_id)
            if head is not None and head.is_joined(user_id):
                return head.state[member_key(user_id)]
            servers = [*via, *await self._load_servers(room_id, user_id, head)]
            with nullcontext() if self._is_here(head) else self.arrivals.expect(room_id):
                joined = await self.handshake.join(room_id, user_id, content, servers, self._enter)
            return joined.event.event_id

    async def _enter(self, joined: CheckedJoin) -> None:
        """Another join may have brought us into the room since this one began."""
        room_id = joined.event.room_id
        async with self._entering.take(room_id):
            if self._is_here((await self.entry.heads.load_many([room_id])).get(room_id)):
                await self.entry.receive(joined)
            else:
                await self.entry.enter(joined)
                self.arrivals.end(room_id)

    def _is_here(self, head: RoomHead | None) -> bool:
        return head is not None and head.is_server_joined(self.server_name)

    async def _load_servers(self, room_id: RoomId, user_id: UserId, head: RoomHead | None) -> list[ServerName]:
        """Whom to ask beside those that the user names: the inviter's server, and those that are or were in the room."""
        known = (await self.memberships.load(user_id)).get(room_id)
        inviter = [domain_of(known.sender)] if known is not None else []
        told = await self.outside.load_servers(user_id, room_id)
        partial = self.entry.completion.partial.get(room_id)
        residents = sorted(head.joined_servers() - {self.server_name}) if head is not None else []
        residents = [*(partial.servers if partial is not None else ()), *residents]
        return [*inviter, *told, domain_of(room_id), *residents[:MAX_KNOWN_SERVERS]]
