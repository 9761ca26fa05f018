"""Relations between events, and threads.

Spec: client-server-api#relationships-api
"""

from __future__ import annotations

from typing import Literal

import msgspec
import orjson

from homeserver.accounts.requester import Requester
from homeserver.clientapi.event_json import EventJson, array
from homeserver.matrix.ids import parse_event_id, parse_room_id
from homeserver.rooms.relations import Relations
from homeserver.rooms.view import RoomViews
from homeserver.runtime.http.endpoint import Auth, endpoint
from homeserver.runtime.http.response import RawJson
from homeserver.store.relations import MAX_RECURSION
from homeserver.sync.tokens import TimelineToken, parse_timeline_token

TAG = "Event relationships"
BASE = "/_matrix/client/v1/rooms/{room_id}"
DEFAULT_LIMIT = 50
MAX_LIMIT = 1000


class RelationsPath(msgspec.Struct):
    room_id: str
    event_id: str


class TypedPath(RelationsPath):
    rel_type: str


class FullPath(TypedPath):
    event_type: str


class RoomPath(msgspec.Struct):
    room_id: str


class RelationsQuery(msgspec.Struct):
    dir: Literal["b", "f"] = "b"
    from_: str | None = msgspec.field(name="from", default=None)
    to: str | None = None
    limit: int = DEFAULT_LIMIT
    recurse: bool = False


class ThreadsQuery(msgspec.Struct):
    include: Literal["all", "participated"] = "all"
    limit: int = DEFAULT_LIMIT
    from_: str | None = msgspec.field(name="from", default=None)


class RelationEndpoints:
    def __init__(self, views: RoomViews, relations: Relations, json: EventJson) -> None:
        self._views = views
        self._relations = relations
        self._json = json

    @endpoint(
        "GET",
        BASE + "/relations/{event_id}",
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#get_matrixclientv1roomsroomidrelationseventid",
        aliases=("/_matrix/client/unstable/rooms/{room_id}/relations/{event_id}",),
    )
    async def get_relations(self, requester: Requester, path: RelationsPath, query: RelationsQuery) -> RawJson:
        return await self._answer(requester, path, query, None, None)

    @endpoint(
        "GET",
        BASE + "/relations/{event_id}/{rel_type}",
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#get_matrixclientv1roomsroomidrelationseventidreltype",
        aliases=("/_matrix/client/unstable/rooms/{room_id}/relations/{event_id}/{rel_type}",),
    )
    async def get_typed(self, requester: Requester, path: TypedPath, query: RelationsQuery) -> RawJson:
        return await self._answer(requester, path, query, path.rel_type, None)

    @endpoint(
        "GET",
        BASE + "/relations/{event_id}/{rel_type}/{event_type}",
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#get_matrixclientv1roomsroomidrelationseventidreltypeeventtype",
        aliases=("/_matrix/client/unstable/rooms/{room_id}/relations/{event_id}/{rel_type}/{event_type}",),
    )
    async def get_full(self, requester: Requester, path: FullPath, query: RelationsQuery) -> RawJson:
        return await self._answer(requester, path, query, path.rel_type, path.event_type)

    @endpoint(
        "GET",
        BASE + "/threads",
        auth=Auth.GUEST_OK,
        limit="other",
        tag="Threads",
        spec="client-server-api#get_matrixclientv1roomsroomidthreads",
    )
    async def get_threads(self, requester: Requester, path: RoomPath, query: ThreadsQuery) -> RawJson:
        view = await self._views.load(parse_room_id(path.room_id), requester.user_id)
        participant = requester.user_id if query.include == "participated" else None
        page = await self._relations.load_threads(view, _place(query.from_, "from"), _limit(query.limit), participant)
        return RawJson(_page(await self._json.encode(view, page.events, requester), page.end))

    async def _answer(
        self,
        requester: Requester,
        path: RelationsPath,
        query: RelationsQuery,
        rel_type: str | None,
        event_type: str | None,
    ) -> RawJson:
        view = await self._views.load(parse_room_id(path.room_id), requester.user_id)
        target = await self._views.load_target(view, parse_event_id(path.event_id))
        page = await self._relations.load_page(
            view,
            target.event_id,
            rel_type=rel_type,
            event_type=event_type,
            start=_place(query.from_, "from"),
            stop=_place(query.to, "to"),
            limit=_limit(query.limit),
            backwards=query.dir == "b",
            recurse=query.recurse,
        )
        more: dict[str, object] = {"recursion_depth": MAX_RECURSION} if query.recurse else {}
        if query.from_ is not None:
            more["prev_batch"] = query.from_
        return RawJson(_page(await self._json.encode(view, page.events, requester), page.end, **more))


def _place(token: str | None, field: str) -> int | None:
    return parse_timeline_token(token, field).order if token is not None else None


def _limit(limit: int) -> int:
    return max(1, min(limit, MAX_LIMIT))


def _page(chunk: list[bytes], end: int | None, **more: object) -> bytes:
    fields = more if end is None else {"next_batch": str(TimelineToken(end)), **more}
    tail = orjson.dumps(fields)[1:-1]
    return b'{"chunk":%b%b%b}' % (array(chunk), b"," if tail else b"", tail)
