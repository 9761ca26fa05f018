"""Events in memory: an LRU bounded in bytes, filled from commits and from the database.

Stored events never change but for being redacted, which a follower of the log applies here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence

from sqlalchemy import Connection

from homeserver.matrix.ids import EventId, RoomId
from homeserver.matrix.versions import RoomVersion
from homeserver.runtime.db import Database
from homeserver.store.events import StoredEvent, load_events
from homeserver.store.log import LogRow
from homeserver.store.outliers import HIDDEN

# Roughly what an event costs beside its JSON (the objects around it), and for each byte of that (parsed content, bytes).
BYTES_PER_EVENT = 1200
BYTES_PER_JSON_BYTE = 3
MAX_REDACTIONS = 1_000
NO_EVENTS: Mapping[EventId, StoredEvent] = {}


class EventCache:
    """Events by id; `load_many` reads those that are missing in one statement."""

    def __init__(self, database: Database, max_bytes: int) -> None:
        self._database = database
        self._max_bytes = max_bytes
        self._bytes = 0
        self._events: OrderedDict[EventId, StoredEvent] = OrderedDict()
        # The newest redactions, target -> by: a read that began before one may bring what it redacted after we followed it.
        self._redactions: OrderedDict[EventId, EventId] = OrderedDict()

    def get(self, event_id: EventId) -> StoredEvent | None:
        event = self._events.get(event_id)
        if event is not None:
            self._events.move_to_end(event_id)
        return event

    def peek(self, event_id: EventId) -> StoredEvent | None:
        """The event if it is in memory, which it does not use up. Threads may call this."""
        return self._events.get(event_id)

    def put(self, event: StoredEvent) -> StoredEvent:
        """Keep the event; the one that is kept already, unless that is just its outlier, or from before a second look."""
        if event.redacted_by is None and (redacted_by := self._redactions.get(event.event_id)) is not None:
            event.redact(redacted_by)
        known = self._events.setdefault(event.event_id, event)
        if _is_outdated(known, event):
            self._bytes -= cost_of(known)
            known = self._events[event.event_id] = event
        if known is event:
            self._bytes += cost_of(event)
            self._evict()
        return known

    async def load(self, event_id: EventId, room_id: RoomId, version: RoomVersion) -> StoredEvent | None:
        """The event if it is stored and of this room."""
        event = self.get(event_id)
        if event is None:
            event = (await self.load_many({event_id: room_id}, {room_id: version})).get(event_id)
        return event if event is not None and event.pdu.room_id == room_id else None

    async def load_many(
        self,
        rooms_of: dict[EventId, RoomId],
        versions: dict[RoomId, RoomVersion],
        fresh: Mapping[EventId, StoredEvent] = NO_EVENTS,
    ) -> dict[EventId, StoredEvent]:
        """The stored ones of these events (id -> its room), which are of the rooms in `versions`, and those in `fresh`,
        which are on their way to the disk."""
        found = {
            event_id: event for event_id in rooms_of if (event := fresh.get(event_id) or self.get(event_id)) is not None
        }
        missing = [event_id for event_id in rooms_of if event_id not in found]
        if missing:
            loaded = await self._database.read(_load, missing, versions)
            found |= {event.event_id: self.put(event) for event in loaded}
        return found

    def put_all(self, events: Iterable[StoredEvent]) -> list[StoredEvent]:
        return [self.put(event) for event in events]

    def drop_room(self, room_id: RoomId) -> None:
        """The room's events are stored no more. O(n)."""
        for event in [event for event in self._events.values() if event.pdu.room_id == room_id]:
            self._bytes -= cost_of(self._events.pop(event.event_id))

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        """Keep what is new (it will be asked for at once), redact what a redaction names."""
        for row in rows:
            if row.event is not None:
                self.put(row.event)
            elif row.kind == HIDDEN:
                # What is known of them as outliers is no longer true. Who wrote them puts them here anew.
                self.drop(row.data["event_ids"])
            if row.kind == "event" and (target := row.data.get("redacts")) is not None:
                self._note_redaction(target, row.data["event_id"])
                redacted = self._events.get(target)
                if redacted is not None and redacted.redacted_by is None:
                    redacted.redact(row.data["event_id"])

    def _note_redaction(self, target: EventId, redacted_by: EventId) -> None:
        self._redactions.setdefault(target, redacted_by)
        if len(self._redactions) > MAX_REDACTIONS:
            self._redactions.popitem(last=False)

    def drop(self, event_ids: Iterable[EventId]) -> None:
        """Forget events of which more is known now than when they were loaded."""
        for event_id in event_ids:
            self._drop(event_id)

    def _drop(self, event_id: EventId) -> None:
        event = self._events.pop(event_id, None)
        if event is not None:
            self._bytes -= cost_of(event)

    def _evict(self) -> None:
        while self._bytes > self._max_bytes and self._events:
            _, event = self._events.popitem(last=False)
            self._bytes -= cost_of(event)


def _is_outdated(known: StoredEvent, event: StoredEvent) -> bool:
    return (known.is_outlier and not event.is_outlier) or (known.soft_failed and not event.soft_failed)


def cost_of(event: StoredEvent) -> int:
    """What an event takes in memory, in bytes, about."""
    return BYTES_PER_EVENT + BYTES_PER_JSON_BYTE * len(event.pdu.json_bytes)


def _load(conn: Connection, ids: Collection[EventId], versions: dict[RoomId, RoomVersion]) -> list[StoredEvent]:
    return load_events(conn, ids, versions)
