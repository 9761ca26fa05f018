"""Account data (client config).

Spec: client-server-api#client-config
"""

from __future__ import annotations

import msgspec

from homeserver.accounts.account_data import AccountData
from homeserver.accounts.requester import Requester
from homeserver.matrix.ids import parse_room_id
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.runtime.http.response import RawJson

TAG = "User data"
GLOBAL_PATH = "/_matrix/client/v3/user/{user_id}/account_data/{type}"
ROOM_PATH = "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/account_data/{type}"


class GlobalPath(msgspec.Struct):
    user_id: str
    type: str


class RoomPath(msgspec.Struct):
    user_id: str
    room_id: str
    type: str


class AccountDataEndpoints:
    def __init__(self, account_data: AccountData) -> None:
        self._account_data = account_data

    @endpoint(
        "GET",
        GLOBAL_PATH,
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3useruseridaccount_datatype",
    )
    async def get_global(self, requester: Requester, path: GlobalPath) -> RawJson:
        requester.check_is(path.user_id)
        return RawJson(await self._account_data.load(requester.user_id, None, path.type))

    @endpoint(
        "PUT",
        GLOBAL_PATH,
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#put_matrixclientv3useruseridaccount_datatype",
    )
    async def put_global(self, requester: Requester, path: GlobalPath, body: JsonObject) -> JsonObject:
        requester.check_is(path.user_id)
        await self._account_data.set(requester.user_id, None, path.type, body)
        return {}

    @endpoint(
        "GET",
        ROOM_PATH,
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3useruseridroomsroomidaccount_datatype",
    )
    async def get_in_room(self, requester: Requester, path: RoomPath) -> RawJson:
        requester.check_is(path.user_id)
        room_id = parse_room_id(path.room_id)
        return RawJson(await self._account_data.load(requester.user_id, room_id, path.type))

    @endpoint(
        "PUT",
        ROOM_PATH,
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#put_matrixclientv3useruseridroomsroomidaccount_datatype",
    )
    async def put_in_room(self, requester: Requester, path: RoomPath, body: JsonObject) -> JsonObject:
        requester.check_is(path.user_id)
        await self._account_data.set(requester.user_id, parse_room_id(path.room_id), path.type, body)
        return {}
