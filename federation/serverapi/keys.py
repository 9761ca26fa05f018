"""Publishing our keys, and other servers' as a notary.

Spec: server-server-api#retrieving-server-keys
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from federation.keys.notary import MAX_SERVERS, Asked, Notary
from federation.keys.own import OwnKeys
from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.ids import parse_server_name
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

if TYPE_CHECKING:
    from homeserver.runtime.http.request import Request

TAG = "Federation: keys"
MAX_QUERY_BYTES = 256 * 1024


class KeyPath(msgspec.Struct, rename="camel"):
    server_name: str


class KeyQuery(msgspec.Struct):
    minimum_valid_until_ts: int | None = None


class KeysQuery(msgspec.Struct):
    server_keys: dict[str, dict[str, KeyQuery]]


class KeyEndpoints:
    def __init__(self, own: OwnKeys, notary: Notary) -> None:
        self._own = own
        self._notary = notary

    @endpoint(
        "GET",
        "/_matrix/key/v2/server",
        auth=Auth.NONE,
        resource="federation",
        tag=TAG,
        spec="server-server-api#get_matrixkeyv2server",
    )
    def get_own(self) -> JsonObject:
        return self._own.document()

    @endpoint(
        "GET",
        "/_matrix/key/v2/query/{serverName}",
        auth=Auth.NONE,
        resource="federation",
        tag=TAG,
        spec="server-server-api#get_matrixkeyv2queryservername",
    )
    async def get_of(self, request: Request, path: KeyPath, query: KeyQuery) -> JsonObject:
        server = parse_server_name(path.server_name)
        asked = {server: Asked(query.minimum_valid_until_ts)}
        return {"server_keys": await self._notary.load_documents(asked, request.client_ip)}

    @endpoint(
        "POST",
        "/_matrix/key/v2/query",
        auth=Auth.NONE,
        resource="federation",
        tag=TAG,
        spec="server-server-api#post_matrixkeyv2query",
        max_body_bytes=MAX_QUERY_BYTES,
        cancellable=True,
    )
    async def query(self, request: Request, body: KeysQuery) -> JsonObject:
        if len(body.server_keys) > MAX_SERVERS:
            raise InvalidParam("server_keys", f"more than {MAX_SERVERS} servers")
        asked = {server: Asked(_latest(keys), keys.keys()) for server, keys in body.server_keys.items()}
        return {"server_keys": await self._notary.load_documents(asked, request.client_ip)}


def _latest(keys: dict[str, KeyQuery]) -> int | None:
    times = [each.minimum_valid_until_ts for each in keys.values() if each.minimum_valid_until_ts is not None]
    return max(times, default=None)
