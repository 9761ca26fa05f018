"""Typing notifications.

Spec: client-server-api#typing-notifications
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.matrix.ids import parse_room_id
from homeserver.rooms.typing import Typing
from homeserver.rooms.view import RoomViews
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

DEFAULT_TIMEOUT_MS = 30_000


class TypingPath(msgspec.Struct):
    room_id: str
    user_id: str


class TypingBody(msgspec.Struct):
    typing: bool
    timeout: Annotated[int, msgspec.Meta(ge=0)] = DEFAULT_TIMEOUT_MS


class TypingEndpoints:
    def __init__(self, views: RoomViews, typing: Typing) -> None:
        self._views = views
        self._typing = typing

    @endpoint(
        "PUT",
        "/_matrix/client/v3/rooms/{room_id}/typing/{user_id}",
        auth=Auth.USER,
        limit="typing",
        tag="Room participation",
        spec="client-server-api#put_matrixclientv3roomsroomidtypinguserid",
    )
    async def put_typing(self, requester: Requester, path: TypingPath, body: TypingBody) -> JsonObject:
        requester.check_is(path.user_id)
        head = await self._views.load_joined(parse_room_id(path.room_id), requester.user_id)
        if body.typing:
            self._typing.start(head.room_id, requester.user_id, body.timeout)
        else:
            self._typing.stop(head.room_id, requester.user_id)
        return {}
