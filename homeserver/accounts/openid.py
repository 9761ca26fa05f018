"""OpenID tokens: a user hands one to a third party, which asks the user's server whose it is.

Spec: client-server-api#openid
"""

from __future__ import annotations

from secrets import token_urlsafe
from typing import Final

from attrs import define

from homeserver.accounts.tokens import hash_token
from homeserver.matrix.errors import UnknownToken
from homeserver.matrix.ids import UserId
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store import openid as store

LIFETIME_S: Final = 3600
MAX_TOKEN_LENGTH: Final = 255


@define(eq=False)
class OpenIdTokens:
    database: Database
    clock: Clock

    async def create(self, user_id: UserId) -> str:
        """A token that is good for LIFETIME_S."""
        token = token_urlsafe(32)
        now_ms = self.clock.time_ms()
        await self.database.run(store.save_openid_token, hash_token(token), user_id, now_ms, now_ms + LIFETIME_S * 1000)
        return token

    async def load_user(self, token: str) -> UserId:
        """Whose token it is. Raises: UnknownToken."""
        if not token or len(token) > MAX_TOKEN_LENGTH or not token.isascii():
            raise UnknownToken("Unknown or expired token")
        user_id = await self.database.read(store.load_openid_user, hash_token(token), self.clock.time_ms())
        if user_id is None:
            raise UnknownToken("Unknown or expired token")
        return user_id
