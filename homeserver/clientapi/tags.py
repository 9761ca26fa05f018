"""Room tagging.

Spec: client-server-api#room-tagging
"""

from __future__ import annotations

import msgspec

from homeserver.accounts.account_data import AccountData
from homeserver.accounts.requester import Requester
from homeserver.matrix.errors import BadJson, InvalidParam
from homeserver.matrix.ids import parse_room_id
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

TAG = "User data"
TAGS_PATH = "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/tags"
TAG_PATH = "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/tags/{tag}"


class TagsPath(msgspec.Struct):
    user_id: str
    room_id: str


class TagPath(msgspec.Struct):
    user_id: str
    room_id: str
    tag: str


class TagEndpoints:
    def __init__(self, account_data: AccountData) -> None:
        self._account_data = account_data

    @endpoint(
        "GET",
        TAGS_PATH,
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3useruseridroomsroomidtags",
    )
    async def get_tags(self, requester: Requester, path: TagsPath) -> JsonObject:
        requester.check_is(path.user_id)
        return {"tags": await self._account_data.load_tags(requester.user_id, parse_room_id(path.room_id))}

    @endpoint(
        "PUT",
        TAG_PATH,
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#put_matrixclientv3useruseridroomsroomidtagstag",
    )
    async def put_tag(self, requester: Requester, path: TagPath, body: JsonObject) -> JsonObject:
        requester.check_is(path.user_id)
        _check_order(body)
        await self._account_data.set_tag(requester.user_id, parse_room_id(path.room_id), path.tag, body)
        return {}

    @endpoint(
        "DELETE",
        TAG_PATH,
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#delete_matrixclientv3useruseridroomsroomidtagstag",
    )
    async def delete_tag(self, requester: Requester, path: TagPath) -> JsonObject:
        requester.check_is(path.user_id)
        await self._account_data.remove_tag(requester.user_id, parse_room_id(path.room_id), path.tag)
        return {}


def _check_order(body: JsonObject) -> None:
    """`order`, where given, is a number from 0 to 1."""
    order = body.get("order", 0)
    if isinstance(order, bool) or not isinstance(order, int | float):
        raise BadJson("order: must be a number")
    if not 0 <= order <= 1:
        raise InvalidParam("order", "must be between 0 and 1")
