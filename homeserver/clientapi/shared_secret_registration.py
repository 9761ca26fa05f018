"""Registration by shared secret, as admins' tools do it. Not in the specification."""

from __future__ import annotations

import msgspec

from homeserver.accounts.shared_secret import SharedSecretRegistration, SharedSecretRequest
from homeserver.clientapi.session_answer import session_answer
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

PATH = "/_synapse/admin/v1/register"
TAG = "Account management"


class SharedSecretBody(msgspec.Struct):
    nonce: str
    username: str
    password: str
    mac: str
    admin: bool = False
    user_type: str | None = None
    displayname: str | None = None


class SharedSecretEndpoints:
    def __init__(self, registration: SharedSecretRegistration) -> None:
        self._registration = registration

    @endpoint("GET", PATH, auth=Auth.NONE, tag=TAG, resource="admin")
    def get_nonce(self) -> JsonObject:
        return {"nonce": self._registration.make_nonce()}

    @endpoint("POST", PATH, auth=Auth.NONE, tag=TAG, resource="admin")
    async def post_register(self, body: SharedSecretBody) -> JsonObject:
        request = SharedSecretRequest(
            nonce=body.nonce,
            username=body.username,
            password=body.password,
            mac=body.mac,
            is_admin=body.admin,
            user_type=body.user_type,
            displayname=body.displayname,
        )
        return session_answer(await self._registration.register(request))
