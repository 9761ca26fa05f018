"""Rooms that are used before all of their state is known.

A join may leave out the members: the room is usable at once, and the rest follows in the background. Until then who is in
the room is known only of those who spoke; so an event's sender is taken for what the event's own auth events say, and
nothing is soft failed. When the full state has come, what was received meanwhile is judged anew, in order, on the states that
follow from it, and the room's current state is what comes out.

Spec: server-server-api#put_matrixfederationv2send_joinroomideventid
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import define, field
from twisted.internet.defer import Deferred

from homeserver.matrix.ids import RoomId, ServerName, UserId, domain_of
from homeserver.rooms.errors import StateNotFull
from homeserver.rooms.head import RoomHead
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import within
from homeserver.runtime.db import Database
from homeserver.store.partial_rooms import PartialRoom, load_partial_rooms

# Of a client's request. The client asks again then.
MAX_WAIT_MS: Final = 30_000


@define(eq=False)
class PartialStates:
    """Which rooms those are."""

    server_name: ServerName
    database: Database
    clock: Clock
    _rooms: dict[RoomId, PartialRoom] = field(factory=dict, init=False)
    _waiting: dict[RoomId, list[Deferred[None]]] = field(factory=dict, init=False)

    async def start(self) -> None:
        """Read what the database knows: at the start, and when a room was joined."""
        self._rooms = {room.room_id: room for room in await self.database.read(load_partial_rooms)}

    def get(self, room_id: RoomId) -> PartialRoom | None:
        return self._rooms.get(room_id)

    @property
    def rooms(self) -> Sequence[PartialRoom]:
        """Those whose full state is still to be had, oldest first."""
        return list(self._rooms.values())

    def may_be_joined(self, head: RoomHead, user_id: UserId) -> bool:
        """Whether the user is joined as far as is known: of another server's users that may be nothing."""
        if head.is_joined(user_id):
            return True
        partial, server = self._rooms.get(head.room_id), domain_of(user_id)
        if partial is None or server == self.server_name or head.membership(user_id) is not None:
            return False
        return server in partial.servers

    def is_server_in_any(self, server: ServerName) -> bool:
        """Whether the server is in a room whose members are not all known."""
        return any(server in room.servers for room in self._rooms.values())

    async def wait_full(self, room_id: RoomId) -> bool:
        """Until the room's state is full: for what depends on who is in the room. False if it was full already.

        Raises: StateNotFull, after a while.
        """
        if room_id not in self._rooms:
            return False
        try:
            await within(self.clock, MAX_WAIT_MS, self._wait(room_id))
        except TimeoutError:
            raise StateNotFull from None
        return True

    async def _wait(self, room_id: RoomId) -> None:
        waiting: Deferred[None] = Deferred(lambda gone: self._waiting.get(room_id, []).remove(gone))
        self._waiting.setdefault(room_id, []).append(waiting)
        await waiting

    def end(self, room_id: RoomId) -> None:
        """The state is full, or the room is gone."""
        self._rooms.pop(room_id, None)
        for waiting in self._waiting.pop(room_id, []):
            waiting.callback(None)
