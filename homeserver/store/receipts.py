"""Read receipts: for each user, room, type and thread the newest."""

from __future__ import annotations

from collections.abc import Collection

from attrs import evolve, frozen
from sqlalchemy import Connection, bindparam, select, text

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.runtime.statement import OneOf, Statement
from homeserver.store.tables.rooms import receipts as r
from homeserver.store.upsert import upsert

UNTHREADED = ""


@frozen
class ReceiptRow:
    """A receipt for the event at event_order. thread_id: "" for unthreaded, "main", or a thread's root."""

    room_id: RoomId
    user_id: UserId
    receipt_type: str
    thread_id: str
    event_id: EventId
    event_order: int
    ts_ms: int


# Receipts never move back, whoever wrote in between.
_UPSERT = text(f"{upsert(r)} WHERE excluded.event_order > receipts.event_order")


def save_receipt(conn: Connection, receipt: ReceiptRow, position: int) -> None:
    conn.execute(
        _UPSERT,
        {
            "room_id": receipt.room_id,
            "user_id": receipt.user_id,
            "receipt_type": receipt.receipt_type,
            "thread_id": receipt.thread_id,
            "event_id": receipt.event_id,
            "event_order": receipt.event_order,
            "ts_ms": receipt.ts_ms,
            "position": position,
        },
    )


_NEWEST = select(r.c.event_id, r.c.event_order, r.c.ts_ms).where(
    r.c.room_id == bindparam("room_id"),
    r.c.user_id == bindparam("user_id"),
    r.c.receipt_type == bindparam("receipt_type"),
    r.c.thread_id == bindparam("thread_id"),
)


def load_newest(conn: Connection, receipt: ReceiptRow) -> ReceiptRow:
    """What is stored of the same user, room, type and thread."""
    names = {"room_id": receipt.room_id, "user_id": receipt.user_id}
    row = conn.execute(_NEWEST, {**names, "receipt_type": receipt.receipt_type, "thread_id": receipt.thread_id}).one()
    return evolve(receipt, event_id=row[0], event_order=row[1], ts_ms=row[2])


_OF_USER = Statement(
    select(r.c.room_id, r.c.receipt_type, r.c.thread_id, r.c.event_order).where(
        r.c.user_id == bindparam("user_id"), OneOf(r.c.room_id, "rooms")
    ),
    texts=["rooms"],
)


def load_read_orders(
    conn: Connection, user_id: UserId, room_ids: Collection[RoomId]
) -> dict[tuple[RoomId, str, str], int]:
    """(room, receipt type, thread) -> order of the event up to which the user has read."""
    return {
        (RoomId(row[0]), row[1], row[2]): row[3]
        for row in _OF_USER.all(conn, {"user_id": user_id, "rooms": list(room_ids)})
    }
