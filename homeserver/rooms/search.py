"""Searching the rooms that a user is or was in.

The index names events that may fit (store/search.py); each is then loaded, and found if the user may see it and it really
contains the words as they see it. So what is hidden, redacted, of ignored users or in encrypted rooms is neither found nor
counted; nor is what erased users said while the searcher was not there.

Spec: client-server-api#server-side-search
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal

from attrs import define, field, frozen

from homeserver.folds.erased_users import ErasedUsers
from homeserver.folds.events import EventCache
from homeserver.folds.memberships import Memberships
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.filters import RoomEventFilter
from homeserver.matrix.ids import RoomId, UserId
from homeserver.rooms.search_index import SearchIndex
from homeserver.rooms.view import RoomView, RoomViews, is_visible
from homeserver.runtime.db import Database
from homeserver.store.events import StoredEvent
from homeserver.store.search import Hit, load_hits
from homeserver.store.search_words import MAX_WORDS, SEARCHED, contains, rank, searched_text, words_of

ENCRYPTION: Final = ("m.room.encryption", "")
NEWEST: Final = 2**62
BATCH: Final = 200
# Candidates that one request looks at; of more than that, the newest are ranked, and the count is of these.
MAX_CANDIDATES: Final = 1_000
MAX_ROOMS: Final = 10_000
MAX_PREDECESSORS: Final = 20


@frozen
class Criteria:
    """words: folded. types: event types to look at."""

    words: Sequence[str]
    types: Collection[str]
    filter: RoomEventFilter
    order_by: Literal["recent", "rank"]


@frozen
class Place:
    """Where a page begins: before: the place in the log that hits are older than. skip: of those, how many were told
    (ranked) on earlier pages; counted: how many (recent) were.
    """

    before: int = NEWEST
    skip: int = 0
    counted: int = 0


@frozen
class Found:
    view: RoomView
    event: StoredEvent
    nid: int
    rank: float


@frozen
class Results:
    """next: where the next page begins, if there may be one."""

    found: Sequence[Found]
    count: int
    next: Place | None


NOTHING: Final = Results((), 0, None)


def parse_words(term: str) -> list[str]:
    """The distinct words of a search term, in order, at most MAX_WORDS."""
    return list(dict.fromkeys(words_of(term)))[:MAX_WORDS]


@define(eq=False)
class Search:
    """Finds events. Bounded: a request loads at most MAX_CANDIDATES events."""

    database: Database
    index: SearchIndex
    events: EventCache
    memberships: Memberships
    views: RoomViews
    erased: ErasedUsers

    async def search(self, user_id: UserId, criteria: Criteria, place: Place, limit: int) -> Results:
        types = [type_ for type_ in criteria.types if criteria.filter.types.matches(type_)]
        if not criteria.words or not types or criteria.filter.matches_none:
            return NOTHING
        await self.index.catch_up()
        rooms = await self._load_rooms(user_id, criteria.filter)
        looking = _Looking(self, user_id, criteria, types, rooms, place.before)
        if criteria.order_by == "rank":
            return await _ranked(looking, place, limit)
        return await _recent(looking, place, limit)

    async def _load_rooms(self, user_id: UserId, filter: RoomEventFilter) -> list[RoomId]:
        """The rooms that the user is or was in and that the filter takes; with a room it names come its predecessors."""
        own = self.memberships.get(user_id) or await self.memberships.load(user_id)
        mine = {
            room_id for room_id, row in own.items() if not row.forgotten and row.membership in ("join", "leave", "ban")
        }
        if filter.rooms.only is not None:
            named = {RoomId(room_id) for room_id in filter.rooms.only if room_id in mine}
            mine = {room_id for room_id in await self._with_predecessors(named) if room_id in mine}
        return sorted(room_id for room_id in mine if room_id not in filter.rooms.excluded)[:MAX_ROOMS]

    async def _with_predecessors(self, rooms: Collection[RoomId]) -> set[RoomId]:
        found = set(rooms)
        level = set(rooms)
        for _ in range(MAX_PREDECESSORS):
            heads = (await self.views.heads.load_many(list(level))).values() if level else ()
            level = {old for head in heads if (old := predecessor_of(head.create.content)) is not None} - found
            found |= level
        return found


def predecessor_of(create_content: Mapping[str, object]) -> RoomId | None:
    """Spec: client-server-api#mroomcreate"""
    predecessor = create_content.get("predecessor")
    room_id = predecessor.get("room_id") if isinstance(predecessor, dict) else None
    return RoomId(room_id) if isinstance(room_id, str) else None


@define(eq=False)
class _Looking:
    """One request's way through the hits, the newest first."""

    search: Search
    user_id: UserId
    criteria: Criteria
    types: Sequence[str]
    rooms: Sequence[RoomId]
    before: int
    seen: int = 0
    done: bool = False
    _views: dict[RoomId, RoomView | None] = field(factory=dict)

    async def load_next(self) -> list[Found]:
        """What is found among the next hits; `done` when there are no more, or when MAX_CANDIDATES were looked at."""
        words = self.criteria.words
        hits = await self.search.database.read(load_hits, words, self.rooms, self.types, self.before, BATCH)
        self.seen += len(hits)
        self.done = len(hits) < BATCH
        if hits:
            self.before = hits[-1].nid
        return await self._look(hits)

    @property
    def exhausted(self) -> bool:
        return self.done or self.seen >= MAX_CANDIDATES

    async def _look(self, hits: Sequence[Hit]) -> list[Found]:
        for room_id in dict.fromkeys(hit.room_id for hit in hits):
            if room_id not in self._views:
                self._views[room_id] = await self._load_view(room_id)
        views = {hit: view for hit in hits if (view := self._views[hit.room_id]) is not None}
        versions = {view.room_id: view.head.version for view in views.values()}
        events = await self.search.events.load_many({hit.event_id: hit.room_id for hit in views}, versions)
        return [
            Found(view, event, hit.nid, rank(searched_text(event.pdu.type, event.pdu.content), self.criteria.words))
            for hit, view in views.items()
            if (event := events.get(hit.event_id)) is not None and self._fits(view, event)
        ]

    async def _load_view(self, room_id: RoomId) -> RoomView | None:
        """None for a room that the user may not look into, and for an encrypted one."""
        try:
            view = await self.search.views.load(room_id, self.user_id)
        except Forbidden:
            return None
        return None if ENCRYPTION in view.head.state else view

    def _fits(self, view: RoomView, event: StoredEvent) -> bool:
        pdu = event.pdu
        return (
            event.redacted_by is None
            and is_visible(view, event)
            and self.search.erased.shown(event, view.history.membership_around(event)) is event
            and self.criteria.filter.matches_in_room(pdu.type, pdu.sender, pdu.content)
            and contains(searched_text(pdu.type, pdu.content), self.criteria.words)
        )


async def _recent(looking: _Looking, place: Place, limit: int) -> Results:
    """The newest first. The count is of this page, those before it, and what else was looked at."""
    found: list[Found] = []
    while True:
        found += await looking.load_next()
        if looking.exhausted or len(found) > limit:
            break
    page = found[:limit]
    more = len(found) > limit or not looking.done
    before = page[-1].nid if len(found) > limit else looking.before
    following = Place(before, 0, place.counted + len(page)) if more else None
    return Results(page, place.counted + len(found), following)


async def _ranked(looking: _Looking, place: Place, limit: int) -> Results:
    """The best of the newest MAX_CANDIDATES. Pages see the same hits, those that were there at the first of them."""
    found: list[Found] = []
    while not looking.exhausted:
        found += await looking.load_next()
    found.sort(key=lambda one: (-one.rank, -one.nid))
    end = place.skip + limit
    newest = place.before if place.before != NEWEST else max((one.nid for one in found), default=0) + 1
    return Results(found[place.skip : end], len(found), Place(newest, end) if end < len(found) else None)


__all__ = ["SEARCHED", "Criteria", "Found", "Place", "Results", "Search", "parse_words"]
