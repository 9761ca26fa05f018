"""Locking and suspending accounts, for the server's admins.

Spec: client-server-api#account-moderation
"""

from __future__ import annotations

import msgspec

from homeserver.accounts.account import Accounts
from homeserver.accounts.requester import Requester
from homeserver.matrix.errors import Forbidden, InvalidParam, NotFound
from homeserver.matrix.ids import ServerName, UserId, domain_of, parse_user_id
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.store.accounts import UserRow

TAG = "Server administration"
LOCK_PATH = "/_matrix/client/v1/admin/lock/{user_id}"
SUSPEND_PATH = "/_matrix/client/v1/admin/suspend/{user_id}"


class UserPath(msgspec.Struct):
    user_id: str


class LockBody(msgspec.Struct):
    locked: bool


class SuspendBody(msgspec.Struct):
    suspended: bool


class AccountModeration:
    def __init__(self, server_name: ServerName, accounts: Accounts) -> None:
        self._server_name = server_name
        self._accounts = accounts

    @endpoint("GET", LOCK_PATH, auth=Auth.USER, tag=TAG, spec="client-server-api#get_matrixclientv1adminlockuserid")
    async def get_lock(self, requester: Requester, path: UserPath) -> JsonObject:
        return {"locked": (await self._load(requester, path)).is_locked}

    @endpoint("PUT", LOCK_PATH, auth=Auth.USER, tag=TAG, spec="client-server-api#put_matrixclientv1adminlockuserid")
    async def put_lock(self, requester: Requester, path: UserPath, body: LockBody) -> JsonObject:
        user_id = await self._load_other(requester, path)
        await self._accounts.set_locked(user_id, body.locked)
        return {"locked": body.locked}

    @endpoint(
        "GET",
        SUSPEND_PATH,
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#get_matrixclientv1adminsuspenduserid",
    )
    async def get_suspend(self, requester: Requester, path: UserPath) -> JsonObject:
        return {"suspended": (await self._load(requester, path)).is_suspended}

    @endpoint(
        "PUT",
        SUSPEND_PATH,
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#put_matrixclientv1adminsuspenduserid",
    )
    async def put_suspend(self, requester: Requester, path: UserPath, body: SuspendBody) -> JsonObject:
        user_id = await self._load_other(requester, path)
        await self._accounts.set_suspended(user_id, body.suspended)
        return {"suspended": body.suspended}

    async def _load(self, requester: Requester, path: UserPath) -> UserRow:
        if not requester.is_admin:
            raise Forbidden("You are not an admin of this server")
        user_id = parse_user_id(path.user_id)
        if domain_of(user_id) != self._server_name:
            raise InvalidParam("user_id", "not a user of this server")
        user = await self._accounts.load_user(user_id)
        if user.is_deactivated:
            raise NotFound("User not found")
        return user

    async def _load_other(self, requester: Requester, path: UserPath) -> UserId:
        """Whom the admin acts on: neither themself nor another admin."""
        user = await self._load(requester, path)
        if user.is_admin:
            raise Forbidden("Admins can't be locked or suspended")
        return user.user_id
