"""Servers that failed to answer, and when to ask them again."""

from __future__ import annotations

from attrs import asdict, frozen
from sqlalchemy import Connection, bindparam, delete, select

from homeserver.store.tables.federation import destinations as t
from homeserver.store.upsert import upsert


@frozen
class DestinationRow:
    server: str
    failing_since_ms: int
    failures: int
    interval_ms: int
    retry_ts_ms: int


_SAVE = upsert(t)
_DELETE = delete(t).where(t.c.server == bindparam("name"))
_LOAD = select(t).order_by(t.c.retry_ts_ms.desc()).limit(bindparam("most"))


def load_destinations(conn: Connection, most: int) -> list[DestinationRow]:
    """Those that fail, at most so many, the ones that are to be left alone longest first."""
    return [DestinationRow(*row) for row in conn.execute(_LOAD, {"most": most}).all()]


def save_destinations(conn: Connection, failing: list[DestinationRow], recovered: list[str]) -> None:
    if failing:
        conn.execute(_SAVE, [asdict(row) for row in failing])
    if recovered:
        conn.execute(_DELETE, [{"name": server} for server in recovered])
