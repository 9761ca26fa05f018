"""The stages of user-interactive authentication that this server knows."""

from __future__ import annotations

from hmac import compare_digest
from typing import Any

from attrs import define, frozen

from homeserver.accounts.config import RegistrationConfig
from homeserver.accounts.errors import BadCredentials
from homeserver.accounts.interactive_auth import Auth, StageFailed
from homeserver.accounts.passwords import PasswordCheck
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.ids import UserId
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store.registration_tokens import load_is_valid

DUMMY = "m.login.dummy"
PASSWORD = "m.login.password"
REGISTRATION_TOKEN = "m.login.registration_token"
TERMS = "m.login.terms"

MAX_REGISTRATION_TOKEN_CHARS = 64


@frozen
class DummyStage:
    """Spec: client-server-api#dummy-auth"""

    type: str = DUMMY

    def params(self) -> None:
        return None

    async def check(self, _auth: Auth, _user_id: UserId | None) -> Any:
        return True


@frozen
class TermsStage:
    """Records which versions were accepted.

    Spec: client-server-api#terms-of-service-at-registration
    """

    config: RegistrationConfig
    type: str = TERMS

    def params(self) -> dict[str, Any]:
        page = {"name": self.config.terms_name, "url": self.config.terms_url}
        return {"policies": {"terms_of_service": {"version": self.config.terms_version, "en": page}}}

    async def check(self, _auth: Auth, _user_id: UserId | None) -> Any:
        return {"terms_of_service": self.config.terms_version}


@define(eq=False)
class RegistrationTokens:
    """Which tokens open the door: the configured ones, always; those in the database, while they last."""

    database: Database
    clock: Clock
    config: RegistrationConfig

    def is_configured(self, token: str) -> bool:
        return any([compare_digest(token.encode(), known.encode()) for known in self.config.tokens])  # noqa: C419  # all of them, always

    async def is_valid(self, token: str) -> bool:
        if not 0 < len(token) <= MAX_REGISTRATION_TOKEN_CHARS or not token.isascii() or "\0" in token:
            return False
        if self.is_configured(token):
            return True
        return await self.database.read(load_is_valid, token, self.clock.time_ms())


@frozen
class RegistrationTokenStage:
    """Records the token; it is counted as used in the transaction that makes the account.

    Spec: client-server-api#token-authenticated-registration
    """

    tokens: RegistrationTokens
    type: str = REGISTRATION_TOKEN

    def params(self) -> None:
        return None

    async def check(self, auth: Auth, _user_id: UserId | None) -> Any:
        token = auth.get("token")
        if not isinstance(token, str):
            raise StageFailed("M_MISSING_PARAM", "Missing parameter: auth.token")
        if not await self.tokens.is_valid(token):
            raise StageFailed("M_UNAUTHORIZED", "Invalid registration token")
        return token


@frozen
class PasswordStage:
    """Records whose password it was.

    Spec: client-server-api#password-based
    """

    passwords: PasswordCheck
    type: str = PASSWORD

    def params(self) -> None:
        return None

    async def check(self, auth: Auth, user_id: UserId | None) -> Any:
        password = auth.get("password")
        if not isinstance(password, str):
            raise StageFailed("M_MISSING_PARAM", "Missing parameter: auth.password")
        username = _username(auth) or user_id
        if username is None:
            raise StageFailed("M_MISSING_PARAM", "Missing parameter: auth.identifier")
        try:
            user = await self.passwords.check(username, password)
        except BadCredentials as error:
            raise StageFailed(error.errcode, error.error) from None
        if user_id is not None and user.user_id != user_id:
            raise Forbidden("The password is that of another user")
        return user.user_id


def _username(auth: Auth) -> str | None:
    """Whom the client says that it is; None if it does not say."""
    identifier = auth.get("identifier")
    if identifier is None:
        user = auth.get("user")  # COMPAT(clients before identifiers, r0.4)
        return user if isinstance(user, str) else None
    if not isinstance(identifier, dict) or identifier.get("type") != "m.id.user":
        raise StageFailed("M_FORBIDDEN", "Unknown kind of identifier")
    user = identifier.get("user")
    return user if isinstance(user, str) else None
