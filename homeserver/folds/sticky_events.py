"""The events that are sticky now, all of them in memory: none is for longer than an hour.

Spec: MSC4354
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from homeserver.matrix.ids import EventId, RoomId
from homeserver.matrix.sticky import names_sticky, sticky_duration_ms, sticky_until_ms
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store.events import StoredEvent
from homeserver.store.log import LogRow
from homeserver.store.sticky import delete_unsticky, load_sticky

logger = logging.getLogger(__name__)

MAX_EVENTS: Final = 50_000
MAX_OF_ROOM: Final = 1_000
SAVED_BETWEEN_TRIMS: Final = 10_000


@frozen
class StickyEvent:
    event: StoredEvent
    until_ms: int


@define(eq=False)
class StickyEvents:
    """Follows the log. Of too many, the oldest are forgotten."""

    database: Database
    clock: Clock
    _events: OrderedDict[EventId, StickyEvent] = field(factory=OrderedDict, init=False)
    _by_room: dict[RoomId, OrderedDict[EventId, StickyEvent]] = field(factory=dict, init=False)
    _saved: int = field(default=0, init=False)

    async def start(self) -> None:
        """Read what was sticky when the server stopped."""
        now_ms = self.clock.time_ms()
        await self.database.run(delete_unsticky, now_ms)
        for row in await self.database.read(load_sticky, now_ms, MAX_EVENTS):
            duration_ms = sticky_duration_ms(row.event.pdu)
            if duration_ms is not None and _is_shown(row.event):
                # When it was received is not known any more: an origin's clock that is ahead gains once more at most.
                self._add(row.event, min(row.expires_ms, now_ms + duration_ms))

    def get(self, room_id: RoomId, after: int) -> list[StickyEvent]:
        """Those of a room that came behind a position of the log, in that order."""
        of_room = self._by_room.get(room_id)
        if of_room is None:
            return []
        now_ms = self.clock.time_ms()
        for event_id in [event_id for event_id, one in of_room.items() if one.until_ms <= now_ms]:
            self._remove(event_id)
        return [one for one in of_room.values() if one.event.order > after]

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        for row in rows:
            if row.event is not None and names_sticky(row.event.pdu):
                self._take(row.event)
            if row.kind == "event" and (target := row.data.get("redacts")) is not None:
                self._remove(target)

    def _take(self, event: StoredEvent) -> None:
        until_ms = sticky_until_ms(event.pdu, self.clock.time_ms())
        if until_ms is None or not _is_shown(event):
            return
        self._add(event, until_ms)
        self._saved += 1
        if self._saved % SAVED_BETWEEN_TRIMS == 0:
            Deferred.fromCoroutine(self._trim()).addErrback(_log_failure)

    async def _trim(self) -> None:
        await self.database.run(delete_unsticky, self.clock.time_ms())

    def _add(self, event: StoredEvent, until_ms: int) -> None:
        one = StickyEvent(event, until_ms)
        of_room = self._by_room.setdefault(event.pdu.room_id, OrderedDict())
        self._events[event.event_id] = of_room[event.event_id] = one
        if len(of_room) > MAX_OF_ROOM:
            self._remove(next(iter(of_room)))
        if len(self._events) > MAX_EVENTS:
            self._remove(next(iter(self._events)))

    def _remove(self, event_id: EventId) -> None:
        one = self._events.pop(event_id, None)
        if one is None:
            return
        of_room = self._by_room[one.event.pdu.room_id]
        del of_room[event_id]
        if not of_room:
            del self._by_room[one.event.pdu.room_id]


def _is_shown(event: StoredEvent) -> bool:
    """The event has a place in the timeline."""
    return event.timeline_order is not None and event.rejected is None and not event.soft_failed


def _log_failure(failure: object) -> None:
    logger.error("Sticky events could not be trimmed: %s", failure)
