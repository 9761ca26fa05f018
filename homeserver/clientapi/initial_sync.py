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
from homeserver.presence.presence import Presence
from homeserver.rooms.directory import RoomDirectory
from homeserver.rooms.paging import Paging
from homeserver.rooms.view import RoomView, RoomViews
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.runtime.http.response import RawJson
from homeserver.store.account_data import load_room_account_data
from homeserver.store.sync import load_receipts
from homeserver.sync.encoding import encode_account_data
from homeserver.sync.legacy import LegacySync
from homeserver.sync.presence import encode_presence
from homeserver.sync.request import DEFAULT_TIMELINE_LIMIT, MAX_TIMELINE_LIMIT
from homeserver.sync.segments import visible_receipts
from homeserver.sync.tokens import SyncToken, TimelineToken
from homeserver.sync.view import Sources

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
        sources: Sources,
        presence: Presence | None,
    ) -> None:
        self._legacy = legacy
        self._views = views
        self._paging = paging
        self._json = json
        self._directory = directory
        self._sources = sources
        self._presence = presence

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
        newest = SyncToken(self._sources.log_writer.position, self._sources.typing.serial)
        state = await self._views.load_state(view, newest.position)
        state_events = await self._views.load_events(view, list(state.values()))
        parts = [
            b'"room_id":%b' % orjson.dumps(view.room_id),
            b'"messages":%b' % await self._messages(view, newest, min(query.limit, MAX_TIMELINE_LIMIT), requester),
            b'"state":%b' % array(await self._json.encode(view, state_events, requester)),
            b'"account_data":%b' % array(await self._load_account_data(requester.user_id, view.room_id)),
            b'"presence":%b' % array(self._members_presence(view, requester.user_id)),
            b'"receipts":%b' % array(await self._load_receipts(view, requester.user_id)),
            b'"visibility":"%b"' % await self._visibility(view.room_id),
            *_membership(view, requester.user_id),
        ]
        return RawJson(b"{%b}" % b",".join(parts))

    async def _messages(self, view: RoomView, newest: SyncToken, limit: int, requester: Requester) -> bytes:
        """The end of the timeline as the user sees it; its `end` is a place to go on from with /events."""
        end = newest if view.until is None else TimelineToken(view.until)
        last = newest.position if view.until is None else view.until
        page = await self._paging.load_page(view, last, limit, backwards=True) if limit else None
        events, bundles = (list(reversed(page.events)), page.bundles) if page is not None else ([], None)
        chunk = await self._json.encode(view, events, requester, bundles)
        parts = [b'"chunk":%b' % array(chunk), b'"end":"%b"' % _text(end)]
        if page is None or page.end is not None:
            parts.append(b'"start":"%b"' % _text(TimelineToken(last if page is None or page.end is None else page.end)))
        return b"{%b}" % b",".join(parts)

    async def _load_account_data(self, user_id: UserId, room_id: RoomId) -> list[bytes]:
        rows = await self._sources.database.read(load_room_account_data, user_id, room_id)
        return [encode_account_data(row.type, row.content) for row in rows]

    def _members_presence(self, view: RoomView, user_id: UserId) -> list[bytes]:
        """Of those who share the room with the user and are not offline. Those who look from outside share nothing."""
        if self._presence is None or not view.head.is_joined(user_id):
            return []
        now_ms = self._sources.clock.time_ms()
        shown = [
            user for user in self._presence.present_users() if view.head.is_joined(user) and user not in view.ignored
        ]
        return [encode_presence(self._presence, user, now_ms) for user in shown]

    async def _load_receipts(self, view: RoomView, user_id: UserId) -> list[bytes]:
        if not view.head.is_joined(user_id):
            return []
        _, receipts = await self._sources.database.read(load_receipts, [view.room_id], 0, user_id)
        encoded = visible_receipts(receipts[view.room_id], user_id, view.ignored)
        return [] if encoded is None else [encoded]

    async def _visibility(self, room_id: RoomId) -> bytes:
        return b"public" if await self._directory.load_is_public(room_id) else b"private"


def _text(token: SyncToken | TimelineToken) -> bytes:
    return str(token).encode()


def _membership(view: RoomView, user_id: UserId) -> list[bytes]:
    membership = view.head.membership(user_id)
    return [b'"membership":"%b"' % membership.encode()] if membership is not None and membership in _TOLD else []
