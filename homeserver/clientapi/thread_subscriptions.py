"""Subscriptions to threads.

Spec: MSC4306, MSC4308
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.ids import EventId, RoomId, parse_event_id, parse_room_id
from homeserver.rooms.thread_subscriptions import ThreadSubscriptions
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.store.thread_subscriptions import ThreadSubscription
from homeserver.sync.sliding.thread_subscriptions import encode_changes
from homeserver.sync.tokens import parse_pos

PATH: Final = "/_matrix/client/unstable/io.element.msc4306/rooms/{room_id}/thread/{thread_root}/subscription"
TAG: Final = "Threads"
DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000

_PLACE = re.compile(r"\d{1,18}", re.ASCII)


class ThreadPath(msgspec.Struct):
    room_id: str
    thread_root: str


class SubscribeBody(msgspec.Struct):
    automatic: str | None = None


class ChangesQuery(msgspec.Struct):
    dir: Literal["b"] = "b"
    from_: str | None = msgspec.field(name="from", default=None)
    to: str | None = None
    limit: int = DEFAULT_LIMIT


class ThreadSubscriptionEndpoints:
    def __init__(self, subscriptions: ThreadSubscriptions) -> None:
        self._subscriptions = subscriptions

    @endpoint("PUT", PATH, auth=Auth.USER, tag=TAG, optional_body=True)
    async def put_subscription(self, requester: Requester, path: ThreadPath, body: SubscribeBody) -> JsonObject:
        """Subscribe to a thread; `automatic` names the event for which a client does so by itself."""
        room_id, root = _parse(path)
        cause = parse_event_id(body.automatic, "automatic") if body.automatic is not None else None
        await self._subscriptions.subscribe(requester.user_id, room_id, root, cause)
        return {}

    @endpoint("GET", PATH, auth=Auth.USER, tag=TAG)
    async def get_subscription(self, requester: Requester, path: ThreadPath) -> JsonObject:
        """Whether the user is subscribed to a thread, and how that came."""
        found = await self._subscriptions.load(requester.user_id, *_parse(path))
        return {"automatic": found.automatic}

    @endpoint("DELETE", PATH, auth=Auth.USER, tag=TAG)
    async def delete_subscription(self, requester: Requester, path: ThreadPath) -> JsonObject:
        """Unsubscribe from a thread."""
        await self._subscriptions.unsubscribe(requester.user_id, *_parse(path))
        return {}

    @endpoint("GET", "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions", auth=Auth.USER, tag=TAG)
    async def get_changes(self, requester: Requester, query: ChangesQuery) -> JsonObject:
        """Changes that a response of sliding sync had no place for, the newest first."""
        before = 2**62 if query.from_ is None else _place(query.from_)
        after = 0 if query.to is None else _position(query.to)
        limit = max(1, min(query.limit, MAX_LIMIT))
        found = await self._subscriptions.load_changes(requester.user_id, after, before, limit + 1)
        return {**encode_changes(found[:limit]), **_end(found, limit)}


def _parse(path: ThreadPath) -> tuple[RoomId, EventId]:
    return parse_room_id(path.room_id), parse_event_id(path.thread_root)


def _place(token: str) -> int:
    if not _PLACE.fullmatch(token):
        raise InvalidParam("from", "not a token of this server")
    return int(token)


def _position(pos: str) -> int:
    """Of a sliding sync connection's `pos`."""
    parsed = parse_pos(pos)
    if parsed is None:
        raise InvalidParam("to", "not a position of sliding sync")
    return parsed[0]


def _end(found: Sequence[ThreadSubscription], limit: int) -> dict[str, Any]:
    return {"end": str(found[limit - 1].position)} if len(found) > limit else {}
