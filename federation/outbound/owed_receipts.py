"""Receipts in the backlog: for each server and room, the position from which on the server lacks our users' receipts.

Nothing is kept of single ones: what a server gets when it is back is read from the table of receipts, which holds the newest of
each user, room and thread. So a server that is gone costs a row for each room, however much is read in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import define, field

from federation.outbound.items import Receipt
from homeserver.matrix.ids import RoomId, ServerName
from homeserver.store.owed_receipts import OwedReceiptsWrite, RoomOfServer


@define(eq=False)
class OwedReceipts:
    """What changed, gathered until the backlog writes it."""

    _owed: dict[RoomOfServer, int] = field(factory=dict, init=False)
    _sent_before: dict[RoomOfServer, int] = field(factory=dict, init=False)
    _servers: dict[ServerName, int] = field(factory=dict, init=False)  # how many of their rooms are in _owed
    _forgotten: set[ServerName] = field(factory=set, init=False)

    @property
    def is_dirty(self) -> bool:
        return bool(self._owed or self._sent_before or self._forgotten)

    @property
    def count(self) -> int:
        """Of what is to be written."""
        return len(self._owed)

    def has_noted(self, server: ServerName) -> bool:
        """Whether something is noted that is not in the database yet."""
        return server in self._servers

    def note(self, server: ServerName, receipts: Iterable[Receipt]) -> None:
        """The server lacks these."""
        for receipt in receipts:
            self._note((server, receipt.room_id), receipt.position)

    def _note(self, place: RoomOfServer, position: int) -> None:
        known = self._owed.get(place)
        if known is None:
            self._servers[place[0]] = self._servers.get(place[0], 0) + 1
        self._owed[place] = position if known is None else min(position, known)

    def mark_sent(self, server: ServerName, before: Mapping[RoomId, int]) -> None:
        """The server has all receipts of these rooms that are before the positions."""
        for room_id, position in before.items():
            place = (server, room_id)
            self._sent_before[place] = max(position, self._sent_before.get(place, 0))

    def forget(self, server: ServerName) -> None:
        """It lacks none, whatever it was."""
        if self._servers.pop(server, 0):
            self._owed = {place: position for place, position in self._owed.items() if place[0] != server}
        self._forgotten.add(server)

    def take(self) -> OwedReceiptsWrite:
        """All that is to be written; it is gathered here no more."""
        taken = OwedReceiptsWrite(self._owed, self._sent_before, self._forgotten)
        self._owed, self._sent_before, self._servers, self._forgotten = {}, {}, {}, set()
        return taken

    def put_back(self, taken: OwedReceiptsWrite) -> None:
        """It could not be written."""
        self._forgotten.update(taken.forgotten)
        for (server, room_id), position in taken.sent_before.items():
            self.mark_sent(server, {room_id: position})
        for place, position in taken.owed.items():
            self._note(place, position)
