"""Users: what the account itself is, without its devices, tokens and profile."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import orjson
from attrs import frozen
from sqlalchemy import Connection, bindparam, delete, select, update

from homeserver.matrix.ids import UserId
from homeserver.runtime.statement import OneOf, Statement
from homeserver.store.tables import accounts as tables
from homeserver.store.tables.push import push_rules
from homeserver.store.upsert import insert_if_absent

users = tables.users


@frozen
class UserRow:
    user_id: UserId
    created_ts_ms: int
    password_hash: str | None
    is_guest: bool
    is_admin: bool
    is_deactivated: bool
    is_erased: bool
    is_locked: bool
    is_suspended: bool
    appservice_id: str | None
    user_type: str | None


@frozen
class NewUser:
    user_id: UserId
    created_ts_ms: int
    password_hash: str | None = None
    is_guest: bool = False
    is_admin: bool = False
    appservice_id: str | None = None
    user_type: str | None = None
    terms_accepted: dict[str, str] | None = None


_USER_COLUMNS = tuple(UserRow.__annotations__)
_OF_IDS = Statement(
    select(*(users.c[name] for name in _USER_COLUMNS)).where(OneOf(users.c.user_id, "user_ids")), texts=["user_ids"]
)
_NEW_COLUMNS = tuple(NewUser.__annotations__)
_FALSE_COLUMNS = ("is_deactivated", "is_erased", "is_locked", "is_suspended", "is_departing")
_INSERT = insert_if_absent(users, *_NEW_COLUMNS, *_FALSE_COLUMNS)
_LIST = (
    select(*(users.c[name] for name in _USER_COLUMNS))
    .where(users.c.user_id > bindparam("after"))
    .order_by(users.c.user_id)
    .limit(bindparam("limit"))
)


def load_users(conn: Connection, user_ids: Collection[str]) -> dict[UserId, UserRow]:
    """The users that exist among the given ones, deactivated ones included."""
    rows = _OF_IDS.all(conn, {"user_ids": list(user_ids)})
    return {UserId(row[0]): UserRow(*row[:3], *map(bool, row[3:9]), *row[9:]) for row in rows}


def load_user(conn: Connection, user_id: str) -> UserRow | None:
    return load_users(conn, [user_id]).get(UserId(user_id))


def load_user_page(conn: Connection, after: str, limit: int) -> list[UserRow]:
    """Users in the order of their ids, those behind `after` ("" for the first page)."""
    return [UserRow(*row) for row in conn.execute(_LIST, {"after": after, "limit": limit})]


def save_user(conn: Connection, user: NewUser) -> bool:
    """Insert a user; False when the id is taken (also by a deactivated user)."""
    values: dict[str, Any] = {name: getattr(user, name) for name in _NEW_COLUMNS}
    if user.terms_accepted is not None:
        values["terms_accepted"] = orjson.dumps(user.terms_accepted)
    values.update(dict.fromkeys(_FALSE_COLUMNS, False))
    return conn.execute(_INSERT, values).rowcount == 1


def save_guest_upgrade(conn: Connection, user_id: str, password_hash: str) -> bool:
    """Make a guest a full user; False when there is no such guest any more."""
    statement = update(users).where(users.c.user_id == user_id, users.c.is_guest, ~users.c.is_deactivated)
    return conn.execute(statement.values(password_hash=password_hash, is_guest=False)).rowcount == 1


def save_password_hash(conn: Connection, user_id: str, password_hash: str) -> None:
    conn.execute(update(users).where(users.c.user_id == user_id).values(password_hash=password_hash))


def save_rehashed_password(conn: Connection, user_id: str, old_hash: str, new_hash: str) -> None:
    """Replace the hash of an unchanged password; a password changed meanwhile wins."""
    statement = update(users).where(users.c.user_id == user_id, users.c.password_hash == old_hash)
    conn.execute(statement.values(password_hash=new_hash))


def save_user_flags(conn: Connection, user_id: str, **flags: bool) -> bool:
    """Set is_admin, is_locked or is_suspended; False when there is no such user."""
    return conn.execute(update(users).where(users.c.user_id == user_id).values(**flags)).rowcount == 1


def save_deactivation(conn: Connection, user_id: str, *, erase: bool) -> bool:
    """Close the account and forget its password; False when there is no such user.

    Once erased, a user stays erased: deactivating again does not take it back.
    """
    values: dict[str, Any] = {"is_deactivated": True, "is_departing": True, "password_hash": None}
    if erase:
        values["is_erased"] = True
    return conn.execute(update(users).where(users.c.user_id == user_id).values(values)).rowcount == 1


def load_departing_users(conn: Connection) -> list[UserId]:
    """Deactivated users who may still be in rooms."""
    return list(conn.scalars(select(users.c.user_id).where(users.c.is_departing).order_by(users.c.user_id)))


def save_departed(conn: Connection, user_id: str) -> None:
    conn.execute(update(users).where(users.c.user_id == user_id).values(is_departing=False))


def delete_personal_data(conn: Connection, user_id: str) -> None:
    """Remove what an erased user kept here beside events: profile, account data, push rules, filters, accepted terms."""
    for table in (tables.profiles, tables.account_data, push_rules, tables.filters):  # four tables, not rows
        conn.execute(delete(table).where(table.c.user_id == user_id))
    conn.execute(update(users).where(users.c.user_id == user_id).values(terms_accepted=None))


def load_erased_users(conn: Connection) -> list[UserId]:
    return list(conn.scalars(select(users.c.user_id).where(users.c.is_erased)))
