"""Walks over a room's graph of events, for servers that lack parts of it.

Events name the ones before them, so a walk needs nothing but events. A page of the timeline is read ahead: in it lies nearly
everything that a walk back from an event meets, so that a walk costs two statements and not one for each step.

Spec: server-server-api#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from heapq import heappop, heappush
from typing import Final

from attrs import define

from homeserver.folds.events import EventCache
from homeserver.matrix.ids import EventId
from homeserver.rooms.head import RoomHead
from homeserver.runtime.db import Database
from homeserver.store.event_graph import load_auth_chain
from homeserver.store.events import StoredEvent, load_timeline

BEFORE_ALL: Final = -(1 << 62)
# Rejected events on the way, each of which costs a read: whoever sends them by the thousand gets no further.
MAX_PASSED_OVER: Final = 100


@define(eq=False)
class RoomGraph:
    database: Database
    events: EventCache

    async def load_before(self, head: RoomHead, start: Collection[EventId], limit: int) -> list[StoredEvent]:
        """At most `limit` events: those of `start` that are known, and what came before them, newest first."""
        known = await self._load(head, start)
        await self._read_ahead(head, known, limit)
        found: list[StoredEvent] = []
        seen = {event.event_id for event in known}
        heap = sorted(_heap_entry(event) for event in known)
        passed_over = 0
        while heap and len(found) < limit and passed_over <= MAX_PASSED_OVER:
            event = heappop(heap)[-1]
            if event.rejected is None:
                found.append(event)
            else:
                passed_over += 1
            for each in await self._load_before(head, event, seen):
                heappush(heap, _heap_entry(each))
        return found

    async def load_missing(
        self,
        head: RoomHead,
        earliest: Collection[EventId],
        latest: Sequence[EventId],
        limit: int,
        min_depth: int,
    ) -> list[StoredEvent]:
        """At most `limit` events between: behind `earliest` and before `latest`, neither among them; oldest first.

        Spec: server-server-api#post_matrixfederationv1get_missing_eventsroomid
        """
        known = await self._load(head, latest)
        await self._read_ahead(head, known, limit)
        seen = {*earliest, *latest}
        queue = deque(known)
        found: list[StoredEvent] = []
        passed_over = 0
        while queue and len(found) < limit and passed_over <= MAX_PASSED_OVER:
            event = queue.popleft()
            passed_over += event.rejected is not None
            before = await self._load_before(head, event, seen)
            deep = [each for each in before if each.pdu.depth >= min_depth]
            found += [each for each in deep if each.rejected is None]
            queue += deep
        return sorted(found[:limit], key=lambda event: event.pdu.depth)

    async def load_auth_chain(self, head: RoomHead, event_ids: Collection[EventId]) -> set[EventId]:
        """The events that authorise these, those that authorise them, and so on. The events themselves are among them
        only if another one names them."""
        return await self.database.read(load_auth_chain, head.room_id, event_ids)

    async def _load_before(self, head: RoomHead, event: StoredEvent, seen: set[EventId]) -> list[StoredEvent]:
        """The event's prev events, but for those that were seen."""
        before = [event_id for event_id in event.pdu.prev_events if event_id not in seen]
        seen.update(before)
        return await self._load(head, before)

    async def _load(self, head: RoomHead, event_ids: Collection[EventId]) -> list[StoredEvent]:
        """Those that are in this room's graph here. Rejected ones are: a walk goes over them."""
        if not event_ids:
            return []
        found = await self.events.load_many(dict.fromkeys(event_ids, head.room_id), {head.room_id: head.version})
        return [event for event in found.values() if event.pdu.room_id == head.room_id and not event.is_outlier]

    async def _read_ahead(self, head: RoomHead, events: Collection[StoredEvent], limit: int) -> None:
        orders = [event.timeline_order for event in events if event.timeline_order is not None]
        if orders:
            page = await self.database.read(
                load_timeline, head.room_id, head.version, BEFORE_ALL, max(orders), limit, True
            )
            self.events.put_all(page)


def _heap_entry(event: StoredEvent) -> tuple[int, int, str, StoredEvent]:
    """Deepest first; of events of one depth the one that came last."""
    return -event.pdu.depth, -event.nid, event.event_id, event
