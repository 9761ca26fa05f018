"""Answers to other servers' transactions, kept for when they ask again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import asdict, frozen
from sqlalchemy import Connection, bindparam, delete, select

from homeserver.store.tables.receiving import received_transactions as t
from homeserver.store.upsert import upsert

# A server sends one transaction at a time, so it asks again for its newest only.
KEPT_PER_ORIGIN: Final = 50


@frozen
class ReceivedTransaction:
    origin: str
    txn_id: str
    answer: bytes
    received_ts_ms: int


_SAVE = upsert(t)
_LOAD = select(t.c.answer).where(t.c.origin == bindparam("origin"), t.c.txn_id == bindparam("txn_id"))
_IDS = select(t.c.txn_id).where(t.c.origin == bindparam("origin")).order_by(t.c.received_ts_ms)
_SURPLUS = (
    select(t.c.received_ts_ms)
    .where(t.c.origin == bindparam("name"))
    .order_by(t.c.received_ts_ms.desc())
    .offset(KEPT_PER_ORIGIN)
    .limit(1)
    .scalar_subquery()
)
_THIN_OUT = delete(t).where(t.c.origin == bindparam("name"), t.c.received_ts_ms <= _SURPLUS)


def save_received_transactions(conn: Connection, transactions: Sequence[ReceivedTransaction]) -> None:
    """Of each origin only the newest stay."""
    conn.execute(_SAVE, [asdict(each) for each in transactions])
    conn.execute(_THIN_OUT, [{"name": origin} for origin in sorted({each.origin for each in transactions})])


def load_received_transaction(conn: Connection, origin: str, txn_id: str) -> bytes | None:
    """The answer, if it is kept."""
    return conn.execute(_LOAD, {"origin": origin, "txn_id": txn_id}).scalar()


def load_received_ids(conn: Connection, origin: str) -> list[str]:
    """Of all transactions of the server that are kept, the oldest first."""
    return list(conn.execute(_IDS, {"origin": origin}).scalars())


def delete_received_transactions(conn: Connection, before_ts_ms: int) -> None:
    conn.execute(delete(t).where(t.c.received_ts_ms < before_ts_ms))
