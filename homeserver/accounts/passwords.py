"""Passwords: argon2id, off the reactor thread, a bounded number at once.

Costs: "production" is OWASP's recommendation (19 MiB, two passes); "minimum" is for tests and benchmarks, so
cheap that a thread would cost more than the hash. A hash carries its cost, so it is renewed on a login after
the setting changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import argon2
from argon2.exceptions import Argon2Error, InvalidHashError, VerifyMismatchError
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from homeserver.accounts.errors import BadCredentials, WeakPassword
from homeserver.accounts.limits import MAX_PASSWORD_BYTES, check_text
from homeserver.accounts.ports import Limiter
from homeserver.accounts.usernames import login_candidates
from homeserver.matrix.errors import LimitExceeded
from homeserver.matrix.ids import ServerName, UserId
from homeserver.runtime.db import Database
from homeserver.store.accounts import UserRow, load_users

T = TypeVar("T")

THREADS = 2
MAX_QUEUED = 64
BUSY_RETRY_AFTER_MS = 2000
# A hash of at most this much memory takes microseconds and is computed at once.
INLINE_MEMORY_KIB = 64

_COSTS = {
    "production": argon2.Parameters(argon2.Type.ID, 19, 16, 32, 2, 19 * 1024, 1),
    "minimum": argon2.Parameters(argon2.Type.ID, 19, 16, 32, 1, 8, 1),
}


def check_new_password(password: str) -> None:
    """Raises: WeakPassword, InvalidParam.

    Only what can't work is refused: rules about symbols make passwords worse, and belong to the client.
    """
    if not password:
        raise WeakPassword("The password is empty.")
    if len(password.encode(errors="replace")) > MAX_PASSWORD_BYTES:
        raise WeakPassword(f"The password is longer than {MAX_PASSWORD_BYTES} bytes.")
    check_text("password", password, MAX_PASSWORD_BYTES)


@define(eq=False)
class PasswordHashes:
    """Makes and verifies password hashes."""

    reactor: IReactorFromThreads
    cost: str = "production"
    _hasher: argon2.PasswordHasher = field(init=False)
    _pool: ThreadPool = field(init=False)
    _queued: int = field(default=0, init=False)
    # Verified against for users who don't exist, so that they take as long.
    _decoy: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._hasher = argon2.PasswordHasher.from_parameters(_COSTS[self.cost])
        self._decoy = self._hasher.hash("")
        self._pool = ThreadPool(0, THREADS, "passwords")

    def start(self) -> None:
        self._pool.start()

    def stop(self) -> None:
        if self._pool.started:
            self._pool.stop()

    async def hash(self, password: str) -> str:
        """Raises: LimitExceeded when too many passwords wait already."""
        if self.cost == "minimum":
            return self._hasher.hash(password)
        return await self._in_thread(self._hasher.hash, password)

    async def verify(self, password: str, known: str | None) -> bool:
        """Whether the password is the one; None as the hash is never it, and takes as long.

        Raises: LimitExceeded.
        """
        expected = known or self._decoy
        if _is_cheap(expected):
            matches = self._verify(expected, password)
        else:
            matches = await self._in_thread(self._verify, expected, password)
        return matches and known is not None

    def needs_rehash(self, known: str) -> bool:
        return self._hasher.check_needs_rehash(known)

    def _verify(self, expected: str, password: str) -> bool:
        try:
            return self._hasher.verify(expected, password)
        except VerifyMismatchError:
            return False
        except (Argon2Error, InvalidHashError):  # not a hash of ours: nobody's password
            return False

    async def _in_thread(self, fn: Callable[..., T], *args: str) -> T:
        if self._queued >= MAX_QUEUED:
            raise LimitExceeded(BUSY_RETRY_AFTER_MS)
        self._queued += 1
        try:
            deferred: Deferred[T] = deferToThreadPool(self.reactor, self._pool, fn, *args)
            return await deferred
        finally:
            self._queued -= 1


def _is_cheap(known: str) -> bool:
    try:
        return argon2.extract_parameters(known).memory_cost <= INLINE_MEMORY_KIB
    except InvalidHashError:
        return True


@define(eq=False)
class PasswordCheck:
    """Says whose password it is."""

    database: Database
    hashes: PasswordHashes
    server_name: ServerName
    limiter: Limiter | None = None

    async def check(self, username: str, password: str) -> UserRow:
        """The user of that id or localpart.

        Raises: BadCredentials, the same for a wrong password, an unknown user, one of another server, a
        deactivated one; LimitExceeded after too many failures.
        """
        candidates = login_candidates(username, self.server_name)
        self._limit(candidates, 1.0)
        user = await self._load(candidates)
        known = user.password_hash if user is not None else None
        if not await self.hashes.verify(password, known) or user is None:
            raise BadCredentials
        self._limit(candidates, -1.0)
        return user

    def _limit(self, candidates: list[UserId], cost: float) -> None:
        """Each try takes from the bucket of the user it is about; the right password gives it back."""
        if self.limiter is not None and candidates:
            self.limiter.check("login", f"password {candidates[-1]}", cost)

    async def _load(self, candidates: list[UserId]) -> UserRow | None:
        if not candidates:
            return None
        found = await self.database.read(load_users, candidates)
        users = [found[candidate] for candidate in candidates if candidate in found]
        return users[0] if users and not users[0].is_deactivated else None
