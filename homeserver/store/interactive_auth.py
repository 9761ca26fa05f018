"""Sessions of user-interactive authentication: bounded in number and in time."""

from __future__ import annotations

from typing import Any

import orjson
from attrs import frozen
from sqlalchemy import Connection, bindparam, delete, func, select

from homeserver.store.tables.accounts import uia_sessions as sessions
from homeserver.store.upsert import upsert

_ONE = select(sessions.c.operation, sessions.c.completed).where(
    sessions.c.session_id == bindparam("session"), sessions.c.expires_ts_ms > bindparam("now_ms")
)
_UPSERT = upsert(sessions)


@frozen
class UiaSessionRow:
    operation: bytes
    completed: dict[str, Any]


def load_session(conn: Connection, session_id: str, now_ms: int) -> UiaSessionRow | None:
    row = conn.execute(_ONE, {"session": session_id, "now_ms": now_ms}).one_or_none()
    return UiaSessionRow(row.operation, orjson.loads(row.completed)) if row is not None else None


def create_session(
    conn: Connection,
    session_id: str,
    operation: bytes,
    completed: dict[str, Any],
    now_ms: int,
    expires_ts_ms: int,
) -> None:
    """Begin a session, and forget those that have expired."""
    conn.execute(delete(sessions).where(sessions.c.expires_ts_ms <= now_ms))
    save_session(conn, session_id, operation, completed, expires_ts_ms)


def save_session(
    conn: Connection, session_id: str, operation: bytes, completed: dict[str, Any], expires_ts_ms: int
) -> None:
    values = {"session_id": session_id, "operation": operation, "expires_ts_ms": expires_ts_ms}
    conn.execute(_UPSERT, {**values, "completed": orjson.dumps(completed)})


def delete_session(conn: Connection, session_id: str) -> None:
    conn.execute(delete(sessions).where(sessions.c.session_id == session_id))


def delete_oldest_sessions(conn: Connection, keep: int) -> None:
    """Keep the newest sessions only."""
    count: int = conn.scalar(select(func.count()).select_from(sessions)) or 0
    if count > keep:
        oldest = select(sessions.c.session_id).order_by(sessions.c.expires_ts_ms).limit(count - keep)
        conn.execute(delete(sessions).where(sessions.c.session_id.in_(oldest)))
