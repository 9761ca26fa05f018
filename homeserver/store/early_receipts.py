"""Receipts of users of other servers whose event has not come yet."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from attrs import asdict, frozen
from sqlalchemy import Connection, and_, bindparam, delete, select

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.runtime.statement import OneOf, Statement
from homeserver.store.tables.receiving import early_receipts as t
from homeserver.store.tables.rooms import events as e
from homeserver.store.upsert import upsert

ReceiptKey = tuple[RoomId, UserId, str]


@frozen
class EarlyReceipt:
    """Up to where a user has read, in words of the user's server. thread_id: as in ReceiptRow."""

    room_id: RoomId
    user_id: UserId
    thread_id: str
    event_id: EventId
    ts_ms: int
    received_ts_ms: int

    @property
    def key(self) -> ReceiptKey:
        """One of the same key takes its place."""
        return self.room_id, self.user_id, self.thread_id


_COLUMNS = (t.c.room_id, t.c.user_id, t.c.thread_id, t.c.event_id, t.c.ts_ms, t.c.received_ts_ms)
_UPSERT = upsert(t)
_DELETE = delete(t).where(
    t.c.room_id == bindparam("b_room"),
    t.c.user_id == bindparam("b_user"),
    t.c.thread_id == bindparam("b_thread"),
    t.c.event_id == bindparam("b_event"),
)
_ARRIVED = Statement(
    select(*_COLUMNS)
    .join(e, and_(e.c.event_id == t.c.event_id, e.c.room_id == t.c.room_id))
    .where(OneOf(t.c.event_id, "event_ids"), e.c.timeline_order.is_not(None)),
    texts=["event_ids"],
)


def save_early_receipts(
    conn: Connection, receipts: Sequence[EarlyReceipt], dropped: Sequence[EarlyReceipt]
) -> list[EarlyReceipt]:
    """Each in place of what is stored under its key. Of `dropped`, those go that were not replaced meanwhile.

    Those of the receipts whose event has come after all.
    """
    if dropped:
        conn.execute(_DELETE, [_named(each) for each in _sorted(dropped)])
    if not receipts:
        return []
    conn.execute(_UPSERT, [asdict(each) for each in _sorted(receipts)])
    return load_arrived_receipts(conn, {each.event_id for each in receipts})


def load_arrived_receipts(conn: Connection, event_ids: Collection[EventId]) -> list[EarlyReceipt]:
    """Those that wait for one of the events though it is there."""
    return [EarlyReceipt(*row) for row in _ARRIVED.all(conn, {"event_ids": list(event_ids)})]


def load_early_receipts(conn: Connection) -> list[EarlyReceipt]:
    """All of them, oldest first."""
    return [EarlyReceipt(*row) for row in conn.execute(select(*_COLUMNS).order_by(t.c.received_ts_ms)).all()]


def delete_old_early_receipts(conn: Connection, before_ts_ms: int) -> None:
    conn.execute(delete(t).where(t.c.received_ts_ms < before_ts_ms))


def _named(receipt: EarlyReceipt) -> dict[str, str]:
    names = {"b_room": receipt.room_id, "b_user": receipt.user_id}
    return {**names, "b_thread": receipt.thread_id, "b_event": receipt.event_id}


def _sorted(receipts: Sequence[EarlyReceipt]) -> list[EarlyReceipt]:
    """As their rows are locked."""
    return sorted(receipts, key=lambda receipt: receipt.key)
