"""Making accounts: one transaction for the user, the profile, the first device and its tokens.

Log rows made here: "user" {change: "registered" | "upgraded", is_guest, device_ids}, keyed by user id.
"""

from __future__ import annotations

from typing import Any

import orjson
from attrs import define, frozen
from sqlalchemy import Connection

from homeserver.accounts.errors import ExclusiveUsername, UserInUse
from homeserver.accounts.limits import shorten
from homeserver.accounts.passwords import PasswordHashes
from homeserver.accounts.ports import ExclusiveNamespaces
from homeserver.accounts.sessions import Session, SessionRequest, Sessions, save_logout_everywhere
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.ids import UserId
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store.accounts import NewUser, load_user, save_guest_upgrade, save_user
from homeserver.store.log_writer import LogItem, LogWriter
from homeserver.store.profiles import save_field
from homeserver.store.registration_tokens import save_use

MAX_DISPLAYNAME_BYTES = 256


@frozen
class NewAccount:
    """What an account is to be. Without a session request nobody is logged in."""

    user_id: UserId
    password: str | None = None
    displayname: str | None = None
    is_guest: bool = False
    is_admin: bool = False
    user_type: str | None = None
    appservice_id: str | None = None
    terms_accepted: dict[str, str] | None = None
    registration_token: str | None = None  # one from the database: a use of it is counted
    session: SessionRequest | None = None


@define(eq=False)
class AccountCreator:
    database: Database
    log_writer: LogWriter
    clock: Clock
    hashes: PasswordHashes
    sessions: Sessions
    namespaces: ExclusiveNamespaces | None = None

    async def check_available(self, user_id: UserId) -> None:
        """Raises: UserInUse, ExclusiveUsername."""
        if self.namespaces is not None and self.namespaces.is_exclusive(user_id):
            raise ExclusiveUsername
        if await self.database.read(load_user, user_id) is not None:
            raise UserInUse

    async def create(self, account: NewAccount) -> Session | None:
        """The new user's first session, if one was asked for.

        Raises: UserInUse, Forbidden when the registration token was used up meanwhile, LimitExceeded,
        InvalidParam.
        """
        user = NewUser(
            user_id=account.user_id,
            created_ts_ms=self.clock.time_ms(),
            password_hash=await self.hashes.hash(account.password) if account.password is not None else None,
            is_guest=account.is_guest,
            is_admin=account.is_admin,
            user_type=account.user_type,
            appservice_id=account.appservice_id,
            terms_accepted=account.terms_accepted,
        )
        session = self.sessions.build(account.user_id, account.session) if account.session is not None else None

        def save(conn: Connection, _position: int) -> None:
            _save_account(conn, account, user, session)

        await self.log_writer.submit(LogItem("user", account.user_id, _row("registered", account, session), save))
        return session

    async def upgrade_guest(self, account: NewAccount) -> Session | None:
        """Make a guest a full user, under the same id; what the guest was logged in with ends.

        Raises: UserInUse when the guest is one no more, LimitExceeded, InvalidParam.
        """
        assert account.password is not None
        password_hash = await self.hashes.hash(account.password)
        session = self.sessions.build(account.user_id, account.session) if account.session is not None else None

        def save(conn: Connection, position: int) -> None:
            if not save_guest_upgrade(conn, account.user_id, password_hash):
                raise UserInUse
            _use_token(conn, account, self.clock.time_ms())
            save_logout_everywhere(conn, account.user_id, None, position)
            if session is not None:
                session.save(conn)

        await self.log_writer.submit(LogItem("user", account.user_id, _row("upgraded", account, session), save))
        return session


def _row(change: str, account: NewAccount, session: Session | None) -> dict[str, Any]:
    device_ids = [session.device_id] if session is not None else []
    return {"change": change, "is_guest": account.is_guest, "device_ids": device_ids}


def _save_account(conn: Connection, account: NewAccount, user: NewUser, session: Session | None) -> None:
    if not save_user(conn, user):
        raise UserInUse
    _use_token(conn, account, user.created_ts_ms)
    if account.displayname:
        name = shorten(account.displayname, MAX_DISPLAYNAME_BYTES)
        save_field(conn, account.user_id, "displayname", orjson.dumps(name))
    if session is not None:
        session.save(conn)


def _use_token(conn: Connection, account: NewAccount, now_ms: int) -> None:
    token = account.registration_token
    if token is not None and not save_use(conn, token, now_ms):
        raise Forbidden("The registration token has been used up")
