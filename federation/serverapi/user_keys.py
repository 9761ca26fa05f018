"""Devices and keys of this server's users, for other servers.

Spec: server-server-api#device-management
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from federation.authentication import ServerRequester
from homeserver.e2ee.claims import KeyClaims
from homeserver.e2ee.queries import KeyQueries
from homeserver.e2ee.wanted import parse_claims, parse_queried
from homeserver.matrix.errors import NotFound
from homeserver.matrix.ids import ServerName, UserId, domain_of, parse_user_id
from homeserver.runtime.db import Database
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.store.accounts import load_user
from homeserver.store.cross_signing import MASTER, SELF_SIGNING
from homeserver.store.device_lists import load_list_position

TAG = "Federation: devices and keys"
V1: Final = "/_matrix/federation/v1"
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
SHOWN: Final = (MASTER, SELF_SIGNING)


class UserPath(msgspec.Struct, rename="camel", frozen=True):
    user_id: str


class QueryBody(msgspec.Struct, frozen=True):
    device_keys: JsonObject


class ClaimBody(msgspec.Struct, frozen=True):
    one_time_keys: JsonObject


class UserKeyEndpoints:
    def __init__(self, server_name: ServerName, database: Database, queries: KeyQueries, claims: KeyClaims) -> None:
        self._server_name = server_name
        self._database = database
        self._queries = queries
        self._claims = claims

    @endpoint(
        "GET",
        f"{V1}/user/devices/{{userId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#get_matrixfederationv1userdevicesuserid",
    )
    async def get_devices(self, requester: ServerRequester, path: UserPath) -> JsonObject:
        """A user's devices with their keys, and how new the list is."""
        user_id = parse_user_id(path.user_id)
        # Before the keys: what is newer than the number comes again as an update, and does no harm. Keys in memory may be older,
        # where another process has changed them.
        stream_id = await self._load_stream_id(user_id)
        keys = await self._queries.load_stored(user_id)
        devices = [_device(device_id, of_one) for device_id, of_one in keys.device_keys.get(user_id, {}).items()]
        signing = {
            f"{usage}_key": key
            for usage in SHOWN
            if (key := keys.cross_signing.get(usage, {}).get(user_id)) is not None
        }
        return {"user_id": user_id, "stream_id": stream_id, "devices": devices, **signing}

    @endpoint(
        "POST",
        f"{V1}/user/keys/query",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#post_matrixfederationv1userkeysquery",
        max_body_bytes=MAX_BODY_BYTES,
        cancellable=True,
    )
    async def post_query(self, requester: ServerRequester, body: QueryBody) -> JsonObject:
        """Users' device keys and cross-signing keys."""
        found = (await self._queries.load_local(parse_queried(body.device_keys))).to_json()
        del found["failures"]
        return found

    @endpoint(
        "POST",
        f"{V1}/user/keys/claim",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#post_matrixfederationv1userkeysclaim",
        max_body_bytes=MAX_BODY_BYTES,
    )
    async def post_claim(self, requester: ServerRequester, body: ClaimBody) -> JsonObject:
        """One-time keys, each handed out once."""
        return {"one_time_keys": await self._claims.claim_local(parse_claims(body.one_time_keys))}

    async def _load_stream_id(self, user_id: UserId) -> int:
        """Raises: NotFound."""
        is_local = domain_of(user_id) == self._server_name
        if not is_local or await self._database.read(load_user, user_id) is None:
            raise NotFound("That is no user of this server")
        return await self._database.read(load_list_position, user_id)


def _device(device_id: str, keys: dict[str, Any]) -> dict[str, Any]:
    name = keys.get("unsigned", {}).get("device_display_name")
    named = {} if name is None else {"device_display_name": name}
    shown = {field: value for field, value in keys.items() if field != "unsigned"}
    return {"device_id": device_id, "keys": shown, **named}
