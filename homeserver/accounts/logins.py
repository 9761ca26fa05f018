"""Logging in: by password, or by a token that another client of the same user made.

Spec: client-server-api#legacy-login
"""

from __future__ import annotations

from typing import Any

from attrs import define
from sqlalchemy import Connection

from homeserver.accounts.config import LoginConfig
from homeserver.accounts.errors import BadCredentials, UserLocked
from homeserver.accounts.passwords import PasswordCheck
from homeserver.accounts.sessions import Session, SessionRequest, Sessions
from homeserver.accounts.tokens import LOGIN, hash_token, is_garbled, new_token
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import UserId
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store import access_tokens
from homeserver.store.accounts import UserRow, load_user, save_rehashed_password


@define(eq=False)
class Logins:
    database: Database
    clock: Clock
    config: LoginConfig
    passwords: PasswordCheck
    sessions: Sessions

    def flows(self) -> list[dict[str, Any]]:
        """What GET /login tells of the ways in."""
        return [
            {"type": "m.login.password"},
            {"type": "m.login.token", "get_login_token": self.config.login_tokens},
        ]

    async def log_in_by_password(self, username: str, password: str, request: SessionRequest) -> Session:
        """Raises: BadCredentials, LimitExceeded, UserLocked, InvalidParam."""
        user = await self.passwords.check(username, password)
        _check_open(user)
        await self._renew_hash(user, password)
        return await self.sessions.start(user.user_id, request)

    async def log_in_by_token(self, token: str, request: SessionRequest) -> Session:
        """Consumes a login token.

        Raises: BadCredentials, UserLocked, InvalidParam.
        """
        token_hash = hash_token(token)
        user = None
        if not is_garbled(token):
            user = await self.database.read(_load_token_user, token_hash, self.clock.time_ms())
        if user is None:
            raise BadCredentials("Invalid login token")
        _check_open(user)

        def consume(conn: Connection) -> None:
            if not access_tokens.delete_login_token(conn, token_hash):
                raise BadCredentials("Invalid login token")

        return await self.sessions.start(user.user_id, request, also=consume)

    async def make_login_token(self, user_id: UserId) -> tuple[str, int]:
        """A token for one login, and its lifetime in ms.

        Raises: MatrixError where the server does not offer it.

        Spec: client-server-api#post_matrixclientv1loginget_token
        """
        if not self.config.login_tokens:
            raise MatrixError("Login tokens are disabled on this server", errcode="M_FORBIDDEN")
        token = new_token(LOGIN)
        now_ms = self.clock.time_ms()
        lifetime_ms = self.config.login_token_lifetime_ms
        await self.database.run(
            access_tokens.save_login_token, hash_token(token), user_id, now_ms, now_ms + lifetime_ms
        )
        return token, lifetime_ms

    async def _renew_hash(self, user: UserRow, password: str) -> None:
        """The cost setting was changed since the password was hashed."""
        known = user.password_hash
        assert known is not None
        if self.passwords.hashes.needs_rehash(known):
            renewed = await self.passwords.hashes.hash(password)
            await self.database.run(save_rehashed_password, user.user_id, known, renewed)


def _load_token_user(conn: Connection, token_hash: bytes, now_ms: int) -> UserRow | None:
    user_id = access_tokens.load_login_token(conn, token_hash, now_ms)
    user = load_user(conn, user_id) if user_id is not None else None
    return user if user is not None and not user.is_deactivated else None


def _check_open(user: UserRow) -> None:
    if user.is_locked:
        raise UserLocked
