"""Presence.

Spec: client-server-api#presence
"""

from __future__ import annotations

from typing import Literal

import msgspec

from homeserver.accounts.limits import check_text
from homeserver.accounts.requester import Requester
from homeserver.folds.memberships import Memberships
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.ids import parse_user_id
from homeserver.presence.presence import BUSY, Presence, Published
from homeserver.runtime.clock import Clock
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.sync.presence import shares_room

PATH = "/_matrix/client/v3/presence/{user_id}/status"
TAG = "Presence"
MAX_STATUS_BYTES = 1024


class PresencePath(msgspec.Struct):
    user_id: str


class PresenceBody(msgspec.Struct):
    presence: Literal["online", "offline", "unavailable", "busy", "org.matrix.msc3026.busy"]
    status_msg: str | None = None


class PresenceEndpoints:
    """`presence` is None on a server that keeps none: then nobody is online, and nothing that is set has an effect."""

    def __init__(self, presence: Presence | None, memberships: Memberships, clock: Clock) -> None:
        self._presence = presence
        self._memberships = memberships
        self._clock = clock

    @endpoint(
        "PUT",
        PATH,
        auth=Auth.USER,
        limit="presence",
        tag=TAG,
        spec="client-server-api#put_matrixclientv3presenceuseridstatus",
    )
    async def put_status(self, requester: Requester, path: PresencePath, body: PresenceBody) -> JsonObject:
        requester.check_is(path.user_id)
        if body.status_msg is not None:
            check_text("status_msg", body.status_msg, MAX_STATUS_BYTES)
        if self._presence is not None:
            state = BUSY if body.presence.endswith(BUSY) else body.presence
            self._presence.set_state(requester.user_id, requester.device_id or "", state, body.status_msg)
        return {}

    @endpoint(
        "GET",
        PATH,
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3presenceuseridstatus",
    )
    async def get_status(self, requester: Requester, path: PresencePath) -> JsonObject:
        user_id = parse_user_id(path.user_id)
        if user_id != requester.user_id:
            rooms = await self._memberships.load_many([requester.user_id, user_id])
            if not shares_room(rooms[requester.user_id], rooms[user_id]):
                raise Forbidden("You share no room with that user")
        published = self._presence.get(user_id) if self._presence is not None else Published()
        return published.content(self._clock.time_ms())
