"""Access, refresh and login tokens, all as hashes.

Rotation. A refresh makes a new pair (access token, refresh token) whose rows say in `supersedes` which
refresh token they come from. The old pair lives on until one of the new two is first used (`confirm_pair`),
so that a client which lost the answer can refresh again; doing that deletes the pair that nobody used.

Spec: client-server-api#refreshing-access-tokens
"""

from __future__ import annotations

from collections.abc import Collection

from attrs import frozen
from sqlalchemy import Connection, bindparam, delete, insert, or_, select, update

from homeserver.matrix.ids import DeviceId, UserId
from homeserver.runtime.statement import Statement
from homeserver.store.tables.accounts import access_tokens, login_tokens, refresh_tokens, users


@frozen
class TokenOwner:
    """An access token and what must be known of its user to serve a request."""

    user_id: UserId
    device_id: DeviceId | None
    expires_ts_ms: int | None
    supersedes: bytes | None
    is_guest: bool
    is_admin: bool
    is_locked: bool
    is_suspended: bool
    appservice_id: str | None


@frozen
class RefreshOwner:
    user_id: UserId
    device_id: DeviceId
    expires_ts_ms: int | None
    supersedes: bytes | None
    is_locked: bool


@frozen
class NewTokens:
    """What a login or a refresh hands out; the refresh token is None for clients that don't know them."""

    user_id: UserId
    device_id: DeviceId | None
    created_ts_ms: int
    access_hash: bytes
    access_expires_ts_ms: int | None
    refresh_hash: bytes | None = None
    refresh_expires_ts_ms: int | None = None
    supersedes: bytes | None = None


_OWNER = Statement(
    select(
        access_tokens.c.user_id,
        access_tokens.c.device_id,
        access_tokens.c.expires_ts_ms,
        access_tokens.c.supersedes,
        users.c.is_guest,
        users.c.is_admin,
        users.c.is_locked,
        users.c.is_suspended,
        users.c.appservice_id,
    )
    .join(users, users.c.user_id == access_tokens.c.user_id)
    .where(access_tokens.c.token_hash == bindparam("token_hash"), ~users.c.is_deactivated)
)
_REFRESH_OWNER = (
    select(
        refresh_tokens.c.user_id,
        refresh_tokens.c.device_id,
        refresh_tokens.c.expires_ts_ms,
        refresh_tokens.c.supersedes,
        users.c.is_locked,
    )
    .join(users, users.c.user_id == refresh_tokens.c.user_id)
    .where(refresh_tokens.c.token_hash == bindparam("token_hash"), ~users.c.is_deactivated)
)
_INSERT_ACCESS = insert(access_tokens)
_INSERT_REFRESH = insert(refresh_tokens)


def load_token_owner(conn: Connection, token_hash: bytes) -> TokenOwner | None:
    row = _OWNER.first(conn, {"token_hash": token_hash})
    if row is None:
        return None
    user_id, device_id, expires_ts_ms, supersedes, guest, admin, locked, suspended, appservice_id = row
    flags = bool(guest), bool(admin), bool(locked), bool(suspended)
    return TokenOwner(user_id, device_id, expires_ts_ms, supersedes, *flags, appservice_id)


def load_refresh_owner(conn: Connection, token_hash: bytes) -> RefreshOwner | None:
    row = conn.execute(_REFRESH_OWNER, {"token_hash": token_hash}).one_or_none()
    return RefreshOwner(*row) if row is not None else None


def save_tokens(conn: Connection, new: NewTokens) -> None:
    owner = {"user_id": new.user_id, "device_id": new.device_id, "created_ts_ms": new.created_ts_ms}
    access = {
        **owner,
        "token_hash": new.access_hash,
        "expires_ts_ms": new.access_expires_ts_ms,
        "refresh_hash": new.refresh_hash,
        "supersedes": new.supersedes,
    }
    conn.execute(_INSERT_ACCESS, access)
    if new.refresh_hash is not None:
        refresh = {"token_hash": new.refresh_hash, "expires_ts_ms": new.refresh_expires_ts_ms}
        conn.execute(_INSERT_REFRESH, {**owner, **refresh, "supersedes": new.supersedes})


def confirm_pair(conn: Connection, superseded: bytes) -> None:
    """One of a new pair was used: the pair that it came from dies."""
    conn.execute(delete(access_tokens).where(access_tokens.c.refresh_hash == superseded))
    conn.execute(delete(refresh_tokens).where(refresh_tokens.c.token_hash == superseded))
    for table in (access_tokens, refresh_tokens):  # two tables, not rows
        conn.execute(update(table).where(table.c.supersedes == superseded).values(supersedes=None))


def delete_unused_pairs(conn: Connection, superseded: bytes) -> None:
    """Forget pairs made from this refresh token that were never used."""
    for table in (access_tokens, refresh_tokens):  # two tables, not rows
        conn.execute(delete(table).where(table.c.supersedes == superseded))


def delete_device_tokens(conn: Connection, user_id: str, device_ids: Collection[str]) -> None:
    for table in (access_tokens, refresh_tokens):  # two tables, not rows
        conn.execute(delete(table).where(table.c.user_id == user_id, table.c.device_id.in_(device_ids)))


def delete_token(conn: Connection, token_hash: bytes) -> None:
    conn.execute(delete(access_tokens).where(access_tokens.c.token_hash == token_hash))


def delete_user_tokens(conn: Connection, user_id: str, *, keep_device: str | None = None) -> None:
    """Revoke all of a user's tokens but those of one device; login tokens too."""
    for table in (access_tokens, refresh_tokens):  # two tables, not rows
        statement = delete(table).where(table.c.user_id == user_id)
        if keep_device is not None:
            statement = statement.where(or_(table.c.device_id.is_(None), table.c.device_id != keep_device))
        conn.execute(statement)
    conn.execute(delete(login_tokens).where(login_tokens.c.user_id == user_id))


def save_login_token(conn: Connection, token_hash: bytes, user_id: str, now_ms: int, expires_ts_ms: int) -> None:
    """Keep a token for one login, and forget those that have expired."""
    conn.execute(delete(login_tokens).where(login_tokens.c.expires_ts_ms <= now_ms))
    values = {"token_hash": token_hash, "user_id": user_id, "expires_ts_ms": expires_ts_ms}
    conn.execute(insert(login_tokens), values)


def load_login_token(conn: Connection, token_hash: bytes, now_ms: int) -> UserId | None:
    """Whom a login token is for, while it is valid."""
    statement = select(login_tokens.c.user_id).where(
        login_tokens.c.token_hash == token_hash, login_tokens.c.expires_ts_ms > now_ms
    )
    return conn.scalar(statement)


def delete_login_token(conn: Connection, token_hash: bytes) -> bool:
    """Consume a login token; False when somebody else just did."""
    return conn.execute(delete(login_tokens).where(login_tokens.c.token_hash == token_hash)).rowcount == 1
