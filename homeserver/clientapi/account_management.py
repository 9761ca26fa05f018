"""Password, deactivation, contact information, whoami.

There is no e-mail and no SMS yet: the list of contacts is empty, and adding one is refused as the capability
says.

Spec: client-server-api#legacy-account-management
"""

from __future__ import annotations

import msgspec

from homeserver.accounts.account import Accounts
from homeserver.accounts.interactive_auth import InteractiveAuth, Operation
from homeserver.accounts.passwords import check_new_password
from homeserver.accounts.requester import Requester
from homeserver.accounts.stages import PASSWORD
from homeserver.matrix.errors import Forbidden, MatrixError
from homeserver.matrix.ids import UserId
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

TAG = "Account management"
PASSWORD_PATH = "/_matrix/client/v3/account/password"
DEACTIVATE_PATH = "/_matrix/client/v3/account/deactivate"
THREEPID_PATH = "/_matrix/client/v3/account/3pid"


class PasswordBody(msgspec.Struct):
    new_password: str
    logout_devices: bool = True
    auth: JsonObject | None = None


class DeactivateBody(msgspec.Struct):
    auth: JsonObject | None = None
    erase: bool = False
    id_server: str | None = None


class ThreepidBody(msgspec.Struct):
    medium: str
    address: str
    id_server: str | None = None


class RequestTokenPath(msgspec.Struct):
    medium: str


class AccountManagement:
    def __init__(self, accounts: Accounts, auth: InteractiveAuth) -> None:
        self._accounts = accounts
        self._auth = auth

    @endpoint(
        "POST",
        PASSWORD_PATH,
        auth=Auth.OPTIONAL,
        limit="login",
        tag=TAG,
        spec="client-server-api#post_matrixclientv3accountpassword",
    )
    async def post_password(self, requester: Requester | None, body: PasswordBody) -> JsonObject:
        check_new_password(body.new_password)
        user_id = await self._authenticate(PASSWORD_PATH, requester, body.auth)
        keep = requester.device_id if requester is not None else None
        await self._accounts.set_password(user_id, body.new_password, log_out=body.logout_devices, keep_device=keep)
        return {}

    @endpoint(
        "POST",
        DEACTIVATE_PATH,
        auth=Auth.OPTIONAL,
        limit="login",
        optional_body=True,
        tag=TAG,
        spec="client-server-api#post_matrixclientv3accountdeactivate",
    )
    async def post_deactivate(self, requester: Requester | None, body: DeactivateBody) -> JsonObject:
        user_id = await self._authenticate(DEACTIVATE_PATH, requester, body.auth)
        await self._accounts.deactivate(user_id, erase=body.erase)
        return {"id_server_unbind_result": "success"}

    @endpoint("GET", THREEPID_PATH, auth=Auth.USER, tag=TAG, spec="client-server-api#get_matrixclientv3account3pid")
    def get_threepids(self, requester: Requester) -> JsonObject:
        return {"threepids": []}

    @endpoint(
        "POST",
        THREEPID_PATH,
        auth=Auth.USER,
        deprecated=True,
        tag=TAG,
        spec="client-server-api#post_matrixclientv3account3pid",
    )
    def post_threepid(self, requester: Requester) -> JsonObject:
        raise Forbidden("There is no identity server here", errcode="M_THREEPID_AUTH_FAILED")

    @endpoint(
        "POST",
        f"{THREEPID_PATH}/add",
        auth=Auth.USER,
        limit="other",
        tag=TAG,
        spec="client-server-api#post_matrixclientv3account3pidadd",
    )
    @endpoint(
        "POST",
        f"{THREEPID_PATH}/bind",
        auth=Auth.USER,
        limit="other",
        tag=TAG,
        spec="client-server-api#post_matrixclientv3account3pidbind",
    )
    def post_add_threepid(self, requester: Requester) -> JsonObject:
        raise Forbidden("Contact information can't be added on this server")

    @endpoint(
        "POST",
        f"{THREEPID_PATH}/delete",
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#post_matrixclientv3account3piddelete",
    )
    @endpoint(
        "POST",
        f"{THREEPID_PATH}/unbind",
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#post_matrixclientv3account3pidunbind",
    )
    def post_delete_threepid(self, requester: Requester, body: ThreepidBody) -> JsonObject:
        return {"id_server_unbind_result": "no-support"}

    @endpoint(
        "POST",
        "/_matrix/client/v3/register/{medium}/requestToken",
        auth=Auth.NONE,
        tag=TAG,
        spec="client-server-api#post_matrixclientv3registeremailrequesttoken",
    )
    @endpoint(
        "POST",
        "/_matrix/client/v3/account/password/{medium}/requestToken",
        auth=Auth.NONE,
        tag=TAG,
        spec="client-server-api#post_matrixclientv3accountpasswordemailrequesttoken",
    )
    @endpoint(
        "POST",
        "/_matrix/client/v3/account/3pid/{medium}/requestToken",
        auth=Auth.NONE,
        tag=TAG,
        spec="client-server-api#post_matrixclientv3account3pidemailrequesttoken",
    )
    def post_request_token(self, path: RequestTokenPath) -> JsonObject:
        raise MatrixError("This server sends neither e-mail nor SMS", errcode="M_THREEPID_MEDIUM_NOT_SUPPORTED")

    @endpoint(
        "GET",
        "/_matrix/client/v3/account/whoami",
        auth=Auth.GUEST_OK,
        limit="other",
        tag="Session management",
        spec="client-server-api#get_matrixclientv3accountwhoami",
    )
    def get_whoami(self, requester: Requester) -> JsonObject:
        answer: JsonObject = {"user_id": requester.user_id, "is_guest": requester.is_guest}
        if requester.device_id is not None:
            answer["device_id"] = requester.device_id
        return answer

    async def _authenticate(self, path: str, requester: Requester | None, auth: JsonObject | None) -> UserId:
        """Whose account it is: the requester's, or that of the password's owner."""
        if requester is not None and requester.is_guest:
            raise Forbidden("Guests may not do this", errcode="M_GUEST_ACCESS_FORBIDDEN")
        user_id = requester.user_id if requester is not None else None
        completed = await self._auth.check(Operation("POST", path, user_id), [(PASSWORD,)], auth)
        return UserId(completed[PASSWORD])
