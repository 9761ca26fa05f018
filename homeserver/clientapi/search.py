"""POST /search.

Spec: client-server-api#server-side-search
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import orjson

from homeserver.accounts.requester import Requester
from homeserver.clientapi.event_json import EventJson
from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.filters import RoomEventFilter, parse_room_event_filter
from homeserver.rooms.paging import Page, Paging
from homeserver.rooms.search import SEARCHED, Criteria, Found, Place, Results, Search, parse_words
from homeserver.rooms.view import RoomView, RoomViews
from homeserver.runtime.http.endpoint import Auth, endpoint
from homeserver.runtime.http.response import RawJson
from homeserver.store.events import StoredEvent
from homeserver.sync.tokens import TimelineToken

DEFAULT_LIMIT: Final = 10
MAX_LIMIT: Final = 100
DEFAULT_CONTEXT: Final = 5
MAX_CONTEXT: Final = 50
MAX_TERM: Final = 1_000  # characters

SearchKey = Literal["content.body", "content.name", "content.topic"]
GroupKey = Literal["room_id", "sender"]

_TOKEN = re.compile(r"(\d{1,19})_(\d{1,9})_(\d{1,9})")


class Context(msgspec.Struct):
    before_limit: int = DEFAULT_CONTEXT
    after_limit: int = DEFAULT_CONTEXT
    include_profile: bool = False


class Group(msgspec.Struct):
    key: GroupKey


class Groupings(msgspec.Struct):
    group_by: list[Group] = []


class RoomEventsCriteria(msgspec.Struct):
    search_term: str
    keys: list[SearchKey] | None = None
    filter: dict[str, Any] = {}
    order_by: Literal["recent", "rank"] = "rank"
    event_context: Context | None = None
    include_state: bool = False
    groupings: Groupings = msgspec.field(default_factory=Groupings)


class Categories(msgspec.Struct):
    room_events: RoomEventsCriteria | None = None


class SearchBody(msgspec.Struct):
    search_categories: Categories


class SearchQuery(msgspec.Struct):
    next_batch: str | None = None


class SearchEndpoint:
    def __init__(self, search: Search, views: RoomViews, paging: Paging, json: EventJson) -> None:
        self._search = search
        self._views = views
        self._paging = paging
        self._json = json

    @endpoint(
        "POST",
        "/_matrix/client/v3/search",
        auth=Auth.USER,
        limit="search",
        tag="Search",
        spec="client-server-api#post_matrixclientv3search",
    )
    async def post_search(self, requester: Requester, query: SearchQuery, body: SearchBody) -> RawJson:
        wanted = body.search_categories.room_events
        if wanted is None:
            return RawJson(b'{"search_categories":{}}')
        filter, place = parse_room_event_filter(wanted.filter), _parse_place(query.next_batch)
        criteria = _criteria(wanted, filter)
        limit = max(1, filter.limit_within(DEFAULT_LIMIT, MAX_LIMIT))
        results = await self._search.search(requester.user_id, criteria, place, limit)
        return RawJson(
            orjson.dumps({"search_categories": {"room_events": await self._encode(requester, wanted, results)}})
        )

    async def _encode(self, requester: Requester, wanted: RoomEventsCriteria, results: Results) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "count": results.count,
            "highlights": parse_words(wanted.search_term),
            "results": [await self._encode_found(requester, found, wanted.event_context) for found in results.found],
        }
        if results.next is not None:
            answer["next_batch"] = f"{results.next.before}_{results.next.skip}_{results.next.counted}"
        if wanted.groupings.group_by:
            answer["groups"] = {group.key: _grouped(results.found, group.key) for group in wanted.groupings.group_by}
        if wanted.include_state:
            views = {found.view.room_id: found.view for found in results.found}
            answer["state"] = {room_id: await self._encode_state(requester, view) for room_id, view in views.items()}
        return answer

    async def _encode_found(self, requester: Requester, found: Found, context: Context | None) -> dict[str, Any]:
        encoded = await self._encode_events(requester, found.view, [found.event])
        result = {"rank": found.rank, "result": encoded[0]}
        if context is not None:
            result["context"] = await self._encode_context(requester, found, context)
        return result

    async def _encode_context(self, requester: Requester, found: Found, context: Context) -> dict[str, Any]:
        view, event = found.view, found.event
        before = await self._load_side(view, event.order - 1, context.before_limit, backwards=True)
        after = await self._load_side(view, event.order, context.after_limit, backwards=False)
        first = before.events[-1].order if before.events else event.order
        last = after.events[-1].order if after.events else event.order
        answer: dict[str, Any] = {
            "events_before": await self._encode_events(requester, view, before.events),
            "events_after": await self._encode_events(requester, view, after.events),
            "start": str(TimelineToken(first - 1)),
            "end": str(TimelineToken(last)),
        }
        if context.include_profile:
            answer["profile_info"] = await self._load_profiles(
                view, [event, *before.events, *after.events], event.order
            )
        return answer

    async def _load_side(self, view: RoomView, start: int, limit: int, *, backwards: bool) -> Page:
        return await self._paging.load_page(view, start, max(0, min(limit, MAX_CONTEXT)), backwards=backwards)

    async def _load_profiles(
        self, view: RoomView, events: Sequence[StoredEvent], order: int
    ) -> dict[str, dict[str, object]]:
        """The senders as they were at a place of the timeline."""
        state = await self._views.load_state(view, order)
        members = {event.pdu.sender: state.get(("m.room.member", event.pdu.sender)) for event in events}
        loaded = await self._views.load_events(
            view, [event_id for event_id in members.values() if event_id is not None]
        )
        return {str(member.pdu.state_key): _profile(member.pdu.content) for member in loaded}

    async def _encode_state(self, requester: Requester, view: RoomView) -> list[orjson.Fragment]:
        state = await self._views.load_state(view)
        return await self._encode_events(requester, view, await self._views.load_events(view, list(state.values())))

    async def _encode_events(
        self, requester: Requester, view: RoomView, events: Sequence[StoredEvent]
    ) -> list[orjson.Fragment]:
        return [orjson.Fragment(encoded) for encoded in await self._json.encode(view, events, requester)]


def _criteria(wanted: RoomEventsCriteria, filter: RoomEventFilter) -> Criteria:
    """Raises: InvalidParam."""
    if len(wanted.search_term) > MAX_TERM:
        raise InvalidParam("search_categories.room_events.search_term", f"longer than {MAX_TERM} characters")
    keys = wanted.keys if wanted.keys is not None else SEARCHED.values()
    types = [type_ for type_, key in SEARCHED.items() if key in keys]
    return Criteria(parse_words(wanted.search_term), types, filter, wanted.order_by)


def _parse_place(token: str | None) -> Place:
    """Raises: InvalidParam."""
    if token is None:
        return Place()
    match = _TOKEN.fullmatch(token)
    if match is None or int(match[1]) > 2**62:
        raise InvalidParam("next_batch", "not a token of this server")
    return Place(int(match[1]), int(match[2]), int(match[3]))


def _grouped(found: Sequence[Found], key: GroupKey) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for one in found:
        name = one.event.pdu.room_id if key == "room_id" else one.event.pdu.sender
        group = groups.setdefault(name, {"order": len(groups) + 1, "results": []})
        group["results"].append(one.event.event_id)
    return groups


def _profile(content: Mapping[str, object]) -> dict[str, object]:
    return {name: content[name] for name in ("displayname", "avatar_url") if isinstance(content.get(name), str)}
