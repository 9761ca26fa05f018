"""Registration by whoever knows the shared secret: admins' scripts, and tools made for Synapse.

The mac is an HMAC-SHA1 over nonce, username, password and "admin" or "notadmin" (and the user type, if any),
joined by NUL. SHA-1 is what the tools use; as an HMAC it is sound.

A nonce is a time, something random and an HMAC over both, so every process accepts the nonces of all others.
Each is used once in a process; a replay in another one could only register the same name again, which is
taken by then.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha1, sha256

from attrs import define, field, frozen

from homeserver.accounts.creation import AccountCreator, NewAccount
from homeserver.accounts.passwords import check_new_password
from homeserver.accounts.sessions import Session, SessionRequest
from homeserver.accounts.usernames import parse_new_username
from homeserver.matrix.errors import Forbidden, InvalidParam, MatrixError
from homeserver.matrix.ids import ServerName, localpart_of
from homeserver.runtime.clock import Clock

NONCE_LIFETIME_MS = 60_000
MAX_USED_NONCES = 10_000


@frozen
class SharedSecretRequest:
    nonce: str
    username: str
    password: str
    mac: str
    is_admin: bool = False
    user_type: str | None = None
    displayname: str | None = None


@define(eq=False)
class SharedSecretRegistration:
    server_name: ServerName
    shared_secret: str
    clock: Clock
    creator: AccountCreator
    _used: dict[str, int] = field(factory=dict, init=False)

    def make_nonce(self) -> str:
        """Raises: MatrixError when there is no shared secret."""
        self._check_enabled()
        body = f"{self.clock.time_ms():x}-{secrets.token_hex(16)}"
        return f"{body}-{self._sign(body)}"

    async def register(self, request: SharedSecretRequest) -> Session:
        """Raises: InvalidParam, Forbidden, UserInUse, WeakPassword."""
        self._check_enabled()
        self._check_nonce(request.nonce)
        user_id = parse_new_username(request.username, self.server_name)
        check_new_password(request.password)
        if not hmac.compare_digest(self._mac(request), request.mac.encode("utf-8", "replace")):
            raise Forbidden("HMAC incorrect")
        self._use_nonce(request.nonce)
        await self.creator.check_available(user_id)
        account = NewAccount(
            user_id,
            password=request.password,
            displayname=request.displayname if request.displayname is not None else localpart_of(user_id),
            is_admin=request.is_admin,
            user_type=request.user_type,
            session=SessionRequest(),
        )
        session = await self.creator.create(account)
        assert session is not None
        return session

    def _check_enabled(self) -> None:
        if not self.shared_secret:
            raise MatrixError("Shared secret registration is not enabled")

    def _check_nonce(self, nonce: str) -> None:
        body, _, signature = nonce.rpartition("-")
        if not hmac.compare_digest(self._sign(body).encode(), signature.encode("utf-8", "replace")):
            raise InvalidParam("nonce", "unrecognised nonce")
        made_ts_ms = int(body.partition("-")[0], 16)
        if nonce in self._used or not 0 <= self.clock.time_ms() - made_ts_ms < NONCE_LIFETIME_MS:
            raise InvalidParam("nonce", "unrecognised nonce")

    def _use_nonce(self, nonce: str) -> None:
        now_ms = self.clock.time_ms()
        if len(self._used) >= MAX_USED_NONCES:
            self._used = {used: ts for used, ts in self._used.items() if now_ms - ts < NONCE_LIFETIME_MS}
        self._used[nonce] = now_ms

    def _sign(self, body: str) -> str:
        key = b"nonce\0" + self.shared_secret.encode()
        return hmac.new(key, body.encode("utf-8", "replace"), sha256).hexdigest()[:32]

    def _mac(self, request: SharedSecretRequest) -> bytes:
        parts = [
            request.nonce,
            request.username,
            request.password,
            "admin" if request.is_admin else "notadmin",
        ]
        if request.user_type:
            parts.append(request.user_type)
        message = b"\0".join(part.encode("utf-8", "replace") for part in parts)
        return hmac.new(self.shared_secret.encode(), message, sha1).hexdigest().encode()
