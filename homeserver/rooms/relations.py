"""What relates to events: pages of it, threads, and what is bundled with the events themselves.

Spec: client-server-api#aggregations-of-child-events
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import orjson
from attrs import define, evolve, frozen

from homeserver.accounts.ignored_users import NOBODY, IgnoredUsers
from homeserver.folds.erased_users import ErasedUsers
from homeserver.folds.events import EventCache
from homeserver.folds.histories import Histories, HistoryKey, UserHistory
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.pdu import redact_pdu
from homeserver.matrix.relations import REPLACE, relation_of
from homeserver.matrix.versions import RoomVersion
from homeserver.rooms.client_events import encode
from homeserver.rooms.view import RoomView, is_visible
from homeserver.runtime.db import Database
from homeserver.store import relations as store
from homeserver.store.events import StoredEvent
from homeserver.store.relations import MAX_RECURSION, Bundle, RelatedFilter

RELATED_AT_ONCE = 200
MAX_LOOKS = 10
Encoded = Mapping[EventId, bytes]
NOTHING: Encoded = {}


@frozen
class RelatedPage:
    """events: in the order asked for. end: where the next page begins; None at the end."""

    events: Sequence[StoredEvent]
    end: int | None


@define(eq=False)
class Relations:
    database: Database
    events: EventCache
    erased: ErasedUsers
    ignored: IgnoredUsers
    histories: Histories

    async def load_page(
        self,
        view: RoomView,
        target: EventId,
        *,
        rel_type: str | None,
        event_type: str | None,
        start: int | None,
        stop: int | None,
        limit: int,
        backwards: bool,
        recurse: bool,
    ) -> RelatedPage:
        """The visible events that relate to an event, between two places of the timeline. Of very many that are hidden, a page
        goes no further than MAX_LOOKS: it may be short, or empty, and yet not be the last.
        """
        depth = MAX_RECURSION if recurse else 1
        low, high = (stop, start) if backwards else (start, stop)
        wanted = RelatedFilter(rel_type, event_type, low, high, backwards)
        at_once = max(limit + 1, RELATED_AT_ONCE)
        found: list[StoredEvent] = []
        place: int | None = None
        for _ in range(MAX_LOOKS):
            related = await self.database.read(store.load_related, view.room_id, target, depth, wanted, at_once)
            events = await self._load(view.room_id, view.head.version, [one.event_id for one in related])
            found += [event for event in events if is_visible(view, event)]
            if len(found) > limit:
                found = found[:limit]
                place = found[-1].order
                break
            place = related[-1].order if len(related) == at_once else None
            if place is None:
                break
            wanted = wanted.behind(place)
        return RelatedPage(found, place - 1 if backwards and place is not None else place)

    async def load_threads(
        self, view: RoomView, before: int | None, limit: int, participant: UserId | None
    ) -> RelatedPage:
        """The roots of the room's threads, that with the newest event first which the reader is told of. Roots of users whom
        they ignore are redacted.

        Spec: client-server-api#get_matrixclientv1roomsroomidthreads
        """
        place, spans = 2**62 if before is None else before, None if view.history.sees_all else view.history.spans
        rows = await self.database.read(
            store.load_threads, view.room_id, place, limit + 1, participant, view.ignored, spans
        )
        roots = await self._load(view.room_id, view.head.version, [row.root for row in rows[:limit]])
        everybodys = evolve(view, ignored=NOBODY)
        visible = [_without_ignored(view, event) for event in roots if is_visible(everybodys, event)]
        return RelatedPage(visible, rows[limit - 1].latest if len(rows) > limit else None)

    async def load_bundles(
        self,
        events: Collection[StoredEvent],
        versions: Mapping[RoomId, RoomVersion],
        reader: UserId,
        now_ms: int,
        *,
        with_threads: bool = True,
    ) -> Encoded:
        """For each of the events that has any, what is bundled with it, as JSON.

        Spec: client-server-api#aggregations-of-child-events
        """
        wanted = [(event.pdu.room_id, event.event_id) for event in events]
        if not wanted:
            return NOTHING
        ignored = await self.ignored.load(reader)
        bundles = await self.database.read(store.load_bundles, wanted, reader, ignored)
        return await self.encode_bundles(bundles, events, versions, reader, now_ms, with_threads=with_threads)

    async def encode_bundles(
        self,
        bundles: Mapping[EventId, Bundle],
        events: Collection[StoredEvent],
        versions: Mapping[RoomId, RoomVersion],
        reader: UserId,
        now_ms: int,
        *,
        with_threads: bool = True,
    ) -> Encoded:
        """As `load_bundles`, of what was read with the events: which is more, where not all of them are shown."""
        by_id = {event.event_id: event for event in events} if bundles else {}
        bundles = {event_id: bundle for event_id, bundle in bundles.items() if event_id in by_id}
        if not bundles:
            return NOTHING
        rooms = {event_id: by_id[event_id].pdu.room_id for event_id in bundles}
        histories = await self.histories.load_many([(room_id, reader) for room_id in set(rooms.values())])
        bundles = {**bundles, **await self._load_seen(rooms, histories, reader)}
        if not with_threads:
            bundles = {event_id: bundle.without_thread() for event_id, bundle in bundles.items()}
        quoted = await self._load_quoted(bundles, rooms, versions)
        quotes = {room_id: _Quotes(quoted, history, self.erased, now_ms) for (room_id, _), history in histories.items()}
        latest = [
            event
            for event_id, bundle in bundles.items()
            if (event := quotes[rooms[event_id]].latest_of(bundle)) is not None
        ]
        # What relates to the latest event of a thread is told with it; threads within threads are not, so that none loops.
        of_latest = await self.load_bundles(latest, versions, reader, now_ms, with_threads=False)
        found = {}
        for event_id, bundle in bundles.items():
            encoded = _encode(by_id[event_id], bundle, quotes[rooms[event_id]], of_latest)
            if encoded is not None:
                found[event_id] = encoded
        return found

    async def _load_seen(
        self, rooms: Mapping[EventId, RoomId], histories: Mapping[HistoryKey, UserHistory], reader: UserId
    ) -> Mapping[EventId, Bundle]:
        """The bundles anew of rooms of whose history a part is hidden from the reader: of what they may see."""
        seen = {
            room_id: history.spans
            for room_id in set(rooms.values())
            if not (history := histories[room_id, reader]).sees_all
        }
        if not seen:
            return {}
        wanted = [(room_id, event_id) for event_id, room_id in rooms.items() if room_id in seen]
        ignored = await self.ignored.load(reader)
        return await self.database.read(store.load_bundles, wanted, reader, ignored, seen)

    async def _load_quoted(
        self, bundles: Mapping[EventId, Bundle], rooms: Mapping[EventId, RoomId], versions: Mapping[RoomId, RoomVersion]
    ) -> Mapping[EventId, StoredEvent]:
        wanted = {}
        for event_id, bundle in bundles.items():
            for quoted in (*bundle.edits, *bundle.thread_aside, bundle.thread_latest):
                if quoted is not None:
                    wanted[quoted] = rooms[event_id]
        return await self.events.load_many(wanted, dict(versions))

    async def _load(self, room_id: RoomId, version: RoomVersion, ids: Sequence[EventId]) -> list[StoredEvent]:
        found = await self.events.load_many(dict.fromkeys(ids, room_id), {room_id: version})
        return [found[event_id] for event_id in ids if event_id in found]


def _without_ignored(view: RoomView, event: StoredEvent) -> StoredEvent:
    if event.pdu.sender not in view.ignored:
        return event
    return StoredEvent(redact_pdu(event.pdu), nid=event.nid, timeline_order=event.timeline_order)


@frozen
class _Quotes:
    """Events to be bundled with others of a room, for a reader with that history in it."""

    events: Mapping[EventId, StoredEvent]
    history: UserHistory
    erased: ErasedUsers
    now_ms: int

    def get(self, event_id: EventId | None) -> StoredEvent | None:
        """The event, if the reader may see it: they may have left before it was sent."""
        event = self.events.get(event_id) if event_id is not None else None
        return event if event is not None and self.history.can_see(event) else None

    def is_erased(self, event: StoredEvent) -> bool:
        """The reader gets the event as if it were redacted."""
        return self.erased.shown(event, self.history.membership_around(event)) is not event

    def aside_of(self, bundle: Bundle) -> list[StoredEvent]:
        """What the reader sees of the thread's events that stand aside."""
        return [found for event_id in bundle.thread_aside if (found := self.get(event_id)) is not None]

    def latest_of(self, bundle: Bundle) -> StoredEvent | None:
        """The newest event of the thread that the reader may see."""
        latest, aside = self.get(bundle.thread_latest), self.aside_of(bundle)
        return max(aside if latest is None else [latest, *aside], key=lambda found: found.order, default=None)

    def encode(self, event: StoredEvent, bundle: bytes | None = None) -> bytes:
        membership = self.history.membership_around(event)
        shown = self.erased.shown(event, membership)
        return encode(shown, None, self.now_ms, membership=membership, with_room_id=True, bundle=bundle)


def _encode(event: StoredEvent, bundle: Bundle, quotes: _Quotes, of_latest: Encoded) -> bytes | None:
    parts = []
    edit = _newest_edit(event, [found for event_id in bundle.edits if (found := quotes.get(event_id)) is not None])
    if edit is not None and not quotes.is_erased(event):
        parts.append(b'"m.replace":%b' % quotes.encode(edit))
    if bundle.references:
        chunk = [{"event_id": event_id} for event_id in bundle.references]
        parts.append(b'"m.reference":%b' % orjson.dumps({"chunk": chunk}))
    latest = quotes.latest_of(bundle)
    if latest is not None:
        participated = bundle.participated or event.pdu.sender == quotes.history.user_id
        told = quotes.encode(latest, of_latest.get(latest.event_id))
        count = bundle.thread_count + len(quotes.aside_of(bundle))
        parts.append(
            b'"m.thread":{"latest_event":%b,"count":%d,"current_user_participated":%b}'
            % (told, count, b"true" if participated else b"false")
        )
    return b"{%b}" % b",".join(parts) if parts else None


def _newest_edit(event: StoredEvent, candidates: Sequence[StoredEvent]) -> StoredEvent | None:
    """Spec: client-server-api#server-side-aggregation-of-mreplace-relationships"""
    relation = relation_of(event.pdu.content)
    if (
        event.redacted_by is not None
        or event.pdu.state_key is not None
        or (relation is not None and relation.rel_type == REPLACE)
    ):
        return None
    valid = [edit for edit in candidates if _is_valid_edit(event, edit)]
    return max(valid, key=lambda edit: (edit.pdu.origin_server_ts, edit.event_id), default=None)


def _is_valid_edit(event: StoredEvent, edit: StoredEvent) -> bool:
    """Spec: client-server-api#validity-of-replacement-events"""
    pdu, original = edit.pdu, event.pdu
    has_content = pdu.type == "m.room.encrypted" or isinstance(pdu.content.get("m.new_content"), dict)
    return pdu.sender == original.sender and pdu.type == original.type and pdu.state_key is None and has_content
