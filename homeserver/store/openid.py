"""OpenID tokens."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select

from homeserver.matrix.ids import UserId
from homeserver.store.tables.openid import openid_tokens as t


def save_openid_token(conn: Connection, token_hash: bytes, user_id: str, now_ms: int, expires_ts_ms: int) -> None:
    """Also forgets those that have expired."""
    conn.execute(delete(t).where(t.c.expires_ts_ms <= now_ms))
    conn.execute(insert(t).values(token_hash=token_hash, user_id=user_id, expires_ts_ms=expires_ts_ms))


def load_openid_user(conn: Connection, token_hash: bytes, now_ms: int) -> UserId | None:
    return conn.scalar(select(t.c.user_id).where(t.c.token_hash == token_hash, t.c.expires_ts_ms > now_ms))
