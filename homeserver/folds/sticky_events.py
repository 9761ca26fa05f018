"""The events that are sticky now, all of them in memory: none is for longer than an hour.

Of more than there is room for, those are forgotten first that were sent by whoever takes the most, so that nobody's flood
takes what others said. Soft-failed ones are not here; of them only the rooms are known that may have some (store/sticky.py
has the events), for those who look at them again (rooms/second_looks.py).

Spec: MSC4354
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from homeserver.folds.events import BYTES_PER_EVENT, BYTES_PER_JSON_BYTE
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.sticky import MAX_STICKY_MS, names_sticky, sticky_duration_ms, sticky_until_ms
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store.events import StoredEvent
from homeserver.store.log import LogRow
from homeserver.store.outliers import HIDDEN
from homeserver.store.sticky import delete_unsticky, load_sticky

logger = logging.getLogger(__name__)

MAX_EVENTS: Final = 50_000  # read at the start
MAX_BYTES: Final = 128 * 1024 * 1024
MAX_BYTES_OF_ROOM: Final = 16 * 1024 * 1024
SAVED_BETWEEN_TRIMS: Final = 10_000


@frozen
class StickyEvent:
    event: StoredEvent
    until_ms: int
    bytes: int


@define(eq=False)
class _Room:
    """The events in the order in which they came."""

    events: OrderedDict[EventId, StickyEvent] = field(factory=OrderedDict)
    bytes: int = 0

    def find_crowding(self) -> EventId:
        """The oldest event of the sender who takes the most. O(n)."""
        taken: Counter[UserId] = Counter()
        for one in self.events.values():
            taken[one.event.pdu.sender] += one.bytes
        [(sender, _)] = taken.most_common(1)
        return next(event_id for event_id, one in self.events.items() if one.event.pdu.sender == sender)


@define(eq=False)
class StickyEvents:
    """Follows the log."""

    database: Database
    clock: Clock
    max_bytes: int = MAX_BYTES
    max_bytes_of_room: int = MAX_BYTES_OF_ROOM
    _rooms: dict[RoomId, _Room] = field(factory=dict, init=False)
    _room_of: dict[EventId, RoomId] = field(factory=dict, init=False)
    _bytes: int = field(default=0, init=False)
    # Until when a room may have soft-failed ones.
    _soft_failed: dict[RoomId, int] = field(factory=dict, init=False)
    _saved: int = field(default=0, init=False)

    async def start(self) -> None:
        """Read what was sticky when the server stopped."""
        now_ms = self.clock.time_ms()
        await self.database.run(delete_unsticky, now_ms)
        for row in await self.database.read(load_sticky, now_ms, MAX_EVENTS):
            duration_ms = sticky_duration_ms(row.event.pdu)
            if duration_ms is None:
                continue
            # Rows of older versions do not know when the event was received.
            until_ms = min(row.until_ms, now_ms + duration_ms)
            if _is_shown(row.event):
                self._add(row.event, until_ms)
            elif row.event.soft_failed:
                self._note_soft_failed(row.event.pdu.room_id, until_ms)

    def get(self, room_id: RoomId, after: int) -> list[StickyEvent]:
        """Those of a room that came behind a position of the log, in that order."""
        self._forget_expired(room_id)
        room = self._rooms.get(room_id)
        return [] if room is None else [one for one in room.events.values() if one.event.order > after]

    def is_sticky(self, event_id: EventId) -> bool:
        room_id = self._room_of.get(event_id)
        return room_id is not None and self._rooms[room_id].events[event_id].until_ms > self.clock.time_ms()

    def note_until(self, events: Iterable[StoredEvent]) -> None:
        """Tell events that come from the database until when they are sticky."""
        for event in events:
            room_id = self._room_of.get(event.event_id)
            if room_id is not None:
                event.sticky_until_ms = self._rooms[room_id].events[event.event_id].until_ms

    @property
    def soft_failed_rooms(self) -> list[RoomId]:
        """The rooms that may have soft-failed events that are sticky."""
        return list(self._soft_failed)

    def may_have_soft_failed(self, room_id: RoomId) -> bool:
        until_ms = self._soft_failed.get(room_id)
        if until_ms is not None and until_ms <= self.clock.time_ms():
            del self._soft_failed[room_id]
            return False
        return until_ms is not None

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        for row in rows:
            if row.event is not None and names_sticky(row.event.pdu):
                self._take(row.event)
            elif row.kind == HIDDEN and "sticky_until_ms" in row.data:
                self._note_soft_failed(RoomId(row.key), row.data["sticky_until_ms"])
            elif row.is_state_alone:
                # What was judged anew may be soft failed since.
                self._note_soft_failed(RoomId(row.key), self.clock.time_ms() + MAX_STICKY_MS)
            if row.kind == "event" and (target := row.data.get("redacts")) is not None:
                self._remove(target)

    def _take(self, event: StoredEvent) -> None:
        until_ms = event.sticky_until_ms or sticky_until_ms(event.pdu, self.clock.time_ms())
        if until_ms is None or not _is_shown(event):
            return
        self._add(event, until_ms)
        self._saved += 1
        if self._saved % SAVED_BETWEEN_TRIMS == 0:
            Deferred.fromCoroutine(self._trim()).addErrback(_log_failure)

    async def _trim(self) -> None:
        await self.database.run(delete_unsticky, self.clock.time_ms())

    def _note_soft_failed(self, room_id: RoomId, until_ms: int) -> None:
        self._soft_failed[room_id] = max(until_ms, self._soft_failed.get(room_id, 0))

    def _add(self, event: StoredEvent, until_ms: int) -> None:
        event.sticky_until_ms = until_ms
        self._remove(event.event_id)
        cost, room_id = BYTES_PER_EVENT + BYTES_PER_JSON_BYTE * len(event.pdu.json_bytes), event.pdu.room_id
        room = self._rooms.setdefault(room_id, _Room())
        room.events[event.event_id] = StickyEvent(event, until_ms, cost)
        self._room_of[event.event_id] = room_id
        room.bytes += cost
        self._bytes += cost
        if room.bytes > self.max_bytes_of_room:
            self._make_way(room_id, self.max_bytes_of_room)
        if self._bytes > self.max_bytes:
            largest = max(self._rooms, key=lambda each: self._rooms[each].bytes)
            self._make_way(largest, self._rooms[largest].bytes - (self._bytes - self.max_bytes))

    def _make_way(self, room_id: RoomId, most_bytes: int) -> None:
        self._forget_expired(room_id)
        while (room := self._rooms.get(room_id)) is not None and room.bytes > most_bytes:
            self._remove(room.find_crowding())

    def _forget_expired(self, room_id: RoomId) -> None:
        room, now_ms = self._rooms.get(room_id), self.clock.time_ms()
        if room is not None:
            for event_id in [event_id for event_id, one in room.events.items() if one.until_ms <= now_ms]:
                self._remove(event_id)

    def _remove(self, event_id: EventId) -> None:
        room_id = self._room_of.pop(event_id, None)
        if room_id is None:
            return
        room = self._rooms[room_id]
        cost = room.events.pop(event_id).bytes
        room.bytes -= cost
        self._bytes -= cost
        if not room.events:
            del self._rooms[room_id]


def _is_shown(event: StoredEvent) -> bool:
    """The event has a place in the timeline."""
    return event.timeline_order is not None and event.rejected is None and not event.soft_failed


def _log_failure(failure: object) -> None:
    logger.error("Sticky events could not be trimmed: %s", failure)
