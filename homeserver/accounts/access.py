"""From an access token to a requester.

A token that was seen before costs one hash and one look into memory. What memory holds is dropped by the log
rows of the user ("token", "device", "user"), so a revoked token is refused in this process from the commit
on, in others from the moment they have read the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from attrs import define, field

from homeserver.accounts.errors import UserLocked
from homeserver.accounts.folded_cache import FoldedCache
from homeserver.accounts.requester import Requester
from homeserver.accounts.tokens import hash_token, is_garbled, token_id
from homeserver.matrix.errors import MissingToken, UnknownToken
from homeserver.matrix.ids import UserId
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.runtime.http.endpoint import Auth
from homeserver.store.access_tokens import TokenOwner, confirm_pair, load_token_owner
from homeserver.store.log import LogRow
from homeserver.store.log_writer import LogItem, LogWriter

# An entry takes about 0.5 KiB.
MAX_CACHED_TOKENS = 50_000
FOLLOWED_KINDS = frozenset({"token", "device", "user"})
# Spec: client-server-api#account-locking
OPEN_TO_LOCKED_USERS = frozenset({"/_matrix/client/v3/logout", "/_matrix/client/v3/logout/all"})


class Request(Protocol):
    """What an authenticator needs of a request."""

    @property
    def access_token(self) -> str | None: ...

    @property
    def template(self) -> str: ...


@define(eq=False)
class AccessTokens:
    """The HTTP server's Authenticator for users. Locked users are never cached: each request is judged."""

    database: Database
    log_writer: LogWriter
    clock: Clock
    _cache: FoldedCache[bytes, Requester] = field(factory=lambda: FoldedCache(MAX_CACHED_TOKENS), init=False)
    _hashes_by_user: dict[UserId, set[bytes]] = field(factory=dict, init=False)

    def get_requester(self, token: str) -> Requester | None:
        """The requester if memory knows the token to be good."""
        requester = self._cache.get(hash_token(token))
        if requester is None or self._is_expired(requester):
            return None
        return requester

    async def authenticate(self, request: Request, auth: Auth) -> Requester | None:
        """The requester; None for Auth.OPTIONAL without a token.

        Raises: MissingToken, UnknownToken, UserLocked.
        """
        token = request.access_token
        if not token:
            if auth is Auth.OPTIONAL:
                return None
            raise MissingToken
        requester = await self.load_requester(token)
        if requester.is_locked and request.template not in OPEN_TO_LOCKED_USERS:
            raise UserLocked
        return requester

    async def load_requester(self, token: str) -> Requester:
        """The requester, locked or not.

        Raises: UnknownToken; with soft_logout when the token is merely expired.
        """
        if is_garbled(token):
            raise UnknownToken
        token_hash = hash_token(token)
        version = self._cache.version
        owner = await self.database.read(load_token_owner, token_hash)
        if owner is None:
            raise UnknownToken
        requester = _requester_of(owner, token_hash)
        if self._is_expired(requester):
            raise UnknownToken("The access token has expired", soft_logout=True)
        if owner.supersedes is not None:
            await self._confirm(owner.user_id, owner.supersedes)
        if not requester.is_locked:
            self._remember(token_hash, requester, version)
        return requester

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        """Follow the log."""
        for row in rows:
            if row.kind in FOLLOWED_KINDS:
                self._forget(UserId(row.key))

    async def _confirm(self, user_id: UserId, superseded: bytes) -> None:
        """A refreshed token is used for the first time: the pair that it came from dies, before we answer."""
        await self.log_writer.submit(
            LogItem("token", user_id, {"change": "refreshed"}, lambda conn, _: confirm_pair(conn, superseded))
        )

    def _is_expired(self, requester: Requester) -> bool:
        return requester.expires_ts_ms is not None and requester.expires_ts_ms <= self.clock.time_ms()

    def _remember(self, token_hash: bytes, requester: Requester, version: int) -> None:
        if version != self._cache.version:
            return
        self._hashes_by_user.setdefault(requester.user_id, set()).add(token_hash)
        fallen = self._cache.put(token_hash, requester, version)
        if fallen is not None:
            self._unlist(*fallen)

    def _unlist(self, token_hash: bytes, requester: Requester) -> None:
        hashes = self._hashes_by_user.get(requester.user_id, set())
        hashes.discard(token_hash)
        if not hashes:
            self._hashes_by_user.pop(requester.user_id, None)

    def _forget(self, user_id: UserId) -> None:
        self._cache.touch()
        for token_hash in self._hashes_by_user.pop(user_id, ()):
            self._cache.drop(token_hash)


def _requester_of(owner: TokenOwner, token_hash: bytes) -> Requester:
    shared: dict[str, Any] = {
        name: getattr(owner, name)
        for name in (
            "user_id",
            "device_id",
            "is_guest",
            "is_admin",
            "is_locked",
            "is_suspended",
            "appservice_id",
        )
    }
    return Requester(**shared, access_token_id=token_id(token_hash), expires_ts_ms=owner.expires_ts_ms)
