"""Rooms as a connection begins them, kept for the connections that come.

Whenever a client starts it begins a connection, and is told of its newest rooms from nothing, though in most of them nothing
happened since it last did so. So what was built of a room stays here, but for what changes without the room: the ages of
events, and the counts. Any row of the log about the room drops it, but a receipt, of which there are many, only what was
told of receipts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import orjson
from attrs import define, field, frozen

from homeserver.folds.events import cost_of
from homeserver.matrix.ids import RoomId, UserId
from homeserver.rooms.client_events import Reader, WrittenList
from homeserver.store.events import StoredEvent
from homeserver.store.log import LogRow
from homeserver.sync.sliding.request import RoomConfig, Shape

MAX_BYTES = 64 * 1024 * 1024
MAX_BYTES_OF_ONE = 512 * 1024
# What one takes beside its events, with its receipts.
BASE_BYTES = 6 * 1024
MAX_RECEIPTS_BYTES = 4 * 1024
MAX_WISHES = 2_000


@frozen(cache_hash=True)
class Wish:
    """For whom a room is begun, and what is wanted of it."""

    reader: Reader
    shape: Shape
    config: RoomConfig
    ignored: frozenset[str]


@define(eq=False)
class Beginning:
    """A joined room for a client that has nothing of it.

    parts: of the room's object, what stays as it is. members: those of whom the client has the events then. receipts: the ones
    to tell, as JSON, b"" where there are none; None where they have to be loaded, or are too many to be kept.
    """

    parts: Mapping[str, Any]
    timeline: WrittenList
    state: WrittenList
    events: Sequence[StoredEvent]
    members: frozenset[UserId]
    receipts: bytes | None = None

    @cached_property
    def size(self) -> int:
        """In bytes, about; as if no cache had its events otherwise."""
        written = len(self.timeline.template) + len(self.state.template)
        return BASE_BYTES + written + sum(map(cost_of, self.events))

    def keep_receipts(self, receipts: bytes) -> None:
        if len(receipts) <= MAX_RECEIPTS_BYTES:
            self.receipts = receipts

    def to_json(self, now_ms: int) -> dict[str, Any]:
        """A new object, to which more may be added."""
        return {
            **self.parts,
            "timeline": orjson.Fragment(self.timeline.encode(now_ms)),
            "required_state": orjson.Fragment(self.state.encode(now_ms)),
        }


@define(eq=False)
class Beginnings:
    """Follows the log. The rooms that were not asked for the longest go first."""

    max_bytes: int = MAX_BYTES
    _rooms: OrderedDict[RoomId, dict[Wish, Beginning]] = field(factory=OrderedDict, init=False)
    _bytes: int = field(default=0, init=False)
    _wishes: dict[Wish, Wish] = field(factory=dict, init=False)

    def intern(self, wish: Wish) -> Wish:
        """The equal one by which rooms were kept: to find them by it, nothing is compared."""
        if len(self._wishes) >= MAX_WISHES:
            self._wishes.clear()
        return self._wishes.setdefault(wish, wish)

    def get(self, room_id: RoomId, wish: Wish) -> Beginning | None:
        of_room = self._rooms.get(room_id)
        if of_room is None:
            return None
        self._rooms.move_to_end(room_id)
        return of_room.get(wish)

    def put(self, room_id: RoomId, wish: Wish, beginning: Beginning) -> None:
        """Keep what is true now."""
        if beginning.size > MAX_BYTES_OF_ONE:
            return
        of_room = self._rooms.setdefault(room_id, {})
        self._rooms.move_to_end(room_id)
        known = of_room.get(wish)
        self._bytes += beginning.size - (known.size if known is not None else 0)
        of_room[wish] = beginning
        while self._bytes > self.max_bytes:
            self._drop(next(iter(self._rooms)))

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        for row in rows:
            if row.kind == "user" and row.data.get("erased"):
                self._rooms.clear()
                self._bytes = 0
            elif row.key in self._rooms:
                self._on_row(RoomId(row.key), row)

    def _on_row(self, room_id: RoomId, row: LogRow) -> None:
        if row.kind == "receipt":
            for beginning in self._rooms[room_id].values():
                beginning.receipts = None
        else:
            self._drop(room_id)

    def _drop(self, room_id: RoomId) -> None:
        self._bytes -= sum(beginning.size for beginning in self._rooms.pop(room_id).values())
