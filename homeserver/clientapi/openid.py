"""OpenID tokens, and the endpoint by which third parties check them.

Spec: client-server-api#openid
"""

from __future__ import annotations

import msgspec

from homeserver.accounts.openid import LIFETIME_S, OpenIdTokens
from homeserver.accounts.requester import Requester
from homeserver.matrix.ids import ServerName
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint


class UserPath(msgspec.Struct):
    user_id: str


class UserInfoQuery(msgspec.Struct):
    access_token: str


class OpenIdEndpoints:
    def __init__(self, server_name: ServerName, tokens: OpenIdTokens) -> None:
        self._server_name = server_name
        self._tokens = tokens

    @endpoint(
        "POST",
        "/_matrix/client/v3/user/{user_id}/openid/request_token",
        auth=Auth.USER,
        limit="other",
        optional_body=True,
        tag="OpenID",
        spec="client-server-api#post_matrixclientv3useruseridopenidrequest_token",
    )
    async def post_request_token(self, requester: Requester, path: UserPath, body: JsonObject) -> JsonObject:
        requester.check_is(path.user_id)
        return {
            "access_token": await self._tokens.create(requester.user_id),
            "token_type": "Bearer",
            "matrix_server_name": self._server_name,
            "expires_in": LIFETIME_S,
        }

    @endpoint(
        "GET",
        "/_matrix/federation/v1/openid/userinfo",
        auth=Auth.NONE,
        tag="OpenID",
        resource="federation",
        spec="server-server-api#get_matrixfederationv1openiduserinfo",
    )
    async def get_userinfo(self, query: UserInfoQuery) -> JsonObject:
        """Anybody may ask who has a token, for whoever has it could use it."""
        return {"sub": await self._tokens.load_user(query.access_token)}
