"""All there is to know at once: GET /initialSync (deprecated), and the same for one room.

Spec: client-server-api#get_matrixclientv3roomsroomidinitialsync
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import orjson

from homeserver.accounts.requester import Requester
from homeserver.clientapi.event_json import EventJson, array
from homeserver.clientapi.sync import TAG
from homeserver.matrix.ids import RoomId, UserId, parse_room_id
from homeserver.rooms.directory import RoomDirectory
from homeserver.rooms.paging import Paging
from homeserver.rooms.view import RoomView, RoomViews
from homeserver.runtime.db import Database
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.runtime.http.response import RawJson
from homeserver.store.account_data import load_account_data_between
from homeserver.store.log_writer import LogWriter
from homeserver.sync.encoding import encode_account_data
from homeserver.sync.legacy import LegacySync
from homeserver.sync.request import DEFAULT_TIMELINE_LIMIT, MAX_TIMELINE_LIMIT
from homeserver.sync.tokens import TimelineToken

_TOLD = frozenset({"invite", "join", "leave", "ban"})


class InitialSyncQuery(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=0)] = DEFAULT_TIMELINE_LIMIT
    archived: bool = False


class RoomInitialSyncQuery(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=0)] = DEFAULT_TIMELINE_LIMIT


class RoomPath(msgspec.Struct):
    room_id: str


class InitialSyncEndpoints:
    def __init__(
        self,
        legacy: LegacySync,
        views: RoomViews,
        paging: Paging,
        json: EventJson,
        directory: RoomDirectory,
        database: Database,
        log: LogWriter,
    ) -> None:
        self._legacy = legacy
        self._views = views
        self._paging = paging
        self._json = json
        self._directory = directory
        self._database = database
        self._log = log

    @endpoint(
        "GET",
        "/_matrix/client/v3/initialSync",
        auth=Auth.GUEST_OK,
        tag=TAG,
        deprecated=True,
        spec="client-server-api#get_matrixclientv3initialsync",
    )
    async def get_initial_sync(self, requester: Requester, query: InitialSyncQuery) -> JsonObject:
        limit = min(query.limit, MAX_TIMELINE_LIMIT)
        return await self._legacy.load_all(requester.user_id, requester.device_id, limit, query.archived)

    @endpoint(
        "GET",
        "/_matrix/client/v3/rooms/{room_id}/initialSync",
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3roomsroomidinitialsync",
    )
    async def get_room_initial_sync(self, requester: Requester, path: RoomPath, query: RoomInitialSyncQuery) -> RawJson:
        view = await self._views.load(parse_room_id(path.room_id), requester.user_id)
        newest = self._log.position if view.until is None else view.until
        limit = min(query.limit, MAX_TIMELINE_LIMIT)
        page = await self._paging.load_page(view, newest, limit, backwards=True) if limit else None
        events = list(reversed(page.events)) if page is not None else []
        state = await self._views.load_state(view, newest)
        state_events = await self._views.load_events(view, list(state.values()))
        start = events[0].order - 1 if events else newest
        parts = [
            b'"room_id":%b' % orjson.dumps(view.room_id),
            b'"messages":{"start":"%b","end":"%b","chunk":%b}'
            % (_token(start), _token(newest), array(await self._json.encode(view, events, requester))),
            b'"state":%b' % array(await self._json.encode(view, state_events, requester)),
            b'"account_data":%b' % array(await self._load_account_data(requester.user_id, view.room_id)),
            b'"presence":[],"receipts":[]',
            b'"visibility":"%b"' % await self._visibility(view.room_id),
            *_membership(view, requester.user_id),
        ]
        return RawJson(b"{%b}" % b",".join(parts))

    async def _load_account_data(self, user_id: UserId, room_id: RoomId) -> list[bytes]:
        rows = await self._database.read(load_account_data_between, user_id, 0, self._log.position)
        return [encode_account_data(row.type, row.content) for row in rows if row.room_id == room_id]

    async def _visibility(self, room_id: RoomId) -> bytes:
        return b"public" if await self._directory.load_is_public(room_id) else b"private"


def _token(order: int) -> bytes:
    return str(TimelineToken(order)).encode()


def _membership(view: RoomView, user_id: UserId) -> list[bytes]:
    membership = view.head.membership(user_id)
    return [b'"membership":"%b"' % membership.encode()] if membership is not None and membership in _TOLD else []
