"""Events that were accepted from other servers and are not dealt with yet."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import asdict, frozen
from sqlalchemy import Connection, bindparam, delete, func, insert, select

from homeserver.matrix.ids import RoomId
from homeserver.store.tables.receiving import staged_pdus as t


@frozen
class StagedPdu:
    """`json` is the event as it was sent; `number` grows with arrival."""

    room_id: str
    number: int
    origin: str
    json: bytes
    received_ts_ms: int


@frozen
class StagedRoom:
    """How much of a room waits."""

    room_id: RoomId
    events: int
    size_bytes: int


_INSERT = insert(t)
_LOAD = (
    select(t.c.room_id, t.c.number, t.c.origin, t.c.json, t.c.received_ts_ms)
    .where(t.c.room_id == bindparam("room_id"))
    .order_by(t.c.number)
    .limit(bindparam("most"))
)
_DELETE = delete(t).where(t.c.room_id == bindparam("room"), t.c.number == bindparam("which"))


def save_staged_pdus(conn: Connection, pdus: Sequence[StagedPdu]) -> None:
    conn.execute(_INSERT, [asdict(pdu) for pdu in pdus])


def delete_staged_pdus(conn: Connection, which: Sequence[tuple[str, int]]) -> None:
    """By room and number."""
    conn.execute(_DELETE, [{"room": room_id, "which": number} for room_id, number in which])


def load_staged_pdus(conn: Connection, room_id: str, most: int) -> list[StagedPdu]:
    """The oldest ones."""
    rows = conn.execute(_LOAD, {"room_id": room_id, "most": most}).all()
    return [StagedPdu(*row) for row in rows]


def load_staged_rooms(conn: Connection) -> list[StagedRoom]:
    """All rooms of which something waits."""
    statement = select(t.c.room_id, func.count(), func.sum(func.length(t.c.json))).group_by(t.c.room_id)
    return [StagedRoom(room_id, number, int(size)) for room_id, number, size in conn.execute(statement).all()]
