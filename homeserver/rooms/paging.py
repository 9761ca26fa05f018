"""Scrolling through a room's timeline.

A place in the timeline is an order: it lies behind the event of that order and before the next. Paging backwards from
it begins with that event; paging forwards begins after it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from attrs import define, field, frozen

from homeserver.folds.events import EventCache
from homeserver.matrix.errors import NotFound
from homeserver.matrix.filters import RoomEventFilter
from homeserver.matrix.ids import EventId
from homeserver.rooms.ports import Filled, NoOlderHistory, OlderHistory
from homeserver.rooms.view import RoomView, is_visible
from homeserver.runtime.db import Database
from homeserver.store.events import StoredEvent, load_event_near
from homeserver.store.history_gaps import HistoryGap
from homeserver.store.relations import Bundle, load_related_by
from homeserver.store.timeline_pages import TimelinePage, load_timeline_page

# How many pages are read to fill one answer when most events are filtered out; then the client asks on.
PAGES_PER_ANSWER = 8
BEGINNING = -(2**62)
# Events on the way from a timestamp to one that the user may see.
TIMESTAMP_CANDIDATES = 100


@frozen
class Page:
    """Events in the order of reading. end: where the next page begins; None at the end of the timeline. bundles: what is told
    with them, of those of which there is any. is_cut: there may be more, which could not be had from other servers now.
    """

    events: Sequence[StoredEvent]
    start: int
    end: int | None
    bundles: Mapping[EventId, Bundle] = field(factory=dict)
    is_cut: bool = False


@define(eq=False)
class Paging:
    """Pages of what a user may see."""

    database: Database
    events: EventCache
    history: OlderHistory = field(factory=NoOlderHistory)

    async def load_page(
        self,
        view: RoomView,
        start: int,
        limit: int,
        *,
        backwards: bool,
        stop: int | None = None,
        filter: RoomEventFilter | None = None,
    ) -> Page:
        """At most `limit` events from `start` on, not beyond `stop`.

        A page may have fewer events than there are, even none, and still have an end: then ask on. Forwards one with events
        always has, as more may come.
        """
        if limit == 0 or (filter is not None and (filter.matches_none or not filter.rooms.matches(view.room_id))):
            return Page((), start, None)
        after, upto = self._bounds(view, start, stop, backwards)
        found: list[StoredEvent] = []
        bundles: dict[EventId, Bundle] = {}
        was_filled = False
        for _ in range(PAGES_PER_ANSWER):
            page = await self._read(view, after, upto, limit, backwards)
            gap, read = page.gap, self.events.put_all(page.events)
            bundles |= page.bundles
            outcome = await self._fill(gap, limit, read) if gap is not None else Filled.NOTHING
            filled = gap.order if gap is not None and outcome is Filled.NEW else None
            related = await self._load_related_by(view, read, filter)
            for event in read:
                if filled is not None and event.order < filled:
                    break
                if related is not None and event.event_id not in related:
                    continue
                if is_visible(view, event) and _matches(filter, event):
                    found.append(event)
                    if len(found) == limit:
                        return Page(found, start, _behind(event, backwards), bundles)
            if filled is not None:
                upto = min(upto, filled - 1)
                if found and was_filled:
                    break
                was_filled = True
                continue
            if len(read) < limit and outcome is Filled.UNREACHED:
                end = _behind(read[-1], backwards) if read else upto
                return Page(found, start, end, bundles, is_cut=True)
            if len(read) < limit:
                is_live = not backwards and stop is None and view.until is None
                newest = read[-1].order if read else after
                return Page(found, start, newest if found and is_live else None, bundles)
            after, upto = _narrow(after, upto, read[-1], backwards)
        return Page(found, start, upto if backwards else after, bundles)

    async def load_event(self, view: RoomView, event_id: EventId) -> StoredEvent:
        """An event that the user may see; from other servers where the room's history has a gap.

        Raises: NotFound, also for those that are hidden.
        """
        event = await self.events.load(event_id, view.room_id, view.head.version)
        if event is None or event.is_outlier:
            await self.history.fetch_event(view.room_id, event_id)
            event = await self.events.load(event_id, view.room_id, view.head.version)
        if event is None or not is_visible(view, event):
            raise NotFound("Event not found")
        return event

    async def load_around(
        self, view: RoomView, event: StoredEvent, limit: int, filter: RoomEventFilter | None
    ) -> tuple[Page, Page]:
        """The events before (newest first) and after one, together at most `limit`."""
        before = await self.load_page(view, event.order - 1, limit // 2, backwards=True, filter=filter)
        after = await self.load_page(view, event.order, limit - limit // 2, backwards=False, filter=filter)
        return before, after

    async def load_nearest(self, view: RoomView, ts_ms: int, *, forwards: bool) -> tuple[EventId, int] | None:
        """The visible event nearest to a time on one side: (event id, origin_server_ts)."""
        known = await self.database.read(load_event_near, view.room_id, ts_ms, forwards)
        await self.history.fetch_nearest(view.room_id, ts_ms, known, forwards=forwards)
        for _ in range(TIMESTAMP_CANDIDATES):
            near = await self.database.read(load_event_near, view.room_id, ts_ms, forwards)
            if near is None:
                return None
            event = await self.events.load(near[0], view.room_id, view.head.version)
            if event is not None and is_visible(view, event):
                return near
            ts_ms = near[1] + (1 if forwards else -1)
        return None

    async def _load_related_by(
        self, view: RoomView, read: Sequence[StoredEvent], filter: RoomEventFilter | None
    ) -> Collection[EventId] | None:
        """The events to which others relate as the filter asks; None if it doesn't."""
        if filter is None or (filter.related_by_rel_types is None and filter.related_by_senders is None):
            return None
        ids = [event.event_id for event in read]
        types, senders = filter.related_by_rel_types, filter.related_by_senders
        return await self.database.read(load_related_by, view.room_id, ids, types, senders, view.until)

    async def _fill(self, gap: HistoryGap, limit: int, read: Sequence[StoredEvent]) -> Filled:
        """Fill a gap among the events that were read, or before them where there are no more."""
        if len(read) == limit and gap.order <= read[-1].order:
            return Filled.NOTHING
        return await self.history.fill(gap, limit)

    def _bounds(self, view: RoomView, start: int, stop: int | None, backwards: bool) -> tuple[int, int]:
        """(after, upto]: what may be read at all."""
        newest = view.until if view.until is not None else 2**62
        if backwards:
            return (BEGINNING if stop is None else stop), min(start, newest)
        return start, (newest if stop is None else min(stop, newest))

    async def _read(self, view: RoomView, after: int, upto: int, limit: int, backwards: bool) -> TimelinePage:
        room_id, version, reader = view.room_id, view.head.version, view.history.user_id
        # PERF(a third of the time of a page on PostgreSQL): one read for all that there is to know.
        return await self.database.read(
            load_timeline_page, room_id, version, after, upto, limit, backwards, reader, view.ignored, self.events.peek
        )


def _matches(filter: RoomEventFilter | None, event: StoredEvent) -> bool:
    pdu = event.pdu
    return filter is None or filter.matches_in_room(pdu.type, pdu.sender, pdu.content)


def _behind(event: StoredEvent, backwards: bool) -> int:
    return event.order - 1 if backwards else event.order


def _narrow(after: int, upto: int, last: StoredEvent, backwards: bool) -> tuple[int, int]:
    return (after, last.order - 1) if backwards else (last.order, upto)
