"""Rooms that this server is about to come into: a join goes on at another server.

Whoever lets a user in sends at once what is said next, and that may be here before the answer to the join is dealt with. Nobody
would send it again; so it waits for the end of the join.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attrs import define, field
from twisted.internet.defer import Deferred

from homeserver.matrix.ids import RoomId


@define(eq=False)
class Arrivals:
    """Between those who join rooms and those who take events in."""

    _waiting: dict[RoomId, list[Deferred[None]]] = field(init=False, factory=dict)
    _joins: dict[RoomId, int] = field(init=False, factory=dict)

    @contextmanager
    def expect(self, room_id: RoomId) -> Iterator[None]:
        """While a join goes on, unless another one brings us into the room before."""
        self._joins[room_id] = self._joins.get(room_id, 0) + 1
        self._waiting.setdefault(room_id, [])
        try:
            yield
        finally:
            self._joins[room_id] -= 1
            if not self._joins[room_id]:
                del self._joins[room_id]
                self.end(room_id)

    def end(self, room_id: RoomId) -> None:
        """This server is in the room."""
        for waiting in self._waiting.pop(room_id, ()):
            if not waiting.called:
                waiting.callback(None)

    def is_expected(self, room_id: RoomId) -> bool:
        return room_id in self._waiting

    async def wait(self, room_id: RoomId) -> None:
        """Until no join of the room goes on, whatever came of it."""
        while room_id in self._waiting:
            waiting: Deferred[None] = Deferred()
            self._waiting[room_id].append(waiting)
            await waiting
