"""Stored filters. The id is a hash of the definition: storing an equal filter again changes nothing."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select

from homeserver.store.tables.accounts import filters
from homeserver.store.upsert import insert_if_absent

_ONE = select(filters.c.definition).where(
    filters.c.user_id == bindparam("user"), filters.c.filter_id == bindparam("filter")
)
_INSERT = insert_if_absent(filters)


def load_filter(conn: Connection, user_id: str, filter_id: str) -> bytes | None:
    """The definition as JSON."""
    return conn.scalar(_ONE, {"user": user_id, "filter": filter_id})


def save_filter(conn: Connection, user_id: str, filter_id: str, definition: bytes) -> None:
    conn.execute(_INSERT, {"user_id": user_id, "filter_id": filter_id, "definition": definition})
