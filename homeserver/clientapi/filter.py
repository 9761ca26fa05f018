"""Filters kept for a user.

Spec: client-server-api#filtering
"""

from __future__ import annotations

import msgspec

from homeserver.accounts.filters import Filters
from homeserver.accounts.requester import Requester
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

TAG = "Room participation"


class UserPath(msgspec.Struct):
    user_id: str


class FilterPath(msgspec.Struct):
    user_id: str
    filter_id: str


class FilterEndpoints:
    def __init__(self, filters: Filters) -> None:
        self._filters = filters

    @endpoint(
        "POST",
        "/_matrix/client/v3/user/{user_id}/filter",
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#post_matrixclientv3useruseridfilter",
    )
    async def post_filter(self, requester: Requester, path: UserPath, body: JsonObject) -> JsonObject:
        requester.check_is(path.user_id)
        return {"filter_id": await self._filters.save(requester.user_id, body)}

    @endpoint(
        "GET",
        "/_matrix/client/v3/user/{user_id}/filter/{filter_id}",
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3useruseridfilterfilterid",
    )
    async def get_filter(self, requester: Requester, path: FilterPath) -> JsonObject:
        requester.check_is(path.user_id)
        return await self._filters.load_definition(requester.user_id, path.filter_id)
