"""Registration tokens which admins hand out."""

from __future__ import annotations

from attrs import frozen
from sqlalchemy import Connection, bindparam, delete, or_, select, update

from homeserver.store.tables.accounts import registration_tokens as tokens
from homeserver.store.upsert import insert_if_absent

_VALID = (
    or_(tokens.c.uses_allowed.is_(None), tokens.c.uses_completed < tokens.c.uses_allowed),
    or_(tokens.c.expires_ts_ms.is_(None), tokens.c.expires_ts_ms > bindparam("now_ms")),
)
_IS_VALID = select(tokens.c.token).where(tokens.c.token == bindparam("wanted"), *_VALID)
_USE = (
    update(tokens)
    .where(tokens.c.token == bindparam("wanted"), *_VALID)
    .values(uses_completed=tokens.c.uses_completed + 1)
)
_INSERT = insert_if_absent(tokens)


@frozen
class RegistrationTokenRow:
    token: str
    uses_allowed: int | None
    uses_completed: int
    expires_ts_ms: int | None


def load_is_valid(conn: Connection, token: str, now_ms: int) -> bool:
    return conn.scalar(_IS_VALID, {"wanted": token, "now_ms": now_ms}) is not None


def save_use(conn: Connection, token: str, now_ms: int) -> bool:
    """Count one registration; False when the token is unknown, used up or expired."""
    return conn.execute(_USE, {"wanted": token, "now_ms": now_ms}).rowcount == 1


def load_registration_tokens(conn: Connection) -> list[RegistrationTokenRow]:
    rows = conn.execute(select(*(tokens.c[name] for name in RegistrationTokenRow.__annotations__)))
    return [RegistrationTokenRow(*row) for row in rows.all()]


def save_registration_token(
    conn: Connection, token: str, *, uses_allowed: int | None, expires_ts_ms: int | None
) -> bool:
    """Make a new token; False when it exists."""
    values = {
        "token": token,
        "uses_allowed": uses_allowed,
        "uses_completed": 0,
        "expires_ts_ms": expires_ts_ms,
    }
    return conn.execute(_INSERT, values).rowcount == 1


def delete_registration_token(conn: Connection, token: str) -> bool:
    return conn.execute(delete(tokens).where(tokens.c.token == token)).rowcount == 1
