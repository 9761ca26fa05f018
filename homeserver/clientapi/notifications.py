"""What notified the user.

Spec: client-server-api#listing-notifications
"""

from __future__ import annotations

import msgspec
import orjson

from homeserver.accounts.requester import Requester
from homeserver.clientapi.event_json import EventJson
from homeserver.matrix.errors import InvalidParam
from homeserver.push.notifications import MAX_LIMIT, Notifications
from homeserver.rooms.view import RoomViews
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

DEFAULT_LIMIT = 50


class NotificationsQuery(msgspec.Struct):
    from_: str | None = msgspec.field(name="from", default=None)
    limit: int = DEFAULT_LIMIT
    only: str = ""


class NotificationEndpoints:
    def __init__(self, notifications: Notifications, views: RoomViews, json: EventJson) -> None:
        self._notifications = notifications
        self._views = views
        self._json = json

    @endpoint(
        "GET",
        "/_matrix/client/v3/notifications",
        auth=Auth.USER,
        tag="Push notifications",
        spec="client-server-api#get_matrixclientv3notifications",
    )
    async def get_notifications(self, requester: Requester, query: NotificationsQuery) -> JsonObject:
        limit = max(1, min(query.limit, MAX_LIMIT))
        found, more = await self._notifications.load(
            requester.user_id, _parse_from(query.from_), limit, only_highlights="highlight" in query.only.split(",")
        )
        notifications = []
        for item in found:
            view = await self._views.load(item.event.pdu.room_id, requester.user_id)
            [encoded] = await self._json.encode(view, [item.event], requester)
            notifications.append(
                {
                    "actions": list(item.outcome.actions),
                    "event": orjson.loads(encoded),
                    "read": item.is_read,
                    "room_id": item.event.pdu.room_id,
                    "ts": item.event.pdu.origin_server_ts,
                }
            )
        return {"notifications": notifications, **({} if more is None else {"next_token": str(more)})}


def _parse_from(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidParam("from", "not a token of this server")
    return int(text)
