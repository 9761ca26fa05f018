"""Account registration.

Spec: client-server-api#legacy-account-registration
"""

from __future__ import annotations

from typing import Literal

import msgspec

from homeserver.accounts.registration import Registered, RegistrationRequest, Registrations
from homeserver.accounts.sessions import SessionRequest
from homeserver.accounts.stages import RegistrationTokens
from homeserver.clientapi.session_answer import session_answer
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

TAG = "Account management"


class RegisterQuery(msgspec.Struct, frozen=True):
    kind: Literal["user", "guest"] = "user"


class RegisterBody(msgspec.Struct):
    auth: JsonObject | None = None
    username: str | None = None
    password: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    inhibit_login: bool = False
    refresh_token: bool = False
    guest_access_token: str | None = None


class AvailableQuery(msgspec.Struct):
    username: str


class ValidityQuery(msgspec.Struct):
    token: str


class RegistrationEndpoints:
    def __init__(self, registrations: Registrations, tokens: RegistrationTokens) -> None:
        self._registrations = registrations
        self._tokens = tokens

    @endpoint(
        "GET",
        "/_matrix/client/v1/register/m.login.registration_token/validity",
        auth=Auth.NONE,
        limit="availability",
        tag=TAG,
        spec="client-server-api#get_matrixclientv1registermloginregistration_tokenvalidity",
    )
    async def get_validity(self, query: ValidityQuery) -> JsonObject:
        self._registrations.check_enabled()
        return {"valid": await self._tokens.is_valid(query.token)}

    @endpoint(
        "POST",
        "/_matrix/client/v3/register",
        auth=Auth.NONE,
        limit="registration",
        optional_body=True,
        tag=TAG,
        spec="client-server-api#post_matrixclientv3register",
    )
    async def post_register(self, query: RegisterQuery, body: RegisterBody) -> JsonObject:
        if query.kind == "guest":
            guest = await self._registrations.register_guest(body.initial_device_display_name)
            return _answer(guest)
        session = SessionRequest(body.device_id, body.initial_device_display_name, body.refresh_token)
        request = RegistrationRequest(
            username=body.username,
            password=body.password,
            guest_access_token=body.guest_access_token,
            session=None if body.inhibit_login else session,
        )
        return _answer(await self._registrations.register(request, body.auth))

    @endpoint(
        "GET",
        "/_matrix/client/v3/register/available",
        auth=Auth.NONE,
        limit="availability",
        tag=TAG,
        spec="client-server-api#get_matrixclientv3registeravailable",
    )
    async def get_available(self, query: AvailableQuery) -> JsonObject:
        self._registrations.check_enabled()
        await self._registrations.check_available(query.username)
        return {"available": True}


def _answer(registered: Registered) -> JsonObject:
    if registered.session is None:
        return {"user_id": registered.user_id, "home_server": registered.user_id.partition(":")[2]}
    return session_answer(registered.session)
