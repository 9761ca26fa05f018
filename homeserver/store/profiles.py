"""Profiles: a row for each field."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, delete, func, select

from homeserver.matrix.ids import UserId
from homeserver.store.tables.accounts import profiles
from homeserver.store.upsert import upsert

_LOAD = select(profiles.c.user_id, profiles.c.field, profiles.c.value).where(
    profiles.c.user_id.in_(bindparam("user_ids", expanding=True))
)
_UPSERT = upsert(profiles)
_FIELD_OVERHEAD_BYTES = 4  # two quotes, a colon, a comma
_OTHERS_SIZE = select(
    func.sum(func.length(profiles.c.value) + func.length(profiles.c.field) + _FIELD_OVERHEAD_BYTES)
).where(profiles.c.user_id == bindparam("user"), profiles.c.field != bindparam("without"))


def load_profiles(conn: Connection, user_ids: Collection[str]) -> dict[UserId, dict[str, Any]]:
    """Profiles by user; users without any field are absent."""
    found: dict[UserId, dict[str, Any]] = {}
    for user_id, field, value in conn.execute(_LOAD, {"user_ids": list(user_ids)}):
        found.setdefault(user_id, {})[field] = orjson.loads(value)
    return found


def load_size_without(conn: Connection, user_id: str, field: str) -> int:
    """The bytes that the profile's other fields take as a JSON object."""
    size: int = conn.scalar(_OTHERS_SIZE, {"user": user_id, "without": field}) or 0
    return size + 2


def save_field(conn: Connection, user_id: str, field: str, value: bytes) -> None:
    """Set a field to a JSON value."""
    conn.execute(_UPSERT, {"user_id": user_id, "field": field, "value": value})


def delete_field(conn: Connection, user_id: str, field: str) -> None:
    conn.execute(delete(profiles).where(profiles.c.user_id == user_id, profiles.c.field == field))
