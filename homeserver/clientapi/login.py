"""Login, logout, refresh.

Spec: client-server-api#legacy-login
"""

from __future__ import annotations

import msgspec

from homeserver.accounts.interactive_auth import InteractiveAuth, Operation
from homeserver.accounts.logins import Logins
from homeserver.accounts.requester import Requester
from homeserver.accounts.sessions import SessionRequest, Sessions
from homeserver.accounts.stages import PASSWORD
from homeserver.clientapi.session_answer import UserIdentifier, session_answer, token_answer
from homeserver.matrix.errors import Forbidden, MatrixError, MissingParam
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.runtime.http.request import Request

TAG = "Session management"
GET_TOKEN_PATH = "/_matrix/client/v1/login/get_token"


class LoginBody(msgspec.Struct):
    type: str
    identifier: UserIdentifier | None = None
    user: str | None = None
    medium: str | None = None
    address: str | None = None
    password: str | None = None
    token: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    refresh_token: bool = False


class AuthBody(msgspec.Struct):
    auth: JsonObject | None = None


class RefreshBody(msgspec.Struct):
    refresh_token: str


class LoginEndpoints:
    def __init__(self, logins: Logins, sessions: Sessions, auth: InteractiveAuth) -> None:
        self._logins = logins
        self._sessions = sessions
        self._auth = auth

    @endpoint(
        "GET",
        "/_matrix/client/v3/login",
        auth=Auth.NONE,
        limit="other",
        tag=TAG,
        spec="client-server-api#get_matrixclientv3login",
    )
    def get_flows(self) -> JsonObject:
        return {"flows": self._logins.flows()}

    @endpoint(
        "POST",
        "/_matrix/client/v3/login",
        auth=Auth.NONE,
        limit="login",
        tag=TAG,
        spec="client-server-api#post_matrixclientv3login",
    )
    async def post_login(self, body: LoginBody) -> JsonObject:
        request = SessionRequest(body.device_id, body.initial_device_display_name, body.refresh_token)
        match body.type:
            case "m.login.password":
                if body.password is None:
                    raise MissingParam("password")
                session = await self._logins.log_in_by_password(_username(body), body.password, request)
            case "m.login.token":
                if body.token is None:
                    raise MissingParam("token")
                session = await self._logins.log_in_by_token(body.token, request)
            case _:
                raise MatrixError("Unknown login type")
        return session_answer(session)

    @endpoint(
        "POST",
        GET_TOKEN_PATH,
        auth=Auth.USER,
        limit="login",
        optional_body=True,
        tag=TAG,
        spec="client-server-api#post_matrixclientv1loginget_token",
    )
    async def post_get_token(self, requester: Requester, body: AuthBody) -> JsonObject:
        operation = Operation("POST", GET_TOKEN_PATH, requester.user_id)
        await self._auth.check(operation, [(PASSWORD,)], body.auth)
        token, expires_in_ms = await self._logins.make_login_token(requester.user_id)
        return {"login_token": token, "expires_in_ms": expires_in_ms}

    @endpoint(
        "POST",
        "/_matrix/client/v3/refresh",
        auth=Auth.NONE,
        limit="other",
        aliases=("/_matrix/client/v1/refresh",),
        tag=TAG,
        spec="client-server-api#post_matrixclientv3refresh",
    )
    async def post_refresh(self, body: RefreshBody) -> JsonObject:
        return token_answer(await self._sessions.refresh(body.refresh_token))

    @endpoint(
        "POST",
        "/_matrix/client/v3/logout",
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#post_matrixclientv3logout",
    )
    async def post_logout(self, request: Request, requester: Requester) -> JsonObject:
        await self._sessions.log_out(requester, request.access_token)
        return {}

    @endpoint(
        "POST",
        "/_matrix/client/v3/logout/all",
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#post_matrixclientv3logoutall",
    )
    async def post_logout_all(self, requester: Requester) -> JsonObject:
        await self._sessions.log_out_everywhere(requester.user_id)
        return {}


def _username(body: LoginBody) -> str:
    """Whom a login by password is for.

    Raises: Forbidden for third-party identifiers, of which none is known here.
    """
    identifier = body.identifier
    if identifier is None:
        if body.user is not None:
            return body.user
        if body.medium is not None or body.address is not None:
            raise Forbidden("Invalid username or password")
        raise MissingParam("identifier")
    if identifier.type == "m.id.user":
        if identifier.user is None:
            raise MissingParam("identifier.user")
        return identifier.user
    if identifier.type in ("m.id.thirdparty", "m.id.phone"):
        raise Forbidden("Invalid username or password")
    raise MatrixError("Unknown login identifier type")
