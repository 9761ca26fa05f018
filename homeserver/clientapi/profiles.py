"""Profiles.

Spec: client-server-api#profiles
"""

from __future__ import annotations

import msgspec

from homeserver.accounts.profiles import Profiles
from homeserver.accounts.requester import Requester
from homeserver.matrix.errors import MissingParam
from homeserver.matrix.ids import parse_user_id
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

TAG = "User data"
PROFILE_PATH = "/_matrix/client/v3/profile/{user_id}"
FIELD_PATH = "/_matrix/client/v3/profile/{user_id}/{key_name}"
# COMPAT(matrix-js-sdk 37, MSC4133 before v1.16)
UNSTABLE_FIELD_PATHS = ("/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{key_name}",)


class ProfilePath(msgspec.Struct):
    user_id: str


class FieldPath(msgspec.Struct):
    user_id: str
    key_name: str


class ProfileEndpoints:
    def __init__(self, profiles: Profiles) -> None:
        self._profiles = profiles

    @endpoint(
        "PUT",
        FIELD_PATH,
        auth=Auth.GUEST_OK,
        limit="profile",
        tag=TAG,
        aliases=UNSTABLE_FIELD_PATHS,
        spec="client-server-api#put_matrixclientv3profileuseridkeyname",
    )
    async def put_field(self, requester: Requester, path: FieldPath, body: JsonObject) -> JsonObject:
        user_id = parse_user_id(path.user_id)
        if path.key_name not in body:
            raise MissingParam(path.key_name)
        await self._profiles.set_field(requester, user_id, path.key_name, body[path.key_name])
        return {}

    @endpoint(
        "GET",
        FIELD_PATH,
        auth=Auth.NONE,
        tag=TAG,
        aliases=UNSTABLE_FIELD_PATHS,
        spec="client-server-api#get_matrixclientv3profileuseridkeyname",
    )
    async def get_field(self, path: FieldPath) -> JsonObject:
        user_id = parse_user_id(path.user_id)
        return {path.key_name: await self._profiles.load_field(user_id, path.key_name)}

    @endpoint(
        "DELETE",
        FIELD_PATH,
        auth=Auth.GUEST_OK,
        limit="profile",
        tag=TAG,
        aliases=UNSTABLE_FIELD_PATHS,
        spec="client-server-api#delete_matrixclientv3profileuseridkeyname",
    )
    async def delete_field(self, requester: Requester, path: FieldPath) -> JsonObject:
        await self._profiles.delete_field(requester, parse_user_id(path.user_id), path.key_name)
        return {}

    @endpoint("GET", PROFILE_PATH, auth=Auth.NONE, tag=TAG, spec="client-server-api#get_matrixclientv3profileuserid")
    async def get_profile(self, path: ProfilePath) -> JsonObject:
        return dict(await self._profiles.load_profile(parse_user_id(path.user_id)))
